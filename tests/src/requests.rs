//! Records what a client asks of the API server, so that tests count requests and learn which rights were used.

mod parse;

pub(crate) use parse::describe;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use anyhow::{Context as _, Result};
use http::StatusCode;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::control_plane::ControlPlane;

/// What a request does, by RBAC's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads one object, or something that is no resource.
    Get,
    /// Reads many.
    List,
    /// Follows many.
    Watch,
    /// Creates.
    Create,
    /// Replaces.
    Update,
    /// Patches or applies.
    Patch,
    /// Deletes one object.
    Delete,
    /// Deletes many.
    DeleteCollection,
}

impl Verb {
    /// As RBAC spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// Whether it changes something.
    #[must_use]
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A request that was sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The label of the client that sent it.
    pub label: String,
    /// When it was sent.
    pub at: Instant,
    /// The HTTP method.
    pub method: http::Method,
    /// The path.
    pub path: String,
    /// The query, not decoded.
    pub query: String,
    /// The type of the body, which tells kinds of patches apart.
    pub content_type: String,
    /// The verb.
    pub verb: Verb,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The resource in its plural; empty for paths that are no resources, such as discovery.
    pub resource: String,
    /// The subresource, empty for none.
    pub subresource: String,
    /// The namespace, empty for none.
    pub namespace: String,
    /// The object's name, empty for none. A list or a watch of one object by its name has one.
    pub name: String,
    /// The status that was answered, none before that or when no answer came.
    pub status: Option<StatusCode>,
}

/// A right, as a rule of RBAC gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// The API group.
    pub group: String,
    /// The resource, with its subresource after a slash.
    pub resource: String,
    /// The verb.
    pub verb: &'static str,
}

impl Request {
    /// The right that it needs; none if it is about no resource.
    #[must_use]
    pub fn right(&self) -> Option<Right> {
        let resource = match (self.resource.as_str(), self.subresource.as_str()) {
            ("", _) => return None,
            (resource, "") => resource.to_owned(),
            (resource, subresource) => format!("{resource}/{subresource}"),
        };
        Some(Right { group: self.group.clone(), resource, verb: self.verb.as_str() })
    }

    /// The manager of the fields that it writes, empty for none.
    #[must_use]
    pub fn field_manager(&self) -> String {
        parse::parameter(&self.query, "fieldManager").unwrap_or_default()
    }
}

/// The list of requests, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    requests: Arc<Mutex<Vec<Request>>>,
    label: Arc<str>,
}

impl Recorder {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same list, for a client whose requests shall be told apart.
    #[must_use]
    pub fn labelled(&self, label: &str) -> Self {
        Self { requests: Arc::clone(&self.requests), label: label.into() }
    }

    /// All requests so far, in the order in which they were sent.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.lock().clone()
    }

    /// How many requests `condition` holds for.
    pub fn count(&self, mut condition: impl FnMut(&Request) -> bool) -> usize {
        self.lock().iter().filter(|request| condition(request)).count()
    }

    /// The rights that were used.
    #[must_use]
    pub fn rights(&self) -> BTreeSet<Right> {
        self.lock().iter().filter_map(Request::right).collect()
    }

    /// Forgets all requests so far, and returns them.
    #[must_use]
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An admin client of the cluster whose requests are recorded.
pub async fn recorded_client(cluster: &ControlPlane, recorder: &Recorder) -> Result<Client> {
    record(cluster.config().await?, recorder)
}

/// A client of any configuration whose requests are recorded. Requests that kube repeats by itself count each time.
pub fn record(mut config: Config, recorder: &Recorder) -> Result<Client> {
    // kube retries below any layer that is added from outside, so its retry is taken out and put on top.
    let retry = std::mem::replace(&mut config.default_retry, false);
    let recording =
        ClientBuilder::try_from(config).context("can't make a client")?.with_layer(&RecordLayer(recorder.clone()));
    if !retry {
        return Ok(recording.build());
    }
    let retrying = recording
        .with_layer(&tower::buffer::BufferLayer::new(1024))
        .with_layer(&tower::retry::RetryLayer::new(RetryPolicy::server_retry()));
    Ok(retrying.build())
}

/// A layer for a client's stack that records what passes through.
#[derive(Clone, Debug)]
pub struct RecordLayer(pub Recorder);

impl<S> Layer<S> for RecordLayer {
    type Service = RecordService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RecordService { inner, recorder: self.0.clone() }
    }
}

/// What [`RecordLayer`] makes.
#[derive(Clone, Debug)]
pub struct RecordService<S> {
    inner: S,
    recorder: Recorder,
}

impl<S, B> Service<http::Request<Body>> for RecordService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = BoxError, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let record = parse::parse(&request, &self.recorder.label);
        let key = (record.at, record.path.clone());
        self.recorder.lock().push(record);
        let recorder = self.recorder.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let mut requests = recorder.lock();
            // By content, not by index: the list may have been emptied meanwhile.
            let record = requests.iter_mut().rev().find(|record| (record.at, &record.path) == (key.0, &key.1));
            if let Some(record) = record {
                record.status = Some(answer.status());
            }
            drop(requests);
            Ok(answer)
        })
    }
}
