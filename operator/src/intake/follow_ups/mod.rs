//! What a tool asks to be fetched or confirmed elsewhere before its body says all.
//!
//! Every address was written by whoever sent the body. It is called only where it is what the Source names, or AWS' own; no redirect is
//! followed, and everything is bounded in time, size and number.

mod clair;
mod fetch;
mod harbor;
mod sns;
mod tool;

pub use clair::Unfinished;
pub use sns::{Disbelief, Sns, WINDOW};
pub use tool::Tool;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder};
use quell_crds::conditions::Reason;
use quell_ingest::FollowUp;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::intake::Intake;
use crate::intake::sources::Known;
use crate::metrics::Metrics;

/// What is fetched at a time for one Source.
const AT_ONCE: usize = 4;
/// What is tried again later for one Source, at most.
const MOST_LATER: usize = 64;
/// A failure is followed by another try after this, doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Nothing is tried again for longer.
const LONGEST: Duration = Duration::from_mins(10);
/// The same trouble of a Source is told again after this.
const TOLD_AGAIN: Duration = Duration::from_mins(10);
/// That something is not set up may be meant so.
const UNSET_AGAIN: Duration = Duration::from_hours(24);
/// Longest note of an Event.
const NOTE: usize = 1000;

/// Does what is asked.
pub struct FollowUps {
    /// Without redirects.
    http: reqwest::Client,
    intake: Arc<Intake>,
    recorder: Recorder,
    metrics: Metrics,
    tasks: TaskTracker,
    end: CancellationToken,
    /// What SNS signs, and what it is told.
    pub sns: Sns,
}

/// What is under way for one Source, and what was said of it.
#[derive(Debug)]
pub struct Following {
    turns: Semaphore,
    later: Arc<Semaphore>,
    told: Mutex<HashMap<(Kind, Reason), Instant>>,
    notifications: clair::Notifications,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            later: Arc::new(Semaphore::new(MOST_LATER)),
            told: Mutex::default(),
            notifications: clair::Notifications::default(),
        }
    }
}

impl Following {
    fn is_news(&self, kind: Kind, reason: Reason) -> bool {
        let Ok(mut told) = self.told.lock() else { return true };
        let again = if reason == Reason::NotEnabled { UNSET_AGAIN } else { TOLD_AGAIN };
        if told.get(&(kind, reason)).is_some_and(|last| last.elapsed() < again) {
            return false;
        }
        told.insert((kind, reason), Instant::now());
        true
    }
}

/// Whom something is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Clair,
    Harbor,
    Sns,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Clair => "clair",
            Self::Harbor => "harbor",
            Self::Sns => "sns",
        }
    }
}

/// What became of one thing that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It didn't succeed; where that makes sense it is tried again, and counted again.
    Failed,
    /// It may not be done: the address isn't the Source's.
    Refused,
    /// The Source doesn't say that it is to be done.
    Unset,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unset => "unset",
        }
    }
}

impl FollowUps {
    /// Asks by `http`, which follows no redirects, and gives `intake` what it gets, in tasks of `tasks` until `end`.
    #[must_use]
    pub fn new(
        http: reqwest::Client,
        intake: Arc<Intake>,
        recorder: Recorder,
        metrics: Metrics,
        tasks: TaskTracker,
        end: CancellationToken,
    ) -> Self {
        let sns = Sns::new(http.clone());
        Self { http, intake, recorder, metrics, tasks, end, sns }
    }

    /// Fetches what has to be stored before the sender is told that all went well.
    pub async fn fetch(self: &Arc<Self>, source: &Arc<Known>, asked: &[FollowUp]) -> Result<(), Unfinished> {
        for one in asked {
            match one {
                FollowUp::ClairNotifications { callback, .. } => self.clair(source, callback).await?,
                FollowUp::SnsSubscription { topic, .. } => {
                    let message = format!(
                        "SNS asks to confirm the subscription of {topic}, and this Source doesn't name the topic: give spec.webhook.sns.topicArn in place of its other credential"
                    );
                    self.told(source, Kind::Sns, Outcome::Unset, &message);
                }
                // That came with its event.
                FollowUp::HarborVulnerabilities { .. } => {}
            }
        }
        Ok(())
    }

    /// Counts what became of something that was asked, and says why it is not done.
    fn told(&self, source: &Known, kind: Kind, outcome: Outcome, message: &str) {
        self.metrics.follow_up(&source.name, kind.as_str(), outcome.as_str());
        let reason = if outcome == Outcome::Unset { Reason::NotEnabled } else { Reason::NotFetched };
        if outcome != Outcome::Done {
            self.tell(source, kind, EventType::Warning, reason, message);
        }
    }

    fn done(&self, source: &Known, kind: Kind) {
        self.metrics.follow_up(&source.name, kind.as_str(), Outcome::Done.as_str());
    }

    /// In the log and by an Event at the Source, beside what goes on; the same trouble once in a while.
    fn tell(&self, source: &Known, kind: Kind, type_: EventType, reason: Reason, message: &str) {
        if !source.following.is_news(kind, reason) {
            tracing::debug!(source = source.name, %reason, message);
            return;
        }
        match type_ {
            EventType::Normal => tracing::info!(source = source.name, %reason, message),
            EventType::Warning => tracing::warn!(source = source.name, %reason, message),
        }
        let note = Some(message.chars().take(NOTE).collect());
        let event = Event { type_, reason: reason.to_string(), note, action: "FollowUp".to_owned(), secondary: None };
        let (recorder, about) = (self.recorder.clone(), source.reference.clone());
        self.tasks.spawn(async move {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(%error, "an Event could not be written");
            }
        });
    }
}
