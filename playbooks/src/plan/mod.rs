//! What a run does next. Total and deterministic: the same run, facts and time give the same decisions, and every run comes to an end.
//!
//! A run goes through its steps ([`forward`]), unless it is undone ([`undo`]); then through those of `finally` ([`finally`]). A step goes on
//! by itself, and waits for nothing but the steps that it comes after, and for its turn at the object that it changes.

mod finally;
mod forward;
pub mod gate;
mod undo;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{
    GateRecord, Intent, OnFailure, Phase, RemediationStatus, RunSettings, StepKind, StepRecord, StepState,
};

use crate::cel::Scope;
use crate::compile::CompiledStep;

/// A run, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The steps, those of `finally` last.
    pub steps: &'a [CompiledStep],
    /// What each did; see [`prepare`].
    pub status: &'a RemediationStatus,
    /// What the playbook says of its runs.
    pub settings: &'a RunSettings,
    /// What the run is asked for.
    pub asked: Asked<'a>,
}

/// What people, and the Finding, ask of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// To run, pause, be cancelled or undone.
    pub intent: Intent,
    /// Steps to undo by themselves.
    pub undo_steps: &'a [String],
    /// The Finding is resolved.
    pub resolved: bool,
    /// Who has approved or denied what.
    pub votes: gate::Votes<'a>,
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
    /// Ask for an approval, or note who has answered; with no step, for the run as a whole.
    Ask {
        /// The step.
        step: Option<usize>,
        /// What is asked, and who has answered.
        record: Box<GateRecord>,
        /// How it stands, for people.
        message: String,
    },
    /// Let go of the step; what it has changed stays.
    LetGo {
        /// The step.
        step: usize,
        /// Why.
        message: String,
    },
    /// Put back what a failed step had changed.
    Revert {
        /// The step.
        step: usize,
    },
    /// Look in the cluster for an effect of the step that was made and not recorded, so that it is undone as well. Changes nothing there.
    Recover {
        /// The step.
        step: usize,
    },
    /// Undo the step.
    Undo {
        /// The step.
        step: usize,
    },
    /// The steps are over; those of `finally` come next.
    Finish {
        /// What the run's phase will be.
        outcome: Phase,
        /// The category.
        reason: Reason,
        /// What happened, in a sentence.
        message: String,
    },
    /// The steps of `finally` are over: the run ends as was told when they began.
    Close {
        /// Its phase.
        phase: Phase,
        /// What is to be added to that.
        more: String,
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
    if let Some(cause) = undo::cause(run, now) {
        return undo::whole(run, cause, now);
    }
    match run.status.phase {
        Phase::Undoing => undo::whole(run, undo::Cause::Begun, now),
        Phase::Finishing => finally::plan(run, scope, now),
        phase if phase.is_final() => {
            let mut plan = undo::single(run, now);
            plan.wake_at = earliest(plan.wake_at, undo::due(run));
            plan
        }
        _ => forward::plan(run, scope, now),
    }
}

/// A run that has no steps is one whose steps this version can't compile: nobody can tell what it did, so it neither succeeds nor is it
/// undone.
fn unreadable(run: Run<'_>) -> Plan {
    let mut plan = Plan::default();
    let over = run.status.phase == Phase::Failed || (run.status.phase.is_final() && run.asked.intent != Intent::Undo);
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

impl<'a> Run<'a> {
    /// The steps that are not of `finally`, by index, with their records.
    fn main(self) -> impl DoubleEndedIterator<Item = (usize, &'a CompiledStep, &'a StepRecord)> {
        self.records().filter(|(_, step, _)| !step.finally)
    }

    /// The steps of `finally`.
    fn last(self) -> impl DoubleEndedIterator<Item = (usize, &'a CompiledStep, &'a StepRecord)> {
        self.records().filter(|(_, step, _)| step.finally)
    }

    fn records(self) -> impl DoubleEndedIterator<Item = (usize, &'a CompiledStep, &'a StepRecord)> {
        let count = self.steps.len().min(self.status.steps.len());
        (0..count).map(move |i| (i, &self.steps[i], &self.status.steps[i]))
    }

    fn any(self, state: StepState, on_failure: OnFailure) -> bool {
        self.main().any(|(_, step, record)| record.state == state && step.step.on_failure == on_failure)
    }

    fn names(self, which: impl Fn(&StepRecord) -> bool) -> Vec<&'a str> {
        self.main().filter(|(_, _, record)| which(record)).map(|(_, _, record)| record.name.as_str()).collect()
    }

    /// When the time of the whole run is over.
    fn deadline(self) -> Option<DateTime<Utc>> {
        let timeout = TimeDelta::from_std(self.settings.timeout?.get()).ok()?;
        let paused = TimeDelta::try_seconds(self.status.paused_seconds)?;
        self.status.started_at?.checked_add_signed(timeout)?.checked_add_signed(paused)
    }
}

/// The end of the steps: what is to be done finally comes first, once.
fn end(run: Run<'_>, phase: Phase, reason: Reason, message: String) -> Decision {
    if run.last().all(|(_, _, record)| record.state.is_final()) {
        Decision::Enter { phase, reason, message }
    } else {
        Decision::Finish { outcome: phase, reason, message }
    }
}

fn failures<'a>(records: impl Iterator<Item = &'a StepRecord>) -> String {
    let told: Vec<String> = records
        .filter(|record| record.state == StepState::Failed)
        .map(|record| format!("{} failed ({}): {}", record.name, record.reason, record.message))
        .collect();
    told.join("; ")
}

fn when_due(plan: &mut Plan, record: &StepRecord, now: DateTime<Utc>, decision: Decision) {
    match record.next_at {
        Some(next) if next > now => plan.wake_at = earliest(plan.wake_at, Some(next)),
        _ => plan.decisions.push(decision),
    }
}

fn earliest(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
