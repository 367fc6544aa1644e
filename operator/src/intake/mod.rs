//! Signals in, Findings out: every replica does this, whether it leads or not.

mod authority;
mod backlog;
mod budget;
mod connections;
mod credentials;
mod deliver;
mod depth;
mod fold;
mod follow_ups;
mod gate;
mod locate;
mod server;
mod sources;
mod territory;
mod tls;
mod watch;

pub use authority::{Authority, CA_BUNDLE, CERTIFICATE};
pub use backlog::Backlog;
pub use deliver::{deliver, tell};
pub use fold::Folder;
pub use follow_ups::FollowUps;
pub use server::{ServeError, Server, listen, serve};
pub use sources::{Sources, judge, secret_value};
pub use watch::{is_served, watch_sources};

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::http;
use axum::http::uri::InvalidUri;
use futures::future::join_all;
use kube::api::{Api, PartialObjectMeta, PostParams};
use kube::core::Request;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use quell_crds::names::field_managers;
use quell_crds::v1alpha1::{Finding, Target};
use quell_ingest::{Place, Signal};
use quell_spool::Sequence;
use serde::Serialize;
use thiserror::Error;
use tokio::task::JoinError;

use crate::caches::Caches;
use crate::engine::{Engine, contain_at_once};
use crate::intake::backlog::{KeepError, Waiting};
use crate::intake::deliver::may_be_taken_later;
use crate::intake::territory::Kept;
use crate::lanes::Lanes;

/// What it means that a Finding is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It was reported again: its count is raised.
    IsARepeat,
    /// The same report was read again, as a watch does whenever it begins.
    IsTheSame,
}

/// Where a signal ended up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// Namespace of the Finding.
    pub namespace: String,
    /// Name of the Finding.
    pub name: String,
    /// Whether the Finding was there already, and its count was raised.
    pub repeated: bool,
    /// Whether it is on Quell's disk, and becomes a Finding when the API server takes it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spooled: bool,
}

/// Why a signal could not be kept.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// The API server did not take the Finding.
    #[error("the Finding {name} could not be stored: {source}")]
    Store {
        /// Name of the Finding.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("the Finding {name} could not be stored: no answer from the API server in {} s", LONGEST_STORE.as_secs())]
    NoAnswer {
        /// Name of the Finding.
        name: String,
    },
    /// The Source is bound to namespaces, and this is about something else.
    #[error(
        "the Source may not speak for {about}: see `spec.namespaces` of the Source; nothing of the body was stored"
    )]
    Foreign {
        /// What it is about.
        about: String,
    },
    /// Another problem has the name of this one.
    #[error("the Finding {name} is of another problem: two fingerprints share a name")]
    Collision {
        /// Name of the Finding.
        name: String,
    },
    /// Neither the API server nor the disk took it.
    #[error("{stored}; and it could not be kept on disk: {kept}")]
    NotKept {
        /// What the API server said.
        stored: Box<IntakeError>,
        /// What the disk said.
        kept: KeepError,
    },
}

impl IntakeError {
    /// Whether the sender should try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => may_be_taken_later(source),
            Self::NoAnswer { .. } => true,
            Self::Foreign { .. } | Self::Collision { .. } => false,
            Self::NotKept { stored, .. } => stored.is_transient(),
        }
    }
}

/// No attempt to store a Finding takes longer.
const LONGEST_STORE: Duration = Duration::from_secs(10);
/// A Finding that isn't stored by then is kept on disk beside that, and its sender has its answer.
const SLOW: Duration = Duration::from_millis(250);

/// Makes Findings of signals.
pub struct Intake {
    client: Client,
    caches: Arc<Caches>,
    lanes: Lanes,
    folder: Folder,
    own_namespace: String,
    sources: Sources,
    /// Where Findings are kept that the API server doesn't take at once.
    backlog: Option<Arc<Backlog>>,
    /// Set while this replica leads.
    engine: ArcSwapOption<Engine>,
}

impl Intake {
    /// An intake that stores by `client`; what is in no namespace goes to Quell's own.
    #[must_use]
    pub fn new(
        client: Client,
        caches: Arc<Caches>,
        lanes: Lanes,
        folder: Folder,
        sources: Sources,
        backlog: Option<Arc<Backlog>>,
    ) -> Self {
        let own_namespace = quell_actions::Cluster::own_namespace(&*caches).to_owned();
        let engine = ArcSwapOption::empty();
        Self { client, caches, lanes, folder, own_namespace, sources, backlog, engine }
    }

