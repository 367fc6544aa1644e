//! Which Findings a playbook is for, and what is said where it isn't.

use std::collections::{BTreeMap, BTreeSet};

use quell_crds::v1alpha1::{
    Category, ClusterPlaybook, Finding, FindingSpec, FindingStatus, Playbook, Severity, Target,
};
use quell_playbooks::compile::Draft;
use quell_playbooks::select::{Difference, Verdict, judge};
use quell_playbooks::{Compiled, PodFacts, TargetState, World, compile};
use serde_json::{Value, json};

use crate::support::at;

fn cluster_playbook(spec: Value) -> Compiled {
    let mut spec = spec;
    spec["steps"] = json!([{"name": "a", "quarantine": {}}]);
    let written = json!({"apiVersion": "quell.dev/v1alpha1", "kind": "ClusterPlaybook", "metadata": {
        "name": "p", "creationTimestamp": at(0).to_rfc3339(), "generation": 1,
    }, "spec": spec});
    let playbook: ClusterPlaybook = serde_json::from_value(written).unwrap();
    compile(&Draft::of_cluster_playbook(&playbook, at(500)), &BTreeSet::new()).unwrap()
}

fn world() -> World {
    let mut finding = Finding::new(
        "falco-1",
        FindingSpec {
            source: "falco-prod".into(),
            tool: "falco".into(),
            rule: "Terminal shell in container".into(),
            category: Category::Runtime,
            severity: Severity::High,
            target: Target { kind: "Pod".into(), namespace: "shop".into(), name: "web-1".into(), ..Target::default() },
            ..FindingSpec::default()
        },
    );
    finding.metadata.namespace = Some("shop".into());
    finding.metadata.labels = Some(BTreeMap::from([("team".into(), "web".into())]));
    finding.metadata.creation_timestamp = Some(quell_crds::time::to_kubernetes(at(10)));
    let pod = PodFacts { labels: BTreeMap::from([("app".into(), "web".into())]), ..PodFacts::default() };
    World { finding, target: TargetState::Pod(pod), ..World::default() }
}

fn verdict(spec: Value) -> Verdict {
    let world = world();
    judge(&cluster_playbook(spec), &world, &world.scope())
}

