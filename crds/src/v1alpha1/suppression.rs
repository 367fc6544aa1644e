use std::fmt;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A risk that is accepted in this namespace: what, why, by whom, until when. What it covers starts no run.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Suppression",
    plural = "suppressions",
    shortname = "sup",
    category = "quell",
    namespaced,
    doc = "A risk that is accepted in this namespace: what, why, by whom, until when.",
    derive = "PartialEq",
    derive = "Default",
    status = "SuppressionStatus",
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.expiresAt) || has(self.vex)").message("an accepted risk ends: give expiresAt (only what a VEX document states may do without)"))]
pub struct SuppressionSpec {
    /// Which Findings, or which vulnerabilities of Findings.
    pub r#match: SuppressionMatch,
    /// Why it is accepted; the Finding tells it.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who answers for it: a person or a team.
    #[schemars(length(min = 1, max = 253))]
    pub owner: String,
    /// Until when. Then what it covered is open again, and playbooks act on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// What a VEX document states, where it comes from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vex: Option<VexStatement>,
}

/// A risk that is accepted in every namespace: what, why, by whom, until when. What it covers starts no run.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "ClusterSuppression",
    plural = "clustersuppressions",
    shortname = "csup",
    category = "quell",
    doc = "A risk that is accepted in every namespace: what, why, by whom, until when.",
    derive = "PartialEq",
    derive = "Default",
    status = "SuppressionStatus",
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.expiresAt) || has(self.vex)").message("an accepted risk ends: give expiresAt (only what a VEX document states may do without)"))]
pub struct ClusterSuppressionSpec {
    /// Which Findings, or which vulnerabilities of Findings.
    pub r#match: SuppressionMatch,
    /// Why it is accepted; the Finding tells it.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who answers for it: a person or a team.
    #[schemars(length(min = 1, max = 253))]
    pub owner: String,
    /// Until when. Then what it covered is open again, and playbooks act on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// What a VEX document states, where it comes from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vex: Option<VexStatement>,
}

/// What is accepted. All that is given must hold; at least one must be given.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.sources) || has(self.rules) || has(self.vulnerabilities) || has(self.packages) || has(self.targets) || has(self.images) || has(self.when)").message("give at least one of sources, rules, vulnerabilities, packages, targets, images and when"))]
pub struct SuppressionMatch {
    /// Any of these: the name of a Source, or of a tool such as `falco` or `trivy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub sources: Vec<String>,
    /// Any of these rules, as the tool names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub rules: Vec<String>,
    /// Any of these vulnerabilities, such as `CVE-2019-20367`. Only these are taken out of a Finding; it is suppressed as a whole when none
    /// is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 128)))]
    pub vulnerabilities: Vec<String>,
    /// Only vulnerabilities in one of these packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub packages: Vec<String>,
    /// Any of these targets, or workloads that the target belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub targets: Vec<SuppressedTarget>,
    /// Any of these images: a repository such as `registry.example/shop`, one with a tag, or a digest such as `sha256:…`, alone or after
    /// the repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub images: Vec<String>,
    /// A CEL expression that must be true. Variables: `finding`, `target`, `workload`, `namespace`. One that fails suppresses nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
}

/// A target, or the workload of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressedTarget {
    /// Its kind, such as `Deployment` or `Pod`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its namespace. Default: any; for a Suppression, its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
}

/// What a VEX document states of a vulnerability.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VexStatement {
    /// `NotAffected` or `Fixed`.
    pub status: VexStatus,
    /// Why it isn't affected, in the words of the document's format, such as `vulnerable_code_not_present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub justification: Option<String>,
    /// The document's identifier, or the file that it was read from.
    #[schemars(length(max = 512))]
    pub document: String,
}

/// What a VEX document says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VexStatus {
    /// The product isn't affected by the vulnerability.
    #[default]
    NotAffected,
    /// The product has a fix for the vulnerability.
    Fixed,
}

impl fmt::Display for VexStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether a suppression is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`, `False` once it has expired or where it can't be used. One that isn't ready suppresses nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
