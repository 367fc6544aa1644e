//! The webhook output of Falcosidekick: Falco's alert with a `uuid`, which is new for each event and so identifies nothing.
//!
//! Fields: falcosecurity/falcosidekick, `types/types.go` (`FalcoPayload`), and `outputs/client.go` for the test event.

use crate::json::{self, Object};
use crate::lenient::first_text;
use crate::{Signal, Unreadable, falco};

/// Reads alerts; the event that Falcosidekick sends to test its outputs is none.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let objects = json::objects(body)?;
    objects.iter().filter(|object| !is_test(object)).filter_map(|object| falco::alert(object).transpose()).collect()
}

/// Its source is `internal` of late and was `syscalls` before, so the rule alone tells, unless a rule of one's own has
/// that name: the text is the test's own, too.
fn is_test(object: &Object) -> bool {
    let is = |name: &str, expected: &str| first_text(&object.fields, &[name]).is_some_and(|text| text == expected);
    is("rule", "Test rule") && (is("source", "internal") || is("output", "This is a test from falcosidekick"))
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::Severity;

    use super::*;
    use crate::About;

    #[test]
    fn an_alert_is_read_as_falcos_and_its_uuid_plays_no_part() {
        let alert = |uuid: &str| {
            let body = format!(
                r#"{{"uuid":"{uuid}","output":"o","priority":"Error","rule":"r","time":"2024-01-01T00:00:00Z",
                "output_fields":{{"k8s.ns.name":"shop","k8s.pod.name":"web-1"}},"source":"syscall","hostname":"n"}}"#
            );
            read(body.as_bytes()).unwrap()
        };
        let signals = alert("1");
        assert_eq!(signals, alert("2"));
        assert_eq!((signals[0].tool.as_str(), signals[0].severity), ("falco", Severity::High));
        assert!(matches!(&signals[0].about, About::Pod { name, .. } if name == "web-1"));
    }

    #[test]
    fn the_test_event_gives_nothing_and_a_rule_of_that_name_does() {
        for (source, output, count) in [
            ("internal", "This is a test from falcosidekick", 0),
            ("syscalls", "This is a test from falcosidekick", 0),
            ("syscall", "something real", 1),
        ] {
            let body = format!(r#"{{"rule":"Test rule","priority":"Debug","source":"{source}","output":"{output}"}}"#);
            assert_eq!(read(body.as_bytes()).unwrap().len(), count, "{source} {output}");
        }
    }
}
