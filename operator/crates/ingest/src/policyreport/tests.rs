use serde_json::{Value, json};

use super::*;

fn report(results: Value) -> Value {
    json!({"apiVersion": "wgpolicyk8s.io/v1alpha2", "kind": "PolicyReport", "metadata": {"name": "r", "namespace": "shop"},
        "scope": {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "namespace": "shop", "uid": "6c737f35-260c-4e4f-8516-61a125c9fb78"},
        "results": results})
}

fn signals(body: &Value) -> Vec<Signal> {
    read(body.to_string().as_bytes()).unwrap()
}

#[test]
fn a_failed_rule_is_a_signal_about_the_scope_and_a_passed_one_ends_it() {
    let failed = json!({"policy": "host", "rule": "namespaces", "result": "fail", "severity": "high", "source": "kyverno", "message": "no"});
    let passed = json!({"policy": "host", "rule": "namespaces", "result": "pass", "source": "kyverno"});
    let (failed, passed) = (signals(&report(json!([failed]))).remove(0), signals(&report(json!([passed]))).remove(0));
    assert_eq!(
        (failed.rule.as_str(), failed.tool.as_str(), failed.severity),
        ("host/namespaces", "kyverno", Severity::High)
    );
    assert!(matches!(&failed.about, About::Pod { name, uid: Some(_), .. } if name == "web-1"));
    assert!(passed.resolved && !failed.resolved);
    assert_eq!((&failed.rule, &failed.identity, &failed.about), (&passed.rule, &passed.identity, &passed.about));
}

#[test]
fn without_a_severity_the_result_tells() {
    for (result, severity) in [("fail", Severity::Medium), ("error", Severity::Low), ("warn", Severity::Low)] {
        assert_eq!(signals(&report(json!([{"policy": "p", "result": result}])))[0].severity, severity);
    }
    assert_eq!(
        signals(&report(json!([{"policy": "p", "status": "fail", "severity": "spicy"}])))[0].severity,
        Severity::Info
    );
}

#[test]
fn resources_of_a_result_stand_before_the_scope() {
    let result = json!({"policy": "p", "result": "fail", "resources": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a", "namespace": "x"}, {"apiVersion": "v1", "kind": "Namespace", "name": "y"}]});
    let signals = signals(&report(json!([result])));
    let names: Vec<_> = signals
        .iter()
        .map(|signal| match &signal.about {
            About::Workload { namespace, name, .. } => (namespace.as_str(), name.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [("x", "a"), ("", "y")]);
}

#[test]
fn of_two_results_for_the_same_rule_the_failed_one_counts() {
    let both = json!([{"policy": "p", "result": "pass"}, {"policy": "p", "result": "fail"}, {"policy": "p", "result": "pass"}]);
    let signals = signals(&report(both));
    assert_eq!(signals.iter().map(|signal| signal.resolved).collect::<Vec<_>>(), [false]);
}

#[test]
fn vulnerabilities_of_an_adapter_are_one_signal_for_their_pod() {
    let one = |id: &str, severity: &str| {
        json!({"category": "apk", "policy": "", "severity": severity, "source": "Trivy",
            "properties": {"VulnerabilityID": id, "InstalledVersion": "1", "FixedVersion": "2"}})
    };
    let signals = signals(&report(json!([one("CVE-1", "low"), one("CVE-2", "high")])));
    let [signal] = signals.as_slice() else { panic!("{signals:?}") };
    assert_eq!(
        (signal.category, signal.severity, signal.tool.as_str()),
        (Category::Vulnerability, Severity::High, "trivy")
    );
    assert_eq!(signal.vulnerabilities[0].id, "CVE-2");
}

#[test]
fn a_deleted_report_ends_what_it_reported() {
    let frame = json!({"type": "DELETED", "object": report(json!([{"policy": "p", "result": "fail"}]))});
    assert!(signals(&frame)[0].resolved);
}

#[test]
fn reports_of_all_groups_are_read_and_other_objects_refused() {
    for (version, kind) in [
        ("wgpolicyk8s.io/v1beta1", "ClusterPolicyReport"),
        ("openreports.io/v1alpha1", "Report"),
        ("openreports.io/v1alpha1", "ClusterReport"),
        ("reports.x-k8s.io/v1beta2", "PolicyReport"),
        ("policy.k8s.io/v1alpha1", "ClusterPolicyReport"),
    ] {
        let body = json!({"apiVersion": version, "kind": kind, "results": [{"policy": "p", "result": "fail"}]});
        assert_eq!(signals(&body)[0].about, About::outside("Cluster", "cluster"));
    }
    for (body, at) in [
        (json!({"apiVersion": "v1", "kind": "Pod"}), "kind"),
        (json!({"apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "PolicyReport"}), "kind"),
        (json!({"a": 1}), "kind"),
        (report(json!("x")), "results"),
    ] {
        assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
    }
}
