//! Keeps what a tool says within what an object in the cluster should hold.

use serde_json::{Map, Value};

/// Most bytes of `details`, as JSON.
const DETAILS: usize = 16 * 1024;
/// Of these, what the list of cuts may take.
const CUTS: usize = 1024;
/// Most characters of one string in `details`.
const STRING: usize = 1024;
/// Longest key; one that is longer is no field of any tool.
const KEY: usize = 128;
/// Deepest nesting.
const DEPTH: usize = 8;
/// Most elements of one list.
const ELEMENTS: usize = 64;

/// The first `characters` of a text, the last of them an ellipsis where something was cut. Kubernetes counts characters, too.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    if text.chars().nth(characters).is_none() {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

/// The details of a signal within their bounds: long strings cut, what is too much left out. What was cut is listed under
/// `cut`, as paths. A `null` in an object is left out, so that `has()` tells whether something is known, and an integer that
/// Kubernetes can't hold becomes its text.
pub(crate) fn details(from: &Map<String, Value>) -> Map<String, Value> {
    let mut copy = Copy { room: DETAILS - CUTS, cuts: Vec::new(), cuts_left_out: 0 };
    let mut details = copy.object(from, "", 0);
    if !copy.cuts.is_empty() {
        if copy.cuts_left_out > 0 {
            copy.cuts.push(format!("and {} more", copy.cuts_left_out));
        }
        details.insert("cut".to_owned(), copy.cuts.into());
    }
    details
}

struct Copy {
    room: usize,
    cuts: Vec<String>,
    cuts_left_out: usize,
}

impl Copy {
    fn object(&mut self, from: &Map<String, Value>, path: &str, depth: usize) -> Map<String, Value> {
        let mut to = Map::new();
        for (key, value) in from.iter().filter(|(_, value)| !value.is_null()) {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // Quotes, colon and comma.
            let cost = written(key) + 2;
            if key.chars().nth(KEY).is_some() || cost > self.room {
                self.cut(&path);
                continue;
            }
            self.room -= cost;
            match self.value(value, &path, depth + 1) {
                Some(value) => drop(to.insert(key.clone(), value)),
                None => self.room += cost,
            }
        }
        to
    }

    fn value(&mut self, from: &Value, path: &str, depth: usize) -> Option<Value> {
        match from {
            Value::Object(_) | Value::Array(_) if depth > DEPTH || self.room < 2 => self.cut(path),
            Value::Object(fields) => {
                self.room -= 2;
                Some(Value::Object(self.object(fields, path, depth)))
            }
            Value::Array(items) => {
                self.room -= 2;
                let mut to = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    if index == ELEMENTS || self.room == 0 {
                        self.cut(&format!("{path}[{index}..{}]", items.len()));
                        break;
                    }
                    self.room -= 1;
                    to.extend(self.value(item, &format!("{path}[{index}]"), depth + 1));
                }
                Some(Value::Array(to))
            }
            Value::String(text) => self.string(text, path),
            Value::Number(number) if number.as_i64().is_none() && number.as_u64().is_some() => {
                self.string(&number.to_string(), path)
            }
            other => {
                let cost = other.to_string().len();
                self.take(cost, path).then(|| other.clone())
            }
        }
    }

    fn string(&mut self, from: &str, path: &str) -> Option<Value> {
        let text = cut(from, STRING);
        if text.len() != from.len() {
            self.cut(path);
        }
        self.take(written(&text), path).then(|| Value::String(text))
    }

    fn take(&mut self, cost: usize, path: &str) -> bool {
        if cost > self.room {
            self.cut(path);
            return false;
        }
        self.room -= cost;
        true
    }

    fn cut(&mut self, path: &str) -> Option<Value> {
        let path = cut(path, KEY);
        let listed: usize = self.cuts.iter().map(|path| written(path) + 1).sum();
        // The key of the list itself and the line that counts the rest need room, too.
        if listed + written(&path) + 64 > CUTS {
            self.cuts_left_out += 1;
        } else if !self.cuts.contains(&path) {
            self.cuts.push(path);
        }
        None
    }
}

/// Bytes of a string as JSON, with its quotes and escapes.
fn written(text: &str) -> usize {
    let escaped: usize = text
        .chars()
        .map(|c| match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => 6,
            c => c.len_utf8(),
        })
        .sum();
    escaped + 2
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounded(value: Value) -> Map<String, Value> {
        let Value::Object(fields) = value else { panic!("an object") };
        let details = details(&fields);
        let size = Value::Object(details.clone()).to_string().len();
        assert!(size <= DETAILS, "{size}");
        details
    }

    #[test]
    fn what_is_small_stays_as_the_tool_said_it() {
        let said =
            json!({"output_fields": {"evt.time": 1_685_022_245_478_445_995_u64, "proc.tty": -1}, "tags": ["a", null]});
        assert_eq!(Value::Object(bounded(said.clone())), said);
    }

    #[test]
    fn a_null_in_an_object_is_left_out_and_too_large_an_integer_becomes_text() {
        let details = bounded(json!({"a": null, "b": u64::MAX}));
        assert_eq!(Value::Object(details), json!({"b": "18446744073709551615"}));
    }

    #[test]
    fn long_strings_are_cut_on_a_character_and_it_says_so() {
        let details = bounded(json!({"f": {"cmdline": "ä".repeat(5000)}}));
        assert_eq!(details["f"]["cmdline"].as_str().unwrap().chars().count(), STRING);
        assert_eq!(details["cut"], json!(["f.cmdline"]));
    }

    #[test]
    fn no_input_makes_details_larger_than_their_bound() {
        bounded(
            json!({"many": (0..5000).map(|i| (format!("key{i}"), json!("\u{1}".repeat(900)))).collect::<Map<_, _>>()}),
        );
        bounded(json!({"list": vec![json!("x".repeat(3000)); 5000]}));
        bounded(json!({"lists": vec![json!(vec![json!([[], {}, 1.5, true]); 64]); 64]}));
        bounded((0..5000).map(|i| ("ü\"".repeat(i), json!(i))).collect::<Map<_, _>>().into());
        let deep = (0..100).fold(json!(1), |inner, _| json!({ "in": inner }));
        let details = bounded(json!({ "deep": deep }));
        assert_eq!(details["cut"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_cut_text_has_as_many_characters_as_it_may() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äbcd", 3), "äb…");
        assert_eq!(cut("", 0), "");
    }
}
