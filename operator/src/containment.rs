//! The quarantines that stand, and what still gets through: kept up to date by watches, asked without a request.
//!
//! What is open at a pod hangs on policies, namespaces and the pod's own labels, not on other pods: so only quarantined pods are modelled,
//! and every policy. Whoever changes one of those wakes the runs whose pods it concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use quell_actions::Mark;
use quell_actions::quarantine::{DenyKind, Profile, denied_by, deny_policy};
use quell_crds::conditions::{Reason, Status};
use quell_crds::names;
use quell_crds::v1alpha1::step::Quarantine;
use quell_crds::v1alpha1::{Intent, Receipt, Remediation, RemediationStatus, StepKind, StepState};
use quell_isolation::{Allowances, Exposure, Model, Pod as Modelled, PodRef, Policy, PolicyKind, PolicyRef};
use quell_playbooks::contained::{Network, Observed, judge};
use serde_json::Value;

use crate::engine::Queue;
use crate::mirror::Change;
use crate::policies::Served;

/// What is known of quarantines. Shared by the watches, which feed it, and the engine, which asks.
pub struct Containment {
    inner: Mutex<Inner>,
    network: RwLock<Network>,
    pods: Store<Pod>,
    runs: Queue<Remediation>,
    namespaces: Queue<Namespace>,
}

#[derive(Default)]
struct Inner {
    model: Model,
    quarantines: HashMap<PodRef, Held>,
    /// Pods with the label of a quarantine, and its profile.
    labelled: BTreeMap<PodRef, String>,
    /// Kinds of policies that are served, and whether those that stand were read.
    kinds: BTreeMap<(&'static str, &'static str), bool>,
}

/// A quarantine that stands.
struct Held {
    run: ObjectRef<Remediation>,
    quarantine: Standing,
    /// The watches have shown the pod and its policy as the step left them. Before that the copies are older than the record.
    settled: bool,
    restored: Vec<DateTime<Utc>>,
}

impl Held {
    /// Copies that are still older than the record are a matter of moments. After that what they show is what is there.
    fn is_settled(&self) -> bool {
        self.settled || self.quarantine.since.is_none_or(|since| Utc::now() - since > LAG)
    }
}

/// A quarantine, as its run's record has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Index of the step.
    pub step: usize,
    /// Its parameters.
    pub parameters: Quarantine,
    /// What was changed.
    pub receipt: Receipt,
    /// Since when.
    since: Option<DateTime<Utc>>,
    /// Open connections were cut after it.
    severed: bool,
    /// From the alert to the quarantine.
    after: Option<Duration>,
}

impl Standing {
    fn pod(&self) -> PodRef {
        PodRef::new(&self.receipt.namespace, &self.receipt.name)
    }
}

/// The quarantines that a run has made and not undone.
#[must_use]
pub fn standing(run: &Remediation, status: &RemediationStatus) -> Vec<Standing> {
    let severed = |since: Option<DateTime<Utc>>| {
        run.spec.steps.iter().zip(&status.steps).any(|(step, record)| {
            step.kind.name() == "severConnections"
                && record.state == StepState::Succeeded
                && record.finished_at >= since
        })
    };
    let steps = run.spec.steps.iter().zip(&status.steps).enumerate();
    steps
        .filter_map(|(index, (step, record))| {
            let StepKind::Quarantine(parameters) = &step.kind else { return None };
            let receipt = record.receipt.clone()?;
            (record.state == StepState::Succeeded).then(|| Standing {
                step: index,
                parameters: parameters.clone(),
                receipt,
                since: record.finished_at,
                severed: severed(record.finished_at),
                after: record.finished_at.zip(status.started_at).and_then(|(end, start)| (end - start).to_std().ok()),
            })
        })
        .collect()
}

/// What there is to do about a quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// It is as it was made.
    None,
    /// It was changed; `open`: something gets through that didn't.
    Changed {
        /// See there.
        open: bool,
    },
}

impl Containment {
    /// `pods` is a copy of all pods; `runs` is told which runs to look at, `namespaces` in which ones quarantines begin or end.
    #[must_use]
    pub fn new(pods: Store<Pod>, runs: Queue<Remediation>, namespaces: Queue<Namespace>) -> Self {
        Self { inner: Mutex::default(), network: RwLock::default(), pods, runs, namespaces }
    }

    /// The cluster's network is this one.
    pub fn network_is(&self, network: Network) {
        let mut known = self.network.write().unwrap_or_else(PoisonError::into_inner);
        if *known != network {
            *known = network;
            drop(known);
            self.wake_all();
        }
    }

