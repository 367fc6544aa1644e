//! The run that a playbook would make, with every write as a dry run. The planner is the operator's own; what would wait is taken for
//! done.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use kube::{Client, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{PlaybookReference, RemediationStatus, RunSettings, StepKind, StepState};
use quell_notify::Courier;
use quell_playbooks::compile::CompiledStep;
use quell_playbooks::plan::gate::{Vote, Votes};
use quell_playbooks::plan::{self, Asked, Decision, Run};
use quell_playbooks::{Outcome, Recovery, UndoOutcome, World, apply, progress, refresh};

use crate::{Cluster, Context, Mark, Write, Writer};

mod diff;
mod difference;
pub mod text;

pub use difference::difference;

/// Decisions that a run may take: far more than any run of 32 steps needs.
const MOST_ROUNDS: usize = 200;

/// What a rehearsal works with.
pub struct Rehearsal<'a> {
    /// Which playbook.
    pub playbook: &'a PlaybookReference,
    /// Its steps.
    pub steps: &'a [CompiledStep],
    /// How its runs go.
    pub settings: &'a RunSettings,
    /// The Finding and its target.
    pub world: &'a World,
    /// What is known of the cluster.
    pub cluster: &'a dyn Cluster,
    /// As whom the steps act.
    pub client: &'a Client,
    /// The rights are the caller's, not those that the run will have: what they don't allow says nothing.
    pub borrowed: bool,
    /// Carries nothing here; its client is what calls would be made with.
    pub courier: &'a Courier,
    /// Name of the run.
    pub run: &'a str,
    /// The time.
    pub now: DateTime<Utc>,
}

/// What a step would do.
pub struct Told {
    /// The step.
    pub step: usize,
    /// How it would end.
    pub end: End,
    /// What it would write.
    pub writes: Vec<Write>,
}

/// How a step would end.
pub enum End {
    /// It would be done; says what.
    Done(String),
    /// It needs what an earlier step makes, which nobody knows yet.
    Unknown(String),
    /// The caller's rights don't reach far enough to try.
    NotRehearsed(String),
    /// It would be skipped.
    Skipped(Reason, String),
    /// It would fail.
    Failed(Reason, String),
    /// It would be undone, for a later step failed.
    Undone,
}

