//! CloudEvents 1.0 and 0.3, over HTTP in binary, structured and batched form: what is in them is read in its own format.
//!
//! Rules: cloudevents/spec, `cloudevents/formats/json-format.md` and `cloudevents/bindings/http-protocol-binding.md`. The event's type tells
//! the format; of types that Quell doesn't know the Source's `dataFormat` tells.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quell_crds::v1alpha1::Format;
use serde_json::Value;

use crate::json::{self, Object};
use crate::walk::text_at;
use crate::{Delivery, Received, Unreadable, gatekeeper};

/// Reads events. One whose type nobody knows is passed over, and says so.
pub(crate) fn read(delivery: &Delivery, body: &[u8]) -> Result<Received, Unreadable> {
    if let Some(kind) = delivery.header("ce-type") {
        let (kind, source) = (decoded(kind), decoded(delivery.header("ce-source").unwrap_or_default()));
        for name in ["ce-specversion", "ce-id"] {
            if delivery.header(name).is_none() {
                return Err(Unreadable::other_format(format!("header {name}"), "a CloudEvent in binary mode has it"));
            }
        }
        return data(delivery, &kind, &source, body);
    }
    let mut received = Received::default();
    for mut object in json::objects(body)? {
        for name in ["specversion", "type", "source", "id"] {
            if text_at(&object.fields, &[name]).is_none() {
                return Err(Unreadable::other_format(object.at(name), "a CloudEvent has it"));
            }
        }
        received.extend(event(delivery, &mut object)?);
    }
    Ok(received)
}

fn event(delivery: &Delivery, object: &mut Object) -> Result<Received, Unreadable> {
    let text = |name: &str| text_at(&object.fields, &[name]).unwrap_or_default();
    let (kind, source) = (text("type"), text("source"));
    // What nobody will read needn't be right, either.
    if format_of(delivery, &kind, &source).is_none() {
        return Ok(unknown(&kind));
    }
    let place = |name: &str, error: Unreadable| {
        let at = if error.at.starts_with("line ") {
            format!("{name}, {}", error.at)
        } else {
            format!("{name}.{}", error.at)
        };
        Unreadable { at: object.at(&at), ..error }
    };
    if let Some(Value::String(encoded)) = object.fields.get("data_base64") {
        let body = BASE64_STANDARD
            .decode(encoded)
            .map_err(|_| Unreadable::new(object.at("data_base64"), "this is no Base64"))?;
        return data(delivery, &kind, &source, &body).map_err(|error| place("data_base64", error));
    }
    match object.fields.get("data") {
        None | Some(Value::Null) => Ok(Received::default()),
        // Dapr carries what is no object in a text, and version 0.3 all of it.
        Some(Value::String(text)) => {
            data(delivery, &kind, &source, text.as_bytes()).map_err(|error| place("data", error))
        }
        Some(value) => {
            data(delivery, &kind, &source, value.to_string().as_bytes()).map_err(|error| place("data", error))
        }
    }
}

fn data(delivery: &Delivery, kind: &str, source: &str, body: &[u8]) -> Result<Received, Unreadable> {
    let Some(format) = format_of(delivery, kind, source) else { return Ok(unknown(kind)) };
    if body.trim_ascii().is_empty() || format == Format::Gatekeeper && is_said_by_audit(body) {
        return Ok(Received::default());
    }
    // Harbor writes the event's type beside the data, and the data has none.
    let body = match (format, serde_json::from_slice(body)) {
        (Format::Harbor, Ok(Value::Object(fields)))
            if !fields.contains_key("type") && fields.contains_key("resources") =>
        {
            serde_json::json!({"specversion": "1.0", "type": kind, "data": fields}).to_string().into_bytes()
        }
        _ => body.to_vec(),
    };
    crate::read_as(format, &Delivery { format, data_format: None, headers: &[], body: &body })
}

/// `audit is started`, as a JSON text or without its quotes.
fn is_said_by_audit(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    gatekeeper::says_nothing(&Value::String(text.trim().trim_matches('"').to_owned()))
}

fn unknown(kind: &str) -> Received {
    let mut received = Received::default();
    let kind = crate::bound::cut(kind, 128);
    received.ignore(format!(
        "CloudEvents of type {kind} are not read: no format is known for it; a Source can say one with dataFormat"
    ));
    received
}

/// By the type that a tool gives its events; else as the Source says. Never CloudEvents again: that has no end.
fn format_of(delivery: &Delivery, kind: &str, source: &str) -> Option<Format> {
    let known = match kind {
        "falco.rule.output.v1" => Some(Format::Falcosidekick),
        kind if kind.starts_with("harbor.") => Some(Format::Harbor),
        // EventBridge's events, by whatever bridge they come.
        kind if kind.contains("guardduty") || source.contains("aws.guardduty") => Some(Format::Guardduty),
        kind if kind.contains("inspector2") || source.contains("aws.inspector2") || source.contains("aws.ecr") => {
            Some(Format::Inspector)
        }
        _ => None,
    };
    known.or(delivery.data_format).filter(|format| *format != Format::Cloudevents)
}

