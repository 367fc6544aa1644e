//! A quarantine is kept until it is undone: what opens is told, what somebody changed is put back.

mod tell;

pub use tell::Tellings;

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Duration, Utc};
use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use quell_actions::quarantine::{self, Kept};
use quell_audit::{Entry, Event};
use quell_crds::conditions::{ConditionType, Reason, Status, condition};
use quell_crds::v1alpha1::{Intent, Remediation, RemediationStatus};
use quell_isolation::PodRef;
use quell_playbooks::kept::{CONTESTED, Facts, WINDOW, wait};

use crate::containment::{Deviation, Standing, standing};
use crate::engine::{Engine, EngineError, Live, Stage, run, told};

/// Writes down whether the quarantines that stand hold.
pub fn observe(engine: &Engine, run: &Remediation, status: &mut RemediationStatus) {
    let judge = |one| {
        let began = Instant::now();
        let judged = engine.caches.containment.judge(one);
        engine.metrics.verification.observe(began.elapsed().as_secs_f64());
        judged
    };
    let judged = standing(run, status).iter().map(judge).max_by_key(|judged| match judged.0 {
        Status::False => 2,
        Status::Unknown => 1,
        Status::True => 0,
    });
    let before = std::mem::take(&mut status.conditions);
    let type_ = ConditionType::Contained.to_string();
    status.conditions = before.iter().filter(|condition| condition.type_ != type_).cloned().collect();
    status.open_paths = Vec::new();
    if let Some((state, reason, message, open)) = judged {
        let kind = ConditionType::Contained;
        let generation = run.metadata.generation;
        status.conditions.push(condition(&before, kind, state, reason, message, generation, Utc::now()));
        status.open_paths = open;
    }
}

/// Puts back what somebody has changed, and tells the channels of what they don't know yet. The answer is when to look again, where there
/// is something left to do that no change will bring back.
pub async fn keep(
    engine: &Arc<Engine>,
    live: &mut Live,
    run: &Remediation,
    status: &mut RemediationStatus,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    if run.spec.intent == Intent::Undo {
        return Ok(None);
    }
    let standing = standing(run, status);
    let Some(first) = standing.first() else { return Ok(None) };
    let containment = &engine.caches.containment;
    let mut again = None;
    let mut facts = Facts::default();
    let mut last = None;
    for quarantine in &standing {
        let pod = PodRef::new(&quarantine.receipt.namespace, &quarantine.receipt.name);
        let now = Utc::now();
        // What was changed while nobody looked is no change that would bring the run back.
        again = [again, containment.settles_at(quarantine)].into_iter().flatten().min();
        if let Deviation::Changed { open } = containment.deviation(quarantine) {
            facts.changed = true;
            let restored = containment.restored(&pod, now - WINDOW);
            let next = restored.last().map_or(now, |last| *last + wait(restored.len()));
            let next = if next > now {
                Some(next)
            } else {
                let Done { message, failed } = put_back(engine, live, run, status, quarantine, open).await?;
                facts.failed |= failed.is_some();
                last = message.or(last);
                failed
            };
            again = [again, next].into_iter().flatten().min();
        }
        let restored = containment.restored(&pod, now - WINDOW);
        facts.restored = facts.restored.max(restored.len());
        if restored.len() >= CONTESTED {
            // That it has come to an end is told, too.
            again = [again, restored.first().map(|first| *first + WINDOW)].into_iter().flatten().min();
        }
    }
    facts.open = status.conditions.iter().any(|one| one.reason == Reason::PathsOpen.to_string());
    let later = tell::news(engine, live, run, status, first.step, &facts, last).await?;
    Ok([again, later].into_iter().flatten().min())
}

async fn audit(engine: &Engine, run: &Remediation, step: &str, reason: Reason, message: &str) {
    if engine.audit.is_on() {
        let (event, step, reason) = (Event::Kept, step.to_owned(), reason.to_string());
        let entry = Entry { event, step, reason, message: message.to_owned(), ..quell_audit::about(run, Utc::now()) };
        engine.audit.write(vec![entry]).await;
    }
}

