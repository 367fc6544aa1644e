//! What Quell keeps of a scanner's list of vulnerabilities.

use std::cmp::Reverse;
use std::collections::HashSet;

use quell_crds::v1alpha1::{Severity, Vulnerability, VulnerabilityCounts};

/// Most vulnerabilities that a Finding lists.
const LISTED: usize = 50;
/// Most identifiers that a message names.
const NAMED: usize = 3;

/// A list of vulnerabilities, each once.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) listed: Vec<Vulnerability>,
    pub(crate) counts: VulnerabilityCounts,
    pub(crate) worst: Severity,
    pub(crate) message: String,
}

/// Sums a list up: each identifier once for a package and version, though it may be found at several places in an image.
/// Nothing for a list of none.
pub(crate) fn summarise(found: impl IntoIterator<Item = Vulnerability>) -> Option<Summary> {
    let mut seen = HashSet::new();
    let mut all: Vec<_> = found
        .into_iter()
        .map(|mut one| {
            one.fix_available = Some(true).filter(|_| !one.fixed_version.is_empty()).or(one.fix_available);
            one
        })
        .filter(|one| seen.insert((one.id.clone(), one.package.clone(), one.installed_version.clone())))
        .collect();
    all.sort_by_cached_key(|one| {
        // Scores have one decimal; whole tenths can be ordered.
        #[allow(clippy::cast_possible_truncation)]
        let tenths = one.score.map_or(0, |score| (score * 10.0) as i64);
        let exploited = one.known_exploited == Some(true);
        (Reverse(one.severity), !is_fixable(one), !exploited, Reverse(tenths), one.id.clone(), one.package.clone())
    });
    let worst = all.first()?.severity;
    let counts = count(&all);
    let message = message(&all, &counts);
    all.truncate(LISTED);
    Some(Summary { listed: all, counts, worst, message })
}

fn is_fixable(one: &Vulnerability) -> bool {
    one.fix_available == Some(true)
}

fn count(all: &[Vulnerability]) -> VulnerabilityCounts {
    let mut counts = VulnerabilityCounts::default();
    for one in all {
        *match one.severity {
            Severity::Critical => &mut counts.critical,
            Severity::High => &mut counts.high,
            Severity::Medium => &mut counts.medium,
            Severity::Low => &mut counts.low,
            Severity::Info => &mut counts.info,
        } += 1;
        counts.fixable += i32::from(is_fixable(one));
    }
    counts
}

fn message(all: &[Vulnerability], counts: &VulnerabilityCounts) -> String {
    let by_severity: Vec<_> = [
        (counts.critical, "critical"),
        (counts.high, "high"),
        (counts.medium, "medium"),
        (counts.low, "low"),
        (counts.info, "of no or unknown severity"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    let mut named: Vec<&str> = Vec::new();
    for one in all {
        if named.len() < NAMED && !named.contains(&one.id.as_str()) {
            named.push(&one.id);
        }
    }
    let more = if all.len() > named.len() { ", …" } else { "" };
    let noun = if all.len() == 1 { "vulnerability" } else { "vulnerabilities" };
    format!(
        "{} {noun}: {}; {} fixed by a newer version; {}{more}",
        all.len(),
        by_severity.join(", "),
        counts.fixable,
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vulnerability(id: &str, severity: Severity, fixed: &str, score: f64) -> Vulnerability {
        let (id, fixed_version) = (id.to_owned(), fixed.to_owned());
        Vulnerability {
            id,
            package: "curl".into(),
            fixed_version,
            severity,
            score: Some(score),
            ..Vulnerability::default()
        }
    }

    #[test]
    fn the_worst_come_first_and_of_these_the_fixable_and_of_these_the_highest_score() {
        let summary = summarise([
            vulnerability("low-fixable", Severity::Low, "2", 1.0),
            vulnerability("critical", Severity::Critical, "", 10.0),
            vulnerability("critical-fixable", Severity::Critical, "2", 9.1),
            vulnerability("critical-fixable-worse", Severity::Critical, "2", 9.8),
        ])
        .unwrap();
        let order: Vec<_> = summary.listed.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(order, ["critical-fixable-worse", "critical-fixable", "critical", "low-fixable"]);
        assert_eq!(summary.worst, Severity::Critical);
        assert_eq!(
            summary.message,
            "4 vulnerabilities: 3 critical, 1 low; 3 fixed by a newer version; \
             critical-fixable-worse, critical-fixable, critical, …"
        );
    }

    #[test]
    fn one_is_counted_once_for_a_package_and_version() {
        let one = vulnerability("CVE-1", Severity::High, "2", 7.0);
        let other = Vulnerability { package: "libcurl".to_owned(), ..one.clone() };
        let summary = summarise([one.clone(), other, one]).unwrap();
        assert_eq!((summary.counts.high, summary.counts.fixable), (2, 2));
    }

    #[test]
    fn all_are_counted_and_fifty_listed() {
        let many = (0..120).map(|i| vulnerability(&format!("CVE-{i}"), Severity::Medium, "", 5.0));
        let summary = summarise(many).unwrap();
        assert_eq!((summary.listed.len(), summary.counts.medium), (LISTED, 120));
    }

    #[test]
    fn none_is_nothing() {
        assert!(summarise([]).is_none());
    }
}
