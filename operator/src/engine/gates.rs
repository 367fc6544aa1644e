//! Approvals: who has decided what on the gates of a run, and who is told that one is waited for.

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use quell_crds::conditions::{ConditionType, Reason, Status, condition, find};
use quell_crds::v1alpha1::step::ChannelReference;
use quell_crds::v1alpha1::{
    Approval, ApprovalDecision, Finding, GateRecord, Remediation, RemediationStatus, StepState,
};
use quell_crds::{names, time};
use quell_playbooks::Outcome;
use quell_playbooks::plan::gate::{Vote, Votes};

use crate::engine::{Engine, Stage, out};

/// What is known of the decisions on a run's gates.
#[derive(Debug, Default)]
pub struct Decisions {
    votes: Vec<Vote>,
    authors: Vec<String>,
}

impl Decisions {
    /// As the copies have them now. A run without gates has none.
    pub fn of(engine: &Engine, run: &Remediation, finding: &Finding) -> Self {
        let gated = run.spec.settings.approval.is_some() || run.spec.all_steps().any(|step| step.approval.is_some());
        if !gated {
            return Self::default();
        }
        let (namespace, name, uid) = (run.namespace(), run.name_any(), run.uid().unwrap_or_default());
        let is_of = |approval: &Approval| {
            let of = &approval.spec.remediation;
            approval.namespace() == namespace && of.name == name && of.uid == uid
        };
        let all = engine.caches.approvals.state();
        let votes = all.iter().filter(|approval| is_of(approval)).map(|approval| vote(approval)).collect();
        let writer = finding.annotations().get(names::AUTHOR).cloned();
        Self { votes, authors: run.spec.author.clone().into_iter().chain(writer).collect() }
    }

    /// For the planner.
    pub fn votes(&self) -> Votes<'_> {
        Votes { all: &self.votes, authors: &self.authors }
    }
}

fn vote(approval: &Approval) -> Vote {
    let spec = &approval.spec;
    Vote {
        step: spec.step.clone(),
        digest: spec.digest.clone(),
        approves: spec.decision == ApprovalDecision::Approve,
        user: spec.user.clone(),
        reason: spec.reason.clone(),
        at: approval.metadata.creation_timestamp.as_ref().map(time::from_kubernetes).unwrap_or_default(),
    }
}

/// Writes down whether an approval is waited for.
pub fn observe(run: &Remediation, status: &mut RemediationStatus) {
    let kind = ConditionType::AwaitingApproval;
    let waits = waiting(status);
    let told = match waits.as_slice() {
        [] if find(&status.conditions, kind).is_none() => return,
        [] => (Status::False, Reason::Approved, "nothing waits for an approval".to_owned()),
        some => (Status::True, Reason::ApprovalAsked, some.join("; ")),
    };
    let now = Utc::now();
    let new = condition(&status.conditions, kind, told.0, told.1, told.2, run.metadata.generation, now);
    status.conditions.retain(|condition| condition.type_ != new.type_);
    status.conditions.push(new);
}

fn waiting(status: &RemediationStatus) -> Vec<String> {
    if status.phase.is_final() {
        return Vec::new();
    }
    let whole = status.approval.as_ref().filter(|gate| !gate.open).map(|gate| asked("the run", gate));
    let steps = status.steps.iter().filter(|record| record.state == StepState::AwaitingApproval);
    let steps =
        steps.filter_map(|record| Some(asked(&record.name, record.approval.as_ref().filter(|gate| !gate.open)?)));
    whole.into_iter().chain(steps).collect()
}

fn asked(what: &str, gate: &GateRecord) -> String {
    let until = gate.expires_at.map(|end| format!(", until {}", end.format("%Y-%m-%dT%H:%M:%SZ"))).unwrap_or_default();
    format!("{what}: {} ({} of {} approvals{until})", gate.reason, gate.approved_by.len(), gate.quorum)
}

/// Tells the channels of gates that wait and haven't been told of, once what is asked is durable. A channel that can't be reached is tried
/// again; the answer is when.
pub async fn tell(stage: &Stage<'_>, status: &mut RemediationStatus) -> Option<DateTime<Utc>> {
    let mut again = None;
    let now = Utc::now();
    let name = format!("-n {} remediation/{}", stage.run.namespace().unwrap_or_default(), stage.run.name_any());
    if let (Some(gate), Some(record)) = (&stage.run.spec.settings.approval, &mut status.approval)
        && is_news(record)
    {
        let message = format!("approval needed: {}; kubectl quell approve {name}", record.reason);
        if send(stage, 0, "approval", &gate.channels, message, record).await {
            record.told = true;
        } else {
            again = Some(now + AGAIN);
        }
    }
    for (index, step) in stage.steps.iter().enumerate() {
        let Some(gate) = &step.step.approval else { continue };
        let Some(record) = status.steps.get_mut(index).filter(|record| record.state == StepState::AwaitingApproval)
        else {
            continue;
        };
        let Some(asked) = record.approval.as_mut().filter(|asked| is_news(asked)) else { continue };
        let step = &step.step.name;
        let message = format!("approval of step {step} needed: {}; kubectl quell approve {name} {step}", asked.reason);
        if send(stage, index, &format!("{step}-approval"), &gate.channels, message, asked).await {
            asked.told = true;
        } else {
            again = Some(now + AGAIN);
        }
    }
    again
}

/// Whether there is nobody who is still to be told.
pub fn all_told(status: &RemediationStatus) -> bool {
    let steps = status.steps.iter().filter(|record| record.state == StepState::AwaitingApproval);
    let mut gates = status.approval.iter().chain(steps.filter_map(|record| record.approval.as_ref()));
    status.phase.is_final() || !gates.any(is_news)
}

/// How soon a channel that could not be reached is tried again.
const AGAIN: chrono::TimeDelta = chrono::TimeDelta::seconds(30);

fn is_news(record: &GateRecord) -> bool {
    !record.open && !record.told
}

async fn send(
    stage: &Stage<'_>,
    step: usize,
    as_step: &str,
    channels: &[ChannelReference],
    message: String,
    record: &GateRecord,
) -> bool {
    if channels.is_empty() {
        return true;
    }
    // The same question has the same key.
    let as_step = format!("{as_step}-{}", &record.digest[..record.digest.len().min(8)]);
    match out::say(stage, step, as_step, channels.to_vec(), message).await {
        Outcome::Failed { message, .. } => {
            tracing::warn!(
                namespace = stage.run.namespace(),
                remediation = stage.run.name_any(),
                message,
                "nobody could be told that an approval is waited for"
            );
            false
        }
        _ => true,
    }
}
