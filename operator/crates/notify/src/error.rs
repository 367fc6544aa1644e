use std::time::Duration;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::SecretKey;

/// Why a message was not delivered. Names the receiver by kind and host; holds no secret, and no address with one in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// A Secret, or the key in it, doesn't exist.
    #[error("the Secret {:?} with the key {:?} is missing", secret.name, secret.key)]
    SecretMissing {
        /// The key that is missing.
        secret: SecretKey,
    },
    /// The channel can't be used as it is written.
    #[error("the channel can't be used: {what}")]
    Misconfigured {
        /// What is wrong with it.
        what: String,
    },
    /// No answer: no connection, no trust, or no end of it in time.
    #[error("no answer from {receiver}: {cause}")]
    Unreachable {
        /// Kind and host.
        receiver: String,
        /// What went wrong on the way.
        cause: String,
    },
    /// The receiver won't take the message, now or later: an HTTP status 3xx or 4xx (save 408 and 429), an SMTP reply 5xx
    /// (RFC 5321 section 4.2.1), or a server that can't do what the channel asks for.
    #[error("{receiver} refused the message: {answer}")]
    Refused {
        /// Kind and host.
        receiver: String,
        /// HTTP status or SMTP reply code, where there is one.
        code: Option<u16>,
        /// What the receiver said.
        answer: String,
    },
    /// The receiver can't take the message now: an HTTP status 408, 429 or 5xx, an SMTP reply 4xx.
    #[error("{receiver} can't take the message now: {answer}")]
    TooBusy {
        /// Kind and host.
        receiver: String,
        /// HTTP status or SMTP reply code.
        code: u16,
        /// What the receiver said.
        answer: String,
        /// How long the receiver asks to be left alone (RFC 9110 section 10.2.3), at most a day.
        retry_after: Option<Duration>,
    },
}

impl DeliveryError {
    pub(crate) fn misconfigured(what: impl Into<String>) -> Self {
        Self::Misconfigured { what: what.into() }
    }

    /// The reason for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::SecretMissing { .. } => Reason::SecretMissing,
            Self::Misconfigured { .. } => Reason::ParameterInvalid,
            Self::Unreachable { .. } | Self::TooBusy { .. } => Reason::ChannelUnreachable,
            Self::Refused { .. } => Reason::ReceiverRefused,
        }
    }

    /// Whether the same message may be taken later, with nothing edited.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TooBusy { .. })
    }

    /// How long the receiver asks to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooBusy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
