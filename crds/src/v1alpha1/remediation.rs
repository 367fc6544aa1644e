mod step_record;

pub use step_record::{Effect, Receipt, RehearsedWrite, StepRecord, StepState};

use std::fmt;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GateRecord, Mode, RunSettings, Step, Target, Workload};

/// One run of one playbook for one Finding. Quell writes it; people read it, and pause, resume, cancel and undo it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Remediation",
    plural = "remediations",
    shortname = "rem",
    category = "quell",
    namespaced,
    doc = "One run of one playbook for one Finding: the playbook as it was at the start, and what each step did.",
    derive = "PartialEq",
    status = "RemediationStatus",
    selectable = ".spec.finding.name",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.currentStep"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Finding", type_ = "string", json_path = ".spec.finding.name", priority = 1),
    // The run's name begins with it.
    printcolumn(name = "Playbook", type_ = "string", json_path = ".spec.playbook.name", priority = 1),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.finding == oldSelf.finding && self.playbook == oldSelf.playbook && self.steps == oldSelf.steps && self.mode == oldSelf.mode && self.target == oldSelf.target && has(self.workload) == has(oldSelf.workload) && (!has(self.workload) || self.workload == oldSelf.workload) && has(self.settings) == has(oldSelf.settings) && (!has(self.settings) || self.settings == oldSelf.settings) && has(self.author) == has(oldSelf.author) && (!has(self.author) || self.author == oldSelf.author)").message("a run can't be changed once it has begun; only intent and undoSteps can"))]
#[x_kube(validation = Rule::new("!has(self.undoSteps) || self.undoSteps.all(u, self.steps.exists(s, s.name == u))").message("undoSteps must name steps of this run"))]
pub struct RemediationSpec {
    /// The Finding that it is for, in the same namespace.
    pub finding: FindingReference,
    /// The playbook that it runs.
    pub playbook: PlaybookReference,
    /// The steps of the playbook as they were at the start; a later change of the playbook doesn't alter this run.
    #[schemars(length(min = 1, max = 32))]
    pub steps: Vec<Step>,
    /// Of the playbook when the run began; `DryRun`, too, where a Guardrail had all playbooks learn.
    #[serde(default)]
    pub mode: Mode,
    /// What the Finding was about when the run began, with the UID that the steps act on.
    pub target: Target,
    /// The workload that the target belonged to when the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// What the playbook said of its runs, as it was at the start.
    #[serde(default, skip_serializing_if = "RunSettings::is_default")]
    pub settings: RunSettings,
    /// Who wrote the playbook, as far as that is known: the API server has checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub author: Option<String>,
    /// `Run`; `Pause`: no further step begins, and what has begun is seen through; `Cancel`: no further step begins, what has begun is let
    /// go of, and what was done stays; `Undo` to undo what the run did: what was done last is undone first, and what somebody else has
    /// changed since is left alone. `kubectl quell pause`, `resume`, `cancel` and `undo` set it.
    #[serde(default)]
    pub intent: Intent,
    /// Steps to undo by themselves, whatever the rest of the run does. `kubectl quell undo --step` adds to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub undo_steps: Vec<String>,
}

/// The Finding of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingReference {
    /// Name of the Finding.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the Finding.
    #[schemars(length(max = 63))]
    pub uid: String,
    /// The episode of the Finding that the run was begun for.
    #[serde(default = "first")]
    #[schemars(range(min = 1))]
    pub episode: i64,
}

fn first() -> i64 {
    1
}

/// The playbook of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaybookReference {
    /// Playbook or ClusterPlaybook.
    pub kind: PlaybookKind,
    /// Name of the playbook.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the playbook.
    #[schemars(length(max = 63))]
    pub uid: String,
    /// Generation of the playbook at the start of the run.
    pub generation: i64,
    /// ServiceAccount that the steps act as: of the run's namespace for a Playbook; empty for a ClusterPlaybook that acts as Quell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub service_account_name: String,
    /// Namespace of the ServiceAccount that a ClusterPlaybook names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub service_account_namespace: String,
}

/// The two kinds of playbook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PlaybookKind {
    /// A playbook of one namespace.
    #[default]
    Playbook,
    /// A playbook for every namespace.
    ClusterPlaybook,
}

impl fmt::Display for PlaybookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Intent {
    /// Do the steps.
    #[default]
    Run,
    /// Begin no further step until it is `Run` again.
    Pause,
    /// Begin no further step, and leave what was done as it is.
    Cancel,
    /// Undo the steps that were done.
    Undo,
}

/// What a run has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemediationStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the run stands.
    #[serde(default)]
    pub phase: Phase,
    /// The steps that are under way, with commas between them; one that waits, with what for in brackets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub current_step: String,
    /// What each step did, in the order of the playbook; those of `finally` come last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub steps: Vec<StepRecord>,
    /// What the approval of the whole run has asked, and who has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<GateRecord>,
    /// How the steps ended, once the steps of `finally` are under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Phase>,
    /// When the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<DateTime<Utc>>,
    /// How long it was paused before, in seconds. This time does not count towards the run's timeout.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub paused_seconds: i64,
    /// What still gets to a pod that this run has quarantined, or from it, beyond what was asked to stay open: who, on which ports, and
    /// the policy that allows it. See the condition `Contained`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 2048)))]
    pub open_paths: Vec<String>,
    /// What the channels of the `notify` steps were last told about a quarantine that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// Conditions: `Complete`; `AwaitingApproval`, where one is asked for; `Held`, while a guardrail holds a step; and `Contained`, where a
    /// quarantine stands: `True` when nothing gets through, `False` with the paths that are
    /// open, `Unknown` where it can't be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What channels were told about a quarantine after it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// What of it they know.
    pub news: QuarantineNews,
    /// When they were told.
    pub at: DateTime<Utc>,
    /// Why not all of them could be told; empty where they were.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub failure: String,
}

/// How a quarantine fares after it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum QuarantineNews {
    /// It holds again.
    Closed,
    /// Something that isn't the quarantine's own lets traffic through to the pod or from it.
    Opened,
    /// Others change it again and again, and Quell puts it back ever more slowly.
    Contested,
    /// Somebody has changed it, and Quell can't put it back.
    NotKept,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Steps are under way, or wait for their turn.
    #[default]
    Running,
    /// Nothing is under way, for an approval is waited for.
    AwaitingApproval,
    /// Nothing begins until the run is resumed.
    Paused,
    /// The steps are over; those of `finally` are under way.
    Finishing,
    /// Every step ended well or was skipped by its `when`.
    Succeeded,
    /// A step failed.
    Failed,
    /// Somebody stopped it. What was done before stays.
    Cancelled,
    /// Steps are being undone.
    Undoing,
    /// Every step that can be undone was undone.
    Undone,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl RemediationSpec {
    /// The steps, then those of `finally`: as many as there are records, in the same order.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.settings.finally)
    }
}

impl Phase {
    /// Nothing more happens unless an undo is asked for, or due.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Undone)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
