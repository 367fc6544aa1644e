//! A Finding: which playbooks are for it, their containment at once, then the record, then its status.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use futures::future::{join_all, try_join_all};
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta, PostParams};
use quell_crds::names::{self, field_managers};
use quell_crds::v1alpha1::{
    Finding, FindingReference, FindingStatus, Intent, Mode, PlaybookKind, Remediation, RemediationSpec,
    RemediationStatus, RunReference, RunSettings, Target,
};
use quell_playbooks::cel::Scope;
use quell_playbooks::kind::traits;
use quell_playbooks::plan::{self, Asked, Decision, Run};
use quell_playbooks::select::{self, Verdict};
use quell_playbooks::suppress::without;
use quell_playbooks::{Compiled, TargetState, World, progress};

use crate::engine::episode::{episode, goes_back};
use crate::engine::expiry;
use crate::engine::queue::Look;
use crate::engine::selection::Selection;
use crate::engine::status;
use crate::engine::{Engine, EngineError, Live, Stage, run};

/// One look at a Finding: observe, select, contain and record new runs, report.
pub async fn pass(engine: Arc<Engine>, finding: Arc<Finding>) -> Result<Look, EngineError> {
    let seen = Instant::now();
    if finding.metadata.deletion_timestamp.is_some() {
        return Ok(Look::OnChange);
    }
    let world = observe(&engine, &finding);
    let mut selection = choose(&engine, &finding, &world);
    if is_over(&finding) {
        selection.new = contained_before(&engine, &world, selection.new).await;
    }
    let begun = try_join_all(selection.new.iter().map(|playbook| begin(&engine, &world, playbook, seen))).await?;
    if !begun.is_empty() {
        // A run that was begun reports by its own first record, which brings the Finding back here.
        return Ok(Look::OnChange);
    }
    let now = Utc::now();
    let expiry = expiry::of(&engine, &finding, &selection.runs, now);
    status::report_finding(&engine, &finding, &world, &selection, expiry.is_due().then_some(now)).await?;
    Ok(expiry.look(now))
}

fn observe(engine: &Engine, finding: &Finding) -> World {
    let wanted = engine.library.mentions() | engine.suppressions.mentions();
    engine.caches.world(finding, &finding.spec.target, finding.spec.workload.as_ref(), wanted)
}

fn is_over(finding: &Finding) -> bool {
    finding.status.as_ref().is_some_and(FindingStatus::is_over)
}

/// What is over is no reason to begin anything. But what was contained when the signal came has a run, or nobody could undo it.
async fn contained_before(engine: &Engine, world: &World, chosen: Vec<Arc<Compiled>>) -> Vec<Arc<Compiled>> {
    let namespace = world.finding.namespace().unwrap_or_default();
    let annotations = world.target.pod().and_then(|pod| pod.annotations.as_ref());
    let marked = annotations.and_then(|all| all.get(names::REMEDIATION));
    let mut contained = Vec::new();
    for playbook in chosen {
        let name = run_name(engine, &playbook, &world.finding);
        let taken_up = match engine.runs.known(&namespace, &name) {
            Some(live) => live.lock().await.status.is_some(),
            None => false,
        };
        if taken_up || marked == Some(&name) {
            contained.push(playbook);
        }
    }
    contained
}

