//! What a run does next. Total and deterministic: the same run, facts and time give the same decisions, and every run comes to an end.

use chrono::{DateTime, Utc};
use quell_crds::conditions::{self, ConditionType, Reason};
use quell_crds::v1alpha1::{Intent, OnFailure, Phase, RemediationStatus, StepKind, StepRecord, StepState};

use crate::cel::Scope;
use crate::compile::CompiledStep;
use crate::kind::traits;
use crate::{parameters, progress};

/// A run, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The steps.
    pub steps: &'a [CompiledStep],
    /// What each did; see [`prepare`].
    pub status: &'a RemediationStatus,
    /// What the run is asked for.
    pub intent: Intent,
}

/// One thing to do now. Steps are meant by their index.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Record that the step begins, durably, before anything else is done for it.
    Begin {
        /// The step.
        step: usize,
    },
    /// Do the step, or look how it stands, with its parameters filled in.
    Perform {
        /// The step.
        step: usize,
        /// Its parameters.
        kind: Box<StepKind>,
    },
    /// Don't do the step.
    Skip {
        /// The step.
        step: usize,
        /// The category.
        reason: Reason,
        /// Why.
        message: String,
    },
    /// The step has failed without a try.
    Fail {
        /// The step.
        step: usize,
        /// The category.
        reason: Reason,
        /// Why.
        message: String,
    },
    /// Put back what a failed step had changed.
    Revert {
        /// The step.
        step: usize,
    },
    /// Undo the step.
    Undo {
        /// The step.
        step: usize,
    },
    /// The run has come to an end, or changes its direction.
    Enter {
        /// Its new phase.
        phase: Phase,
        /// The category.
        reason: Reason,
        /// What happened, in a sentence.
        message: String,
    },
}

/// What to do now, and when to ask again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// To be done now; those for different steps side by side.
    pub decisions: Vec<Decision>,
    /// When to ask again.
    pub wake_at: Option<DateTime<Utc>>,
}

/// The status of a run with a record for each step, in order. Of a run whose steps don't compile any more, and so are none, the records
/// are kept as they are: their receipts are all that tells what was there before.
#[must_use]
pub fn prepare(steps: &[CompiledStep], status: Option<&RemediationStatus>, now: DateTime<Utc>) -> RemediationStatus {
    let mut status = status.cloned().unwrap_or_default();
    status.started_at.get_or_insert(now);
    if steps.is_empty() {
        return status;
    }
    let known = std::mem::take(&mut status.steps);
    status.steps = steps
        .iter()
        .map(|step| {
            known
                .iter()
                .find(|record| record.name == step.step.name)
                .cloned()
                .unwrap_or_else(|| StepRecord { name: step.step.name.clone(), ..StepRecord::default() })
        })
        .collect();
    status
}

/// Decides. `scope` is what expressions see: [`World::step_scope`](crate::World::step_scope) for this very status.
#[must_use]
pub fn plan(run: Run<'_>, scope: &Scope, now: DateTime<Utc>) -> Plan {
    if run.steps.is_empty() {
        return unreadable(run);
    }
    // Once it undoes, it goes on undoing: the failed step's own record may change on the way.
    if run.intent == Intent::Undo || run.status.phase == Phase::Undoing || any(run, StepState::Failed, OnFailure::Undo)
    {
        undo(run, now)
    } else {
        go_on(run, scope, now)
    }
}

/// A run that has no steps is one whose steps this version can't compile: nobody can tell what it did, so it neither succeeds nor is it
/// undone.
fn unreadable(run: Run<'_>) -> Plan {
    let mut plan = Plan::default();
    let over = run.status.phase == Phase::Failed || (run.status.phase.is_final() && run.intent == Intent::Run);
    if !over {
        plan.decisions.push(Decision::Enter {
            phase: Phase::Failed,
            reason: Reason::ExpressionInvalid,
            message:
                "the steps of this run can't be read by this version of Quell: what it did is in its records, see there"
                    .into(),
        });
    }
    plan
}

fn any(run: Run<'_>, state: StepState, on_failure: OnFailure) -> bool {
    run.steps
        .iter()
        .zip(&run.status.steps)
        .any(|(step, record)| record.state == state && step.step.on_failure == on_failure)
}