fn difference(spec: Value) -> Difference {
    match verdict(spec) {
        Verdict::Differs(difference) => difference,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_playbook_that_asks_for_nothing_is_for_every_finding() {
    assert_eq!(verdict(json!({})), Verdict::Matches);
}

#[test]
fn a_source_is_named_by_its_own_name_or_by_its_tool() {
    assert_eq!(verdict(json!({"match": {"sources": ["falco-prod"]}})), Verdict::Matches);
    assert_eq!(verdict(json!({"match": {"sources": ["trivy", "falco"]}})), Verdict::Matches);
    let found = difference(json!({"match": {"sources": ["trivy", "grype"]}}));
    assert_eq!(found.to_string(), "its source is falco-prod, the playbook is for trivy, grype");
}

#[test]
fn a_category_must_be_one_of_those_named() {
    assert_eq!(verdict(json!({"match": {"categories": ["Audit", "Runtime"]}})), Verdict::Matches);
    let found = difference(json!({"match": {"categories": ["Vulnerability"]}}));
    assert_eq!(found.to_string(), "its category is Runtime, the playbook is for Vulnerability");
}

#[test]
fn a_severity_must_be_at_least_the_one_named() {
    for severity in ["Info", "High"] {
        assert_eq!(verdict(json!({"match": {"minSeverity": severity}})), Verdict::Matches);
    }
    let found = difference(json!({"match": {"minSeverity": "Critical"}}));
    assert_eq!(found.to_string(), "its severity is High, the playbook begins at Critical");
}

#[test]
fn labels_of_the_finding_and_of_its_target_are_compared() {
    let team = |name: &str| json!({"match": {"labels": {"matchLabels": {"team": name}}}});
    assert_eq!(verdict(team("web")), Verdict::Matches);
    assert_eq!(difference(team("db")), Difference::Labels);
    let app = |operator: &str, values: &[&str]| json!({"match": {"targetLabels": {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}}});
    assert_eq!(verdict(app("In", &["web", "api"])), Verdict::Matches);
    assert_eq!(difference(app("NotIn", &["web"])), Difference::TargetLabels);
    assert_eq!(difference(app("DoesNotExist", &[])), Difference::TargetLabels);
}

#[test]
fn a_target_that_is_gone_has_no_labels() {
    let world = World { target: TargetState::Gone, ..world() };
    let playbook = cluster_playbook(json!({"match": {"targetLabels": {"matchLabels": {"app": "web"}}}}));
    assert_eq!(judge(&playbook, &world, &world.scope()), Verdict::Differs(Difference::TargetLabels));
}

#[test]
fn a_cluster_playbook_is_for_the_namespaces_it_includes_but_never_those_it_excludes() {
    for (namespaces, matches) in [
        (json!({}), true),
        (json!({"include": ["shop", "bank"]}), true),
        (json!({"include": ["bank"]}), false),
        (json!({"exclude": ["bank"]}), true),
        (json!({"exclude": ["shop"]}), false),
        (json!({"include": ["shop"], "exclude": ["shop"]}), false),
    ] {
        let found = verdict(json!({"namespaces": namespaces}));
        let expected = Verdict::Differs(Difference::Namespace { found: "shop".into() });
        assert_eq!(found, if matches { Verdict::Matches } else { expected }, "{namespaces}");
    }
}

#[test]
fn a_playbook_is_for_its_own_namespace_alone() {
    for (namespace, matches) in [("shop", true), ("bank", false)] {
        let written = json!({"apiVersion": "quell.dev/v1alpha1", "kind": "Playbook",
            "metadata": {"name": "p", "namespace": namespace}, "spec": {"steps": [{"name": "a", "quarantine": {}}]}});
        let playbook: Playbook = serde_json::from_value(written).unwrap();
        let compiled = compile(&Draft::of_playbook(&playbook, at(0)), &BTreeSet::new()).unwrap();
        assert_eq!(compiled.reference.service_account_name, "default");
        let world = world();
        assert_eq!(judge(&compiled, &world, &world.scope()) == Verdict::Matches, matches, "{namespace}");
    }
}

#[test]
fn a_condition_that_is_false_is_told_with_its_text() {
    assert_eq!(verdict(json!({"match": {"when": "target.found && target.labels.app == 'web'"}})), Verdict::Matches);
    let found = difference(json!({"match": {"when": "finding.rule == 'x'"}}));
    assert_eq!(found.to_string(), "match.when is false: finding.rule == 'x'");
}

#[test]
fn a_condition_that_fails_is_neither_a_match_nor_a_difference() {
    let Verdict::Fails(error) = verdict(json!({"match": {"when": "finding.details.nothing == 'x'"}})) else { panic!() };
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn what_is_cheap_to_compare_is_compared_before_a_condition_that_fails() {
    let spec = json!({"match": {"minSeverity": "Critical", "when": "finding.details.nothing == 'x'"}});
    assert!(matches!(difference(spec), Difference::Severity { .. }));
}

#[test]
fn fields_that_nothing_is_known_of_are_empty_and_no_error() {
    let spec = json!({"match": {"when": "workload.kind == '' && target.node == '' && finding.vulnerabilityCounts.fixable == 0"}});
    assert_eq!(verdict(spec), Verdict::Matches);
}

#[test]
fn a_finding_last_reported_before_the_playbook_is_left_alone_until_it_is_reported_again() {
    let mut playbook = cluster_playbook(json!({}));
    playbook.effective_since = at(60);
    let mut world = world();
    world.finding.status = Some(FindingStatus { observed_generation: Some(1), ..FindingStatus::default() });
    let Verdict::Differs(found @ Difference::Earlier { .. }) = judge(&playbook, &world, &world.scope()) else {
        panic!()
    };
    assert!(found.to_string().contains("2023-11-14T22:13:30Z"), "{found}");
    let again = FindingStatus { observed_generation: Some(1), last_seen: Some(at(61)), ..FindingStatus::default() };
    world.finding.status = Some(again);
    assert_eq!(judge(&playbook, &world, &world.scope()), Verdict::Matches);
}

#[test]
fn a_finding_that_was_not_judged_before_its_playbook_was_changed_is_judged_by_what_the_playbook_is_now() {
    let mut playbook = cluster_playbook(json!({}));
    (playbook.created, playbook.effective_since) = (at(5), at(60));
    let mut world = world();
    assert_eq!(judge(&playbook, &world, &world.scope()), Verdict::Matches);
    // That it was counted meanwhile says nothing of playbooks.
    world.finding.status = Some(FindingStatus { count: 2, ..FindingStatus::default() });
    assert_eq!(judge(&playbook, &world, &world.scope()), Verdict::Matches);
    playbook.created = at(20);
    assert!(matches!(judge(&playbook, &world, &world.scope()), Verdict::Differs(Difference::Earlier { .. })));
}

#[test]
fn a_finding_of_the_same_second_as_the_playbook_is_not_missed() {
    let mut playbook = cluster_playbook(json!({}));
    playbook.effective_since = at(10) + chrono::TimeDelta::milliseconds(900);
    let world = world();
    assert_eq!(judge(&playbook, &world, &world.scope()), Verdict::Matches);
}