    /// A run's record has changed, or is gone. A quarantine whose record is gone stays as it is; nobody is told of it any more.
    pub fn run_changed(&self, run: &Remediation, there: bool) {
        let key = ObjectRef::from_obj(run);
        let status = run.status.as_ref().filter(|_| there && run.spec.intent == Intent::Run);
        let standing = status.map(|status| standing(run, status)).unwrap_or_default();
        let mut inner = self.inner();
        let gone: Vec<PodRef> = inner
            .quarantines
            .iter()
            .filter(|(pod, held)| held.run == key && standing.iter().all(|one| one.pod() != **pod))
            .map(|(pod, _)| pod.clone())
            .collect();
        for pod in gone {
            inner.quarantines.remove(&pod);
            inner.model.untrack(&pod);
            inner.model.remove_pod(&pod);
        }
        for quarantine in standing {
            let pod = quarantine.pod();
            if let Some(held) = inner.quarantines.get_mut(&pod).filter(|held| held.run == key) {
                held.quarantine = quarantine;
                continue;
            }
            if let Some(there) = self.pods.get(&ObjectRef::new(&pod.name).within(&pod.namespace)) {
                inner.model.upsert_pod(Modelled::of(&there));
            }
            inner.model.track(pod.clone());
            let held = Held { run: key.clone(), quarantine, settled: false, restored: Vec::new() };
            inner.quarantines.insert(pod.clone(), held);
            inner.settle(&pod);
        }
    }

    /// A pod has changed.
    pub fn pod_changed(&self, change: &Change<Pod>) {
        let (Change::There(pod) | Change::Gone(pod)) = change else { return };
        let reference = PodRef::new(pod.namespace().unwrap_or_default(), pod.name_any());
        let profile =
            matches!(change, Change::There(_)).then(|| pod.labels().get(names::QUARANTINE).cloned()).flatten();
        let mut inner = self.inner();
        let before = match profile.clone() {
            Some(profile) => inner.labelled.insert(reference.clone(), profile),
            None => inner.labelled.remove(&reference),
        };
        if before != profile {
            self.namespaces.send(ObjectRef::new(&reference.namespace));
        }
        let Some(run) = inner.quarantines.get(&reference).map(|held| held.run.clone()) else { return };
        match change {
            Change::There(_) => inner.model.upsert_pod(Modelled::of(pod)),
            _ => inner.model.remove_pod(&reference),
        };
        inner.settle(&reference);
        self.runs.send(run);
    }

    /// A NetworkPolicy has changed.
    pub fn network_policy_changed(&self, change: &Change<NetworkPolicy>) {
        match change {
            Change::There(policy) => self.policy_stands(Policy::from(&**policy)),
            Change::Gone(policy) => self.policy_gone(&PolicyRef {
                kind: PolicyKind::NetworkPolicy,
                namespace: policy.namespace(),
                name: policy.name_any(),
            }),
            Change::Listed => {}
        }
    }

    /// A policy of any kind stands, as it is now.
    pub fn policy_stands(&self, policy: Policy) {
        let mut inner = self.inner();
        let reference = policy.reference().clone();
        let changed = inner.model.upsert_policy(policy);
        self.wake(&mut inner, changed, &reference);
    }

    /// A policy of any kind is gone.
    pub fn policy_gone(&self, reference: &PolicyRef) {
        let mut inner = self.inner();
        let changed = inner.model.remove_policy(reference);
        self.wake(&mut inner, changed, reference);
    }

    /// A kind of policy is served: until its policies are read, nothing is told for sure.
    pub fn is_served(&self, kind: &'static Served) {
        self.inner().kinds.entry((kind.group, kind.kind)).or_insert(false);
    }

    /// Every policy of a kind was read.
    pub fn is_read(&self, kind: &'static Served) {
        if self.inner().kinds.insert((kind.group, kind.kind), true) != Some(true) {
            self.wake_all();
        }
    }

    /// A kind of policy isn't served any more, and its policies are gone with it.
    pub fn is_served_no_more(&self, kind: &'static Served) {
        let mut inner = self.inner();
        inner.kinds.remove(&(kind.group, kind.kind));
        let Some(policies) = PolicyKind::of(kind.group, kind.kind) else { return };
        let gone: Vec<PolicyRef> = inner.model.policies(policies).cloned().collect();
        drop(inner);
        for policy in gone {
            self.policy_gone(&policy);
        }
    }

    /// Kinds of policies that are served, and deny whatever others allow.
    #[must_use]
    pub fn deny_kinds(&self) -> BTreeSet<DenyKind> {
        self.inner().kinds.keys().filter_map(|(group, kind)| DenyKind::of(group, kind)).collect()
    }

