use quell_crds::v1alpha1::SourceMapping;
use quell_playbooks::mapping::compile;
use serde_json::json;

use super::*;
use crate::place_without_cluster;

fn mapped(mapping: Value, body: &Value) -> Result<Vec<Signal>, Unreadable> {
    mapped_text(mapping, &body.to_string())
}

fn mapped_text(mapping: Value, body: &str) -> Result<Vec<Signal>, Unreadable> {
    let mapping: SourceMapping = serde_json::from_value(mapping).unwrap();
    let headers = [("X-Kind", "audit"), ("Authorization", "Bearer hush"), ("X-Api-Key", "hush")];
    map(&compile(&mapping).unwrap(), "acme", &headers, body.as_bytes())
}

/// One item, read as the rule `r` and these fields.
fn one(fields: Value, item: &Value) -> Result<Signal, Unreadable> {
    let mut mapping = json!({"rule": "'r'"});
    for (key, value) in fields.as_object().unwrap() {
        mapping[key] = value.clone();
    }
    mapped(mapping, item).map(|mut signals| signals.remove(0))
}

#[test]
fn a_body_is_the_one_item_where_there_is_no_list() {
    let signal = one(
        json!({"rule": "item.check", "message": "body.text", "tool": "'Acme Scanner'", "severity": "item.level", "category": "'policy'",
            "details": "{'n': item.n}", "detectedAt": "item.at", "fingerprint": ["item.n", "['a', 1]"]}),
        &json!({"check": "root", "text": "runs as root", "level": "HIGH", "n": 7, "at": 1_685_022_245}),
    )
    .unwrap();
    assert_eq!(
        (signal.rule.as_str(), signal.message.as_str(), signal.tool.as_str()),
        ("root", "runs as root", "acme-scanner")
    );
    assert_eq!((signal.severity, signal.category), (Severity::High, Category::Policy));
    assert_eq!(Value::Object(signal.details), json!({"n": 7}));
    assert_eq!(signal.identity, ["7", "a", "1"]);
    assert_eq!(signal.detected_at.unwrap().timestamp(), 1_685_022_245);
}

#[test]
fn each_of_a_list_is_an_item_and_those_that_are_not_wanted_are_passed_over() {
    let mapping = json!({"forEach": "body.alerts", "when": "item.open || item.closed", "resolved": "item.closed",
        "rule": "item.id", "message": "body.cluster + ': ' + item.id"});
    let body = json!({"cluster": "c1", "alerts": [
        {"id": "a", "open": true, "closed": false}, {"id": "b", "open": false, "closed": false}, {"id": "c", "open": false, "closed": true}]});
    let signals = mapped(mapping, &body).unwrap();
    let told: Vec<_> = signals.iter().map(|one| (one.message.as_str(), one.resolved)).collect();
    assert_eq!(told, [("c1: a", false), ("c1: c", true)]);
    assert_eq!((signals[0].tool.as_str(), signals[0].severity), ("acme", Severity::Medium));
}

#[test]
fn json_lines_are_bodies_each_and_a_list_may_be_the_body() {
    let lines = "{\"r\": \"a\"}\n{\"r\": \"b\"}\n";
    assert_eq!(mapped_text(json!({"rule": "item.r"}), lines).unwrap().len(), 2);
    let error = mapped_text(json!({"rule": "item.r"}), "{\"r\": \"a\"}\n{\"q\": 1}").unwrap_err();
    assert_eq!(error.to_string(), "value 2, rule: `r` is missing; where it may be, write `.?r`");
    assert_eq!(mapped(json!({"forEach": "body", "rule": "item"}), &json!(["a", "b"])).unwrap().len(), 2);
}

