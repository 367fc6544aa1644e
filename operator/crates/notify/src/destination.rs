use std::fmt;

use lettre::message::Mailbox;
use quell_crds::v1alpha1::{ChannelKind, Encryption, SecretKey};
use reqwest::Url;

use crate::{DeliveryError, Secret, slack, smtp, webhook};

/// A channel with its secrets filled in, checked as far as that goes without a connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Destination {
    /// POST of a signed JSON document.
    ///
    /// ```json
    /// {
    ///   "key": "…",
    ///   "at": "2026-11-21T12:00:00Z",
    ///   "severity": "Critical",
    ///   "title": "…",
    ///   "text": "…",
    ///   "fields": {"Pod": "shop/web-0"}
    /// }
    /// ```
    ///
    /// `key` is the same for each try, as in the header `Idempotency-Key`. `at` is RFC 3339 in UTC. `fields` are in the order
    /// of the message; values of the same name are joined by a line break. Keys may be added; none is renamed or removed
    /// within `v1alpha1`.
    ///
    /// `Quell-Signature` is `t=<unix seconds>,v1=<hexadecimal>`, where `v1` is the HMAC-SHA256 (RFC 2104) of `<t>.<body>`. A
    /// receiver computes it over the bytes that it got, compares in constant time, and refuses a `t` that is minutes old.
    ///
    /// 2xx is success; 408, 429 and 5xx are transient; all else, redirects too, is a refusal.
    Webhook {
        /// Where to.
        url: Url,
        /// The key of the signature, byte for byte as it is in the Secret.
        hmac_key: Secret,
    },
    /// A Slack incoming webhook.
    Slack {
        /// Where to, which is itself the secret.
        webhook_url: Secret,
    },
    /// Mail.
    Smtp {
        /// Host name or address of the mail server.
        host: String,
        /// Port of the mail server.
        port: u16,
        /// How the connection is encrypted.
        encryption: Encryption,
        /// The sender.
        from: Mailbox,
        /// The receivers, at least one.
        to: Vec<Mailbox>,
        /// User and password, where the server asks for them.
        credentials: Option<(String, Secret)>,
    },
}

impl Destination {
    /// Fills in the secrets of a channel. `secret` gives the value of a key in a Secret.
    pub fn resolve(kind: &ChannelKind, secret: impl Fn(&SecretKey) -> Option<Secret>) -> Result<Self, DeliveryError> {
        // An empty value is a key that anyone knows.
        let value = |key: &SecretKey| {
            secret(key)
                .filter(|value| !value.bytes().is_empty())
                .ok_or_else(|| DeliveryError::SecretMissing { secret: key.clone() })
        };
        match kind {
            ChannelKind::Webhook(spec) => webhook::resolve(spec, value(&spec.hmac_key)?),
            ChannelKind::Slack(spec) => slack::resolve(value(&spec.webhook_url)?),
            ChannelKind::Smtp(spec) => smtp::resolve(spec, spec.password.as_ref().map(value).transpose()?),
        }
    }

    /// The keys in Secrets that a channel needs.
    #[must_use]
    pub fn secrets(kind: &ChannelKind) -> Vec<&SecretKey> {
        match kind {
            ChannelKind::Webhook(spec) => vec![&spec.hmac_key],
            ChannelKind::Slack(spec) => vec![&spec.webhook_url],
            ChannelKind::Smtp(spec) => spec.password.iter().collect(),
        }
    }
}

/// Kind and host, as errors name the receiver: an address may hold a token in its path or query.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook { url, .. } => write!(f, "webhook {}", host(url)),
            Self::Slack { webhook_url } => match slack::address(webhook_url) {
                Ok(url) => write!(f, "Slack {}", host(&url)),
                Err(_) => f.write_str("Slack"),
            },
            Self::Smtp { host, port, .. } => write!(f, "mail server {host}:{port}"),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
