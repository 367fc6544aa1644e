//! What a step would do, to be read.

use std::fmt::Write as _;

use quell_actions::Write;
use quell_actions::rehearse::{End, Told, difference};
use quell_playbooks::compile::CompiledStep;

use crate::text::{count, indent, one_line, yaml};

/// One step, with its writes.
pub(super) fn step(number: usize, step: &CompiledStep, told: &Told) -> String {
    let mut text = format!("  {number}. {} ({})\n", step.step.name, step.step.kind.name());
    for one in &told.writes {
        text.push_str(&indent(&difference(one), "     "));
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
    fn writes_messages_and_calls_are_counted_apart() {
        let write = |verb| Write { verb, object: String::new(), body: json!({}) };
        let all = [write("create"), write("patch"), write("send"), write("POST")];
        assert_eq!(summary(all[..3].iter()), "2 writes, 1 message; nothing was changed");
        assert_eq!(summary(all.iter()), "2 writes, 1 message, 1 call to the outside; nothing was changed");
        assert_eq!(summary([].iter()), "0 writes, 0 messages; nothing was changed");
    }
}
