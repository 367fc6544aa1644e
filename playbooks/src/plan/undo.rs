//! The way back: of a whole run, or of single steps.

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::{self, ConditionType, Reason};
use quell_crds::v1alpha1::{Intent, OnFailure, Phase, StepRecord, StepState};

use super::{Decision, Plan, Run, earliest, end, failures, when_due};
use crate::compile::CompiledStep;
use crate::kind::traits;

/// Why a run is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A person has asked for it.
    Person,
    /// A step has failed that says so.
    Failure,
    /// The time after which it is undone by itself is over.
    Due,
    /// The Finding is resolved.
    Resolved,
    /// It was begun before.
    Begun,
}

/// Why the run is to be undone now, where it is.
pub(super) fn cause(run: Run<'_>, now: DateTime<Utc>) -> Option<Cause> {
    let status = run.status;
    let stands = match status.phase {
        Phase::Finishing => status.outcome.unwrap_or(Phase::Failed),
        phase => phase,
    };
    let undone = stands == Phase::Undone || (stands == Phase::Failed && nothing_left(run));
    if run.asked.intent == Intent::Undo {
        return (!undone).then_some(Cause::Person);
    }
    match status.phase {
        Phase::Undoing => Some(Cause::Begun),
        Phase::Finishing => None,
        phase if !phase.is_final() => run.any(StepState::Failed, OnFailure::Undo).then_some(Cause::Failure),
        _ if undone || !is_left(run) => None,
        _ if due_at(run).is_some_and(|due| due <= now) => Some(Cause::Due),
        _ => (run.asked.resolved && run.settings.undo.is_some_and(|undo| undo.on_resolved)).then_some(Cause::Resolved),
    }
}

/// When the run is undone by itself, where it is.
pub(super) fn due(run: Run<'_>) -> Option<DateTime<Utc>> {
    let over = run.status.phase == Phase::Undone || !is_left(run);
    due_at(run).filter(|_| !over)
}

fn due_at(run: Run<'_>) -> Option<DateTime<Utc>> {
    let after = TimeDelta::from_std(run.settings.undo?.after?.get()).ok()?;
    run.status.finished_at?.checked_add_signed(after)
}

/// In reverse order, one at a time: each step finds the cluster as it left it.
pub(super) fn whole(run: Run<'_>, cause: Cause, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    let failure = failure_to_undo(run);
    if run.status.phase != Phase::Undoing {
        let (reason, message) = match (cause, failure) {
            (Cause::Due, _) => (Reason::UndoDue, "the playbook has it undone after a time, and that is over".into()),
            (Cause::Resolved, _) => {
                (Reason::FindingResolved, "the playbook has it undone once the Finding is resolved, and it is".into())
            }
            (Cause::Failure, Some(failure)) => (Reason::StepFailed, failure),
            _ => (Reason::InProgress, "undo was asked for".into()),
        };
        plan.decisions.push(Decision::Enter { phase: Phase::Undoing, reason, message });
        return plan;
    }
    // All are looked for before the first is undone: what is found last may have been done last.
    if look(&mut plan, run.main().rev(), now) {
        return plan;
    }
    for (index, step, record) in run.main().rev() {
        match record.state {
            StepState::Undone | StepState::NotUndone | StepState::Skipped => {}
            // Also one that waits for its turn at its object, for a further try.
            _ if changed_something(step, record) => {
                when_due(&mut plan, record, now, Decision::Undo { step: index });
                return plan;
            }
            StepState::Pending | StepState::AwaitingApproval | StepState::Waiting => plan
                .decisions
                .push(Decision::Skip { step: index, reason: Reason::Aborted, message: "the run is undone".into() }),
            StepState::Succeeded | StepState::Failed | StepState::Cancelled => {}
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
        plan.decisions.push(finish(run, failure));
    }
    plan
}

/// Steps that are to be undone by themselves, what was done last first, one at a time. One that is under way is seen through before.
pub(super) fn single(run: Run<'_>, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    let goes_on = |record: &StepRecord| {
        matches!(record.state, StepState::Running | StepState::Retrying) && !run.status.phase.is_final()
    };
    let named = run.main().rev().filter(|(_, _, record)| run.asked.undo_steps.contains(&record.name));
    if look(&mut plan, named.filter(|(_, _, record)| !goes_on(record)), now) {
        return plan;
    }
    for (index, step, record) in run.main().rev() {
        if !run.asked.undo_steps.contains(&record.name) {
            continue;
        }
        match record.state {
            StepState::Undoing if record.receipt.is_none() => plan.decisions.push(Decision::Skip {
                step: index,
                reason: Reason::Aborted,
                message: "its undo was asked for, and it had changed nothing that could be put back".into(),
            }),
            StepState::Pending | StepState::AwaitingApproval | StepState::Waiting | StepState::Held
                if !run.status.phase.is_final() && record.receipt.is_none() =>
            {
                plan.decisions.push(Decision::Skip {
                    step: index,
                    reason: Reason::Aborted,
                    message: "its undo was asked for before it began".into(),
                });
            }
            StepState::Succeeded | StepState::Failed | StepState::Cancelled | StepState::Undoing
                if changed_something(step, record) =>
            {
                let mut one = Plan::default();
                when_due(&mut one, record, now, Decision::Undo { step: index });
                plan.wake_at = earliest(plan.wake_at, one.wake_at);
                plan.decisions.extend(one.decisions);
                return plan;
            }
            _ => {}
        }
    }
    plan
}