/// Judges every playbook. A run that is there, or was there for this episode of the Finding, isn't begun again.
fn choose(engine: &Engine, finding: &Finding, world: &World) -> Selection {
    let runs = engine.caches.runs_of(finding);
    let scope = world.scope();
    let suppressed = engine.suppressions.judge(world, &scope);
    let mut selection = Selection::of(finding, runs, suppressed);
    if selection.suppressed.whole.is_some() {
        return selection;
    }
    // Playbooks see what is left of a Finding of which some vulnerabilities are accepted.
    let left = (!selection.suppressed.vulnerabilities.is_empty())
        .then(|| World { finding: without(&world.finding, &selection.suppressed), ..world.clone() });
    let (world, scope) = match &left {
        Some(left) => (left, left.scope()),
        None => (world, scope),
    };
    // Of a group one is run, and one that was stays the one.
    let mut taken: HashSet<(PlaybookKind, String)> = HashSet::new();
    let of_group = |kind, settings: &RunSettings| settings.group.clone().map(|group| (kind, group));
    taken.extend(selection.enforced().filter_map(|run| of_group(run.spec.playbook.kind, &run.spec.settings)));
    for entry in engine.library.entries().iter() {
        let Ok(compiled) = &entry.compiled else { continue };
        let name = run_name(engine, compiled, finding);
        let known = |run: &RunReference| run.name == name;
        let recorded = finding.status.as_ref().is_some_and(|status| status.remediations.iter().any(known));
        // Whatever its name: that is by how many runs there were before, of which some may have been deleted since.
        let begun = |run: &Arc<Remediation>| run.name_any() == name || run.spec.playbook.uid == compiled.reference.uid;
        // One that is being undone is waited for: it would take away what the new one does.
        let is_undone = |run: &&Arc<Remediation>| run.spec.playbook.uid == compiled.reference.uid && goes_back(run);
        if selection.earlier().any(|run| is_undone(&run)) {
            continue;
        }
        if recorded || selection.current().any(begun) {
            if compiled.mode == Mode::Enforce {
                taken.extend(of_group(compiled.reference.kind, &compiled.settings));
            }
            continue;
        }
        match select::judge(compiled, world, &scope) {
            Verdict::Matches => selection.new.push(compiled.clone()),
            Verdict::Differs(_) => {}
            Verdict::Fails(error) => selection.failed.push((compiled.reference.name.clone(), error.to_string())),
        }
    }
    let matched = std::mem::take(&mut selection.new);
    let stands_back = |playbook: &Compiled| {
        of_group(playbook.reference.kind, &playbook.settings).is_some_and(|group| taken.contains(&group))
            || select::preferred(playbook, matched.iter().map(AsRef::as_ref)).is_some()
    };
    selection.new = matched.iter().filter(|playbook| !stands_back(playbook)).cloned().collect();
    selection.new.sort_by_key(|playbook| std::cmp::Reverse(playbook.settings.priority));
    selection
}

fn run_name(engine: &Engine, playbook: &Compiled, finding: &Finding) -> String {
    let (playbook, uid) = (&playbook.reference, finding.uid().unwrap_or_default());
    // A Finding that isn't stored yet has no UID; every run that is there is then for an earlier one.
    let runs = engine.caches.runs_of_name(finding);
    let runs = runs.iter().filter(|run| run.spec.playbook.uid == playbook.uid && run.spec.finding.uid != uid);
    let before: HashSet<&str> = runs.map(|run| run.spec.finding.uid.as_str()).collect();
    names::remediation(&playbook.name, &playbook.uid, &finding.name_any(), before.len(), episode(finding))
}

/// Contains what a signal is about while its Finding is being stored: neither has to wait for the other. The run is recorded when the
/// Finding is seen. Were the Finding not to be stored, the pod carries who cut it off, why, and what was there before; and the sender, who
/// gets no success, sends it again.
pub async fn contain_at_once(engine: &Engine, finding: &Finding) {
    let seen = Instant::now();
    let world = observe(engine, finding);
    if world.target.pod().is_none() {
        return;
    }
    let selection = choose(engine, finding, &world);
    let contained = selection.new.iter().map(|playbook| async {
        let run = new_run(engine, &world, playbook);
        let live = engine.runs.of(&run.namespace().unwrap_or_default(), &run.name_any());
        let mut live = live.lock().await;
        take_up(engine, &world, playbook, &run, &mut live, seen).await
    });
    for error in join_all(contained).await.into_iter().filter_map(Result::err) {
        tracing::warn!(finding = finding.name_any(), %error, "containment is tried again when the Finding is seen");
    }
}

/// Contains first: what cuts the threat off carries its own record, so the record of the run can wait until it is done.
async fn begin(engine: &Engine, world: &World, playbook: &Compiled, seen: Instant) -> Result<(), EngineError> {
    let mut run = new_run(engine, world, playbook);
    let live = engine.runs.of(&run.namespace().unwrap_or_default(), &run.name_any());
    let mut live = live.lock().await;
    take_up(engine, world, playbook, &run, &mut live, seen).await?;
    // What was contained when the signal came was contained, whatever was turned since.
    run.spec.mode = live.mode.unwrap_or(run.spec.mode);
    live.finding = Some(world.finding.clone());
    record(engine, &run).await
}

