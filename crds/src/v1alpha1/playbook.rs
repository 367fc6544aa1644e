use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, LabelSelectorRequirement};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Category, RunSettings, Severity, Step};

/// What shall happen when a Finding of this namespace matches.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Playbook",
    plural = "playbooks",
    shortname = "pb",
    category = "quell",
    namespaced,
    doc = "What shall happen when a Finding of this namespace matches.",
    derive = "PartialEq",
    status = "PlaybookStatus",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Severity", type_ = "string", json_path = ".spec.match.minSeverity"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.finally) || self.finally.all(f, self.finally.exists_one(g, g.name == f.name) && !self.steps.exists(s, s.name == f.name))").message("each step needs a name of its own, those of finally, too"))]
#[x_kube(validation = Rule::new("!has(self.finally) || self.finally.all(f, !has(f.after) || f.after.all(a, a != f.name && self.finally.exists(g, g.name == a)))").message("after of a step in finally must name other steps of finally"))]
#[x_kube(validation = Rule::new("!has(self.undo) || has(self.undo.after) || self.undo.onResolved").message("undo needs after or onResolved"))]
pub struct PlaybookSpec {
    /// Which Findings it acts on. All that is given must hold; what is left out holds for every Finding.
    #[serde(default)]
    pub r#match: Match,
    /// What is done, in this order unless a step's `after` says something else.
    // The first rule stops a cycle, too, where every `after` names another step; the order is checked by the controller.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.all(s, self.exists_one(t, t.name == s.name))").message("each step needs a name of its own"))]
    #[x_kube(validation = Rule::new("self.all(s, !has(s.denyImage) || s.denyImage.namespaces != 'All')").message("denyImage in all namespaces is for ClusterPlaybooks"))]
    #[x_kube(validation = Rule::new("self.all(s, !has(s.after) || s.after.all(a, a != s.name && self.exists(t, t.name == a)))").message("after must name other steps of this playbook"))]
    pub steps: Vec<Step>,
    /// How its runs go.
    #[serde(flatten)]
    pub settings: RunSettings,
    /// `Enforce`, or `DryRun`: every write is sent as a server-side dry run, nothing leaves the cluster, and the Remediation shows what would
    /// have been changed.
    #[serde(default)]
    pub mode: Mode,
    /// ServiceAccount of this namespace that the steps act as; what it may not do, the playbook can't do. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
}

/// What shall happen when a Finding of any namespace matches.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "ClusterPlaybook",
    plural = "clusterplaybooks",
    shortname = "cpb",
    category = "quell",
    doc = "What shall happen when a Finding of any namespace matches.",
    derive = "PartialEq",
    status = "PlaybookStatus",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Severity", type_ = "string", json_path = ".spec.match.minSeverity"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.finally) || self.finally.all(f, self.finally.exists_one(g, g.name == f.name) && !self.steps.exists(s, s.name == f.name))").message("each step needs a name of its own, those of finally, too"))]
#[x_kube(validation = Rule::new("!has(self.finally) || self.finally.all(f, !has(f.after) || f.after.all(a, a != f.name && self.finally.exists(g, g.name == a)))").message("after of a step in finally must name other steps of finally"))]
#[x_kube(validation = Rule::new("!has(self.undo) || has(self.undo.after) || self.undo.onResolved").message("undo needs after or onResolved"))]
pub struct ClusterPlaybookSpec {
    /// Which Findings it acts on. All that is given must hold; what is left out holds for every Finding.
    #[serde(default)]
    pub r#match: Match,
    /// Namespaces whose Findings it acts on. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceNames>,
    /// What is done, in this order unless a step's `after` says something else.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.all(s, self.exists_one(t, t.name == s.name))").message("each step needs a name of its own"))]
    #[x_kube(validation = Rule::new("self.all(s, !has(s.after) || s.after.all(a, a != s.name && self.exists(t, t.name == a)))").message("after must name other steps of this playbook"))]
    pub steps: Vec<Step>,
    /// How its runs go.
    #[serde(flatten)]
    pub settings: RunSettings,
    /// `Enforce`, or `DryRun`: every write is sent as a server-side dry run, nothing leaves the cluster, and the Remediation shows what would
    /// have been changed.
    #[serde(default)]
    pub mode: Mode,
    /// ServiceAccount that the steps act as; what it may not do, the playbook can't do. Quell must be allowed to act as it
    /// (`impersonation.namespaces` of the chart). Default: Quell itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountReference>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountReference {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Whether a playbook acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It shows what it would do.
    DryRun,
}

/// Which namespaces, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceNames {
    /// Only these. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub include: Vec<String>,
    /// Not these, whatever `include` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub exclude: Vec<String>,
}

/// Which Findings a playbook acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Any of these: the name of a Source, or of a tool such as `falco` or `trivy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub sources: Vec<String>,
    /// Any of these categories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub categories: Vec<Category>,
    /// At least this bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_severity: Option<Severity>,
    /// The Finding's own labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Selector>,
    /// The labels of the pod that the Finding is about; a Finding about anything else has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_labels: Option<Selector>,
    /// A CEL expression that must be true, such as `finding.rule.matches("(?i)reverse shell")`. Variables: `finding`, `target`,
    /// `workload`, `namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
}

/// Labels that must be there; `matchLabels` and `matchExpressions` must both hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements that must all hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectorRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// What must hold.
    pub operator: SelectorOperator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or isn't there.
    NotIn,
    /// The label is there.
    Exists,
    /// The label isn't there.
    DoesNotExist,
}

impl From<&Selector> for LabelSelector {
    fn from(selector: &Selector) -> Self {
        Self {
            match_labels: Some(selector.match_labels.clone()),
            match_expressions: Some(
                selector
                    .match_expressions
                    .iter()
                    .map(|requirement| LabelSelectorRequirement {
                        key: requirement.key.clone(),
                        operator: format!("{:?}", requirement.operator),
                        values: Some(requirement.values.clone()),
                    })
                    .collect(),
            ),
        }
    }
}

/// Whether a playbook can be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaybookStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Since when it is as it is now. The playbook acts on Findings that are reported from then on, and on older ones only
    /// when they are reported again: writing a playbook doesn't set it on everything that was ever found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_since: Option<DateTime<Utc>>,
    /// Conditions: `Ready`. A playbook that isn't ready matches nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
