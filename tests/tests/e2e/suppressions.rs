//! Accepted risk, from its beginning to its end.

use anyhow::Result;
use chrono::{TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{FindingState, Phase, Remediation, Suppression};
use quell_tests::wait;
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, any_falco, apply, condition, is_quarantined, quarantine};

async fn suppress(bed: &Bed, spec: &Value) -> Result<Api<Suppression>> {
    let api: Api<Suppression> = bed.namespace.api();
    apply(&api, "Suppression", "known", spec).await?;
    let ready = |one: &Suppression| {
        one.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, ConditionType::Ready))
    };
    wait::until_present(&api, "known", "Ready", DEADLINE, ready).await?;
    Ok(api)
}

#[tokio::test]
async fn an_accepted_risk_starts_no_run_until_it_expires() -> Result<()> {
    let bed = Bed::new("accepted").await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let spec = |end: chrono::DateTime<Utc>| {
        json!({
            "match": { "rules": ["Terminal shell in container"], "targets": [{ "kind": "Deployment", "name": "shop" }] },
            "reason": "the shop's debug shell", "owner": "ana", "expiresAt": end,
        })
    };
    let api = suppress(&bed, &spec(Utc::now() + TimeDelta::hours(1))).await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let suppressed = bed.finding_in(&finding.name_any(), FindingState::Suppressed).await?;
    let (status, reason, message) = condition(&suppressed, ConditionType::Suppressed).expect("condition");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "AcceptedRisk"));
    assert!(message.contains("ana") && message.contains("the shop's debug shell"), "{message}");
    let shown = suppressed.status.and_then(|status| status.suppressed).expect("columns");
    assert_eq!((shown.by.as_str(), shown.owner.as_str(), shown.whole), ("Suppression/known", "ana", true));
    let runs: Api<Remediation> = bed.namespace.api();
    assert_eq!(runs.list(&ListParams::default()).await?.items.len(), 0);
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!is_quarantined(&pods.get(&pod.name_any()).await?));

    // Nothing but the clock brings it back.
    apply(&api, "Suppression", "known", &spec(Utc::now() + TimeDelta::seconds(3))).await?;
    bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    let back = bed.finding_in(&finding.name_any(), FindingState::Remediated).await?;
    assert!(condition(&back, ConditionType::Suppressed).is_none());
    let over = |one: &Suppression| {
        let ready = one.status.as_ref().and_then(|status| conditions::find(&status.conditions, ConditionType::Ready));
        ready.is_some_and(|ready| ready.reason == "Expired")
    };
    wait::until_present(&api, "known", "expired", DEADLINE, over).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_run_that_is_under_way_goes_on_when_the_risk_is_accepted() -> Result<()> {
    let bed = Bed::new("underway").await?;
    let steps = json!([{ "name": "pause", "wait": { "for": "4s" } }, { "name": "contain", "quarantine": {} }]);
    bed.playbook(any_falco(), steps).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.run_in(&finding.name_any(), Phase::Running).await?;
    let end = Utc::now() + TimeDelta::hours(1);
    suppress(&bed, &json!({ "match": { "sources": ["falco"] }, "reason": "late", "owner": "ana", "expiresAt": end }))
        .await?;
    bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.finish().await
}

#[tokio::test]
async fn a_suppression_that_cannot_be_used_suppresses_nothing() -> Result<()> {
    let bed = Bed::new("unusable").await?;
    let api: Api<Suppression> = bed.namespace.api();
    let end = Utc::now() + TimeDelta::hours(1);
    let spec = json!({ "match": { "when": "nobody.knows" }, "reason": "r", "owner": "o", "expiresAt": end });
    apply(&api, "Suppression", "bad", &spec).await?;
    let told = |one: &Suppression| {
        let ready = one.status.as_ref().and_then(|status| conditions::find(&status.conditions, ConditionType::Ready));
        ready.is_some_and(|ready| ready.status == "False" && ready.message.contains("spec.match.when"))
    };
    wait::until_present(&api, "bad", "not Ready", DEADLINE, told).await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    bed.finish().await
}
