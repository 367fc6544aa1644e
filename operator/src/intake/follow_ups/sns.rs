//! AWS SNS: whether it has sent a body, and the confirmation of a subscription.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kube::runtime::events::EventType;
use quell_crds::conditions::Reason;
use quell_ingest::sns::{Certificate, Message, Topic};
use reqwest::Url;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::fetch::{FetchError, fetch};
use super::{FollowUps, Kind, Outcome};
use crate::intake::sources::Known;

/// How far the time of a message may be from now. SNS gives a message up an hour after it was sent ("Amazon SNS message delivery retries"); the
/// rest is for clocks.
pub const WINDOW: TimeDelta = TimeDelta::minutes(75);
/// For one request to AWS. SNS itself waits 15 s for its answer, which may take two of them.
const TIME: Duration = Duration::from_secs(5);
/// A certificate has some 2 KiB, the answer to a confirmation less.
const SIZE: usize = 64 << 10;
/// Certificates that are kept. A region has one at a time, for a year.
const KEPT: usize = 32;
/// Certificates that are fetched at a time: whoever makes up messages must not make up requests to AWS.
const AT_ONCE: usize = 2;
/// What AWS has no certificate at is not asked for again within this.
const NOT_AGAIN: Duration = Duration::from_mins(1);
/// Most addresses of which that is remembered.
const MOST_MISSING: usize = 1024;

/// Why a body is not taken for a message of the topic.
#[derive(Debug)]
pub enum Disbelief {
    /// It is none.
    Refused {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// That can't be told now.
    Later(String),
}

/// Why a subscription is not confirmed.
#[derive(Debug, Error)]
pub enum NotConfirmed {
    /// It names another address than SNS'.
    #[error("its SubscribeURL is no address of SNS in the topic's region")]
    Elsewhere,
    /// SNS doesn't take it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl NotConfirmed {
    /// Whether SNS should ask again.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Fetch(error) if error.is_transient())
    }
}

/// SNS at AWS' own addresses: the certificates by which it signs, and where it is told that its messages are wanted.
pub struct Sns {
    http: reqwest::Client,
    known: Mutex<Fetched>,
    fetching: Semaphore,
}

#[derive(Default)]
struct Fetched {
    certificates: HashMap<String, Arc<Certificate>>,
    missing: HashMap<String, Instant>,
}

impl Fetched {
    fn keep(&mut self, url: &str, found: Option<&Arc<Certificate>>) {
        if self.certificates.len() >= KEPT {
            self.certificates.clear();
        }
        if self.missing.len() >= MOST_MISSING {
            self.missing.clear();
        }
        match found {
            Some(certificate) => drop(self.certificates.insert(url.to_owned(), certificate.clone())),
            None => drop(self.missing.insert(url.to_owned(), Instant::now())),
        }
    }
}

impl Sns {
    pub(super) fn new(http: reqwest::Client) -> Self {
        Self { http, known: Mutex::default(), fetching: Semaphore::new(AT_ONCE) }
    }

    /// The message, if it is of that topic, of now, and signed by SNS.
    pub async fn believe(&self, topic: &Topic, body: &[u8], now: DateTime<Utc>) -> Result<Message, Disbelief> {
        let refused = |reason, message: String| Disbelief::Refused { reason, message };
        let message = Message::parse(body).map_err(|unreadable| {
            let message = format!("this is no message of SNS ({unreadable}); is raw message delivery on?");
            refused("NotSns", message)
        })?;
        if message.topic_arn != topic.arn() {
            let message = match message.topic_arn.as_str() {
                "" => "this is no message of SNS: it has no TopicArn; is raw message delivery on?".to_owned(),
                _ => format!("this is not a message of the topic {}", topic.arn()),
            };
            return Err(refused("TopicForeign", message));
        }
        let is_of_now = message.sent_at().is_some_and(|sent| (now - sent).abs() <= WINDOW);
        if !is_of_now {
            let message = "its Timestamp is too far from now: it is an old message, or a clock is wrong".to_owned();
            return Err(refused("Stale", message));
        }
        let Some(url) = message.certificate_url(topic) else {
            let message = "its SigningCertURL is no address of SNS in the topic's region".to_owned();
            return Err(refused("SignatureInvalid", message));
        };
        let certificate = self.at(url).await?;
        message.verify(&certificate, now).map_err(|error| refused("SignatureInvalid", error.to_string()))?;
        Ok(message)
    }

