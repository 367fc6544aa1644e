//! The gate before the intake: who is let in, how often, and with how much.

mod sns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;

use crate::intake::connections::Shown;
use crate::intake::credentials::{Credential, Signature, Signed, Verdict};
use crate::intake::server::Server;
use crate::intake::sources::Known;

/// What a sender is told to wait when the API server can't take a Finding.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Of the body of a request that is refused, so many bytes are read, and so long, before the connection is closed.
const MOST_READ_OUT: usize = 1 << 20;
const LONGEST_READ_OUT: Duration = Duration::from_secs(1);

/// Set once the whole body is in: until then a sender that is late has nobody else to blame.
#[derive(Clone, Debug, Default)]
pub struct Arrived(Arc<AtomicBool>);

impl Arrived {
    /// The body is in.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a request goes no further, and what its sender is told.
pub struct Refusal {
    /// What it counts as.
    outcome: &'static str,
    response: Box<Response>,
}

/// Lets a request in to where its body is read, or not.
pub async fn admit(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let Some(name) = path.strip_prefix("/v1/sources/").filter(|name| !name.is_empty() && !name.contains('/')) else {
        let message = "signals are taken in by POST /v1/sources/<name of a Source>";
        return refuse(StatusCode::NOT_FOUND, "NotFound", message);
    };
    let Some(source) = server.sources.get(name) else {
        server.metrics.signal("unknown", "unauthorized");
        let message = format!("there is no Source `{name}` that takes POSTs");
        read_out(request.into_body()).await;
        return refuse(StatusCode::NOT_FOUND, "SourceUnknown", &message);
    };
    let arrived = Arrived::default();
    let passed = pass(&server, &source, request, next, arrived.clone());
    match tokio::time::timeout(source.limits.timeout, passed).await {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => {
            server.metrics.signal(&source.name, refusal.outcome);
            *refusal.response
        }
        Err(_) => {
            let (name, seconds) = (&source.name, source.limits.timeout.as_secs_f32());
            if arrived.get() {
                server.metrics.signal(name, "failed");
                return retry(&format!("Source {name}: not stored in {seconds} s"));
            }
            server.metrics.signal(name, "refused");
            refuse(
                StatusCode::REQUEST_TIMEOUT,
                "TooSlow",
                &format!("Source {name}: the body was not in after {seconds} s"),
            )
        }
    }
}

async fn pass(
    server: &Server,
    source: &Arc<Known>,
    request: Request,
    next: Next,
    arrived: Arrived,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let plain = !parts.headers.contains_key(header::CONTENT_ENCODING);
    let bytes = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok()).filter(|_| plain);
    let (credential, is_read_first) = match judge(server, source, &parts, bytes).await {
        Ok(judged) => judged,
        Err(refusal) => {
            read_out(body).await;
            return Err(refusal);
        }
    };
    let mut request = Request::from_parts(parts, body);
    // Held until the answer is there: what was read is in memory until then.
    let _turn = source.budget.turn(bytes).await;
    DefaultBodyLimit::max(source.limits.body).apply(&mut request);
    request.extensions_mut().insert(source.clone());
    request.extensions_mut().insert(arrived.clone());
    match credential {
        Credential::Signature(signature) => {
            let (request, code) = verified(source, credential, signature, request).await?;
            let remembered = Remembered::new(source, code);
            count(source)?;
            Ok(remembered.answered(next.run(request)).await)
        }
        Credential::Sns(topic) => sns::pass(server, source, topic, request, next, arrived).await,
        _ if is_read_first => Err(unauthorized(source, credential)),
        _ => Ok(next.run(request).await),
    }
}

/// Judges a request before its body is read; `true` where the body is a part of what its sender shows.
async fn judge<'a>(
    server: &Server,
    source: &'a Known,
    parts: &Parts,
    bytes: Option<usize>,
) -> Result<(&'a Credential, bool), Refusal> {
    let name = &source.name;
    let credential = match (&source.credential, source.problem()) {
        (Some(Ok(credential)), None) => credential,
        (None, _) => {
            let message = format!("there is no Source `{name}` that takes POSTs");
            return Err(refusal("unauthorized", StatusCode::NOT_FOUND, "SourceUnknown", &message));
        }
        _ => {
            let message = format!("Source `{name}` can't be used: see `kubectl describe source {name}`");
            return Err(Refusal { outcome: "failed", response: Box::new(retry(&message)) });
        }
    };
    let limits = &source.limits;
    if size(&parts.headers) > limits.headers {
        let message = format!("Source {name}: more than {} bytes of headers", limits.headers);
        return Err(refusal("refused", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "HeadersTooLarge", &message));
    }
    let shown = parts.extensions.get::<Shown>();
    let is_read_first = match credential.judge(&parts.headers, &parts.uri, shown, &server.sources.reviews).await {
        Verdict::In => false,
        Verdict::ReadBody => true,
        Verdict::Out => return Err(unauthorized(source, credential)),
        Verdict::Later => {
            let message = format!("Source `{name}`: whose token this is can't be told now");
            return Err(Refusal { outcome: "failed", response: Box::new(retry(&message)) });
        }
    };
    if bytes.is_some_and(|bytes| bytes > limits.body) {
        return Err(too_large(source));
    }
    if !is_read_first {
        count(source)?;
    }
    Ok((credential, is_read_first))
}