/// Values of headers are percent-encoded.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if let (b'%', [high, low, tail @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            bytes.push(high << 4 | low);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALERT: &str =
        r#"{"rule":"R","priority":"Critical","output":"o","output_fields":{},"source":"syscall","hostname":"n"}"#;

    fn event(kind: &str, data: Value) -> Value {
        let mut event =
            json!({"specversion": "1.0", "type": kind, "source": "https://falco.org", "id": "1", "subject": null});
        for (key, value) in data.as_object().unwrap() {
            event[key] = value.clone();
        }
        event
    }

    fn receive(body: &Value, data_format: Option<Format>) -> Result<Received, Unreadable> {
        let body = body.to_string();
        read(&Delivery { data_format, ..Delivery::new(Format::Cloudevents, body.as_bytes()) }, body.as_bytes())
    }

    #[test]
    fn what_is_inside_is_read_by_its_type_in_every_form() {
        let alert: Value = serde_json::from_str(ALERT).unwrap();
        let structured = event("falco.rule.output.v1", json!({ "data": alert }));
        let as_text = event("falco.rule.output.v1", json!({ "data": ALERT }));
        let encoded = event("falco.rule.output.v1", json!({ "data_base64": BASE64_STANDARD.encode(ALERT) }));
        for body in [structured.clone(), as_text, encoded, json!([structured])] {
            let received = receive(&body, None).unwrap();
            assert_eq!(received.signals.len(), 1, "{body}");
            assert_eq!(received.signals[0].rule, "R");
        }
        let headers = [
            ("Ce-Type", "falco.rule.output.v1"),
            ("ce-source", "falco.org"),
            ("ce-id", "1"),
            ("CE-SpecVersion", "1.0"),
        ];
        let delivery = Delivery { headers: &headers, ..Delivery::new(Format::Cloudevents, ALERT.as_bytes()) };
        assert_eq!(read(&delivery, ALERT.as_bytes()).unwrap().signals.len(), 1);
        let delivery = Delivery { headers: &headers[..1], ..delivery };
        assert_eq!(read(&delivery, ALERT.as_bytes()).unwrap_err().at, "header ce-specversion");
    }

    #[test]
    fn of_an_unknown_type_the_source_tells_and_without_it_nothing_is_read_and_that_is_said() {
        let alert: Value = serde_json::from_str(ALERT).unwrap();
        let body = event("com.example.alert", json!({ "data": alert }));
        assert_eq!(receive(&body, Some(Format::Falco)).unwrap().signals.len(), 1);
        let received = receive(&body, None).unwrap();
        assert!(received.signals.is_empty() && received.ignored[0].contains("com.example.alert"));
        assert!(
            receive(&event("com.example.alert", json!({"data_base64": "... no Base64 ..."})), None)
                .unwrap()
                .signals
                .is_empty()
        );
        assert!(receive(&body, Some(Format::Cloudevents)).unwrap().signals.is_empty());
    }

    #[test]
    fn harbors_data_is_read_with_and_without_what_is_around_it() {
        let overview = json!({"application/vnd.security.vulnerability.report; version=1.1": {"scan_status": "Success", "severity": "High", "summary": {"total": 1}}});
        let data = json!({"resources": [{"resource_url": "h/a/b:1", "scan_overview": overview}], "repository": {"name": "b", "namespace": "a"}});
        assert_eq!(receive(&event("harbor.scan.completed", json!({ "data": data })), None).unwrap().signals.len(), 1);
    }

    #[test]
    fn gatekeepers_audit_says_that_it_began_and_that_is_nothing() {
        let body = event("com.dapr.event.sent", json!({"data": "audit is started"}));
        assert_eq!(receive(&body, Some(Format::Gatekeeper)).unwrap(), Received::default());
    }

    #[test]
    fn what_is_wrong_inside_is_refused_with_its_place() {
        for (body, at) in [
            (json!({"a": 1}), "specversion"),
            (json!({"specversion": "1.0", "type": "x", "source": "y"}), "id"),
            (event("falco.rule.output.v1", json!({"data": {"a": 1}})), "data.rule"),
            (event("falco.rule.output.v1", json!({"data_base64": "!"})), "data_base64"),
            (event("falco.rule.output.v1", json!({"data": "{"})), "data, line 1, column 1"),
        ] {
            assert_eq!(receive(&body, None).unwrap_err().at, at, "{body}");
        }
    }

    #[test]
    fn a_header_is_decoded_and_a_wrong_escape_left() {
        assert_eq!(decoded("a%20b%C3%A4"), "a bä");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz"), "%zz");
    }
}
