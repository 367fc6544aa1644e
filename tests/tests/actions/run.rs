//! One step of a run: performed as the planner would, its record kept, lost in a crash, or undone.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt as _};
use quell_actions::quarantine::{self, Kept};
use quell_actions::{ActionError, Context, Mark, Write, Writer};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::Quarantine;
use quell_crds::v1alpha1::{
    Finding, FindingSpec, OnFailure, PlaybookKind, Receipt, Retry, Step, StepKind, StepRecord, StepState, Target,
    Workload,
};
use quell_notify::Courier;
use quell_playbooks::cel::Names;
use quell_playbooks::facts::STEP_VARIABLES;
use quell_playbooks::{Outcome, Recovery, TargetState, UndoOutcome, World, progress};
use quell_tests::wait::{DEADLINE, eventually};

use crate::stage::Stage;

/// One step of a run.
pub struct Run<'a> {
    stage: &'a Stage,
    kind: StepKind,
    /// Which run and step.
    pub mark: Mark,
    /// The Finding and its target, as the caches would know them.
    pub world: World,
    /// What the step did so far.
    pub record: StepRecord,
    /// What other steps did.
    pub others: Vec<StepRecord>,
    /// Whose playbook it is.
    pub playbook: PlaybookKind,
    http: reqwest::Client,
    courier: Courier,
}

impl<'a> Run<'a> {
    /// A run of one step, `act`, for a Finding that names no target yet.
    pub fn of(stage: &'a Stage, kind: StepKind) -> Result<Self> {
        let namespace = stage.namespace.name().to_owned();
        let mark = Mark {
            namespace: namespace.clone(),
            remediation: "run-1".to_owned(),
            finding: "finding-1".to_owned(),
            step: "act".to_owned(),
        };
        let target = Target {
            kind: "Pod".to_owned(),
            namespace: namespace.clone(),
            name: "shop".to_owned(),
            ..Target::default()
        };
        let spec = FindingSpec {
            rule: "Netcat in container".to_owned(),
            source: "falco".to_owned(),
            target,
            ..FindingSpec::default()
        };
        let mut finding = Finding::new("finding-1", spec);
        finding.metadata.namespace = Some(namespace);
        Ok(Self {
            stage,
            kind,
            mark,
            world: World { finding, ..World::default() },
            record: StepRecord { name: "act".to_owned(), ..StepRecord::default() },
            others: Vec::new(),
            playbook: PlaybookKind::ClusterPlaybook,
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?,
            courier: Courier::new(None)?,
        })
    }

    /// The Finding is about a pod, which the caches know like this.
    pub fn about(mut self, pod: &Pod) -> Self {
        let facts = quell_actions::quarantine::facts(pod);
        let target = &mut self.world.finding.spec.target;
        target.name.clone_from(&facts.name);
        target.uid.clone_from(&facts.uid);
        self.world.target = TargetState::Pod(facts);
        self
    }

    /// The pod as the caches know it now.
    pub fn knows(&mut self, pod: &Pod) {
        self.world.target = TargetState::Pod(quell_actions::quarantine::facts(pod));
    }

    /// The Finding's target belongs to this workload.
    pub fn of_workload<K: Resource<DynamicType = ()>>(mut self, workload: &K) -> Self {
        self.world.target = TargetState::Gone;
        self.world.workload = Some(Workload {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: workload.namespace().unwrap_or_default(),
            name: workload.name_any(),
            uid: workload.uid().unwrap_or_default(),
        });
        self
    }

    /// The same step of another run.
    pub fn named(mut self, remediation: &str) -> Self {
        remediation.clone_into(&mut self.mark.remediation);
        self
    }

    /// The process died before the record was written; the one that comes next knows no more than that the step has begun.
    pub fn lose_record(&mut self) {
        self.record = StepRecord { name: "act".to_owned(), ..StepRecord::default() };
    }

    /// Looks whether the quarantine is as the step left it, and puts it back.
    pub async fn keep(&self, parameters: &Quarantine, open: bool) -> Result<Kept> {
        let (writer, receipt) = (Writer::new(self.stage.actor.clone()), self.receipt()?);
        Ok(self.with(&writer, async |_, cx| quarantine::keep(parameters, &receipt, open, cx).await).await?)
    }

    /// Goes on with probing what the step has cut off.
    pub async fn probe(&self, parameters: &Quarantine, round: u32) -> Result<quarantine::Answer, ActionError> {
        let writer = Writer::new(self.stage.actor.clone());
        let receipt = self.record.receipt.clone().unwrap_or_default();
        self.with(&writer, async |_, cx| quarantine::probe(parameters, &receipt, round, cx).await).await
    }

    /// One try, written into the record.
    pub async fn perform(&mut self) -> Outcome {
        progress::begin(&mut self.record, Utc::now());
        let writer = Writer::new(self.stage.actor.clone());
        let outcome = self.with(&writer, async |kind, cx| quell_actions::perform(kind, cx).await).await;
        let step = self.step();
        progress::settle(&mut self.record, &step, outcome.clone(), &self.mark.step, Utc::now());
        outcome
    }

