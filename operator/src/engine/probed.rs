//! Quarantines are probed where their playbook asks for it: after they stand and are recorded, beside everything else.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use quell_actions::ActionError;
use quell_actions::quarantine::{self, Answer};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Intent, Remediation, RemediationStatus};
use quell_isolation::PodRef;
use quell_playbooks::probe::{Probed, Verdict};

use crate::containment::{Standing, standing};
use crate::engine::{Engine, EngineError, Live, Stage, run, told};

/// Jobs wake the run when they change, also when their pods get ready. This is for what a watch can miss.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);
/// A request that failed is made again after this time.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Goes on with what is due, and writes down what was told. The answer is when to look again.
pub async fn go_on(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    status: &mut RemediationStatus,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    if run.spec.intent != Intent::Run {
        return Ok(None);
    }
    let mut again = None;
    for quarantine in standing(run, status) {
        let Some((round, at)) = quarantine.probed.as_ref().and_then(Probed::due) else { continue };
        // It waits for whatever else the step does: other pods, and their owners.
        if !status.steps[quarantine.step].state.is_final() {
            continue;
        }
        // A pod that is gone is contained without a probe.
        if !engine.caches.containment.is_there(&quarantine) {
            continue;
        }
        let now = Utc::now();
        let next = match at.filter(|at| *at > now) {
            Some(later) => Some(later),
            None => look(engine, live, run, status, &quarantine, round).await?,
        };
        again = [again, next].into_iter().flatten().min();
    }
    Ok(again)
}

async fn look(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    status: &mut RemediationStatus,
    quarantine: &Standing,
    round: u32,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    let step = live.steps.get(quarantine.step).map(|step| step.step.name.clone()).unwrap_or_default();
    // The run is woken when nothing stands in the way any more.
    if engine.permits.standstill(run, &step).is_some() {
        return Ok(None);
    }
    let answer = ask(engine, live, run, status, quarantine, round).await?;
    if answer.is_err() && engine.permits.standstill(run, &step).is_some() {
        return Ok(None);
    }
    let now = Utc::now();
    let pod = PodRef::new(&quarantine.receipt.namespace, &quarantine.receipt.name);
    let (reason, verdict, message) = match answer {
        Ok(Answer::UnderWay(waits)) => {
            tracing::debug!(remediation = run.name_any(), %pod, waits, "probe");
            return Ok(Some(now + LOOK_ANYWAY));
        }
        Ok(Answer::Told(verdict, message)) => (Reason::ProbeFailed, verdict, message),
        Err(error) if error.is_transient() => {
            tracing::warn!(remediation = run.name_any(), %pod, %error, "probe");
            return Ok(Some(now + TRY_AGAIN));
        }
        Err(error) => (error.reason(), Verdict::NotMade, error.to_string()),
    };
    let probed = quarantine.probed.clone().unwrap_or_default().then(verdict, &message, now);
    probed.write(&mut status.steps[quarantine.step].outputs);
    tracing::info!(
        namespace = run.namespace(), remediation = run.name_any(), %pod, %verdict, round, message, "probe"
    );
    // That one got through is told with the condition that it turns.
    if verdict == Verdict::NotMade {
        let event = told::event(EventType::Warning, &reason.to_string(), "Probe", &message);
        told::publish(engine, run, live.finding.as_ref(), event).await;
    }
    Ok(probed.due().and_then(|(_, at)| at))
}

async fn ask(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    status: &RemediationStatus,
    quarantine: &Standing,
    round: u32,
) -> Result<Result<Answer, ActionError>, EngineError> {
    let world = run::observe(engine, live, run);
    let scope = world.step_scope(&run.name_any(), &run.spec.playbook.name, status);
    let writer = engine.writer_of(run)?.behind(engine.permits.clone());
    let steps = live.steps.clone();
    let stage =
        Stage { engine, run, world: &world, scope: &scope, writer: &writer, steps: &steps, records: &status.steps };
    let mark = stage.mark(quarantine.step);
    let _pass = engine.lanes.effect().await;
    let cx = stage.context(&mark, quarantine.step);
    Ok(quarantine::probe(&quarantine.parameters, &quarantine.receipt, round, &cx).await)
}
