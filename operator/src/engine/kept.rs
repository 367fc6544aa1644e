//! A quarantine is kept until it is undone: what opens is told, what somebody changed is put back.

use chrono::{DateTime, Duration, Utc};
use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use quell_actions::quarantine::{self, Kept};
use quell_actions::{Mark, Writer};
use quell_crds::conditions::{ConditionType, Reason, Status, condition};
use quell_crds::v1alpha1::step::Notify;
use quell_crds::v1alpha1::{Intent, Remediation, RemediationStatus, StepKind};
use quell_isolation::PodRef;

use crate::containment::{Deviation, Standing, standing};
use crate::engine::{Engine, EngineError, Live, Stage, run, told};

/// Put back as often as this in ten minutes, it counts as contested: people are told who does it.
const CONTESTED: usize = 3;
/// A quarantine that is changed again and again is put back no more often than this, so as not to fight for ever.
const LONGEST_WAIT: i64 = 60;

/// Writes down whether the quarantines that stand hold.
pub fn observe(engine: &Engine, run: &Remediation, status: &mut RemediationStatus) {
    let judged =
        standing(run, status).iter().map(|one| engine.caches.containment.judge(one)).max_by_key(
            |judged| match judged.0 {
                Status::False => 2,
                Status::Unknown => 1,
                Status::True => 0,
            },
        );
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

/// Puts back what somebody has changed. The answer is when to look again, where it was put back too often to do so now.
pub async fn keep(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    status: &RemediationStatus,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    if run.spec.intent == Intent::Undo {
        return Ok(None);
    }
    let mut again = None;
    for quarantine in standing(run, status) {
        let Deviation::Changed { open } = engine.caches.containment.deviation(&quarantine) else { continue };
        let pod = PodRef::new(&quarantine.receipt.namespace, &quarantine.receipt.name);
        let now = Utc::now();
        let restored = engine.caches.containment.restored(&pod, now - Duration::minutes(10));
        let next = restored.last().map_or(now, |last| *last + wait(restored.len()));
        let next = if next <= now { put_back(engine, live, run, status, &quarantine, open).await? } else { Some(next) };
        again = [again, next].into_iter().flatten().min();
    }
    Ok(again)
}

/// None after the first time, then a second, doubled each time.
fn wait(times: usize) -> Duration {
    let exponent = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    if exponent == 0 { Duration::zero() } else { Duration::seconds((1_i64 << (exponent - 1)).min(LONGEST_WAIT)) }
}

async fn put_back(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    status: &RemediationStatus,
    quarantine: &Standing,
    open: bool,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    let namespace = run.namespace().unwrap_or_default();
    let name = live.steps.get(quarantine.step).map(|step| step.step.name.clone()).unwrap_or_default();
    if let Some(hold) = engine.permits.standstill(run, &name) {
        tracing::warn!(%namespace, remediation = run.name_any(), message = hold.message, "a quarantine that was changed isn't put back");
        return Ok(None);
    }
    let world = run::observe(engine, live, run);
    let scope = world.step_scope(&run.name_any(), &run.spec.playbook.name, status);
    let client =
        engine.identities.of(&run.spec.playbook, &namespace).map_err(|error| EngineError::Identity(Box::new(error)))?;
    let writer = Writer::new(client).behind(engine.permits.clone());
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
        Ok(Kept::Stands | Kept::Gone) => Ok(None),
        Ok(Kept::Restored { what, by }) => {
            engine.caches.containment.was_restored(&pod, now);
            let times = engine.caches.containment.restored(&pod, now - Duration::minutes(10)).len();
            let (reason, message) = restored(&pod, &what, &by, times);
            tracing::warn!(%namespace, remediation = run.name_any(), %pod, %reason, message, "quarantine");
            let event = told::event(EventType::Warning, &reason.to_string(), "Kept", &message);
            told::publish(engine, run, live.finding.as_ref(), event).await;
            if times == 1 || times == CONTESTED {
                notify(&stage, quarantine.step, &mark, &message).await;
            }
            Ok(None)
        }
        Err(error) => {
            let message = format!("the quarantine of pod {pod} was changed and could not be put back: {error}");
            tracing::error!(%namespace, remediation = run.name_any(), %pod, message, "quarantine");
            let event = told::event(EventType::Warning, &error.reason().to_string(), "NotKept", &message);
            told::publish(engine, run, live.finding.as_ref(), event).await;
            engine.caches.containment.was_restored(&pod, now);
            let times = engine.caches.containment.restored(&pod, now - Duration::minutes(10)).len();
            Ok(Some(now + wait(times).max(Duration::seconds(1))))
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

/// Tells the channels that the playbook's own notify steps name.
async fn notify(stage: &Stage<'_>, step: usize, mark: &Mark, message: &str) {
    let mut channels: Vec<_> = stage
        .steps
        .iter()
        .filter_map(|step| match &step.step.kind {
            StepKind::Notify(notify) => Some(notify.channels.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    channels.sort_by(|one, other| one.name.cmp(&other.name));
    channels.dedup_by(|one, other| one.name == other.name);
    if channels.is_empty() {
        return;
    }
    let told = StepKind::Notify(Notify { channels, message: Some(message.to_owned()) });
    let mark = Mark { step: format!("{}-kept-{}", mark.step, Utc::now().timestamp()), ..mark.clone() };
    if let quell_playbooks::Outcome::Failed { message, .. } =
        quell_actions::perform(&told, &stage.context(&mark, step)).await
    {
        tracing::warn!(
            remediation = stage.run.name_any(),
            message,
            "nobody could be told that a quarantine was changed"
        );
    }
}
