//! A decision, written into the status of its run. Pure; the engine writes the status down and does what has an effect.

use chrono::{DateTime, Utc};
use quell_crds::conditions::{self, ConditionType, Reason, Status};
use quell_crds::v1alpha1::{Phase, RemediationStatus, StepRecord, StepState};

use crate::compile::CompiledStep;
use crate::plan::Decision;
use crate::progress;

/// Longest message of the `Complete` condition, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Writes a decision into the status.
///
/// `Begin`, `Skip`, `Fail`, `LetGo`, `Finish`, `Close` and `Enter` are done with that. For `Perform` it writes down that a try begins, where none is under way; what
/// becomes of the try is for [`progress::settle`]. `Revert`, `Recover` and `Undo` change nothing before their effect: they are for
/// [`progress::settle_revert`], [`progress::settle_recovery`] and [`progress::settle_undo`]. A decision about a step that isn't there changes nothing.
pub fn apply(status: &mut RemediationStatus, steps: &[CompiledStep], decision: &Decision, now: DateTime<Utc>) {
    match decision {
        Decision::Begin { step } | Decision::Perform { step, .. } => {
            if let Some(record) = status.steps.get_mut(*step) {
                progress::begin(record, now);
            }
        }
        Decision::Skip { step, reason, message } => {
            if let Some(record) = status.steps.get_mut(*step) {
                progress::end(record, StepState::Skipped, *reason, message, now);
            }
        }
        Decision::Fail { step, reason, message } => {
            if let (Some(record), Some(step)) = (status.steps.get_mut(*step), steps.get(*step)) {
                progress::fail(record, &step.step, *reason, message, now);
            }
        }
        Decision::Ask { step: Some(step), record: gate, message } => {
            if let Some(record) = status.steps.get_mut(*step) {
                progress::ask(record, (**gate).clone(), message);
            }
        }
        Decision::Ask { step: None, record, .. } => status.approval = Some((**record).clone()),
        Decision::LetGo { step, message } => {
            if let Some(record) = status.steps.get_mut(*step) {
                progress::end(record, StepState::Cancelled, Reason::Cancelled, message, now);
            }
        }
        Decision::Enter { phase, reason, message } => {
            status.outcome = None;
            enter(status, *phase, &reason.to_string(), message, now);
        }
        Decision::Finish { outcome, reason, message } => {
            status.outcome = Some(*outcome);
            enter(status, Phase::Finishing, &reason.to_string(), message, now);
        }
        Decision::Close { phase, more } => close(status, *phase, more, now),
        Decision::Revert { .. } | Decision::Recover { .. } | Decision::Undo { .. } => {}
    }
    refresh(status);
}

/// Writes the names of the steps that are under way, or wait, into `currentStep`, and into `phase` whether nothing but an approval is waited
/// for. To be called after the `settle` functions; [`apply`] does it
/// itself.
pub fn refresh(status: &mut RemediationStatus) {
    let under_way: Vec<String> = status
        .steps
        .iter()
        .filter_map(|record| match record.state {
            StepState::Running | StepState::Retrying | StepState::Reverting | StepState::Undoing => {
                Some(record.name.clone())
            }
            StepState::Waiting | StepState::AwaitingApproval | StepState::Held => {
                Some(format!("{} ({})", record.name, record.state))
            }
            _ => None,
        })
        .collect();
    status.current_step = under_way.join(", ");
    if matches!(status.phase, Phase::Running | Phase::AwaitingApproval) {
        let any = |wanted: &[StepState]| status.steps.iter().any(|record| wanted.contains(&record.state));
        let begun = [
            StepState::Running,
            StepState::Retrying,
            StepState::Held,
            StepState::Reverting,
            StepState::Undoing,
            StepState::Waiting,
        ];
        let asks = status.approval.as_ref().is_some_and(|gate| !gate.open) || any(&[StepState::AwaitingApproval]);
        status.phase = if asks && !any(&begun) { Phase::AwaitingApproval } else { Phase::Running };
    }
}

/// The outcome becomes the phase; what was told of it stays. Where the steps went well and the end of the run didn't, that is the reason.
fn close(status: &mut RemediationStatus, phase: Phase, more: &str, now: DateTime<Utc>) {
    let told = conditions::find(&status.conditions, ConditionType::Complete).cloned();
    let (reason, message) = told.map(|told| (told.reason, told.message)).unwrap_or_default();
    let spoiled = status.outcome == Some(Phase::Succeeded) && phase == Phase::Failed;
    let reason = if spoiled || reason.is_empty() { Reason::StepFailed.to_string() } else { reason };
    let message = if more.is_empty() { message } else { format!("{message}; {more}") };
    enter(status, phase, &reason, &message, now);
}

fn enter(status: &mut RemediationStatus, phase: Phase, reason: &str, message: &str, now: DateTime<Utc>) {
    if let Some(since) = status.paused_at.take() {
        status.paused_seconds += (now - since).num_seconds().max(0);
    }
    if phase == Phase::Paused {
        status.paused_at = Some(now);
        // Who is paused gives up its place in the queue.
        let waits = |record: &&mut StepRecord| {
            record.state == StepState::Waiting || (record.state == StepState::Held && record.receipt.is_none())
        };
        for record in status.steps.iter_mut().filter(waits) {
            record.state = StepState::Pending;
        }
    }
    status.phase = phase;
    status.finished_at = phase.is_final().then_some(now);
    let mut complete = conditions::condition(
        &status.conditions,
        ConditionType::Complete,
        if phase.is_final() { Status::True } else { Status::False },
        Reason::Succeeded,
        progress::shorten(message, LONGEST_MESSAGE),
        status.observed_generation,
        now,
    );
    reason.clone_into(&mut complete.reason);
    status.conditions.retain(|condition| condition.type_ != complete.type_);
    status.conditions.push(complete);
}
