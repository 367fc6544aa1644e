//! Who acts: of several replicas the one that holds the Lease. All of them take signals in.
//!
//! The rules are those of client-go's election. A candidate never believes another's clock: a Lease is over when the candidate itself has
//! seen no renewal of it for its whole length. Every write to the Lease is on condition of the version that was read, so that of several
//! candidates the API server lets one win. Each taking raises `leaseTransitions`, the term.
//!
//! kube-lease-manager, the well-kept crate for kube 5, does neither (0.13): it compares the holder's time with its own clock, frees a Lease
//! that is over without a condition, and sleeps until a Lease is over, so that one that was given up stays unused for its whole length.

use std::time::Duration;

use chrono::Utc;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fence::{Fence, now};
use crate::settings::Settings;

/// Name of the Lease in Quell's namespace.
pub const LEASE: &str = "quell";

/// No request about the Lease takes longer.
const LONGEST_REQUEST: Duration = Duration::from_secs(2);
/// What failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// A Lease is looked at without being told that it has changed no less often than this: its watch may be behind.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);

/// Why there is no election.
#[derive(Debug, Error)]
pub enum ElectionError {
    /// A request about the Lease failed.
    #[error("the Lease {LEASE}: {0}")]
    Request(#[from] kube::Error),
    /// A request about the Lease was not answered.
    #[error("the Lease {LEASE}: no answer in {} s", LONGEST_REQUEST.as_secs())]
    NoAnswer,
}

/// What this replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another leads, or none.
    StandsBy,
    /// This one leads.
    Leads,
    /// It led, and another does now.
    Lost,
}

/// Takes part in the election.
pub struct Election {
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Election {
    /// Begins to ask for the Lease. `fence` is open while it is held.
    #[must_use]
    pub fn begin(client: Client, settings: &Settings, fence: Fence) -> Self {
        let me = settings.identity.clone().unwrap_or_else(crate::identity::process_name);
        let (sender, standing) = watch::channel(Standing::StandsBy);
        let stop = CancellationToken::new();
        let candidate = Candidate {
            api: Api::namespaced(client, &settings.namespace),
            me,
            length: settings.lease(),
            fence,
            standing: sender,
            seen: None,
        };
        let task = tokio::spawn(candidate.run(stop.clone()));
        Self { standing, stop, task }
    }

    /// Waits until this replica leads, or the end.
    pub async fn won(&mut self, end: &CancellationToken) -> bool {
        tokio::select! {
            () = end.cancelled() => false,
            won = self.standing.wait_for(|standing| *standing == Standing::Leads) => won.is_ok(),
        }
    }

    /// Waits until another replica leads that this one did. There is no way back: what was begun as leader may be half done, and a fresh
    /// process starts from what is recorded.
    pub async fn lost(&mut self) {
        let _ = self.standing.wait_for(|standing| *standing == Standing::Lost).await;
    }

    /// Gives the Lease up, so that another replica takes over at once.
    pub async fn resign(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the election broke off; another replica takes over when the Lease is over");
        }
    }
}

/// The Lease as it was when it last changed.
struct Seen {
    lease: Lease,
    at: Instant,
}

struct Candidate {
    api: Api<Lease>,
    me: String,
    length: Duration,
    fence: Fence,
    standing: watch::Sender<Standing>,
    seen: Option<Seen>,
}

impl Candidate {
    async fn run(mut self, stop: CancellationToken) {
        let led = tokio::select! {
            led = self.stand_by() => led,
            () = stop.cancelled() => return,
        };
        let _ = self.standing.send(Standing::Leads);
        let mut renewed = led;
        let lost = tokio::select! {
            () = self.lead(&mut renewed) => true,
            () = stop.cancelled() => false,
        };
        // Before anything else: what is under way must not go on.
        self.fence.close();
        if lost {
            let _ = self.standing.send(Standing::Lost);
        } else if let Err(error) = self.give_up(&renewed).await {
            tracing::warn!(%error, "the Lease could not be given up; another replica takes over when it is over");
        }
    }

    /// Returns when this replica holds the Lease, which is the answer.
    async fn stand_by(&mut self) -> Lease {
        let config = watcher::Config::default().fields(&format!("metadata.name={LEASE}"));
        let mut changes = watch_objects(self.api.clone(), config).default_backoff().boxed();
        loop {
            tokio::select! {
                Some(event) = changes.next() => match event {
                    Ok(Event::Apply(lease) | Event::InitApply(lease)) => self.see(lease),
                    // It was deleted, or isn't there: looking at it makes it anew.
                    Ok(Event::Delete(_) | Event::InitDone) => self.look().await,
                    Ok(Event::Init) => {}
                    Err(error) => tracing::debug!(%error, "the watch on the Lease was interrupted; it is opened anew"),
                },
                () = tokio::time::sleep_until(self.look_at()) => self.look().await,
            }
            if let Some(lease) = self.claim().await {
                return lease;
            }
        }
    }

    /// A watch and an answer may tell of the same change in any order: a version that isn't the one last seen is newer, or the API server
    /// refuses what is built on it.
    fn see(&mut self, lease: Lease) {
        let same = self.seen.as_ref().is_some_and(|seen| seen.lease.resource_version() == lease.resource_version());
        if !same {
            self.seen = Some(Seen { lease, at: Instant::now() });
        }
    }

