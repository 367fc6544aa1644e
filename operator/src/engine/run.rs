//! A run: observe, plan, perform, report, until there is nothing to do now.

mod effects;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{
    Finding, FindingSpec, FindingStatus, Intent, Mode, Phase, Remediation, RemediationStatus, StepState,
};
use quell_playbooks::compile::{CompiledStep, compile_steps};
use quell_playbooks::kind::traits;
use quell_playbooks::plan::{self, Asked, Decision, Run};
use quell_playbooks::{Mentions, World, apply, contention, progress, refresh};

pub(super) use self::effects::perform;
use self::effects::{What, Work, effects};
use crate::engine::gates::{self, Decisions};
use crate::engine::queue::Look;
use crate::engine::{Engine, EngineError, Live, Stage, dry, held, kept, probed, status, told};

/// What a step waits for is watched. This is for what a watch can miss: looked at again no later than that.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);

/// Findings of one name that were deleted and reported again, each with a run.
const MOST_RUNS: usize = 64;

/// One look at a run. It moves as far as it can without waiting.
pub async fn pass(engine: Arc<Engine>, run: Arc<Remediation>) -> Result<Look, EngineError> {
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let live = engine.runs.of(&namespace, &name);
    let mut live = live.lock().await;
    let moved = Box::pin(go(&engine, &run, &mut live)).await;
    // Also after a pass that broke off: what it took and didn't use would keep others waiting.
    if live.steps.iter().any(|step| contention::may_wait(&step.step.kind)) {
        let world = observe(&engine, &mut live, &run);
        let status = live.status.clone().unwrap_or_default();
        engine.turns.settle(&run, &live.steps.clone(), &status, &world);
    }
    let (look, over) = moved?;
    drop(live);
    if over {
        engine.runs.forget(&namespace, &name);
    }
    Ok(look)
}

/// The answer is when to look again, and whether the run has ended and is recorded.
async fn go(engine: &Arc<Engine>, run: &Remediation, live: &mut Live) -> Result<(Look, bool), EngineError> {
    let name = run.name_any();
    if live.status.is_none() && run.status.is_none() && !genuine(engine, run) {
        return refuse(engine, run, live).await.map(|look| (look, false));
    }
    resume(live, run);
    let steps = live.steps.clone();
    let mut status = live.status.clone().unwrap_or_default();
    // Whatever is asked of it: it has done nothing that could be undone, and never does.
    if run.spec.mode == Mode::DryRun {
        if !status.phase.is_final() {
            status = Box::pin(dry::rehearse(engine, live, run, status)).await?;
        }
        if run.spec.intent == Intent::Undo && status.phase != Phase::Undone {
            let message = "it was a dry run: there is nothing to undo".to_owned();
            let undone = Decision::Enter { phase: Phase::Undone, reason: Reason::DryRun, message };
            apply(&mut status, &steps, &undone, Utc::now());
        }
        report(engine, live, run, &mut status).await?;
        let recorded = run.status.as_ref().is_some_and(|recorded| recorded.phase.is_final());
        return Ok((Look::OnChange, recorded));
    }
    let (mut looked, mut begun) = (HashSet::new(), HashSet::new());
    let wake_at = loop {
        let world = observe(engine, live, run);
        let scope = world.step_scope(&name, &run.spec.playbook.name, &status);
        let now = Utc::now();
        let decisions = Decisions::of(engine, run, &world.finding);
        let asked = asked(run, &world, &decisions);
        let plan = plan::plan(Run { steps: &steps, status: &status, settings: &run.spec.settings, asked }, &scope, now);
        let (work, records): (Vec<_>, Vec<_>) =
            plan.decisions.into_iter().map(Work::from).partition(|one| matches!(one, Work::Effect { .. }));
        // What waits for a change is looked at once a pass; the change brings the run back here.
        let work: Vec<_> = work.into_iter().filter(|work| looked.insert(work.key())).collect();
        let waited = work.len();
        let work: Vec<_> =
            work.into_iter().filter(|work| has_its_turn(engine, run, &steps, &world, &mut status, work)).collect();
        let waited = waited != work.len();
        let records: Vec<_> =
            records.into_iter().filter(|one| one.begins().is_none_or(|step| begun.insert(step))).collect();
        if work.is_empty() && records.is_empty() && !waited {
            break plan.wake_at;
        }
        let intends = records.iter().any(|one| matches!(one, Work::Record(Decision::Begin { .. })));
        for one in &records {
            let Work::Record(decision) = one else { continue };
            // What leaves the cluster is asked for before its intent is recorded, too: a step that is held intends nothing.
            let stands_in_the_way = match one.begins() {
                Some(step) => held::before_it_begins(engine, run, &world, &scope, &steps, &status, step).await,
                None => None,
            };
            match (stands_in_the_way, one.begins()) {
                (Some(hold), Some(step)) => progress::hold(&mut status.steps[step], &hold),
                _ => apply(&mut status, &steps, decision, now),
            }
        }
        // Containment carries its own record; everything else finds what was intended before it durable, even after a write that failed.
        let relies = work.iter().any(|one| one.step().is_some_and(|step| !traits(&steps[step].step.kind).contains));
        if intends || (live.behind && relies) {
            report(engine, live, run, &mut status).await?;
        }
        let recovers = work.iter().any(|one| matches!(one, Work::Effect { what: What::Recover, .. }));
        effects(engine, live, run, &steps, &world, &mut status, work).await?;
        if recovers {
            // Undo takes the mark off: what it found by that must not be lost a second time.
            report(engine, live, run, &mut status).await?;
        }
    };
    report(engine, live, run, &mut status).await?;
    let tell_at = tell_of_gates(engine, live, run, &steps, &mut status).await?;
    let keep_at = kept::keep(engine, live, run, &mut status).await?;
    let probe_at = probed::go_on(engine, live, run, &mut status).await?;
    report(engine, live, run, &mut status).await?;
    // One that is undone is known as such, lest a run of the same name, after this one was deleted, be taken for it.
    let recorded = run.status.as_ref().map(|recorded| recorded.phase).is_some_and(|recorded| match run.spec.intent {
        Intent::Undo => recorded == Phase::Undone,
        _ => recorded.is_final(),
    });
    let quiet = status.current_step.is_empty();
    let over = status.phase.is_final() && recorded && quiet && probe_at.is_none();
    let wake_at = [wake_at, tell_at, keep_at, probe_at].into_iter().flatten().min();
    Ok((next_look(wake_at, &status), over))
}

