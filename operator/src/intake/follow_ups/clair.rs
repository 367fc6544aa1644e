//! Clair's notifications: the notifier sends an address, the pages are there until they are deleted.
//!
//! Rules: quay/clair, `Documentation/concepts/notifications.md` and `notifier/webhook/deliverer.go`. The notifier takes 200 alone for an
//! answer that it needn't send again, and what it sent well is deleted by it after a while. So 200 is said only once all is stored; whatever
//! is said before that, the notification comes again. What takes longer than its sender waits goes on beside that, and the next time it is
//! sent the answer is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use quell_crds::v1alpha1::Format;
use quell_ingest::{Delivery, Unreadable, receive};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fetch::{FetchError, fetch};
use super::{FIRST_WAIT, FollowUps, Kind, LONGEST, LONGEST_WAIT, Outcome, Tool};
use crate::intake::IntakeError;
use crate::intake::sources::Known;

/// Notifications on a page, which is Clair's own number.
const PAGE: &str = "500";
/// Most pages of one notification.
const MOST_PAGES: usize = 2_000;
/// For one page.
const TIME: Duration = Duration::from_secs(20);
/// Most notifications of a Source that are fetched or wait for their turn.
const MOST: usize = 64;
/// Most that are remembered as fetched: one may be sent again by a Clair that didn't get the answer.
const REMEMBERED: usize = 1024;
/// Longest part of an address that is repeated.
const ECHO: usize = 200;

/// Why a sender isn't told that all went well.
#[derive(Debug)]
pub enum Unfinished {
    /// It should send again.
    Later(String),
    /// It may not ask for this.
    Refused(String),
    /// That takes an edit.
    Unset(String),
}

#[derive(Debug, Error)]
enum ClairError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what Clair answered can't be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("what Clair answered is no page of notifications: {0}")]
    NoPage(#[from] serde_json::Error),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error("Clair's pages don't end: after {0} of them there was another, or the same again")]
    Endless(usize),
    #[error("this replica of Quell ends")]
    Ending,
}

impl ClairError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_transient(),
            Self::Intake(error) => error.is_transient(),
            Self::Unreadable(_) | Self::NoPage(_) | Self::Endless(_) | Self::Ending => false,
        }
    }
}

/// The notifications of one Source.
#[derive(Debug, Default)]
pub struct Notifications(Mutex<Jobs>);

#[derive(Debug, Default)]
struct Jobs {
    under_way: HashMap<String, watch::Receiver<State>>,
    /// The oldest first.
    finished: VecDeque<String>,
}

#[derive(Clone, Debug)]
enum State {
    Fetching,
    Done,
    /// It is tried again, or has ended; either way the sender learns why.
    Failed(String),
}

/// Where a notification stands.
enum Job {
    Finished,
    UnderWay(watch::Receiver<State>),
    New(watch::Sender<State>, watch::Receiver<State>),
    TooMany,
}

impl Notifications {
    fn begin(&self, url: &Url) -> Job {
        let Ok(mut jobs) = self.0.lock() else { return Job::TooMany };
        if jobs.finished.iter().any(|one| one == url.as_str()) {
            return Job::Finished;
        }
        if let Some(state) = jobs.under_way.get(url.as_str()) {
            return Job::UnderWay(state.clone());
        }
        if jobs.under_way.len() >= MOST {
            return Job::TooMany;
        }
        let (sender, state) = watch::channel(State::Fetching);
        jobs.under_way.insert(url.as_str().to_owned(), state.clone());
        Job::New(sender, state)
    }

    fn end(&self, url: &Url, is_done: bool) {
        let Ok(mut jobs) = self.0.lock() else { return };
        jobs.under_way.remove(url.as_str());
        if is_done {
            if jobs.finished.len() >= REMEMBERED {
                jobs.finished.pop_front();
            }
            jobs.finished.push_back(url.as_str().to_owned());
        }
    }
}

