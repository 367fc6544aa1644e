use chrono::{DateTime, Utc};
use quell_crds::conditions::{ConditionType, find};
use quell_crds::names;
use quell_crds::v1alpha1::{
    Phase, PlaybookKind, PlaybookReference, Receipt, Remediation, RemediationStatus, Step, StepState, Target,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a line tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A chain begins, or is gone on with by another process.
    #[default]
    Begin,
    /// A step came to another state.
    Step,
    /// A run came to another phase.
    Run,
    /// A quarantine that somebody had changed was put back.
    Kept,
    /// Lines were lost before this one, as they could not be written.
    Lost,
}

/// The playbook by which something was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Playbook {
    /// `Playbook` or `ClusterPlaybook`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Generation that the run was begun with; the Remediation holds its steps.
    pub generation: i64,
}

/// What an object was, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The object, such as `Pod shop/web-1`.
    pub object: String,
    /// Its UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What was there before.
    pub before: Map<String, Value>,
    /// What is there now.
    pub after: Map<String, Value>,
}

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When, by the clock of the replica that writes.
    pub time: DateTime<Utc>,
    /// What it is.
    pub event: Event,
    /// As whom it was done: `quell`, or the ServiceAccount of a namespaced Playbook.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The Remediation, as `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remediation: String,
    /// The Finding, as `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub finding: String,
    /// What the run is about, such as `Pod shop/web-1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// By which playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbook: Option<Playbook>,
    /// Name of the step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// Kind of the step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// State or phase before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// State or phase now.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// Which try.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: i32,
    /// Why, in a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What happened, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<String>,
    /// How many lines were lost.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub lost: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

/// What has happened in a run between two states of its record. `steps` are those of the record, in its order.
#[must_use]
pub fn changes(
    run: &Remediation,
    steps: &[Step],
    before: &RemediationStatus,
    after: &RemediationStatus,
    now: DateTime<Utc>,
) -> Vec<Entry> {
    let of_run = about(run, now);
    let mut entries = Vec::new();
    for (step, record) in steps.iter().zip(&after.steps) {
        let old = before.steps.iter().find(|old| old.name == record.name);
        let was = old.map_or(StepState::Pending, |old| old.state);
        let news = old.is_none_or(|old| {
            (old.state, &old.reason, old.attempts) != (record.state, &record.reason, record.attempts)
        });
        if !news || record.state == StepState::Pending {
            continue;
        }
        entries.push(Entry {
            event: Event::Step,
            step: record.name.clone(),
            kind: step.kind.name().to_owned(),
            from: was.to_string(),
            to: record.state.to_string(),
            attempt: record.attempts,
            reason: record.reason.clone(),
            message: record.message.clone(),
            change: record.receipt.as_ref().map(|receipt| change(receipt, record.state)),
            ..of_run.clone()
        });
    }
    let begins = before == &RemediationStatus::default();
    if before.phase != after.phase || begins {
        let complete = find(&after.conditions, ConditionType::Complete);
        entries.push(Entry {
            event: Event::Run,
            from: if begins { String::new() } else { before.phase.to_string() },
            to: after.phase.to_string(),
            reason: complete.map(|one| one.reason.clone()).unwrap_or_default(),
            message: complete.map(|one| one.message.clone()).unwrap_or_default(),
            ..of_run
        });
        // A run begins before its steps do.
        if begins && after.phase == Phase::Running {
            entries.rotate_right(1);
        }
    }
    entries
}

/// What every entry about a run says.
#[must_use]
pub fn about(run: &Remediation, now: DateTime<Utc>) -> Entry {
    let namespace = run.metadata.namespace.clone().unwrap_or_default();
    let name = run.metadata.name.clone().unwrap_or_default();
    Entry {
        time: now,
        by: identity(&run.spec.playbook, &namespace),
        remediation: format!("{namespace}/{name}"),
        finding: format!("{namespace}/{}", run.spec.finding.name),
        target: describe(&run.spec.target),
        playbook: Some(Playbook {
            kind: run.spec.playbook.kind.to_string(),
            name: run.spec.playbook.name.clone(),
            uid: run.spec.playbook.uid.clone(),
            generation: run.spec.playbook.generation,
        }),
        ..Entry::default()
    }
}

fn identity(playbook: &PlaybookReference, namespace: &str) -> String {
    match playbook.kind {
        PlaybookKind::ClusterPlaybook => names::QUELL.to_owned(),
        PlaybookKind::Playbook => format!("system:serviceaccount:{namespace}:{}", playbook.service_account_name),
    }
}

fn describe(target: &Target) -> String {
    object(&target.kind, &target.namespace, &target.name)
}

fn object(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// After an undo, what the receipt has as before is what is there now. What a Secret holds is told by nothing but its keys.
fn change(receipt: &Receipt, state: StepState) -> Change {
    let shown = |values: &Map<String, Value>| {
        if receipt.kind != "Secret" {
            return values.clone();
        }
        values.keys().map(|key| (key.clone(), Value::from("(not shown)"))).collect()
    };
    let (before, after) = (shown(&receipt.before), shown(&receipt.after));
    let (before, after) = if state == StepState::Undone { (after, before) } else { (before, after) };
    let uid = receipt.uid.clone();
    Change { object: object(&receipt.kind, &receipt.namespace, &receipt.name), uid, before, after }
}
