//! Through the steps, one after the other or side by side.

use chrono::{DateTime, Utc};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{GateRecord, Intent, OnFailure, Phase, StepRecord, StepState};

use super::gate::{self, Standing};
use super::{Decision, Plan, Run, earliest, end, failures, undo, when_due};
use crate::cel::{Names, Scope};
use crate::compile::CompiledStep;
use crate::facts::STEP_VARIABLES;
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
    /// The run as a whole waits for its approval.
    Unapproved,
    /// The run as a whole was denied.
    Denied,
    /// The run as a whole was not approved in time.
    Expired,
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
    let (gate, ask) = of_run(run, scope, now);
    let stop = stop(run, now).or(gate);
    let paused = run.asked.intent == Intent::Pause;
    let mut plan = undo::single(run, now);
    if stop == Some(Stop::Unapproved) {
        plan.wake_at = earliest(plan.wake_at, run.status.approval.as_ref().and_then(|gate| gate.expires_at));
    }
    let undoing: Vec<usize> = plan.decisions.iter().filter_map(super::undo::step_of).collect();
    // A step whose undo is asked for never begins, also while that of another goes first.
    let given_up = |record: &StepRecord| {
        let begun = matches!(record.state, StepState::Running | StepState::Retrying | StepState::Reverting);
        !begun && record.receipt.is_none() && run.asked.undo_steps.contains(&record.name)
    };
    for (index, _, record) in run.main() {
        if undoing.contains(&index) || given_up(record) {
            continue;
        }
        match record.state {
            StepState::Pending | StepState::AwaitingApproval | StepState::Waiting => match stop {
                None => start(&mut plan, run, index, scope, now),
                Some(Stop::Paused | Stop::Unapproved) => {}
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
                Some(Stop::Unapproved) if record.state == StepState::Retrying => {}
                _ if paused && record.state == StepState::Retrying => {}
                _ => under_way(&mut plan, run, index, scope, now),
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
                Some(Stop::Unapproved) => {}
                _ if paused => {}
                _ => held(&mut plan, run, index, scope, now),
            },
            StepState::Reverting => when_due(&mut plan, record, now, Decision::Revert { step: index }),
            _ => {}
        }
    }
    plan.decisions.extend(ask.filter(|_| run.asked.intent != Intent::Cancel));
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
        Stop::Unapproved => (Reason::ApprovalAsked, "the run is not approved"),
        Stop::Denied => (Reason::ApprovalDenied, "the run was denied"),
        Stop::Expired => (Reason::ApprovalExpired, "the run was not approved in time"),
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

/// Whether the run as a whole may begin, and what is to be noted about that.
fn of_run(run: Run<'_>, scope: &Scope, now: DateTime<Utc>) -> (Option<Stop>, Option<Decision>) {
    let Some(gate) = &run.settings.approval else { return (None, None) };
    let steps: Vec<_> = run.steps.iter().map(|step| &step.step).collect();
    let text = serde_json::to_string(&steps).unwrap_or_default();
    let asked = gate::Asked { step: None, digest: names::fingerprint([text]), parameters: serde_json::Map::default() };
    let known = run.status.approval.as_ref();
    let variables = Names::of(STEP_VARIABLES);
    let note = |record: GateRecord, message: String| {
        (known != Some(&record)).then(|| Decision::Ask { step: None, record: Box::new(record), message })
    };
    match gate::judge(gate, asked, known, run.asked.votes, (scope, &variables), now) {
        Standing::Open(record) => (None, note(record, "approved".into())),
        Standing::Waits(record) => {
            let told = gate::told(&record);
            (Some(Stop::Unapproved), note(record, told))
        }
        Standing::Closed(Reason::ApprovalDenied, _) => (Some(Stop::Denied), None),
        Standing::Closed(..) => (Some(Stop::Expired), None),
    }
}

/// A step whose turn may have come.
pub(super) fn start(plan: &mut Plan, run: Run<'_>, index: usize, scope: &Scope, now: DateTime<Utc>) {
    let Some(decision) = turn(run, index, scope) else { return };
    let gated = matches!(decision, Decision::Begin { .. } | Decision::Perform { .. });
    if !gated || is_open(plan, run, index, scope, now) {
        plan.decisions.push(decision);
    }
}

/// Whether the step's gate lets it be done; else the plan has what is to be done in place of it. An answer that is new is noted before
/// anything comes of it.
fn is_open(plan: &mut Plan, run: Run<'_>, index: usize, scope: &Scope, now: DateTime<Utc>) -> bool {
    let (step, record) = (&run.steps[index], &run.status.steps[index]);
    let Some(gate) = &step.step.approval else { return true };
    let Decision::Perform { kind, .. } = perform(step, index, scope) else { return true };
    let name = step.step.name.as_str();
    let parameters = match serde_json::to_value(&kind) {
        Ok(serde_json::Value::Object(parameters)) => parameters,
        _ => serde_json::Map::default(),
    };
    let asked = gate::Asked { step: Some(name), digest: gate::digest(name, &kind), parameters };
    let known = record.approval.as_ref();
    let note = |record: GateRecord, message: String| {
        (known != Some(&record)).then(|| Decision::Ask { step: Some(index), record: Box::new(record), message })
    };
    let noted = match gate::judge(gate, asked, known, run.asked.votes, (scope, &step.names), now) {
        Standing::Open(record) => match note(record, "approved".into()) {
            None => return true,
            noted => noted,
        },
        Standing::Waits(record) => {
            plan.wake_at = earliest(plan.wake_at, record.expires_at);
            let told = gate::told(&record);
            note(record, told)
        }
        Standing::Closed(reason, message) => Some(Decision::Fail { step: index, reason, message }),
    };
    plan.decisions.extend(noted);
    false
}

fn turn(run: Run<'_>, index: usize, scope: &Scope) -> Option<Decision> {
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
pub(super) fn under_way(plan: &mut Plan, run: Run<'_>, index: usize, scope: &Scope, now: DateTime<Utc>) {
    let (step, record) = (&run.steps[index], &run.status.steps[index]);
    // A further try is approved as the first was; what has changed something already is seen through.
    let anew = record.state == StepState::Retrying && record.receipt.is_none();
    if anew && !is_open(plan, run, index, scope, now) {
        return;
    }
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
    if record.receipt.is_none() && !is_open(plan, run, index, scope, now) {
        return;
    }
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
    let refused = [Reason::ApprovalDenied, Reason::ApprovalExpired]
        .into_iter()
        .find(|reason| run.main().any(|(_, _, record)| record.state == StepState::Skipped && is(record, *reason)));
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
    if let Some(reason) = refused {
        let denied = reason == Reason::ApprovalDenied;
        let told = if denied { "the run was denied" } else { "the run was not approved in time" };
        return end(run, Phase::Failed, reason, join(vec![Some(told.to_owned()), done, skipped, undone, left]));
    }
    if too_late {
        let told = Some("the time of the whole run was over".to_owned());
        return end(run, Phase::Failed, Reason::TimedOut, join(vec![told, done, skipped, undone, left]));
    }
    let done = done.or_else(|| undone.is_none().then(|| "nothing to do".to_owned()));
    end(run, Phase::Succeeded, Reason::Succeeded, join(vec![done, skipped, undone, left]))
}
