use quell_crds::v1alpha1::{Category, Severity};
use serde_json::{Value, json};

use super::*;
use crate::About;

fn signals(body: &Value) -> Vec<Signal> {
    read(body.to_string().as_bytes()).unwrap()
}

fn version_2(results: Value) -> Value {
    json!({"generationTime": "0001-01-01T00:00:00Z", "summaryDetails": {"controls": {
        "C-0057": {"controlID": "C-0057", "name": "Privileged container", "scoreFactor": 8, "status": "failed"},
        "C-0013": {"controlID": "C-0013", "name": "Non-root containers", "scoreFactor": 6, "statusInfo": {"status": "failed"}}}},
        "results": results, "resources": []})
}

#[test]
fn failed_controls_of_an_object_are_one_signal() {
    let body = version_2(json!([
        {"resourceID": "apps/v1/shop/Deployment/web", "controls": [
            {"controlID": "C-0057", "name": "Privileged container", "status": {"status": "failed"}, "rules": [{"paths": [{"failedPath": "spec.x"}]}]},
            {"controlID": "C-0013", "name": "Non-root containers", "rules": [{"status": "failed"}]},
            {"controlID": "C-0044", "name": "x", "status": {"status": "passed"}}]},
        {"resourceID": "path=1/api=/v1//Service/web", "controls": [{"controlID": "C-0044", "status": {"status": "skipped"}}]}]));
    let signals = signals(&body);
    let [failed, passed] = signals.as_slice() else { panic!("{signals:?}") };
    assert_eq!((failed.severity, failed.category), (Severity::High, Category::Misconfiguration));
    assert_eq!(failed.message, "2 failed controls: C-0057 Privileged container, C-0013 Non-root containers");
    let About::Workload { api_version, kind, namespace, name, .. } = &failed.about else {
        panic!("{:?}", failed.about)
    };
    assert_eq!([api_version, kind, namespace, name], ["apps/v1", "Deployment", "shop", "web"]);
    assert_eq!(failed.details["controls"][0]["paths"], json!(["spec.x"]));
    assert!(passed.resolved && matches!(&passed.about, About::Workload { kind, .. } if kind == "Service"));
}

#[test]
fn a_summary_alone_is_about_the_cluster() {
    let mut body = version_2(json!([]));
    let summary = body["summaryDetails"].take();
    let mut bare = summary.clone();
    bare["ResourceCounters"] = json!({});
    for body in [json!({"summaryDetails": summary}), bare] {
        let signal = signals(&body).remove(0);
        assert_eq!((signal.about, signal.severity), (About::outside("Cluster", "cluster"), Severity::High));
    }
}

#[test]
fn the_first_version_names_objects_for_each_rule() {
    let body = json!({"clusterName": "c", "frameworks": [{"name": "NSA", "controlReports": [{"controlID": "C-0057", "name": "Privileged container",
        "baseScore": 8, "ruleReports": [{"name": "r", "ruleResponses": [
            {"alertMessage": "m", "alertObject": {"k8sApiObjects": [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}}]}}]}]}]}]});
    let signals = signals(&body);
    assert_eq!(
        (signals.len(), signals[0].severity, signals[0].rule.as_str()),
        (1, Severity::High, "shop/Deployment/web")
    );
}

fn alert(severity: Value) -> Value {
    json!({"BaseRuntimeMetadata": {"alertName": "Unexpected process launched", "arguments": {"exec": "/bin/ls", "retval": 0}, "severity": severity,
            "timestamp": "2025-04-01T15:12:11.502730963Z"}, "RuleID": "R0001", "message": "Unexpected process launched: /bin/ls",
        "RuntimeK8sDetails": {"podName": "web-1", "podNamespace": "shop", "containerName": "app", "workloadName": "web", "workloadKind": "Deployment",
            "containerID": "ac9ee8da3d976509e3b240bfcbd9208129a45673206c2bbdab07924b402d", "image": "nginx:1"},
        "event": {"timestamp": 1_743_520_331_502_730_963_u64}})
}

