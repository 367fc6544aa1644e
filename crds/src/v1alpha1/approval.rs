use std::fmt;

use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Duration;
use super::step::ChannelReference;

/// A decision of one person on one gate of one run. `kubectl quell approve` and `deny` write it.
///
/// It binds to what was approved: the run's UID, the step, and the digest of the step's parameters. The chart's admission policy sees to it
/// that `user` is who creates it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Approval",
    plural = "approvals",
    shortname = "apr",
    category = "quell",
    namespaced,
    doc = "A decision of one person on one gate of one run.",
    derive = "PartialEq",
    printcolumn(name = "Step", type_ = "string", json_path = ".spec.step"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".spec.decision"),
    printcolumn(name = "User", type_ = "string", json_path = ".spec.user"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // The decision's name begins with it.
    printcolumn(name = "Remediation", type_ = "string", json_path = ".spec.remediation.name", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a decision can't be changed; make another, or delete it while nothing has come of it"))]
pub struct ApprovalSpec {
    /// The run, in the same namespace.
    pub remediation: ApprovedRun,
    /// The step whose gate it is; left out for the gate of the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub step: Option<String>,
    /// Digest of what is decided on, as `approval.digest` in the run's status has it. Where that is another by now, the decision doesn't
    /// count.
    #[schemars(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub digest: String,
    /// Yes or no.
    pub decision: ApprovalDecision,
    /// Who decides: the user name by which the API server knows you (`kubectl auth whoami`).
    #[schemars(length(min = 1, max = 256))]
    pub user: String,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// The run of an Approval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovedRun {
    /// Name of the Remediation.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the Remediation.
    #[schemars(length(min = 1, max = 63))]
    pub uid: String,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalDecision {
    /// It shall be done. As many as the gate asks for must say so.
    Approve,
    /// It shall not be done. One is enough.
    Deny,
}

impl fmt::Display for ApprovalDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What must be approved before it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalGate {
    /// What is asked of those who approve; a template, such as `Rolls back ${workload.namespace}/${workload.name}`.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// How many must approve, each another user. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10))]
    pub quorum: i32,
    /// The approval of whoever wrote the playbook, or wrote the Finding by hand, doesn't count: two persons are needed. The API server then
    /// asks for the annotation `quell.dev/author` on the playbook, with the name of whoever writes it.
    #[serde(default)]
    pub separate: bool,
    /// How long it waits for the approvals. Default: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<Duration>,
    /// What happens when nobody has denied it and not enough have approved it in that time. Default: `Deny`.
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// Who is told that an approval is waited for: names of Channels in the playbook's namespace; for a ClusterPlaybook, of ClusterChannels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub channels: Vec<ChannelReference>,
}

fn one() -> i32 {
    1
}

/// What happens when a gate has waited long enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExpiry {
    /// It counts as denied.
    #[default]
    Deny,
    /// It counts as approved.
    Allow,
}

/// What a gate has asked, and who has answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateRecord {
    /// Digest of what is asked about: SHA-256 in hexadecimal.
    #[schemars(length(max = 64))]
    pub digest: String,
    /// What is asked.
    #[schemars(length(max = 4096))]
    pub reason: String,
    /// The step as it will be done, its parameters filled in.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::free_form")]
    pub parameters: Map<String, Value>,
    /// Since when it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<DateTime<Utc>>,
    /// Until when an answer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// How many must approve.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub quorum: i32,
    /// Users who have approved, and count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub approved_by: Vec<String>,
    /// Users whose approval doesn't count, for they wrote the playbook or the Finding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 256)))]
    pub excluded: Vec<String>,
    /// Whether it is open: what was asked about may be done.
    #[serde(default)]
    pub open: bool,
    /// Whether the channels have been told.
    #[serde(default)]
    pub told: bool,
}
