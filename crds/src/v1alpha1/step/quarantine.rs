use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cut the pod off from the network.
///
/// A NetworkPolicy that denies everything stands in the namespace before the pod gets the label that it selects. The pod that the Finding
/// names is cut off, by its UID, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// Take the pod's own labels away, so that no Service sends to it, no policy that allows something selects it, and its owner starts a
    /// clean replica in its place; the pod stays for forensics, and its labels are kept on it and in the Remediation. With `false` the
    /// labels stay: then other policies that select the pod may still allow traffic. Default: true.
    #[serde(default = "yes")]
    pub detach: bool,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { detach: true }
    }
}

fn yes() -> bool {
    true
}
