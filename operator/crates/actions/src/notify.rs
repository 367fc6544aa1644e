//! `notify`: people are told what was found and what was done.
//!
//! Channels are told side by side, each with a key of its own that is the same for each try. Those that have taken the message are kept
//! in the record, so that a further try for another doesn't tell them twice.

mod text;

use futures::future::join_all;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::Notify;
use quell_notify::{Destination, Message, Secret};
use serde_json::json;

use crate::write::Write;
use crate::{ActionError, Context, Progress, Right, secrets};

/// The Secrets of the channels.
pub const RIGHTS: &[Right] = &[Right::secrets("get")];

/// Key of the output that says when a channel took the message.
const SENT: &str = "sent.";

/// Tells every channel that was not told yet.
pub async fn perform(parameters: &Notify, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let mut channels: Vec<&str> = parameters.channels.iter().map(|channel| channel.name.as_str()).collect();
    channels.sort_unstable();
    channels.dedup();
    let told = channels.join(", ");
    channels.retain(|channel| !cx.record.outputs.contains_key(&format!("{SENT}{channel}")));
    let results = join_all(channels.iter().map(|channel| tell(parameters, cx, channel))).await;

    let mut sent = Vec::new();
    let mut failed: Vec<(&str, ActionError)> = Vec::new();
    for (channel, result) in channels.into_iter().zip(results) {
        match result {
            Ok(()) => sent.push((format!("{SENT}{channel}"), cx.now.to_rfc3339())),
            Err(error) => failed.push((channel, error)),
        }
    }
    if failed.is_empty() {
        let told = if cx.writer.is_rehearsal() { format!("{told} would be told") } else { format!("told {told}") };
        return Ok(Progress::done(told, None).with_outputs(sent));
    }
    Err(failure(&failed).with_outputs(sent))
}

/// One error for all channels that were not told. What another try may mend counts for more: it is worth the try.
fn failure(failed: &[(&str, ActionError)]) -> ActionError {
    let message: Vec<String> = failed.iter().map(|(channel, error)| format!("channel {channel}: {error}")).collect();
    let message = message.join("; ");
    match failed.iter().find(|(_, error)| error.is_transient()) {
        Some((_, error)) => ActionError::for_now(error.reason(), message),
        None => ActionError::refused(failed.first().map_or(Reason::ChannelUnreachable, |one| one.1.reason()), message),
    }
}

async fn tell(parameters: &Notify, cx: &Context<'_>, channel: &str) -> Result<(), ActionError> {
    let kind = cx.cluster.channel(cx.playbook, &cx.mark.namespace, channel).ok_or_else(|| {
        ActionError::refused(Reason::ChannelUnknown, "there is none of that name where this playbook's channels are")
    })?;
    let values = secrets::read(cx, Destination::secrets(&kind)).await?;
    let destination = Destination::resolve(&kind, |key| {
        values.get(&(key.name.clone(), key.key.clone())).map(|value| Secret::new(value.clone()))
    })?;
    let message = text::message(parameters, cx, channel);
    if cx.writer.is_rehearsal() {
        cx.writer.note(Write {
            verb: "send",
            object: format!("channel {channel} ({destination})"),
            body: body(&message),
        });
        return Ok(());
    }
    Ok(cx.courier.deliver(&destination, &message).await?)
}

fn body(message: &Message) -> serde_json::Value {
    json!({"key": message.key, "severity": message.severity, "title": message.title, "text": message.text, "fields": message.fields})
}