impl Rehearsal<'_> {
    /// Goes through the run to its end.
    pub async fn run(&self) -> Vec<Told> {
        let steps = self.steps;
        let mut status = plan::prepare(steps, None, self.now);
        let mut told = Vec::new();
        // Steps whose outputs a rehearsal doesn't have.
        let mut unknown = BTreeSet::new();
        for _ in 0..MOST_ROUNDS {
            let scope = self.world.step_scope(self.run, &self.playbook.name, &status);
            // What would be asked is taken for approved.
            let approvals = self.approvals(&status);
            let asked = Asked { votes: Votes { all: &approvals, authors: &[] }, ..Asked::default() };
            let run = Run { steps, status: &status, settings: self.settings, asked };
            let decisions = plan::plan(run, &scope, self.now).decisions;
            if decisions.is_empty() {
                break;
            }
            for decision in decisions {
                self.follow(decision, &mut status, &mut unknown, &mut told).await;
                refresh(&mut status);
            }
        }
        told
    }

    /// As many approvals as each gate that has asked wants.
    fn approvals(&self, status: &RemediationStatus) -> Vec<Vote> {
        let steps = status.steps.iter().filter_map(|record| Some((Some(&record.name), record.approval.as_ref()?)));
        let all = status.approval.iter().map(|gate| (None, gate)).chain(steps);
        let votes = all.flat_map(|(step, gate)| {
            (0..gate.quorum).map(move |n| Vote {
                step: step.cloned(),
                digest: gate.digest.clone(),
                approves: true,
                user: format!("rehearsal-{n}"),
                reason: String::new(),
                at: self.now,
            })
        });
        votes.collect()
    }

    async fn follow(
        &self,
        decision: Decision,
        status: &mut RemediationStatus,
        unknown: &mut BTreeSet<String>,
        told: &mut Vec<Told>,
    ) {
        let steps = self.steps;
        let mut tell = |step, end| told.push(Told { step, end, writes: Vec::new() });
        match decision {
            Decision::Perform { step, kind } => {
                progress::begin(&mut status.steps[step], self.now);
                let (outcome, writes) = self.perform(step, &kind, status).await;
                let (outcome, end) = self.judge(outcome);
                progress::settle(&mut status.steps[step], &steps[step].step, outcome, self.run, self.now);
                unknown.insert(steps[step].step.name.clone());
                told.push(Told { step, end, writes });
            }
            Decision::Fail { step, message, .. } if self.reads_any(step, unknown) => {
                progress::end(&mut status.steps[step], StepState::Succeeded, Reason::Succeeded, &message, self.now);
                unknown.insert(steps[step].step.name.clone());
                tell(step, End::Unknown(message));
            }
            Decision::Skip { step, reason, ref message } => {
                tell(step, End::Skipped(reason, message.clone()));
                apply(status, steps, &decision, self.now);
            }
            Decision::Fail { step, reason, ref message } => {
                tell(step, End::Failed(reason, message.clone()));
                apply(status, steps, &decision, self.now);
            }
            Decision::Undo { step } => {
                tell(step, End::Undone);
                let undone = UndoOutcome::Undone { message: String::new() };
                progress::settle_undo(&mut status.steps[step], undone, self.run, self.now);
            }
            // A rehearsal has made no change that could have gone unrecorded.
            Decision::Recover { step } => {
                progress::settle_recovery(&mut status.steps[step], Recovery::Nothing, self.run, self.now);
            }
            Decision::Revert { step } => {
                let undone = UndoOutcome::Undone { message: String::new() };
                progress::settle_revert(&mut status.steps[step], undone, self.run, self.now);
            }
            Decision::Begin { .. }
            | Decision::LetGo { .. }
            | Decision::Ask { .. }
            | Decision::Finish { .. }
            | Decision::Close { .. }
            | Decision::Enter { .. } => apply(status, steps, &decision, self.now),
        }
    }

    async fn perform(&self, step: usize, kind: &StepKind, status: &RemediationStatus) -> (Outcome, Vec<Write>) {
        let compiled = &self.steps[step];
        let finding = &self.world.finding;
        let writer = Writer::rehearsing(self.client.clone());
        let scope = self.world.step_scope(self.run, &self.playbook.name, status);
        let mark = Mark {
            namespace: finding.namespace().unwrap_or_default(),
            remediation: self.run.to_owned(),
            finding: finding.name_any(),
            step: compiled.step.name.clone(),
        };
        let context = Context {
            mark: &mark,
            playbook: self.playbook.kind,
            world: self.world,
            scope: &scope,
            names: &compiled.names,
            record: &status.steps[step],
            steps: &status.steps,
            cluster: self.cluster,
            writer: &writer,
            http: self.courier.http(),
            courier: self.courier,
            now: self.now,
        };
        let outcome = crate::perform(kind, &context).await;
        let refused = match &outcome {
            Outcome::Failed { message, .. } => Some(message.as_str()),
            _ => None,
        };
        let made = made(writer.rehearsed(), refused);
        (outcome, made)
    }

    /// What would wait counts as done. What failed has changed nothing, and isn't tried again.
    fn judge(&self, outcome: Outcome) -> (Outcome, End) {
        match outcome {
            Outcome::Done { message, outputs, receipt } | Outcome::Pending { message, outputs, receipt, .. } => {
                (Outcome::Done { message: message.clone(), outputs, receipt }, End::Done(message))
            }
            Outcome::Failed { reason: Reason::Forbidden, message, outputs, .. } if self.borrowed => {
                let done = Outcome::Done { message: message.clone(), outputs, receipt: None };
                (done, End::NotRehearsed(message))
            }
            Outcome::Held(hold) => {
                let done = Outcome::Done { message: hold.message.clone(), outputs: BTreeMap::new(), receipt: None };
                (done, End::Done(hold.message))
            }
            Outcome::Failed { reason, message, outputs, .. } => {
                let failed =
                    Outcome::Failed { reason, message: message.clone(), transient: false, outputs, receipt: None };
                (failed, End::Failed(reason, message))
            }
        }
    }

    /// Whether the step's expressions name one of those steps.
    fn reads_any(&self, step: usize, names: &BTreeSet<String>) -> bool {
        let text = serde_json::to_string(&self.steps[step].step).unwrap_or_default();
        names.iter().any(|name| {
            let ways = [format!("steps.{name}"), format!("steps['{name}'"), format!("steps[\\\"{name}\\\"")];
            ways.iter().any(|way| text.contains(way.as_str()))
        })
    }
}

/// The writes that take place: a step that found an object otherwise than it thought has written it anew, and a write that was refused is
/// none.
fn made(writes: Vec<Write>, refused: Option<&str>) -> Vec<Write> {
    let mut made: Vec<Write> = Vec::new();
    for write in writes {
        made.retain(|earlier| earlier.object != write.object);
        made.push(write);
    }
    if let Some(message) = refused {
        let doing = |write: &Write| {
            let doing = match write.verb {
                "create" => "creating",
                "patch" => "patching",
                "delete" => "deleting",
                _ => return None,
            };
            Some(format!("{doing} {}", write.object))
        };
        made.retain(|write| doing(write).is_none_or(|doing| !message.starts_with(&doing)));
    }
    made
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_several_tries_to_write_an_object_the_last_counts_and_a_refused_one_not() {
        let write = |verb, object: &str| Write { verb, object: object.to_owned(), body: json!({}) };
        let policy = "NetworkPolicy shop/quell-quarantine-full";
        let writes = vec![write("create", policy), write("patch", policy), write("patch", "Pod shop/web-1")];
        assert_eq!(made(writes.clone(), None), writes[1..]);
        assert_eq!(made(writes.clone(), Some("patching Pod shop/web-1: forbidden")), writes[1..2]);
    }
}
