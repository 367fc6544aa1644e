//! A run that a guardrail holds: what it says of itself, and who is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use quell_actions::{Cluster as _, Writer};
use quell_crds::conditions::{ConditionType, Reason, Status, condition, find};
use quell_crds::v1alpha1::{Finding, PlaybookKind, Remediation, RemediationStatus, Severity, StepRecord, StepState};
use quell_notify::{Courier, Destination, Message, Secret};
use quell_playbooks::cel::Scope;
use quell_playbooks::compile::CompiledStep;
use quell_playbooks::guardrails::{Hold, Purpose};
use quell_playbooks::{Outcome, UndoOutcome, World};

use crate::caches::Caches;
use crate::engine::out::Tries;
use crate::engine::{Engine, Stage};
use crate::intake;

/// Others that are held for the same reason are told together, no more often than this.
const TOGETHER: Duration = Duration::from_mins(1);

/// Whether a step, whose intent is about to be recorded, may have its effect.
pub(super) async fn before_it_begins(
    engine: &Engine,
    run: &Remediation,
    world: &World,
    scope: &Scope,
    steps: &[CompiledStep],
    status: &RemediationStatus,
    step: usize,
) -> Option<Hold> {
    let writer = Writer::new(engine.client.clone());
    let stage = Stage { engine, run, world, scope, writer: &writer, steps, records: &status.steps };
    engine.permits.ask(&stage, step, &steps[step].step.kind, Purpose::Effect).await.err()
}

/// A write that was not made because the stop switch was turned meanwhile is no failure.
pub(super) fn of(stage: &Stage<'_>, step: usize, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { reason, ref outputs, ref receipt, .. }
            if is_standstill(reason) && outputs.is_empty() && receipt.is_none() =>
        {
            standstill(stage, step).map_or(outcome, Outcome::Held)
        }
        other => other,
    }
}

/// The same for an undo.
pub(super) fn of_undo(stage: &Stage<'_>, step: usize, outcome: UndoOutcome) -> UndoOutcome {
    match outcome {
        UndoOutcome::TryAgain { reason, .. } if is_standstill(reason) => {
            standstill(stage, step).map_or(outcome, UndoOutcome::Held)
        }
        other => other,
    }
}

fn is_standstill(reason: Reason) -> bool {
    matches!(reason, Reason::Stopped | Reason::Learning | Reason::GuardrailUnreadable)
}

fn standstill(stage: &Stage<'_>, step: usize) -> Option<Hold> {
    stage.engine.permits.standstill(stage.run, &stage.steps[step].step.name)
}

/// Writes down whether the run is held.
pub(super) fn observe(run: &Remediation, status: &mut RemediationStatus) {
    let before = std::mem::take(&mut status.conditions);
    let type_ = ConditionType::Held.to_string();
    status.conditions = before.iter().filter(|condition| condition.type_ != type_).cloned().collect();
    let Some((record, reason)) = status.steps.iter().find_map(|record| Some((record, held(record)?))) else { return };
    let message = format!("{}: {}", record.name, record.message);
    let generation = run.metadata.generation;
    let made = condition(&before, ConditionType::Held, Status::True, reason, message, generation, Utc::now());
    status.conditions.push(made);
}

/// The condition that says that the run is held.
pub(super) fn condition_of(run: &Remediation) -> Option<&Condition> {
    find(&run.status.as_ref()?.conditions, ConditionType::Held)
}

fn held(record: &StepRecord) -> Option<Reason> {
    const REASONS: [Reason; 7] = [
        Reason::Stopped,
        Reason::Learning,
        Reason::Protected,
        Reason::LimitReached,
        Reason::LastReadyReplica,
        Reason::Frozen,
        Reason::GuardrailUnreadable,
    ];
    let reason = REASONS.into_iter().find(|reason| reason.to_string() == record.reason)?;
    matches!(record.state, StepState::Held | StepState::Undoing).then_some(reason)
}

