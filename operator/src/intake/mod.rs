//! Signals in, Findings out: every replica does this, whether it leads or not.

mod fold;
mod locate;
mod server;
mod sources;
mod tls;
mod watch;

pub use fold::Folder;
pub use server::{ServeError, Server, listen, serve};
pub use sources::{Admission, Reads, Sources, judge, secret_value};
pub use watch::{is_served, watch_sources};

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::http::uri::InvalidUri;
use futures::future::join_all;
use kube::api::{Api, PartialObjectMeta, PostParams};
use kube::core::Request;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use quell_crds::names::field_managers;
use quell_crds::v1alpha1::Finding;
use quell_ingest::Signal;
use serde::Serialize;
use thiserror::Error;

use crate::caches::Caches;
use crate::engine::{Engine, contain_at_once};
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
    /// Another problem has the name of this one.
    #[error("the Finding {name} is of another problem: two fingerprints share a name")]
    Collision {
        /// Name of the Finding.
        name: String,
    },
}

impl IntakeError {
    /// Whether the sender should try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500,
                _ => true,
            },
            Self::Collision { .. } => false,
        }
    }
}

/// Makes Findings of signals.
pub struct Intake {
    client: Client,
    caches: Arc<Caches>,
    lanes: Lanes,
    folder: Folder,
    own_namespace: String,
    /// Set while this replica leads.
    engine: ArcSwapOption<Engine>,
}

impl Intake {
    /// An intake that stores by `client`; what is in no namespace goes to `own_namespace`.
    #[must_use]
    pub fn new(client: Client, caches: Arc<Caches>, lanes: Lanes, folder: Folder, own_namespace: &str) -> Self {
        Self { client, caches, lanes, folder, own_namespace: own_namespace.to_owned(), engine: ArcSwapOption::empty() }
    }

    /// From now on this replica leads, and contains what is reported to it at once.
    pub fn lead(&self, engine: Arc<Engine>) {
        self.engine.store(Some(engine));
    }

    /// Stores what a Source reported. When this returns, every Finding is durable.
    pub async fn submit(&self, source: &str, signals: &[Signal], again: Again) -> Result<Vec<Accepted>, IntakeError> {
        // What a tool says is no longer there makes no Finding.
        let open: Vec<_> = signals.iter().filter(|signal| !signal.resolved).collect();
        let places = join_all(open.iter().map(|signal| locate::locate(signal, &self.caches, &self.client))).await;
        let findings = open
            .iter()
            .zip(places)
            .flat_map(|(signal, places)| places.into_iter().map(move |place| (signal, place)))
            .map(|(signal, place)| quell_ingest::finding(source, signal, &place, &self.own_namespace));
        join_all(findings.map(|finding| self.store(finding, again))).await.into_iter().collect()
    }

    async fn store(&self, mut finding: Finding, again: Again) -> Result<Accepted, IntakeError> {
        let known = self.caches.findings.get(&ObjectRef::from_obj(&finding));
        if let Some(known) = known {
            return self.repeat(&finding, &known, again);
        }
        if let Some(engine) = self.engine.load_full() {
            let finding = finding.clone();
            // Claimed before the Finding asks for its own pass: it is stored after the pod is cut off, not beside it.
            let claim = self.lanes.claim();
            tokio::spawn(async move {
                contain_at_once(&engine, &finding).await;
                drop(claim);
            });
        }
        let created = match self.create(&finding).await {
            // A tool may name a namespace that is gone, or never was here: the Finding says so from Quell's own.
            Err(kube::Error::Api(status))
                if (status.is_not_found() || status.is_forbidden())
                    && finding.namespace().as_deref() != Some(&self.own_namespace) =>
            {
                finding.metadata.namespace = Some(self.own_namespace.clone());
                self.create(&finding).await
            }
            other => other,
        };
        match created {
            Ok(_) => Ok(accepted(&finding, false)),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.repeat(&finding, &finding, again),
            Err(source) => Err(IntakeError::Store { name: finding.name_any(), source: Box::new(source) }),
        }
    }

    /// Of the answer only the metadata is read. The server is asked not to warn of unknown fields, for which it would decode the Finding
    /// twice: what is sent is made by this very version's types.
    async fn create(&self, finding: &Finding) -> Result<PartialObjectMeta<Finding>, kube::Error> {
        let api: Api<Finding> = Api::namespaced(self.client.clone(), &finding.namespace().unwrap_or_default());
        let parameters = PostParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PostParams::default() };
        let body = serde_json::to_vec(finding).map_err(kube::Error::SerdeError)?;
        let mut request =
            Request::new(api.resource_url()).create(&parameters, body).map_err(kube::Error::BuildRequest)?;
        let uri = format!("{}&fieldValidation=Ignore", request.uri());
        *request.uri_mut() = uri.parse().map_err(|error: InvalidUri| kube::Error::HttpError(error.into()))?;
        let _pass = self.lanes.signal().await;
        self.client.request(request).await
    }

    fn repeat(&self, finding: &Finding, known: &Finding, again: Again) -> Result<Accepted, IntakeError> {
        if known.spec.fingerprint != finding.spec.fingerprint {
            return Err(IntakeError::Collision { name: finding.name_any() });
        }
        if again == Again::IsARepeat {
            self.folder.count(&finding.namespace().unwrap_or_default(), &finding.name_any());
        }
        Ok(accepted(finding, true))
    }
}

fn accepted(finding: &Finding, repeated: bool) -> Accepted {
    Accepted { namespace: finding.namespace().unwrap_or_default(), name: finding.name_any(), repeated }
}
