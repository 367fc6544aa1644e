//! What the owner of a quarantined pod does about it, and how it is kept from starting another.
//!
//! An owner counts its pods by their labels. A pod that loses them is released, and the owner, which has one too few, starts another at
//! once: pausing a Deployment doesn't stop that, for its ReplicaSet goes on. What does is to want one less. That is asked for only once the
//! owner has released the pod: before that it might choose this very pod as the one too many, and the evidence with it. The pod that it
//! has started in between is then the one that it takes away, for it is the youngest, and not ready
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset>).

mod counter;

use quell_crds::v1alpha1::Workload;
use quell_crds::v1alpha1::step::Owner;
use quell_playbooks::{Controller, PodFacts};

use self::counter::Counts;
pub use self::counter::PAUSING;
pub(super) use self::counter::{Counter, Lowered, give_back, lowered, said};

/// Who counts a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Above {
    /// Nobody: the pod stands alone.
    Nobody,
    /// Something that can be asked for one pod less.
    Counted(Counter),
    /// A StatefulSet: it can't start another pod while one has the name.
    StatefulSet(String),
    /// A DaemonSet: it wants one on each node.
    DaemonSet(String),
    /// Something else, by kind and name.
    Other(String),
}

impl Above {
    /// `workload` is the topmost owner, as far as it is known.
    pub(super) fn of(controller: Option<&Controller>, workload: Option<&Workload>) -> Self {
        let Some(controller) = controller else { return Self::Nobody };
        let titled = || format!("{} {}", controller.kind, controller.name);
        match (controller.api_version.as_str(), controller.kind.as_str()) {
            ("apps/v1", "StatefulSet") => Self::StatefulSet(controller.name.clone()),
            ("apps/v1", "DaemonSet") => Self::DaemonSet(controller.name.clone()),
            // A CronJob above it has no say over the pods of a Job that it has started.
            ("batch/v1", "Job") => {
                Self::Counted(Counter { kind: Counts::Job, name: controller.name.clone(), uid: controller.uid.clone() })
            }
            ("apps/v1", "ReplicaSet") => workload
                .and_then(|top| {
                    Some((Counts::of(&top.api_version, &top.kind).filter(|kind| *kind != Counts::Job)?, top))
                })
                .map_or_else(
                    || Self::Other(titled()),
                    |(kind, top)| Self::Counted(Counter { kind, name: top.name.clone(), uid: top.uid.clone() }),
                ),
            _ => Self::Other(titled()),
        }
    }

    /// What counts the pods of a workload, where no pod tells any more who controlled it.
    pub(super) fn topmost(workload: &Workload) -> Self {
        let Workload { api_version, kind, name, uid, .. } = workload;
        Counts::of(api_version, kind).map_or_else(
            || Self::Other(format!("{kind} {name}")),
            |kind| Self::Counted(Counter { kind, name: name.clone(), uid: uid.clone() }),
        )
    }

    /// Whether the pod's own labels are taken away.
    pub(super) fn lets_go(&self, owner: Owner) -> bool {
        match owner {
            Owner::Replace => true,
            Owner::Keep => false,
            Owner::Pause => matches!(self, Self::Nobody | Self::Counted(_) | Self::StatefulSet(_)),
        }
    }

    /// What is lowered for it, where it is.
    pub(super) fn lowered(&self, owner: Owner) -> Option<&Counter> {
        match self {
            Self::Counted(counter) if owner == Owner::Pause => Some(counter),
            _ => None,
        }
    }
}

/// What the owner of a pod does, for people.
pub(super) fn told(pod: &PodFacts, above: &Above, owner: Owner) -> String {
    if !above.lets_go(owner) {
        return match (above, owner) {
            (Above::DaemonSet(name), Owner::Pause) => format!(
                "keeps its labels: DaemonSet {name} can't be kept from starting another on node {} in any other way that spares the rest",
                pod.node
            ),
            (Above::Other(name), Owner::Pause) => {
                format!("keeps its labels: how {name}, its owner, is kept from starting another isn't known to Quell")
            }
            _ => "keeps its labels, its Services and its owner".to_owned(),
        };
    }
    match above {
        Above::Nobody => "is out of its Services; nothing owns it, so nothing takes its place".to_owned(),
        Above::StatefulSet(name) => format!(
            "is out of its Services; StatefulSet {name} can't replace it while it has this name: nothing takes its place until it is \
             deleted, and pods after it may wait"
        ),
        Above::Counted(counter) if owner == Owner::Pause => {
            format!("is out of its Services; {} starts none in its place", counter.title())
        }
        Above::DaemonSet(name) => {
            format!("is out of its Services; DaemonSet {name} released it and starts another on node {}", pod.node)
        }
        Above::Counted(_) => {
            let (kind, name) = pod.controller.as_ref().map_or(("", ""), |one| (one.kind.as_str(), one.name.as_str()));
            format!("is out of its Services; {kind} {name} released it and starts another in its place")
        }
        Above::Other(name) if name.starts_with("ReplicaSet ") || name.starts_with("ReplicationController ") => {
            format!("is out of its Services; {name} released it and starts another in its place")
        }
        Above::Other(name) => {
            format!("is out of its Services; what {name}, its owner, does about it isn't known to Quell")
        }
    }
}
