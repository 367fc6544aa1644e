//! What was let through: how many pods were contained or restarted, when, and of what; and who waits for a slot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Disruption, LimitPer};

use super::compile::{Compiled, Limited};
use super::{Hold, hold, is_within};

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace of the Remediation.
    pub namespace: String,
    /// Name of the Remediation.
    pub remediation: String,
    /// Name of the step.
    pub step: String,
}

/// What becomes of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impact {
    /// What is done to them.
    pub disruption: Disruption,
    /// Their namespace.
    pub namespace: String,
    /// The pods.
    pub pods: Vec<Place>,
}

/// Where a pod belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its topmost owner, such as `Deployment shop/web`.
    pub workload: String,
    /// Labels of its node.
    pub node: Arc<BTreeMap<String, String>>,
}

/// Of what a limit is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// The cluster.
    Cluster,
    /// A namespace.
    Namespace(String),
    /// A workload.
    Workload(String),
    /// Nodes with this label and value.
    Nodes {
        /// The label.
        label: String,
        /// Its value; empty for nodes that don't have it.
        value: String,
    },
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => write!(f, "the cluster"),
            Self::Namespace(name) => write!(f, "the namespace {name}"),
            Self::Workload(name) => write!(f, "{name}"),
            Self::Nodes { label, value } if value.is_empty() => write!(f, "nodes without the label {label}"),
            Self::Nodes { label, value } => write!(f, "nodes with {label}={value}"),
        }
    }
}

/// How many pods there are.
pub trait Totals {
    /// Pods of the group that are there now, in these namespaces; in all where none is given.
    fn pods(&self, group: &Group, namespaces: &[String]) -> usize;
}

/// What was let through, and who waits.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<Key, Entry>,
    /// In the order in which they asked first.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Entry {
    impact: Impact,
    at: DateTime<Utc>,
}

#[derive(Debug)]
struct Waiting {
    key: Key,
    limit: (String, String),
    group: Group,
    pods: usize,
}

impl Ledger {
    /// Counts what was let through at that time. What is counted already keeps its time.
    pub fn count(&mut self, key: Key, impact: Impact, at: DateTime<Utc>) {
        self.waiting.retain(|waiting| waiting.key != key);
        self.entries.entry(key).or_insert(Entry { impact, at });
    }

