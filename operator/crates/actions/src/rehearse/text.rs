//! Text that fits where it goes.

use serde::Serialize;

/// The text without control characters, so that nothing that a tool reported can move the cursor or fake a line.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// YAML, or what stands in its place where a value has none.
#[must_use]
pub fn yaml<T: Serialize>(value: &T) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|error| format!("# can't be shown as YAML: {error}\n"))
}

/// The lines, each with `by` in front of it.
#[must_use]
pub fn indent(text: &str, by: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{by}{line}\n") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reported_can_move_the_cursor() {
        assert_eq!(one_line("a\u{1b}[2J\nb\r\n"), "a [2J b");
    }
}
