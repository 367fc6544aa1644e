//! A receiver of notifications that has its bad moments, and tells by the key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::task::AbortHandle;

/// What came in under a key.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// How often.
    pub times: usize,
    /// The text, the first time.
    pub body: String,
    /// It was another text later.
    pub differs: bool,
}

/// The receiver; ends with its owner.
pub struct Receiver {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

struct Shared {
    random: Mutex<fastrand::Rng>,
    told: Mutex<BTreeMap<String, Told>>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    pub async fn listen(seed: u64) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port for the receiver")?;
        let address = listener.local_addr().context("no address of the receiver")?;
        let shared = Arc::new(Shared { random: Mutex::new(fastrand::Rng::with_seed(seed)), told: Mutex::default() });
        let router = Router::new().route("/hook", post(take)).with_state(shared.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { address, shared, serving })
    }

    /// Where it takes notifications.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What came in, by key.
    #[must_use]
    pub fn told(&self) -> BTreeMap<String, Told> {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let moment = shared.random.lock().unwrap_or_else(PoisonError::into_inner).u8(..100);
    if moment < 3 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let key = headers.get("Idempotency-Key").and_then(|key| key.to_str().ok()).unwrap_or("none").to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut told = shared.told.lock().unwrap_or_else(PoisonError::into_inner);
    let told = told.entry(key).or_insert_with(|| Told { body: body.clone(), ..Told::default() });
    told.times += 1;
    told.differs |= told.body != body;
    // It has the message, and its sender is not told so.
    if moment < 6 { StatusCode::BAD_GATEWAY } else { StatusCode::NO_CONTENT }
}
