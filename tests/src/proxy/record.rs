//! What was asked of the API server through the proxy, and what it answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Response, Uri, response};
use serde_json::Value;

use super::{Body, whole};
use crate::requests::Request;

/// A request that the API server has answered.
#[derive(Clone, Debug)]
pub struct Record {
    /// The request, with the status of its answer.
    pub request: Request,
    /// Of a write, the object that was answered.
    pub object: Option<Object>,
}

/// What identifies an object and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub version: String,
    /// Of a Lease, who holds it.
    pub holder: Option<String>,
}

impl Object {
    pub(super) fn of(answer: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let text = |field: &str| answer["metadata"][field].as_str().map(str::to_owned);
        let holder = answer["spec"]["holderIdentity"].as_str().map(str::to_owned);
        let version = text("resourceVersion").unwrap_or_default();
        Some(Self { name: text("name")?, uid: text("uid")?, version, holder })
    }
}

impl Record {
    /// Whether it changed something: it was taken, and it was no dry run.
    #[must_use]
    pub fn is_effect(&self) -> bool {
        let request = &self.request;
        request.verb.is_write()
            && request.status.is_some_and(|status| status.is_success())
            && !request.query.contains("dryRun=All")
    }

    /// Whether it wrote a Lease that `identity` holds by it.
    #[must_use]
    pub fn is_lease_of(&self, identity: &str) -> bool {
        // Whoever finds a Lease that has run out writes to it before it holds it.
        let holder = self.object.as_ref().and_then(|object| object.holder.as_deref());
        self.is_effect() && self.request.resource == "leases" && holder == Some(identity)
    }

    /// The name of the object, that of a created one included.
    #[must_use]
    pub fn name(&self) -> &str {
        let created = || self.object.as_ref().map_or("", |object| object.name.as_str());
        if self.request.name.is_empty() { created() } else { &self.request.name }
    }
}

/// All records, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    pub(super) fn push(&self, request: Request, object: Option<Object>) {
        self.lock().push(Record { request, object });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Those for which `wanted` holds.
    pub fn select(&self, mut wanted: impl FnMut(&Record) -> bool) -> Vec<Record> {
        self.lock().iter().filter(|record| wanted(record)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers that were given before, by what was asked: an API server that is behind gives them again.
#[derive(Debug, Default)]
pub(super) struct Earlier(Mutex<HashMap<Uri, (http::HeaderMap, Bytes)>>);

impl Earlier {
    pub(super) fn keep(&self, uri: &Uri, head: &response::Parts, body: &Bytes) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(uri.clone(), (head.headers.clone(), body.clone()));
    }

    pub(super) fn of(&self, uri: &Uri) -> Option<Response<Body>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (headers, body) = all.get(uri)?;
        let mut response = Response::new(whole(body.clone()));
        *response.headers_mut() = headers.clone();
        Some(response)
    }
}
