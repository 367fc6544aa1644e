//! The vulnerabilities of an artifact that Harbor has scanned: its webhook counts them, its API lists them.
//!
//! Rules: goharbor/harbor, `api/v2.0/swagger.yaml`. They are fetched before the Finding is stored, as playbooks and suppressions
//! look at what it lists. Harbor waits 3 s for an answer (`JOBSERVICE_WEBHOOK_JOB_HTTP_CLIENT_TIMEOUT`) and tries three times; so the Finding is
//! stored with the counts alone where the list isn't there in time, rather than lost, and the list is fetched later.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::future::join_all;
use quell_crds::v1alpha1::Format;
use quell_ingest::{About, FollowUp, Signal, Unreadable, with_harbor_list};
use reqwest::Url;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::fetch::{FetchError, fetch};
use super::{FIRST_WAIT, FollowUps, Kind, LONGEST, LONGEST_WAIT, Outcome, Tool};
use crate::intake::IntakeError;
use crate::intake::reads::Reads;
use crate::intake::sources::Known;

/// For all that one event asks for, with waiting for a turn.
const TIME: Duration = Duration::from_secs(2);
/// The version of the list that is read. Harbor takes no star here.
const ACCEPT: (&str, &str) = ("X-Accept-Vulnerabilities", "application/vnd.security.vulnerability.report; version=1.1");

#[derive(Debug, Error)]
enum HarborError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what Harbor answered can't be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("{0} is no name of a project, repository and artifact")]
    NoArtifact(String),
    #[error("Harbor's list was not there within {} s", TIME.as_secs())]
    TooSlow,
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl HarborError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_transient(),
            Self::Intake(error) => error.is_transient(),
            Self::TooSlow => true,
            Self::Unreadable(_) | Self::NoArtifact(_) => false,
        }
    }
}

/// A list that is fetched later.
struct Later {
    of: Arc<FollowUps>,
    source: Arc<Known>,
    tool: Tool,
    signal: Signal,
    asked: FollowUp,
    _place: OwnedSemaphorePermit,
}

impl Later {
    /// Until the Finding has it. What is stored then is what was reported before, and no repeat.
    async fn run(self) {
        let until = Instant::now() + LONGEST;
        let mut wait = FIRST_WAIT;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.of.end.cancelled() => return,
            }
            let Err(error) = self.attempt().await else {
                self.of.done(&self.source, Kind::Harbor);
                return;
            };
            let rule = &self.signal.rule;
            let message = format!("the vulnerabilities of {rule} were not fetched again: {error}");
            self.of.told(&self.source, Kind::Harbor, Outcome::Failed, &message);
            wait = (wait * 2).min(LONGEST_WAIT);
            if !error.is_transient() || Instant::now() + wait > until {
                return;
            }
        }
    }

    async fn attempt(&self) -> Result<(), HarborError> {
        let whole = self.of.list(&self.source, &self.tool, &self.signal, &self.asked).await?;
        self.of.intake.submit_fetched(&self.source.name, &[whole]).await?;
        Ok(())
    }
}

impl FollowUps {
    /// The signals, with the lists of vulnerabilities that belong to them.
    pub async fn listed(
        self: &Arc<Self>,
        source: &Arc<Known>,
        signals: Vec<Signal>,
        asked: &[FollowUp],
    ) -> Vec<Signal> {
        let wanted = |signal: &Signal| asked.iter().find(|one| is_of(one, signal));
        if !signals.iter().any(|signal| wanted(signal).is_some()) {
            return signals;
        }
        let Some(Ok(tool)) = &source.harbor else {
            // Tencent's registry says the same as Harbor, and has another API.
            if source.reads.as_ref().ok().and_then(Reads::format) != Some(Format::TencentTcr) {
                let message = "Harbor's webhook counts vulnerabilities and doesn't list them, so the Findings have the counts alone: give spec.harbor.url to have the lists fetched";
                self.told(source, Kind::Harbor, Outcome::Unset, message);
            }
            return signals;
        };
        join_all(signals.into_iter().map(async |signal| match wanted(&signal) {
            Some(asked) => self.with_list(source, tool, signal, asked).await,
            None => signal,
        }))
        .await
    }

    async fn with_list(self: &Arc<Self>, source: &Arc<Known>, tool: &Tool, signal: Signal, asked: &FollowUp) -> Signal {
        let fetched = tokio::time::timeout(TIME, self.list(source, tool, &signal, asked)).await;
        match fetched.unwrap_or(Err(HarborError::TooSlow)) {
            Ok(whole) => {
                self.done(source, Kind::Harbor);
                whole
            }
            Err(error) => {
                let goes_on = error.is_transient() && self.later(source, tool, &signal, asked);
                let rest = if goes_on { ". They are fetched later" } else { "" };
                let rule = &signal.rule;
                let message = format!(
                    "the vulnerabilities of {rule} were not fetched, so its Finding has the counts alone: {error}{rest}"
                );
                self.told(source, Kind::Harbor, Outcome::Failed, &message);
                let mut counted = signal;
                counted.details.insert("notFetched".to_owned(), Value::String(error.to_string()));
                counted
            }
        }
    }

    /// Whether it is tried again beside what goes on; not where that is done for too many.
    fn later(self: &Arc<Self>, source: &Arc<Known>, tool: &Tool, signal: &Signal, asked: &FollowUp) -> bool {
        let Ok(place) = source.following.later.clone().try_acquire_owned() else { return false };
        let (of, source, tool) = (self.clone(), source.clone(), tool.clone());
        let later = Later { of, source, tool, signal: signal.clone(), asked: asked.clone(), _place: place };
        self.tasks.spawn(later.run());
        true
    }

    async fn list(
        &self,
        source: &Known,
        tool: &Tool,
        signal: &Signal,
        asked: &FollowUp,
    ) -> Result<Signal, HarborError> {
        let url = address(tool, asked)?;
        let _turn = source.following.turns.acquire().await;
        let request = tool.show(self.http.get(url.clone()).header(ACCEPT.0, ACCEPT.1), Utc::now());
        let body = fetch(request, &url, TIME, source.limits.body).await?;
        Ok(with_harbor_list(signal.clone(), &body)?)
    }
}

/// Whether this asks for the list of what the signal is about.
fn is_of(asked: &FollowUp, signal: &Signal) -> bool {
    let FollowUp::HarborVulnerabilities { digest, .. } = asked else { return false };
    matches!(&signal.about, About::Image { image } if image.digest.as_ref() == Some(digest))
}

/// Names are Harbor's: nothing of them is encoded but the slash in a repository, and that twice.
fn address(tool: &Tool, asked: &FollowUp) -> Result<Url, HarborError> {
    let FollowUp::HarborVulnerabilities { project, repository, digest } = asked else {
        return Err(HarborError::NoArtifact(String::new()));
    };
    let is_name = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !matches!(text, "" | "." | "..") && text.bytes().all(plain)
    };
    let is_digest = digest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':');
    let whole = is_name(project) && repository.split('/').all(is_name) && is_digest;
    let repository = repository.replace('/', "%252F");
    let path =
        format!("api/v2.0/projects/{project}/repositories/{repository}/artifacts/{digest}/additions/vulnerabilities");
    let url = if whole { tool.under(&path) } else { None };
    url.ok_or_else(|| {
        let said = format!("{project}/{repository}@{digest}");
        HarborError::NoArtifact(said.chars().filter(|one| !one.is_control()).take(200).collect())
    })
}