/// A sender whose connection is closed while it writes sees that, and not why it was refused: so much is read first, and dropped.
async fn read_out(body: Body) {
    let mut rest = Limited::new(body, MOST_READ_OUT);
    let drop_all = async { while let Some(Ok(_)) = rest.frame().await {} };
    let _ = tokio::time::timeout(LONGEST_READ_OUT, drop_all).await;
}

/// A signed request, which may be sent again unless it was taken; also when its sender gets no answer in time.
struct Remembered {
    source: Arc<Known>,
    code: [u8; 32],
    taken: bool,
}

impl Remembered {
    fn new(source: &Arc<Known>, code: [u8; 32]) -> Self {
        Self { source: source.clone(), code, taken: false }
    }

    async fn answered(mut self, answer: impl Future<Output = Response>) -> Response {
        let response = answer.await;
        self.taken = !response.status().is_server_error();
        response
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if !self.taken {
            self.source.seen.forget(&self.code);
        }
    }
}

/// Reads the body as it was sent, and looks at its signature.
async fn verified(
    source: &Known,
    credential: &Credential,
    signature: &Signature,
    request: Request,
) -> Result<(Request, [u8; 32]), Refusal> {
    let (parts, body) = request.into_parts();
    let body = whole(source, body).await?;
    let name = &source.name;
    let out = |reason, message: String| Err(refusal("unauthorized", StatusCode::UNAUTHORIZED, reason, &message));
    match signature.verify(&parts.headers, &body, Utc::now().timestamp(), &source.seen) {
        Signed::Good(code) => Ok((Request::from_parts(parts, Body::from(body)), code)),
        Signed::Bad => Err(unauthorized(source, credential)),
        Signed::Stale => {
            out("Stale", format!("Source `{name}`: the time of sending is too far from now; is a clock wrong?"))
        }
        Signed::Again => out("Replayed", format!("Source `{name}`: this very request was taken before")),
    }
}

/// A body as it was sent, packed or not.
async fn whole(source: &Known, body: Body) -> Result<Bytes, Refusal> {
    match Limited::new(body, source.limits.body).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(source)),
        Err(error) => {
            let message = format!("the body broke off: {error}");
            Err(refusal("refused", StatusCode::BAD_REQUEST, "Unreadable", &message))
        }
    }
}

fn count(source: &Known) -> Result<(), Refusal> {
    source.budget.count().map_err(|wait| {
        let message = format!("Source {}: more requests than its limits.requestsPerSecond", source.name);
        let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "TooMany", &message);
        response.headers_mut().insert(header::RETRY_AFTER, seconds(wait));
        Refusal { outcome: "limited", response: Box::new(response) }
    })
}

fn unauthorized(source: &Known, credential: &Credential) -> Refusal {
    let (scheme, wanted) = credential.wanted();
    let message = format!("Source `{}` wants {wanted}", source.name);
    let mut refusal = refusal("unauthorized", StatusCode::UNAUTHORIZED, "Unauthorized", &message);
    refusal.response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    refusal
}

fn too_large(source: &Known) -> Refusal {
    let message = format!("Source {}: a body of more than {} bytes", source.name, source.limits.body);
    refusal("refused", StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", &message)
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

fn refusal(outcome: &'static str, status: StatusCode, reason: &str, message: &str) -> Refusal {
    Refusal { outcome, response: Box::new(refuse(status, reason, message)) }
}

/// An answer that says no, with a reason for programs and a message for people.
pub fn refuse(status: StatusCode, reason: &str, message: &str) -> Response {
    (status, Json(json!({ "reason": reason, "message": message }))).into_response()
}

/// An answer that asks the sender to come again.
pub fn retry(message: &str) -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "TryAgain", message);
    response.headers_mut().insert(header::RETRY_AFTER, seconds(RETRY_AFTER));
    response
}
