//! How deep a source makes its parser and its interpreter go, told from its characters: both recurse, and a stack that is used up ends the
//! process.

/// What makes for depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Brackets, signs and conditions within each other, whether or not they match.
    pub(super) depth: usize,
    /// Operators and dots, one after the other or not.
    pub(super) operators: usize,
}

/// The extent of a source. What is in a string doesn't count.
pub(super) fn of(source: &str) -> Extent {
    let bytes = source.as_bytes();
    let mut extent = Extent::default();
    // For each open bracket how deep it was outside of it.
    let (mut open, mut now, mut signs) = (Vec::new(), 0_usize, 0_usize);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let sign = matches!(byte, b'!' | b'-');
        signs = if sign {
            signs + 1
        } else if byte.is_ascii_whitespace() {
            signs
        } else {
            0
        };
        match byte {
            b'\'' | b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'(' | b'[' | b'{' => {
                open.push(now);
                now += 1;
            }
            b')' | b']' | b'}' => now = open.pop().unwrap_or_default(),
            // What comes after it is within it, to the end of the bracket; unless it says that a field may be missing.
            b'?' if at == 0 || !matches!(bytes[at - 1], b'.' | b'[') => now += 1,
            b',' => now = open.last().map_or(0, |outside| outside + 1),
            _ => {}
        }
        if sign || matches!(byte, b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' | b'&' | b'|' | b'?' | b'.' | b'[') {
            extent.operators += 1;
        }
        extent.depth = extent.depth.max(now + signs);
        at += 1;
    }
    extent
}

/// Where the string that begins at `start` is over.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let raw = bytes[..start]
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| byte.is_ascii_alphabetic())
        .any(|byte| matches!(byte, b'r' | b'R'));
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let (mut at, close): (usize, &[u8]) = if triple { (start + 3, &[quote; 3]) } else { (start + 1, &[quote]) };
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if bytes[at..].starts_with(close) {
            return at + close.len();
        } else if !triple && matches!(bytes[at], b'\n' | b'\r') {
            // Not a string after all; the parser says so.
            return at;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_signs_and_conditions_are_depth() {
        for (source, depth) in [
            ("a", 0),
            ("((a))", 2),
            ("(a) + (b)", 1),
            ("!!!a", 3),
            ("- - a", 2),
            ("a ? b : c ? d : e", 2),
            ("[a ? b : c, d ? e : f]", 2),
            ("a.?b.?c[?0]", 1),
        ] {
            assert_eq!(of(source).depth, depth, "{source}");
        }
    }

    #[test]
    fn what_is_in_a_string_does_not_count_and_what_comes_after_it_does() {
        for source in [r"'((('", r#""a'(((""#, r"'\'((('", "'''(('(('''", r"r'\('"] {
            assert_eq!(of(source), Extent::default(), "{source}");
            assert_eq!(of(&format!("{source} + (a)")), Extent { depth: 1, operators: 1 }, "{source}");
        }
    }
}