/// Tells the channels of the guardrails that hold steps which they didn't hold before.
pub(super) fn tell(
    engine: &Engine,
    run: &Remediation,
    finding: Option<&Finding>,
    before: &RemediationStatus,
    after: &RemediationStatus,
) {
    for record in &after.steps {
        let Some(reason) = held(record) else { continue };
        let old = before.steps.iter().find(|old| old.name == record.name);
        if old.is_some_and(|old| held(old) == Some(reason)) {
            continue;
        }
        let Some(guardrail) = engine.held.guardrail_of(run, &record.name) else { continue };
        let channels = engine.permits.known().guardrails.channels(&guardrail);
        if channels.is_empty() {
            continue;
        }
        let namespace = run.namespace().unwrap_or_default();
        engine.bell.ring(News {
            key: format!("{namespace}/{}/{}/{reason}", run.name_any(), record.name),
            guardrail,
            reason,
            channels,
            severity: finding.map(|finding| finding.spec.severity).unwrap_or_default(),
            text: format!(
                "{}\n\nRemediation {namespace}/{}, step {}, for Finding {}\nLook further: kubectl quell explain -n {namespace} {}",
                record.message,
                run.name_any(),
                record.name,
                run.spec.finding.name,
                run.spec.finding.name
            ),
        });
    }
}

/// A run that is held.
struct News {
    key: String,
    guardrail: String,
    reason: Reason,
    channels: Vec<String>,
    severity: Severity,
    text: String,
}

/// Tells channels that runs are held: of the first at once, of others together.
pub struct Bell {
    courier: Arc<Courier>,
    caches: Arc<Caches>,
    /// By Guardrail and reason, how many were held since the last message.
    since: Mutex<HashMap<(String, Reason), usize>>,
}

impl Bell {
    /// A bell that rings at ClusterChannels.
    #[must_use]
    pub fn new(courier: Arc<Courier>, caches: Arc<Caches>) -> Arc<Self> {
        Arc::new(Self { courier, caches, since: Mutex::default() })
    }

    fn ring(self: &Arc<Self>, news: News) {
        let key = (news.guardrail.clone(), news.reason);
        {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(others) = since.get_mut(&key) {
                *others += 1;
                return;
            }
            since.insert(key.clone(), 0);
        }
        let bell = self.clone();
        tokio::spawn(async move {
            let title = format!("Guardrail {} holds a run ({})", news.guardrail, news.reason);
            bell.tell(&news, &news.key, &title, &news.text).await;
            loop {
                tokio::time::sleep(TOGETHER).await;
                let others = {
                    let mut since = bell.since.lock().unwrap_or_else(PoisonError::into_inner);
                    match since.get_mut(&key).map(std::mem::take) {
                        Some(others) if others > 0 => others,
                        _ => {
                            since.remove(&key);
                            return;
                        }
                    }
                };
                let title = format!("Guardrail {} holds {others} more runs ({})", news.guardrail, news.reason);
                let text = "Look further: kubectl get remediations -A, and their condition Held";
                bell.tell(&news, &format!("{}/{}", news.key, Utc::now().timestamp()), &title, text).await;
            }
        });
    }

    async fn tell(&self, news: &News, key: &str, title: &str, text: &str) {
        for channel in &news.channels {
            let message = Message {
                key: format!("held/{key}/{channel}"),
                title: title.to_owned(),
                text: text.to_owned(),
                severity: news.severity,
                fields: vec![("Guardrail".to_owned(), news.guardrail.clone())],
                at: Utc::now(),
            };
            let mut tries = Tries::new();
            while let Err(error) = self.deliver(channel, &message).await {
                tracing::warn!(guardrail = news.guardrail, channel, error, "nobody could be told that a run is held");
                if !tries.another().await {
                    break;
                }
            }
        }
    }

    async fn deliver(&self, channel: &str, message: &Message) -> Result<(), String> {
        let namespace = self.caches.own_namespace();
        let kind = self.caches.channel(PlaybookKind::ClusterPlaybook, namespace, channel);
        let kind = kind.ok_or("there is no ClusterChannel of that name")?;
        let secret = |key: &_| intake::secret_value(&self.caches.secrets, namespace, key).map(Secret::new);
        let destination = Destination::resolve(&kind, secret).map_err(|error| error.to_string())?;
        self.courier.deliver(&destination, message).await.map_err(|error| error.to_string())
    }
}
