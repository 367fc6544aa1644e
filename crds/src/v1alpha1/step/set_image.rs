use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Give a container of the workload, a Deployment, StatefulSet or DaemonSet, another image, and wait until it is rolled out.
///
/// A workload that doesn't become healthy in the step's time gets its old image back, and the step fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetImage {
    /// The image, such as `${steps.build.outputs.image}`.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// The container. Default: the one that the Finding names, or the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub container: Option<String>,
}
