//! The facts that decisions about a Finding look at: its target, and who owns that.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_actions::exposure;
use quell_actions::quarantine::{facts, released_by};
use quell_crds::v1alpha1::{Finding, Target, Workload};
use quell_playbooks::facts::Exposure;
use quell_playbooks::related::{Related, related};
use quell_playbooks::{Mentions, TargetState, World};

use crate::caches::Caches;

impl Caches {
    /// The facts that decisions about a Finding look at. `target` and `workload` are what a run keeps; a Finding without a run gives its own.
    #[must_use]
    pub fn world(&self, finding: &Finding, target: &Target, workload: Option<&Workload>, wanted: Mentions) -> World {
        let state = self.target_state(target);
        let workload = workload.cloned().or_else(|| self.workload_of(target));
        let namespace = finding.namespace().unwrap_or_default();
        let labels = self.namespaces.get(&ObjectRef::new(&namespace)).map(|found| found.labels().clone());
        let foreign = self.is_foreign(&namespace, target);
        let namespace_labels = labels.unwrap_or_default();
        let related = if wanted.related { self.related(finding) } else { Vec::new() };
        let exposure = if wanted.exposure { self.exposure(target, workload.as_ref()) } else { Exposure::default() };
        World { finding: finding.clone(), target: state, workload, namespace_labels, foreign, related, exposure }
    }

    /// Whether Findings of a namespace have no say over the target.
    fn is_foreign(&self, namespace: &str, target: &Target) -> bool {
        !target.namespace.is_empty() && target.namespace != namespace && namespace != self.own_namespace
    }

    fn related(&self, finding: &Finding) -> Vec<Related> {
        let about = self.finding_index.beside(finding);
        let others: Vec<_> = self.findings_of(&about);
        let may_speak = |other: &&Finding| !self.is_foreign(&other.namespace().unwrap_or_default(), &other.spec.target);
        related(finding, others.iter().map(AsRef::as_ref).filter(may_speak))
    }

    /// What the pod, or each pod of the workload, opens to others.
    fn exposure(&self, target: &Target, workload: Option<&Workload>) -> Exposure {
        let namespace = if target.namespace.is_empty() { workload.map(|one| &one.namespace) } else { None };
        let namespace = namespace.unwrap_or(&target.namespace);
        let meant = |pod: &Arc<Pod>| match (target.kind.as_str(), workload) {
            ("Pod", _) => {
                pod.name_any() == target.name && (target.uid.is_empty() || pod.uid().as_ref() == Some(&target.uid))
            }
            (_, Some(workload)) => {
                let owner = self.top_owner(pod);
                (&owner.kind, &owner.name) == (&workload.kind, &workload.name)
            }
            (_, None) => false,
        };
        let mut pods = self.pods_of(&self.pod_index.in_namespace(namespace));
        pods.retain(meant);
        let of_namespace = |service: &Arc<Service>| service.namespace().as_deref() == Some(namespace);
        let services = self.services.state().into_iter().filter(of_namespace);
        exposure::of(&pods, services, |namespace, service| self.ingresses.routes.to(namespace, service))
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

    /// The topmost owner of a pod that isn't known any more, by the name that its ReplicaSet, Job or DaemonSet gave it.
    #[must_use]
    pub fn owner_by_name(&self, namespace: &str, pod: &str) -> Option<Workload> {
        let (owner, own) = pod.rsplit_once('-')?;
        let generated =
            own.len() == GENERATED && own.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let metadata = generated.then(|| {
            let replica_set = self.replica_sets.get(&ObjectRef::new(owner).within(namespace));
            let job = || self.jobs.get(&ObjectRef::new(owner).within(namespace));
            let daemon_set = || self.daemon_sets.get(&ObjectRef::new(owner).within(namespace));
            replica_set
                .map(|found| ("apps/v1", "ReplicaSet", found.uid()))
                .or_else(|| job().map(|found| ("batch/v1", "Job", found.uid())))
                .or_else(|| daemon_set().map(|found| ("apps/v1", "DaemonSet", found.uid())))
        });
        let (api_version, kind, uid) = metadata.flatten()?;
        let owner = OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: owner.to_owned(),
            uid: uid.unwrap_or_default(),
            ..OwnerReference::default()
        };
        Some(self.owner_of(namespace, owner))
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

/// Characters that a controller adds to its own name for a pod's.
const GENERATED: usize = 5;

fn controller(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}
