//! What a build says it made.

use std::collections::BTreeMap;

use serde_json::Value;

/// Most outputs of a step.
pub(super) const MOST_OUTPUTS: usize = 32;
/// Longest value of an output, in bytes: what a termination message may hold.
pub(super) const LONGEST_OUTPUT: usize = 4096;

/// Reads a termination message: a JSON object of strings, or lines `key=value`. Nothing said is nothing made known, and no error.
pub(super) fn read(message: &str) -> Result<BTreeMap<String, String>, String> {
    let message = message.trim();
    if message.is_empty() {
        return Ok(BTreeMap::new());
    }
    let outputs = if message.starts_with('{') { object(message)? } else { lines(message)? };
    if outputs.len() > MOST_OUTPUTS {
        return Err(format!("it has {} entries, and at most {MOST_OUTPUTS} are kept", outputs.len()));
    }
    Ok(outputs)
}

fn object(message: &str) -> Result<BTreeMap<String, String>, String> {
    let object: BTreeMap<String, Value> =
        serde_json::from_str(message).map_err(|error| format!("it is no JSON object: {error}"))?;
    let text = |(key, value): (String, Value)| match value {
        Value::String(text) => Ok((key, text)),
        Value::Number(_) | Value::Bool(_) => Ok((key, value.to_string())),
        _ => Err(format!("its {key} is no string")),
    };
    object.into_iter().map(text).collect()
}

fn lines(message: &str) -> Result<BTreeMap<String, String>, String> {
    let named = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let entry = |line: &str| {
        let pair = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let pair = pair.filter(|(key, _)| named(key));
        pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
            .ok_or_else(|| "it is neither a JSON object nor lines key=value".to_owned())
    };
    message.lines().filter(|line| !line.trim().is_empty()).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_json_object_and_lines_say_the_same() {
        let expected = pairs(&[("digest", "sha256:1=2"), ("image", "r/shop:2")]);
        assert_eq!(read(r#"{"image": "r/shop:2", "digest": "sha256:1=2"}"#), Ok(expected.clone()));
        assert_eq!(read("image=r/shop:2\r\n\n digest = sha256:1=2 \n"), Ok(expected));
    }

    #[test]
    fn nothing_said_is_nothing_made_known() {
        assert_eq!(read(" \n"), Ok(pairs(&[])));
        assert_eq!(read("{}"), Ok(pairs(&[])));
    }

    #[test]
    fn what_is_neither_is_said_to_be_so() {
        for message in ["done", "error: a=b", "{image", "[1]", r#"{"image": ["a"]}"#, r#"{"image": null}"#] {
            assert!(read(message).is_err(), "{message}");
        }
        let many: Vec<String> = (0..33).map(|i| format!("k{i}=v")).collect();
        assert!(read(&many.join("\n")).is_err());
    }
}
