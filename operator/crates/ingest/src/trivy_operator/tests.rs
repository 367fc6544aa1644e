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
    let About::Workload { api_version, kind, namespace, name, container, image } = &signal.about else {
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
fn nothing_wrong_and_a_deleted_report_give_nothing() {
    let mut clean = object();
    clean["report"]["vulnerabilities"] = json!([]);
    let deleted = json!({"verb": "delete", "operatorObject": object()});
    for body in [clean, deleted] {
        assert!(read(body.to_string().as_bytes()).unwrap().is_empty(), "{body}");
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
    let audit = json!({"kind": "ConfigAuditReport", "report": {"checks": []}});
    let expected = "kind: ConfigAuditReport is not read, only VulnerabilityReport of aquasecurity.github.io is";
    assert_eq!(refused(&audit), expected);
    assert_eq!(refused(&json!([object(), audit])), format!("[1].{expected}"));
    assert_eq!(refused(&json!({"kind": "List", "items": [audit]})), format!("items[0].{expected}"));
    assert_eq!(refused(&json!({"verb": "update", "operatorObject": audit})), format!("operatorObject.{expected}"));
    assert_eq!(refused(&json!({"alerts": []})), "kind: missing: expected VulnerabilityReport");
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
