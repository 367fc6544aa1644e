//! What Quell speaks to outside of the cluster: a receiver of notifications, and a build system. Both can be told twice, and tell by the key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::names::timeless;
use super::trap::{Life, Trap};
use crate::fixtures::digest_of;

/// The key of the signatures; the tests of `quell-notify` look at those.
pub const HMAC_KEY: &str = "the-key-of-the-crashes";

/// Both receivers, on one port; they end with their owner.
pub struct Receivers {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

struct Shared {
    trap: Arc<Trap>,
    deliveries: Mutex<Vec<Delivery>>,
    builds: Mutex<BTreeMap<String, String>>,
}

#[derive(Clone, Debug)]
struct Delivery {
    key: String,
    body: String,
}

impl Receivers {
    /// Listens on a free port of loopback.
    pub async fn listen(trap: Arc<Trap>) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port for the receivers")?;
        let address = listener.local_addr().context("no address of the receivers")?;
        let shared = Arc::new(Shared { trap, deliveries: Mutex::default(), builds: Mutex::default() });
        let router = Router::new()
            .route("/hook", post(notified))
            .route("/builds", post(build))
            .route("/builds/{id}", get(built))
            .with_state(shared.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { address, shared, serving })
    }

    /// Where notifications go.
    #[must_use]
    pub fn hook(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Where builds are asked for.
    #[must_use]
    pub fn builds(&self) -> String {
        format!("http://{}/builds", self.address)
    }

    /// What receivers that tell by the key have taken on account of a namespace, each once: key and text.
    #[must_use]
    pub fn taken(&self, namespace: &str) -> Vec<String> {
        let deliveries = lock(&self.shared.deliveries);
        let of = deliveries.iter().filter(|delivery| delivery.body.contains(namespace));
        let distinct: BTreeSet<(&str, String)> =
            of.map(|delivery| (delivery.key.as_str(), timeless(namespace, &delivery.body))).collect();
        distinct.into_iter().map(|(key, body)| format!("{} {body}", timeless(namespace, key))).collect()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(headers: &HeaderMap) -> String {
    headers.get("Idempotency-Key").and_then(|key| key.to_str().ok()).unwrap_or("none").to_owned()
}

async fn notified(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if shared.trap.comes("POST webhook") == Life::Ended {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    lock(&shared.deliveries).push(Delivery { key: format!("webhook {}", key(&headers)), body });
    let _ = shared.trap.goes("POST webhook");
    StatusCode::NO_CONTENT
}

async fn build(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    if shared.trap.comes("POST builds") == Life::Ended {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let key = key(&headers);
    let id = crate::fixtures::digest_of(&key).replace("sha256:", "");
    lock(&shared.builds).insert(id.clone(), body["image"].as_str().unwrap_or_default().to_owned());
    lock(&shared.deliveries).push(Delivery { key: format!("build {key}"), body: body.to_string() });
    let _ = shared.trap.goes("POST builds");
    Ok(Json(json!({ "id": id })))
}

async fn built(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
    if shared.trap.comes("GET build") == Life::Ended {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let image = lock(&shared.builds).get(&id).cloned().ok_or(StatusCode::NOT_FOUND)?;
    let _ = shared.trap.goes("GET build");
    let image = format!("{image}-quell");
    Ok(Json(json!({ "status": "succeeded", "digest": digest_of(&image), "image": image })))
}