#[test]
fn an_alert_of_the_node_agent_is_about_its_container() {
    let signal = signals(&alert(json!(5))).remove(0);
    assert_eq!(
        (signal.rule.as_str(), signal.severity, signal.category),
        ("Unexpected process launched", Severity::Medium, Category::Runtime)
    );
    assert!(matches!(&signal.about, About::Pod { name, container: Some(_), .. } if name == "web-1"));
    assert_eq!(signal.owner.as_ref().unwrap().name, "web");
    for (said, severity) in [
        (json!(1), Severity::Low),
        (json!(8), Severity::High),
        (json!("10"), Severity::Critical),
        (json!("critical"), Severity::Critical),
    ] {
        assert_eq!(signals(&alert(said)).remove(0).severity, severity);
    }
    let posted = json!({"kind": "RuntimeAlerts", "apiVersion": "kubescape.io/v1", "spec": {"alerts": [
        {"alertName": "Unexpected process launched", "arguments": {"retval": 0, "exec": "/bin/ls"}, "severity": 5, "RuleID": "R0001",
            "podName": "web-1", "podNamespace": "shop", "containerName": "app", "image": "nginx:1"}, {"alertName": "AlertLimitReached"}]}});
    let posted = signals(&posted);
    assert_eq!((posted.len(), &posted[0].identity, &posted[0].rule), (1, &signal.identity, &signal.rule));
}

#[test]
fn objects_in_the_cluster_are_about_the_workload_of_their_labels() {
    let object = |kind: &str, spec: Value| {
        json!({"apiVersion": "spdx.softwarecomposition.kubescape.io/v1beta1", "kind": kind, "metadata": {"name": "o", "namespace": "kubescape",
            "annotations": {"kubescape.io/image-id": "quay.io/a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
            "labels": {"kubescape.io/workload-api-group": "apps", "kubescape.io/workload-api-version": "v1", "kubescape.io/workload-kind": "Deployment",
                "kubescape.io/workload-name": "web", "kubescape.io/workload-namespace": "shop", "kubescape.io/workload-container-name": "app"}}, "spec": spec})
    };
    for (body, category, severity) in [
        (
            object(
                "WorkloadConfigurationScan",
                json!({"controls": {"C-1": {"severity": {"severity": "Medium"}, "status": {"status": "failed"}}}}),
            ),
            Category::Misconfiguration,
            Severity::Medium,
        ),
        (
            object("WorkloadConfigurationScanSummary", json!({"severities": {"critical": 0, "high": 2}})),
            Category::Misconfiguration,
            Severity::High,
        ),
        (
            object("VulnerabilityManifestSummary", json!({"severities": {"high": {"all": 3, "relevant": 1}}})),
            Category::Vulnerability,
            Severity::High,
        ),
        (
            object(
                "VulnerabilityManifest",
                json!({"payload": {"matches": [{"vulnerability": {"id": "CVE-1", "severity": "Low"}}]}}),
            ),
            Category::Vulnerability,
            Severity::Low,
        ),
    ] {
        let signal = signals(&body).remove(0);
        assert_eq!((signal.category, signal.severity), (category, severity), "{body}");
        let About::Workload { kind, namespace, name, .. } = &signal.about else { panic!("{:?}", signal.about) };
        assert_eq!([kind, namespace, name], ["Deployment", "shop", "web"]);
    }
    assert!(signals(&object("ApplicationProfile", json!({}))).is_empty());
    assert!(signals(&object("WorkloadConfigurationScan", json!({"controls": {}})))[0].resolved);
}

#[test]
fn other_bodies_are_refused_with_their_place() {
    for (body, at) in [
        (json!({"a": 1}), "summaryDetails"),
        (json!({"controls": {}}), "summaryDetails"),
        (json!({"kind": "Pod", "apiVersion": "v1"}), "kind"),
        (json!({"summaryDetails": {}, "results": 3}), "results"),
        (json!({"summaryDetails": {}, "results": [{}]}), "results[0].resourceID"),
    ] {
        assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
    }
}