/// What a try to put a quarantine back came to.
#[derive(Default)]
struct Done {
    /// What people may be told.
    message: Option<String>,
    /// It failed, and is tried again then.
    failed: Option<DateTime<Utc>>,
}

async fn put_back(
    engine: &Arc<Engine>,
    live: &mut Live,
    run: &Remediation,
    status: &RemediationStatus,
    quarantine: &Standing,
    open: bool,
) -> Result<Done, EngineError> {
    let namespace = run.namespace().unwrap_or_default();
    let name = live.steps.get(quarantine.step).map(|step| step.step.name.clone()).unwrap_or_default();
    if let Some(hold) = engine.permits.standstill(run, &name) {
        tracing::warn!(%namespace, remediation = run.name_any(), message = hold.message, "a quarantine that was changed isn't put back");
        return Ok(Done::default());
    }
    let world = run::observe(engine, live, run);
    let scope = world.step_scope(&run.name_any(), &run.spec.playbook.name, status);
    let writer = engine.writer_of(run)?.behind(engine.permits.clone());
    let steps = live.steps.clone();
    let stage =
        Stage { engine, run, world: &world, scope: &scope, writer: &writer, steps: &steps, records: &status.steps };
    let mark = stage.mark(quarantine.step);
    let kept = {
        let _pass = engine.lanes.urgent().await;
        quarantine::keep(&quarantine.parameters, &quarantine.receipt, open, &stage.context(&mark, quarantine.step))
            .await
    };
    let pod = PodRef::new(&quarantine.receipt.namespace, &quarantine.receipt.name);
    let now = Utc::now();
    match kept {
        Ok(Kept::Stands | Kept::Gone) => Ok(Done::default()),
        Ok(Kept::Restored { what, by }) => {
            engine.caches.containment.was_restored(&pod, now);
            let times = engine.caches.containment.restored(&pod, now - WINDOW).len();
            let (reason, message) = restored(&pod, &what, &by, times);
            tracing::warn!(%namespace, remediation = run.name_any(), %pod, %reason, message, "quarantine");
            let event = told::event(EventType::Warning, &reason.to_string(), "Kept", &message);
            told::publish(engine, run, live.finding.as_ref(), event).await;
            audit(engine, run, &mark.step, reason, &message).await;
            if times == 1 {
                tell::restored(engine, live, run, status, quarantine.step, &message);
            }
            Ok(Done { message: Some(message), failed: None })
        }
        Err(error) => {
            let message = format!("the quarantine of pod {pod} was changed and could not be put back: {error}");
            tracing::error!(%namespace, remediation = run.name_any(), %pod, message, "quarantine");
            let event = told::event(EventType::Warning, &error.reason().to_string(), "NotKept", &message);
            told::publish(engine, run, live.finding.as_ref(), event).await;
            engine.caches.containment.was_restored(&pod, now);
            let times = engine.caches.containment.restored(&pod, now - WINDOW).len();
            Ok(Done { message: Some(message), failed: Some(now + wait(times).max(Duration::seconds(1))) })
        }
    }
}

fn restored(pod: &PodRef, what: &str, by: &str, times: usize) -> (Reason, String) {
    if times < CONTESTED {
        let message = format!(
            "the quarantine of pod {pod} was changed by {by}: {what}; it was put back. To lift it: kubectl quell undo"
        );
        return (Reason::QuarantineRestored, message);
    }
    let message = format!(
        "the quarantine of pod {pod} was changed {times} times in ten minutes, last by {by}: {what}; Quell goes on putting it back, at \
         most once a minute. Stop {by}, or lift the quarantine: kubectl quell undo"
    );
    (Reason::QuarantineContested, message)
}
