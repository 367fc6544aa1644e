//! A decision, written into the status of its run. Pure; the engine writes the status down and does what has an effect.

use chrono::{DateTime, Utc};
use quell_crds::conditions::{self, ConditionType, Reason, Status};
use quell_crds::v1alpha1::{Phase, RemediationStatus, StepState};

use crate::compile::CompiledStep;
use crate::plan::Decision;
use crate::progress;

/// Longest message of the `Complete` condition, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Writes a decision into the status.
///
/// `Begin`, `Skip`, `Fail` and `Enter` are done with that. For `Perform` it writes down that a try begins, where none is under way; what
/// becomes of the try is for [`progress::settle`]. `Revert` and `Undo` change nothing before their effect: they are for
/// [`progress::settle_revert`] and [`progress::settle_undo`]. A decision about a step that isn't there changes nothing.
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
        Decision::Enter { phase, reason, message } => enter(status, *phase, *reason, message, now),
        Decision::Revert { .. } | Decision::Undo { .. } => {}
    }
    refresh(status);
}

/// Writes the names of the steps that are under way into `currentStep`. To be called after the `settle` functions; [`apply`] does it
/// itself.
pub fn refresh(status: &mut RemediationStatus) {
    let under_way: Vec<&str> = status
        .steps
        .iter()
        .filter(|record| {
            matches!(
                record.state,
                StepState::Running | StepState::Retrying | StepState::Held | StepState::Reverting | StepState::Undoing
            )
        })
        .map(|record| record.name.as_str())
        .collect();
    status.current_step = under_way.join(", ");
}

fn enter(status: &mut RemediationStatus, phase: Phase, reason: Reason, message: &str, now: DateTime<Utc>) {
    status.phase = phase;
    status.finished_at = phase.is_final().then_some(now);
    let complete = conditions::condition(
        &status.conditions,
        ConditionType::Complete,
        if phase.is_final() { Status::True } else { Status::False },
        reason,
        progress::shorten(message, LONGEST_MESSAGE),
        status.observed_generation,
        now,
    );
    status.conditions.retain(|condition| condition.type_ != complete.type_);
    status.conditions.push(complete);
}