    /// A namespace has changed.
    pub fn namespace_changed(&self, change: &Change<PartialObjectMeta<Namespace>>) {
        let mut inner = self.inner();
        let changed = match change {
            Change::There(namespace) => inner.model.upsert_namespace(&namespace.name_any(), namespace.labels()),
            Change::Gone(namespace) => inner.model.remove_namespace(&namespace.name_any()),
            Change::Listed => return,
        };
        for pod in changed {
            self.wake_one(&inner, &pod);
        }
    }

    fn wake(&self, inner: &mut MutexGuard<'_, Inner>, changed: Vec<PodRef>, policy: &PolicyRef) {
        // The quarantine's own policy may have changed without a change of what is open, where another denies the same.
        let own = policy.name.contains(OWN_POLICIES);
        let mut pods = changed;
        if own {
            let here = |pod: &&PodRef| policy.namespace.as_deref().is_none_or(|namespace| namespace == pod.namespace);
            let there = inner.quarantines.keys().filter(here);
            pods.extend(there.cloned());
        }
        pods.sort_unstable();
        pods.dedup();
        for pod in pods {
            inner.settle(&pod);
            self.wake_one(inner, &pod);
        }
    }

    fn wake_one(&self, inner: &Inner, pod: &PodRef) {
        if let Some(held) = inner.quarantines.get(pod) {
            self.runs.send(held.run.clone());
        }
    }

    fn wake_all(&self) {
        for held in self.inner().quarantines.values() {
            self.runs.send(held.run.clone());
        }
    }

    /// The `Contained` condition of a quarantine, and the paths that are open, for people.
    #[must_use]
    pub fn judge(&self, quarantine: &Standing) -> (Status, Reason, String, Vec<String>) {
        let network = self.network.read().unwrap_or_else(PoisonError::into_inner).clone();
        let pod = quarantine.pod();
        let leaks = self.leaks(&pod, quarantine);
        let unread = self.unread();
        if leaks.is_some() && !unread.is_empty() {
            let message = format!("what gets through to pod {pod} can't be told: {unread} could not be read yet");
            return (Status::Unknown, Reason::PathsUnknown, message, Vec::new());
        }
        let observed = Observed {
            pod: &pod.to_string(),
            leaks: leaks.as_ref(),
            network: &network,
            severed: quarantine.severed,
            after: quarantine.after,
        };
        let (status, reason, message) = judge(&observed);
        let paths = leaks.map(|leaks| leaks.lines().first).unwrap_or_default();
        (status, reason, message, paths)
    }

    /// Kinds of policies that are served and weren't read, for people.
    fn unread(&self) -> String {
        let inner = self.inner();
        let unread =
            inner.kinds.iter().filter(|(_, read)| !**read).map(|((group, kind), _)| format!("{kind} of {group}"));
        unread.collect::<Vec<_>>().join(", ")
    }

    /// What gets through beyond what the profile leaves open; `None`: the pod is gone.
    fn leaks(&self, pod: &PodRef, quarantine: &Standing) -> Option<Exposure> {
        let there = self.pods.get(&ObjectRef::new(&pod.name).within(&pod.namespace))?;
        if there.uid().as_deref() != Some(&quarantine.receipt.uid) {
            return None;
        }
        let mut inner = self.inner();
        if inner.model.pod(pod).is_none() {
            // A record that was just made, and not read back by the watch on runs yet.
            inner.model.upsert_pod(Modelled::of(&there));
        }
        let (labels, policy) = (given(&quarantine.receipt), own_policy(quarantine));
        let settled = inner.quarantines.get(pod).is_some_and(Held::is_settled);
        let exposure = if settled {
            inner.model.exposure(pod)?
        } else {
            inner.model.exposure_with(pod, &labels, std::slice::from_ref(&policy))?
        };
        Some(exposure.beyond(&asked_for(pod, labels, policy)))
    }

