//! What a run does beside its record: the effects of its steps, their undo, and the look for what was never recorded.

use chrono::Utc;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::ResourceExt as _;
use quell_actions::Context;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Intent, Remediation, RemediationStatus, StepKind};
use quell_playbooks::compile::CompiledStep;
use quell_playbooks::guardrails::Purpose;
use quell_playbooks::kind::traits;
use quell_playbooks::plan::{Decision, gate};
use quell_playbooks::{Outcome, Recovery, UndoOutcome, World, progress};

use super::report;
use crate::engine::gates::Decisions;
use crate::engine::{Engine, EngineError, Live, Stage, held};

/// One decision, as far as the engine must tell them apart.
pub(super) enum Work {
    /// Changes the record only.
    Record(Decision),
    /// Has an effect, or looks at one.
    Effect { step: usize, what: What },
}

#[derive(Clone)]
pub(super) enum What {
    Perform(Box<StepKind>),
    Revert,
    Recover,
    Undo,
}

impl From<Decision> for Work {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Perform { step, kind } => Self::Effect { step, what: What::Perform(kind) },
            Decision::Revert { step } => Self::Effect { step, what: What::Revert },
            Decision::Recover { step } => Self::Effect { step, what: What::Recover },
            Decision::Undo { step } => Self::Effect { step, what: What::Undo },
            other => Self::Record(other),
        }
    }
}

impl Work {
    pub(super) fn step(&self) -> Option<usize> {
        match self {
            Self::Effect { step, .. } => Some(*step),
            Self::Record(_) => None,
        }
    }

    /// The step whose intent is to be recorded.
    pub(super) fn begins(&self) -> Option<usize> {
        match self {
            Self::Record(Decision::Begin { step }) => Some(*step),
            _ => None,
        }
    }

    /// The step, and what is done with it: a step that fails is put back in the same pass.
    pub(super) fn key(&self) -> Option<(usize, std::mem::Discriminant<What>)> {
        match self {
            Self::Effect { step, what } => Some((*step, std::mem::discriminant(what))),
            Self::Record(_) => None,
        }
    }
}

/// What became of an effect.
#[allow(clippy::large_enum_variant, reason = "moved once")]
enum Became {
    Of(Outcome),
    Unapproved,
    Reverted(UndoOutcome),
    Recovered(Recovery),
    Undone(UndoOutcome),
}

/// Makes the effects side by side, and records each as it comes to its end.
pub(super) async fn effects(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    steps: &[CompiledStep],
    world: &World,
    status: &mut RemediationStatus,
    work: Vec<Work>,
) -> Result<(), EngineError> {
    if work.is_empty() {
        return Ok(());
    }
    // Writes to the cluster pass the fence themselves; what leaves the cluster has no other.
    if engine.fence.is_closed() {
        return Err(EngineError::NotLeading);
    }
    let writer = engine.writer_of(run)?;
    let by_a_person = run.spec.intent == Intent::Undo;
    let writer = if by_a_person { writer } else { writer.behind(engine.permits.clone()) };
    for one in &work {
        if let Work::Effect { step, what: What::Perform(_) } = one {
            progress::begin(&mut status.steps[*step], Utc::now());
        }
    }
    let records = status.steps.clone();
    let scope = world.step_scope(&run.name_any(), &run.spec.playbook.name, status);
    let stage = Stage { engine, run, world, scope: &scope, writer: &writer, steps, records: &records };
    let mut under_way: FuturesUnordered<_> = work
        .into_iter()
        .filter_map(|one| match one {
            Work::Effect { step, what } => Some(effect(&stage, step, what)),
            Work::Record(_) => None,
        })
        .collect();
    while let Some((step, became)) = under_way.next().await {
        settle(status, steps, run, step, became);
        if !under_way.is_empty() {
            report(engine, live, run, status).await?;
        }
    }
    Ok(())
}