    /// Confirms the subscription that a believed message asks for. Nothing in the answer is of use; its status says all.
    pub async fn confirm(&self, topic: &Topic, message: &Message) -> Result<(), NotConfirmed> {
        let url =
            message.confirmation_url(topic).and_then(|url| Url::parse(url).ok()).ok_or(NotConfirmed::Elsewhere)?;
        fetch(self.http.get(url.clone()), &url, TIME, SIZE).await?;
        Ok(())
    }

    async fn at(&self, url: &str) -> Result<Arc<Certificate>, Disbelief> {
        if let Some(known) = self.known(url)? {
            return Ok(known);
        }
        let closed = |_| Disbelief::Later("certificates are not fetched any more".to_owned());
        let _fetching = self.fetching.acquire().await.map_err(closed)?;
        if let Some(known) = self.known(url)? {
            return Ok(known);
        }
        let parsed = Url::parse(url).map_err(|error| Disbelief::Later(error.to_string()))?;
        let found = match fetch(self.http.get(parsed.clone()), &parsed, TIME, SIZE).await {
            Ok(pem) => Certificate::parse(&pem).ok().map(Arc::new),
            Err(error) if error.is_transient() => {
                return Err(Disbelief::Later(format!("the certificate of SNS could not be fetched: {error}")));
            }
            Err(_) => None,
        };
        if let Ok(mut known) = self.known.lock() {
            known.keep(url, found.as_ref());
        }
        found.ok_or_else(missing)
    }

    fn known(&self, url: &str) -> Result<Option<Arc<Certificate>>, Disbelief> {
        let Ok(known) = self.known.lock() else { return Ok(None) };
        if known.missing.get(url).is_some_and(|since| since.elapsed() < NOT_AGAIN) {
            return Err(missing());
        }
        Ok(known.certificates.get(url).cloned())
    }
}

fn missing() -> Disbelief {
    let message = "AWS has no certificate at its SigningCertURL".to_owned();
    Disbelief::Refused { reason: "SignatureInvalid", message }
}

impl FollowUps {
    /// Confirms a subscription, see [`Sns::confirm`]; the error is for people, and says whether SNS should ask again.
    pub async fn confirm(&self, source: &Known, topic: &Topic, message: &Message) -> Result<(), (bool, String)> {
        let arn = topic.arn();
        let Err(error) = self.sns.confirm(topic, message).await else {
            self.done(source, Kind::Sns);
            let message = format!("the subscription of the topic {arn} is confirmed");
            self.tell(source, Kind::Sns, EventType::Normal, Reason::SubscriptionConfirmed, &message);
            return Ok(());
        };
        let why = format!("the subscription of the topic {arn} was not confirmed: {error}");
        let outcome = if matches!(error, NotConfirmed::Elsewhere) { Outcome::Refused } else { Outcome::Failed };
        self.told(source, Kind::Sns, outcome, &why);
        Err((error.is_transient(), why))
    }

    /// Says that nothing more comes of the topic.
    pub fn unsubscribed(&self, source: &Known, topic: &Topic) {
        let message = format!(
            "the subscription of the topic {} was ended: nothing more comes from it. If that was not meant, subscribe anew",
            topic.arn()
        );
        self.tell(source, Kind::Sns, EventType::Warning, Reason::SubscriptionEnded, &message);
    }
}

#[cfg(test)]
mod tests;
