//! Text that fits where it goes.

use serde::Serialize;

/// The text without control characters, so that nothing that a tool reported can move the cursor or fake a line.
pub fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `longest` characters; what is cut off shows as `…`.
pub fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

/// YAML, or what stands in its place where a value has none.
pub fn yaml<T: Serialize>(value: &T) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|error| format!("# can't be shown as YAML: {error}\n"))
}

/// The lines, each with `by` in front of it.
pub fn indent(text: &str, by: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{by}{line}\n") }).collect()
}

/// `1 write`, `2 writes`.
pub fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_by_characters_and_shows_it() {
        assert_eq!(cut("müsli", 5), "müsli");
        assert_eq!(cut("müslis", 5), "müsl…");
    }

    #[test]
    fn nothing_reported_can_move_the_cursor() {
        assert_eq!(one_line("a\u{1b}[2J\nb\r\n"), "a [2J b");
    }
}
