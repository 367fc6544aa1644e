//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether the caches are complete and signals are taken in. Every replica becomes ready, the leader and the others.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Serves until `end`.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    ready: Readiness,
    end: CancellationToken,
) -> Result<(), std::io::Error> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposed))
        .with_state((metrics, ready));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await
}

async fn readyz(State((_, ready)): State<(Metrics, Readiness)>) -> impl IntoResponse {
    if ready.0.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the copies of what is in the cluster are not complete yet\n")
    }
}

async fn exposed(State((metrics, _)): State<(Metrics, Readiness)>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.encode())
}
