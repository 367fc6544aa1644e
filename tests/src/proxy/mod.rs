//! A proxy between Quell and the API server: it sees every request, keeps a record of it, and does with it what a [`Script`] says.
//!
//! Quell speaks HTTP/1.1 to API servers, as kube's client does, and comes to the proxy in plain text by a kubeconfig of its own
//! ([`Proxy::write_kubeconfig`]); the proxy goes on as the test bed's admin, over TLS. Impersonation passes through. Watches are streamed.
//!
//! A request that was handed on takes effect whatever becomes of the process that sent it, as on a real network; [`Proxy::settled`] waits
//! until all of them have.

mod body;
mod record;

pub use body::Stream;
pub use record::{Object, Record, Records};

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tower::BoxError;

use crate::ControlPlane;
use crate::requests::{Request, Verb, describe};

/// What a body is made of.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What becomes of the requests. Both questions are asked for every request, in the order in which requests come.
pub trait Script: Send + Sync + 'static {
    /// A process has connected; what it says over this connection carries this number.
    fn connected(&self) -> u64 {
        0
    }

    /// Before the request is handed on.
    fn before(&self, _connection: u64, _request: &Request) -> Before {
        Before::Pass
    }

    /// When the API server has answered, and the answer is not yet passed on. Of a watch, this is its beginning.
    fn after(&self, _connection: u64, _request: &Request, _status: StatusCode) -> After {
        After::Pass
    }
}

/// Lets everything pass.
pub struct Pass;

impl Script for Pass {}

/// What is done with a request before the API server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is handed on.
    Pass,
    /// It is handed on after this time.
    Delay(Duration),
    /// The connection is cut; the API server never sees the request.
    Cut,
    /// The API server never sees it; this is answered in its place, after this time.
    Answer(Refusal, Duration),
    /// It is answered with what the same request was answered before, where it is a read that was made before; else it is handed on.
    Stale,
}

/// What is done with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// It is passed on.
    Pass,
    /// It is passed on like this; for watches.
    Stream(Stream),
    /// The connection is cut in its place.
    Cut,
    /// This is answered in its place.
    Answer(Refusal),
}

/// An answer as an API server in trouble gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// The API's reason, such as `Conflict`.
    pub reason: &'static str,
    /// Seconds that the client is asked to wait.
    pub retry_after: Option<u32>,
}

impl Refusal {
    fn response(self) -> Response<Body> {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": self.status.as_u16(),
            "reason": self.reason, "message": format!("{} (by the proxy of the test bed)", self.reason),
        });
        let mut response = Response::new(whole(Bytes::from(status.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        response
    }
}

/// The connection is cut: hyper ends it without an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cut by the proxy")]
struct Cut;

/// The proxy; ends with its owner.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    upstream: Client,
    script: Arc<dyn Script>,
    records: Records,
    earlier: record::Earlier,
    under_way: TaskTracker,
}

impl Proxy {
    /// Listens on a free port of loopback, and goes on to the API server as the admin.
    pub async fn start(control_plane: &ControlPlane, script: Arc<dyn Script>) -> Result<Self> {
        let mut config = control_plane.config().await?;
        // One request in is one request out.
        config.default_retry = false;
        let upstream = Client::try_from(config).context("no client for the proxy")?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for the proxy")?;
        let address = listener.local_addr().context("no address of the proxy")?;
        let shared = Arc::new(Shared {
            upstream,
            script,
            records: Records::default(),
            earlier: record::Earlier::default(),
            under_way: TaskTracker::new(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    /// What was asked so far.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.shared.records
    }

    /// Writes a kubeconfig by which a process comes to the API server through the proxy.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
        });
        std::fs::write(path, config.to_string()).with_context(|| format!("can't write {}", path.display()))
    }

    /// Waits until every request that was handed on is answered, whether its sender lives or not. Watches don't count.
    pub async fn settled(&self) {
        self.shared.under_way.close();
        self.shared.under_way.wait().await;
        self.shared.under_way.reopen();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(stream, shared.clone()));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let connection = shared.script.connected();
    let service = service_fn(move |request| handle(shared.clone(), connection, request));
    // A connection that was cut is an error here, and is meant.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn handle(
    shared: Arc<Shared>,
    connection: u64,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let content_type =
        parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let described = describe(&parts.method, parts.uri.path(), query, content_type, "");
    match shared.script.before(connection, &described) {
        Before::Pass => {}
        Before::Delay(time) => tokio::time::sleep(time).await,
        Before::Cut => return Err(Cut),
        Before::Answer(refusal, after) => {
            tokio::time::sleep(after).await;
            return Ok(refusal.response());
        }
        Before::Stale => {
            if let Some(earlier) = shared.earlier.of(&parts.uri) {
                return Ok(earlier);
            }
        }
    }
    // In a task of its own: what is handed on goes on when the sender is gone.
    let watch = described.verb == Verb::Watch;
    let (tracked, uri) = (shared.clone(), parts.uri.clone());
    let passing = async move { pass_on(tracked, connection, parts, uri, body, described).await };
    let passed = if watch { tokio::spawn(passing) } else { shared.under_way.spawn(passing) };
    passed.await.map_err(|_| Cut)?
}

async fn pass_on(
    shared: Arc<Shared>,
    connection: u64,
    mut parts: http::request::Parts,
    uri: Uri,
    body: Bytes,
    mut described: Request,
) -> Result<Response<Body>, Cut> {
    // The client knows where the API server is.
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    parts.uri = path.parse().map_err(|_| Cut)?;
    for hop in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        parts.headers.remove(hop);
    }
    let read = parts.method == Method::GET;
    let request = http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    let response = shared.upstream.send(request).await.map_err(|_| Cut)?;
    let status = response.status();
    described.status = Some(status);
    if described.verb == Verb::Watch {
        let said = shared.script.after(connection, &described, status);
        shared.records.push(described, None);
        let (mut head, stream) = response.into_parts();
        head.headers.remove(header::CONTENT_LENGTH);
        return match said {
            After::Pass => Ok(Response::from_parts(head, stream.map_err(BoxError::from).boxed_unsync())),
            After::Stream(how) => Ok(Response::from_parts(head, body::streamed(stream, how))),
            After::Cut => Err(Cut),
            After::Answer(refusal) => Ok(refusal.response()),
        };
    }
    let (head, answer) = response.into_parts();
    let answer = answer.collect().await.map_err(|_| Cut)?.to_bytes();
    if read && status.is_success() {
        shared.earlier.keep(&uri, &head, &answer);
    }
    let object = described.verb.is_write().then(|| Object::of(&answer)).flatten();
    // The record is there before the script is told: it may end the process, and who waits for that reads the record.
    shared.records.push(described.clone(), object);
    match shared.script.after(connection, &described, status) {
        After::Pass | After::Stream(_) => Ok(Response::from_parts(head, whole(answer))),
        After::Cut => Err(Cut),
        After::Answer(refusal) => Ok(refusal.response()),
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(BoxError::from).boxed_unsync()
}
