//! A build that is started by an HTTP call and asked for its result.
//!
//! What the first call answered is kept in the record, so that a crash between two questions starts nothing anew. Before it is kept, a
//! second try carries the same `Idempotency-Key`.

use std::collections::BTreeMap;
use std::time::Duration;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::SecretKey;
use quell_crds::v1alpha1::step::{HttpBuild, HttpPoll};
use quell_playbooks::cel::{Expression, Names, Scope};
use quell_playbooks::parameters::{RESPONSE, STARTED, with};
use quell_playbooks::template;
use serde_json::Value;

use super::answer::{Endpoint, address, host};
use super::result;
use crate::jobs::shortened;
use crate::write::Write;
use crate::{ActionError, Context, Progress, State, secrets};

const INTERVAL: Duration = Duration::from_secs(5);
/// The longest answer to the first call that the record keeps, in bytes.
const LONGEST_STARTED: usize = 4096;

pub(super) async fn perform(parameters: &HttpBuild, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let token = match &parameters.bearer_token {
        Some(key) => Some(token(cx, key).await?),
        None => None,
    };
    let endpoint = Endpoint::new(cx.http, &parameters.headers, token.as_deref())?;
    match cx.record.outputs.get(STARTED) {
        None => start(parameters, &endpoint, cx).await,
        Some(started) => {
            let started = serde_json::from_str(started).unwrap_or_default();
            ask(&parameters.poll, &started, &endpoint, cx).await
        }
    }
}

async fn token(cx: &Context<'_>, key: &SecretKey) -> Result<String, ActionError> {
    let values = secrets::read(cx, [key]).await?;
    let value = values.into_values().next().and_then(|value| String::from_utf8(value).ok());
    // Editors and `echo` leave a line break at the end of a file.
    let value = value.map(|value| value.trim_end_matches(['\r', '\n']).to_owned());
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        let namespace = secrets::namespace(cx);
        let message = format!(
            "the Secret {namespace}/{} with the key {}, which holds the token for the build, is missing or empty",
            key.name, key.key
        );
        ActionError::refused(Reason::SecretMissing, message)
    })
}

async fn start(parameters: &HttpBuild, endpoint: &Endpoint<'_>, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let url = address("rebuild.http.url", &parameters.url)?;
    let body = Value::Object(parameters.body.clone());
    if cx.writer.is_rehearsal() {
        let object = format!("{}://{}{}", url.scheme(), host(&url), url.path());
        cx.writer.note(Write { verb: "POST", object, body });
        return Ok(Progress::done(format!("{} would be asked to build", host(&url)), None));
    }
    cx.writer.may_write()?;
    let started = endpoint.post(&url, &body, &cx.key()).await?;
    let kept = kept(&started).ok_or_else(|| {
        let message = format!(
            "{} has started a build, but answered more than the {LONGEST_STARTED} bytes that can be kept; look there how it ends",
            host(&url)
        );
        ActionError::refused(Reason::ResultUnreadable, message)
    })?;
    let message = format!("{} has started a build; waits for it", host(&url));
    let progress = Progress::pending(State::Again(interval(&parameters.poll)), message, None);
    Ok(progress.with_outputs([(STARTED.to_owned(), kept)]))
}

/// The answer as the record keeps it. Of a long object the largest fields go: what polls need is an id or an address.
fn kept(started: &Value) -> Option<String> {
    let mut started = started.clone();
    loop {
        let text = started.to_string();
        if text.len() <= LONGEST_STARTED {
            return Some(text);
        }
        let fields = started.as_object_mut()?;
        let largest = fields.iter().max_by_key(|(_, value)| value.to_string().len())?.0.clone();
        fields.remove(&largest);
    }
}

async fn ask(
    poll: &HttpPoll,
    started: &Value,
    endpoint: &Endpoint<'_>,
    cx: &Context<'_>,
) -> Result<Progress, ActionError> {
    let scope = cx.scope.clone().with(STARTED, started);
    let url = render("url", &poll.url, &scope, &with(cx.names, &[STARTED]))?;
    let url = address("rebuild.http.poll.url", &url)?;
    let again = |message: String| Progress::pending(State::Again(interval(poll)), message, None);
    let response = match endpoint.get(&url).await {
        Ok(response) => response,
        // The build goes on whether it can be asked or not, so the step's tries are not spent on that; its timeout is.
        Err(error) if error.is_transient() => return Ok(again(format!("the build was started; {error}; asks again"))),
        Err(error) => return Err(error),
    };
    let scope = scope.with(RESPONSE, &response);
    let names = with(cx.names, &[STARTED, RESPONSE]);
    let said = || shortened(&endpoint.scrubbed(&response.to_string(), &url));
    if is_true("failed", &poll.failed, &scope, &names, &said)? {
        let message = format!("the build at {} failed; it says: {}", host(&url), said());
        return Err(ActionError::refused(Reason::BuildFailed, message));
    }
    if !is_true("succeeded", &poll.succeeded, &scope, &names, &said)? {
        return Ok(again(format!("waits for the build at {}", host(&url))));
    }
    let outputs = outputs(poll, &scope, &names)?;
    let made = outputs.get("image").map_or_else(String::new, |image| format!(" {image}"));
    Ok(Progress::done(format!("{} has built{made}", host(&url)), None).with_outputs(outputs))
}

fn is_true(
    field: &str,
    source: &str,
    scope: &Scope,
    names: &Names,
    said: &impl Fn() -> String,
) -> Result<bool, ActionError> {
    let failed = |problem: String| {
        let message = format!("rebuild.http.poll.{field}: {problem}; the build answered: {}", said());
        ActionError::refused(Reason::ExpressionFailed, message)
    };
    let expression = Expression::compile(source, names).map_err(|error| failed(error.to_string()))?;
    expression.is_true(scope).map_err(|error| failed(error.to_string()))
}

fn outputs(poll: &HttpPoll, scope: &Scope, names: &Names) -> Result<BTreeMap<String, String>, ActionError> {
    let mut outputs = BTreeMap::new();
    for (output, source) in &poll.outputs {
        let value = render(&format!("outputs.{output}"), source, scope, names)?;
        if value.len() > result::LONGEST_OUTPUT {
            let message = format!(
                "the output {output} of the build has {} bytes, and at most {} are kept",
                value.len(),
                result::LONGEST_OUTPUT
            );
            return Err(ActionError::refused(Reason::ResultUnreadable, message));
        }
        outputs.insert(output.clone(), value);
    }
    Ok(outputs)
}

fn render(field: &str, source: &str, scope: &Scope, names: &Names) -> Result<String, ActionError> {
    template::render(source, scope, names)
        .map_err(|error| ActionError::refused(Reason::ExpressionFailed, format!("rebuild.http.poll.{field}: {error}")))
}

fn interval(poll: &HttpPoll) -> Duration {
    poll.interval.map_or(INTERVAL, quell_crds::v1alpha1::Duration::get)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_long_answer_keeps_its_small_fields() {
        let started = json!({"id": 7, "log": "x".repeat(9000), "url": "https://ci.example/7"});
        let kept: Value = serde_json::from_str(&kept(&started).unwrap()).unwrap();
        assert_eq!(kept, json!({"id": 7, "url": "https://ci.example/7"}));
    }

    #[test]
    fn a_long_answer_that_is_no_object_can_not_be_kept() {
        assert_eq!(kept(&json!("x".repeat(9000))), None);
        assert_eq!(kept(&json!("queued")).as_deref(), Some("\"queued\""));
    }
}
