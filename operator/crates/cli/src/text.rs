//! Text that fits where it goes.

pub use quell_actions::rehearse::text::{indent, one_line, yaml};

/// At most `longest` characters; what is cut off shows as `…`.
pub fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
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
}
