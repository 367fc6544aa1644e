//! A real receiver of notifications on loopback, which believes nothing that isn't signed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use chrono::Utc;
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::news::{News, Seen};

/// The key that both sides know; Quell reads it from a Secret.
pub const KEY: &str = "the-key-of-the-demo";
/// A signature that is older than this may be one that somebody has overheard.
const OLDEST: i64 = 300;

/// A notification that came in.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Whether its signature is that of its body, or what is wrong with it.
    pub verified: Result<(), &'static str>,
    /// The header `Idempotency-Key`.
    pub key: String,
    /// The document.
    pub body: Value,
}

/// The receiver; ends with its owner.
pub struct Receiver {
    address: SocketAddr,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    serving: AbortHandle,
}

#[derive(Clone)]
struct Shared {
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    news: UnboundedSender<News>,
}

impl Receiver {
    /// Listens on a free port; what comes in is news.
    pub async fn listen(news: UnboundedSender<News>) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port for the receiver")?;
        let address = listener.local_addr().context("no address of the receiver")?;
        let deliveries = Arc::<Mutex<Vec<Delivery>>>::default();
        let shared = Shared { deliveries: deliveries.clone(), news };
        let router = Router::new().route("/hooks/quell", post(take)).with_state(shared);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { address, deliveries, serving })
    }

    /// Where it takes notifications.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hooks/quell", self.address)
    }

    /// What came in so far.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let at = Instant::now();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let verified = verify(header("Quell-Signature"), &body, Utc::now().timestamp());
    let delivery = Delivery {
        verified,
        key: header("Idempotency-Key").to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery.clone());
    let _ = shared.news.send(News { at, seen: Seen::Delivery(Box::new(delivery)) });
    if verified.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED }
}

/// Checks `t=<unix seconds>,v1=<hexadecimal>` over `<t>.<body>`, as a receiver of yours would.
fn verify(signature: &str, body: &[u8], now: i64) -> Result<(), &'static str> {
    let part = |key: &str| signature.split(',').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='));
    let time = part("t").ok_or("it says no time")?;
    let signed = part("v1").and_then(bytes).ok_or("it has no signature")?;
    let at: i64 = time.parse().map_err(|_| "its time is no number")?;
    if now.saturating_sub(at).abs() > OLDEST {
        return Err("it is too old");
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).map_err(|_| "the key can't be used")?;
    mac.update(format!("{time}.").as_bytes());
    mac.update(body);
    // Compares in constant time.
    mac.verify_slice(&signed).map_err(|_| "it is not signed with our key")
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let pairs = hexadecimal.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac the-key-of-the-demo
    const SIGNED: &str = "t=1700000000,v1=1028e4cd2093cae21cfb826b28010e4e14f1fef53ab194eccbb59e28513aab92";

    #[test]
    fn a_signature_as_openssl_makes_it_is_believed() {
        assert_eq!(verify(SIGNED, br#"{"a":1}"#, 1_700_000_010), Ok(()));
    }

    #[test]
    fn what_was_changed_is_old_or_is_unsigned_is_not_believed() {
        assert_eq!(verify(SIGNED, br#"{"a":2}"#, 1_700_000_010), Err("it is not signed with our key"));
        assert_eq!(verify(SIGNED, br#"{"a":1}"#, 1_700_000_301), Err("it is too old"));
        assert_eq!(verify("", b"", 0), Err("it says no time"));
        assert_eq!(verify("t=1,v1=xyz", b"", 0), Err("it has no signature"));
    }
}