    fn look_at(&self) -> Instant {
        let anyway = Instant::now() + LOOK_ANYWAY;
        self.seen
            .as_ref()
            .map_or(Instant::now() + AGAIN, |seen| anyway.min(self.over_at(seen).max(Instant::now() + AGAIN)))
    }

    async fn look(&mut self) {
        match answered(self.api.get_opt(LEASE)).await {
            Ok(Some(lease)) => self.see(lease),
            Ok(None) => {
                let lease = json!({ "metadata": { "name": LEASE } });
                let Ok(lease) = serde_json::from_value(lease) else { return };
                // Another replica may be first, and is seen at the next look.
                if let Ok(lease) = answered(self.api.create(&PostParams::default(), &lease)).await {
                    self.see(lease);
                }
            }
            Err(error) => tracing::debug!(%error, "the Lease could not be read"),
        }
    }

    fn over_at(&self, seen: &Seen) -> Instant {
        let length = seen.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let length = length.and_then(|seconds| u64::try_from(seconds).ok()).map_or(self.length, Duration::from_secs);
        seen.at + length
    }

    /// Takes the Lease where nobody holds it, or whoever does has been silent for its whole length. A holder of this replica's own name is
    /// the process before this one.
    async fn claim(&mut self) -> Option<Lease> {
        let seen = self.seen.as_ref()?;
        let spec = seen.lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.me && Instant::now() < self.over_at(seen) {
            return None;
        }
        let time = now_micro();
        let term = spec.lease_transitions.unwrap_or_default().saturating_add(1);
        let claim = json!({
            "holderIdentity": self.me, "leaseDurationSeconds": self.length.as_secs(), "leaseTransitions": term,
            "acquireTime": time, "renewTime": time,
        });
        let sent = now();
        match self.write(&seen.lease, &claim).await {
            Ok(lease) => {
                self.fence.open_until(sent, self.length);
                tracing::info!(term, before = holder, "the Lease is taken");
                Some(lease)
            }
            Err(error) => {
                tracing::debug!(%error, "the Lease was not taken");
                self.look().await;
                None
            }
        }
    }

    /// Renews the Lease until another holds it. While the API server is away nothing can be known but that the time is over, which closes
    /// the fence; where nobody has taken the Lease meanwhile, this replica goes on.
    async fn lead(&mut self, lease: &mut Lease) {
        let mut wait = self.length / 5;
        loop {
            tokio::time::sleep(wait).await;
            let sent = now();
            match self.write(lease, &json!({ "renewTime": now_micro() })).await {
                Ok(renewed) => {
                    self.fence.open_until(sent, self.length);
                    *lease = renewed;
                    wait = self.length / 5;
                    continue;
                }
                Err(ElectionError::Request(kube::Error::Api(status)))
                    if status.is_conflict() || status.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(%error, "the Lease could not be renewed; it is tried again");
                    wait = AGAIN;
                    continue;
                }
            }
            // A renewal whose answer was lost makes the next one a conflict, too.
            match answered(self.api.get_opt(LEASE)).await {
                Ok(Some(there)) if is_same_term(&there, lease) => {
                    *lease = there;
                    wait = Duration::ZERO;
                }
                Ok(_) => return,
                Err(_) => wait = AGAIN,
            }
        }
    }

    /// Tried until the Lease is over by itself.
    async fn give_up(&self, lease: &Lease) -> Result<(), ElectionError> {
        let over = Instant::now() + self.length;
        loop {
            let tried = self.try_give_up(lease).await;
            if tried.is_ok() || Instant::now() + AGAIN >= over {
                return tried;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// As client-go does it: no holder, and a length of a second, should nobody see it.
    async fn try_give_up(&self, lease: &Lease) -> Result<(), ElectionError> {
        let free = json!({ "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now_micro() });
        match self.write(lease, &free).await {
            Err(ElectionError::Request(kube::Error::Api(status))) if status.is_conflict() => {
                let there = answered(self.api.get(LEASE)).await?;
                if is_same_term(&there, lease) { self.write(&there, &free).await.map(drop) } else { Ok(()) }
            }
            other => other.map(drop),
        }
    }

    async fn write(&self, lease: &Lease, spec: &Value) -> Result<Lease, ElectionError> {
        let patch = json!({ "metadata": { "resourceVersion": lease.resource_version() }, "spec": spec });
        let parameters = PatchParams { field_manager: Some("quell/election".to_owned()), ..PatchParams::default() };
        answered(self.api.patch(LEASE, &parameters, &Patch::Merge(&patch))).await
    }
}

/// Whether it is still the term that was won.
fn is_same_term(there: &Lease, won: &Lease) -> bool {
    let of = |lease: &Lease| lease.spec.as_ref().map(|spec| (spec.holder_identity.clone(), spec.lease_transitions));
    of(there) == of(won)
}

async fn answered<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ElectionError> {
    match tokio::time::timeout(LONGEST_REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ElectionError::NoAnswer),
    }
}

fn now_micro() -> String {
    Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