/// What is asked is durable by now: whoever is told finds it.
async fn tell_of_gates(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    steps: &[CompiledStep],
    status: &mut RemediationStatus,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    if gates::all_told(status) {
        return Ok(None);
    }
    let world = observe(engine, live, run);
    let scope = world.step_scope(&run.name_any(), &run.spec.playbook.name, status);
    let writer = engine.writer_of(run)?;
    let records = status.steps.clone();
    let stage = Stage { engine, run, world: &world, scope: &scope, writer: &writer, steps, records: &records };
    let again = Box::pin(gates::tell(&stage, status)).await;
    report(engine, live, run, status).await?;
    Ok(again)
}

fn asked<'a>(run: &'a Remediation, world: &World, decisions: &'a Decisions) -> Asked<'a> {
    let resolved = world.finding.status.as_ref().is_some_and(FindingStatus::is_resolved);
    Asked { intent: run.spec.intent, undo_steps: &run.spec.undo_steps, resolved, votes: decisions.votes() }
}

/// Whether a step that would begin, or begin a further try, may change its object now. Where another run goes first, it waits.
fn has_its_turn(
    engine: &Engine,
    run: &Remediation,
    steps: &[CompiledStep],
    world: &World,
    status: &mut RemediationStatus,
    work: &Work,
) -> bool {
    let Work::Effect { step, what: What::Perform(_) } = work else { return true };
    let record = &mut status.steps[*step];
    if record.state == StepState::Running {
        return true;
    }
    match engine.turns.may_go(run, &steps[*step], world, &engine.caches) {
        Ok(()) => true,
        Err(why) => {
            progress::wait(record, &why);
            false
        }
    }
}

/// Whether Quell itself began the run. A run acts with the rights of its playbook, so it must be one that this playbook has for this
/// Finding: one written by hand could name any playbook and any steps.
fn genuine(engine: &Engine, run: &Remediation) -> bool {
    let playbook = &run.spec.playbook;
    let finding = &run.spec.finding;
    let named = |before| names::remediation(&playbook.name, &playbook.uid, &finding.name, before, finding.episode);
    let steps = run.spec.steps.as_slice();
    (0..MOST_RUNS).any(|before| named(before) == run.name_any())
        && engine.library.entries().iter().any(|entry| {
            let draft = &entry.draft;
            draft.reference == *playbook
                && draft.steps == steps
                && draft.settings == run.spec.settings
                && draft.author == run.spec.author
                && (draft.mode == run.spec.mode || run.spec.mode == Mode::DryRun)
        })
}

