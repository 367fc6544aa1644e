//! An engine without a cluster: decisions are applied, effects are what the test says, the clock goes where the plan wants it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::{self, ConditionType, Reason};
use quell_crds::v1alpha1::{
    Effect, Finding, FindingSpec, Intent, Phase, Receipt, RemediationStatus, RunSettings, Step, StepKind, StepRecord,
    StepState,
};
use quell_playbooks::compile::{CompiledStep, compile_steps};
use quell_playbooks::plan::gate::{Vote, Votes};
use quell_playbooks::plan::{self, Asked, Run};
use quell_playbooks::{Decision, Outcome, Plan, Recovery, UndoOutcome, World, apply, progress, refresh};
use serde_json::Value;

/// Rounds after which a run that has not ended never will.
pub const ROUNDS: usize = 10_000;

pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

pub fn compiled(steps: Value) -> Vec<CompiledStep> {
    let steps: Vec<Step> = serde_json::from_value(steps).unwrap();
    compile_steps(&steps, &[]).unwrap()
}

pub fn finding() -> Finding {
    let spec = FindingSpec { source: "falco".into(), rule: "Reverse shell".into(), ..FindingSpec::default() };
    let mut finding = Finding::new("falco-1", spec);
    finding.metadata.namespace = Some("shop".into());
    finding
}

pub fn receipt(name: &str) -> Receipt {
    Effect { api_version: "v1".into(), kind: "Pod".into(), name: name.into(), ..Effect::default() }.into()
}

pub fn done() -> Outcome {
    Outcome::Done { message: "done".into(), outputs: BTreeMap::new(), receipt: None }
}

/// Done, with a receipt.
pub fn changed(name: &str) -> Outcome {
    Outcome::Done { message: "done".into(), outputs: BTreeMap::new(), receipt: Some(receipt(name)) }
}

pub fn pending(look_again: Option<u64>, receipt: Option<Receipt>) -> Outcome {
    let look_again = look_again.map(Duration::from_secs);
    Outcome::Pending { message: "not yet".into(), outputs: BTreeMap::new(), receipt, look_again }
}

pub fn failed(transient: bool) -> Outcome {
    Outcome::Failed {
        reason: Reason::Invalid,
        message: "no".into(),
        transient,
        outputs: BTreeMap::new(),
        receipt: None,
    }
}

pub fn undone() -> UndoOutcome {
    UndoOutcome::Undone { message: "put back".into() }
}

pub fn left_alone() -> UndoOutcome {
    UndoOutcome::LeftAlone { reason: Reason::ChangedSince, message: "someone changed it".into() }
}

pub fn try_again() -> UndoOutcome {
    UndoOutcome::TryAgain { reason: Reason::ApiUnavailable, message: "too busy".into() }
}

/// A run in play.
pub struct Game {
    pub steps: Vec<CompiledStep>,
    pub status: RemediationStatus,
    pub settings: RunSettings,
    pub intent: Intent,
    pub undo_steps: Vec<String>,
    pub resolved: bool,
    pub votes: Vec<Vote>,
    pub authors: Vec<String>,
    pub now: DateTime<Utc>,
    pub world: World,
    /// Every decision so far, in a few words each.
    pub log: Vec<String>,
    /// What each `Perform` was given, by step.
    pub given: Vec<(String, StepKind)>,
    outcomes: HashMap<String, VecDeque<Outcome>>,
    undos: HashMap<String, VecDeque<UndoOutcome>>,
    busy: HashMap<String, usize>,
    recoveries: HashMap<String, VecDeque<Recovery>>,
    /// What stands in the cluster, by step, whatever the records say.
    pub stands: HashMap<String, Receipt>,
}

impl Game {
    pub fn new(steps: Value) -> Self {
        Self::of(compiled(steps), World { finding: finding(), ..World::default() })
    }

    pub fn of(steps: Vec<CompiledStep>, world: World) -> Self {
        let status = plan::prepare(&steps, None, at(0));
        Self {
            steps,
            status,
            settings: RunSettings::default(),
            intent: Intent::Run,
            undo_steps: Vec::new(),
            resolved: false,
            votes: Vec::new(),
            authors: Vec::new(),
            now: at(0),
            world,
            log: Vec::new(),
            given: Vec::new(),
            outcomes: HashMap::new(),
            undos: HashMap::new(),
            busy: HashMap::new(),
            recoveries: HashMap::new(),
            stands: HashMap::new(),
        }
    }

