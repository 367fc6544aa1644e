//! Channels are told how a quarantine fares after it was made: those of the run's `notify` steps that its `when` didn't skip.
//!
//! In the background: a channel that doesn't answer must not keep a quarantine from being put back. What was told is recorded once it was
//! delivered, so that a message is lost with no process; its key is the same for each try.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use quell_actions::Writer;
use quell_crds::conditions::{ConditionType, Reason, find};
use quell_crds::v1alpha1::step::ChannelReference;
use quell_crds::v1alpha1::{QuarantineNews, Remediation, RemediationStatus, StepKind, StepState, Told};
use quell_playbooks::kept::{Decision, Facts, WINDOW, decide, room};
use quell_playbooks::{Outcome, World};

use crate::engine::out::{self, Tries};
use crate::engine::{Engine, EngineError, Live, Stage, run, told};

/// As long as the schema takes.
const LONGEST_FAILURE: usize = 2048;

/// What goes out about the quarantines of runs, and went out a short while ago.
#[derive(Default)]
pub struct Tellings(Mutex<HashMap<ObjectRef<Remediation>, Telling>>);

#[derive(Default)]
struct Telling {
    /// When messages went out, oldest first.
    sent: Vec<DateTime<Utc>>,
    /// Something is being told.
    under_way: bool,
    /// What was told last; the copy of the record may be older.
    told: Option<Told>,
}

impl Tellings {
    fn of(&self) -> MutexGuard<'_, HashMap<ObjectRef<Remediation>, Telling>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a message goes out now.
    fn goes_out(&self, run: &ObjectRef<Remediation>, now: DateTime<Utc>, is_news: bool) {
        let mut all = self.of();
        all.retain(|_, telling| telling.under_way || telling.sent.iter().any(|at| now - *at < WINDOW));
        let telling = all.entry(run.clone()).or_default();
        telling.sent.retain(|at| now - *at < WINDOW);
        telling.sent.push(now);
        telling.under_way |= is_news;
    }

    fn sent(&self, run: &ObjectRef<Remediation>) -> Vec<DateTime<Utc>> {
        self.of().get(run).map(|telling| telling.sent.clone()).unwrap_or_default()
    }

    fn is_under_way(&self, run: &ObjectRef<Remediation>) -> bool {
        self.of().get(run).is_some_and(|telling| telling.under_way)
    }

    fn told(&self, run: &ObjectRef<Remediation>) -> Option<Told> {
        self.of().get(run).and_then(|telling| telling.told.clone())
    }

    fn was_told(&self, run: &ObjectRef<Remediation>, told: Told) {
        let mut all = self.of();
        let telling = all.entry(run.clone()).or_default();
        telling.under_way = false;
        telling.told = Some(told);
    }
}

/// Tells what people don't know yet, and records what they were told. The answer is when there is room for a message that has to wait.
pub async fn news(
    engine: &Arc<Engine>,
    live: &mut Live,
    run: &Remediation,
    status: &mut RemediationStatus,
    step: usize,
    facts: &Facts,
    why: Option<String>,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    let key = ObjectRef::from_obj(run);
    if let Some(told) = engine.tellings.told(&key).filter(|told| status.told.as_ref() != Some(told)) {
        status.told = Some(told);
        run::report(engine, live, run, status).await?;
    }
    if channels(run, status).is_empty() || engine.tellings.is_under_way(&key) {
        return Ok(None);
    }
    let now = Utc::now();
    match decide(facts, status.told.as_ref().map(|told| told.news), engine.tellings.sent(&key), now) {
        Decision::Nothing => Ok(None),
        Decision::Later(at) => Ok(Some(at)),
        Decision::Tell(news) => {
            engine.tellings.goes_out(&key, now, true);
            let since = status.told.as_ref().map(|told| told.at.timestamp()).unwrap_or_default();
            let message = message(news, status, why);
            let out = Out::of(engine, live, run, status, step, format!("kept-{news:?}-{since}"), message);
            tokio::spawn(async move {
                let failure = out.deliver().await.err().unwrap_or_default();
                out.engine.tellings.was_told(&key, Told { news, at: Utc::now(), failure });
                // To be recorded.
                out.engine.caches.containment.look_at(key);
            });
            Ok(None)
        }
    }
}

/// Tells that a quarantine was changed and put back, which is over by then.
pub fn restored(
    engine: &Arc<Engine>,
    live: &mut Live,
    run: &Remediation,
    status: &RemediationStatus,
    step: usize,
    message: &str,
) {
    let (key, now) = (ObjectRef::from_obj(run), Utc::now());
    if channels(run, status).is_empty() || room(engine.tellings.sent(&key), now).is_some() {
        return;
    }
    engine.tellings.goes_out(&key, now, false);
    let out = Out::of(engine, live, run, status, step, format!("kept-{}", now.timestamp()), message.to_owned());
    tokio::spawn(async move { out.deliver().await });
}

