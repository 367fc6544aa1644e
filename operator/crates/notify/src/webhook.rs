//! A signed JSON document, POSTed. Its shape and its signature are promised at [`Destination::Webhook`].

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use hmac::{Hmac, Mac as _};
use quell_crds::v1alpha1::{self, Severity};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::secret::scrubbed;
use crate::{DeliveryError, Destination, Message, Secret, http};

pub(crate) struct Webhook<'a> {
    pub(crate) url: &'a Url,
    pub(crate) hmac_key: &'a Secret,
    pub(crate) receiver: String,
}

pub(crate) fn resolve(spec: &v1alpha1::Webhook, hmac_key: Secret) -> Result<Destination, DeliveryError> {
    let url = Url::parse(&spec.url).map_err(|error| DeliveryError::misconfigured(format!("url: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(DeliveryError::misconfigured("url: neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(DeliveryError::misconfigured("url: user and password don't belong into it"));
    }
    Ok(Destination::Webhook { url, hmac_key })
}

impl Webhook<'_> {
    pub(crate) async fn deliver(self, http: &Client, limit: Duration, message: &Message) -> Result<(), DeliveryError> {
        let key = HeaderValue::from_str(&message.key)
            .map_err(|_| DeliveryError::misconfigured("the message's key can't be a header"))?;
        let body = body(message)?;
        let request = http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key)
            .header("Quell-Signature", signature(self.hmac_key, Utc::now(), &body)?)
            .body(body);
        // Servers repeat the path in their "not found", and people do put tokens there.
        let path = Some(self.url.path()).filter(|path| *path != "/").unwrap_or_default();
        let query = self.url.query().unwrap_or_default();
        let said = |answer: &str| scrubbed(answer, &[self.hmac_key.text().unwrap_or_default(), query, path]);
        http::send(request, limit, self.receiver, said).await
    }
}

/// The document as it goes out.
#[derive(Serialize)]
struct Document<'a> {
    key: &'a str,
    at: String,
    severity: Severity,
    title: &'a str,
    text: &'a str,
    fields: Map<String, Value>,
}

fn body(message: &Message) -> Result<Vec<u8>, DeliveryError> {
    let mut fields = Map::new();
    for (name, value) in &message.fields {
        match fields.get_mut(name) {
            // An object has each name once, and nothing is to be lost.
            Some(Value::String(earlier)) => {
                earlier.push('\n');
                earlier.push_str(value);
            }
            _ => drop(fields.insert(name.clone(), Value::String(value.clone()))),
        }
    }
    let document = Document {
        key: &message.key,
        at: message.at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        severity: message.severity,
        title: &message.title,
        text: &message.text,
        fields,
    };
    serde_json::to_vec(&document).map_err(|error| DeliveryError::misconfigured(format!("the message: {error}")))
}

fn signature(key: &Secret, at: DateTime<Utc>, body: &[u8]) -> Result<String, DeliveryError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes())
        .map_err(|_| DeliveryError::misconfigured("the key of the signature can't be used"))?;
    let t = at.timestamp();
    mac.update(format!("{t}.").as_bytes());
    mac.update(body);
    let mut header = format!("t={t},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing into a String can't fail.
        let _ = write!(header, "{byte:02x}");
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    #[test]
    fn the_body_has_the_documented_shape() {
        let message = Message {
            key: "k-1".to_owned(),
            title: "Shell".to_owned(),
            text: "a \"shell\"".to_owned(),
            severity: Severity::High,
            fields: [("Pod", "web-0"), ("Image", "a"), ("Image", "b")].map(|(n, v)| (n.into(), v.into())).to_vec(),
            at: Utc.timestamp_opt(1_700_000_000, 0).single().expect("a time"),
        };
        let expected = concat!(
            r#"{"key":"k-1","at":"2023-11-14T22:13:20Z","severity":"High","title":"Shell","text":"a \"shell\"","#,
            r#""fields":{"Pod":"web-0","Image":"a\nb"}}"#
        );
        assert_eq!(String::from_utf8(body(&message).expect("a body")).expect("UTF-8"), expected);
    }

    // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
    #[test]
    fn the_signature_is_the_one_that_openssl_computes() {
        let at = Utc.timestamp_opt(1_700_000_000, 0).single().expect("a time");
        let header = signature(&Secret::new("key"), at, br#"{"a":1}"#).expect("a signature");
        assert_eq!(header, "t=1700000000,v1=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03");
    }
}
