//! Accepted risk: what is suppressed of which Finding, and until when.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{
    ClusterSuppression, Finding, Severity, Suppression, Vulnerability, VulnerabilityCounts, Workload,
};
use quell_playbooks::suppress::{Compiled, Judgement, judge, without};
use quell_playbooks::{TargetState, World};
use serde_json::{Value, json};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn suppression(matcher: Value) -> Arc<Compiled> {
    let spec = json!({ "match": matcher, "reason": "known", "owner": "ana", "expiresAt": "2026-12-31T00:00:00Z" });
    let mut object = Suppression::new("known", serde_json::from_value(spec).unwrap());
    object.metadata.namespace = Some("shop".into());
    Arc::new(Compiled::of(&object).unwrap())
}

fn finding(vulnerabilities: &[(&str, &str, Severity)], counted: i32) -> Finding {
    let spec = json!({
        "source": "trivy-ci", "tool": "trivy", "rule": "registry.example/shop", "category": "Vulnerability", "severity": "Critical",
        "target": { "kind": "Pod", "namespace": "shop", "name": "web-1", "image": "registry.example/shop:1.4", "digest": "sha256:aa" },
    });
    let mut finding = Finding::new("trivy-1", serde_json::from_value(spec).unwrap());
    finding.metadata.namespace = Some("shop".into());
    let count = |n: usize| i32::try_from(n).unwrap();
    let of = |severity| count(vulnerabilities.iter().filter(|one| one.2 == severity).count());
    finding.spec.vulnerabilities = vulnerabilities
        .iter()
        .map(|(id, package, severity)| Vulnerability {
            id: (*id).into(),
            package: (*package).into(),
            severity: *severity,
            fixed_version: "2".into(),
            ..Vulnerability::default()
        })
        .collect();
    let named = count(vulnerabilities.len());
    finding.spec.vulnerability_counts = Some(VulnerabilityCounts {
        critical: of(Severity::Critical),
        high: of(Severity::High),
        low: of(Severity::Low) + counted - named,
        fixable: named,
        ..VulnerabilityCounts::default()
    });
    finding
}

fn judged(matcher: Value, finding: &Finding) -> Judgement {
    let workload = Workload {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: "shop".into(),
        name: "web".into(),
        uid: String::new(),
    };
    let world =
        World { finding: finding.clone(), target: TargetState::Gone, workload: Some(workload), ..World::default() };
    judge(&[suppression(matcher)], &world, &world.scope(), at("2026-11-01T00:00:00Z"))
}

const TWO: &[(&str, &str, Severity)] = &[("CVE-1", "openssl", Severity::Critical), ("CVE-2", "zlib", Severity::High)];

#[test]
fn all_that_a_match_gives_must_hold() {
    let of = |matcher| judged(matcher, &finding(TWO, 2)).whole.is_some();
    assert!(of(json!({ "sources": ["trivy"] })) && of(json!({ "sources": ["trivy-ci"] })));
    assert!(of(json!({ "rules": ["registry.example/shop"] })));
    assert!(of(json!({ "targets": [{ "kind": "Deployment", "name": "web" }] })));
    assert!(of(json!({ "targets": [{ "kind": "Pod", "namespace": "shop", "name": "web-1" }] })));
    assert!(of(json!({ "when": "finding.severity == 'Critical'" })));
    assert!(!of(json!({ "sources": ["falco"] })));
    assert!(!of(json!({ "sources": ["trivy"], "rules": ["other"] })));
    assert!(!of(json!({ "targets": [{ "kind": "Deployment", "namespace": "other", "name": "web" }] })));
}

#[test]
fn an_image_is_named_by_repository_tag_or_digest() {
    let of = |image: &str| judged(json!({ "images": [image] }), &finding(TWO, 2)).whole.is_some();
    for image in ["registry.example/shop", "registry.example/shop:1.4", "sha256:aa", "registry.example/shop@sha256:aa"]
    {
        assert!(of(image), "{image}");
    }
    for image in
        ["registry.example/sho", "registry.example/shop:1.5", "sha256:bb", "registry.example/other@sha256:aa", "shop"]
    {
        assert!(!of(image), "{image}");
    }
}

#[test]
fn one_of_another_namespace_or_whose_time_is_over_or_whose_expression_fails_suppresses_nothing() {
    let mut elsewhere = finding(TWO, 2);
    elsewhere.metadata.namespace = Some("bank".into());
    assert!(judged(json!({ "sources": ["trivy"] }), &elsewhere).is_nothing());

    let world = World { finding: finding(TWO, 2), ..World::default() };
    let all = [suppression(json!({ "sources": ["trivy"] }))];
    let judged_at = |now: &str| judge(&all, &world, &world.scope(), at(now)).whole.is_some();
    assert!(judged_at("2026-12-30T23:59:59Z"));
    assert!(!judged_at("2026-12-31T00:00:00Z"));

    let failed = judged(json!({ "when": "finding.details.nobody == 'x'" }), &finding(TWO, 2));
    assert!(failed.whole.is_none() && failed.failed.len() == 1, "{failed:?}");
}

#[test]
fn a_cluster_suppression_holds_in_every_namespace() {
    let spec = json!({ "match": { "sources": ["trivy"] }, "reason": "known", "owner": "ana", "vex": { "status": "Fixed", "document": "d" } });
    let one =
        Arc::new(Compiled::of_cluster(&ClusterSuppression::new("all", serde_json::from_value(spec).unwrap())).unwrap());
    let world = World { finding: finding(TWO, 2), ..World::default() };
    let judgement = judge(&[one], &world, &world.scope(), at("2099-01-01T00:00:00Z"));
    assert!(judgement.whole.is_some(), "what a VEX document states has no end of its own");
}

#[test]
fn only_the_vulnerabilities_that_are_named_are_taken_out_and_counts_and_severity_follow() {
    let all = finding(TWO, 2);
    let judgement = judged(json!({ "vulnerabilities": ["cve-1"], "images": ["registry.example/shop"] }), &all);
    assert!(judgement.whole.is_none());
    let left = without(&all, &judgement).spec;
    assert_eq!(left.vulnerabilities.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["CVE-2"]);
    let counts = left.vulnerability_counts.unwrap();
    assert_eq!((counts.critical, counts.high, counts.fixable), (0, 1, 1));
    assert_eq!(left.severity, Severity::High, "the worst that is left");
    let none = judged(json!({ "vulnerabilities": ["CVE-1"], "packages": ["zlib"] }), &all);
    assert!(none.is_nothing(), "another package's");
}

#[test]
fn a_finding_is_suppressed_as_a_whole_when_none_of_its_vulnerabilities_is_left() {
    let both = json!({ "vulnerabilities": ["CVE-1", "CVE-2"] });
    assert!(judged(both.clone(), &finding(TWO, 2)).whole.is_some());
    let counted = finding(TWO, 60);
    let judgement = judged(both, &counted);
    assert!(judgement.whole.is_none(), "58 more are counted, and nobody has accepted them");
    let left = without(&counted, &judgement).spec;
    assert_eq!((left.severity, left.vulnerability_counts.unwrap().low), (Severity::Low, 58));
}

#[test]
fn a_mistake_is_named_by_its_place() {
    let spec = json!({ "match": { "when": "nobody.knows" }, "reason": "r", "owner": "o" });
    let problem = Compiled::of(&Suppression::new("bad", serde_json::from_value(spec).unwrap())).unwrap_err();
    assert!(problem.to_string().starts_with("spec.match.when: `nobody.knows`"), "{problem}");
}