    /// From now on this replica leads, and contains what is reported to it at once.
    pub fn lead(&self, engine: Arc<Engine>) {
        self.engine.store(Some(engine));
    }

    /// Takes in what was sent to a Source. When this returns, every Finding is durable: in the cluster, or on this replica's disk.
    pub async fn take(self: &Arc<Self>, source: &str, signals: &[Signal]) -> Result<Vec<Accepted>, IntakeError> {
        let findings = self.findings(source, signals).await?;
        let taken = findings.into_iter().map(|finding| async move {
            match &self.backlog {
                Some(backlog) => self.store_or_keep(finding, backlog).await,
                None => self.store_and_count(finding, Again::IsARepeat).await,
            }
        });
        join_all(taken).await.into_iter().collect()
    }

    /// Stores what a Source's watch read; whoever watches tries again by itself.
    pub async fn submit(&self, source: &str, signals: &[Signal], again: Again) -> Result<Vec<Accepted>, IntakeError> {
        let findings = self.findings(source, signals).await?;
        join_all(findings.into_iter().map(|finding| self.store_and_count(finding, again))).await.into_iter().collect()
    }

    /// The Findings of what signals tell of, at the places where that is. A Source that is bound to namespaces speaks for these alone.
    async fn findings(&self, source: &str, signals: &[Signal]) -> Result<Vec<Finding>, IntakeError> {
        // What a tool says is no longer there makes no Finding.
        let open: Vec<_> = signals.iter().filter(|signal| !signal.resolved).collect();
        let places = join_all(open.iter().map(|signal| locate::locate(signal, &self.caches, &self.client))).await;
        self.within(source, open.into_iter().zip(places).collect())
    }

    /// The Findings of signals at their places, without what the Source may not speak for.
    fn within(&self, source: &str, located: Vec<(&Signal, Vec<Place>)>) -> Result<Vec<Finding>, IntakeError> {
        let known = self.sources.get(source);
        let territory = known.as_ref().and_then(|known| known.territory.as_ref());
        let bound = match territory {
            None => None,
            Some(Ok(territory)) => Some(territory),
            Some(Err(_)) => {
                return Err(IntakeError::Foreign { about: "anything while its namespaces can't be told".to_owned() });
            }
        };
        let some = !located.is_empty();
        let mut findings = Vec::new();
        let mut withheld = 0_usize;
        for (signal, places) in located {
            let all = places.len();
            let places =
                match bound.map(|bound| bound.keep(signal, places.clone(), |one| self.caches.namespace_labels(one))) {
                    None => places,
                    Some(Kept::Places(own)) => own,
                    Some(Kept::Nothing) => Vec::new(),
                    Some(Kept::Foreign(about)) => return Err(IntakeError::Foreign { about }),
                };
            withheld += all - places.len();
            for mut place in places {
                if bound.is_some() {
                    self.believe_what_runs(&mut place.target);
                }
                findings.push(quell_ingest::finding(source, signal, &place, &self.own_namespace));
            }
        }
        if withheld > 0 {
            tracing::warn!(source, withheld, "places were left out that the Source may not speak for");
        }
        if bound.is_some() && some && findings.is_empty() {
            let about = "what this was found to be about, or it was found nowhere".to_owned();
            return Err(IntakeError::Foreign { about });
        }
        Ok(findings)
    }

    /// An image can be blocked in the whole cluster, so a bound Source names only one that runs in the namespace of its target.
    fn believe_what_runs(&self, target: &mut Target) {
        if target.image.is_empty() && target.digest.is_empty() {
            return;
        }
        let runs = self.caches.pods.find(|pod| {
            pod.namespace().as_deref() == Some(&target.namespace)
                && locate::runs_image(pod, &target.image, &target.digest)
        });
        if runs.is_none() {
            target.image.clear();
            target.digest.clear();
        }
    }

