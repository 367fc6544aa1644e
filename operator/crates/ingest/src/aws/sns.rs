//! The signature of AWS SNS' messages: what was signed, and whether a certificate's key signed it.
//!
//! Rules: docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages". Nothing is fetched here: who has a message gets the
//! certificate from [`Message::certificate_url`], which is one of AWS' own addresses or nothing, and asks [`Message::verify`].

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
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
    /// The key of the certificate didn't sign it.
    #[error(
        "the signature is not that of the certificate's key: the message was not sent by SNS, or changed on its way"
    )]
    Mismatch,
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

    /// Where the certificate is, if that is an address of SNS itself: a message could name any other, and a certificate of its own there.
    #[must_use]
    pub fn certificate_url(&self) -> Option<&str> {
        let rest = self.signing_cert_url.strip_prefix("https://sns.")?;
        let (host, path) = rest.split_once('/')?;
        let region = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let file = path.strip_suffix(".pem")?;
        (plain(region) && !region.is_empty() && plain(file) && file.starts_with("SimpleNotificationService-"))
            .then_some(self.signing_cert_url.as_str())
    }

    /// Whether the key of a certificate signed this message. Whether the certificate is SNS' is told by where it came from.
    pub fn verify(&self, certificate: &[u8]) -> Result<(), SignatureError> {
        let algorithm = match self.signature_version.as_str() {
            "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "2" => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(SignatureError::Version),
        };
        let signature = BASE64_STANDARD.decode(&self.signature).map_err(|_| SignatureError::Encoding)?;
        let (_, pem) = parse_x509_pem(certificate).map_err(|_| SignatureError::Certificate)?;
        let parsed = pem.parse_x509().map_err(|_| SignatureError::Certificate)?;
        let key = parsed.public_key().subject_public_key.data.as_ref();
        UnparsedPublicKey::new(algorithm, key)
            .verify(self.canonical().as_bytes(), &signature)
            .map_err(|_| SignatureError::Mismatch)
    }
}

#[cfg(test)]
mod tests;