/// A run that can't be told to be Quell's own is recorded as refused, and nothing of it is done.
async fn refuse(engine: &Engine, run: &Remediation, live: &mut Live) -> Result<Look, EngineError> {
    let message = "not begun by Quell, or its playbook was changed or deleted before its first record: nothing was done; \
                   the Finding is run again when it is reported again and this object is deleted";
    let refused = Decision::Enter { phase: Phase::Failed, reason: Reason::Forbidden, message: message.to_owned() };
    let mut status = RemediationStatus::default();
    apply(&mut status, &[], &refused, Utc::now());
    report(engine, live, run, &mut status).await?;
    Ok(Look::OnChange)
}

/// Takes a run up from its record; what this process knows already is newer.
fn resume(live: &mut Live, run: &Remediation) {
    if live.steps.is_empty() {
        // The steps compiled when the run began. Were they not to compile any more, the run has no step and ends as such.
        live.steps = Arc::new(compile_steps(&run.spec.steps, &run.spec.settings.finally).unwrap_or_default());
    }
    if live.status.is_none() {
        live.status = Some(plan::prepare(&live.steps, run.status.as_ref(), Utc::now()));
        live.written.clone_from(&run.status);
    }
}

pub(super) fn observe(engine: &Engine, live: &mut Live, run: &Remediation) -> World {
    let namespace = run.namespace().unwrap_or_default();
    let key = ObjectRef::<Finding>::new(&run.spec.finding.name).within(&namespace);
    let there = engine.caches.findings.get(&key).filter(|found| found.uid().as_deref() == Some(&run.spec.finding.uid));
    if let Some(finding) = there {
        live.finding = Some((*finding).clone());
    }
    let finding = live.finding.get_or_insert_with(|| deleted_finding(run)).clone();
    // Its playbook may be another by now, or gone.
    let wanted = *live.mentions.get_or_insert_with(|| Mentions::of(&(&run.spec.steps, &run.spec.settings)));
    engine.caches.world(&finding, &run.spec.target, run.spec.workload.as_ref(), wanted)
}

/// A Finding that was deleted before this process saw it: what the run kept of it.
fn deleted_finding(run: &Remediation) -> Finding {
    let spec = FindingSpec {
        source: "deleted".to_owned(),
        rule: run.spec.finding.name.clone(),
        target: run.spec.target.clone(),
        workload: run.spec.workload.clone(),
        ..FindingSpec::default()
    };
    let mut finding = Finding::new(&run.spec.finding.name, spec);
    finding.metadata.namespace = run.namespace();
    finding
}

/// Writes the record where it has changed, and tells of what changed.
pub(super) async fn report(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    status: &mut RemediationStatus,
) -> Result<(), EngineError> {
    refresh(status);
    kept::observe(engine, run, status);
    gates::observe(run, status);
    held::observe(run, status);
    engine.permits.recorded(run, status);
    status.observed_generation = run.metadata.generation;
    live.status = Some(status.clone());
    if live.written.as_ref() == Some(status) {
        return Ok(());
    }
    live.behind = true;
    audit(engine, live, run, status).await;
    status::write_run(engine, run, status).await?;
    live.behind = false;
    let before = live.written.replace(status.clone()).unwrap_or_default();
    told::changes(engine, run, live.finding.as_ref(), &live.steps, &before, status).await;
    held::tell(engine, run, live.finding.as_ref(), &before, status);
    Ok(())
}

/// Told before it is recorded: a crash in between tells of it twice, and never leaves it out.
async fn audit(engine: &Engine, live: &mut Live, run: &Remediation, status: &RemediationStatus) {
    if !engine.audit.is_on() {
        return;
    }
    let told = live.audited.as_ref().or(live.written.as_ref()).cloned().unwrap_or_default();
    engine.audit.write(quell_audit::changes(run, &run.spec.steps, &told, status, Utc::now())).await;
    live.audited = Some(status.clone());
}

fn next_look(wake_at: Option<DateTime<Utc>>, status: &RemediationStatus) -> Look {
    let planned = wake_at.map(|at| (at - Utc::now()).to_std().unwrap_or_default());
    if status.phase.is_final() && status.current_step.is_empty() {
        return planned.map_or(Look::OnChange, Look::In);
    }
    let waits = |state| {
        matches!(
            state,
            StepState::Running
                | StepState::Undoing
                | StepState::Reverting
                | StepState::Waiting
                | StepState::AwaitingApproval
        )
    };
    let anyway =
        status.steps.iter().any(|record| waits(record.state) && record.next_at.is_none()).then_some(LOOK_ANYWAY);
    match (planned, anyway) {
        (Some(planned), Some(anyway)) => Look::In(planned.min(anyway)),
        (Some(wait), None) | (None, Some(wait)) => Look::In(wait),
        (None, None) => Look::OnChange,
    }
}
