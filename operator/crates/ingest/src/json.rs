//! One body, one or many JSON values: tools and what stands between them send an object, an array of them, or JSON lines.

use serde_json::{Deserializer, Map, Value};

use crate::{MAX_OBJECTS, Unreadable};

/// One object of a body, and where in the body it stands.
pub(crate) struct Object {
    /// The line of the value, where the body has several.
    line: Option<usize>,
    /// The way from that value to this object.
    path: String,
    pub(crate) fields: Map<String, Value>,
}

impl Object {
    /// An object that is a body.
    #[cfg(test)]
    pub(crate) fn whole(fields: Map<String, Value>) -> Self {
        Self { line: None, path: String::new(), fields }
    }

    /// The way to a field of this object from the top of the body.
    pub(crate) fn at(&self, field: &str) -> String {
        let path = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        self.line.map_or(path.clone(), |line| format!("line {line}, {path}"))
    }

    /// An object that is in a field of this one.
    pub(crate) fn inside(&self, field: &str, fields: Map<String, Value>) -> Self {
        let path = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        Self { line: self.line, path, fields }
    }
}

/// A body without the mark that tools on Windows put in front of UTF-8; JSON does not allow it. What isn't UTF-8 is refused with the way out of
/// it.
pub(crate) fn text_of(body: &[u8]) -> Result<&[u8], Unreadable> {
    if body.starts_with(b"\xFF\xFE") || body.starts_with(b"\xFE\xFF") {
        let problem = "this is UTF-16, JSON is UTF-8: in PowerShell write it by `| Out-File -Encoding utf8`";
        return Err(Unreadable::new("line 1, column 1", problem));
    }
    Ok(body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body))
}

/// All objects of a body: of one value, of values after one another (JSON lines), and of arrays of them.
pub(crate) fn objects(body: &[u8]) -> Result<Vec<Object>, Unreadable> {
    objects_except(body, |_| false)
}

/// The same without the values that say nothing, by `skip`.
pub(crate) fn objects_except(body: &[u8], skip: fn(&Value) -> bool) -> Result<Vec<Object>, Unreadable> {
    let mut objects = Vec::new();
    let mut values = Deserializer::from_slice(body).into_iter::<Value>();
    let (mut start, mut line) = (0, 1);
    while let Some(value) = values.next() {
        let value = value.map_err(|error| Unreadable::json(&error))?;
        let end = values.byte_offset();
        let text = body.get(start..end).unwrap_or_default();
        let before = text.iter().take_while(|byte| byte.is_ascii_whitespace());
        let at = (start > 0).then(|| line + lines(before));
        line += lines(text.iter());
        start = end;
        match value {
            Value::Array(items) => {
                for (index, item) in items.into_iter().enumerate().filter(|(_, item)| !skip(item)) {
                    push(&mut objects, at, format!("[{index}]"), item)?;
                }
            }
            value if skip(&value) => {}
            value => push(&mut objects, at, String::new(), value)?,
        }
    }
    if start == 0 {
        return Err(Unreadable::new("line 1, column 1", "the body is empty, a JSON object was expected"));
    }
    Ok(objects)
}

fn lines<'a>(text: impl Iterator<Item = &'a u8>) -> usize {
    text.filter(|byte| **byte == b'\n').count()
}

fn push(objects: &mut Vec<Object>, line: Option<usize>, path: String, value: Value) -> Result<(), Unreadable> {
    let problem = match value {
        _ if objects.len() == MAX_OBJECTS => format!("more than {MAX_OBJECTS} reports in one body: send them in parts"),
        Value::Object(fields) => {
            objects.push(Object { line, path, fields });
            return Ok(());
        }
        other => format!("a JSON object was expected, this is {}", kind_of(&other)),
    };
    let at = match (line, path.as_str()) {
        (None, "") => "line 1".to_owned(),
        (None, path) => path.to_owned(),
        (Some(line), "") => format!("line {line}"),
        (Some(line), path) => format!("line {line}, {path}"),
    };
    Err(Unreadable::new(at, problem))
}

/// The object that a text holds, as what a queue carries in a text of its own.
pub(crate) fn object_in_text(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

/// What a value is, for a message.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(body: &str) -> Vec<String> {
        objects(body.as_bytes()).unwrap().iter().map(|object| object.at("rule")).collect()
    }

    #[test]
    fn an_object_is_one_and_lines_and_arrays_are_many_and_each_knows_where_it_stands() {
        assert_eq!(ways("{}"), ["rule"]);
        assert_eq!(ways("\n{\n}\n"), ["rule"]);
        assert_eq!(ways("{}\n{}\n\n{}"), ["rule", "line 2, rule", "line 4, rule"]);
        assert_eq!(ways("[{},{}]"), ["[0].rule", "[1].rule"]);
        assert_eq!(ways("{}\n[{}]"), ["rule", "line 2, [0].rule"]);
        assert!(ways("[]").is_empty());
    }

    #[test]
    fn what_is_not_an_object_is_refused_with_its_place() {
        let refused = |body: &str| objects(body.as_bytes()).err().unwrap().to_string();
        assert_eq!(refused(""), "line 1, column 1: the body is empty, a JSON object was expected");
        assert_eq!(refused("[{}, 3]"), "[1]: a JSON object was expected, this is a number");
        assert_eq!(refused("{}\n{\"a\": }"), "line 2, column 7: not JSON: expected value");
        assert_eq!(refused("{\"a\": [1, "), "line 1, column 10: the JSON ends too soon: EOF while parsing a value");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text_and_tells_what_is_not_utf_8() {
        assert_eq!(text_of(b"\xEF\xBB\xBF{}").unwrap(), b"{}");
        for other in [b"\xFF\xFE{\0}\0", b"\xFE\xFF\0{\0}"] {
            assert!(text_of(other).unwrap_err().problem.contains("UTF-16"));
        }
    }

    #[test]
    fn nesting_that_would_overflow_the_stack_is_refused() {
        for body in ["[".repeat(1_000_000), "{\"a\":".repeat(1_000_000)] {
            let refused = objects(body.as_bytes()).err().unwrap();
            assert_eq!(refused.problem, "nested deeper than 127 levels");
        }
    }

    #[test]
    fn more_reports_than_the_limit_are_refused_and_as_many_are_taken() {
        assert_eq!(objects("{}".repeat(MAX_OBJECTS).as_bytes()).unwrap().len(), MAX_OBJECTS);
        let refused = objects("{}\n".repeat(MAX_OBJECTS + 1).as_bytes()).err().unwrap();
        assert_eq!(refused.at, format!("line {}", MAX_OBJECTS + 1));
    }
}
