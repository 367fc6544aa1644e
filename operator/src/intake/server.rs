//! The HTTP intake: `POST /v1/sources/<name>`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use quell_ingest::{Received, Unreadable};
use serde_json::json;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tower_http::decompression::RequestDecompressionLayer;

use crate::intake::authority::Authority;
use crate::intake::connections::{Counted, Secured};
use crate::intake::follow_ups::{FollowUps, Unfinished};
use crate::intake::gate::{self, Arrived, refuse, retry};
use crate::intake::reads::Reads;
use crate::intake::sources::{Known, Sources};
use crate::intake::tls::{self, TlsError};
use crate::intake::{Accepted, Intake, IntakeError, budget, depth};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// What is under way when the process is told to end has so long.
const LONGEST: Duration = Duration::from_secs(30);
/// Headers must be in by then, from the first byte of a connection or from the answer before.
const SLOWEST_HEADERS: Duration = Duration::from_secs(20);
/// Most headers of a request.
const MOST_HEADERS: usize = 64;
/// Most bytes of headers of a request, with what HTTP/2 counts for each.
const HEADER_LIST: u32 = 32 << 10;
/// Requests on one connection at a time.
const STREAMS: u32 = 128;

/// Why the intake could not begin.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address.
    #[error("--ingest-listen {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Plain text to the world.
    #[error("--ingest-plaintext is for loopback addresses, and {0} is none: tokens would travel in the clear")]
    Plaintext(SocketAddr),
}

/// What the handlers need.
pub struct Server {
    /// Makes Findings.
    pub intake: Arc<Intake>,
    /// Who may report.
    pub sources: Sources,
    /// Fetches what tools don't send.
    pub follow_ups: Arc<FollowUps>,
    /// Counts.
    pub metrics: Metrics,
}

/// Begins to listen: from now on a sender is kept waiting, but not turned away.
pub fn listen(settings: &Settings) -> Result<TcpListener, ServeError> {
    let address = settings.ingest_listen;
    if settings.ingest_plaintext && !address.ip().is_loopback() {
        return Err(ServeError::Plaintext(address));
    }
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| ServeError::Listen { address, source })
}

/// Serves until `end`, and then lets what is under way come to its end.
pub async fn serve(
    server: Server,
    listener: TcpListener,
    settings: Settings,
    authority: Authority,
    end: CancellationToken,
) -> Result<(), ServeError> {
    let address = settings.ingest_listen;
    let handle = axum_server::Handle::new();
    let stop = handle.clone();
    let ended = end.clone();
    tokio::spawn(async move {
        ended.cancelled().await;
        stop.graceful_shutdown(Some(LONGEST));
    });
    let service = router(Arc::new(server)).into_make_service();
    let listening = |source| ServeError::Listen { address, source };
    if settings.ingest_plaintext {
        tracing::info!(%address, "takes signals in, without TLS");
        let plain = axum_server::from_tcp(listener).map_err(listening)?;
        let mut plain = plain.acceptor(Counted::default());
        bound(plain.http_builder());
        plain.handle(handle).serve(service).await.map_err(listening)
    } else {
        let tls = tls::config(&settings, authority, end).await?;
        tracing::info!(%address, "takes signals in");
        let secured = axum_server::from_tcp(listener).map_err(listening)?;
        let mut secured = secured.acceptor(Secured::new(tls));
        bound(secured.http_builder());
        secured.handle(handle).serve(service).await.map_err(listening)
    }
}

/// What counts for every connection, before it is known which Source is meant.
fn bound(connections: &mut Builder<TokioExecutor>) {
    connections
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST_HEADERS)
        .max_headers(MOST_HEADERS)
        .max_buf_size(2 * budget::HEADERS);
    connections
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(SLOWEST_HEADERS)
        .keep_alive_timeout(SLOWEST_HEADERS);
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/sources/{name}", post(take))
        // The sender is judged before its body is read, let alone unpacked; the limit on bodies, which is the Source's, counts what is unpacked.
        .layer(RequestDecompressionLayer::new().gzip(true))
        .layer(middleware::from_fn_with_state(server.clone(), gate::admit))
        .with_state(server)
}

