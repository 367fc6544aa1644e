//! How deep a body is nested, told without parsing it.

/// Whether lists and objects in `body` are nested deeper than `most`. What isn't JSON is not judged; the parser does that.
#[must_use]
pub fn is_deeper(body: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_outside_of_strings_alone() {
        for (body, depth) in [
            ("{}", 1),
            ("[[1], {\"a\": [2]}]", 3),
            (r#"{"a": "[[[[", "b\"[[": 1}"#, 1),
            (r#"["\\", [1]]"#, 2),
            ("1", 0),
            ("[] [] []", 1),
        ] {
            assert!(!is_deeper(body.as_bytes(), depth), "{body}");
            assert!(depth == 0 || is_deeper(body.as_bytes(), depth - 1), "{body}");
        }
        assert!(is_deeper("[".repeat(10_000).as_bytes(), 127));
    }
}
