use quell_crds::v1alpha1::{Format, Severity};
use serde_json::json;

use super::*;
use crate::read;

fn alert(fields: &serde_json::Value) -> Signal {
    let body = json!({
        "rule": "Shell", "priority": "Critical", "output": "text", "hostname": "node-1", "source": "syscall",
        "output_fields": fields,
    });
    read(Format::Falco, body.to_string().as_bytes()).unwrap().remove(0)
}

fn made(signal: &Signal) -> Finding {
    finding("runtime", signal, &place_without_cluster(signal), "quell")
}

fn pod(extra: &serde_json::Value) -> Signal {
    let mut fields = json!({"k8s.ns.name": "shop", "k8s.pod.name": "web-1", "container.name": "web"});
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    alert(&fields)
}

fn scanned(digest: &str) -> Signal {
    let image =
        ImageRef { reference: "docker.io/library/web:1".to_owned(), digest: Some(digest.to_owned()), image_id: None };
    Signal {
        tool: "trivy".to_owned(),
        category: Category::Vulnerability,
        identity: vec![digest.to_owned()],
        about: About::Image { image },
        ..pod(&json!({}))
    }
}

fn owned_by(signal: &Signal, uid: &str) -> Place {
    let workload = Workload {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        uid: uid.to_owned(),
    };
    Place { workload: Some(workload), ..place_without_cluster(signal) }
}

#[test]
fn the_same_problem_again_is_the_same_finding_whatever_process_time_or_container_it_was() {
    let first =
        pod(&json!({"proc.pid": 1, "proc.cmdline": "sh", "evt.time": 1_685_022_245, "container.id": "aaaaaaaaaaaa"}));
    let mut again = pod(
        &json!({"proc.pid": 2, "proc.cmdline": "sh -c x", "evt.time": 1_685_099_999, "container.id": "bbbbbbbbbbbb"}),
    );
    again.message = "another text".to_owned();
    again.severity = Severity::Low;
    assert_eq!(made(&first).metadata.name, made(&again).metadata.name);
}

#[test]
fn another_source_rule_pod_uid_or_container_is_another_finding() {
    let uid = |last: char| json!({ "k8s.pod.uid": format!("6f2a9c1e-8a55-4a0b-9d3e-0c1f2b3a4d5{last}") });
    let one = pod(&uid('0'));
    let other_rule = Signal { rule: "Other".to_owned(), ..one.clone() };
    let mut names = vec![
        made(&one).metadata.name,
        made(&pod(&uid('1'))).metadata.name,
        made(&other_rule).metadata.name,
        made(&pod(&json!({"container.name": "sidecar", "k8s.pod.uid": "6f2a9c1e-8a55-4a0b-9d3e-0c1f2b3a4d50"})))
            .metadata
            .name,
        finding("other", &one, &place_without_cluster(&one), "quell").metadata.name,
    ];
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
}

#[test]
fn a_uid_from_the_cluster_and_one_from_the_tool_make_the_same_finding() {
    let uid = "6f2a9c1e-8a55-4a0b-9d3e-0c1f2b3a4d5e";
    let from_tool = made(&pod(&json!({ "k8s.pod.uid": uid })));
    let signal = pod(&json!({}));
    let mut place = owned_by(&signal, "deployment");
    place.target.uid = uid.to_owned();
    place.target.node = "node-1".to_owned();
    place.target.image = "web:1".to_owned();
    assert_eq!(finding("runtime", &signal, &place, "quell").spec.fingerprint, from_tool.spec.fingerprint);
}

#[test]
fn an_image_is_one_finding_for_each_workload_and_digest_wherever_its_pods_are() {
    let name = |signal: &Signal, place: &Place| finding("scan", signal, place, "quell").metadata.name;
    let signal = scanned("sha256:aa");
    let place = owned_by(&signal, "1");
    let mut on_other_target = place.clone();
    on_other_target.target.name = "web-6d4cf56db6".to_owned();
    assert_eq!(name(&signal, &place), name(&signal, &on_other_target));
    assert_ne!(name(&signal, &place), name(&signal, &owned_by(&signal, "2")));
    assert_ne!(name(&signal, &place), name(&scanned("sha256:bb"), &place));
    assert_ne!(name(&signal, &place), name(&signal, &place_without_cluster(&signal)));
}

#[test]
fn a_container_is_the_same_finding_by_its_short_and_its_full_id() {
    let full = "0123456789ab".to_owned() + &"c".repeat(52);
    let short = made(&alert(&json!({"container.id": "0123456789ab"})));
    assert_eq!(short.metadata.name, made(&alert(&json!({"container.id": full}))).metadata.name);
    assert_eq!((short.spec.target.kind.as_str(), short.spec.target.name.as_str()), ("Container", "0123456789ab"));
    assert_eq!(short.spec.target.node, "node-1");
}

#[test]
fn a_finding_is_in_its_targets_namespace_or_in_the_fallback() {
    let namespace = |finding: Finding| finding.metadata.namespace.unwrap();
    assert_eq!(namespace(made(&pod(&json!({})))), "shop");
    assert_eq!(namespace(made(&alert(&json!({})))), "quell");
    let signal = pod(&json!({}));
    for wrong in ["Shop", "a b", "-a", &"x".repeat(64)] {
        let mut place = place_without_cluster(&signal);
        wrong.clone_into(&mut place.target.namespace);
        assert_eq!(namespace(finding("runtime", &signal, &place, "quell")), "quell", "{wrong}");
    }
}

