//! The least rights of each kind of step, from which RBAC is generated. The contract tests compare them with the requests that are
//! really made.

use std::borrow::Cow;

use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{self, Method};
use serde::Serialize;

use crate::{deny_image, notify, quarantine, rebuild, revoke_access, rollback, set_image, sever_connections, wait};

/// A right, as a rule of RBAC has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, with its subresource after a slash.
    pub resource: &'static str,
    /// Verb.
    pub verb: &'static str,
    /// Where it is needed.
    pub place: Place,
}

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Place {
    /// In the namespace of the Finding.
    Finding,
    /// On an object of the whole cluster, which a namespaced Playbook's ServiceAccount must be given by a ClusterRoleBinding.
    Cluster,
    /// In the namespace of the playbook's Channels and Secrets: its own, or Quell's for a ClusterPlaybook.
    Secrets,
    /// In the namespace of the Jobs that sever connections.
    Severing,
    /// In the namespace of the probes that try quarantined pods as an outsider would.
    Probing,
    /// In every namespace, and for what is in none.
    Everywhere,
}

impl Right {
    /// A right in the namespace of the Finding.
    #[must_use]
    pub const fn new(group: &'static str, resource: &'static str, verb: &'static str) -> Self {
        Self { group, resource, verb, place: Place::Finding }
    }

    /// A right on objects of the whole cluster.
    #[must_use]
    pub const fn cluster(group: &'static str, resource: &'static str, verb: &'static str) -> Self {
        Self { group, resource, verb, place: Place::Cluster }
    }

    /// The same right elsewhere.
    #[must_use]
    pub const fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// A right in the namespace of the playbook's Secrets.
    #[must_use]
    pub const fn secrets(verb: &'static str) -> Self {
        Self { group: "", resource: "secrets", verb, place: Place::Secrets }
    }
}

/// The rights that a step of this kind needs, its undo included.
#[must_use]
pub fn rights(kind: &StepKind) -> Cow<'static, [Right]> {
    let fixed = match kind {
        StepKind::Quarantine(quarantine) => return Cow::Owned(quarantine::rights(quarantine)),
        StepKind::DenyImage(_) => deny_image::RIGHTS,
        StepKind::Rollback(_) => rollback::RIGHTS,
        StepKind::Rebuild(_) => rebuild::RIGHTS,
        StepKind::SetImage(_) => set_image::RIGHTS,
        StepKind::SeverConnections(_) => sever_connections::RIGHTS,
        StepKind::RevokeAccess(revoke) => revoke_access::rights(revoke),
        StepKind::Notify(_) => notify::RIGHTS,
        StepKind::Wait(_) => wait::RIGHTS,
    };
    Cow::Borrowed(fixed)
}

/// The rights that a step lacks, where those that it has are told by `has`. What a step can do without, as its parameters stand, isn't
/// asked for; where it needs one of several sets, such as those of the kinds of workloads, the set that lacks least is told.
#[must_use]
pub fn missing(kind: &StepKind, has: &dyn Fn(&Right) -> bool) -> Vec<Right> {
    let lacks = |set: &[Right]| -> Vec<Right> { set.iter().filter(|right| !has(right)).copied().collect() };
    let mut all = Vec::new();
    for sets in needed(kind) {
        all.extend(sets.iter().map(|set| lacks(set)).min_by_key(Vec::len).unwrap_or_default());
    }
    all
}

/// Every right about which [`missing`] may ask for a step.
#[must_use]
pub fn asked_for(kind: &StepKind) -> Vec<Right> {
    needed(kind).into_iter().flatten().flatten().collect()
}

/// Of each of these, one set must be there.
fn needed(kind: &StepKind) -> Vec<Vec<Vec<Right>>> {
    let all = rights(kind).to_vec();
    let of = |group: &str| all.iter().filter(|right| right.group == group).copied().collect::<Vec<_>>();
    match kind {
        StepKind::Quarantine(quarantine) => {
            let denies: Vec<Vec<Right>> = DENYING.iter().map(|group| of(group)).collect();
            let second = |right: &Right| DENYING.contains(&right.group) || right.group == quarantine::ISTIO.0;
            let rest = all.iter().filter(|right| !second(right)).copied().collect();
            // By default it is a second line, which a cluster may not serve at all.
            if quarantine.method == Method::DenyPolicy { vec![vec![rest], denies] } else { vec![vec![rest]] }
        }
        StepKind::SetImage(_) => {
            let kinds = ["deployments", "statefulsets", "daemonsets"];
            let of = |kind: &str| all.iter().filter(|right| right.resource == kind).copied().collect();
            vec![kinds.iter().map(|kind| of(kind)).collect()]
        }
        StepKind::Rebuild(rebuild) => {
            let secrets = |right: &&Right| right.place == Place::Secrets;
            vec![vec![match rebuild {
                step::Rebuild::Job(_) => all.iter().filter(|right| !secrets(right)).copied().collect(),
                step::Rebuild::Http(http) if http.bearer_token.is_none() => Vec::new(),
                step::Rebuild::Http(_) => all.iter().filter(secrets).copied().collect(),
            }]]
        }
        _ => vec![vec![all]],
    }
}

/// Groups of the policies that deny whatever others allow.
const DENYING: &[&str] = &["cilium.io", "crd.projectcalico.org", "policy.networking.k8s.io"];

/// What `severConnections` needs: Quell has it for its ClusterPlaybooks only where people switch it on.
pub const SEVERING: &[Right] = sever_connections::RIGHTS;
/// What `probe` of a quarantine needs: the same.
pub const PROBING: &[Right] = quarantine::PROBING;
/// What `quarantine` needs for pods on their node's network, where something is to be done about those: the same.
pub const HOST_NETWORK: &[&[Right]] = &[quarantine::CORDONING, quarantine::TERMINATING];
/// What `revokeAccess` needs: the same.
pub const REVOKING: &[Right] = revoke_access::EVERYWHERE;
/// What `revokeAccess` with `deleteTokens` needs beside that: the same.
pub const REVOKING_TOKENS: &[Right] = revoke_access::TOKENS;

/// The rights of every kind together that Quell itself has to run ClusterPlaybooks, without what people
/// switch on.
pub const ALL: &[&[Right]] = &[
    quarantine::RIGHTS,
    quarantine::PAUSING,
    deny_image::RIGHTS,
    rollback::RIGHTS,
    rebuild::RIGHTS,
    set_image::RIGHTS,
    notify::RIGHTS,
    wait::RIGHTS,
];
