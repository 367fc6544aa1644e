//! Facts that take work to find, and which expressions ask for them.

use std::ops::{BitOr, BitOrAssign};

use serde::Serialize;

/// Facts that something asks for. Whoever asks for more than it uses gets more than it needs, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Other Findings on the same workload: `finding.related`.
    pub related: bool,
    /// What the target opens to others: `exposure`.
    pub exposure: bool,
}

impl Mentions {
    /// What the texts in an object may ask for.
    #[must_use]
    pub fn of(object: &impl Serialize) -> Self {
        // What can't be written down has no text that could mention anything.
        let text = serde_json::to_string(object).unwrap_or_default();
        Self { related: text.contains("related"), exposure: text.contains("exposure") }
    }
}

impl BitOr for Mentions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { related: self.related || other.related, exposure: self.exposure || other.exposure }
    }
}

impl BitOrAssign for Mentions {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fact_is_asked_for_where_any_text_names_it() {
        let asks = Mentions::of(&json!({ "when": "finding.related.exists(f, f.tool == 'trivy')" }));
        assert_eq!(asks, Mentions { related: true, exposure: false });
        let also = Mentions::of(&json!([{ "notify": { "text": "${exposure.services.size()}" } }]));
        assert_eq!(also | asks, Mentions { related: true, exposure: true });
        assert_eq!(Mentions::of(&json!({ "when": "finding.severity == 'High'" })), Mentions::default());
    }
}