    /// Whether it is counted.
    #[must_use]
    pub fn counts(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// How many are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Nothing was done, or it was undone: its slots are free. Gives back who may take them, in their order, of those that wait still.
    pub fn release(&mut self, key: &Key, waits: impl Fn(&Key) -> bool) -> Vec<Key> {
        self.waiting.retain(|waiting| waiting.key != *key && waits(&waiting.key));
        let Some(entry) = self.entries.remove(key) else { return Vec::new() };
        let mut slots = entry.impact.pods.len();
        let mut next = Vec::new();
        for waiting in &self.waiting {
            if slots == 0 {
                break;
            }
            if entry.impact.is_in(&waiting.group) > 0 {
                slots = slots.saturating_sub(waiting.pods);
                next.push(waiting.key.clone());
            }
        }
        next
    }

    /// A run that is over, or gone, waits no more.
    pub fn forget_waiting(&mut self, namespace: &str, remediation: &str) {
        self.waiting
            .retain(|one| (one.key.namespace.as_str(), one.key.remediation.as_str()) != (namespace, remediation));
    }

    /// Forgets what no limit counts any more.
    pub fn forget_before(&mut self, then: DateTime<Utc>) {
        self.entries.retain(|_, entry| entry.at >= then);
    }

    /// What holds it, if a limit does.
    pub(super) fn limited(
        &mut self,
        guardrails: &[Arc<Compiled>],
        key: &Key,
        impact: &Impact,
        totals: &dyn Totals,
        now: DateTime<Utc>,
    ) -> Option<Hold> {
        // What was let through once is let through: another look at it, or another try, is no more than that.
        if self.counts(key) {
            return None;
        }
        for guardrail in guardrails {
            for limit in &guardrail.limits {
                if !limit.of.contains(&impact.disruption) || !is_within(&limit.namespaces, &impact.namespace) {
                    continue;
                }
                for (group, pods) in impact.groups(limit) {
                    if let Some(hold) = self.reached(guardrail, limit, key, &group, pods, totals, now) {
                        return Some(hold);
                    }
                }
            }
        }
        None
    }

    #[allow(clippy::too_many_arguments, reason = "one question, with all that it is about")]
    fn reached(
        &mut self,
        guardrail: &Compiled,
        limit: &Limited,
        key: &Key,
        group: &Group,
        pods: usize,
        totals: &dyn Totals,
        now: DateTime<Utc>,
    ) -> Option<Hold> {
        let window = TimeDelta::from_std(limit.window).unwrap_or(TimeDelta::MAX);
        let mut counted: Vec<(DateTime<Utc>, usize)> = self
            .entries
            .values()
            .filter(|entry| {
                limit.of.contains(&entry.impact.disruption) && is_within(&limit.namespaces, &entry.impact.namespace)
            })
            .filter_map(|entry| Some((entry.at.checked_add_signed(window)?, entry.impact.is_in(group))))
            .filter(|(end, pods)| *end > now && *pods > 0)
            .collect();
        let sum: usize = counted.iter().map(|(_, pods)| pods).sum();
        let share = limit.max_percent.map(|percent| {
            let total = totals.pods(group, &limit.namespaces);
            ((total * percent).div_ceil(100), format!(" ({percent} % of {total})"))
        });
        let (most, told) = match (limit.max, share) {
            (Some(max), Some((share, told))) if share < max => (share, told),
            (Some(max), _) => (max, String::new()),
            (None, Some((share, told))) => (share, told),
            (None, None) => return None,
        };
        if sum + pods <= most {
            return None;
        }
        let name = (guardrail.name.clone(), limit.name.clone());
        let of = |one: &&Waiting| one.limit == name && one.group == *group;
        let ahead: usize = self.waiting.iter().take_while(|one| one.key != *key).filter(of).map(|one| one.pods).sum();
        if !self.waiting.iter().any(|one| one.key == *key) {
            self.waiting.push(Waiting { key: key.clone(), limit: name, group: group.clone(), pods });
        }
        counted.sort_unstable();
        let until = (pods <= most).then(|| free_at(&counted, sum + pods + ahead - most, most, window)).flatten();
        let what: Vec<String> = limit.of.iter().map(ToString::to_string).collect();
        let then = match until {
            Some(_) => "it goes on when one of these is longer ago or undone",
            None => "it can't go on by itself: act by hand, or raise the limit",
        };
        let message = format!(
            "{} of Guardrail {} lets at most {most}{told} pods of {group} be {} in {}: {sum} were, and this would be {pods} more; {then}",
            limit.name,
            guardrail.name,
            what.join(" or "),
            tell(limit.window),
        );
        Some(hold(&guardrail.name, Reason::LimitReached, message, until))
    }
}

/// When so many are longer ago than the window. Those that wait before will be counted, too: `most` in each window.
fn free_at(counted: &[(DateTime<Utc>, usize)], needed: usize, most: usize, window: TimeDelta) -> Option<DateTime<Utc>> {
    let mut freed = 0;
    for (end, pods) in counted {
        freed += pods;
        if freed >= needed {
            return Some(*end);
        }
    }
    let (last, _) = counted.last()?;
    let rounds = i32::try_from((needed - freed).div_ceil(most.max(1))).ok()?;
    last.checked_add_signed(window.checked_mul(rounds)?)
}

impl Impact {
    /// How many of the pods are in the group.
    fn is_in(&self, group: &Group) -> usize {
        let all = self.pods.len();
        match group {
            Group::Cluster => all,
            Group::Namespace(name) if *name == self.namespace => all,
            Group::Namespace(_) => 0,
            Group::Workload(name) => self.pods.iter().filter(|pod| pod.workload == *name).count(),
            Group::Nodes { label, value } => {
                self.pods.iter().filter(|pod| pod.node.get(label).map_or("", String::as_str) == value).count()
            }
        }
    }

    fn groups(&self, limit: &Limited) -> Vec<(Group, usize)> {
        let group = |pod: &Place| match limit.per {
            LimitPer::Cluster => Group::Cluster,
            LimitPer::Namespace => Group::Namespace(self.namespace.clone()),
            LimitPer::Workload => Group::Workload(pod.workload.clone()),
            LimitPer::NodeGroup => Group::Nodes {
                label: limit.node_label.clone(),
                value: pod.node.get(&limit.node_label).cloned().unwrap_or_default(),
            },
        };
        let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
        for pod in &self.pods {
            *groups.entry(group(pod)).or_default() += 1;
        }
        groups.into_iter().collect()
    }
}

/// `1h30m`, as people write it.
fn tell(window: std::time::Duration) -> String {
    let seconds = window.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let mut told = String::new();
    for (n, unit) in parts.into_iter().filter(|(n, _)| *n > 0) {
        told.push_str(&n.to_string());
        told.push_str(unit);
    }
    if told.is_empty() { format!("{}ms", window.as_millis()) } else { told }
}
