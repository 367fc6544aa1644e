//! A Slack incoming webhook: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>.
//!
//! Limits: <https://docs.slack.dev/reference/block-kit/blocks>. What findings say is written by whoever can cause one, so
//! nothing in it becomes a mention, a link or a preview: `&`, `<` and `>` are escaped
//! (<https://docs.slack.dev/messaging/formatting-message-text>), text is `verbatim`, and previews are off, since one would
//! make Slack call an address of the attacker's.

use std::time::Duration;

use chrono::SecondsFormat;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use serde_json::{Value, json};

use crate::message::one_line;
use crate::{DeliveryError, Destination, Message, Secret, http};

/// Blocks in a message.
const BLOCKS: usize = 50;
/// Characters in a header.
const HEADER: usize = 150;
/// Characters in a section's text.
const SECTION: usize = 3000;
/// Fields in a section.
const FIELDS: usize = 10;
/// Characters in a field.
const FIELD: usize = 2000;
/// Sections that the text may take, so that the fields keep their room.
const TEXT_SECTIONS: usize = 10;

pub(crate) struct Slack<'a> {
    pub(crate) webhook_url: &'a Secret,
    pub(crate) receiver: String,
}

pub(crate) fn resolve(webhook_url: Secret) -> Result<Destination, DeliveryError> {
    address(&webhook_url)?;
    Ok(Destination::Slack { webhook_url })
}

/// The address, of which no part but the host may be shown.
pub(crate) fn address(webhook_url: &Secret) -> Result<Url, DeliveryError> {
    let url = webhook_url.text().and_then(|text| Url::parse(text.trim()).ok());
    // Over plain HTTP the address, which is the secret, would be read on the way.
    url.filter(|url| url.scheme() == "https" && url.has_host())
        .ok_or_else(|| DeliveryError::misconfigured("webhookUrl: the Secret holds no https address"))
}

impl Slack<'_> {
    pub(crate) async fn deliver(self, http: &Client, limit: Duration, message: &Message) -> Result<(), DeliveryError> {
        let request = http
            .post(address(self.webhook_url)?)
            .header(CONTENT_TYPE, "application/json")
            .body(payload(message).to_string());
        http::send(request, limit, self.receiver, word).await
    }
}

/// Slack answers a refusal with one word, such as `invalid_payload` or `no_service`
/// (<https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks>). Anything else comes from
/// something in between, which may well repeat the address.
fn word(answer: &str) -> String {
    const LONGEST: usize = 64;
    let word = answer.trim();
    let known = word.len() <= LONGEST && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if known { word.to_owned() } else { String::new() }
}