/// The step that a decision of [`single`] is about.
pub(super) fn step_of(decision: &Decision) -> Option<usize> {
    match decision {
        Decision::Recover { step } | Decision::Undo { step } | Decision::Skip { step, .. } => Some(*step),
        _ => None,
    }
}

/// Plans to look for what may have been changed and not been recorded. Whether anything is still to be looked for, now or later.
fn look<'a>(
    plan: &mut Plan,
    records: impl Iterator<Item = (usize, &'a CompiledStep, &'a StepRecord)>,
    now: DateTime<Utc>,
) -> bool {
    let mut any = false;
    for (step, _, record) in records.filter(|(_, step, record)| may_have_changed(step, record)) {
        any = true;
        if record.state == StepState::Undoing {
            when_due(plan, record, now, Decision::Recover { step });
        } else {
            // What the step itself waits for is no reason to wait.
            plan.decisions.push(Decision::Recover { step });
        }
    }
    any
}

/// Whether the step may have had an effect of which the record tells nothing: the process ended, or no answer came, between the two. A
/// step that was done before its record was first written is still `Pending` there, and may even have been skipped since.
fn may_have_changed(step: &CompiledStep, record: &StepRecord) -> bool {
    let told = matches!(record.state, StepState::Succeeded | StepState::Undone | StepState::NotUndone);
    record.receipt.is_none() && !record.nothing_found && !told && traits(&step.step.kind).carries_mark
}

/// Whether the step's last word was that no answer came: reason enough to look even where nobody asks.
fn ended_unanswered(step: &CompiledStep, record: &StepRecord) -> bool {
    let unanswered =
        [Reason::ApiUnavailable, Reason::TimedOut].iter().any(|reason| reason.to_string() == record.reason);
    let ended = record.state == StepState::Cancelled || (record.state == StepState::Failed && unanswered);
    ended && may_have_changed(step, record)
}

fn changed_something(step: &CompiledStep, record: &StepRecord) -> bool {
    record.receipt.is_some() && traits(&step.step.kind).can_be_undone
}

/// The failure on account of which the run is undone, where no person has asked for it. While the run is undone the failed step's record
/// tells of its undo; the condition keeps the failure.
fn failure_to_undo(run: Run<'_>) -> Option<String> {
    if run.asked.intent == Intent::Undo {
        return None;
    }
    if run.status.phase != Phase::Undoing {
        return Some(failures(run.main().map(|(_, _, record)| record)));
    }
    conditions::find(&run.status.conditions, ConditionType::Complete)
        .filter(|complete| complete.reason == Reason::StepFailed.to_string())
        .map(|complete| complete.message.clone())
}

/// Whether there is something that an undo would look at.
fn is_left(run: Run<'_>) -> bool {
    run.main().any(|(_, step, record)| {
        let undone = matches!(record.state, StepState::Undone | StepState::NotUndone);
        (changed_something(step, record) && !undone) || ended_unanswered(step, record)
    })
}

/// Whether an undo has been through all steps already, and could not undo some.
fn nothing_left(run: Run<'_>) -> bool {
    run.main().any(|(_, _, record)| record.state == StepState::NotUndone) && !is_left(run)
}

fn finish(run: Run<'_>, failure: Option<String>) -> Decision {
    let undone = run.names(|record| record.state == StepState::Undone);
    let left = run.names(|record| record.state == StepState::NotUndone);
    let told = match (undone.is_empty(), left.is_empty()) {
        (true, true) => "there was nothing to undo".to_owned(),
        (false, true) => format!("undone: {}", undone.join(", ")),
        (true, false) => format!("not undone: {}", left.join(", ")),
        (false, false) => format!("undone: {}; not undone: {}", undone.join(", "), left.join(", ")),
    };
    match failure {
        Some(failure) => end(run, Phase::Failed, Reason::StepFailed, format!("{failure}; {told}")),
        None if left.is_empty() => end(run, Phase::Undone, Reason::Undone, told),
        None => end(run, Phase::Failed, Reason::UndoIncomplete, told),
    }
}