    /// What there is to do about a quarantine, as the copies show it. Nothing, until they have shown it as it was made.
    #[must_use]
    pub fn deviation(&self, quarantine: &Standing) -> Deviation {
        let pod = quarantine.pod();
        if !self.inner().quarantines.get(&pod).is_some_and(Held::is_settled) {
            return Deviation::None;
        }
        let Some(there) = self.pods.get(&ObjectRef::new(&pod.name).within(&pod.namespace)) else {
            return Deviation::None;
        };
        if there.uid().as_deref() != Some(&quarantine.receipt.uid) {
            return Deviation::None;
        }
        let open = self.leaks(&pod, quarantine).is_some_and(|leaks| leaks != Exposure::default());
        let given = given(&quarantine.receipt);
        let labels = there.labels();
        let lost = given.iter().any(|(key, value)| labels.get(key) != Some(value));
        let own = quarantine.receipt.before.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
        let back = labels.keys().any(|key| own.contains_key(key) && !given.contains_key(key));
        let added = labels.keys().any(|key| !given.contains_key(key));
        let inner = self.inner();
        let stand_on = [Some(own_policy(quarantine)), own_deny_policy(quarantine)];
        let policy = stand_on.iter().flatten().any(|own| inner.model.policy(own.reference()) != Some(own));
        drop(inner);
        if lost || back || policy || (open && added) { Deviation::Changed { open } } else { Deviation::None }
    }

    /// Whether a pod of the namespace is under the quarantine of that profile.
    #[must_use]
    pub fn is_needed(&self, namespace: &str, profile: &str) -> bool {
        let inner = self.inner();
        let from = inner.labelled.range(PodRef::new(namespace, "")..);
        from.take_while(|(pod, _)| pod.namespace == namespace).any(|(_, of)| of == profile)
    }

    /// Whether the policy of a profile says what it should.
    #[must_use]
    pub fn policy_is_intact(&self, namespace: &str, profile: &Profile) -> bool {
        let wanted = said_by(namespace, profile);
        self.inner().model.policy(wanted.reference()) == Some(&wanted)
    }

    /// How often a quarantine was put back in the time before `now`.
    #[must_use]
    pub fn restored(&self, pod: &PodRef, since: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let inner = self.inner();
        let restored = inner.quarantines.get(pod).map(|held| held.restored.as_slice()).unwrap_or_default();
        restored.iter().copied().filter(|at| *at >= since).collect()
    }

    /// A quarantine was put back now.
    pub fn was_restored(&self, pod: &PodRef, now: DateTime<Utc>) {
        if let Some(held) = self.inner().quarantines.get_mut(pod) {
            held.restored.retain(|at| now - *at < MEMORY);
            held.restored.push(now);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of the policies of profiles begin so.
const OWN_POLICIES: &str = "quell-quarantine-";
/// The most that a watch may be behind a write of Quell's own.
const LAG: chrono::Duration = chrono::Duration::seconds(10);
/// How long it counts that a quarantine was put back.
const MEMORY: chrono::Duration = chrono::Duration::minutes(10);

impl Inner {
    /// Notes that the copies show the pod and its policy as the step left them.
    fn settle(&mut self, pod: &PodRef) {
        let Some(held) = self.quarantines.get_mut(pod) else { return };
        if held.settled {
            return;
        }
        let labels = given(&held.quarantine.receipt);
        let shown = self.model.pod(pod).is_some_and(|pod| labels.iter().all(|(k, v)| pod.labels.get(k) == Some(v)));
        let stands = self.model.policy(own_policy(&held.quarantine).reference()).is_some();
        held.settled = shown && stands;
    }
}

/// The labels that the quarantine gave the pod.
fn given(receipt: &Receipt) -> BTreeMap<String, String> {
    let labels = receipt.after.get("labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

/// The policy of the quarantine's profile, as it should be.
fn own_policy(quarantine: &Standing) -> Policy {
    said_by(&quarantine.receipt.namespace, &Profile::of(&quarantine.parameters))
}

/// The policy beside it that denies whatever others allow.
fn own_deny_policy(quarantine: &Standing) -> Option<Policy> {
    let kind = denied_by(&quarantine.receipt)?;
    Policy::read(&deny_policy(kind, &quarantine.receipt.namespace, &quarantine.parameters, &no_mark())).ok()
}

/// The mark has no part in what a policy lets through.
fn no_mark() -> Mark {
    Mark { namespace: String::new(), remediation: String::new(), finding: String::new(), step: String::new() }
}

fn said_by(namespace: &str, profile: &Profile) -> Policy {
    Policy::from(&profile.policy(namespace, &no_mark()))
}

/// What the profile leaves open on purpose: all that its policy, alone in the cluster, lets through.
fn asked_for(pod: &PodRef, labels: BTreeMap<String, String>, policy: Policy) -> Allowances {
    let mut alone = Model::new();
    alone.upsert_namespace(&pod.namespace, &BTreeMap::new());
    alone.upsert_pod(Modelled {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels,
        ..Modelled::default()
    });
    alone.upsert_policy(policy);
    alone.exposure(pod).map_or_else(Allowances::none, |exposure| Allowances::of(&exposure))
}
