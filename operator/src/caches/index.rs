//! Findings by what they are about, and by what they are called.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kube::ResourceExt as _;
use quell_crds::v1alpha1::Finding;
use quell_playbooks::related::{Related, is_open};

use crate::caches::lookup::{Key, Lookup, number};

/// Namespace and name of a Finding.
pub type FindingKey = Key;

/// Which Findings are about an object, and which have a rule of a tool. What it answers is where to look: whoever asks compares.
#[derive(Default)]
pub struct FindingIndex {
    lookup: RwLock<Lookup>,
    /// What is known of each as others see it, by a number for its name.
    seen: RwLock<HashMap<u64, u64>>,
    /// Whether it makes a difference to a Finding which others there are.
    heeds_others: AtomicBool,
}

impl FindingIndex {
    /// Takes a Finding up, new or changed. Whether others see a change in it.
    pub fn insert(&self, finding: &Finding) -> bool {
        let mut lookup = self.lookup.write().unwrap_or_else(PoisonError::into_inner);
        lookup.put(key(finding), numbers(finding));
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let now = as_seen(finding);
        seen.insert(name(finding), now) != Some(now)
    }

    /// Forgets a Finding that is gone.
    pub fn remove(&self, finding: &Finding) {
        self.lookup.write().unwrap_or_else(PoisonError::into_inner).remove(&key(finding));
        self.seen.write().unwrap_or_else(PoisonError::into_inner).remove(&name(finding));
    }

    /// From now on it makes a difference to Findings which others there are, or it doesn't any more.
    pub fn heed_others(&self, heeds: bool) {
        self.heeds_others.store(heeds, Ordering::Release);
    }

    /// Whether it makes a difference to Findings which others there are.
    #[must_use]
    pub fn heeds_others(&self) -> bool {
        self.heeds_others.load(Ordering::Acquire)
    }

    /// Other Findings that may have their workload, or what they are about, in common with this one.
    #[must_use]
    pub fn beside(&self, finding: &Finding) -> Vec<Arc<FindingKey>> {
        let lookup = self.lookup.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: BTreeSet<Arc<FindingKey>> =
            objects(finding).into_iter().flat_map(|object| lookup.get(object)).collect();
        all.remove(&key(finding));
        all.into_iter().collect()
    }

    /// Findings whose target or workload may be the object.
    #[must_use]
    pub fn about(&self, namespace: &str, name: &str) -> Vec<Arc<FindingKey>> {
        self.lookup.read().unwrap_or_else(PoisonError::into_inner).get(object(namespace, name))
    }

    /// Findings that may have that rule of that tool, reported by that Source.
    #[must_use]
    pub fn of_rule(&self, source: &str, tool: &str, name: &str) -> Vec<Arc<FindingKey>> {
        self.lookup.read().unwrap_or_else(PoisonError::into_inner).get(rule(source, tool, name))
    }
}

fn key(finding: &Finding) -> FindingKey {
    (finding.namespace().unwrap_or_default(), finding.name_any())
}

fn name(finding: &Finding) -> u64 {
    number("finding", &[&finding.namespace().unwrap_or_default(), &finding.name_any()])
}

/// What expressions about other Findings see of this one.
fn as_seen(finding: &Finding) -> u64 {
    let one = Related::of(finding);
    let open = if is_open(finding) { "open" } else { "over" };
    number("seen", &[&one.source, &one.tool, &one.rule, &one.category, &one.severity, &one.state, open])
}

fn numbers(finding: &Finding) -> BTreeSet<u64> {
    let spec = &finding.spec;
    let tool = if spec.tool.is_empty() { &spec.source } else { &spec.tool };
    let mut numbers = objects(finding);
    numbers.insert(rule(&spec.source, tool, &spec.rule));
    numbers
}

fn objects(finding: &Finding) -> BTreeSet<u64> {
    let (target, workload) = (&finding.spec.target, finding.spec.workload.as_ref());
    let workload = workload.map(|workload| object(&workload.namespace, &workload.name));
    std::iter::once(object(&target.namespace, &target.name)).chain(workload).collect()
}

fn object(namespace: &str, name: &str) -> u64 {
    number("object", &[namespace, name])
}

fn rule(source: &str, tool: &str, name: &str) -> u64 {
    number("rule", &[source, tool, name])
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{FindingSpec, Target, Workload};

    use super::*;

    fn finding(name: &str, pod: &str, workload: &str) -> Finding {
        let spec = FindingSpec {
            source: "falco".to_owned(),
            rule: "shell".to_owned(),
            target: Target { namespace: "shop".to_owned(), name: pod.to_owned(), ..Target::default() },
            workload: Some(Workload { namespace: "shop".to_owned(), name: workload.to_owned(), ..Workload::default() }),
            ..FindingSpec::default()
        };
        let mut finding = Finding::new(name, spec);
        finding.metadata.namespace = Some("shop".to_owned());
        finding
    }

    fn names(keys: &[Arc<FindingKey>]) -> Vec<&str> {
        keys.iter().map(|key| key.1.as_str()).collect()
    }

    #[test]
    fn findings_are_found_by_their_target_their_workload_and_their_rule_until_they_are_gone() {
        let index = FindingIndex::default();
        let (one, other) = (finding("one", "web-1", "web"), finding("other", "web-2", "web"));
        let news: Vec<bool> = [&one, &other, &one].into_iter().map(|finding| index.insert(finding)).collect();
        assert_eq!(news, [true, true, false]);
        assert_eq!(names(&index.beside(&one)), ["other"]);
        let mut over = one.clone();
        over.status.get_or_insert_default().resolve(chrono::DateTime::UNIX_EPOCH);
        assert!(index.insert(&over), "that it is over is news");
        assert_eq!(names(&index.about("shop", "web-1")), ["one"]);
        assert_eq!(names(&index.about("shop", "web")), ["one", "other"]);
        assert_eq!(names(&index.of_rule("falco", "falco", "shell")), ["one", "other"]);
        assert!(index.about("other", "web").is_empty() && index.of_rule("falco", "falco", "other").is_empty());
        index.remove(&one);
        assert_eq!(names(&index.about("shop", "web")), ["other"]);
        index.remove(&other);
        assert!(index.lookup.read().unwrap().is_empty(), "nothing is left of what is gone");
        assert!(index.seen.read().unwrap().is_empty());
    }
}