#[test]
fn an_expression_that_fails_is_said_with_its_item_and_field_and_never_counts_as_false() {
    let body = json!({"all": [{"id": "a", "on": true}, {"id": 3}]});
    for (fields, said) in [
        (json!({"when": "item.on"}), "item 1, when: `on` is missing; where it may be, write `.?on`"),
        (json!({"when": "item.id"}), "item 0, when: neither true nor false but a string"),
        (json!({"resolved": "item.?on"}), "item 0, resolved: neither true nor false but a opaque"),
        (json!({"severity": "item.?level"}), "item 0, severity: is empty; write a word"),
        (json!({"target": {"name": "item.id.first"}}), "item 0, target.name: No such overload"),
        (
            json!({"fingerprint": ["1", "item"]}),
            "item 0, fingerprint[1]: a text, a number or a list of them was expected",
        ),
        (json!({"details": "item.id"}), "item 0, details: a map was expected, this is a string"),
        (json!({"message": "item"}), "item 0, message: a text was expected, this is an object"),
        (json!({"forEach": "body.none"}), "forEach: `none` is missing"),
        (json!({"forEach": "'x'"}), "forEach: a list was expected, this is a string"),
        (json!({"rule": "''"}), "item 0, rule: is empty"),
        (json!({"category": "'Stuff'"}), "item 0, category: `Stuff` is no category; there are Runtime,"),
        (json!({"detectedAt": "'yesterday'"}), "item 0, detectedAt: `yesterday` is no time"),
    ] {
        let mut mapping = json!({"forEach": "body.all", "rule": "'r'"});
        mapping.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let error = mapped(mapping, &body).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn severities_are_words_of_any_tool_or_scores_and_nothing_else() {
    for (said, expected) in [
        (json!("CRITICAL"), Severity::Critical),
        (json!("sev1"), Severity::Critical),
        (json!(" warning "), Severity::Medium),
        (json!("P2"), Severity::High),
        (json!(9.1), Severity::Critical),
        (json!("7.5"), Severity::High),
        (json!(0), Severity::Info),
        (json!("none"), Severity::Info),
    ] {
        assert_eq!(one(json!({"severity": "item"}), &said).unwrap().severity, expected, "{said}");
    }
    for said in [json!("spicy"), json!(11), json!(-1), json!(""), json!(null), json!([]), json!("NaN")] {
        assert_eq!(one(json!({"severity": "item"}), &said).unwrap_err().at, "severity", "{said}");
    }
}

#[test]
fn what_is_known_says_what_it_is_about() {
    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let all = json!({"kind": "item.?kind", "apiVersion": "item.?apiVersion", "namespace": "item.?ns", "name": "item.?name",
        "uid": "item.?uid", "container": "item.?container", "containerId": "item.?id", "image": "item.?image", "digest": "item.?digest",
        "node": "item.?node", "address": "item.?ip"});
    let about = |item: Value| one(json!({"target": all}), &item);
    for (item, kind, name) in [
        (json!({"ns": "shop", "name": "web-1", "id": "containerd://0123456789abcdef"}), "Pod", "web-1"),
        (
            json!({"kind": "Deployment", "ns": "shop", "name": "web", "container": "app", "image": "nginx"}),
            "Deployment",
            "web",
        ),
        (json!({"kind": "Widget", "apiVersion": "acme.io/v1", "name": "w"}), "Widget", "w"),
        (json!({"id": "0123456789abcdef", "image": "nginx"}), "Container", "0123456789ab"),
        (json!({"image": "nginx"}), "Image", "docker.io/library/nginx:latest"),
        (json!({"digest": DIGEST}), "Image", DIGEST),
        (json!({"kind": "Image", "name": "nginx"}), "Image", "docker.io/library/nginx:latest"),
        (json!({"ip": "10.0.0.7", "node": "n1"}), "Address", "10.0.0.7"),
        (json!({"node": "n1"}), "Node", "n1"),
        (json!({"kind": "Node", "name": "n1"}), "Node", "n1"),
        (json!({"ns": "shop"}), "Namespace", "shop"),
        (json!({}), "Cluster", "cluster"),
    ] {
        let target = place_without_cluster(&about(item.clone()).unwrap()).target;
        assert_eq!((target.kind.as_str(), target.name.as_str()), (kind, name), "{item}");
    }
    for (item, at) in [
        (json!({"name": "web"}), "target.kind"),
        (json!({"kind": "Pod", "name": "web"}), "target.namespace"),
        (json!({"kind": "Deployment", "ns": "shop"}), "target.name"),
        (json!({"digest": "latest"}), "target.digest"),
    ] {
        assert_eq!(about(item.clone()).unwrap_err().at, at, "{item}");
    }
    let uid = "99658fa9-c658-4e12-a01c-826b5219dd04";
    let signal =
        about(json!({"ns": "shop", "name": "web-1", "uid": uid, "container": "app", "digest": DIGEST})).unwrap();
    let target = place_without_cluster(&signal).target;
    assert_eq!((target.uid.as_str(), target.container.as_str(), target.digest.as_str()), (uid, "app", DIGEST));
}

#[test]
fn vulnerabilities_say_how_bad_it_is_and_without_any_it_is_over() {
    let fields = json!({"target": {"image": "'nginx'"},
        "vulnerabilities": "item.cves.map(c, {'id': c.name, 'severity': c.level, 'fixedVersion': c.fix, 'score': c.score})"});
    let signal = one(
        fields.clone(),
        &json!({"cves": [{"name": "CVE-1", "level": "low", "fix": "", "score": "3.1"}, {"name": "CVE-2", "level": "critical", "fix": "2", "score": 9}]}),
    )
    .unwrap();
    assert_eq!(
        (signal.severity, signal.category, signal.resolved),
        (Severity::Critical, Category::Vulnerability, false)
    );
    assert_eq!((signal.vulnerabilities[0].id.as_str(), signal.vulnerabilities[1].score), ("CVE-2", Some(3.1)));
    assert!(signal.message.starts_with("2 vulnerabilities"), "{}", signal.message);
    assert!(one(fields.clone(), &json!({"cves": []})).unwrap().resolved);
    let error = one(json!({"vulnerabilities": "item"}), &json!([{"id": "a"}, {"name": "b"}])).unwrap_err();
    assert!(error.to_string().starts_with("vulnerabilities: [1].name: there is no such key"), "{error}");
}

#[test]
fn headers_are_read_in_lower_case_and_credentials_are_not_among_them() {
    let signal = one(json!({"message": "headers['x-kind']", "details": "headers"}), &json!({})).unwrap();
    assert_eq!((signal.message.as_str(), Value::Object(signal.details)), ("audit", json!({"x-kind": "audit"})));
}

#[test]
fn more_items_than_the_limit_and_more_work_than_the_limit_are_refused() {
    let items = |number: usize| json!({"all": vec![json!({"n": 1}); number]});
    let mapping = json!({"forEach": "body.all", "rule": "'r'"});
    assert_eq!(mapped(mapping.clone(), &items(MAX_SIGNALS)).unwrap().len(), MAX_SIGNALS);
    assert_eq!(mapped(mapping, &items(MAX_SIGNALS + 1)).unwrap_err().at, format!("item {MAX_SIGNALS}"));
    let square = json!({"forEach": "body.all", "rule": "string(body.all.filter(one, one.n == item.n).size())"});
    let error = mapped(square, &items(2000)).unwrap_err();
    assert!(error.problem.contains("more steps than are allowed"), "{error}");
}

#[test]
fn the_same_body_is_the_same_signals_whatever_the_order_of_a_map() {
    let body = json!({"m": (0..50).map(|i| (format!("key-{i}"), json!(i))).collect::<Map<_, _>>()});
    let read = || one(json!({"details": "item.m"}), &body).unwrap().details;
    assert_eq!(Value::Object(read()).to_string(), Value::Object(read()).to_string());
}

#[test]
fn a_body_that_is_no_json_is_refused_with_its_place() {
    let error = mapped_text(json!({"rule": "'r'"}), "{\"a\": }").unwrap_err();
    assert_eq!(error.to_string(), "line 1, column 7: not JSON: expected value");
    assert!(mapped_text(json!({"rule": "'r'"}), " ").is_err());
}