    /// The API server first; the disk where it doesn't take the Finding, or not soon, or where others of the same Source wait already.
    async fn store_or_keep(
        self: &Arc<Self>,
        mut finding: Finding,
        backlog: &Arc<Backlog>,
    ) -> Result<Accepted, IntakeError> {
        backlog.name_report(&mut finding);
        if backlog.must_wait(&finding.spec.source) {
            if !backlog.is_away() {
                self.begin_containment(&finding);
            }
            return match backlog.keep(&finding).await {
                Ok(()) => Ok(spooled(&finding)),
                Err(kept) => {
                    let stored = self.store_and_count(finding, Again::IsARepeat).await;
                    backlog.answered(!matches!(&stored, Err(error) if error.is_transient()));
                    stored.map_err(|stored| not_kept(stored, kept))
                }
            };
        }
        // A task of its own: it goes on when the sender has its answer.
        let storing = {
            let (intake, mut finding) = (self.clone(), finding.clone());
            async move { intake.store(&mut finding).await }
        };
        let mut storing = tokio::spawn(storing);
        let stored = match tokio::time::timeout(SLOW, &mut storing).await {
            Ok(stored) => finished(stored, &finding),
            Err(_) => match backlog.keep_beside(&finding).await {
                Ok(sequence) => {
                    let (backlog, finding, accepted) = (backlog.clone(), finding.clone(), spooled(&finding));
                    tokio::spawn(async move {
                        let stored = finished(storing.await, &finding);
                        settle_beside(&backlog, &finding, sequence, stored);
                    });
                    return Ok(accepted);
                }
                Err(kept) => {
                    let stored = finished(storing.await, &finding).map_err(|stored| not_kept(stored, kept))?;
                    if stored.repeated {
                        self.folder.count(&in_place(finding, &stored));
                    }
                    return Ok(stored);
                }
            },
        };
        match stored {
            Ok(accepted) if accepted.repeated => {
                let (folder, backlog, finding) = (self.folder.clone(), backlog.clone(), in_place(finding, &accepted));
                // A task of its own, too: what is on disk is counted, whether the sender waits for that or not.
                let counting = tokio::spawn(async move { folder.keep_and_count(&finding, &backlog).await });
                if let Err(error) = counting.await {
                    tracing::error!(%error, "counting a repeat broke off");
                }
                Ok(accepted)
            }
            Err(error) if error.is_transient() => {
                backlog.answered(false);
                backlog.keep(&finding).await.map_err(|kept| not_kept(error, kept))?;
                Ok(spooled(&finding))
            }
            other => other,
        }
    }

    /// For what no disk keeps.
    async fn store_and_count(&self, mut finding: Finding, again: Again) -> Result<Accepted, IntakeError> {
        let stored = self.store(&mut finding).await?;
        if stored.repeated && again == Again::IsARepeat {
            self.folder.count(&finding);
        }
        Ok(stored)
    }

    /// Creates the Finding, unless it is there: then it is a repeat, which is not counted yet.
    async fn store(&self, finding: &mut Finding) -> Result<Accepted, IntakeError> {
        let known = self.caches.findings.get(&ObjectRef::from_obj(&*finding));
        if let Some(known) = known {
            if known.spec.fingerprint != finding.spec.fingerprint {
                return Err(IntakeError::Collision { name: finding.name_any() });
            }
            return Ok(accepted(finding, true));
        }
        self.begin_containment(finding);
        let created = self.create_in_place(finding).await?;
        Ok(accepted(finding, !created))
    }

    /// While this replica leads, what a Finding is about is contained beside its storing.
    fn begin_containment(&self, finding: &Finding) {
        if let Some(engine) = self.engine.load_full() {
            let finding = finding.clone();
            // Claimed before the Finding asks for its own pass: it is stored after the pod is cut off, not beside it.
            let claim = self.lanes.claim();
            tokio::spawn(async move {
                contain_at_once(&engine, &finding).await;
                drop(claim);
            });
        }
    }

    /// Creates the Finding; `false` where one of that name is there. A tool may name a namespace that is gone, or never was here: the
    /// Finding is then in Quell's own.
    async fn create_in_place(&self, finding: &mut Finding) -> Result<bool, IntakeError> {
        let created = match self.create(finding).await {
            Some(Err(kube::Error::Api(status)))
                if (status.is_not_found() || status.is_forbidden())
                    && finding.namespace().as_deref() != Some(&self.own_namespace) =>
            {
                finding.metadata.namespace = Some(self.own_namespace.clone());
                self.create(finding).await
            }
            other => other,
        };
        match created {
            Some(Ok(_)) => Ok(true),
            Some(Err(kube::Error::Api(status))) if status.is_already_exists() => Ok(false),
            Some(Err(source)) => Err(IntakeError::Store { name: finding.name_any(), source: Box::new(source) }),
            None => Err(IntakeError::NoAnswer { name: finding.name_any() }),
        }
    }

