//! What this machine lacks.

/// Something that has to be there before a node can run; in one sentence, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("missing {0}")]
pub struct Missing(String);

impl Missing {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}
