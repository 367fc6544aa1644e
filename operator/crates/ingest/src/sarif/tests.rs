use serde_json::{Value, json};

use super::*;

fn log(rules: Value, results: Value, properties: Value) -> Value {
    json!({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "Some Scanner", "rules": rules}}, "results": results, "properties": properties}]})
}

fn signals(body: &Value) -> Vec<Signal> {
    read(body.to_string().as_bytes()).unwrap()
}

fn result(change: Value) -> Vec<Signal> {
    let mut result = json!({"ruleId": "R1", "message": {"text": "m"}, "locations": [{"physicalLocation": {"artifactLocation": {"uri": "a.c"}, "region": {"startLine": 3, "snippet": {"text": "hunter2"}}}}]});
    for (key, value) in change.as_object().unwrap() {
        result[key] = value.clone();
    }
    signals(&log(
        json!([{"id": "R1", "defaultConfiguration": {"level": "error"}, "properties": {}}]),
        json!([result]),
        json!({}),
    ))
}

#[test]
fn the_level_is_that_of_the_result_else_of_the_rule_else_a_warning() {
    assert_eq!(result(json!({}))[0].severity, Severity::High);
    assert_eq!(result(json!({"level": "note"}))[0].severity, Severity::Low);
    assert_eq!(result(json!({"level": "none"}))[0].severity, Severity::Info);
    assert_eq!(result(json!({"ruleId": "R2"}))[0].severity, Severity::Medium);
    assert_eq!(result(json!({"properties": {"security-severity": "9.1"}}))[0].severity, Severity::Critical);
    for (descriptor, severity) in [
        (json!({"id": "R1"}), Severity::High),
        (json!({"index": 1}), Severity::High),
        (json!({"guid": "6c737f35-260c-4e4f-8516-61a125c9fb78"}), Severity::High),
        (json!({"index": 0}), Severity::Medium),
        (json!({"index": 7}), Severity::Medium),
        (json!({"id": "R0", "index": 1}), Severity::Medium),
    ] {
        let rules = json!([{"id": "R0"}, {"id": "R1", "guid": "6c737f35-260c-4e4f-8516-61a125c9fb78"}]);
        let mut told = log(rules, json!([{"ruleId": "R1", "message": {"text": "m"}}]), json!({}));
        told["runs"][0]["invocations"] =
            json!([{"ruleConfigurationOverrides": [{"descriptor": descriptor, "configuration": {"level": "error"}}]}]);
        assert_eq!(signals(&told)[0].severity, severity, "{descriptor}");
    }
}

#[test]
fn what_is_suppressed_passed_or_gone_is_no_finding() {
    for change in [
        json!({"suppressions": [{"kind": "inSource"}]}),
        json!({"suppressions": [{"kind": "external", "status": "accepted"}, {"kind": "external", "status": "rejected"}]}),
        json!({"suppressions": [{"kind": "external", "status": "accepted"}]}),
        json!({"kind": "pass"}),
        json!({"kind": "notApplicable"}),
        json!({"baselineState": "absent"}),
    ] {
        assert!(result(change.clone()).is_empty(), "{change}");
    }
    for change in [
        json!({"suppressions": []}),
        json!({"suppressions": [{"kind": "external", "status": "rejected"}]}),
        json!({"suppressions": [{"kind": "external", "status": "underReview"}]}),
    ] {
        assert_eq!(result(change.clone()).len(), 1, "{change}");
    }
}

#[test]
fn a_result_is_the_same_by_its_fingerprints_else_by_its_place() {
    let print = |value: &str| result(json!({"partialFingerprints": {"a": value}})).remove(0).identity;
    assert_ne!(print("1"), print("2"));
    assert_eq!(result(json!({}))[0].identity, ["a.c", "3", "m"]);
    assert!(!serde_json::to_string(&result(json!({}))[0].details).unwrap().contains("hunter2"));
}

#[test]
fn a_message_by_id_is_that_of_its_rule_with_its_arguments() {
    let rules = json!([{"id": "C2001", "messageStrings": {"default": {"text": "Variable \"{0}\" was used."}}}]);
    let body = log(rules, json!([{"ruleIndex": 0, "message": {"id": "default", "arguments": ["ptr"]}}]), json!({}));
    let signal = signals(&body).remove(0);
    assert_eq!((signal.rule.as_str(), signal.message.as_str()), ("C2001", "Variable \"ptr\" was used."));
}

#[test]
fn vulnerable_packages_are_one_signal_about_the_image() {
    let text = "Package: libcrypto1.1\nInstalled Version: 1.1.1c-r0\nVulnerability CVE-2019-1549\nSeverity: MEDIUM\nFixed Version: 1.1.1d-r0";
    let rules = json!([{"id": "CVE-2019-1549", "properties": {"security-severity": "5.3"}}]);
    let results = json!([{"ruleId": "CVE-2019-1549", "message": {"text": text}}, {"ruleId": "CVE-2019-1550", "level": "error", "message": {"text": text}}]);
    let signals = signals(&log(rules, results, json!({"imageName": "alpine:3.10"})));
    let [signal] = signals.as_slice() else { panic!("{signals:?}") };
    assert!(matches!(&signal.about, About::Image { image } if image.reference == "docker.io/library/alpine:3.10"));
    assert_eq!((signal.severity, signal.vulnerabilities.len()), (Severity::High, 2));
    let found = &signal.vulnerabilities[1];
    assert_eq!(
        [&found.id, &found.package, &found.installed_version, &found.fixed_version],
        ["CVE-2019-1549", "libcrypto1.1", "1.1.1c-r0", "1.1.1d-r0"]
    );
}

#[test]
fn nothing_that_ran_is_nothing_and_other_bodies_are_refused() {
    for body in [json!({"runs": []}), log(json!([]), json!([]), json!({})), log(json!([]), json!(null), json!({}))] {
        assert!(signals(&body).is_empty());
    }
    for (body, at) in [
        (json!({"a": 1}), "runs"),
        (json!({"runs": [{}]}), "runs[0].tool.driver"),
        (log(json!([]), json!(3), json!({})), "runs[0].results"),
    ] {
        assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
    }
}
