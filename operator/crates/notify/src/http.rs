//! What webhooks share: one POST, and what its answer means.

use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};

use crate::DeliveryError;

/// As much of an answer as is read: a receiver's reason is short, and its body is not ours to download.
const ANSWER_LIMIT: usize = 4 * 1024;
/// The longest wait that a receiver can ask for: a message is not to be put off for ever by a header.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(24);

/// Sends the request and judges the answer; `said` makes a receiver's words fit to be shown.
pub(crate) async fn send(
    request: RequestBuilder,
    limit: Duration,
    receiver: String,
    said: impl Fn(&str) -> String,
) -> Result<(), DeliveryError> {
    let mut response = match request.timeout(limit).send().await {
        Ok(response) => response,
        Err(error) => return Err(failed(error, limit, receiver)),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let code = status.as_u16();
    if status.is_redirection() {
        let answer = format!("{status}, a redirect, which Quell doesn't follow");
        return Err(DeliveryError::Refused { receiver, code: Some(code), answer });
    }
    let retry_after = retry_after(response.headers(), Utc::now());
    let answer = match said(&beginning(&mut response).await) {
        said if said.is_empty() => status.to_string(),
        said => format!("{status}: {said}"),
    };
    if is_transient(status) {
        Err(DeliveryError::TooBusy { receiver, code, answer, retry_after })
    } else {
        Err(DeliveryError::Refused { receiver, code: Some(code), answer })
    }
}

/// RFC 9110 section 15 and RFC 6585 section 4: timeouts, throttling and errors of the server pass.
fn is_transient(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn failed(error: reqwest::Error, limit: Duration, receiver: String) -> DeliveryError {
    if error.is_builder() {
        return DeliveryError::misconfigured(format!("no request can be made to {receiver}"));
    }
    if error.is_timeout() {
        return DeliveryError::Unreachable { receiver, cause: format!("nothing within {limit:?}") };
    }
    // The outer layers only say that a request failed; the innermost says why, and none of them may name the address.
    let error = error.without_url();
    let mut innermost: &dyn Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    DeliveryError::Unreachable { receiver, cause: innermost.to_string() }
}

/// An answer that breaks off says what it says up to there: the status counts.
async fn beginning(response: &mut Response) -> String {
    let mut body = Vec::new();
    while body.len() < ANSWER_LIMIT
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LIMIT - body.len())]);
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// Seconds or a date (RFC 9110 section 10.2.3). What can't be understood counts as not said.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(value).ok()?.with_timezone(&Utc) - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    fn asked(value: &'static str) -> Option<u64> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, reqwest::header::HeaderValue::from_static(value))]);
        let now = Utc.with_ymd_and_hms(2026, 11, 21, 12, 0, 0).single().expect("a date");
        retry_after(&headers, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked("Sat, 21 Nov 2026 12:01:30 GMT"), Some(90));
        assert_eq!(asked("Sat, 21 Nov 2026 11:00:00 GMT"), Some(0));
        assert_eq!(asked("99999999999"), Some(86_400));
        assert_eq!(asked("soon"), None);
    }
}
