use serde_json::{Value, json};

use super::*;
use crate::aws::received;

fn event(class: u32, change: Value) -> Value {
    let mut body = json!({"class_uid": class, "category_uid": 2, "activity_id": 1, "severity_id": 4, "status_id": 1, "time": 1_706_307_554_000_u64,
        "finding_info": {"uid": "f1", "title": "A title", "desc": "d", "types": ["TTPs/x"]}, "metadata": {"product": {"name": "Some Tool"}}});
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn signals(body: &Value) -> Vec<Signal> {
    received(body.to_string().as_bytes(), read).unwrap().signals
}

#[test]
fn numbers_are_severities_and_other_is_its_word() {
    for (id, word, severity) in [
        (json!(0), "", Severity::Info),
        (json!(1), "", Severity::Info),
        (json!(2), "", Severity::Low),
        (json!(3), "", Severity::Medium),
        (json!("4"), "", Severity::High),
        (json!(5), "", Severity::Critical),
        (json!(6), "", Severity::Critical),
        (json!(99), "moderate", Severity::Medium),
        (json!(null), "High", Severity::High),
    ] {
        assert_eq!(signals(&event(2004, json!({"severity_id": id, "severity": word})))[0].severity, severity);
    }
}

#[test]
fn a_vulnerability_finding_is_about_its_image() {
    let body = event(
        2002,
        json!({"resource": {"type": "AwsEcrContainerImage", "uid": "arn:aws:ecr:us-east-2:1234:repository/web/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "data": "{\"AwsEcrContainerImage\":{\"ImageTags\":[\"v1\"],\"RegistryId\":\"1234\"}}"},
        "vulnerabilities": [{"affected_packages": [{"name": "openssl", "version": "3.0.8", "release": "r3", "fixed_in_version": "3.0.8-r4"}],
            "cve": {"uid": "CVE-2023-1255", "cvss": [{"base_score": 5.9}], "epss": {"score": "0.00066"}}, "is_fix_available": true, "is_exploit_available": true}]}),
    );
    let signal = signals(&body).remove(0);
    assert_eq!(
        (signal.rule.as_str(), signal.category, signal.tool.as_str()),
        ("CVE-2023-1255", Category::Vulnerability, "some-tool")
    );
    assert!(
        matches!(&signal.about, About::Image { image } if image.reference == "1234.dkr.ecr.us-east-2.amazonaws.com/web:v1" && image.digest.is_some())
    );
    let found = &signal.vulnerabilities[0];
    assert_eq!(
        (found.installed_version.as_str(), found.epss, found.exploit_available),
        ("3.0.8-r3", Some(0.000_66), Some(true))
    );
}

#[test]
fn what_is_over_or_passed_is_resolved_and_what_only_a_person_can_tell_is_nothing() {
    for change in [
        json!({"status_id": 4}),
        json!({"status_id": 3}),
        json!({"activity_id": 3}),
        json!({"status_code": "PASS"}),
        json!({"compliance": {"status": "Pass"}}),
    ] {
        assert!(signals(&event(2003, change.clone()))[0].resolved, "{change}");
    }
    assert!(!signals(&event(2003, json!({"compliance": {"status": "FAILED", "control": "Config.1"}})))[0].resolved);
    assert!(signals(&event(2004, json!({"status_code": "MANUAL"}))).is_empty());
    assert!(signals(&event(1001, json!({}))).is_empty());
}

#[test]
fn a_check_of_prowler_is_about_its_pod() {
    let body = json!([event(
        2004,
        json!({"status_code": "FAIL", "metadata": {"event_code": "core_minimize_privileged", "product": {"name": "Prowler"}},
        "resources": [{"name": "web-1", "namespace": "shop", "type": "KubernetesPod", "uid": "x", "data": {"metadata": {"pod_ip": "10.0.0.1"}}}]})
    )]);
    let signal = signals(&body).remove(0);
    assert_eq!((signal.rule.as_str(), signal.category), ("core_minimize_privileged", Category::Misconfiguration));
    assert!(matches!(&signal.about, About::Pod { namespace, name, .. } if namespace == "shop" && name == "web-1"));
}

#[test]
fn containers_kinds_and_clouds_are_told_apart() {
    let about = |change: Value| signals(&event(2004, change)).remove(0).about;
    assert!(
        matches!(about(json!({"container": {"uid": "0123456789abcdef", "image": {"name": "nginx", "tag": "1"}}})), About::Container { image: Some(image), .. } if image.reference == "docker.io/library/nginx:1")
    );
    assert!(
        matches!(about(json!({"resources": [{"type": "KubernetesClusterRole", "name": "admin"}]})), About::Workload { kind, .. } if kind == "ClusterRole")
    );
    assert_eq!(
        about(json!({"resources": [{"type": "AwsAccount", "uid": "AWS::::Account:1"}]})),
        About::outside("AwsAccount", "AWS::::Account:1")
    );
    assert_eq!(about(json!({})), About::outside("External", "unknown"));
}

#[test]
fn an_alert_of_falco_in_the_old_class_is_read_as_falcos() {
    let raw = r#"{"rule":"R","priority":"Warning","output":"o","output_fields":{"k8s.ns.name":"shop","k8s.pod.name":"web-1"},"source":"syscall"}"#;
    let body = json!({"class_uid": 2001, "finding": {"title": "R"}, "metadata": {"product": {"name": "Falco"}}, "raw_data": raw});
    let signal = signals(&body).remove(0);
    assert_eq!((signal.tool.as_str(), signal.rule.as_str(), signal.severity), ("falco", "R", Severity::Medium));
    assert!(matches!(&signal.about, About::Pod { .. }));
}

#[test]
fn the_event_of_security_hub_holds_several() {
    let body = json!({"source": "aws.securityhub", "detail-type": "Findings Imported V2", "detail": {"findings": [event(2004, json!({})), event(2003, json!({}))]}});
    assert_eq!(signals(&body).len(), 2);
}

#[test]
fn other_bodies_are_refused_with_their_place() {
    for (body, at) in [
        (json!({"a": 1}), "class_uid"),
        (json!({"class_uid": 2004}), "finding_info"),
        (json!({"findings": [{"a": 1}]}), "findings[0].class_uid"),
    ] {
        assert_eq!(received(body.to_string().as_bytes(), read).unwrap_err().at, at, "{body}");
    }
}
