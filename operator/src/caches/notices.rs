//! Who is told of a change in the copies.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, RwLock};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use quell_actions::StandingPolicies;
use quell_crds::names;
use quell_crds::v1alpha1::{Approval, Finding, FindingStatus, Remediation};
use tokio::sync::mpsc::UnboundedSender;

use crate::caches::{FindingIndex, PodIndex};
use crate::containment::Containment;
use crate::engine::{HeldRuns, Queue};
use crate::mirror::Change;

/// Where it is told that something has changed. Findings and runs go straight to their queues.
#[derive(Clone)]
pub struct Notices {
    /// Findings.
    pub findings: Queue<Finding>,
    /// Runs, or something that they have marked.
    pub runs: Queue<Remediation>,
    /// Namespaces where quarantines begin or end, or a quarantine's policy is being deleted.
    pub namespaces: Queue<Namespace>,
    /// What people declare.
    pub declared: UnboundedSender<Notice>,
    /// Runs that guardrails hold.
    pub held: Arc<HeldRuns>,
}

/// Something that people declare has changed.
#[derive(Clone, Copy, Debug)]
pub enum Notice {
    /// A playbook or channel.
    Library,
    /// A Source, or a Secret in Quell's namespace.
    Sources,
    /// DaemonSets, by which the network plugin is told.
    Network,
    /// An ImageBlock.
    Blocks,
    /// A Suppression or ClusterSuppression.
    Suppressions,
}

/// Findings that are judged again on account of one: a workload with thousands is no reason for a storm.
const MOST_WOKEN: usize = 100;

/// Names of runs, by namespace and name of their Finding.
pub(super) type RunsByFinding = HashMap<(String, String), BTreeSet<String>>;

pub(super) fn tell<K>(notices: &Notices, notice: Notice) -> impl FnMut(Change<K>) + Send + use<K> {
    let declared = notices.declared.clone();
    move |_| {
        let _ = declared.send(notice);
    }
}

/// An object that a run has marked wakes the run.
pub(super) fn tell_run<K: Resource>(notices: &Notices, change: &Change<K>) {
    let (Change::There(object) | Change::Gone(object)) = change else { return };
    let elsewhere = object.labels().get(names::REMEDIATION_NAMESPACE).cloned();
    if let (Some(name), Some(namespace)) = (object.labels().get(names::REMEDIATION), elsewhere.or(object.namespace())) {
        notices.runs.send(ObjectRef::new(name).within(&namespace));
    }
}

/// A decision, or one that was taken back, is about a run.
pub(super) fn approval_changed(notices: &Notices, change: &Change<Approval>) {
    let (Change::There(approval) | Change::Gone(approval)) = change else { return };
    let namespace = approval.namespace().unwrap_or_default();
    notices.runs.send(ObjectRef::new(&approval.spec.remediation.name).within(&namespace));
}

/// A playbook may have a run undone once its Finding is resolved.
pub(super) fn finding_changed(
    notices: &Notices,
    runs_of: &RwLock<RunsByFinding>,
    index: &FindingIndex,
    change: &Change<Finding>,
) {
    let finding = match change {
        Change::There(finding) => finding,
        Change::Gone(finding) => return index.remove(finding),
        Change::Listed => return,
    };
    notices.findings.send(ObjectRef::from_obj(&**finding));
    if index.insert(finding) && index.heeds_others() {
        for beside in index.beside(finding).into_iter().take(MOST_WOKEN) {
            notices.findings.send(ObjectRef::new(&beside.1).within(&beside.0));
        }
    }
    if !finding.status.as_ref().is_some_and(FindingStatus::is_resolved) {
        return;
    }
    let key = (finding.namespace().unwrap_or_default(), finding.name_any());
    let names = runs_of.read().ok().and_then(|all| all.get(&key).cloned()).unwrap_or_default();
    for name in names {
        notices.runs.send(ObjectRef::new(&name).within(&key.0));
    }
}

/// Before there is a containment there is nothing contained.
pub(super) fn pod_changed(
    contained: &OnceLock<Arc<Containment>>,
    held: &HeldRuns,
    index: &PodIndex,
    change: &Change<Pod>,
) {
    match change {
        Change::There(pod) => index.put(pod),
        Change::Gone(pod) => index.remove(pod),
        Change::Listed => {}
    }
    if let Some(containment) = contained.get() {
        containment.pod_changed(change);
    }
    if let Change::There(pod) = change {
        held.namespace_changed(pod.metadata.namespace.as_deref().unwrap_or_default());
    }
}

pub(super) fn namespace_changed(
    containment: &Containment,
    held: &HeldRuns,
    change: &Change<PartialObjectMeta<Namespace>>,
) {
    containment.namespace_changed(change);
    if let Change::There(namespace) = change {
        held.namespace_changed(&namespace.name_any());
    }
}

pub(super) fn remediation_changed(
    notices: &Notices,
    runs_of: &RwLock<RunsByFinding>,
    containment: &Containment,
    change: &Change<Remediation>,
) {
    let (Change::There(run) | Change::Gone(run)) = change else { return };
    let namespace = run.namespace().unwrap_or_default();
    if let Ok(mut index) = runs_of.write() {
        let key = (namespace.clone(), run.spec.finding.name.clone());
        let names = index.entry(key.clone()).or_default();
        if matches!(change, Change::There(_)) {
            names.insert(run.name_any());
        } else {
            names.remove(&run.name_any());
            if names.is_empty() {
                index.remove(&key);
            }
        }
    }
    containment.run_changed(run, matches!(change, Change::There(_)));
    if matches!(change, Change::Gone(_)) {
        notices.held.forget(&namespace, &run.name_any());
    }
    notices.runs.send(ObjectRef::from_obj(&**run));
    notices.findings.send(ObjectRef::new(&run.spec.finding.name).within(&namespace));
}

/// Keeps the note of where quarantine policies stand. The note is made in a task of its own, for it may have to wait for a step that is
/// about to create the policy; what it says is read after that wait.
pub(super) fn policy_changed(
    policies: &Arc<StandingPolicies>,
    containment: &Arc<Containment>,
    change: &Change<NetworkPolicy>,
) {
    let (Change::There(policy) | Change::Gone(policy)) = change else { return };
    let Some(name) = policy.labels().get(names::QUARANTINE_POLICY) else { return };
    let namespace = policy.namespace().unwrap_or_default();
    let Some(profile) = policies.profile(&namespace, name).filter(|one| one.policy_name() == policy.name_any()) else {
        return;
    };
    let (policies, containment) = (policies.clone(), containment.clone());
    tokio::spawn(async move {
        policies.seen(&namespace, &profile, || containment.policy_is_intact(&namespace, &profile)).await;
    });
}
