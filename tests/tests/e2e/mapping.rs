//! Sources that say by expressions how any JSON becomes Findings.

use anyhow::Result;
use kube::api::{Api, DeleteParams, ListParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{Category, Severity, Source};
use quell_tests::operator::source_spec;
use quell_tests::wait;
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply};

fn sources(bed: &Bed) -> Api<Source> {
    Api::all(bed.namespace.client().clone())
}

/// Writes the Source of the bed's name, and waits until its status speaks of this very mapping.
async fn source(bed: &Bed, mapping: Value) -> Result<(String, String)> {
    let mut spec = json!({ "mapping": mapping });
    spec["webhook"] = source_spec("falco")["webhook"].clone();
    apply(&sources(bed), "Source", bed.name(), &spec).await?;
    let ready = |source: &Source| {
        let status = source.status.as_ref()?;
        (status.observed_generation == source.metadata.generation).then_some(())?;
        let ready = conditions::find(&status.conditions, ConditionType::Ready)?;
        Some((ready.status.clone(), ready.message.clone()))
    };
    let source =
        wait::until_present(&sources(bed), bed.name(), "judged", DEADLINE, |source| ready(source).is_some()).await?;
    Ok(ready(&source).unwrap_or_default())
}

fn mapping() -> Value {
    json!({
        "forEach": "body.alerts", "when": "item.state != 'muted'", "resolved": "item.state == 'closed'",
        "rule": "item.check", "severity": "item.level", "category": "'Misconfiguration'", "message": "item.?text",
        "target": { "namespace": "body.ns", "name": "item.pod", "container": "item.?container" }, "details": "item",
    })
}

#[tokio::test]
async fn a_body_of_no_known_tool_becomes_findings_by_the_mapping() -> Result<()> {
    let bed = Bed::new("mapping").await?;
    let pod = kube::ResourceExt::name_any(&bed.shop("registry.example/shop:1.0").await?);
    assert_eq!(source(&bed, mapping()).await?.0, "True");
    let body = json!({ "ns": bed.name(), "alerts": [
        { "check": "root-user", "level": "sev2", "state": "open", "pod": pod, "text": "runs as root" },
        { "check": "latest-tag", "level": "low", "state": "muted", "pod": pod },
    ]});
    let answer = bed.operator.post(bed.name(), &body).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let finding = bed.findings().get(&answer.finding()?.1).await?;
    let spec = &finding.spec;
    assert_eq!(
        (spec.rule.as_str(), spec.message.as_str(), spec.source.as_str()),
        ("root-user", "runs as root", bed.name())
    );
    assert_eq!((spec.severity, spec.category), (Severity::High, Category::Misconfiguration));
    assert_eq!((spec.target.name.as_str(), spec.target.uid.is_empty()), (pod.as_str(), false));
    assert_eq!(spec.workload.as_ref().map(|workload| workload.name.as_str()), Some("shop"));
    assert_eq!(spec.details["level"], "sev2");
    assert_eq!(bed.findings().list(&ListParams::default()).await?.items.len(), 1, "what is muted makes none");
    sources(&bed).delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_body_that_the_mapping_can_not_read_is_refused_with_its_item_and_field() -> Result<()> {
    let bed = Bed::new("unmapped").await?;
    source(&bed, mapping()).await?;
    let good = json!({ "check": "a", "level": "low", "state": "open", "pod": "web" });
    for (field, value, said) in [
        ("level", json!("spicy"), "item 1, severity: `spicy` is no severity"),
        ("state", Value::Null, "item 1, target.name: "),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        if said.contains("target") {
            bad["pod"] = json!({ "name": "web" });
        }
        let answer = bed.operator.post(bed.name(), &json!({ "ns": bed.name(), "alerts": [good, bad] })).await?;
        assert_eq!((answer.status, answer.body["reason"].as_str()), (400, Some("Unreadable")), "{}", answer.body);
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(&format!("spec.mapping of the Source can't read this: {said}")), "{message}");
    }
    assert!(bed.findings().list(&ListParams::default()).await?.items.is_empty(), "nothing of a refused body is stored");
    sources(&bed).delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn an_expression_that_does_not_compile_is_said_by_the_source_with_its_field() -> Result<()> {
    let bed = Bed::new("wrongmap").await?;
    let mut wrong = mapping();
    wrong["target"]["name"] = json!("itm.pod");
    let (status, message) = source(&bed, wrong).await?;
    assert_eq!(status, "False");
    assert!(
        message.contains("spec.mapping.target.name") && message.contains("there is body, headers, item"),
        "{message}"
    );
    let answer = bed.operator.post(bed.name(), &json!({ "ns": bed.name(), "alerts": [] })).await?;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(source(&bed, mapping()).await?.0, "True", "and is taken once it is right");
    sources(&bed).delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}
