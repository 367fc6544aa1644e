//! Accepted risk: what of a Finding is suppressed, by whom, until when.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{
    Category, ClusterSuppression, Finding, Severity, Suppression, SuppressionMatch, Vulnerability, VulnerabilityCounts,
};

use crate::World;
use crate::cel::{Expression, Names, Scope};
use crate::compile::Problem;
use crate::facts::MATCH_VARIABLES;
use crate::images;
use crate::mentions::Mentions;

/// A Suppression or ClusterSuppression that can be asked.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// `Suppression` or `ClusterSuppression`.
    pub kind: &'static str,
    /// Its namespace; empty for a ClusterSuppression.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub owner: String,
    /// Until when.
    pub expires_at: Option<DateTime<Utc>>,
    matcher: SuppressionMatch,
    when: Option<Expression>,
}

impl Compiled {
    /// A Suppression.
    pub fn of(object: &Suppression) -> Result<Self, Problem> {
        let (metadata, spec) = (&object.metadata, &object.spec);
        Ok(Self {
            kind: "Suppression",
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            reason: spec.reason.clone(),
            owner: spec.owner.clone(),
            expires_at: spec.expires_at,
            when: when(&spec.r#match)?,
            matcher: spec.r#match.clone(),
        })
    }

    /// A ClusterSuppression.
    pub fn of_cluster(object: &ClusterSuppression) -> Result<Self, Problem> {
        let spec = &object.spec;
        Ok(Self {
            kind: "ClusterSuppression",
            namespace: String::new(),
            name: object.metadata.name.clone().unwrap_or_default(),
            reason: spec.reason.clone(),
            owner: spec.owner.clone(),
            expires_at: spec.expires_at,
            when: when(&spec.r#match)?,
            matcher: spec.r#match.clone(),
        })
    }

    /// The facts that its expression may ask for.
    #[must_use]
    pub fn mentions(&self) -> Mentions {
        Mentions::of(&self.when.as_ref().map(Expression::source))
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// By which, whose, why, until when; for people.
    #[must_use]
    pub fn told(&self) -> String {
        let until = self.expires_at.map_or_else(
            || "without end".to_owned(),
            |end| format!("until {}", end.to_rfc3339_opts(SecondsFormat::Secs, true)),
        );
        format!("{} {} of {}, {until}: {}", self.kind, self.name, self.owner, self.reason)
    }

    /// Whether it is about the Finding, as far as that doesn't hang on single vulnerabilities.
    fn is_about(&self, world: &World, scope: &Scope) -> Result<bool, String> {
        let spec = &world.finding.spec;
        let of =
            |wanted: &[String], found: &[&String]| wanted.is_empty() || found.iter().any(|one| wanted.contains(one));
        let namespace = world.finding.metadata.namespace.as_deref().unwrap_or_default();
        let holds = (self.namespace.is_empty() || self.namespace == namespace)
            && of(&self.matcher.sources, &[&spec.source, &spec.tool])
            && of(&self.matcher.rules, &[&spec.rule])
            && self.is_target(world)
            && self.is_image(&spec.target.image, &spec.target.digest);
        match &self.when {
            Some(when) if holds => when.is_true(scope).map_err(|error| format!("{} {}: {error}", self.kind, self.name)),
            _ => Ok(holds),
        }
    }

    fn is_target(&self, world: &World) -> bool {
        let target = &world.finding.spec.target;
        let workload = world.workload.as_ref().or(world.finding.spec.workload.as_ref());
        let objects = [
            Some((&target.kind, &target.namespace, &target.name)),
            workload.map(|one| (&one.kind, &one.namespace, &one.name)),
        ];
        let wanted = &self.matcher.targets;
        wanted.is_empty()
            || objects.into_iter().flatten().any(|(kind, namespace, name)| {
                wanted.iter().any(|one| {
                    one.kind == *kind && one.name == *name && one.namespace.as_ref().is_none_or(|one| one == namespace)
                })
            })
    }

    fn is_image(&self, image: &str, digest: &str) -> bool {
        self.matcher.images.is_empty() || self.matcher.images.iter().any(|wanted| images::is_of(wanted, image, digest))
    }

    fn names_vulnerabilities(&self) -> bool {
        !self.matcher.vulnerabilities.is_empty() || !self.matcher.packages.is_empty()
    }

    fn covers(&self, one: &Vulnerability) -> bool {
        let of = |wanted: &[String], found: &str| {
            wanted.is_empty() || wanted.iter().any(|one| one.eq_ignore_ascii_case(found))
        };
        of(&self.matcher.vulnerabilities, &one.id) && of(&self.matcher.packages, &one.package)
    }
}

fn when(matcher: &SuppressionMatch) -> Result<Option<Expression>, Problem> {
    let compiled = matcher.when.as_deref().map(|source| Expression::compile(source, &Names::of(MATCH_VARIABLES)));
    compiled.transpose().map_err(|error| Problem {
        reason: Reason::ExpressionInvalid,
        at: "spec.match.when".to_owned(),
        message: format!("`{}` {error}", matcher.when.as_deref().unwrap_or_default()),
    })
}

/// What of a Finding is suppressed.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// All of it, by this one: no playbook acts on it.
    pub whole: Option<Arc<Compiled>>,
    /// Its vulnerabilities that are suppressed, in their order, and by which.
    pub vulnerabilities: Vec<(usize, Arc<Compiled>)>,
    /// Suppressions whose expression failed: nobody can tell whether they are about it, so they suppress nothing.
    pub failed: Vec<String>,
}

impl Judgement {
    /// Whether nothing is suppressed, and nothing failed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.whole.is_none() && self.vulnerabilities.is_empty() && self.failed.is_empty()
    }

    /// The suppressions that take part, each once.
    #[must_use]
    pub fn by(&self) -> Vec<&Arc<Compiled>> {
        let mut by: BTreeMap<(&str, &str), &Arc<Compiled>> = BTreeMap::new();
        for one in self.whole.iter().chain(self.vulnerabilities.iter().map(|(_, one)| one)) {
            by.insert((one.kind, &one.name), one);
        }
        by.into_values().collect()
    }
}

/// Judges a Finding. `scope` is what `match.when` of a playbook sees.
#[must_use]
pub fn judge(all: &[Arc<Compiled>], world: &World, scope: &Scope, now: DateTime<Utc>) -> Judgement {
    let mut judgement = Judgement::default();
    let vulnerabilities = &world.finding.spec.vulnerabilities;
    let mut taken: BTreeMap<usize, Arc<Compiled>> = BTreeMap::new();
    for one in all.iter().filter(|one| !one.is_over(now)) {
        match one.is_about(world, scope) {
            Ok(false) => {}
            Ok(true) if one.names_vulnerabilities() => {
                for (i, _) in vulnerabilities.iter().enumerate().filter(|(_, found)| one.covers(found)) {
                    taken.entry(i).or_insert_with(|| one.clone());
                }
            }
            Ok(true) => {
                judgement.whole.get_or_insert_with(|| one.clone());
            }
            Err(error) => judgement.failed.push(error),
        }
    }
    // A Finding names the worst fifty; what it only counts isn't suppressed.
    let named = vulnerabilities.len();
    let all_named = world.finding.spec.vulnerability_counts.is_none_or(|counts| total(&counts) <= named);
    if named > 0 && taken.len() == named && all_named {
        judgement.whole = judgement.whole.or_else(|| taken.values().next().cloned());
    }
    judgement.vulnerabilities = taken.into_iter().collect();
    judgement
}

/// The Finding without the vulnerabilities that are suppressed, as playbooks see it: their list, their counts, and its severity, which is
/// that of the worst one left.
#[must_use]
pub fn without(finding: &Finding, judgement: &Judgement) -> Finding {
    if judgement.vulnerabilities.is_empty() {
        return finding.clone();
    }
    let mut left = finding.clone();
    let spec = &mut left.spec;
    let mut counts = spec.vulnerability_counts;
    for (i, _) in judgement.vulnerabilities.iter().rev() {
        let one = spec.vulnerabilities.remove(*i);
        if let Some(counts) = &mut counts {
            take(counts, &one);
        }
    }
    spec.vulnerability_counts = counts;
    if spec.category == Category::Vulnerability {
        let named = spec.vulnerabilities.iter().map(|one| one.severity).max();
        let worst = counts.as_ref().and_then(worst).max(named).unwrap_or(Severity::Info);
        spec.severity = spec.severity.min(worst);
    }
    left
}

fn total(counts: &VulnerabilityCounts) -> usize {
    let all = [counts.critical, counts.high, counts.medium, counts.low, counts.info];
    all.into_iter().filter_map(|one| usize::try_from(one).ok()).sum()
}

fn take(counts: &mut VulnerabilityCounts, one: &Vulnerability) {
    let of = match one.severity {
        Severity::Critical => &mut counts.critical,
        Severity::High => &mut counts.high,
        Severity::Medium => &mut counts.medium,
        Severity::Low => &mut counts.low,
        Severity::Info => &mut counts.info,
    };
    *of = (*of - 1).max(0);
    if !one.fixed_version.is_empty() || one.fix_available == Some(true) {
        counts.fixable = (counts.fixable - 1).max(0);
    }
}

fn worst(counts: &VulnerabilityCounts) -> Option<Severity> {
    let all = [
        (counts.critical, Severity::Critical),
        (counts.high, Severity::High),
        (counts.medium, Severity::Medium),
        (counts.low, Severity::Low),
        (counts.info, Severity::Info),
    ];
    all.into_iter().find(|(count, _)| *count > 0).map(|(_, severity)| severity)
}
