use quell_crds::v1alpha1::Severity;

use super::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn object() -> Value {
    json!({
        "apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "VulnerabilityReport",
        "metadata": {
            "name": "replicaset-web-1-web", "namespace": "shop",
            "labels": {
                "trivy-operator.container.name": "web", "trivy-operator.resource.kind": "ReplicaSet",
                "trivy-operator.resource.name": "web-1", "trivy-operator.resource.namespace": "shop",
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u"}],
        },
        "report": {
            "artifact": {"repository": "library/web", "tag": "1", "digest": DIGEST},
            "registry": {"server": "index.docker.io"},
            "updateTimestamp": "2026-01-02T03:04:05Z",
            "vulnerabilities": [
                {"vulnerabilityID": "CVE-1", "resource": "curl", "installedVersion": "1", "fixedVersion": "2",
                 "severity": "CRITICAL", "score": 9.1, "title": "t"},
                {"vulnerabilityID": "CVE-2", "resource": "curl", "installedVersion": "1", "fixedVersion": "", "severity": "NONE"},
            ],
        },
    })
}

fn read_one(object: &Value) -> Signal {
    let mut signals = read(object.to_string().as_bytes()).unwrap();
    assert_eq!(signals.len(), 1);
    signals.remove(0)
}

fn refused(object: &Value) -> String {
    read(object.to_string().as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_report_is_about_the_workload_of_its_labels() {
    let signal = read_one(&object());
    let About::Workload { api_version, kind, namespace, name, uid: _, container, image } = &signal.about else {
        panic!("a workload")
    };
    assert_eq!((api_version.as_str(), kind.as_str()), ("apps/v1", "ReplicaSet"));
    assert_eq!((namespace.as_str(), name.as_str(), container.as_deref()), ("shop", "web-1", Some("web")));
    let image = image.as_ref().unwrap();
    assert_eq!((image.reference.as_str(), image.digest.as_deref()), ("docker.io/library/web:1", Some(DIGEST)));
    assert_eq!((signal.rule.as_str(), signal.severity), ("docker.io/library/web:1", Severity::Critical));
    let counts = signal.vulnerability_counts.unwrap();
    assert_eq!((counts.critical, counts.info, counts.fixable), (1, 1, 1));
    assert_eq!(signal.identity, ["Vulnerability", DIGEST]);
    assert_eq!(signal.vulnerabilities[0].score, Some(9.1));
}

#[test]
fn a_name_too_long_for_a_label_is_in_the_annotation_or_is_the_owners() {
    let mut object = object();
    let labels = object["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("trivy-operator.resource.name");
    labels.insert("trivy-operator.resource.name-hash".to_owned(), json!("7c4d8f665"));
    let name = |object: &Value| match read_one(object).about {
        About::Workload { name, .. } => name,
        other => panic!("a workload: {other:?}"),
    };
    assert_eq!(name(&object), "web-1");
    object["metadata"]["annotations"] = json!({"trivy-operator.resource.name": "a-very-long-name"});
    assert_eq!(name(&object), "a-very-long-name");
    object["metadata"]["annotations"] = json!(null);
    object["metadata"]["ownerReferences"] = json!([]);
    assert!(refused(&object).starts_with("metadata.labels: neither"));
}

#[test]
fn a_report_on_a_pod_has_the_pods_uid() {
    let mut object = object();
    object["metadata"]["labels"]["trivy-operator.resource.kind"] = json!("Pod");
    object["metadata"]["ownerReferences"][0]["kind"] = json!("Pod");
    assert!(matches!(read_one(&object).about, About::Pod { uid: Some(uid), .. } if uid == "u"));
}

#[test]
fn an_image_is_named_with_its_registry_once() {
    let mut object = object();
    let mut reference = |repository: &str, server: Value, tag: Value| {
        object["report"]["artifact"] = json!({"repository": repository, "tag": tag, "digest": DIGEST});
        object["report"]["registry"] = json!({ "server": server });
        read_one(&object).rule
    };
    assert_eq!(reference("acme/web", json!("ghcr.io"), json!("2")), "ghcr.io/acme/web:2");
    assert_eq!(reference("ghcr.io/acme/web", json!("ghcr.io"), json!(2)), "ghcr.io/acme/web:2");
    assert_eq!(reference("acme/web", json!(null), json!("")), "docker.io/acme/web");
}

#[test]
fn nothing_wrong_and_a_deleted_report_end_what_was_reported() {
    let mut clean = object();
    clean["report"]["vulnerabilities"] = json!([]);
    let deleted = json!({"verb": "delete", "operatorObject": object()});
    for body in [clean, deleted] {
        let (ended, open) = (read_one(&body), read_one(&object()));
        assert!(ended.resolved && !open.resolved, "{body}");
        assert_eq!((&ended.rule, &ended.identity, &ended.about), (&open.rule, &open.identity, &open.about));
    }
}

#[test]
fn an_object_is_read_in_every_wrapping() {
    let plain = read_one(&object());
    for wrapped in [
        json!({"verb": "update", "operatorObject": object()}),
        json!({"kind": "List", "items": [object()]}),
        json!({"kind": "VulnerabilityReportList", "items": [object()]}),
        json!([object()]),
    ] {
        assert_eq!(read_one(&wrapped), plain);
    }
}

#[test]
fn other_kinds_are_refused_by_name_and_place() {
    let other = json!({"apiVersion": "v1", "kind": "Pod"});
    let expected = "kind: Pod of v1 is not read, a report of aquasecurity.github.io is";
    assert_eq!(refused(&other), expected);
    assert_eq!(refused(&json!([object(), other])), format!("[1].{expected}"));
    assert_eq!(refused(&json!({"kind": "List", "items": [other]})), format!("items[0].{expected}"));
    assert_eq!(refused(&json!({"verb": "update", "operatorObject": other})), format!("operatorObject.{expected}"));
    assert_eq!(refused(&json!({"alerts": []})), "kind: missing: expected a report of aquasecurity.github.io");
    assert!(
        refused(&json!({"apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "NewReport"}))
            .starts_with("kind: NewReport of")
    );
}

fn of_kind(kind: &str, report: Value) -> Value {
    json!({"apiVersion": "aquasecurity.github.io/v1alpha1", "kind": kind, "report": report, "metadata": {"name": "r", "namespace": "shop",
        "labels": {"trivy-operator.resource.kind": "ReplicaSet", "trivy-operator.resource.name": "web-1", "trivy-operator.container.name": "app"}}})
}

#[test]
fn failed_checks_of_an_object_are_one_signal() {
    let checks = json!([{"checkID": "KSV014", "severity": "LOW", "success": false, "title": "a"}, {"id": "KSV017", "severity": "HIGH", "success": false},
        {"checkID": "KSV001", "severity": "CRITICAL", "success": true}]);
    for kind in ["ConfigAuditReport", "RbacAssessmentReport", "ClusterRbacAssessmentReport", "InfraAssessmentReport"] {
        let signal = read_one(&of_kind(kind, json!({ "checks": checks })));
        assert_eq!(
            (signal.category, signal.severity, signal.message.as_str()),
            (Category::Misconfiguration, Severity::High, "2 failed checks: KSV017, KSV014")
        );
        assert_eq!(signal.rule, kind.trim_start_matches("Cluster"));
    }
    assert!(read_one(&of_kind("ConfigAuditReport", json!({"checks": []}))).resolved);
}

#[test]
fn found_secrets_of_an_image_are_one_signal_and_what_matched_is_not_kept() {
    let report = json!({"artifact": {"repository": "web", "tag": "1"}, "registry": {"server": "index.docker.io"}, "secrets": [
        {"ruleID": "stripe-access-token", "severity": "HIGH", "target": "/app/secret.yaml", "match": "key: hunter2"}]});
    let signal = read_one(&of_kind("ExposedSecretReport", report));
    assert_eq!(
        (signal.category, signal.severity, signal.rule.as_str()),
        (Category::Secret, Severity::High, "docker.io/library/web:1")
    );
    assert!(matches!(&signal.about, About::Workload { container: Some(app), image: Some(_), .. } if app == "app"));
    assert!(!serde_json::to_string(&signal.details).unwrap().contains("hunter2"));
}

#[test]
fn controls_of_a_standard_are_a_signal_each_and_those_for_a_person_none() {
    let report = |status: Value| json!({"apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "ClusterComplianceReport", "metadata": {"name": "nsa"}, "status": status});
    let summary = report(
        json!({"summaryReport": {"controlCheck": [{"id": "1.0", "name": "a", "severity": "HIGH", "totalFail": 3},
        {"id": "1.1", "name": "b", "severity": "LOW", "totalFail": 0}, {"id": "1.2", "name": "c", "severity": "CRITICAL"}]}}),
    );
    let detail = report(
        json!({"detailReport": {"results": [{"id": "1.0", "name": "a", "severity": "HIGH", "checks": [{"success": false, "severity": "MEDIUM"}, {"success": true}]},
        {"id": "1.1", "name": "b", "severity": "LOW", "checks": [{"success": true}]}, {"id": "1.2", "name": "c", "severity": "LOW", "checks": []}]}}),
    );
    for body in [summary, detail] {
        let signals = read(body.to_string().as_bytes()).unwrap();
        let found: Vec<_> = signals.iter().map(|one| (one.rule.as_str(), one.severity, one.resolved)).collect();
        assert_eq!(found, [("nsa 1.0", Severity::High, false), ("nsa 1.1", Severity::Low, true)]);
        assert_eq!(signals[0].about, About::outside("Cluster", "cluster"));
    }
}

#[test]
fn a_dictionary_of_lists_and_starboards_labels_are_read() {
    let dictionary = json!({"configauditreports.aquasecurity.github.io": [of_kind("ConfigAuditReport", json!({"checks": []}))], "sbomreports.aquasecurity.github.io": []});
    assert_eq!(read(dictionary.to_string().as_bytes()).unwrap().len(), 1);
    let bench = json!({"apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "CISKubeBenchReport", "metadata": {"labels": {"starboard.resource.kind": "Node", "starboard.resource.name": "n1"}},
        "report": {"sections": [{"version": "1.6", "node_type": "node", "tests": [{"results": [{"test_number": "4.1.1", "status": "FAIL", "scored": true}]}]}]}});
    assert_eq!(read_one(&bench).about, About::Node { name: "n1".to_owned() });
}

#[test]
fn what_a_report_lacks_is_named() {
    let mut object = object();
    object["report"]["vulnerabilities"] = json!(3);
    assert_eq!(refused(&object), "report: invalid type: integer `3`, expected a list");
    object.as_object_mut().unwrap().remove("report");
    assert_eq!(refused(&object), "report: missing: a VulnerabilityReport has it");
}

#[test]
fn wrappings_in_wrappings_end() {
    let deep = (0..60).fold(object(), |inner, _| json!({"verb": "update", "operatorObject": inner}));
    assert_eq!(read_one(&deep), read_one(&object()));
}