/// Contains, unless that was done when the signal came.
async fn take_up(
    engine: &Engine,
    world: &World,
    playbook: &Compiled,
    run: &Remediation,
    live: &mut Live,
    seen: Instant,
) -> Result<(), EngineError> {
    if live.status.is_none() {
        let mut status = plan::prepare(&playbook.steps, None, Utc::now());
        if run.spec.mode == Mode::Enforce {
            contain(engine, world, playbook, run, &mut status, seen).await?;
        }
        live.mode = Some(run.spec.mode);
        live.steps = Arc::new(playbook.steps.clone());
        live.status = Some(status);
    }
    Ok(())
}

/// Does the containment steps whose turn it is at the start of the run.
async fn contain(
    engine: &Engine,
    world: &World,
    playbook: &Compiled,
    run: &Remediation,
    status: &mut RemediationStatus,
    seen: Instant,
) -> Result<(), EngineError> {
    let scope: Scope = world.step_scope(&run.name_any(), &playbook.reference.name, status);
    let now = Utc::now();
    let asked = Asked::default();
    let plan = plan::plan(Run { steps: &playbook.steps, status, settings: &playbook.settings, asked }, &scope, now);
    let first: Vec<_> = plan
        .decisions
        .into_iter()
        .filter_map(|decision| match decision {
            Decision::Perform { step, kind } if traits(&kind).contains => Some((step, kind)),
            _ => None,
        })
        .collect();
    if first.is_empty() {
        return Ok(());
    }
    let namespace = run.namespace().unwrap_or_default();
    let writer = engine.writer_of(run)?.behind(engine.permits.clone());
    for (step, _) in &first {
        progress::begin(&mut status.steps[*step], now);
    }
    let stage =
        Stage { engine, run, world, scope: &scope, writer: &writer, steps: &playbook.steps, records: &status.steps };
    let outcomes = join_all(first.iter().map(|(step, kind)| {
        let stage = &stage;
        async move {
            let mark = stage.mark(*step);
            let _pass = engine.lanes.urgent().await;
            run::perform(stage, *step, kind, &stage.context(&mark, *step)).await
        }
    }))
    .await;
    engine.metrics.containment.observe(seen.elapsed().as_secs_f64());
    for ((step, _), outcome) in first.iter().zip(outcomes) {
        let key = format!("{namespace}/{}/{step}", run.name_any());
        progress::settle(&mut status.steps[*step], &playbook.steps[*step].step, outcome, &key, Utc::now());
    }
    Ok(())
}

/// The name is the same for the same playbook and Finding: whoever else has created it meant this very run.
async fn record(engine: &Engine, run: &Remediation) -> Result<(), EngineError> {
    let api: Api<Remediation> = Api::namespaced(engine.client.clone(), &run.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(field_managers::RECORD.to_owned()), ..PostParams::default() };
    let _pass = engine.lanes.book_keeping().await;
    match api.create(&parameters, run).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(EngineError::record(format!("recording the run {}", run.name_any()))(error)),
    }
}

/// The run, with the playbook as it is now and the target as it was found.
fn new_run(engine: &Engine, world: &World, playbook: &Compiled) -> Remediation {
    let finding = &world.finding;
    let uid = finding.uid().unwrap_or_default();
    Remediation {
        metadata: ObjectMeta {
            name: Some(run_name(engine, playbook, finding)),
            namespace: finding.namespace(),
            ..ObjectMeta::default()
        },
        spec: RemediationSpec {
            finding: FindingReference { name: finding.name_any(), uid, episode: episode(finding) },
            playbook: playbook.reference.clone(),
            steps: playbook.steps.iter().filter(|step| !step.finally).map(|step| step.step.clone()).collect(),
            settings: playbook.settings.clone(),
            author: playbook.author.clone(),
            target: target(world),
            workload: world.workload.clone(),
            mode: if engine.permits.known().guardrails.learn() { Mode::DryRun } else { playbook.mode },
            intent: Intent::Run,
            undo_steps: Vec::new(),
        },
        status: None,
    }
}

/// A Finding written by hand may name a pod without its UID: the pod that has the name now is the one that is meant.
fn target(world: &World) -> Target {
    let mut target = world.finding.spec.target.clone();
    if let TargetState::Pod(pod) = &world.target {
        target.uid.clone_from(&pod.uid);
    }
    target
}
