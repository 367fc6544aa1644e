//! The HTTP intake: `POST /v1/sources/<name>`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use quell_crds::v1alpha1::Format;
use serde_json::json;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tower_http::decompression::RequestDecompressionLayer;

use crate::intake::tls::{self, TlsError};
use crate::intake::{Accepted, Admission, Intake, Sources};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Largest body, after decompression. Trivy's report on a large image has a few MiB.
const LARGEST_BODY: usize = 16 << 20;
/// A report must be in and stored by then; the sender tries again.
const LONGEST: Duration = Duration::from_secs(30);
/// What a sender is told to wait when the API server can't take a Finding.
const RETRY_AFTER: &str = "5";

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
#[derive(Clone)]
pub struct Server {
    /// Makes Findings.
    pub intake: Arc<Intake>,
    /// Who may report.
    pub sources: Sources,
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
    end: CancellationToken,
) -> Result<(), ServeError> {
    let address = settings.ingest_listen;
    let handle = axum_server::Handle::new();
    let stop = handle.clone();
    tokio::spawn(async move {
        end.cancelled().await;
        stop.graceful_shutdown(Some(LONGEST));
    });
    let service = router(server).into_make_service();
    let listening = |source| ServeError::Listen { address, source };
    if settings.ingest_plaintext {
        tracing::info!(%address, "takes signals in, without TLS");
        let plain = axum_server::from_tcp(listener).map_err(listening)?;
        plain.handle(handle).serve(service).await.map_err(listening)
    } else {
        let tls = tls::config(&settings).await?;
        tracing::info!(%address, "takes signals in");
        let secured = axum_server::from_tcp_rustls(listener, tls).map_err(listening)?;
        secured.handle(handle).serve(service).await.map_err(listening)
    }
}

fn router(server: Server) -> Router {
    Router::new()
        .route("/v1/sources/{name}", post(take))
        // The sender is judged before its body is read, let alone unpacked.
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(RequestDecompressionLayer::new().gzip(true))
        .layer(middleware::from_fn_with_state(server.clone(), admit))
        .with_state(server)
}

async fn admit(State(server): State<Server>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let Some(name) = path.strip_prefix("/v1/sources/").filter(|name| !name.is_empty() && !name.contains('/')) else {
        return refuse(
            StatusCode::NOT_FOUND,
            "NotFound",
            "signals are taken in by POST /v1/sources/<name of a Source>",
        );
    };
    let name = name.to_owned();
    let token = bearer(request.headers());
    let query = token_in_query(request.uri());
    match server.sources.admit(&name, token, query) {
        Admission::In(format) => {
            request.extensions_mut().insert(format);
            match tokio::time::timeout(LONGEST, next.run(request)).await {
                Ok(response) => response,
                Err(_) => retry(&format!("Source {name}: not stored in {} s", LONGEST.as_secs())),
            }
        }
        Admission::Unknown => {
            server.metrics.signal("unknown", "unauthorized");
            refuse(StatusCode::NOT_FOUND, "SourceUnknown", &format!("there is no Source `{name}` that takes POSTs"))
        }
        Admission::Unauthorized => {
            server.metrics.signal(&name, "unauthorized");
            let message = format!("Source `{name}` wants its token: `Authorization: Bearer …`");
            let mut response = refuse(StatusCode::UNAUTHORIZED, "Unauthorized", &message);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            response
        }
        Admission::NotReady => {
            retry(&format!("the token of Source `{name}` is not set: see `kubectl describe source {name}`"))
        }
    }
}

async fn take(
    State(server): State<Server>,
    Path(name): Path<String>,
    axum::Extension(format): axum::Extension<Format>,
    body: Bytes,
) -> Response {
    let signals = match quell_ingest::read(format, &body) {
        Ok(signals) => signals,
        Err(unreadable) => {
            server.metrics.signal(&name, "refused");
            let body = json!({
                "reason": "Unreadable",
                "message": format!("this is not what a Source of format {format} sends: {unreadable}"),
                "at": unreadable.at,
            });
            return (StatusCode::BAD_REQUEST, Json(body)).into_response();
        }
    };
    match server.intake.take(&name, &signals).await {
        Ok(accepted) => {
            for one in &accepted {
                server.metrics.signal(&name, outcome(one));
            }
            (StatusCode::OK, Json(json!({ "findings": accepted }))).into_response()
        }
        Err(error) => {
            server.metrics.signal(&name, "failed");
            tracing::warn!(source = name, %error, "a signal could not be stored; its sender was told to try again");
            if error.is_transient() {
                retry(&error.to_string())
            } else {
                refuse(StatusCode::UNPROCESSABLE_ENTITY, "NotStored", &error.to_string())
            }
        }
    }
}

/// What is on disk counts once more, as what it turns out to be, when it is delivered.
fn outcome(accepted: &Accepted) -> &'static str {
    match accepted {
        Accepted { spooled: true, .. } => "spooled",
        Accepted { repeated: true, .. } => "repeated",
        Accepted { .. } => "accepted",
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn token_in_query(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response {
    (status, Json(json!({ "reason": reason, "message": message }))).into_response()
}

fn retry(message: &str) -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "TryAgain", message);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    response
}