fn go_on(run: Run<'_>, scope: &Scope, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    if run.status.phase.is_final() {
        return plan;
    }
    // A step that is being put back has failed already. One that asks for an undo starts it once it is put back.
    let aborted = any(run, StepState::Failed, OnFailure::Abort)
        || any(run, StepState::Reverting, OnFailure::Abort)
        || any(run, StepState::Reverting, OnFailure::Undo);
    for (index, (step, record)) in run.steps.iter().zip(&run.status.steps).enumerate() {
        match record.state {
            StepState::Pending if aborted => plan.decisions.push(Decision::Skip {
                step: index,
                reason: Reason::Aborted,
                message: "an earlier step failed".into(),
            }),
            StepState::Pending => plan.decisions.extend(start(run, index, scope)),
            StepState::Running | StepState::Retrying => under_way(&mut plan, step, record, index, scope, now),
            StepState::Held if aborted && record.receipt.is_none() => plan.decisions.push(Decision::Skip {
                step: index,
                reason: Reason::Aborted,
                message: "an earlier step failed while a guardrail held this one".into(),
            }),
            // Whether it may go on now is asked each time that anything wakes the run.
            StepState::Held => {
                plan.decisions.push(if traits(&step.step.kind).intent_first {
                    Decision::Begin { step: index }
                } else {
                    perform(step, index, scope)
                });
                plan.wake_at = earliest(plan.wake_at, record.next_at.filter(|next| *next > now));
            }
            StepState::Reverting => when_due(&mut plan, record, now, Decision::Revert { step: index }),
            _ => {}
        }
    }
    if run.status.steps.iter().all(|record| record.state.is_final()) {
        plan.decisions.push(finish(run));
    }
    plan
}

/// A step whose turn may have come.
fn start(run: Run<'_>, index: usize, scope: &Scope) -> Option<Decision> {
    let step = &run.steps[index];
    for &before in &step.after {
        let (other, record) = (&run.steps[before], &run.status.steps[before]);
        let passed = match record.state {
            StepState::Succeeded => true,
            StepState::Failed => other.step.on_failure == OnFailure::Continue,
            StepState::Skipped => record.reason == Reason::ConditionNotMet.to_string(),
            _ => false,
        };
        if !record.state.is_final() {
            return None;
        }
        if !passed {
            return Some(Decision::Skip {
                step: index,
                reason: Reason::DependencyNotMet,
                message: format!("{} did not end well", other.step.name),
            });
        }
    }
    match step.when.as_ref().map(|when| (when, when.is_true(scope))) {
        Some((when, Ok(false))) => Some(Decision::Skip {
            step: index,
            reason: Reason::ConditionNotMet,
            message: format!("its condition is false: {}", when.source()),
        }),
        Some((_, Err(error))) => {
            Some(Decision::Fail { step: index, reason: Reason::ExpressionFailed, message: error.to_string() })
        }
        None | Some((_, Ok(true))) if traits(&step.step.kind).intent_first => Some(Decision::Begin { step: index }),
        None | Some((_, Ok(true))) => Some(perform(step, index, scope)),
    }
}

fn perform(step: &CompiledStep, index: usize, scope: &Scope) -> Decision {
    match parameters::render(&step.step.kind, scope, &step.names) {
        Ok(kind) => Decision::Perform { step: index, kind: Box::new(kind) },
        Err((field, error)) => {
            Decision::Fail { step: index, reason: Reason::ExpressionFailed, message: format!("{field}: {error}") }
        }
    }
}

/// A step that has begun: due, or waited for. When its time is over it is looked at once more, for it may have ended well while nobody
/// looked; [`progress::settle`] then fails it where it hasn't.
fn under_way(
    plan: &mut Plan,
    step: &CompiledStep,
    record: &StepRecord,
    index: usize,
    scope: &Scope,
    now: DateTime<Utc>,
) {
    let deadline = progress::deadline(record, &step.step);
    if deadline.is_some_and(|deadline| deadline <= now) {
        plan.decisions.push(perform(step, index, scope));
        return;
    }
    plan.wake_at = earliest(plan.wake_at, deadline);
    when_due(plan, record, now, perform(step, index, scope));
}

fn when_due(plan: &mut Plan, record: &StepRecord, now: DateTime<Utc>, decision: Decision) {
    match record.next_at {
        Some(next) if next > now => plan.wake_at = earliest(plan.wake_at, Some(next)),
        _ => plan.decisions.push(decision),
    }
}

fn finish(run: Run<'_>) -> Decision {
    let failed: Vec<&str> = names(run, |record| record.state == StepState::Failed);
    let skipped = names(run, |record| record.state == StepState::Skipped);
    let skipped = if skipped.is_empty() { String::new() } else { format!("; skipped: {}", skipped.join(", ")) };
    if failed.is_empty() {
        let done = names(run, |record| record.state == StepState::Succeeded);
        let done = if done.is_empty() { "nothing to do".into() } else { format!("done: {}", done.join(", ")) };
        return Decision::Enter {
            phase: Phase::Succeeded,
            reason: Reason::Succeeded,
            message: format!("{done}{skipped}"),
        };
    }
    Decision::Enter { phase: Phase::Failed, reason: Reason::StepFailed, message: format!("{}{skipped}", failures(run)) }
}

