//! What a write would change, to be read.

use std::fmt::Write as _;

use serde_json::Value;

use super::diff;
use super::text::{indent, one_line, yaml};
use crate::Write;

/// What a write would change, line by line.
#[must_use]
pub fn difference(write: &Write) -> String {
    let Write { verb, object, body } = write;
    match (*verb, body) {
        ("patch", Value::Array(operations)) => patch(object, operations),
        ("POST" | "send", body) => {
            format!("{verb} {object} (outside the cluster; not sent)\n{}", indent(&yaml(body), "    "))
        }
        (verb, body) => format!("{verb} {object}\n{}", indent(&yaml(body), "    ")),
    }
}

/// The operations of a JSON patch. What it tests is what it takes to be there, so a replaced value shows as a change.
fn patch(object: &str, operations: &[Value]) -> String {
    let text = |operation: &Value, field: &str| operation[field].as_str().unwrap_or_default().to_owned();
    let is_test = |operation: &&Value| operation["op"] == "test";
    let tested = |path: &str| operations.iter().filter(is_test).find(|test| test["path"] == path);
    let changes = |path: &str| operations.iter().any(|one| one["op"] != "test" && one["path"] == path);
    let mut out = format!("patch {object}\n");
    for operation in operations {
        let (op, path) = (text(operation, "op"), text(operation, "path"));
        let field = field(&path);
        if op == "test" {
            if !changes(&path) {
                let _ = writeln!(out, "    only if {field} is {}", operation["value"]);
            }
            continue;
        }
        let before = tested(&path).map_or_else(String::new, |test| lines(&test["value"]));
        let after = if op == "remove" { String::new() } else { lines(&operation["value"]) };
        let only_if = if tested(&path).is_some() { ", only if it is as it was read" } else { "" };
        let _ = writeln!(out, "    {op} {field}{only_if}");
        if op == "remove" && before.is_empty() {
            continue;
        }
        for line in diff::lines(&before, &after) {
            let _ = writeln!(out, "      {line}");
        }
    }
    out
}

fn lines(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => one_line(text),
        value => yaml(value),
    }
}

/// `/metadata/labels/quell.dev~1finding` as `metadata.labels["quell.dev/finding"]`.
fn field(pointer: &str) -> String {
    let mut out = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.chars().all(|c| c.is_ascii_digit()) {
            let _ = write!(out, "[{part}]");
        } else if part.chars().all(|c| c.is_ascii_alphanumeric()) {
            let dot = if out.is_empty() { "" } else { "." };
            let _ = write!(out, "{dot}{part}");
        } else {
            let _ = write!(out, "[\"{part}\"]");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_shows_what_changes_and_on_what_it_depends() {
        let operations = json!([
            {"op": "test", "path": "/metadata/uid", "value": "u-1"},
            {"op": "test", "path": "/metadata/labels", "value": {"app": "web", "x": "z"}},
            {"op": "add", "path": "/metadata/labels", "value": {"x": "z", "quell.dev/quarantine": "full"}},
            {"op": "add", "path": "/metadata/annotations/quell.dev~1step", "value": "contain"},
            {"op": "remove", "path": "/spec/template/spec/containers/0/command"},
        ]);
        let text = patch("Pod shop/web-1", operations.as_array().unwrap());
        let expected = "patch Pod shop/web-1
    only if metadata.uid is \"u-1\"
    add metadata.labels, only if it is as it was read
      - app: web
        x: z
      + quell.dev/quarantine: full
    add metadata.annotations[\"quell.dev/step\"]
      + contain
    remove spec.template.spec.containers[0].command
";
        assert_eq!(text, expected);
    }
}
