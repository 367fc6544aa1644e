//! Why an action failed.

use std::collections::BTreeMap;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::Receipt;
use quell_notify::DeliveryError;
use thiserror::Error;

/// Why an action failed. Each variant is of one [`Reason`], and says what a person can do.
#[derive(Debug, Error)]
pub enum ActionError {
    /// The API server did not do what it was asked.
    #[error("{doing}: {}", describe(source))]
    Api {
        /// What was attempted.
        doing: String,
        /// What it answered.
        source: Box<kube::Error>,
    },
    /// A request took longer than [`write::REQUEST_TIMEOUT`](crate::write::REQUEST_TIMEOUT).
    #[error("{doing}: no answer in time from the API server")]
    Timeout {
        /// What was attempted.
        doing: String,
    },
    /// A channel did not take a message.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// Something in the cluster or outside is not as the action needs it.
    #[error("{message}")]
    Refused {
        /// The category.
        reason: Reason,
        /// What was found, and what to do.
        message: String,
        /// Another try may find it otherwise.
        transient: bool,
        /// What came of it all the same, for the next try.
        outputs: BTreeMap<String, String>,
        /// What was changed all the same.
        receipt: Option<Box<Receipt>>,
    },
}

impl ActionError {
    /// A refusal that another try can't mend.
    #[must_use]
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into(), transient: false, outputs: BTreeMap::new(), receipt: None }
    }

    /// A refusal that another try may mend.
    #[must_use]
    pub fn for_now(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into(), transient: true, outputs: BTreeMap::new(), receipt: None }
    }

    /// A refusal after something was changed: the record keeps what undo needs.
    #[must_use]
    pub fn after_change(mut self, changed: Receipt) -> Self {
        if let Self::Refused { receipt, .. } = &mut self {
            *receipt = Some(Box::new(changed));
        }
        self
    }

    /// A refusal of which something came all the same: the record keeps it for the next try.
    #[must_use]
    pub fn with_outputs(mut self, add: impl IntoIterator<Item = (String, String)>) -> Self {
        if let Self::Refused { outputs, .. } = &mut self {
            outputs.extend(add);
        }
        self
    }

    /// What the API server answered to an attempt.
    #[must_use]
    pub fn api(doing: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { doing: doing.into(), source: Box::new(source) }
    }

    /// The category.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.is_forbidden() || status.code == 401 => Reason::Forbidden,
                kube::Error::Api(status) if status.is_not_found() => Reason::TargetNotFound,
                kube::Error::Api(status) if status.is_conflict() => Reason::ChangedSince,
                kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => Reason::Invalid,
                _ => Reason::ApiUnavailable,
            },
            Self::Timeout { .. } => Reason::ApiUnavailable,
            Self::Delivery(error) => error.reason(),
            Self::Refused { reason, .. } => *reason,
        }
    }

    /// Whether another try may go well.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api { .. } => matches!(self.reason(), Reason::ApiUnavailable | Reason::ChangedSince),
            Self::Timeout { .. } => true,
            Self::Delivery(error) => error.is_transient(),
            Self::Refused { transient, .. } => *transient,
        }
    }

    /// What came of it, and what was changed, in spite of the failure.
    #[must_use]
    pub fn into_remains(self) -> (BTreeMap<String, String>, Option<Receipt>) {
        match self {
            Self::Refused { outputs, receipt, .. } => (outputs, receipt.map(|receipt| *receipt)),
            _ => (BTreeMap::new(), None),
        }
    }
}

/// The API server's own message where there is one: it names the object and the rule.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}
