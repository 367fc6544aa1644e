use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::Severity;

/// What people are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Names the message, and is the same for each try: the header `Idempotency-Key` of a webhook, the `Message-ID` of a
    /// mail. Visible ASCII.
    pub key: String,
    /// One line.
    pub title: String,
    /// What happened, in plain text.
    pub text: String,
    /// How bad it is.
    pub severity: Severity,
    /// Names and values, in the order in which people read them.
    pub fields: Vec<(String, String)>,
    /// When it happened.
    pub at: DateTime<Utc>,
}

impl Message {
    /// Severity and title, in one line whatever the title holds.
    pub(crate) fn headline(&self) -> String {
        format!("[{}] {}", self.severity, one_line(&self.title)).trim_end().to_owned()
    }
}

/// The text without control characters. A title comes from a finding, and so from whoever can cause one: a line break
/// in it must not start a header or a paragraph of its own.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `limit` characters, the last of which says that something is missing.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_characters() {
        assert_eq!(one_line("a\r\nBcc: b\u{85}c\0"), "a  Bcc: b c ");
    }

    #[test]
    fn a_cut_text_says_so_and_keeps_its_limit() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
