use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::v1alpha1::{Duration, SecretKey};

/// Have an image built anew, and wait for the result. Exactly one of `job` and `http`.
///
/// Outputs: `image` and `digest`, for `setImage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::large_enum_variant, reason = "a run has few steps, and they are read far more often than moved")]
pub enum Rebuild {
    /// Run a Kubernetes Job.
    Job(JobBuild),
    /// Call an HTTP endpoint, and ask it until it is done.
    Http(HttpBuild),
}

/// A build that is a Kubernetes Job in the Finding's namespace.
///
/// The Job says what it made in the termination message of a container (`/dev/termination-log`): a JSON object of strings such as
/// `{"image": "registry.example/shop:1.5", "digest": "sha256:…"}`, or lines `image=…`, `digest=…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobBuild {
    /// The Job's `spec`, with `${…}` in any string in it. `backoffLimit` is 0 unless it is given.
    #[schemars(schema_with = "crate::schema::free_form")]
    pub spec: Map<String, Value>,
}

/// A build that is started by an HTTP call and asked for its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpBuild {
    /// Where the build is started by POST, with `${…}`. The header `Idempotency-Key` is the same for each try.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// The JSON body of the POST, with `${…}` in any string in it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::free_form")]
    pub body: Map<String, Value>,
    /// Headers of every call, with `${…}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, String>,
    /// A token that is sent as `Authorization: Bearer …` with every call. The Secret is where the Secrets of the playbook's channels are: its
    /// namespace, or Quell's own for a ClusterPlaybook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<SecretKey>,
    /// How the result is asked for.
    pub poll: HttpPoll,
}

/// How the result of a build is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpPoll {
    /// What is asked by GET, with `${…}`; `started` is the JSON that the POST answered, as in `https://ci.example/builds/${started.id}`.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// How often. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// A CEL expression that is true when the build has ended well; `response` is the JSON that the GET answered.
    #[schemars(length(min = 1, max = 4096))]
    pub succeeded: String,
    /// A CEL expression that is true when the build has failed.
    #[schemars(length(min = 1, max = 4096))]
    pub failed: String,
    /// What the build made, as `${…}` over `response`: `image`, `digest`, and what else later steps need.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub outputs: BTreeMap<String, String>,
}