    /// A run of steps with settings, those of `finally` among them.
    pub fn with(steps: Value, settings: Value) -> Self {
        let steps: Vec<Step> = serde_json::from_value(steps).unwrap();
        let settings: RunSettings = serde_json::from_value(settings).unwrap();
        let compiled = compile_steps(&steps, &settings.finally).unwrap();
        let mut game = Self::of(compiled, World { finding: finding(), ..World::default() });
        game.settings = settings;
        game
    }

    /// How often another run is at the step's object when the step's turn comes.
    pub fn busy(mut self, step: &str, times: usize) -> Self {
        self.busy.insert(step.into(), times);
        self
    }

    /// What the tries of a step come to, one after the other, the last one again and again. Default: done, with nothing to undo.
    pub fn on(mut self, step: &str, outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        self.outcomes.insert(step.into(), outcomes.into_iter().collect());
        self
    }

    /// What the undos of a step come to. Default: undone.
    pub fn on_undo(mut self, step: &str, outcomes: impl IntoIterator<Item = UndoOutcome>) -> Self {
        self.undos.insert(step.into(), outcomes.into_iter().collect());
        self
    }

    /// What looking for a step's effect comes to, in turn. Default, and in the end: what stands.
    pub fn on_recovery(mut self, step: &str, found: impl IntoIterator<Item = Recovery>) -> Self {
        self.recoveries.insert(step.into(), found.into_iter().collect());
        self
    }

    /// The process ends: the next one knows no more than what was recorded, and finds what stands.
    pub fn crash(&mut self, recorded: RemediationStatus) -> &mut Self {
        self.status = plan::prepare(&self.steps, Some(&recorded), self.now);
        self
    }

    pub fn plan(&self) -> Plan {
        let scope = self.world.step_scope("run", "playbook", &self.status);
        let asked = Asked {
            intent: self.intent,
            undo_steps: &self.undo_steps,
            resolved: self.resolved,
            votes: Votes { all: &self.votes, authors: &self.authors },
        };
        let run = Run { steps: &self.steps, status: &self.status, settings: &self.settings, asked };
        plan::plan(run, &scope, self.now)
    }

    /// What the plan says now, in a few words.
    pub fn says(&self) -> Vec<String> {
        self.plan().decisions.iter().map(|decision| self.words(decision)).collect()
    }

    pub fn words(&self, decision: &Decision) -> String {
        let name = |step: &usize| self.steps[*step].step.name.clone();
        match decision {
            Decision::Begin { step } => format!("begin {}", name(step)),
            Decision::Perform { step, .. } => format!("perform {}", name(step)),
            Decision::Skip { step, reason, .. } => format!("skip {} {reason}", name(step)),
            Decision::Fail { step, reason, .. } => format!("fail {} {reason}", name(step)),
            Decision::Ask { step, record, .. } => {
                let what = step.as_ref().map_or_else(|| "run".to_owned(), name);
                format!("{} {what}", if record.open { "approved" } else { "ask" })
            }
            Decision::LetGo { step, .. } => format!("let go of {}", name(step)),
            Decision::Revert { step } => format!("revert {}", name(step)),
            Decision::Recover { step } => format!("recover {}", name(step)),
            Decision::Undo { step } => format!("undo {}", name(step)),
            Decision::Finish { outcome, reason, .. } => format!("finish {outcome} {reason}"),
            Decision::Close { phase, .. } => format!("close {phase}"),
            Decision::Enter { phase, reason, .. } => format!("enter {phase} {reason}"),
        }
    }

    /// Does what the plan says now, as the engine does: the records first, then the effects, side by side.
    pub fn turn(&mut self) -> Plan {
        let plan = self.plan();
        let mut done = Vec::new();
        for decision in &plan.decisions {
            if self.waits(decision) {
                continue;
            }
            self.log.push(self.words(decision));
            apply(&mut self.status, &self.steps, decision, self.now);
            done.push(decision);
        }
        for decision in done {
            self.settle(decision);
        }
        refresh(&mut self.status);
        plan
    }

