//! The JSON report of kube-bench: CIS benchmarks of a node or of the cluster.
//!
//! Fields: aquasecurity/kube-bench, `check/controls.go`, `check/check.go` and `cmd/common.go`. The report doesn't say which node it is about;
//! who collects it may add a field `node` beside `Controls`.

use quell_crds::v1alpha1::{Category, Severity};

use crate::json::{self, Object};
use crate::kinds::is_name;
use crate::walk::{Fields, is_true, items, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "kube-bench";

/// Reads reports: one signal for each test that failed, wants a look, or passed, which ends the one that failed before.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        let node = ["node", "nodeName", "node_name", "hostname"]
            .iter()
            .find_map(|name| text_at(&object.fields, &[name]))
            .filter(|name| is_name(name, 253))
            .map(|name| About::Node { name });
        match items(&object, &object.fields, "Controls")? {
            Some(all) => {
                for (at, one) in all {
                    controls(&object, &at, one, node.as_ref(), &mut signals)?;
                }
            }
            // Nothing was checked: a list without elements is null in Go.
            None if object.fields.contains_key("Controls") => {}
            // Old versions, and `--nototals`: the list without what is around it.
            None => controls(&object, "", &object.fields, node.as_ref(), &mut signals)?,
        }
    }
    Ok(signals)
}

/// The signals of one section; `node` is what it is about, where that is known.
pub(crate) fn controls(
    object: &Object,
    at: &str,
    controls: &Fields,
    node: Option<&About>,
    signals: &mut Vec<Signal>,
) -> Result<(), Unreadable> {
    let inside = |field: &str| if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") };
    let Some(groups) = items(object, controls, "tests").map_err(|error| moved(error, at))? else {
        if controls.contains_key("tests") && controls.contains_key("node_type") {
            return Ok(());
        }
        return Err(Unreadable::other_format(
            object.at(&inside("tests")),
            "a report of kube-bench has Controls with tests",
        ));
    };
    let version = text_at(controls, &["version"]).unwrap_or_default();
    let about = match text_at(controls, &["node_type"]).unwrap_or_default().as_str() {
        "policies" | "managedservices" => About::outside("Cluster", "cluster"),
        _ => node.cloned().unwrap_or_else(|| About::Node { name: "unknown".to_owned() }),
    };
    for (group_at, group) in groups {
        let at = inside(&group_at);
        let Some(results) = items(object, group, "results").map_err(|error| moved(error, &at))? else { continue };
        for (result_at, result) in results {
            let Some(number) = text_at(result, &["test_number"]) else {
                let at = object.at(&format!("{at}.{result_at}.test_number"));
                return Err(Unreadable::other_format(at, "each result of kube-bench has the number of its test"));
            };
            signals.push(signal(controls, group, result, number, &version, about.clone()));
        }
    }
    Ok(())
}

/// The place of a list that is not at the top.
fn moved(error: Unreadable, at: &str) -> Unreadable {
    if at.is_empty() { error } else { Unreadable { at: format!("{at}.{}", error.at), ..error } }
}

fn signal(controls: &Fields, group: &Fields, result: &Fields, number: String, version: &str, about: About) -> Signal {
    let scored = result.get("scored").is_none() || is_true(result, &["scored"]);
    let status = text_at(result, &["status"]).unwrap_or_default().to_ascii_uppercase();
    let severity = match status.as_str() {
        "FAIL" if scored => Severity::High,
        "FAIL" => Severity::Medium,
        "WARN" => Severity::Low,
        _ => Severity::Info,
    };
    let mut details = pick(result, &["status", "scored", "remediation", "actual_value", "expected_result", "reason"]);
    details.extend(pick(controls, &["id", "version", "detected_version", "text", "node_type"]));
    details.extend(pick(group, &["section", "desc"]));
    Signal {
        severity,
        message: text_at(result, &["test_desc"]).unwrap_or_else(|| number.clone()),
        resolved: status == "PASS",
        details: bound::details(&details),
        identity: vec![version.to_owned()],
        ..Signal::new(TOOL, Category::Compliance, number, about)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(node_type: &str, status: &str, scored: bool) -> Value {
        json!({"id": "4", "version": "cis-1.8", "node_type": node_type, "text": "Worker", "tests": [{"section": "4.1", "results": [
            {"test_number": "4.1.1", "test_desc": "Ensure it", "status": status, "scored": scored, "remediation": "do it"}]}]})
    }

    fn one(body: &Value) -> Signal {
        let mut signals = read(body.to_string().as_bytes()).unwrap();
        assert_eq!(signals.len(), 1);
        signals.remove(0)
    }

    #[test]
    fn how_bad_a_test_is_depends_on_its_status_and_score() {
        for (status, scored, severity, resolved) in [
            ("FAIL", true, Severity::High, false),
            ("FAIL", false, Severity::Medium, false),
            ("WARN", true, Severity::Low, false),
            ("INFO", true, Severity::Info, false),
            ("PASS", true, Severity::Info, true),
        ] {
            let signal = one(&json!({"Controls": [report("node", status, scored)], "Totals": {}, "node": "n1"}));
            assert_eq!((signal.severity, signal.resolved), (severity, resolved), "{status}");
            assert_eq!((signal.rule.as_str(), signal.message.as_str()), ("4.1.1", "Ensure it"));
            assert_eq!(signal.about, About::Node { name: "n1".to_owned() });
        }
    }

    #[test]
    fn the_list_alone_is_read_too_and_policies_are_about_the_cluster() {
        assert_eq!(one(&json!([report("master", "FAIL", true)])).about, About::Node { name: "unknown".to_owned() });
        assert_eq!(one(&json!([report("policies", "FAIL", true)])).about, About::outside("Cluster", "cluster"));
    }

    #[test]
    fn where_nothing_was_checked_there_is_nothing() {
        let empty = json!({"id": "4", "version": "cis-1.8", "node_type": "node", "tests": null});
        for body in [json!({"Controls": null, "Totals": {}}), json!({"Controls": [empty]}), json!([empty])] {
            assert!(read(body.to_string().as_bytes()).unwrap().is_empty(), "{body}");
        }
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (r#"{"a":1}"#, "tests"),
            (r#"{"Controls":[{"id":"1"}]}"#, "Controls[0].tests"),
            (r#"{"Controls":[{"tests":[{"results":[{"a":1}]}]}]}"#, "Controls[0].tests[0].results[0].test_number"),
            (r#"{"Controls":[{"tests":[{"results":7}]}]}"#, "Controls[0].tests[0].results"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
