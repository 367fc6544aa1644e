//! The quarantines that stand, and what still gets through: kept up to date by watches, asked without a request.
//!
//! What is open at a pod hangs on policies, namespaces and the pod's own labels, not on other pods: so only quarantined pods are modelled,
//! and every policy. Whoever changes one of those wakes the runs whose pods it concerns.

mod answers;
mod mesh;
mod standing;

pub use answers::Deviation;
pub use mesh::MeshPolicy;
pub use standing::{Standing, standing};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use quell_actions::quarantine::DenyKind;
use quell_crds::names;
use quell_crds::v1alpha1::{Intent, Remediation};
use quell_isolation::{Model, Pod as Modelled, PodRef, Policy, PolicyKind, PolicyRef};
use quell_playbooks::contained::Network;

use crate::containment::mesh::Mesh;
use crate::containment::standing::{given, own_policy};
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
    /// What is known of a service mesh; `None` where none is served.
    mesh: Option<Mesh>,
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
        let status = run.status.as_ref().filter(|_| there && run.spec.intent != Intent::Undo);
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

    /// A run should be looked at.
    pub fn look_at(&self, run: ObjectRef<Remediation>) {
        self.runs.send(run);
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

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of the policies of profiles begin so.
const OWN_POLICIES: &str = "quell-quarantine-";
/// The most that a watch may be behind a write of Quell's own.
const LAG: chrono::Duration = chrono::Duration::seconds(10);

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
        let meshed = self.mesh.as_ref().is_none_or(|mesh| mesh.has(&held.quarantine));
        held.settled = shown && stands && meshed;
    }
}
