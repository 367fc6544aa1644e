use quell_crds::v1alpha1::Severity;
use serde_json::json;

use super::*;
use crate::About;

const UID: &str = "6f2a9c1e-8a55-4a0b-9d3e-0c1f2b3a4d5e";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn read_one(alert: &Value) -> Signal {
    let mut signals = read(alert.to_string().as_bytes()).unwrap();
    assert_eq!(signals.len(), 1);
    signals.remove(0)
}

fn with_fields(fields: &Value) -> Signal {
    read_one(&json!({
        "rule": "Shell in a shop", "priority": "Warning", "output": "a shell", "hostname": "node-1",
        "source": "syscall", "time": "2026-01-02T03:04:05.678Z", "tags": ["shell"], "output_fields": fields,
    }))
}

fn refused(body: &str) -> String {
    read(body.as_bytes()).unwrap_err().to_string()
}

#[test]
fn an_alert_with_pod_fields_is_about_the_pod() {
    let signal = with_fields(&json!({
        "k8s.ns.name": "shop", "k8s.pod.name": "web-1", "k8s.pod.uid": UID,
        "container.id": "ee97d9c4186f", "container.name": "web",
        "container.image.repository": "ghcr.io/acme/web", "container.image.tag": "1.2", "container.image.digest": [DIGEST],
    }));
    let image =
        crate::ImageRef { reference: "ghcr.io/acme/web:1.2".into(), digest: Some(DIGEST.into()), image_id: None };
    let (namespace, name) = ("shop".to_owned(), "web-1".to_owned());
    let (container, container_id) = (Some("web".to_owned()), Some("ee97d9c4186f".to_owned()));
    let uid = Some(UID.to_owned());
    assert_eq!(signal.about, About::Pod { namespace, name, uid, container, container_id, image: Some(image) });
    assert_eq!((signal.rule.as_str(), signal.tool.as_str()), ("Shell in a shop", "falco"));
    assert_eq!((signal.category, signal.severity), (Category::Runtime, Severity::Medium));
    assert_eq!(signal.message, "a shell");
    assert_eq!(signal.detected_at.unwrap().timestamp_millis(), 1_767_323_045_678);
    assert_eq!(signal.details["tags"], json!(["shell"]));
    assert_eq!(signal.details["output_fields"]["container.name"], "web");
}

#[test]
fn unknown_pod_fields_leave_the_container_and_its_host() {
    for unknown in [json!(null), json!(""), json!("<NA>"), json!("Not A Name")] {
        let signal =
            with_fields(&json!({"k8s.ns.name": unknown, "k8s.pod.name": "web-1", "container.id": "ee97d9c4186f"}));
        let (id, node) = ("ee97d9c4186f".to_owned(), Some("node-1".to_owned()));
        assert_eq!(signal.about, About::Container { id, node, image: None }, "{unknown}");
    }
}

#[test]
fn the_full_id_of_a_container_is_kept_where_it_is_the_same_container() {
    let full = "ee97d9c4186f".repeat(5) + "0123";
    for (fields, expected) in [
        (json!({"container.id": "ee97d9c4186f", "container.full_id": full}), full.as_str()),
        (json!({"container.id": format!("containerd://{full}")}), full.as_str()),
        (json!({"container.id": "ee97d9c4186f", "container.full_id": "ffffffffffff0000"}), "ee97d9c4186f"),
    ] {
        assert!(matches!(with_fields(&fields).about, About::Container { id, .. } if id == expected), "{fields}");
    }
}

#[test]
fn docker_names_tell_the_pod_where_the_fields_do_not() {
    let name = format!("k8s_web_web-1_shop_{UID}_3");
    let signal = with_fields(&json!({"container.id": "ee97d9c4186f", "container.name": name, "k8s.pod.name": null}));
    let About::Pod { namespace, name, uid, container, container_id, .. } = signal.about else { panic!("a pod") };
    assert_eq!((namespace.as_str(), name.as_str(), uid.as_deref()), ("shop", "web-1", Some(UID)));
    assert_eq!((container.as_deref(), container_id.as_deref()), (Some("web"), Some("ee97d9c4186f")));
}

