use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKey;

/// How the reports of one tool become Findings.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Source",
    plural = "sources",
    shortname = "src",
    category = "quell",
    doc = "How the reports of one tool become Findings: what it posts, or which of its objects are watched.",
    derive = "PartialEq",
    status = "SourceStatus",
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.webhook) != has(self.watch)").message("give one of webhook and watch"))]
#[x_kube(validation = Rule::new("(self.format == 'trivy-operator') == has(self.watch)").message("trivy-operator is watched; falco, falcosidekick and trivy are posted to a webhook"))]
pub struct SourceSpec {
    /// What the tool writes.
    pub format: Format,
    /// The tool posts to `/v1/sources/<name of this Source>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SourceWebhook>,
    /// Quell watches the tool's objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<SourceWatch>,
}

/// What a tool writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Falco's `http_output` with `json_output: true`.
    Falco,
    /// The webhook output of Falcosidekick.
    Falcosidekick,
    /// The JSON report of `trivy image`.
    Trivy,
    /// The VulnerabilityReports of trivy-operator.
    TrivyOperator,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a tool must show to be listened to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceWebhook {
    /// The token of the header `Authorization: Bearer …`.
    pub bearer_token: BearerToken,
}

/// Where a bearer token is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BearerToken {
    /// The Secret, in Quell's own namespace, and the key in it.
    pub secret: SecretKey,
    /// Also take the token as `?token=…`, for a tool that can't send headers, as Falco's `http_output`. An address may end up in
    /// the logs of what stands between; prefer the header where you can.
    #[serde(default)]
    pub in_query: bool,
}

/// Which objects are watched: those of the format, in every namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceWatch {}

/// Whether a Source can be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
