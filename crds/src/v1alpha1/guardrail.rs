use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::step::ChannelReference;
use super::{Duration, Selector};

/// What no playbook may do, whatever it says: protected objects, limits, freezes, and the stop switch.
///
/// Every Guardrail holds for every playbook. They are read at the moment of each effect. A step that meets one is held, with the
/// reason and the numbers, and goes on by itself when it may. A Guardrail that can't be read holds everything.
// A field that this version doesn't know may forbid something: an object with one is unreadable, and so holds everything.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Guardrail",
    plural = "guardrails",
    shortname = "grd",
    category = "quell",
    doc = "What no playbook may do: protected objects, limits, freezes, and the stop switch.",
    derive = "PartialEq",
    derive = "Default",
    status = "GuardrailStatus",
    printcolumn(name = "Stop", type_ = "boolean", json_path = ".spec.stop"),
    printcolumn(name = "Learn", type_ = "boolean", json_path = ".spec.learn"),
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardrailSpec {
    /// The stop switch: while it is on, Quell makes no effect anywhere, whatever the playbook. Runs wait, and go on when it is off. Signals
    /// are taken in, Findings and records are written, people are told. `kubectl quell stop` and `kubectl quell go` turn it.
    #[serde(default)]
    pub stop: bool,
    /// Why it is stopped, and by whom; every run that is held tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub stop_reason: Option<String>,
    /// Learning: every run that begins is a dry run, whatever its playbook says. Runs that began before are held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learn: bool,
    /// What no step may touch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.all(p, self.exists_one(q, q.name == p.name))").message("each protection needs a name of its own"))]
    pub protect: Vec<Protection>,
    /// How much may be done in a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.all(l, self.exists_one(m, m.name == l.name))").message("each limit needs a name of its own"))]
    pub limits: Vec<Limit>,
    /// When nothing is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.all(f, self.exists_one(g, g.name == f.name))").message("each freeze needs a name of its own"))]
    pub freezes: Vec<Freeze>,
    /// `Keep`: the last ready pod of a workload isn't contained, unless the step says `allowLastReplica: true`. `Allow`: this Guardrail
    /// doesn't mind.
    #[serde(default)]
    pub last_ready_replica: LastReadyReplica,
    /// ClusterChannels that are told when a run is held by this Guardrail: at once for the first, then together with others of the same
    /// reason once a minute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub channels: Vec<ChannelReference>,
}

/// What becomes of the last ready pod of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LastReadyReplica {
    /// It isn't contained, unless the step says so.
    #[default]
    Keep,
    /// It may be contained.
    Allow,
}

/// Objects that no step may touch. All that is given must hold; at least one must be given.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.namespaces) || has(self.namespaceSelector) || has(self.labels) || has(self.kinds) || has(self.when)").message("give at least one of namespaces, namespaceSelector, labels, kinds and when"))]
pub struct Protection {
    /// Its name, which runs that are held tell.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// What is in one of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// What is in a namespace with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// What concerns a pod with these labels; of a pod under quarantine, those that it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Selector>,
    /// What concerns an object of one of these kinds: the target, its workload, or what the step writes, such as `StatefulSet`, `Node` or
    /// `ImageBlock`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub kinds: Vec<String>,
    /// What this CEL expression is true for. Variables: those of a step's `when`, and `step` with its `name` and `kind`. One that fails
    /// holds the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// Why, for whoever reads that a run is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub reason: Option<String>,
}

/// How many pods may be contained or restarted in a time. What was undone doesn't count any more.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.max) || has(self.maxPercent)").message("give max, maxPercent or both"))]
#[x_kube(validation = Rule::new("(self.per == 'NodeGroup') == has(self.nodeLabel)").message("nodeLabel goes with per: NodeGroup, and per: NodeGroup needs it"))]
pub struct Limit {
    /// Its name, which runs that are held tell.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// What is counted: pods that steps contain, and pods of workloads that steps restart. Default: both, together.
    #[serde(default = "disruptions", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 2))]
    pub of: Vec<Disruption>,
    /// Of what the limit is: each of these is counted by itself.
    pub per: LimitPer,
    /// The label of nodes whose value names their group, such as `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub node_label: Option<String>,
    /// At most so many pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max: Option<i32>,
    /// At most this share of the pods that are there, rounded up as a PodDisruptionBudget does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: Option<i32>,
    /// In which time, up to now. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// Counts and limits only what is in these namespaces. Default: in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
}

/// What a step does to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Disruption {
    /// It contains a pod: `quarantine`.
    Contained,
    /// It replaces the pods of a workload: `rollback`, `setImage`.
    Restarted,
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Contained => "contained",
            Self::Restarted => "restarted",
        })
    }
}

fn disruptions() -> Vec<Disruption> {
    vec![Disruption::Contained, Disruption::Restarted]
}

/// Of what a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LimitPer {
    /// Of the cluster.
    Cluster,
    /// Of each namespace.
    Namespace,
    /// Of each workload: the topmost owner of a pod.
    Workload,
    /// Of each group of nodes that have the same value of `nodeLabel`.
    NodeGroup,
}

/// When nothing is done. What is under way goes on to its end; undo is not held.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.weekly) != has(self.once)").message("give weekly or once"))]
pub struct Freeze {
    /// Its name, which runs that are held tell.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// The time zone of its times, as the IANA database names it, such as `Europe/Berlin`. Default: `UTC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    pub time_zone: Option<String>,
    /// Every week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<Weekly>,
    /// Once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<Once>,
    /// Holds only in these namespaces. Default: in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Holds only what this CEL expression is true for, such as `finding.severity != "Critical"`. Variables: those of a step's `when`, and
    /// `step` with its `name` and `kind`. One that fails holds the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// Why, for whoever reads that a run is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub reason: Option<String>,
}

/// A time of the week.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Weekly {
    /// Days on which it begins.
    #[schemars(length(min = 1, max = 7))]
    pub days: Vec<Day>,
    /// When it begins, as `18:00`. Default: `00:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 5), regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub from: Option<String>,
    /// When it ends, as `06:00`: on the next day where that isn't after `from`. Default: `00:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 5), regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub until: Option<String>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A time that comes once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Once {
    /// When it begins, by the clocks of its time zone, as `2026-12-24T12:00`.
    #[schemars(
        length(max = 16),
        regex(pattern = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]$")
    )]
    pub from: String,
    /// When it ends.
    #[schemars(
        length(max = 16),
        regex(pattern = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]$")
    )]
    pub until: String,
}

/// Whether a Guardrail can be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`. While one Guardrail isn't ready, every effect is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