fn is_asked_by_a_person(stage: &Stage<'_>, step: usize) -> bool {
    let spec = &stage.run.spec;
    spec.intent == Intent::Undo || spec.undo_steps.contains(&stage.steps[step].step.name)
}

async fn effect(stage: &Stage<'_>, step: usize, what: What) -> (usize, Became) {
    let mark = stage.mark(step);
    let cx = stage.context(&mark, step);
    let kind = &stage.steps[step].step.kind;
    let _pass =
        if traits(kind).contains { stage.engine.lanes.urgent().await } else { stage.engine.lanes.effect().await };
    let undone = async || match &stage.records[step].receipt {
        Some(receipt) => quell_actions::undo(kind, receipt, &cx).await,
        None => UndoOutcome::LeftAlone {
            reason: Reason::NothingToUndo,
            message: "nothing is recorded that could be put back".to_owned(),
        },
    };
    let purpose = match what {
        What::Perform(_) => Purpose::Effect,
        What::Undo if is_asked_by_a_person(stage, step) => Purpose::UndoOfAPerson,
        What::Revert | What::Recover | What::Undo => Purpose::Upkeep,
    };
    // To look only reads: no guardrail stands in its way.
    if purpose != Purpose::Effect
        && !matches!(what, What::Recover)
        && let Err(hold) = stage.engine.permits.ask(stage, step, kind, purpose).await
    {
        let held = UndoOutcome::Held(hold);
        return (step, if matches!(what, What::Revert) { Became::Reverted(held) } else { Became::Undone(held) });
    }
    let became = match what {
        What::Perform(kind) if !is_approved(stage, step, &kind) => Became::Unapproved,
        What::Perform(kind) => Became::Of(perform(stage, step, &kind, &cx).await),
        What::Recover => Became::Recovered(quell_actions::recover(kind, &cx).await),
        What::Revert => Became::Reverted(held::of_undo(stage, step, undone().await)),
        What::Undo => Became::Undone(held::of_undo(stage, step, undone().await)),
    };
    (step, became)
}

/// Asked at the very moment of the effect, of what is about to be done. What has begun is seen through.
fn is_approved(stage: &Stage<'_>, step: usize, kind: &StepKind) -> bool {
    let (gate, record) = (&stage.steps[step].step.approval, &stage.records[step]);
    let begun = record.receipt.is_some() || !record.outputs.is_empty();
    let Some(gate) = gate.as_ref().filter(|_| !begun) else { return true };
    let decisions = Decisions::of(stage.engine, stage.run, &stage.world.finding);
    gate::is_open(gate, &record.name, kind, record.approval.as_ref(), decisions.votes(), Utc::now())
}

/// Does a step, if it may be done now.
pub(in crate::engine) async fn perform(stage: &Stage<'_>, step: usize, kind: &StepKind, cx: &Context<'_>) -> Outcome {
    let permits = &stage.engine.permits;
    if let Err(hold) = permits.ask(stage, step, kind, Purpose::Effect).await {
        return Outcome::Held(hold);
    }
    let outcome = held::of(stage, step, quell_actions::perform(kind, cx).await);
    let goes_on = matches!(outcome, Outcome::Pending { .. });
    permits.tried(stage.run, &stage.steps[step].step.name, goes_on);
    outcome
}

fn settle(status: &mut RemediationStatus, steps: &[CompiledStep], run: &Remediation, step: usize, became: Became) {
    let key = format!("{}/{}/{step}", run.namespace().unwrap_or_default(), run.name_any());
    let (record, now) = (&mut status.steps[step], Utc::now());
    match became {
        Became::Of(outcome) => progress::settle(record, &steps[step].step, outcome, &key, now),
        Became::Unapproved => progress::not_approved(record),
        Became::Reverted(outcome) => progress::settle_revert(record, outcome, &key, now),
        Became::Recovered(found) => progress::settle_recovery(record, found, &key, now),
        Became::Undone(outcome) => progress::settle_undo(record, outcome, &key, now),
    }
}
