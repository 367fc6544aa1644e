//! What is done whatever happened, once the steps are over.

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{Phase, StepState};

use super::forward::{held, start, under_way};
use super::{Decision, Plan, Run, failures, when_due};
use crate::cel::Scope;

pub(super) fn plan(run: Run<'_>, scope: &Scope, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    for (index, step, record) in run.last() {
        match record.state {
            StepState::Pending | StepState::Waiting => plan.decisions.extend(start(run, index, scope)),
            StepState::Running | StepState::Retrying => under_way(&mut plan, step, record, index, scope, now),
            StepState::Held => held(&mut plan, run, index, scope, now),
            StepState::Reverting => when_due(&mut plan, record, now, Decision::Revert { step: index }),
            _ => {}
        }
    }
    if run.last().all(|(_, _, record)| record.state.is_final()) {
        let outcome = run.status.outcome.unwrap_or(Phase::Failed);
        let failed = failures(run.last().map(|(_, _, record)| record));
        let phase = if outcome == Phase::Succeeded && !failed.is_empty() { Phase::Failed } else { outcome };
        let more = if failed.is_empty() { failed } else { format!("finally: {failed}") };
        plan.decisions.push(Decision::Close { phase, more });
    }
    plan
}
