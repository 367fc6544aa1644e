use thiserror::Error;

use crate::{MAX_SIGNALS, bound};

/// Longest part of a body that a message repeats.
const ECHO: usize = 200;

/// Why a body can't be read: it is not JSON, or not what the Source's format says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{at}: {problem}")]
pub struct Unreadable {
    /// Where: a path in the JSON such as `output_fields`, or a position such as `line 3, column 17`.
    pub at: String,
    /// What is wrong there, and what was expected.
    pub problem: String,
}

impl Unreadable {
    pub(crate) fn new(at: impl Into<String>, problem: impl AsRef<str>) -> Self {
        // The message is one line in a log or an Event, whatever the body holds.
        let problem: String = problem.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { at: at.into(), problem: bound::cut(&problem, ECHO) }
    }

    /// Reading it came to no end.
    #[must_use]
    pub fn broke_off(error: &impl std::fmt::Display) -> Self {
        Self::new("the body", format!("reading it broke off: {error}"))
    }

    /// What serde_json has to say, without the position that it appends and we name ourselves.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;

        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
        let problem = match error.classify() {
            Category::Eof => format!("the JSON ends too soon: {text}"),
            Category::Syntax if text.contains("recursion limit") => "nested deeper than 127 levels".to_owned(),
            Category::Syntax => format!("not JSON: {text}"),
            Category::Data | Category::Io => text.to_owned(),
        };
        Self::new(format!("line {line}, column {column}"), problem)
    }

    /// That an object isn't what the format says: `what` is what a body of it has here.
    pub(crate) fn other_format(at: impl Into<String>, what: &str) -> Self {
        Self::new(at, format!("missing: {what}; is this the body of another tool?"))
    }

    pub(crate) fn too_many(at: impl Into<String>, found: usize) -> Self {
        Self::new(at, format!("{found} problems in one body, at most {MAX_SIGNALS} are taken: send them in parts"))
    }
}