/// The channels that the run itself told, or will tell.
fn channels(run: &Remediation, status: &RemediationStatus) -> Vec<ChannelReference> {
    let steps = run.spec.steps.iter().zip(&status.steps).filter(|(_, record)| record.state != StepState::Skipped);
    let mut channels: Vec<_> = steps
        .filter_map(|(step, _)| match &step.kind {
            StepKind::Notify(notify) => Some(notify.channels.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    channels.sort_by(|one, other| one.name.cmp(&other.name));
    channels.dedup_by(|one, other| one.name == other.name);
    channels
}

fn message(news: QuarantineNews, status: &RemediationStatus, why: Option<String>) -> String {
    let contained =
        find(&status.conditions, ConditionType::Contained).map_or("", |contained| contained.message.as_str());
    match news {
        QuarantineNews::Opened => format!(
            "The quarantine does not hold: {contained}. The quarantine itself is as Quell made it, so this is for you to close: delete or \
             narrow the policy that is named. You are told when nothing gets through any more."
        ),
        QuarantineNews::Closed => format!("The quarantine is undisturbed again: {contained}"),
        QuarantineNews::Contested => why.unwrap_or_else(|| {
            "The quarantine is changed again and again, and Quell goes on putting it back, at most once a minute. The Events of the \
             Finding say who changes it. To lift it: kubectl quell undo"
                .to_owned()
        }),
        QuarantineNews::NotKept => why.unwrap_or_else(|| {
            "The quarantine was changed and could not be put back. The Events of the Finding say why; Quell goes on trying.".to_owned()
        }),
    }
}

/// A message on its way, with all that it needs to be delivered while the run goes on.
struct Out {
    engine: Arc<Engine>,
    run: Remediation,
    world: World,
    live: Live,
    status: RemediationStatus,
    step: usize,
    mark: String,
    channels: Vec<ChannelReference>,
    message: String,
}

impl Out {
    fn of(
        engine: &Arc<Engine>,
        live: &mut Live,
        run: &Remediation,
        status: &RemediationStatus,
        step: usize,
        mark: String,
        message: String,
    ) -> Self {
        let world = run::observe(engine, live, run);
        let kept = Live { steps: live.steps.clone(), finding: live.finding.clone(), ..Live::default() };
        let (engine, channels) = (engine.clone(), channels(run, status));
        let (run, status) = (run.clone(), status.clone());
        Self { engine, run, world, live: kept, status, step, mark, channels, message }
    }

    /// Tries until every channel has taken the message, as far as it has [`Tries`]. `Err`: why not all of them have.
    async fn deliver(&self) -> Result<(), String> {
        let mut records = self.status.steps.clone();
        // Another step's record would say whom that step has told.
        records[self.step].outputs.clear();
        let mut tries = Tries::new();
        loop {
            let failed = match self.engine.writer_of(&self.run) {
                Err(error) => (Reason::Forbidden, error.to_string(), true),
                Ok(writer) => match self.once(&writer, &mut records).await {
                    None => return Ok(()),
                    Some(failed) => failed,
                },
            };
            let (reason, message, transient) = failed;
            if !transient || !tries.another().await {
                self.give_up(reason, &message).await;
                return Err(message.chars().take(LONGEST_FAILURE).collect());
            }
        }
    }

    async fn once(
        &self,
        writer: &Writer,
        records: &mut [quell_crds::v1alpha1::StepRecord],
    ) -> Option<(Reason, String, bool)> {
        let scope = self.world.step_scope(&self.run.name_any(), &self.run.spec.playbook.name, &self.status);
        let outcome = {
            let (engine, run, world, steps) = (&*self.engine, &self.run, &self.world, self.live.steps.as_slice());
            let stage = Stage { engine, run, world, scope: &scope, writer, steps, records };
            let as_step = format!("{}-{}", steps[self.step].step.name, self.mark);
            let _pass = self.engine.lanes.effect().await;
            out::say(&stage, self.step, as_step, self.channels.clone(), self.message.clone()).await
        };
        let Outcome::Failed { reason, message, transient, outputs, .. } = outcome else { return None };
        // Whoever was told isn't told again.
        records[self.step].outputs.extend(outputs);
        Some((reason, message, transient))
    }

    async fn give_up(&self, reason: Reason, failure: &str) {
        let message = format!("nobody could be told this by all channels: {}; {failure}", self.message);
        tracing::warn!(namespace = self.run.namespace(), remediation = self.run.name_any(), %reason, message, "quarantine");
        let event = told::event(EventType::Warning, &reason.to_string(), "NotTold", &message);
        told::publish(&self.engine, &self.run, self.live.finding.as_ref(), event).await;
    }
}