async fn take(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    Extension(source): Extension<Arc<Known>>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    arrived.set();
    let deepest = source.limits.depth;
    if deepest < budget::DEPTH && depth::is_deeper(&body, deepest) {
        server.metrics.signal(&name, "refused");
        let message = format!("Source {name}: lists and objects nested deeper than {deepest}");
        return refuse(StatusCode::BAD_REQUEST, "TooDeep", &message);
    }
    let Ok(reads) = &source.reads else {
        return retry(&format!("Source `{name}` can't be used: see `kubectl describe source {name}`"));
    };
    let received = match read(reads, &headers, body).await {
        Ok(received) => received,
        Err(unreadable) => {
            server.metrics.signal(&name, "refused");
            let body = json!({
                "reason": "Unreadable",
                "message": format!("{reads}: {unreadable}"),
                "at": unreadable.at,
            });
            return (StatusCode::BAD_REQUEST, Json(body)).into_response();
        }
    };
    for reason in &received.ignored {
        server.metrics.signal(&name, "ignored");
        tracing::info!(source = name, reason, "a part of what was sent is not read");
    }
    let signals = server.follow_ups.listed(&source, received.signals, &received.follow_ups).await;
    let stored = match server.intake.take(&name, &signals).await {
        Ok(accepted) => {
            for one in &accepted {
                server.metrics.signal(&name, outcome(one));
            }
            accepted
        }
        Err(error) => {
            if let IntakeError::Foreign { .. } = &error {
                server.metrics.signal(&name, "foreign");
                tracing::warn!(source = name, %error, "a signal was refused");
                return refuse(StatusCode::FORBIDDEN, "Foreign", &error.to_string());
            }
            server.metrics.signal(&name, "failed");
            tracing::warn!(source = name, %error, "a signal could not be stored; its sender was told to try again");
            return if error.is_transient() {
                retry(&error.to_string())
            } else {
                refuse(StatusCode::UNPROCESSABLE_ENTITY, "NotStored", &error.to_string())
            };
        }
    };
    match server.follow_ups.fetch(&source, &received.follow_ups).await {
        Ok(()) => (StatusCode::OK, Json(json!({ "findings": stored }))).into_response(),
        Err(Unfinished::Later(message)) => retry(&message),
        Err(Unfinished::Refused(message)) => refuse(StatusCode::FORBIDDEN, "NotFetched", &message),
        Err(Unfinished::Unset(message)) => refuse(StatusCode::UNPROCESSABLE_ENTITY, "NotFetched", &message),
    }
}

/// Reads a body; one that may take long in a thread of its own.
async fn read(reads: &Reads, headers: &HeaderMap, body: Bytes) -> Result<Received, Unreadable> {
    let now = |reads: &Reads, headers: &HeaderMap, body: &[u8]| {
        let headers: Vec<(&str, &str)> =
            headers.iter().filter_map(|(header, value)| Some((header.as_str(), value.to_str().ok()?))).collect();
        reads.read(&headers, body)
    };
    if !reads.takes_long(&body) {
        return now(reads, headers, &body);
    }
    let (reads, headers) = (reads.clone(), headers.clone());
    let apart = tokio::task::spawn_blocking(move || now(&reads, &headers, &body)).await;
    apart.unwrap_or_else(|error| Err(Unreadable::broke_off(&error)))
}

/// What is on disk counts once more, as what it turns out to be, when it is delivered.
pub(super) fn outcome(accepted: &Accepted) -> &'static str {
    match accepted {
        Accepted { spooled: true, .. } => "spooled",
        Accepted { resolved: true, .. } => "resolved",
        Accepted { repeated: true, .. } => "repeated",
        Accepted { .. } => "accepted",
    }
}
