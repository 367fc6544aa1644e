//! What a step would do, to be read.

use std::fmt::Write as _;

use quell_actions::Write;
use quell_playbooks::compile::CompiledStep;
use serde_json::Value;

use super::rehearse::{End, Told};
use crate::diff;
use crate::text::{count, indent, one_line, yaml};

/// One step, with its writes.
pub(super) fn step(number: usize, step: &CompiledStep, told: &Told) -> String {
    let mut text = format!("  {number}. {} ({})\n", step.step.name, step.step.kind.name());
    for one in &told.writes {
        text.push_str(&indent(&write(one), "     "));
    }
    let end = match &told.end {
        End::Done(message) => format!("then: {}", one_line(message)),
        End::Skipped(reason, message) => format!("would be skipped ({reason}): {}", one_line(message)),
        End::Failed(reason, message) => format!("would fail ({reason}): {}", one_line(message)),
        End::Undone => "would be undone again, for the failed step says onFailure: Undo".to_owned(),
        End::NotRehearsed(message) => {
            format!("can't be rehearsed with your rights, the run has its own; taken for done: {}", one_line(message))
        }
        End::Unknown(message) => {
            let written = indent(&yaml(&step.step.kind), "     ");
            let _ = write!(text, "{written}");
            format!("depends on what an earlier step makes; taken for done, as it is written ({})", one_line(message))
        }
    };
    let _ = writeln!(text, "     {end}");
    text
}

fn write(write: &Write) -> String {
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

/// `2 writes, 1 message; nothing was changed`.
pub(super) fn summary<'a>(writes: impl Iterator<Item = &'a Write>) -> String {
    let (mut inside, mut messages, mut calls) = (0, 0, 0);
    for write in writes {
        match write.verb {
            "send" => messages += 1,
            "POST" => calls += 1,
            _ => inside += 1,
        }
    }
    let calls = if calls == 0 { String::new() } else { format!(", {} to the outside", count(calls, "call")) };
    format!("{}, {}{calls}; nothing was changed", count(inside, "write"), count(messages, "message"))
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

    #[test]
    fn writes_messages_and_calls_are_counted_apart() {
        let write = |verb| Write { verb, object: String::new(), body: json!({}) };
        let all = [write("create"), write("patch"), write("send"), write("POST")];
        assert_eq!(summary(all[..3].iter()), "2 writes, 1 message; nothing was changed");
        assert_eq!(summary(all.iter()), "2 writes, 1 message, 1 call to the outside; nothing was changed");
        assert_eq!(summary([].iter()), "0 writes, 0 messages; nothing was changed");
    }
}
