//! The gate for what AWS SNS sends: its signature is in the body, and what is to be read is in the message.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;
use quell_ingest::sns::{Message, Topic};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Arrived, Refusal, Remembered, count, refusal, refuse, retry, whole};
use crate::intake::follow_ups::{Disbelief, WINDOW};
use crate::intake::server::Server;
use crate::intake::sources::Known;

/// Lets in what SNS has signed, and in place of the message what is in it. A message that SNS sends again, since it didn't get the answer, was
/// taken, and SNS is told so.
pub async fn pass(
    server: &Server,
    source: &Arc<Known>,
    topic: &Topic,
    request: Request,
    next: Next,
    arrived: Arrived,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let body = whole(source, body).await?;
    arrived.set();
    let name = &source.name;
    let message = match server.follow_ups.sns.believe(topic, &body, Utc::now()).await {
        Ok(message) => message,
        Err(Disbelief::Refused { reason, message }) => {
            let message = format!("Source `{name}` takes messages of AWS SNS: {message}");
            return Err(refusal("unauthorized", StatusCode::FORBIDDEN, reason, &message));
        }
        Err(Disbelief::Later(message)) => {
            tracing::warn!(source = name, message, "a message of SNS was not taken; SNS was told to try again");
            return Err(Refusal { outcome: "failed", response: Box::new(retry(&message)) });
        }
    };
    drop(body);
    count(source)?;
    let code: [u8; 32] = Sha256::digest(&message.message_id).into();
    let now = Utc::now();
    let until = message.sent_at().unwrap_or(now) + WINDOW;
    if !source.seen.is_new(code, until.timestamp(), now.timestamp()) {
        server.metrics.signal(name, "ignored");
        return Ok((StatusCode::OK, Json(json!({ "findings": [] }))).into_response());
    }
    let remembered = Remembered::new(source, code);
    match message.kind.as_str() {
        "Notification" => {
            // Headers are not signed: none of them says how the body is read.
            let mut request = Request::from_parts(parts, Body::from(message.message));
            *request.headers_mut() = HeaderMap::new();
            Ok(remembered.answered(next.run(request)).await)
        }
        "SubscriptionConfirmation" => Ok(remembered.answered(confirm(server, source, topic, &message)).await),
        "UnsubscribeConfirmation" => {
            server.follow_ups.unsubscribed(source, topic);
            Ok(StatusCode::OK.into_response())
        }
        _ => {
            let message = format!("Source `{name}`: this type of message of SNS is not known");
            Err(refusal("refused", StatusCode::BAD_REQUEST, "Unreadable", &message))
        }
    }
}

async fn confirm(server: &Server, source: &Known, topic: &Topic, message: &Message) -> Response {
    match server.follow_ups.confirm(source, topic, message).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err((true, message)) => retry(&message),
        Err((false, message)) => refuse(StatusCode::FORBIDDEN, "NotConfirmed", &message),
    }
}