    /// Whether another run goes first: asked before a step's effect, as the engine does.
    fn waits(&mut self, decision: &Decision) -> bool {
        let Decision::Perform { step, .. } = decision else { return false };
        let (record, name) = (&mut self.status.steps[*step], &self.steps[*step].step.name);
        let held = matches!(record.state, StepState::Running);
        let Some(times) = self.busy.get_mut(name).filter(|times| **times > 0 && !held) else { return false };
        *times -= 1;
        progress::wait(record, &format!("another run, {times} times more"));
        true
    }

    fn settle(&mut self, decision: &Decision) {
        let now = self.now;
        match decision {
            Decision::Perform { step, kind } => {
                let compiled = &self.steps[*step].step;
                self.given.push((compiled.name.clone(), (**kind).clone()));
                let outcome = next(&mut self.outcomes, &compiled.name).unwrap_or_else(done);
                if let Outcome::Done { receipt: Some(receipt), .. }
                | Outcome::Pending { receipt: Some(receipt), .. }
                | Outcome::Failed { receipt: Some(receipt), .. } = &outcome
                {
                    self.stands.insert(compiled.name.clone(), receipt.clone());
                }
                progress::settle(&mut self.status.steps[*step], compiled, outcome, "shop/run/step", now);
            }
            Decision::Revert { step } => {
                let outcome = self.undo(*step);
                progress::settle_revert(&mut self.status.steps[*step], outcome, "shop/run/step", now);
            }
            Decision::Recover { step } => {
                let name = &self.steps[*step].step.name;
                let told = self.recoveries.get_mut(name).and_then(VecDeque::pop_front);
                let stands = || self.stands.get(name).cloned().map_or(Recovery::Nothing, Recovery::Found);
                let found = told.unwrap_or_else(stands);
                progress::settle_recovery(&mut self.status.steps[*step], found, "shop/run/step", now);
            }
            Decision::Undo { step } => {
                let outcome = self.undo(*step);
                progress::settle_undo(&mut self.status.steps[*step], outcome, "shop/run/step", now);
            }
            _ => {}
        }
    }

    fn undo(&mut self, step: usize) -> UndoOutcome {
        let name = &self.steps[step].step.name;
        let outcome = next(&mut self.undos, name).unwrap_or_else(undone);
        if matches!(outcome, UndoOutcome::Undone { .. }) {
            self.stands.remove(name);
        }
        outcome
    }

    /// Turns and waits until nothing more happens by itself.
    pub fn play(&mut self) -> &mut Self {
        for _ in 0..ROUNDS {
            let before = self.status.clone();
            let plan = self.turn();
            if self.status != before {
                continue;
            }
            if let Some(wake_at) = self.plan().wake_at {
                self.now = wake_at;
            } else {
                let waits = plan.decisions.iter().all(|one| matches!(one, Decision::Perform { .. }));
                assert!(waits, "{plan:?} changes nothing");
                return self;
            }
        }
        panic!("the run does not end: {:?}", self.status);
    }

    /// Somebody decides on what is asked now; with no step, on the whole run.
    pub fn vote(&mut self, step: Option<&str>, user: &str, approves: bool) -> &mut Self {
        let gate = match step {
            None => self.status.approval.as_ref(),
            Some(step) => self.record(step).approval.as_ref(),
        };
        let digest = gate.map(|gate| gate.digest.clone()).unwrap_or_default();
        let (step, user) = (step.map(str::to_owned), user.to_owned());
        self.votes.push(Vote { step, digest, approves, user, reason: String::new(), at: self.now });
        self
    }

    pub fn pass(&mut self, seconds: i64) -> &mut Self {
        self.now += TimeDelta::seconds(seconds);
        self
    }

    pub fn record(&self, step: &str) -> &StepRecord {
        self.status.steps.iter().find(|record| record.name == step).unwrap()
    }

    pub fn states(&self) -> Vec<StepState> {
        self.status.steps.iter().map(|record| record.state).collect()
    }

    /// Phase, and reason and message of the `Complete` condition.
    pub fn end(&self) -> (Phase, String, String) {
        let complete = conditions::find(&self.status.conditions, ConditionType::Complete);
        let (reason, message) = complete.map(|one| (one.reason.clone(), one.message.clone())).unwrap_or_default();
        (self.status.phase, reason, message)
    }
}

fn next<T: Clone>(of: &mut HashMap<String, VecDeque<T>>, step: &str) -> Option<T> {
    let queue = of.get_mut(step)?;
    if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
}
