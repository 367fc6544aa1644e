use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{Duration, Selector};

/// What one Source may ask of Quell. A Source that is over a limit is told so (413, 429, 431 or 408) and holds up no other one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceLimits {
    /// Largest body in bytes, after decompression. Default: 16777216 (16 MiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 67_108_864))]
    pub max_body_bytes: Option<i64>,
    /// Deepest nesting of lists and objects in a body. Default: 127.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 127))]
    pub max_depth: Option<i32>,
    /// Most bytes of a request's headers, names and values together. Default and most: 16384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 16_384))]
    pub max_header_bytes: Option<i32>,
    /// By when a request must be in, and what it says stored. Default: 30s; at most 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) >= duration('1s') && duration(self) <= duration('5m')", "message": "must be from 1s to 5m"}]))]
    pub timeout: Option<Duration>,
    /// Requests a second, on each replica. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub requests_per_second: Option<i32>,
    /// How many requests may come at once before `requestsPerSecond` counts. Default: `requestsPerSecond`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<i32>,
    /// Requests that are worked on at a time, on each replica; further ones wait for their turn. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_concurrent: Option<i32>,
}

/// The namespaces that a Source may speak for: those that are named, and those with the labels.
///
/// A Source that is bound makes Findings about pods and workloads of these namespaces only, whatever it sends and whoever has its credential:
/// nothing about others, and nothing about nodes, images and what else is in no namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceNamespaces {
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub include: Vec<String>,
    /// By labels. Whoever may label a namespace decides what the Source may speak for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}
