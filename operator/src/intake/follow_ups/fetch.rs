//! Requests to what a Source names: bounded in time and size, and never told by their full address.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode, Url};
use thiserror::Error;

/// Why nothing came of a request.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No connection, or it broke off.
    #[error("{at} can't be reached: {cause}")]
    Unreachable {
        /// Host and port.
        at: String,
        /// The innermost reason.
        cause: String,
    },
    /// It took too long.
    #[error("{at} gave no whole answer within {} ms", limit.as_millis())]
    TooSlow {
        /// Host and port.
        at: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It answered something else than success. What it says beside that isn't repeated: it may hold what it was sent.
    #[error("{at} answered {status}{}", hint(*status))]
    Refused {
        /// Host and port.
        at: String,
        /// The status.
        status: StatusCode,
    },
    /// It answered more than is read.
    #[error("{at} answered more than {limit} bytes")]
    TooLarge {
        /// Host and port.
        at: String,
        /// Most bytes that are read.
        limit: usize,
    },
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        _ if status.is_redirection() => ", a redirect, which Quell doesn't follow; name the address that it leads to",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ": the credential that the Source gives doesn't do",
        StatusCode::NOT_FOUND => ": what was asked for is not there",
        _ => "",
    }
}

impl FetchError {
    /// Whether another try may do better (RFC 9110 section 15, RFC 6585 section 4).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TooSlow { .. } => true,
            Self::TooLarge { .. } => false,
            Self::Refused { status, .. } => {
                matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
                    || status.is_server_error()
            }
        }
    }
}

/// The whole answer to a request, if that is a success.
pub async fn fetch(request: RequestBuilder, url: &Url, time: Duration, size: usize) -> Result<Vec<u8>, FetchError> {
    let at = host(url);
    match tokio::time::timeout(time, answer(request, &at, size)).await {
        Ok(answer) => answer,
        Err(_) => Err(FetchError::TooSlow { at, limit: time }),
    }
}

async fn answer(request: RequestBuilder, at: &str, size: usize) -> Result<Vec<u8>, FetchError> {
    let response = request.send().await.map_err(|error| unreachable(error, at))?;
    let status = response.status();
    if !status.is_success() {
        return Err(FetchError::Refused { at: at.to_owned(), status });
    }
    body(response, at, size).await
}

async fn body(mut response: Response, at: &str, size: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(error, at))? {
        if body.len() + chunk.len() > size {
            return Err(FetchError::TooLarge { at: at.to_owned(), limit: size });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The outer layers only say that a request failed; the innermost says why, and none of them may name the address.
fn unreachable(error: reqwest::Error, at: &str) -> FetchError {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    FetchError::Unreachable { at: at.to_owned(), cause: innermost.to_string() }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::response::Redirect;
    use axum::routing::get;
    use futures::stream;
    use reqwest::redirect::Policy;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    async fn asked(path: &str, time: Duration) -> Result<Vec<u8>, FetchError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let spaces = || Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 512]));
        let endless = move || async move { Body::from_stream(stream::repeat_with(spaces)) };
        let stalls = || async { Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()) };
        let router = Router::new()
            .route("/small", get("small"))
            .route("/endless", get(endless))
            .route("/never", get(std::future::pending::<&str>))
            .route("/stalls", get(stalls))
            .route("/away", get(|| async { Redirect::temporary("/small") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}{path}?token=hush", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        fetch(client.get(url.clone()), &url, time, 4096).await
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_or_to_the_limit() {
        assert_eq!(asked("/small", LONG).await.unwrap(), b"small");
        let error = asked("/endless", LONG).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLarge { limit: 4096, .. }) && !error.is_transient(), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_waited_for_longer_than_the_time() {
        for path in ["/never", "/stalls"] {
            let error = asked(path, Duration::from_millis(20)).await.unwrap_err();
            assert!(matches!(error, FetchError::TooSlow { .. }) && error.is_transient(), "{error}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_no_message_names_the_question() {
        let error = asked("/away", LONG).await.unwrap_err();
        assert!(error.to_string().contains("a redirect") && !error.is_transient(), "{error}");
        assert!(!error.to_string().contains("hush"), "{error}");
        let error = asked("/missing", LONG).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused { status: StatusCode::NOT_FOUND, .. }), "{error}");
    }
}
