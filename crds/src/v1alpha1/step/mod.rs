//! The steps of a playbook: what all of them have, and one file for the parameters of each kind.

mod deny_image;
mod notify;
mod quarantine;
mod rebuild;
mod revoke_access;
mod rollback;
mod set_image;
mod sever_connections;
mod wait;

pub use deny_image::{DenyImage, DenyImageBy, DenyImageNamespaces};
pub use notify::{ChannelReference, Notify};
pub use quarantine::{HostNetwork, Isolate, Method, Others, Owner, Peer, PeerPort, PeerProtocol, Probe, Quarantine};
pub use rebuild::{HttpBuild, HttpPoll, JobBuild, Rebuild};
pub use revoke_access::{RevokeAccess, RevokeScope};
pub use rollback::{Rollback, RollbackTo};
pub use set_image::SetImage;
pub use sever_connections::{SeverBy, SeverConnections};
pub use wait::Wait;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApprovalGate, Duration};

/// One step: what it does is said by exactly one of `quarantine`, `denyImage`, `rollback`, `rebuild`, `setImage`, `severConnections`,
/// `revokeAccess`, `notify`, `wait`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name of the step, unlike that of any other in this playbook. Expressions reach its outputs by it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// A CEL expression; where it is false, the step is skipped. Variables: `finding`, `target`, `workload`, `namespace`,
    /// `remediation`, `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// Steps that must have ended well, or were skipped by their `when`, before this one begins. Each must stand further up. Default:
    /// the step before this one. An empty list: begins at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub after: Option<Vec<String>>,
    /// How long the step may take, all tries together. Default: 1m for notify, 1h for quarantine and rebuild, 10m for the others; wait ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How often, and when, a failed try is made again. A failure that another try can't mend isn't tried again.
    /// Default: 5 more tries; for quarantine and denyImage, as long as its timeout lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What must be approved before the step is done. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalGate>,
    /// What a failure does to the run. Default: `Abort`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Also contain the last ready pod of its workload, which guardrails keep otherwise. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_last_replica: bool,
    /// What the step does.
    #[serde(flatten)]
    pub kind: StepKind,
}

/// What a step does. Adding a kind: a line here, a file beside this one, and what the compiler then asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::large_enum_variant, reason = "a run has few steps, and they are read far more often than moved")]
pub enum StepKind {
    /// Cut the pod off from the network, and let its owner start a clean one.
    Quarantine(Quarantine),
    /// Have the API server refuse pods with the image.
    DenyImage(DenyImage),
    /// Put the workload back to an earlier revision, and wait until it runs.
    Rollback(Rollback),
    /// Have an image built anew, and wait for the result.
    Rebuild(Rebuild),
    /// Give the workload another image, and wait until it runs.
    SetImage(SetImage),
    /// End the connections that a pod under quarantine still has.
    SeverConnections(SeverConnections),
    /// Take the rights of the pod's ServiceAccount away.
    RevokeAccess(RevokeAccess),
    /// Tell people.
    Notify(Notify),
    /// Let time pass.
    Wait(Wait),
}

impl StepKind {
    /// The key that stands for the kind in a playbook.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Quarantine(_) => "quarantine",
            Self::DenyImage(_) => "denyImage",
            Self::Rollback(_) => "rollback",
            Self::Rebuild(_) => "rebuild",
            Self::SetImage(_) => "setImage",
            Self::SeverConnections(_) => "severConnections",
            Self::RevokeAccess(_) => "revokeAccess",
            Self::Notify(_) => "notify",
            Self::Wait(_) => "wait",
        }
    }
}

/// How often, and when, a failed try is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many more tries after the first.
    #[schemars(range(min = 0, max = 100))]
    pub limit: i32,
    /// How long to wait before the second try; doubled for each further one, at most 5m, and spread by a quarter so that many runs don't
    /// come back at once. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
}

impl Default for Retry {
    /// A step that says nothing gets this: what an API server or receiver that restarts needs.
    fn default() -> Self {
        Self { limit: 5, backoff: None }
    }
}

/// What a step's failure does to the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// No further step begins; the run fails.
    #[default]
    Abort,
    /// The run goes on as if the step had ended well, and fails at its end.
    Continue,
    /// No further step begins, and what was done is undone; the run fails.
    Undo,
}
