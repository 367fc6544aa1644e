//! The facts that decisions about a Finding look at: its target, and who owns that.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_actions::quarantine::{facts, released_by};
use quell_crds::v1alpha1::{Finding, Target, Workload};
use quell_playbooks::{TargetState, World};

use crate::caches::Caches;

impl Caches {
    /// The facts that decisions about a Finding look at. `target` and `workload` are what a run keeps; a Finding without a run gives its own.
    #[must_use]
    pub fn world(&self, finding: &Finding, target: &Target, workload: Option<&Workload>) -> World {
        let state = self.target_state(target);
        let workload = workload.cloned().or_else(|| self.workload_of(target));
        let namespace = finding.namespace().unwrap_or_default();
        let labels = self.namespaces.get(&ObjectRef::new(&namespace)).map(|found| found.labels().clone());
        let foreign = !target.namespace.is_empty() && target.namespace != namespace && namespace != self.own_namespace;
        let namespace_labels = labels.unwrap_or_default();
        World { finding: finding.clone(), target: state, workload, namespace_labels, foreign }
    }

    fn target_state(&self, target: &Target) -> TargetState {
        if target.kind != "Pod" {
            return TargetState::NotAPod;
        }
        match self.pod(&target.namespace, &target.name).map(|pod| facts(&pod)) {
            None => TargetState::Gone,
            Some(pod) if !target.uid.is_empty() && pod.uid != target.uid => TargetState::Replaced { uid: pod.uid },
            Some(pod) => TargetState::Pod(pod),
        }
    }

    fn workload_of(&self, target: &Target) -> Option<Workload> {
        if target.kind == "Pod" {
            return self.pod(&target.namespace, &target.name).map(|pod| self.top_owner(&pod));
        }
        matches!(target.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet" | "CronJob" | "Job" | "ReplicaSet")
            .then(|| Workload {
                api_version: target.api_version.clone(),
                kind: target.kind.clone(),
                namespace: target.namespace.clone(),
                name: target.name.clone(),
                uid: target.uid.clone(),
            })
    }

    /// The topmost owner of a pod; a pod that nothing owns is its own. One that was quarantined is still of the workload that released it:
    /// Quell may have cut it off and died before anything but the pod could tell of it.
    #[must_use]
    pub fn top_owner(&self, pod: &Pod) -> Workload {
        let namespace = pod.namespace().unwrap_or_default();
        match controller(pod.metadata.owner_references.as_ref()).cloned().or_else(|| released_by(pod)) {
            Some(owner) => self.owner_of(&namespace, owner),
            None => Workload {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                namespace,
                name: pod.name_any(),
                uid: pod.uid().unwrap_or_default(),
            },
        }
    }

    /// Follows owners upwards, over the two kinds that others own.
    #[must_use]
    pub fn owner_of(&self, namespace: &str, owner: OwnerReference) -> Workload {
        let above = match owner.kind.as_str() {
            "ReplicaSet" => {
                let found = self.replica_sets.get(&ObjectRef::new(&owner.name).within(namespace));
                found.and_then(|found| controller(found.metadata.owner_references.as_ref()).cloned())
            }
            "Job" => {
                let found = self.jobs.get(&ObjectRef::new(&owner.name).within(namespace));
                found.and_then(|found| controller(found.metadata.owner_references.as_ref()).cloned())
            }
            _ => None,
        };
        let top = above.unwrap_or(owner);
        Workload {
            api_version: top.api_version,
            kind: top.kind,
            namespace: namespace.to_owned(),
            name: top.name,
            uid: top.uid,
        }
    }
}

fn controller(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}
