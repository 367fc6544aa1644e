use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Step};

/// What a playbook says of its runs, beside their steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunSettings {
    /// Where two runs want to change the same object, that of the higher priority goes first, then the older one; and of the playbooks of
    /// one `group` that of the highest priority is run. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Of the playbooks with the same group that are for a Finding only one is run: that of the highest priority, and among equals the
    /// first by name. It holds among ClusterPlaybooks, and among the Playbooks of one namespace. Default: each that matches is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub group: Option<String>,
    /// How long a run may take, pauses not counted. When it is over no further step begins, steps under way fail as `TimedOut`, and the run
    /// fails; `finally` is done then. Default: as long as its steps take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// When what a run did is undone by itself. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoPolicy>,
    /// Steps that are done once the others are over, however they ended: well, with a failure, out of time, cancelled or undone. Each begins
    /// after the one before, whatever became of that. They may be of any kind that leaves nothing to undo. Their expressions read the state
    /// of every step, `remediation.outcome` (`Succeeded`, `Failed`, `Cancelled` or `Undone`) and `remediation.message`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub finally: Vec<Step>,
}

/// When what a run did is undone by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UndoPolicy {
    /// This long after the run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// When the Finding is `Resolved`.
    #[serde(default)]
    pub on_resolved: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl RunSettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
