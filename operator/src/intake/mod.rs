//! Signals in, Findings out: every replica does this, whether it leads or not.

mod authority;
mod backlog;
mod budget;
mod connections;
mod credentials;
mod deliver;
mod depth;
mod flights;
mod fold;
mod follow_ups;
mod gate;
mod locate;
mod over;
mod reads;
mod recent;
mod server;
mod sources;
mod store;
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
pub use watch::{Shared, Watching, watch_sources};

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use quell_crds::v1alpha1::{Finding, Target};
use quell_ingest::{Place, Signal};
use serde::Serialize;
use thiserror::Error;

use crate::caches::{Caches, FindingKey};
use crate::engine::Engine;
use crate::intake::backlog::KeepError;
use crate::intake::deliver::may_be_taken_later;
use crate::intake::flights::Flights;
use crate::intake::fold::Ended;
use crate::intake::recent::Recent;
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

/// What is said of a Finding.
#[derive(Clone, Debug)]
pub struct Report {
    /// What is to be stored; of one that is over, what it was when that was said.
    pub finding: Finding,
    /// It is over.
    pub is_over: bool,
    /// When it was said, where a watch reads what may have been said long ago.
    pub said_at: Option<DateTime<Utc>>,
}

impl Report {
    fn is_there(finding: Finding) -> Self {
        Self { finding, is_over: false, said_at: None }
    }

    fn is_over(finding: Finding) -> Self {
        Self { finding, is_over: true, said_at: None }
    }

    fn key(&self) -> FindingKey {
        (self.finding.namespace().unwrap_or_default(), self.finding.name_any())
    }
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
    /// Whether the Finding was ended: its Source says that it is over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
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

/// Makes Findings of signals.
pub struct Intake {
    client: Client,
    caches: Arc<Caches>,
    lanes: Lanes,
    folder: Folder,
    flights: Flights,
    own_namespace: String,
    sources: Sources,
    /// What was stored just now, and the copies may not show yet.
    recent: Recent,
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
        let (flights, recent) = (Flights::default(), Recent::default());
        Self { client, caches, lanes, folder, flights, own_namespace, sources, recent, backlog, engine }
    }

    /// From now on this replica leads, and contains what is reported to it at once.
    pub fn lead(&self, engine: Arc<Engine>) {
        self.engine.store(Some(engine));
    }

    /// Takes in what was sent to a Source. When this returns, every Finding is durable, and so is what of them is over: in the cluster, or on
    /// this replica's disk.
    pub async fn take(self: &Arc<Self>, source: &str, signals: &[Signal]) -> Result<Vec<Accepted>, IntakeError> {
        let reports = self.reports(source, signals).await?;
        let taken = reports.into_iter().map(|report| async move {
            match &self.backlog {
                Some(backlog) => self.store_or_keep(report, backlog).await,
                None => self.store_and_count(report, Again::IsARepeat).await,
            }
        });
        join_all(taken).await.into_iter().filter_map(Result::transpose).collect()
    }

    /// Stores what a Source's watch read; whoever watches tries again by itself, and knows what is over: see [`Self::resolve`]. With `said_at`
    /// it was there before, and was said then: what has ended since stays so, and what was seen since isn't counted.
    pub async fn submit(
        &self,
        source: &str,
        signals: &[Signal],
        again: Again,
        said_at: Option<DateTime<Utc>>,
    ) -> Result<Vec<Accepted>, IntakeError> {
        let mut reports = self.reports(source, signals).await?;
        for report in &mut reports {
            report.said_at = said_at;
        }
        let stored = join_all(reports.into_iter().map(|report| self.store_and_count(report, again))).await;
        stored.into_iter().filter_map(Result::transpose).collect()
    }

    /// Stores what was fetched because a request, which any replica may have got, asked for it, and ends what it says is over; whoever fetches
    /// tries again by itself, and what is read again is no repeat.
    pub async fn submit_fetched(&self, source: &str, signals: &[Signal]) -> Result<Vec<Accepted>, IntakeError> {
        self.submit(source, signals, Again::IsTheSame, None).await
    }

    /// Ends Findings whose reports are no longer there, as when the object that was watched is deleted: each becomes `Resolved`. One that is
    /// ended already, or isn't there any more, stays as it is. What another object still reports must not be among them: ended, it would come
    /// back as a new episode. The answer is how many were ended by this.
    pub async fn resolve(&self, findings: &[ObjectRef<Finding>]) -> Result<usize, IntakeError> {
        let ended = findings.iter().map(|finding| {
            let key = (finding.namespace.clone().unwrap_or_default(), finding.name.clone());
            async move { self.folder.resolve(&key, Utc::now(), |_| true).await }
        });
        let ended: Vec<Ended> = join_all(ended).await.into_iter().collect::<Result<_, _>>()?;
        Ok(ended.into_iter().filter(|ended| *ended == Ended::Now).count())
    }

    /// What signals report: Findings at the places where each is, and those that are over. A Source that is bound to namespaces speaks for
    /// these alone; it ends no Findings but its own.
    async fn reports(&self, source: &str, signals: &[Signal]) -> Result<Vec<Report>, IntakeError> {
        let (over, open): (Vec<&Signal>, Vec<&Signal>) = signals.iter().partition(|signal| signal.resolved);
        let places = join_all(open.iter().map(|signal| locate::locate(signal, &self.caches, &self.client))).await;
        let open = self.within(source, open.into_iter().zip(places).collect())?;
        let mut reports: Vec<Report> = open.into_iter().map(Report::is_there).collect();
        reports.extend(self.over(source, &over));
        Ok(reports)
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
        if !locate::runs_in(&self.caches, target) {
            target.image.clear();
            target.digest.clear();
        }
    }
}