#[test]
fn a_docker_name_fills_in_what_the_pod_fields_lack_but_only_of_the_same_pod() {
    for (pod, uid, container) in [("web-1", Some(UID), Some("web")), ("other", None, None)] {
        let name = format!("k8s_web_web-1_shop_{UID}_0");
        let about = with_fields(&json!({"k8s.ns.name": "shop", "k8s.pod.name": pod, "container.name": name})).about;
        let About::Pod { uid: found, container: named, .. } = about else { panic!("a pod") };
        assert_eq!((found.as_deref(), named.as_deref()), (uid, container));
    }
}

#[test]
fn the_sandbox_is_no_container_and_the_hash_of_a_static_pod_no_uid() {
    let name = "k8s_POD_etcd-1_kube-system_0123456789abcdef0123456789abcdef_0";
    let About::Pod { uid, container, .. } = with_fields(&json!({"container.name": name})).about else {
        panic!("a pod")
    };
    assert_eq!((uid, container), (None, None));
}

#[test]
fn what_happened_outside_containers_is_about_the_node() {
    for fields in [json!({"container.id": "host", "container.name": "host"}), json!({}), json!({"container.id": null})]
    {
        assert_eq!(with_fields(&fields).about, About::Node { name: "node-1".to_owned() }, "{fields}");
    }
    let signal = read_one(&json!({"rule": "r", "priority": "Debug"}));
    assert_eq!(signal.about, About::Node { name: "unknown".to_owned() });
}

#[test]
fn the_text_of_the_output_never_says_where_it_happened() {
    let signal = read_one(&json!({
        "rule": "r", "priority": "Error", "hostname": "node-1",
        "output": "a shell (cmdline=sh -c k8s.ns=victim k8s.pod=victim-1) k8s.ns=<NA> k8s.pod=<NA>",
        "output_fields": {"proc.cmdline": "sh -c k8s.ns=victim k8s.pod=victim-1"},
    }));
    assert_eq!(signal.about, About::Node { name: "node-1".to_owned() });
}

#[test]
fn integers_above_two_to_the_fifty_third_are_kept_exactly() {
    let signal =
        read_one(&json!({"rule": "r", "priority": "p", "output_fields": {"evt.time": 1_685_022_245_478_445_995_i64}}));
    assert_eq!(signal.details["output_fields"]["evt.time"].as_i64(), Some(1_685_022_245_478_445_995));
    assert_eq!(signal.detected_at.unwrap().timestamp_nanos_opt(), Some(1_685_022_245_478_445_995));
}

#[test]
fn words_about_itself_give_nothing() {
    for alert in [
        json!({"rule": "Falco internal: syscall event drop", "priority": "Debug"}),
        json!({"rule": "falco Internal: metrics snapshot", "priority": "Debug", "source": "syscall"}),
        json!({"rule": "anything", "priority": "Critical", "source": "internal"}),
    ] {
        assert!(read(alert.to_string().as_bytes()).unwrap().is_empty(), "{alert}");
    }
}

#[test]
fn keys_and_severities_are_read_in_any_case_and_an_unknown_severity_is_info() {
    assert_eq!(read_one(&json!({"Rule": "r", "Priority": "eMeRgEnCy"})).severity, Severity::Critical);
    assert_eq!(read_one(&json!({"rule": "r", "priority": "Apocalyptic"})).severity, Severity::Info);
    assert_eq!(read_one(&json!({"rule": "r", "priority": null, "output": "o"})).severity, Severity::Info);
}

#[test]
fn lines_and_arrays_of_alerts_are_read_one_by_one() {
    let alert = r#"{"rule": "r", "priority": "Error"}"#;
    assert_eq!(read(format!("{alert}\n{alert}\n").as_bytes()).unwrap().len(), 2);
    assert_eq!(read(format!("[{alert},{alert},{alert}]").as_bytes()).unwrap().len(), 3);
    assert!(refused(&format!("{alert}\n{{\"priority\": \"Error\"}}")).starts_with("line 2, rule: missing"));
    assert!(refused(&format!("[{alert},{{}}]")).starts_with("[1].rule: missing"));
}

fn audit(fields: &Value) -> Signal {
    read_one(&json!({
        "rule": "Audited", "priority": "Notice", "source": "k8s_audit", "hostname": "control", "output_fields": fields,
    }))
}

