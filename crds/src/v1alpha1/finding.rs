mod status;
mod vulnerability;

pub use status::{Counted, FindingState, FindingStatus, MOST_COUNTED, RunReference, Suppressed};
pub use vulnerability::{Vulnerability, VulnerabilityCounts};

use std::fmt;

use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Severity;

/// One thing that is wrong with one target, as a tool or a person reported it.
///
/// Sources write Findings; you can write one by hand, too. The same problem reported again is the same Finding with a
/// higher count.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Finding",
    plural = "findings",
    shortname = "fnd",
    category = "quell",
    namespaced,
    doc = "One thing that is wrong with one target, as a tool or a person reported it.",
    derive = "PartialEq",
    derive = "Default",
    status = "FindingStatus",
    selectable = ".spec.severity",
    selectable = ".spec.source",
    printcolumn(name = "Severity", type_ = "string", json_path = ".spec.severity"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source"),
    printcolumn(name = "Rule", type_ = "string", json_path = ".spec.rule"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.name"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Playbook", type_ = "string", json_path = ".status.playbook"),
    printcolumn(name = "Count", type_ = "integer", json_path = ".status.count"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.target.kind", priority = 1),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workload.name", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.target.image", priority = 1),
    printcolumn(name = "Suppressed-By", type_ = "string", json_path = ".status.suppressed.by", priority = 1),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.suppressed.until", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct FindingSpec {
    /// Name of the Source that reported it; for a Finding written by hand, who you are, such as `manual`.
    #[schemars(length(min = 1, max = 63))]
    pub source: String,
    /// The tool that found it, such as `falco` or `trivy`. Empty where it is the same as the source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub tool: String,
    /// The tool's name for what is wrong: Falco's rule, or for a scanner what it scanned.
    #[schemars(length(min = 1, max = 253))]
    pub rule: String,
    /// What kind of problem it is.
    #[serde(default)]
    pub category: Category,
    /// How bad it is.
    pub severity: Severity,
    /// What happened, in the tool's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub message: String,
    /// What it happened to.
    // Atomic, as `workload` and `details`: nobody owns a part of what was reported, and the server need not track each field's owner.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub target: Target,
    /// The workload that the target belongs to: the topmost owner of the pod, such as the Deployment. A Source fills it in
    /// from the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub workload: Option<Workload>,
    /// Vulnerabilities of the target's image, the worst and fixable ones first; at most 50, see `vulnerabilityCounts` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub vulnerabilities: Vec<Vulnerability>,
    /// How many vulnerabilities there are in all, by severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerability_counts: Option<VulnerabilityCounts>,
    /// Everything else that the tool said, as it said it. Expressions read it as `finding.details`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::free_form")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub details: Map<String, Value>,
    /// What makes this problem the same as the one reported before: SHA-256 over the parts that identify it, in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// When the tool first saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_at: Option<DateTime<Utc>>,
}

/// What kind of problem a Finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Category {
    /// Something that a running process does.
    Runtime,
    /// A known vulnerability in an image.
    Vulnerability,
    /// A setting that is unsafe.
    Misconfiguration,
    /// A secret where it should not be.
    Secret,
    /// A rule of a policy engine that is not met.
    Policy,
    /// A control of a standard that is not met.
    Compliance,
    /// Something that somebody did through the API server.
    Audit,
    /// Anything else.
    #[default]
    Other,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The object, and the part of it, that a Finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Kind of the object: `Pod`, `Deployment`, `Node`, …; or `Image` for an image that nothing in the cluster runs, `Container` and
    /// `Address` for what no pod is known of, `Cluster` for the cluster as a whole, and words such as `External`, `Repository`, `Filesystem`,
    /// `Host` for what is not in it.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// API version of the object, such as `apps/v1`. Empty for `Image`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub api_version: String,
    /// Namespace of the object; empty for an object of the whole cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the object; for `Image` the image's reference.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// UID of the object. A step acts on the object with this UID and no other, so that a new pod of the same name isn't
    /// quarantined for what the old one did. Empty where neither the tool nor the cluster could tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub uid: String,
    /// Name of the container in the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub container: String,
    /// Reference of the image, such as `registry.example/shop:1.4`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub image: String,
    /// Digest of the image that ran, such as `sha256:…`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 135))]
    pub digest: String,
    /// Node that the pod ran on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub node: String,
}

/// The topmost owner of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// API version of the workload, such as `apps/v1`.
    #[schemars(length(max = 253))]
    pub api_version: String,
    /// Kind of the workload, such as `Deployment`; `Pod` for a pod that nothing owns.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace of the workload.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the workload, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub uid: String,
}
