//! A message as a mail: RFC 5322, plain text.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use chrono::SecondsFormat;
use lettre::message::header::{ContentTransferEncoding, ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};

use crate::message::{cut, one_line};
use crate::{DeliveryError, Message};

/// Longer subjects are cut by every reader, and by some servers at 998 characters (RFC 5322 section 2.1.1).
const SUBJECT: usize = 200;
/// The last second that a header can name.
const YEAR_9999: i64 = 253_402_300_799;

pub(crate) fn mail(from: &Mailbox, to: &[Mailbox], message: &Message) -> Result<Vec<u8>, DeliveryError> {
    let at = message.at.timestamp().clamp(0, YEAR_9999).unsigned_abs();
    let mut mail = lettre::Message::builder()
        .from(from.clone())
        .subject(cut(&message.headline(), SUBJECT))
        .message_id(Some(message_id(from, &message.key)))
        // The same for each try, like everything in the mail.
        .date(UNIX_EPOCH + Duration::from_secs(at))
        .header(AutoSubmitted);
    for receiver in to {
        mail = mail.to(receiver.clone());
    }
    let body = SinglePart::builder()
        .header(ContentType::TEXT_PLAIN)
        .header(ContentTransferEncoding::QuotedPrintable)
        .body(text(message));
    let mail = mail.singlepart(body).map_err(|error| DeliveryError::misconfigured(format!("the mail: {error}")))?;
    Ok(mail.formatted())
}

/// RFC 5322 section 3.6.4: a dot-atom on the left, whatever the key holds, and a different one for each key; on the right
/// the sender's domain, whose names are the sender's to give.
fn message_id(from: &Mailbox, key: &str) -> String {
    let mut id = String::from("<");
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            id.push(char::from(byte));
        } else {
            // Writing into a String can't fail.
            let _ = write!(id, "={byte:02x}");
        }
    }
    format!("{id}@{}>", from.email.domain())
}

fn text(message: &Message) -> String {
    let mut text = format!("{}\n\n{}\n\n", message.headline(), message.text.trim());
    for (name, value) in &message.fields {
        // Lines of a value stand under it, so that none of them looks like a field.
        let _ = writeln!(text, "{}: {}", one_line(name), value.trim().replace('\n', "\n    "));
    }
    let _ = writeln!(text, "Time: {}", message.at.to_rfc3339_opts(SecondsFormat::Secs, true));
    text
}

/// RFC 3834 section 5: no vacation reply answers it.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_makes_a_message_id_of_its_own() {
        let from: Mailbox = "Quell <quell@example.com>".parse().expect("a mailbox");
        assert_eq!(message_id(&from, "a1-b/tell"), "<a1-b=2ftell@example.com>");
        assert_eq!(message_id(&from, "a\r\n>"), "<a=0d=0a=3e@example.com>");
        assert_ne!(message_id(&from, "a=2f"), message_id(&from, "a/"));
    }
}
