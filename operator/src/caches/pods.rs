//! What guardrails ask of pods and nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_crds::names;
use quell_crds::v1alpha1::{Disruption, Workload};
use quell_playbooks::PodFacts;
use quell_playbooks::guardrails::{Group, Impact, Key, Place, Totals};

use crate::caches::Caches;
use crate::engine::marked;

/// Owners whose pods are not replicas: none takes another's place.
const NO_REPLICAS: &[&str] = &["Pod", "Job", "CronJob"];

impl Caches {
    /// Labels of a node; none where it isn't known.
    #[must_use]
    pub fn node_labels(&self, node: &str) -> Arc<BTreeMap<String, String>> {
        self.nodes.get(&ObjectRef::new(node)).map(|node| Arc::new(node.labels().clone())).unwrap_or_default()
    }

    /// Labels of a namespace.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get(&ObjectRef::new(namespace)).map(|found| found.labels().clone()).unwrap_or_default()
    }

    /// The pods of the workload.
    #[must_use]
    pub fn places_of(&self, workload: &Workload) -> Vec<Place> {
        let is =
            |pod: &&Arc<Pod>| pod.namespace().as_deref() == Some(&workload.namespace) && self.is_owned(pod, workload);
        self.pods.state().iter().filter(is).map(|pod| self.place(workload, node(pod))).collect()
    }

    /// Where a pod of the workload on that node belongs.
    #[must_use]
    pub fn place(&self, workload: &Workload, node: &str) -> Place {
        let workload = format!("{} {}/{}", workload.kind, workload.namespace, workload.name);
        Place { workload, node: self.node_labels(node) }
    }

    /// The workload that has no ready pod but this one and `cut_off`, which are cut off with it.
    #[must_use]
    pub fn only_ready_pod_of(&self, pod: &PodFacts, cut_off: &BTreeSet<&str>) -> Option<String> {
        let own = self.pod(&pod.namespace, &pod.name).filter(|own| is_ready(own))?;
        let workload = self.top_owner(&own);
        if NO_REPLICAS.contains(&workload.kind.as_str()) {
            return None;
        }
        let others = self.pods.state();
        let mut others = others.iter().filter(|other| {
            other.namespace() == own.namespace()
                && other.name_any() != pod.name
                && !cut_off.contains(other.name_any().as_str())
                && is_ready(other)
        });
        let another =
            others.any(|other| !other.labels().contains_key(names::QUARANTINE) && self.is_owned(other, &workload));
        (!another).then(|| format!("{} {}/{}", workload.kind, workload.namespace, workload.name))
    }

    /// Quarantines of which pods alone tell: their run wasn't recorded yet when its process ended.
    #[must_use]
    pub fn unrecorded_quarantines(&self) -> Vec<(Key, Impact)> {
        let mut all = Vec::new();
        for pod in self.pods.state() {
            if !pod.labels().contains_key(names::QUARANTINE) {
                continue;
            }
            let Some((key, finding)) = marked(pod.annotations()) else { continue };
            let known = self.findings.get(&ObjectRef::new(&finding).within(&key.namespace));
            let known = known.as_ref().and_then(|finding| finding.status.as_ref());
            // A run that the Finding tells of was recorded, and deleted since: it is long ago.
            let was_there =
                known.is_some_and(|status| status.remediations.iter().any(|run| run.name == key.remediation));
            if was_there || self.remediation(&key.namespace, &key.remediation).is_some_and(|run| run.status.is_some()) {
                continue;
            }
            let workload = self.top_owner(&pod);
            let impact = Impact {
                disruption: Disruption::Contained,
                namespace: pod.namespace().unwrap_or_default(),
                pods: vec![self.place(&workload, node(&pod))],
            };
            all.push((key, impact));
        }
        all
    }

    fn is_owned(&self, pod: &Pod, workload: &Workload) -> bool {
        let owner = self.top_owner(pod);
        (owner.kind.as_str(), owner.name.as_str()) == (workload.kind.as_str(), workload.name.as_str())
    }
}

impl Totals for Caches {
    fn pods(&self, group: &Group, namespaces: &[String]) -> usize {
        let is_in = |pod: &Pod| match group {
            Group::Cluster => true,
            Group::Namespace(name) => pod.namespace().as_deref() == Some(name),
            Group::Workload(name) => {
                let owner = self.top_owner(pod);
                format!("{} {}/{}", owner.kind, owner.namespace, owner.name) == *name
            }
            Group::Nodes { label, value } => self.node_labels(node(pod)).get(label).map_or("", String::as_str) == value,
        };
        let within = |pod: &Pod| namespaces.is_empty() || pod.namespace().is_some_and(|one| namespaces.contains(&one));
        let is_over = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        self.pods.state().iter().filter(|pod| within(pod) && !is_over(pod) && is_in(pod)).count()
    }
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Whether its condition says that it is ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}