#[test]
fn a_node_has_no_namespace_and_is_its_own_node() {
    let target = made(&alert(&json!({}))).spec.target;
    assert_eq!((target.kind.as_str(), target.api_version.as_str(), target.name.as_str()), ("Node", "v1", "node-1"));
    assert_eq!((target.namespace.as_str(), target.node.as_str()), ("", "node-1"));
}

#[test]
fn the_tool_is_left_out_where_the_source_has_its_name() {
    let signal = pod(&json!({}));
    assert_eq!(made(&signal).spec.tool, "falco");
    assert_eq!(finding("falco", &signal, &place_without_cluster(&signal), "quell").spec.tool, "");
}

#[test]
fn every_text_is_within_the_bounds_of_the_schema() {
    let long = "ü".repeat(5000);
    let mut signal = scanned(&long);
    signal.tool.clone_from(&long);
    signal.rule.clone_from(&long);
    signal.message.clone_from(&long);
    let one = Vulnerability {
        id: long.clone(),
        package: long.clone(),
        installed_version: long.clone(),
        fixed_version: long.clone(),
        title: long.clone(),
        score: Some(11.0),
        ..Vulnerability::default()
    };
    signal.vulnerabilities = vec![one; 60];
    let mut place = owned_by(&signal, &long);
    let target = &mut place.target;
    for text in [
        &mut target.kind,
        &mut target.api_version,
        &mut target.namespace,
        &mut target.name,
        &mut target.uid,
        &mut target.container,
        &mut target.image,
        &mut target.digest,
        &mut target.node,
    ] {
        text.clone_from(&long);
    }
    let finding = finding(&long, &signal, &place, "quell");
    within(&serde_json::to_value(&finding.spec).unwrap(), &schema_of_spec(), "spec");
    assert!(finding.metadata.name.unwrap().len() <= 63);
}

#[test]
fn nothing_known_is_still_a_finding_that_the_schema_takes() {
    let mut signal = scanned("");
    signal.rule.clear();
    let finding = finding("", &signal, &Place::default(), "quell");
    within(&serde_json::to_value(&finding.spec).unwrap(), &schema_of_spec(), "spec");
}

fn schema_of_spec() -> serde_json::Value {
    let crds = serde_json::to_value(quell_crds::all()).unwrap();
    let finding = crds.as_array().unwrap().iter().find(|crd| crd["spec"]["names"]["kind"] == "Finding").unwrap();
    finding["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Checks the lengths, as the API server does: it counts characters.
fn within(value: &serde_json::Value, schema: &serde_json::Value, path: &str) {
    let limit = |name: &str| schema[name].as_u64().map(|limit| usize::try_from(limit).unwrap());
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                within(value, &schema["properties"][name], &format!("{path}.{name}"));
            }
        }
        serde_json::Value::Array(items) => {
            assert!(limit("maxItems").is_none_or(|most| items.len() <= most), "{path}");
            for item in items {
                within(item, &schema["items"], path);
            }
        }
        serde_json::Value::String(text) => {
            let length = text.chars().count();
            assert!(limit("maxLength").is_none_or(|most| length <= most), "{path} has {length}");
            assert!(limit("minLength").is_none_or(|least| length >= least), "{path} has {length}");
        }
        _ => {}
    }
}

fn placed(place: &Place, signal: &Signal) -> Finding {
    finding("runtime", signal, place, "quell")
}

#[test]
fn a_problem_is_the_same_at_the_place_where_it_was_found_though_the_pod_is_gone() {
    let signal = pod(&json!({}));
    let mut place = owned_by(&signal, "u-deployment");
    "u-pod".clone_into(&mut place.target.uid);
    let there = placed(&place, &signal);
    assert_ne!(made(&signal).spec.fingerprint, there.spec.fingerprint, "placed now it would be another one");
    assert!(is_same_problem("runtime", &signal, &there));
    assert!(!is_same_problem("another", &signal, &there), "another Source says nothing of it");
    let other_pod = Signal { about: pod(&json!({"k8s.pod.name": "web-2"})).about, ..signal.clone() };
    assert!(!is_same_problem("runtime", &other_pod, &there));
    let other_uid =
        Signal { about: pod(&json!({"k8s.pod.uid": "33333333-2222-3333-4444-555555555555"})).about, ..signal.clone() };
    assert!(!is_same_problem("runtime", &other_uid, &there));
    let other_rule = Signal { rule: "Miner".to_owned(), ..signal };
    assert!(!is_same_problem("runtime", &other_rule, &there));
}

#[test]
fn a_problem_of_an_image_is_the_same_on_every_workload_that_had_the_image() {
    let signal = scanned("sha256:a");
    for uid in ["u-1", "u-2"] {
        let there = placed(&owned_by(&signal, uid), &signal);
        assert!(is_same_problem("runtime", &signal, &there), "{uid}");
        assert!(!is_same_problem("runtime", &scanned("sha256:b"), &there), "{uid}");
    }
}

#[test]
fn a_further_report_is_news_where_it_is_worse_or_better_or_lists_other_vulnerabilities() {
    let known = made(&pod(&json!({"proc.pid": 1}))).spec;
    let other_words = FindingSpec { message: "other".to_owned(), details: serde_json::Map::new(), ..known.clone() };
    assert_eq!(news(&known, &other_words), News::Nothing);
    let better = FindingSpec { severity: Severity::Low, ..known.clone() };
    assert_eq!((news(&known, &better), news(&better, &known)), (News::Other, News::Worse));
    let one = Vulnerability { id: "CVE-1".to_owned(), ..Vulnerability::default() };
    let more = FindingSpec { vulnerabilities: vec![one], ..known.clone() };
    assert_eq!((news(&known, &more), news(&more, &more)), (News::Other, News::Nothing));
}
