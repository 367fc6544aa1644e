use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::Duration;

/// Connections that are really tried, once the pod is cut off: by a pod of Quell's probe namespace, as an outsider would, and by one
/// beside the quarantined pod, in its namespace.
///
/// The step doesn't wait for it. Its answer is the step's outputs `probe` and `probeMessage`, and has a say in `Contained`: what gets
/// through makes it `False`; as long as the probes haven't answered, or could not be made, it is not `True`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// TCP ports of the pod that are tried beside those that its containers declare.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
    /// How long the network may take to cut the pod off; what still answers then gets through. At most 10m. Default: 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Duration>,
}
