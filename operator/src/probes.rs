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

use crate::intake::Backlog;
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
    backlog: Option<Arc<Backlog>>,
    end: CancellationToken,
) -> Result<(), std::io::Error> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposed))
        .with_state(Probed { metrics, ready, backlog });
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await
}

#[derive(Clone)]
struct Probed {
    metrics: Metrics,
    ready: Readiness,
    backlog: Option<Arc<Backlog>>,
}

async fn readyz(State(probed): State<Probed>) -> impl IntoResponse {
    if !probed.ready.0.load(Ordering::Acquire) {
        let message = "the copies of what is in the cluster are not complete yet\n".to_owned();
        return (StatusCode::SERVICE_UNAVAILABLE, message);
    }
    let Some((backlog, trouble)) =
        probed.backlog.and_then(|backlog| backlog.trouble().map(|trouble| (backlog, trouble)))
    else {
        return (StatusCode::OK, "ok\n".to_owned());
    };
    // While the API server takes what comes, nothing has to be kept.
    if backlog.is_away() {
        let message = format!("signals can't be stored, and can't be kept: {trouble}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, message);
    }
    (StatusCode::OK, format!("ok, but signals can't be kept while the API server is away: {trouble}\n"))
}

async fn exposed(State(probed): State<Probed>) -> impl IntoResponse {
    if let Some(backlog) = &probed.backlog {
        backlog.observe();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], probed.metrics.encode())
}