    /// Tries, and looks again, until the step is neither under way nor waits for a further try.
    pub async fn settle(&mut self) -> Result<StepState> {
        eventually(DEADLINE, "the step has ended", async || {
            self.perform().await;
            match self.record.state {
                StepState::Running | StepState::Retrying => bail!("{}: {}", self.record.reason, self.record.message),
                state => Ok(Some(state)),
            }
        })
        .await
    }

    /// Tries until it is done.
    pub async fn succeed(&mut self) -> Result<()> {
        match self.settle().await? {
            StepState::Succeeded => Ok(()),
            state => bail!("{state}: {}: {}", self.record.reason, self.record.message),
        }
    }

    /// One try, which must fail for that reason; its message.
    pub async fn refused(&mut self, expected: Reason) -> Result<String> {
        match self.perform().await {
            Outcome::Failed { reason, message, .. } if reason == expected => Ok(message),
            other => bail!("not {expected} but {other:?}"),
        }
    }

    /// What it would write.
    pub async fn rehearse(&self) -> (Outcome, Vec<Write>) {
        let writer = Writer::rehearsing(self.stage.actor.clone());
        let outcome = self.with(&writer, async |kind, cx| quell_actions::perform(kind, cx).await).await;
        (outcome, writer.rehearsed())
    }

    /// Undoes what the record says was done.
    pub async fn undo(&self) -> Result<UndoOutcome> {
        let receipt = self.receipt()?;
        let writer = Writer::new(self.stage.actor.clone());
        Ok(self.with(&writer, async |kind, cx| quell_actions::undo(kind, &receipt, cx).await).await)
    }

    /// How many writes were asked for on its stage so far.
    pub fn writes(&self) -> usize {
        self.stage.writes()
    }

    /// Looks for what was done and not recorded.
    pub async fn recover(&self) -> Recovery {
        let writer = Writer::new(self.stage.actor.clone());
        self.with(&writer, async |kind, cx| quell_actions::recover(kind, cx).await).await
    }

    /// The record is lost; what it told is found by the mark, and is in the record again as it was.
    pub async fn lose_and_find(&mut self) -> Result<()> {
        let told = self.receipt()?;
        self.lose_record();
        match self.recover().await {
            Recovery::Found(receipt) => self.record.receipt = Some(receipt),
            other => bail!("{other:?}"),
        }
        let found = self.receipt()?;
        anyhow::ensure!(found.is_on_the_same(&told), "{found:?} is not for what was changed: {told:?}");
        anyhow::ensure!((found.also.len(), &found.before) == (told.also.len(), &told.before), "{found:?} {told:?}");
        Ok(())
    }

    /// Undoes a step that has changed nothing.
    pub async fn undo_of_nothing(&self) -> UndoOutcome {
        let writer = Writer::new(self.stage.actor.clone());
        self.with(&writer, async |kind, cx| quell_actions::undo(kind, &Receipt::default(), cx).await).await
    }

    /// Undoes; it must be done.
    pub async fn undone(&self) -> Result<String> {
        match self.undo().await? {
            UndoOutcome::Undone { message } => Ok(message),
            other => bail!("{other:?}"),
        }
    }

    /// Undoes; it must be left alone for that reason. Its message.
    pub async fn left_alone(&self, expected: Reason) -> Result<String> {
        match self.undo().await? {
            UndoOutcome::LeftAlone { reason, message } if reason == expected => Ok(message),
            other => bail!("not {expected} but {other:?}"),
        }
    }

    /// The record's receipt.
    pub fn receipt(&self) -> Result<Receipt> {
        // As it comes back from the API server.
        let receipt = self.record.receipt.as_ref().context("nothing was changed")?;
        Ok(serde_json::from_str(&serde_json::to_string(receipt)?)?)
    }

    /// An output of the step; empty where it gives none of that name.
    pub fn output(&self, key: &str) -> &str {
        self.record.outputs.get(key).map_or("", String::as_str)
    }

    fn step(&self) -> Step {
        Step {
            name: self.mark.step.clone(),
            when: None,
            after: None,
            timeout: None,
            approval: None,
            retry: Some(Retry { limit: 100, backoff: None }),
            on_failure: OnFailure::default(),
            allow_last_replica: false,
            kind: self.kind.clone(),
        }
    }

    async fn with<T>(&self, writer: &Writer, act: impl AsyncFnOnce(&StepKind, &Context<'_>) -> T) -> T {
        let names = Names { variables: STEP_VARIABLES.to_vec(), steps: BTreeSet::new() };
        let scope = self.world.step_scope(
            &self.mark.remediation,
            "playbook",
            &quell_crds::v1alpha1::RemediationStatus::default(),
        );
        let steps: Vec<StepRecord> = self.others.iter().chain([&self.record]).cloned().collect();
        let cx = Context {
            mark: &self.mark,
            playbook: self.playbook,
            world: &self.world,
            scope: &scope,
            names: &names,
            record: &self.record,
            steps: &steps,
            cluster: &self.stage.known,
            writer,
            http: &self.http,
            courier: &self.courier,
            now: Utc::now(),
        };
        act(&self.kind, &cx).await
    }
}
