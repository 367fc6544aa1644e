use quell_crds::v1alpha1::Severity;
use serde_json::{Value, json};

use super::*;

fn request(verb: &str, resource: &str, change: Value) -> Value {
    let mut body = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "841d3e6d", "stage": "ResponseComplete",
        "verb": verb, "user": {"username": "jane", "groups": ["system:authenticated"]}, "sourceIPs": ["192.168.99.1"],
        "requestURI": format!("/api/v1/namespaces/shop/{resource}"),
        "objectRef": {"resource": resource, "namespace": "shop", "name": "x", "apiVersion": "v1"}, "responseStatus": {"code": 201}});
    merge(&mut body, change);
    body
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn rules_of(body: &Value) -> Vec<(String, Severity)> {
    read(body.to_string().as_bytes()).unwrap().into_iter().map(|signal| (signal.rule, signal.severity)).collect()
}

#[test]
fn each_rule_finds_what_it_is_for() {
    let pod = |spec: Value| request("create", "pods", json!({"requestObject": {"spec": spec}}));
    let role = |verbs: Value, resources: Value| {
        request(
            "create",
            "clusterroles",
            json!({"requestObject": {"rules": [{"verbs": verbs, "resources": resources}]}}),
        )
    };
    let binding = |role: &str, to: &str| {
        request(
            "create",
            "clusterrolebindings",
            json!({"requestObject": {"roleRef": {"name": role}, "subjects": [{"name": to}]}}),
        )
    };
    for (body, rule, severity) in [
        (
            request(
                "create",
                "pods",
                json!({"objectRef": {"subresource": "exec"}, "stage": "ResponseStarted", "responseStatus": {"code": 101}}),
            ),
            "Exec into pod",
            Severity::Medium,
        ),
        (
            request("get", "pods", json!({"objectRef": {"subresource": "attach", "namespace": "kube-system"}})),
            "Attach to pod",
            Severity::High,
        ),
        (
            request("patch", "pods", json!({"objectRef": {"subresource": "ephemeralcontainers"}})),
            "Ephemeral container added",
            Severity::Medium,
        ),
        (
            pod(json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}]})),
            "Privileged pod",
            Severity::High,
        ),
        (
            pod(json!({"volumes": [{"hostPath": {"path": "/etc/kubernetes/"}}]})),
            "Sensitive host path mounted",
            Severity::High,
        ),
        (pod(json!({"volumes": [{"hostPath": {"path": "/"}}]})), "Sensitive host path mounted", Severity::High),
        (pod(json!({"volumes": [{"hostPath": {"path": "/etcetera"}}]})), "Host path mounted", Severity::Low),
        (pod(json!({"hostNetwork": true})), "Host namespaces shared", Severity::Medium),
        (pod(json!({"hostPID": true})), "Host namespaces shared", Severity::High),
        (
            request(
                "create",
                "cronjobs",
                json!({"requestObject": {"spec": {"jobTemplate": {"spec": {"template": {"spec": {"hostPID": true}}}}}}}),
            ),
            "Host namespaces shared",
            Severity::High,
        ),
        (
            request("create", "pods", json!({"objectRef": {"namespace": "kube-system"}})),
            "Pod created in system namespace",
            Severity::Medium,
        ),
        (binding("cluster-admin", "jane"), "Cluster-admin bound", Severity::High),
        (binding("view", "system:anonymous"), "Role bound to anonymous", Severity::Critical),
        (role(json!(["*"]), json!(["pods"])), "Wildcard role", Severity::Medium),
        (role(json!(["*"]), json!(["*"])), "Wildcard role", Severity::High),
        (role(json!(["escalate"]), json!(["roles"])), "Role that escalates", Severity::High),
        (role(json!(["create"]), json!(["pods/exec"])), "Role that runs commands in pods", Severity::Medium),
        (
            request("create", "namespaces", json!({"user": {"username": "system:anonymous"}})),
            "Anonymous request allowed",
            Severity::Critical,
        ),
        (
            request("list", "pods", json!({"user": {"username": "system:anonymous"}, "responseStatus": {"code": 200}})),
            "Anonymous request allowed",
            Severity::High,
        ),
        (request("list", "secrets", json!({"objectRef": {"name": ""}})), "Secrets listed", Severity::Medium),
        (
            request("create", "configmaps", json!({"requestObject": {"data": {"a": "x\n Password = y"}}})),
            "Credentials in ConfigMap",
            Severity::Medium,
        ),
        (
            request("create", "serviceaccounts", json!({"objectRef": {"subresource": "token"}})),
            "Service account token requested",
            Severity::Medium,
        ),
        (
            request("get", "nodes", json!({"objectRef": {"subresource": "proxy"}})),
            "Kubelet reached through the API server",
            Severity::High,
        ),
        (
            request("delete", "validatingwebhookconfigurations", json!({})),
            "Admission webhook changed",
            Severity::Medium,
        ),
        (
            request("get", "pods", json!({"impersonatedUser": {"username": "root", "groups": ["system:masters"]}})),
            "Impersonation of cluster-admin",
            Severity::High,
        ),
        (
            request(
                "create",
                "pods",
                json!({"responseStatus": {"code": 403, "message": "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": y"}}),
            ),
            "PodSecurity baseline",
            Severity::Medium,
        ),
        (
            request(
                "create",
                "pods",
                json!({"annotations": {"pod-security.kubernetes.io/audit-violations": "would violate"}}),
            ),
            "PodSecurity audit",
            Severity::Low,
        ),
    ] {
        assert_eq!(rules_of(&body), [(rule.to_owned(), severity)], "{body}");
    }
}

#[test]
fn everyday_requests_are_no_findings() {
    for body in [
        request("get", "pods", json!({})),
        request("get", "secrets", json!({"responseStatus": {"code": 200}})),
        request("create", "pods", json!({"stage": "RequestReceived", "requestObject": {"spec": {"hostPID": true}}})),
        request(
            "create",
            "pods",
            json!({"responseStatus": {"code": 403, "message": "RBAC"}, "requestObject": {"spec": {"hostPID": true}}}),
        ),
        request(
            "create",
            "pods",
            json!({"user": {"username": "system:serviceaccount:kube-system:daemon-set-controller"}, "objectRef": {"namespace": "kube-system"},
            "requestObject": {"spec": {"hostNetwork": true}}}),
        ),
        request(
            "list",
            "secrets",
            json!({"user": {"username": "system:kube-controller-manager"}, "objectRef": {"name": ""}}),
        ),
        request(
            "get",
            "",
            json!({"user": {"username": "system:anonymous"}, "requestURI": "/healthz?verbose", "objectRef": null}),
        ),
        request("create", "configmaps", json!({"requestObject": {"data": {"a": "the password is elsewhere"}}})),
        request(
            "create",
            "serviceaccounts",
            json!({"objectRef": {"subresource": "token"}, "user": {"username": "system:node:n1"}}),
        ),
    ] {
        assert_eq!(rules_of(&body), [], "{body}");
    }
}

#[test]
fn it_is_about_the_object_of_the_answer_and_keeps_no_body() {
    let body = request(
        "create",
        "pods",
        json!({"objectRef": {"name": null}, "requestURI": "/api/v1/namespaces/shop/pods?container=app",
        "requestObject": {"kind": "Pod", "metadata": {"generateName": "web-"}, "spec": {"hostPID": true, "containers": [{"name": "app", "image": "nginx", "env": [{"value": "hunter2"}]}]}},
        "responseObject": {"kind": "Pod", "metadata": {"name": "web-1", "uid": "76e27404-d87c-11e8-88b6-080027728ac4"}}}),
    );
    let signal = read(body.to_string().as_bytes()).unwrap().remove(0);
    let About::Pod { namespace, name, uid, image: Some(image), .. } = &signal.about else {
        panic!("{:?}", signal.about)
    };
    assert_eq!((namespace.as_str(), name.as_str()), ("shop", "web-1"));
    assert!(uid.is_some() && image.reference == "docker.io/library/nginx:latest");
    assert!(!serde_json::to_string(&signal.details).unwrap().contains("hunter2"));
    assert!(signal.message.starts_with("jane: asked for hostPID"));
}

#[test]
fn items_of_a_list_need_not_say_what_they_are_and_one_request_counts_once() {
    let mut exec = request(
        "create",
        "pods",
        json!({"objectRef": {"subresource": "exec"}, "stage": "ResponseStarted", "responseStatus": {"code": 101}}),
    );
    exec.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
    let mut ended = exec.clone();
    ended["stage"] = json!("ResponseComplete");
    let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": [exec, ended]});
    assert_eq!(rules_of(&list).len(), 1);
}

#[test]
fn another_user_or_verb_is_another_problem() {
    let list = |user: &str| {
        read(
            request("list", "secrets", json!({"objectRef": {"name": ""}, "user": {"username": user}}))
                .to_string()
                .as_bytes(),
        )
        .unwrap()
        .remove(0)
        .identity
    };
    assert_ne!(list("jane"), list("joe"));
    assert_eq!(list("jane"), list("jane"));
}

#[test]
fn other_bodies_are_refused_with_their_place() {
    for (body, at) in [
        (json!({"a": 1}), "auditID"),
        (json!({"kind": "Event", "apiVersion": "v1", "reason": "x"}), "auditID"),
        (json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [{"auditID": "x"}]}), "items[0].verb"),
        (json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": 3}), "items"),
        (json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1"}), "auditID"),
    ] {
        assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
    }
}