#[test]
fn an_audited_request_for_a_pod_is_about_the_pod() {
    let signal = audit(&json!({
        "ka.target.resource": "pods", "ka.target.subresource": "exec", "ka.target.namespace": "shop",
        "ka.target.name": "web-1", "ka.user.name": "eve", "ka.verb": "create",
        "ka.req.pod.containers.image": ["ghcr.io/acme/web:1"],
    }));
    let About::Pod { namespace, name, image, .. } = &signal.about else { panic!("a pod") };
    assert_eq!((namespace.as_str(), name.as_str()), ("shop", "web-1"));
    assert_eq!(image.as_ref().unwrap().reference, "ghcr.io/acme/web:1");
    assert_eq!(signal.category, Category::Audit);
    assert_eq!(signal.identity, ["eve", "create", "pods", "exec"]);
}

#[test]
fn an_audited_request_for_another_object_is_about_that_object() {
    for (fields, expected) in [
        (
            json!({"ka.target.resource": "deployments", "ka.target.namespace": "shop", "ka.target.name": "web"}),
            ("apps/v1", "Deployment", "shop", "web"),
        ),
        (
            json!({"ka.target.resource": "widgets", "ka.target.name": "w", "ka.uri": "/apis/acme.io/v2/widgets/w"}),
            ("acme.io/v2", "widgets", "", "w"),
        ),
        (
            json!({"ka.target.resource": "secrets", "ka.target.namespace": "shop", "ka.target.name": "<NA>"}),
            ("v1", "Secret", "shop", "*"),
        ),
        (
            json!({"ka.target.resource": "events", "ka.target.name": "e", "ka.uri": "/api/v1/namespaces/shop/events/e"}),
            ("v1", "Event", "shop", "e"),
        ),
        (
            json!({"ka.target.resource": "pods", "ka.target.namespace": "shop", "ka.target.name": null}),
            ("v1", "Pod", "shop", "*"),
        ),
        (
            json!({"ka.target.resource": "namespaces", "ka.target.namespace": "shop", "ka.target.name": "shop"}),
            ("v1", "Namespace", "", "shop"),
        ),
        (json!({"ka.uri": "/healthz", "ka.verb": "get"}), ("", "External", "", "k8s_audit")),
    ] {
        let about = audit(&fields).about;
        let About::Workload { api_version, kind, namespace, name, .. } = &about else { panic!("an object: {about:?}") };
        assert_eq!((api_version.as_str(), kind.as_str(), namespace.as_str(), name.as_str()), expected);
    }
    let node = audit(&json!({"ka.target.resource": "nodes", "ka.target.name": "node-7"}));
    assert_eq!(node.about, About::Node { name: "node-7".to_owned() });
}

#[test]
fn an_event_of_another_plugin_is_about_nothing_in_the_cluster() {
    let signal = read_one(&json!({"rule": "r", "priority": "Notice", "source": "gcp_auditlog", "hostname": "node-1"}));
    assert!(
        matches!(&signal.about, About::Workload { kind, name, .. } if kind == "External" && name == "gcp_auditlog")
    );
    assert_eq!(signal.category, Category::Other);
}

#[test]
fn the_body_of_another_tool_is_refused_with_the_field_that_is_missing() {
    let alertmanager = r#"{"receiver": "quell", "status": "firing", "alerts": [{"labels": {"alertname": "X"}}]}"#;
    assert_eq!(
        refused(alertmanager),
        "rule: missing: an alert of Falco names its rule here; is this the body of another tool?"
    );
    assert!(refused(r#"{"rule": "r", "groups": []}"#).starts_with("priority: missing"));
    assert_eq!(
        refused(r#"{"rule": "r", "output_fields": "x"}"#),
        "output_fields: an object was expected, this is a string"
    );
}

#[test]
fn plain_text_and_broken_json_are_refused_with_their_place() {
    let text = "13:44:05.478: Critical A shell was spawned";
    assert!(refused(text).ends_with("not JSON: set json_output: true in falco.yaml"), "{}", refused(text));
    assert_eq!(refused("{\"rule\": \"r\",\n \"priority\" 3}"), "line 2, column 13: not JSON: expected `:`");
}
