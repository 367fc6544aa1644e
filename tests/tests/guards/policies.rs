//! The policies that a quarantine stands on.

use anyhow::Result;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use quell_crds::names;
use quell_tests::wait;
use serde_json::{Value, json};

use crate::bed::{Bed, refused};

const POLICIES: &str = "quarantine-policies";

const POLICY: &str = "quell-quarantine-full";

/// As a quarantine writes it.
fn deny() -> Result<NetworkPolicy> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": POLICY, "labels": { names::QUARANTINE_POLICY: "full" } },
        "spec": {
            "podSelector": { "matchLabels": { names::QUARANTINE: "full" } }, "policyTypes": ["Ingress", "Egress"],
        },
    }))?)
}

fn api(bed: &Bed, of: &Client) -> Api<NetworkPolicy> {
    Api::namespaced(of.clone(), bed.name())
}

#[tokio::test]
async fn nobody_but_quell_writes_the_policy_of_a_quarantine() -> Result<()> {
    let bed = Bed::new("policy").await?;
    let deny = deny()?;
    refused(
        api(&bed, &bed.stranger).create(&PostParams::default(), &deny).await,
        POLICIES,
        "nobody but Quell writes it",
    );
    api(&bed, &bed.quell).create(&PostParams::default(), &deny).await?;
    for change in [
        json!({ "spec": { "egress": [{}] } }),
        json!({ "metadata": { "labels": { names::QUARANTINE_POLICY: null } } }),
        json!({ "metadata": { "annotations": { "a": "b" } } }),
    ] {
        let change = Patch::Merge(change);
        let answer = api(&bed, &bed.stranger).patch(POLICY, &PatchParams::default(), &change).await;
        refused(answer, POLICIES, "kubectl quell undo");
    }
    refused(api(&bed, &bed.stranger).delete(POLICY, &DeleteParams::default()).await, POLICIES, "quell:break-glass");
    assert_eq!(api(&bed, &bed.stranger).get(POLICY).await?.spec, deny.spec);

    let by_quell = bed.service_account(bed.name(), true).await?;
    let more = Patch::Merge(json!({ "metadata": { "annotations": { "a": "b" } } }));
    api(&bed, &by_quell).patch(POLICY, &PatchParams::default(), &more).await?;
    api(&bed, &bed.break_glass).delete(POLICY, &DeleteParams::default()).await?;
    wait::gone(&api(&bed, &bed.stranger), POLICY, wait::DEADLINE).await
}

fn allow(name: &str, selector: &Value) -> Result<NetworkPolicy> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "podSelector": selector, "policyTypes": ["Egress"], "egress": [{}] },
    }))?)
}

#[tokio::test]
async fn nobody_writes_a_policy_for_pods_under_quarantine() -> Result<()> {
    let bed = Bed::new("allow").await?;
    let expression = |operator: &str, values: Value| json!({ "matchExpressions": [{ "key": names::QUARANTINE, "operator": operator, "values": values }] });
    for selector in [
        json!({ "matchLabels": { names::QUARANTINE: "full" } }),
        json!({ "matchLabels": { "app": "shop", names::REMEDIATION: "run-1" } }),
        expression("Exists", Value::Null),
        expression("In", json!(["full"])),
        expression("NotIn", json!(["other"])),
    ] {
        let answer = api(&bed, &bed.stranger).create(&PostParams::default(), &allow("allow", &selector)?).await;
        refused(answer, "policies-for-quarantined", "leave labels that start with quell.dev/ out of podSelector");
    }
    for (name, selector) in [("all", json!({})), ("free", expression("DoesNotExist", Value::Null))] {
        api(&bed, &bed.stranger).create(&PostParams::default(), &allow(name, &selector)?).await?;
    }
    let change = Patch::Merge(json!({ "spec": { "podSelector": { "matchLabels": { names::QUARANTINE: "full" } } } }));
    let answer = api(&bed, &bed.stranger).patch("all", &PatchParams::default(), &change).await;
    refused(answer, "policies-for-quarantined", "select by them with DoesNotExist");
    Ok(())
}
