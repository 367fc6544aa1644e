//! Through the steps, one after the other or side by side.

use chrono::{DateTime, Utc};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Intent, OnFailure, Phase, StepRecord, StepState};

use super::{Decision, Plan, Run, earliest, end, failures, undo, when_due};
use crate::cel::Scope;
use crate::compile::CompiledStep;
use crate::kind::traits;
use crate::{parameters, progress};

/// Why no further step begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// A step has failed.
    Aborted,
    /// Somebody has cancelled the run.
    Cancelled,
    /// The time of the run is over.
    TimedOut,
    /// The run is paused.
    Paused,
}

pub(super) fn plan(run: Run<'_>, scope: &Scope, now: DateTime<Utc>) -> Plan {
    if run.status.phase == Phase::Paused {
        return match run.asked.intent {
            Intent::Pause => Plan::default(),
            _ => Plan {
                decisions: vec![Decision::Enter {
                    phase: Phase::Running,
                    reason: Reason::InProgress,
                    message: "goes on after a pause".into(),
                }],
                wake_at: None,
            },
        };
    }
    let stop = stop(run, now);
    let paused = run.asked.intent == Intent::Pause;
    let mut plan = undo::single(run, now);
    let undoing: Vec<usize> = plan.decisions.iter().filter_map(super::undo::step_of).collect();
    for (index, step, record) in run.main() {
        if undoing.contains(&index) {
            continue;
        }
        match record.state {
            StepState::Pending | StepState::Waiting => match stop {
                None => plan.decisions.extend(start(run, index, scope)),
                Some(Stop::Paused) => {}
                Some(stop) => plan.decisions.push(not_begun(stop, index)),
            },
            StepState::Running | StepState::Retrying => match stop {
                Some(Stop::Cancelled) => plan.decisions.push(Decision::LetGo {
                    step: index,
                    message: "the run was cancelled while this was under way; what it had changed stays".into(),
                }),
                Some(Stop::TimedOut) => plan.decisions.push(Decision::Fail {
                    step: index,
                    reason: Reason::TimedOut,
                    message: too_late(record),
                }),
                // What waits for a further try has not begun it.
                _ if paused && record.state == StepState::Retrying => {}
                _ => under_way(&mut plan, step, record, index, scope, now),
            },
            StepState::Held => match stop {
                Some(Stop::Cancelled) => plan.decisions.push(Decision::LetGo {
                    step: index,
                    message: "the run was cancelled while a guardrail held this".into(),
                }),
                Some(Stop::TimedOut) => plan.decisions.push(Decision::Fail {
                    step: index,
                    reason: Reason::TimedOut,
                    message: too_late(record),
                }),
                Some(Stop::Aborted) if record.receipt.is_none() => plan.decisions.push(Decision::Skip {
                    step: index,
                    reason: Reason::Aborted,
                    message: "an earlier step failed while a guardrail held this one".into(),
                }),
                _ if paused => {}
                _ => held(&mut plan, run, index, scope, now),
            },
            StepState::Reverting => when_due(&mut plan, record, now, Decision::Revert { step: index }),
            _ => {}
        }
    }
    if run.main().all(|(_, _, record)| record.state.is_final()) {
        plan.decisions.push(finish(run));
    } else if paused && plan.decisions.is_empty() && !is_moving(run) {
        let left = run.names(|record| !record.state.is_final()).join(", ");
        plan.decisions.push(Decision::Enter {
            phase: Phase::Paused,
            reason: Reason::Paused,
            message: format!("paused before {left}; kubectl quell resume goes on"),
        });
        plan.wake_at = None;
    } else if !matches!(stop, Some(Stop::TimedOut | Stop::Cancelled)) {
        plan.wake_at = earliest(plan.wake_at, run.deadline());
    }
    plan
}

fn stop(run: Run<'_>, now: DateTime<Utc>) -> Option<Stop> {
    // A step that is being put back has failed already. One that asks for an undo starts it once it is put back.
    let aborted = run.any(StepState::Failed, OnFailure::Abort)
        || run.any(StepState::Reverting, OnFailure::Abort)
        || run.any(StepState::Reverting, OnFailure::Undo);
    if run.asked.intent == Intent::Cancel {
        Some(Stop::Cancelled)
    } else if run.deadline().is_some_and(|deadline| deadline <= now) {
        Some(Stop::TimedOut)
    } else if aborted {
        Some(Stop::Aborted)
    } else if run.asked.intent == Intent::Pause {
        Some(Stop::Paused)
    } else {
        None
    }
}

