//! The signature of AWS SNS' messages: what was signed, and whether a certificate's key signed it.
//!
//! Rules: docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages". Nothing is fetched here: who has a message gets the
//! certificate from [`Message::certificate_url`], which is an address of SNS in the topic's own region or nothing, and asks
//! [`Message::verify`].

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use ring::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde::Deserialize;
use thiserror::Error;
use x509_parser::pem::parse_x509_pem;

use crate::Unreadable;

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// Its version of signatures is neither 1 nor 2.
    #[error("the version of the signature is not known: SNS signs with version 1 or 2")]
    Version,
    /// The signature is no Base64.
    #[error("the signature is no Base64")]
    Encoding,
    /// What was to be the certificate is none.
    #[error("what was to be the certificate of SNS is no X.509 certificate in PEM")]
    Certificate,
    /// The certificate is not valid yet, or no longer.
    #[error("the certificate of SNS is not valid now; is a clock wrong?")]
    NotValid,
    /// The key of the certificate didn't sign it.
    #[error(
        "the signature is not that of the certificate's key: the message was not sent by SNS, or changed on its way"
    )]
    Mismatch,
}

/// A topic, and where SNS answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    arn: String,
    host: String,
}

impl Topic {
    /// Reads an ARN: `arn:<partition>:sns:<region>:<account>:<name>`. Partitions that are cut off from the internet have other addresses, and
    /// are none.
    #[must_use]
    pub fn parse(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, "sns", region, account, name] = parts.as_slice() else { return None };
        let end = match *partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return None,
        };
        let made_of = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|one| one.is_ascii_alphanumeric() || more.contains(one))
        };
        (made_of(region, "-") && made_of(account, "") && made_of(name, "-_."))
            .then(|| Self { arn: arn.to_owned(), host: format!("sns.{region}.{end}") })
    }

    /// Its ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// An address of this topic's SNS, or nothing. What stands before the first slash is compared as a whole, so that there is no room for
    /// another host, a port or a user in it.
    fn path<'a>(&self, url: &'a str) -> Option<&'a str> {
        url.strip_prefix("https://")?.strip_prefix(self.host.as_str())?.strip_prefix('/')
    }
}

/// A certificate, of which the key and the time count. Whether it is SNS' is told by where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    key: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// Reads PEM.
    pub fn parse(pem: &[u8]) -> Result<Self, SignatureError> {
        let (_, pem) = parse_x509_pem(pem).map_err(|_| SignatureError::Certificate)?;
        let parsed = pem.parse_x509().map_err(|_| SignatureError::Certificate)?;
        let validity = parsed.validity();
        Ok(Self {
            key: parsed.public_key().subject_public_key.data.to_vec(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Whether it is valid at that time.
    #[must_use]
    pub fn is_valid_at(&self, now: DateTime<Utc>) -> bool {
        (self.not_before..=self.not_after).contains(&now.timestamp())
    }
}

/// A message of SNS, as far as its signature goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Message {
    /// `Notification`, `SubscriptionConfirmation` or `UnsubscribeConfirmation`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The message's id: a repeat has the same.
    pub message_id: String,
    /// ARN of the topic.
    pub topic_arn: String,
    /// What was sent.
    pub message: String,
    /// When it was sent, RFC 3339.
    pub timestamp: String,
    /// Its subject, of a notification that has one.
    pub subject: Option<String>,
    /// Of confirmations.
    pub token: Option<String>,
    /// Of confirmations: what confirms the subscription.
    #[serde(rename = "SubscribeURL")]
    pub subscribe_url: Option<String>,
    /// `1` for SHA-1, `2` for SHA-256.
    pub signature_version: String,
    /// Base64.
    pub signature: String,
    /// Where the certificate is, as the message says.
    #[serde(rename = "SigningCertURL")]
    pub signing_cert_url: String,
}

impl Message {
    /// Reads a message.
    pub fn parse(body: &[u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(body).map_err(|error| Unreadable::json(&error))
    }

    /// What is signed: names and values of the signed fields, in the order of the names, a line each.
    #[must_use]
    pub fn canonical(&self) -> String {
        let message = [("Message", Some(&self.message)), ("MessageId", Some(&self.message_id))];
        let rest = if self.kind == "Notification" {
            // A subject that isn't there is no line, not an empty one.
            [("Subject", self.subject.as_ref()), ("Timestamp", Some(&self.timestamp)), ("", None)]
        } else {
            [
                ("SubscribeURL", self.subscribe_url.as_ref()),
                ("Timestamp", Some(&self.timestamp)),
                ("Token", self.token.as_ref()),
            ]
        };
        let end = [("TopicArn", Some(&self.topic_arn)), ("Type", Some(&self.kind))];
        let fields = message.into_iter().chain(rest).chain(end);
        fields.filter_map(|(name, value)| Some(format!("{name}\n{}\n", value?))).collect()
    }

    /// Where the certificate is, if that is an address of the topic's SNS: a message could name any other, and a certificate of its own there.
    #[must_use]
    pub fn certificate_url(&self, topic: &Topic) -> Option<&str> {
        let file = topic.path(&self.signing_cert_url)?.strip_suffix(".pem")?;
        let plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (plain && file.starts_with("SimpleNotificationService-")).then_some(self.signing_cert_url.as_str())
    }

    /// What confirms the subscription, if that is an address of the topic's SNS.
    #[must_use]
    pub fn confirmation_url(&self, topic: &Topic) -> Option<&str> {
        let url = self.subscribe_url.as_deref()?;
        topic.path(url)?.starts_with("?Action=ConfirmSubscription").then_some(url)
    }

    /// When it was sent, as it says itself.
    #[must_use]
    pub fn sent_at(&self) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(&self.timestamp).ok().map(|time| time.to_utc())
    }

    /// Whether the key of a certificate that is valid now signed this message.
    pub fn verify(&self, certificate: &Certificate, now: DateTime<Utc>) -> Result<(), SignatureError> {
        let algorithm = match self.signature_version.as_str() {
            "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "2" => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(SignatureError::Version),
        };
        let signature = BASE64_STANDARD.decode(&self.signature).map_err(|_| SignatureError::Encoding)?;
        if !certificate.is_valid_at(now) {
            return Err(SignatureError::NotValid);
        }
        UnparsedPublicKey::new(algorithm, &certificate.key)
            .verify(self.canonical().as_bytes(), &signature)
            .map_err(|_| SignatureError::Mismatch)
    }
}

#[cfg(test)]
mod tests;