fn failures(run: Run<'_>) -> String {
    let told: Vec<String> = run
        .status
        .steps
        .iter()
        .filter(|record| record.state == StepState::Failed)
        .map(|record| format!("{} failed ({}): {}", record.name, record.reason, record.message))
        .collect();
    told.join("; ")
}

/// In reverse order, one at a time: each step finds the cluster as it left it.
fn undo(run: Run<'_>, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    let over = match run.intent {
        Intent::Run => run.status.phase.is_final(),
        Intent::Undo => run.status.phase == Phase::Undone || (run.status.phase == Phase::Failed && nothing_left(run)),
    };
    if over {
        return plan;
    }
    let failure = failure_to_undo(run);
    if run.status.phase != Phase::Undoing {
        let (reason, message) = match failure {
            Some(failure) => (Reason::StepFailed, failure),
            None => (Reason::InProgress, "undo was asked for".into()),
        };
        plan.decisions.push(Decision::Enter { phase: Phase::Undoing, reason, message });
        return plan;
    }
    for (index, (step, record)) in run.steps.iter().zip(&run.status.steps).enumerate().rev() {
        match record.state {
            StepState::Pending => plan.decisions.push(Decision::Skip {
                step: index,
                reason: Reason::Aborted,
                message: "the run is undone".into(),
            }),
            StepState::Undone | StepState::NotUndone | StepState::Skipped => {}
            _ if record.receipt.is_some() && traits(&step.step.kind).can_be_undone => {
                when_due(&mut plan, record, now, Decision::Undo { step: index });
                return plan;
            }
            StepState::Succeeded | StepState::Failed => {}
            StepState::Running | StepState::Retrying | StepState::Held | StepState::Reverting | StepState::Undoing => {
                plan.decisions.push(Decision::Skip {
                    step: index,
                    reason: Reason::Aborted,
                    message:
                        "the run is undone; the step was stopped before it had changed anything that could be put back"
                            .into(),
                });
            }
        }
    }
    if plan.decisions.is_empty() {
        plan.decisions.push(finish_undo(run, failure));
    }
    plan
}

/// The failure on account of which the run is undone, where no person has asked for it. While the run is undone the failed step's record
/// tells of its undo; the condition keeps the failure.
fn failure_to_undo(run: Run<'_>) -> Option<String> {
    if run.intent == Intent::Undo {
        return None;
    }
    if run.status.phase != Phase::Undoing {
        return Some(failures(run));
    }
    conditions::find(&run.status.conditions, ConditionType::Complete)
        .filter(|complete| complete.reason == Reason::StepFailed.to_string())
        .map(|complete| complete.message.clone())
}

/// Whether an undo has been through all steps already, and could not undo some.
fn nothing_left(run: Run<'_>) -> bool {
    let could_be = |(step, record): (&CompiledStep, &StepRecord)| {
        record.receipt.is_some()
            && traits(&step.step.kind).can_be_undone
            && !matches!(record.state, StepState::Undone | StepState::NotUndone)
    };
    run.status.steps.iter().any(|record| record.state == StepState::NotUndone)
        && !run.steps.iter().zip(&run.status.steps).any(could_be)
}

fn finish_undo(run: Run<'_>, failure: Option<String>) -> Decision {
    let undone = names(run, |record| record.state == StepState::Undone);
    let left = names(run, |record| record.state == StepState::NotUndone);
    let told = match (undone.is_empty(), left.is_empty()) {
        (true, true) => "there was nothing to undo".to_owned(),
        (false, true) => format!("undone: {}", undone.join(", ")),
        (true, false) => format!("not undone: {}", left.join(", ")),
        (false, false) => format!("undone: {}; not undone: {}", undone.join(", "), left.join(", ")),
    };
    let (phase, reason, message) = match failure {
        Some(failure) => (Phase::Failed, Reason::StepFailed, format!("{failure}; {told}")),
        None if left.is_empty() => (Phase::Undone, Reason::Undone, told),
        None => (Phase::Failed, Reason::UndoIncomplete, told),
    };
    Decision::Enter { phase, reason, message }
}

fn names(run: Run<'_>, which: impl Fn(&StepRecord) -> bool) -> Vec<&str> {
    run.status.steps.iter().filter(|record| which(record)).map(|record| record.name.as_str()).collect()
}

fn earliest(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
