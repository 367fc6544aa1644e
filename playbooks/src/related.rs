//! Findings that have to do with each other: on the same workload, or the same object.

use std::cmp::Reverse;

use quell_crds::v1alpha1::{Finding, FindingState, FindingStatus};

/// Most Findings that expressions see, and people are told of, beside the one that they are about.
pub const MOST_RELATED: usize = 20;

/// What expressions see of another Finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Related {
    /// Its name; it is in any namespace.
    pub name: String,
    /// The Source that reported it.
    pub source: String,
    /// The tool that found it.
    pub tool: String,
    /// What is wrong.
    pub rule: String,
    /// What kind of problem it is.
    pub category: String,
    /// How bad it is.
    pub severity: String,
    /// Where it stands.
    pub state: String,
}

impl Related {
    /// Of a Finding.
    #[must_use]
    pub fn of(finding: &Finding) -> Self {
        let spec = &finding.spec;
        let state = finding.status.as_ref().and_then(|status| status.state).unwrap_or_default();
        Self {
            name: finding.metadata.name.clone().unwrap_or_default(),
            source: spec.source.clone(),
            tool: if spec.tool.is_empty() { spec.source.clone() } else { spec.tool.clone() },
            rule: spec.rule.clone(),
            category: spec.category.to_string(),
            severity: spec.severity.to_string(),
            state: state.to_string(),
        }
    }
}

/// What else is open where a Finding is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The worst first, of these the newest; no more than [`MOST_RELATED`].
    pub worst: Vec<Related>,
    /// How many there are in all.
    pub all: usize,
}

/// What of `others` is open and has to do with `finding`: the newest first, no more than [`MOST_RELATED`].
pub fn related<'a>(finding: &Finding, others: impl IntoIterator<Item = &'a Finding>) -> Vec<Related> {
    newest_first(finding, others).into_iter().take(MOST_RELATED).map(Related::of).collect()
}

/// What of `others` is open and has to do with `finding`, for people.
pub fn beside<'a>(finding: &Finding, others: impl IntoIterator<Item = &'a Finding>) -> Beside {
    let mut found = newest_first(finding, others);
    found.sort_by_key(|one| Reverse(one.spec.severity));
    Beside { all: found.len(), worst: found.into_iter().take(MOST_RELATED).map(Related::of).collect() }
}

fn newest_first<'a>(finding: &Finding, others: impl IntoIterator<Item = &'a Finding>) -> Vec<&'a Finding> {
    let mut found: Vec<&Finding> = others
        .into_iter()
        .filter(|other| !is_same(finding, other) && is_open(other) && are_related(finding, other))
        .collect();
    found.sort_by(|a, b| {
        let age = |one: &Finding| one.metadata.creation_timestamp.as_ref().map(|time| time.0);
        age(b).cmp(&age(a)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    found.dedup_by(|a, b| is_same(a, b));
    found
}

/// Whether it says that something is wrong now.
#[must_use]
pub fn is_open(finding: &Finding) -> bool {
    let over = |status: &FindingStatus| status.is_over() || status.state == Some(FindingState::Suppressed);
    !finding.status.as_ref().is_some_and(over)
}

fn is_same(a: &Finding, b: &Finding) -> bool {
    (&a.metadata.namespace, &a.metadata.name) == (&b.metadata.namespace, &b.metadata.name)
}

/// Whether they have the workload, or the object, in common.
fn are_related(a: &Finding, b: &Finding) -> bool {
    objects(a).any(|one| objects(b).any(|other| one == other))
}

fn objects(finding: &Finding) -> impl Iterator<Item = (&str, &str, &str)> {
    let target = &finding.spec.target;
    let target = (target.kind.as_str(), target.namespace.as_str(), target.name.as_str());
    let workload = finding.spec.workload.as_ref();
    let workload = workload.map(|one| (one.kind.as_str(), one.namespace.as_str(), one.name.as_str()));
    std::iter::once(target).chain(workload).filter(|(_, _, name)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use quell_crds::time;
    use quell_crds::v1alpha1::{Category, FindingSpec, Severity, Target, Workload};

    use super::*;

    fn finding(name: &str, pod: &str, workload: Option<&str>) -> Finding {
        let object = |kind: &str, name: &str| Target {
            kind: kind.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            ..Target::default()
        };
        let spec = FindingSpec {
            source: "trivy".to_owned(),
            rule: "image".to_owned(),
            category: Category::Vulnerability,
            severity: Severity::Critical,
            target: object("Pod", pod),
            workload: workload.map(|name| Workload {
                kind: "Deployment".to_owned(),
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                ..Workload::default()
            }),
            ..FindingSpec::default()
        };
        let mut finding = Finding::new(name, spec);
        finding.metadata.namespace = Some("shop".to_owned());
        finding
    }

    fn names(found: &[Related]) -> Vec<&str> {
        found.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn findings_are_related_by_their_workload_or_their_object_and_only_while_they_are_open() {
        let own = finding("own", "web-1", Some("web"));
        let mut over = finding("over", "web-3", Some("web"));
        over.status.get_or_insert_default().resolve(DateTime::UNIX_EPOCH);
        let mut accepted = finding("accepted", "web-3", Some("web"));
        accepted.status.get_or_insert_default().state = Some(FindingState::Suppressed);
        let mut of_workload = finding("of-workload", "web", None);
        "Deployment".clone_into(&mut of_workload.spec.target.kind);
        let all = [
            own.clone(),
            finding("sibling", "web-2", Some("web")),
            finding("same-pod", "web-1", None),
            of_workload,
            over,
            accepted,
            finding("other", "db-1", Some("db")),
            finding("pod-of-that-name", "web", None),
        ];
        let found = related(&own, &all);
        assert_eq!(names(&found), ["of-workload", "same-pod", "sibling"]);
        let one = &found[0];
        let told = [&one.source, &one.tool, &one.rule, &one.category, &one.severity, &one.state];
        assert_eq!(told, ["trivy", "trivy", "image", "Vulnerability", "Critical", "Open"]);
    }

    #[test]
    fn the_newest_come_first_and_no_more_than_twenty() {
        let all: Vec<Finding> = (0..30)
            .map(|second| {
                let mut one = finding(&format!("f{second:02}"), "web-2", Some("web"));
                one.metadata.creation_timestamp =
                    Some(time::to_kubernetes(DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)));
                one
            })
            .collect();
        let found = related(&finding("own", "web-1", Some("web")), &all);
        assert_eq!((found.len(), found[0].name.as_str(), found[19].name.as_str()), (MOST_RELATED, "f29", "f10"));
    }

    #[test]
    fn people_are_told_the_worst_first_of_these_the_newest_and_how_many_there_are() {
        let severities = [Severity::Low, Severity::Critical, Severity::High, Severity::Critical];
        let mut all: Vec<Finding> =
            (0..30).map(|number| finding(&format!("f{number:02}"), "web-2", Some("web"))).collect();
        for (second, one) in (0..).zip(&mut all) {
            one.spec.severity = *severities.get(usize::try_from(second).unwrap()).unwrap_or(&Severity::Info);
            let created = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second);
            one.metadata.creation_timestamp = Some(time::to_kubernetes(created));
        }
        let found = beside(&finding("own", "web-1", Some("web")), &all);
        assert_eq!(names(&found.worst)[..5], ["f03", "f01", "f02", "f00", "f29"]);
        assert_eq!((found.worst.len(), found.all), (MOST_RELATED, 30));
        assert_eq!(beside(&finding("own", "db-1", Some("db")), &all), Beside::default());
    }
}
