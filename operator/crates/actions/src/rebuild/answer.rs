//! Calls to a build's HTTP endpoint, and what its answers mean.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use quell_crds::conditions::Reason;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use crate::ActionError;
use crate::jobs::shortened;

/// From the first packet to the last byte of an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// A shorter secret would be found inside ordinary words.
const SHORTEST_SECRET: usize = 4;
/// A header's value is a secret only where somebody put one there; most are words.
const SHORTEST_HEADER: usize = 12;

/// An endpoint, and what goes with every call.
pub(super) struct Endpoint<'a> {
    http: &'a Client,
    headers: HeaderMap,
    /// The token, which nothing may repeat.
    token: Option<String>,
    /// What else no message may repeat.
    secrets: Vec<String>,
}

impl<'a> Endpoint<'a> {
    pub(super) fn new(
        http: &'a Client,
        headers: &BTreeMap<String, String>,
        token: Option<&str>,
    ) -> Result<Self, ActionError> {
        let mut all = HeaderMap::new();
        let mut secrets = Vec::new();
        for (name, value) in headers {
            let unusable = |what: &str| parameter(&format!("rebuild.http.headers.{name} {what}"));
            let header = HeaderName::try_from(name).map_err(|_| unusable("is no name of a header"))?;
            let mut sent = HeaderValue::from_str(value).map_err(|_| unusable("has a value that no header can have"))?;
            sent.set_sensitive(true);
            all.insert(header, sent);
            secrets.extend(Some(value.clone()).filter(|value| value.len() >= SHORTEST_HEADER));
        }
        if let Some(token) = token {
            let sent = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut sent =
                sent.map_err(|_| parameter("the token in the Secret of rebuild.http.bearerToken is none"))?;
            sent.set_sensitive(true);
            all.insert(AUTHORIZATION, sent);
        }
        Ok(Self { http, headers: all, token: token.map(str::to_owned), secrets })
    }

    pub(super) async fn post(&self, url: &Url, body: &Value, key: &str) -> Result<Value, ActionError> {
        let key = HeaderValue::from_str(key).map_err(|_| parameter("the step's key can't be a header"))?;
        self.send(self.http.post(url.clone()).json(body), Some(key), url).await
    }

    pub(super) async fn get(&self, url: &Url) -> Result<Value, ActionError> {
        self.send(self.http.get(url.clone()), None, url).await
    }

    /// One call. What is said of it names the host, never the address, which may hold a token.
    async fn send(&self, request: RequestBuilder, key: Option<HeaderValue>, url: &Url) -> Result<Value, ActionError> {
        let mut headers = self.headers.clone();
        if let Some(key) = key {
            headers.insert("idempotency-key", key);
        }
        let request = request.headers(headers).timeout(TIMEOUT);
        let at = host(url);
        let mut response = request.send().await.map_err(|error| failed(error, &at))?;
        let status = response.status();
        let read = body(&mut response).await;
        if status.is_success() {
            let text = read.map_err(|problem| unreachable(&at, &problem))?;
            let text = text.ok_or_else(|| {
                let message = format!("{at} answered more than {LONGEST_ANSWER} bytes, too many to be a build's state");
                ActionError::refused(Reason::ResultUnreadable, message)
            })?;
            return Ok(json(&without(&text, self.token.as_deref())));
        }
        let said = read.ok().flatten().unwrap_or_default();
        let said = shortened(&self.scrubbed(&said, url));
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        if status.is_redirection() {
            let message = format!(
                "{at} answered {status}, a redirect, which Quell doesn't follow; name the address that it leads to"
            );
            return Err(ActionError::refused(Reason::ReceiverRefused, message));
        }
        if is_transient(status) {
            return Err(unreachable(&at, &format!("{status}{said}")));
        }
        Err(ActionError::refused(Reason::ReceiverRefused, format!("{at} refused: {status}{said}")))
    }

    /// Text for people. Receivers do repeat what they were sent.
    pub(super) fn scrubbed(&self, text: &str, url: &Url) -> String {
        let of_url = url.query().into_iter().chain(url.password());
        without(text, self.token.iter().chain(&self.secrets).map(String::as_str).chain(of_url))
    }
}

fn without<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let secrets = secrets.into_iter().filter(|secret| secret.len() >= SHORTEST_SECRET);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
}

/// The address, where it is one that can be called.
pub(super) fn address(field: &str, url: &str) -> Result<Url, ActionError> {
    let url = Url::parse(url).map_err(|error| parameter(&format!("{field}: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(parameter(&format!("{field}: neither http nor https")));
    }
    Ok(url)
}

pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) fn parameter(message: &str) -> ActionError {
    ActionError::refused(Reason::ParameterInvalid, message)
}

fn unreachable(at: &str, cause: &str) -> ActionError {
    ActionError::for_now(Reason::ReceiverUnreachable, format!("no answer from {at} that could be used: {cause}"))
}

/// RFC 9110 section 15 and RFC 6585 section 4: timeouts, throttling and errors of the server pass.
fn is_transient(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn failed(error: reqwest::Error, at: &str) -> ActionError {
    if error.is_builder() {
        return parameter(&format!("no request can be made to {at}"));
    }
    if error.is_timeout() {
        return unreachable(at, &format!("nothing within {TIMEOUT:?}"));
    }
    // The outer layers only say that a request failed; the innermost says why, and none of them may name the address.
    let error = error.without_url();
    let mut innermost: &dyn Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    unreachable(at, &innermost.to_string())
}

/// The body; `None` where it is too long.
async fn body(response: &mut Response) -> Result<Option<String>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(String::from_utf8_lossy(&body).into_owned()))
}

/// What isn't JSON is a text: a poll that doesn't look into it does well without.
fn json(text: &str) -> Value {
    match text.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}
