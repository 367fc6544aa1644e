use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Put the workload, a Deployment, back to an earlier revision, and wait until it is rolled out.
///
/// A workload that doesn't become healthy in the step's time is put back to where it was, and the step fails.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.revision) == (has(self.to) && self.to == 'Revision')").message("revision goes with to: Revision, and with nothing else"))]
pub struct Rollback {
    /// Where to. Default: `Previous`.
    #[serde(default)]
    pub to: RollbackTo,
    /// The revision, as `kubectl rollout history` shows it, for `to: Revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revision: Option<i64>,
}

/// Where a rollback goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackTo {
    /// The revision before the one that runs now.
    #[default]
    Previous,
    /// The one named by `revision`.
    Revision,
    /// The newest one whose images no open Finding names.
    LastUnaffected,
}