fn payload(message: &Message) -> Value {
    let headline = message.headline();
    // `emoji: false`: `:warning:` in a rule's name stays what it is.
    let header = json!({"type": "plain_text", "emoji": false, "text": shortened(&headline, HEADER, as_it_is)});
    let mut blocks = vec![json!({"type": "header", "text": header})];
    blocks.extend(sections(&message.text).into_iter().map(|text| json!({"type": "section", "text": mrkdwn(&text)})));

    // One block is kept for the context.
    let room = (BLOCKS - 1 - blocks.len()) * FIELDS;
    let fields: Vec<Value> =
        message.fields.iter().take(room).map(|(name, value)| mrkdwn(&field(name, value))).collect();
    blocks.extend(fields.chunks(FIELDS).map(|fields| json!({"type": "section", "fields": fields})));

    let mut context = message.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    if let Some(left) = message.fields.len().checked_sub(room).filter(|left| *left > 0) {
        context = format!("{context} · {left} more fields");
    }
    blocks.push(json!({"type": "context", "elements": [mrkdwn(&context)]}));
    // `text` is what a phone shows, and a screen reader reads.
    json!({"text": escaped(&headline, SECTION), "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

fn mrkdwn(text: &str) -> Value {
    json!({"type": "mrkdwn", "verbatim": true, "text": text})
}

fn field(name: &str, value: &str) -> String {
    // A name is short; what is left of the limit is the value's.
    const NAME: usize = 200;
    let name = escaped(&one_line(name), NAME);
    let left = FIELD - length(&name) - "**\n".len();
    format!("*{name}*\n{}", escaped(value, left))
}

/// The text in escaped pieces, each within a section's limit. What doesn't fit at all is cut, and says so.
fn sections(text: &str) -> Vec<String> {
    let mut pieces = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() && pieces.len() + 1 < TEXT_SECTIONS {
        let (piece, left) = take(rest, SECTION, escape);
        pieces.push(piece);
        rest = left;
    }
    if !rest.is_empty() {
        pieces.push(escaped(rest, SECTION));
    }
    // Slack refuses a text of nothing, and shows one of blanks as nothing.
    pieces.retain(|piece| !piece.trim().is_empty());
    pieces
}

fn escaped(text: &str, limit: usize) -> String {
    shortened(text, limit, escape)
}

/// The whole text, or as much as fits and a mark.
fn shortened(text: &str, limit: usize, escape: fn(char) -> Option<&'static str>) -> String {
    match take(text, limit, escape) {
        (whole, "") => whole,
        _ => take(text, limit - 1, escape).0 + "…",
    }
}

fn escape(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// For `plain_text`, in which nothing has a meaning.
fn as_it_is(_: char) -> Option<&'static str> {
    None
}

/// As much of the text as fits, escaped, and the rest of it.
fn take(text: &str, limit: usize, escape: fn(char) -> Option<&'static str>) -> (String, &str) {
    let (mut taken, mut used) = (String::new(), 0);
    for (at, c) in text.char_indices() {
        let mut buffer = [0; 4];
        let next = escape(c).unwrap_or_else(|| c.encode_utf8(&mut buffer));
        used += length(next);
        if used > limit {
            return (taken, &text[at..]);
        }
        taken.push_str(next);
    }
    (taken, "")
}

/// Slack doesn't say what a character is; UTF-16 units are the strictest that it can mean.
fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use quell_crds::v1alpha1::Severity;

    use super::*;

    fn message(title: &str, text: &str, fields: usize) -> Message {
        Message {
            key: "k".to_owned(),
            title: title.to_owned(),
            text: text.to_owned(),
            severity: Severity::Critical,
            fields: (0..fields).map(|n| (format!("name {n}"), "<v>".repeat(700))).collect(),
            at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn nothing_in_a_finding_becomes_a_mention_or_a_link() {
        let payload = payload(&message("<!channel>", "<!here> <https://evil.example|ok> & http://evil.example", 1));
        assert_eq!(payload["text"], "[Critical] &lt;!channel&gt;");
        assert_eq!(
            payload["blocks"][1]["text"]["text"],
            "&lt;!here&gt; &lt;https://evil.example|ok&gt; &amp; http://evil.example"
        );
        assert_eq!(payload["blocks"][1]["text"]["verbatim"], true);
        assert_eq!(payload["unfurl_links"], false);
    }

    #[test]
    fn every_limit_of_slack_is_kept_whatever_the_message() {
        let payload = payload(&message(&"😀".repeat(500), &"&".repeat(100_000), 2000));
        let blocks = payload["blocks"].as_array().expect("blocks");
        assert_eq!(blocks.len(), BLOCKS);
        let within = |text: &Value, limit: usize| {
            let length = length(text.as_str().expect("text"));
            assert!((1..=limit).contains(&length), "{length} over {limit}");
        };
        within(&blocks[0]["text"]["text"], HEADER);
        for block in &blocks[1..] {
            if let Some(text) = block.get("text") {
                within(&text["text"], SECTION);
            }
            for field in block["fields"].as_array().into_iter().flatten() {
                within(&field["text"], FIELD);
            }
            assert!(block["fields"].as_array().is_none_or(|fields| fields.len() <= FIELDS));
        }
        let context = blocks[BLOCKS - 1]["elements"][0]["text"].as_str().expect("text");
        assert_eq!(context, "1970-01-01T00:00:00Z · 1620 more fields");
    }

    #[test]
    fn a_long_text_is_cut_between_escapes_and_says_so() {
        assert_eq!(escaped("a&b", 7), "a&amp;b");
        assert_eq!(escaped("a&bc", 7), "a&amp;…");
        assert_eq!(escaped("&&", 7), "&amp;…");
        assert_eq!(shortened("a&😀", 4, as_it_is), "a&😀");
        assert_eq!(shortened("a&😀", 3, as_it_is), "a&…");
    }

    #[test]
    fn a_message_without_text_has_no_empty_block() {
        let payload = payload(&message("", " \n", 0));
        assert_eq!(payload["blocks"].as_array().map(Vec::len), Some(2));
        assert_eq!(payload["blocks"][0]["text"]["text"], "[Critical]");
    }

    #[test]
    fn only_slacks_own_words_are_shown() {
        assert_eq!(word("no_service\n"), "no_service");
        assert_eq!(word("Cannot POST /services/T0/B0/token"), "");
    }
}