    /// Delivers reports that waited, all of one Finding, oldest first. The answer is how many of them were repeats. It may be asked again
    /// for the same ones, whatever became of them before.
    pub(super) async fn deliver(&self, reports: &[&Waiting]) -> Result<usize, IntakeError> {
        let Some(first) = reports.first() else { return Ok(0) };
        let mut finding = first.record.finding.clone();
        let known = self.caches.findings.get(&ObjectRef::from_obj(&finding)).is_some();
        let mut created = false;
        if !known {
            self.begin_containment(&finding);
            created = self.create_in_place(&mut finding).await?;
        }
        let rest = if created { &reports[1..] } else { reports };
        if rest.is_empty() {
            return Ok(0);
        }
        match self.folder.count_kept(&finding, rest).await? {
            Some(repeats) => Ok(repeats),
            // It was deleted meanwhile, which is for people to do: what was reported before is not a reason to bring it back, what is reported
            // again is.
            None if created => Ok(rest.len()),
            None => {
                self.create_in_place(&mut finding).await?;
                Ok(rest.len() - 1)
            }
        }
    }

    /// Of the answer only the metadata is read. The server is asked not to warn of unknown fields, for which it would decode the Finding
    /// twice: what is sent is made by this very version's types.
    async fn create(&self, finding: &Finding) -> Option<Result<PartialObjectMeta<Finding>, kube::Error>> {
        let request = match self.creation(finding) {
            Ok(request) => request,
            Err(error) => return Some(Err(error)),
        };
        let _pass = self.lanes.signal(&finding.spec.source).await;
        tokio::time::timeout(LONGEST_STORE, self.client.request(request)).await.ok()
    }

    fn creation(&self, finding: &Finding) -> Result<http::Request<Vec<u8>>, kube::Error> {
        let api: Api<Finding> = Api::namespaced(self.client.clone(), &finding.namespace().unwrap_or_default());
        let parameters = PostParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PostParams::default() };
        let body = serde_json::to_vec(finding).map_err(kube::Error::SerdeError)?;
        let mut request =
            Request::new(api.resource_url()).create(&parameters, body).map_err(kube::Error::BuildRequest)?;
        let uri = format!("{}&fieldValidation=Ignore", request.uri());
        *request.uri_mut() = uri.parse().map_err(|error: InvalidUri| kube::Error::HttpError(error.into()))?;
        Ok(request)
    }
}

/// The Finding where it was stored.
fn in_place(mut finding: Finding, stored: &Accepted) -> Finding {
    finding.metadata.namespace = Some(stored.namespace.clone());
    finding
}

fn accepted(finding: &Finding, repeated: bool) -> Accepted {
    let (namespace, name) = (finding.namespace().unwrap_or_default(), finding.name_any());
    Accepted { namespace, name, repeated, spooled: false }
}

fn spooled(finding: &Finding) -> Accepted {
    Accepted { spooled: true, ..accepted(finding, false) }
}

fn not_kept(stored: IntakeError, kept: KeepError) -> IntakeError {
    IntakeError::NotKept { stored: Box::new(stored), kept }
}

/// A task that broke off has stored nothing, as far as anybody knows.
fn finished(
    stored: Result<Result<Accepted, IntakeError>, JoinError>,
    finding: &Finding,
) -> Result<Accepted, IntakeError> {
    stored.unwrap_or_else(|error| {
        tracing::error!(%error, "storing a Finding broke off");
        Err(IntakeError::NoAnswer { name: finding.name_any() })
    })
}

/// The sender had its answer from the disk before the API server gave one.
fn settle_beside(backlog: &Backlog, finding: &Finding, sequence: Sequence, stored: Result<Accepted, IntakeError>) {
    match stored {
        Ok(accepted) if accepted.repeated => backlog.to_be_delivered(finding),
        Ok(_) => backlog.stored(finding, sequence),
        Err(error) if error.is_transient() => {
            backlog.answered(false);
            backlog.to_be_delivered(finding);
        }
        Err(error) => {
            tracing::error!(%error, ?finding, "a report that was answered with success is not taken by the API server; it is dropped");
            backlog.stored(finding, sequence);
        }
    }
}