/// A page, as far as its own fields go.
#[derive(Deserialize)]
struct Page {
    page: Next,
    notifications: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Next {
    next: Option<String>,
}

impl FollowUps {
    /// Fetches, stores and deletes the notification at that address.
    pub(super) async fn clair(self: &Arc<Self>, source: &Arc<Known>, callback: &str) -> Result<(), Unfinished> {
        let Some(Ok(tool)) = &source.clair else {
            let message = "Clair's notifier sent where its notifications are, and they are not fetched: give spec.clair.url. Clair sends it again";
            self.told(source, Kind::Clair, Outcome::Unset, message);
            return Err(Unfinished::Unset(message.to_owned()));
        };
        let Some(url) = tool.allows(callback) else {
            let said: String = callback.chars().filter(|one| !one.is_control()).take(ECHO).collect();
            let message = format!(
                "a notification of Clair is at {said}, which is not under spec.clair.url ({}): it is not fetched",
                tool.url()
            );
            self.told(source, Kind::Clair, Outcome::Refused, &message);
            return Err(Unfinished::Refused(message));
        };
        let mut state = match source.following.notifications.begin(&url) {
            Job::Finished => return Ok(()),
            Job::TooMany => return Err(Unfinished::Later(format!("{MOST} notifications are being fetched"))),
            Job::UnderWay(state) => state,
            Job::New(sender, state) => {
                let job = Fetching { of: self.clone(), source: source.clone(), tool: tool.clone(), url, sender };
                self.tasks.spawn(job.run());
                state
            }
        };
        let state = state.wait_for(|state| !matches!(state, State::Fetching)).await.map(|state| state.clone());
        match state {
            Ok(State::Done) => Ok(()),
            Ok(State::Failed(why)) => Err(Unfinished::Later(why)),
            Ok(State::Fetching) | Err(_) => Err(Unfinished::Later("fetching broke off".to_owned())),
        }
    }
}

/// One notification while it is fetched.
struct Fetching {
    of: Arc<FollowUps>,
    source: Arc<Known>,
    tool: Tool,
    url: Url,
    sender: watch::Sender<State>,
}

/// A notification that broke off can be asked for anew.
impl Drop for Fetching {
    fn drop(&mut self) {
        let is_done = matches!(&*self.sender.borrow(), State::Done);
        self.source.following.notifications.end(&self.url, is_done);
    }
}

impl Fetching {
    /// Until it is done, or is left to Clair to send it again, as its `delivery_interval` says.
    async fn run(self) {
        let until = Instant::now() + LONGEST;
        let mut wait = FIRST_WAIT;
        loop {
            let tried = tokio::select! {
                tried = self.attempt() => tried,
                () = self.of.end.cancelled() => Err(ClairError::Ending),
            };
            let Err(error) = tried else {
                self.of.done(&self.source, Kind::Clair);
                self.sender.send_replace(State::Done);
                return;
            };
            let goes_on = error.is_transient() && Instant::now() + wait < until;
            let rest = if goes_on { "It is tried again" } else { "Clair is left to send it again" };
            let message = format!("a notification of Clair was not fetched: {error}. {rest}");
            self.of.told(&self.source, Kind::Clair, Outcome::Failed, &message);
            self.sender.send_replace(State::Failed(message));
            if !goes_on {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.of.end.cancelled() => return,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// All pages, and then the deletion. What an earlier try has stored is the same Finding, and no repeat.
    async fn attempt(&self) -> Result<(), ClairError> {
        let _turn = self.source.following.turns.acquire().await;
        let mut seen = HashSet::new();
        let mut next = None;
        loop {
            next = self.page(next.as_deref()).await?;
            let Some(next) = &next else { break };
            if !seen.insert(next.clone()) || seen.len() >= MOST_PAGES {
                return Err(ClairError::Endless(seen.len()));
            }
        }
        let request = self.tool.show(self.of.http.delete(self.url.clone()), Utc::now());
        match fetch(request, &self.url, TIME, self.source.limits.body).await {
            Err(FetchError::Refused { status: StatusCode::NOT_FOUND, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores one page, and says which one comes next.
    async fn page(&self, which: Option<&str>) -> Result<Option<String>, ClairError> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("page_size", PAGE).extend_pairs(which.map(|next| ("next", next)));
        let request = self.tool.show(self.of.http.get(url.clone()), Utc::now());
        let body = fetch(request, &url, TIME, self.source.limits.body).await?;
        let Page { page, notifications } = serde_json::from_slice(&body)?;
        // Go writes an empty list as `null`.
        if notifications.is_some_and(|all| !all.is_empty()) {
            let received = receive(&Delivery::new(Format::Clair, &body))?;
            let name = &self.source.name;
            let stored = self.of.intake.submit_fetched(name, &received.signals).await?;
            for one in stored {
                self.of.metrics.signal(name, if one.repeated { "repeated" } else { "accepted" });
            }
        }
        Ok(page.next.filter(|next| !next.is_empty()))
    }
}