fn not_begun(why: Stop, step: usize) -> Decision {
    let (reason, message) = match why {
        Stop::Aborted => (Reason::Aborted, "an earlier step failed"),
        Stop::Cancelled => (Reason::Cancelled, "the run was cancelled before its turn"),
        Stop::TimedOut => (Reason::TimedOut, "the time of the whole run was over before its turn"),
        Stop::Paused => (Reason::Paused, "the run is paused"),
    };
    Decision::Skip { step, reason, message: message.into() }
}

fn too_late(record: &StepRecord) -> String {
    let last = if record.message.is_empty() { String::new() } else { format!("; last: {}", record.message) };
    format!("the time of the whole run was over{last}")
}

/// Whether something is under way that a pause sees through.
fn is_moving(run: Run<'_>) -> bool {
    run.main()
        .any(|(_, _, record)| matches!(record.state, StepState::Running | StepState::Reverting | StepState::Undoing))
}

/// A step whose turn may have come.
pub(super) fn start(run: Run<'_>, index: usize, scope: &Scope) -> Option<Decision> {
    let step = &run.steps[index];
    for &before in &step.after {
        let (other, record) = (&run.steps[before], &run.status.steps[before]);
        let passed = match record.state {
            // What is done finally is done whatever became of the one before.
            _ if step.finally => true,
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
pub(super) fn under_way(
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

/// A step that a guardrail holds. Whether it may go on now is asked each time that anything wakes the run.
pub(super) fn held(plan: &mut Plan, run: Run<'_>, index: usize, scope: &Scope, now: DateTime<Utc>) {
    let (step, record) = (&run.steps[index], &run.status.steps[index]);
    plan.decisions.push(if traits(&step.step.kind).intent_first {
        Decision::Begin { step: index }
    } else {
        perform(step, index, scope)
    });
    plan.wake_at = earliest(plan.wake_at, record.next_at.filter(|next| *next > now));
}

fn finish(run: Run<'_>) -> Decision {
    let list = |word: &str, which: &dyn Fn(&StepRecord) -> bool| {
        let names = run.names(which);
        (!names.is_empty()).then(|| format!("{word}: {}", names.join(", ")))
    };
    let is = |record: &StepRecord, reason: Reason| record.reason == reason.to_string();
    let done = list("done", &|record| record.state == StepState::Succeeded);
    let skipped = list("skipped", &|record| record.state == StepState::Skipped);
    let undone = list("undone", &|record| record.state == StepState::Undone);
    let left = list("not undone", &|record| record.state == StepState::NotUndone);
    let let_go = list("let go of", &|record| record.state == StepState::Cancelled);
    let cancelled = let_go.is_some()
        || run.main().any(|(_, _, record)| record.state == StepState::Skipped && is(record, Reason::Cancelled));
    let failed = failures(run.main().map(|(_, _, record)| record));
    let failed = (!failed.is_empty()).then_some(failed);
    let too_late = run.main().any(|(_, _, record)| record.state == StepState::Skipped && is(record, Reason::TimedOut));
    let join = |parts: Vec<Option<String>>| parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if cancelled {
        return end(run, Phase::Cancelled, Reason::Cancelled, join(vec![failed, done, let_go, skipped, undone, left]));
    }
    if failed.is_some() {
        return end(run, Phase::Failed, Reason::StepFailed, join(vec![failed, skipped, undone, left]));
    }
    if too_late {
        let told = Some("the time of the whole run was over".to_owned());
        return end(run, Phase::Failed, Reason::TimedOut, join(vec![told, done, skipped, undone, left]));
    }
    let done = done.or_else(|| undone.is_none().then(|| "nothing to do".to_owned()));
    end(run, Phase::Succeeded, Reason::Succeeded, join(vec![done, skipped, undone, left]))
}
