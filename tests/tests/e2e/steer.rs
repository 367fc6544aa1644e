//! What people ask of runs, and what runs do to each other.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use quell_crds::v1alpha1::{Finding, FindingState, Phase, Remediation, StepRecord, StepState};
use quell_tests::wait;
use serde_json::json;

use crate::support::{Bed, DEADLINE, any_falco, is_quarantined, quarantine};

fn record(run: &Remediation, step: &str) -> StepRecord {
    let all = run.status.iter().flat_map(|status| &status.steps);
    all.into_iter().find(|record| record.name == step).cloned().unwrap_or_default()
}

async fn quarantined(bed: &Bed, pod: &Pod) -> Result<bool> {
    let pods: Api<Pod> = bed.namespace.api();
    Ok(pods.get_opt(&pod.name_any()).await?.is_some_and(|pod| is_quarantined(&pod)))
}

#[tokio::test]
async fn a_paused_run_begins_nothing_until_it_is_resumed() -> Result<()> {
    let bed = Bed::new("pause").await?;
    let steps = json!([{ "name": "think", "wait": { "for": "3s" } }, { "name": "contain", "quarantine": {} }]);
    bed.playbook(any_falco(), steps).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Running).await?.name_any();
    bed.ask(&run, json!({ "intent": "Pause" })).await?;
    let paused = bed.run_in(&finding, Phase::Paused).await?;
    assert_eq!(record(&paused, "contain").state, StepState::Pending);
    assert!(!quarantined(&bed, &pod).await?);
    bed.event(&finding, "Paused").await?;
    bed.ask(&run, json!({ "intent": "Run" })).await?;
    bed.run_in(&finding, Phase::Succeeded).await?;
    assert!(quarantined(&bed, &pod).await?);
    bed.finish().await
}

#[tokio::test]
async fn a_cancelled_run_begins_nothing_more_and_finally_is_done_all_the_same() -> Result<()> {
    let bed = Bed::new("cancel").await?;
    let steps = json!([
        { "name": "contain", "quarantine": {} }, { "name": "think", "wait": { "for": "1h" } },
        { "name": "deploy", "setImage": { "image": "registry.example/shop:2.0" } },
    ]);
    let last = json!([
        { "name": "last", "when": "remediation.outcome == 'Cancelled'", "wait": { "for": "1ms" } },
        { "name": "never", "when": "remediation.outcome != 'Cancelled'", "wait": { "for": "1h" } },
    ]);
    bed.playbook_with(bed.name(), any_falco(), steps, json!({ "finally": last })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Running).await?.name_any();
    bed.ask(&run, json!({ "intent": "Cancel" })).await?;
    let over = bed.run_in(&finding, Phase::Cancelled).await?;
    let states = ["contain", "think", "deploy", "last", "never"].map(|step| record(&over, step).state);
    let skipped = StepState::Skipped;
    assert_eq!(states, [StepState::Succeeded, StepState::Cancelled, skipped, StepState::Succeeded, skipped]);
    assert!(quarantined(&bed, &pod).await?, "what was done stays");
    bed.finding_in(&finding, FindingState::Cancelled).await?;
    bed.undo(&run).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    assert!(!quarantined(&bed, &pod).await?);
    bed.finish().await
}

#[tokio::test]
async fn one_step_is_undone_by_itself() -> Result<()> {
    let bed = Bed::new("undo-step").await?;
    let steps =
        json!([{ "name": "contain", "quarantine": {} }, { "name": "deny", "after": [], "denyImage": { "by": "Tag" } }]);
    bed.playbook(any_falco(), steps).await?;
    let pod = bed.shop(&format!("registry.example/{}:1.0", bed.name())).await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Succeeded).await?.name_any();
    bed.ask(&run, json!({ "undoSteps": ["contain"] })).await?;
    let runs: Api<Remediation> = bed.namespace.api();
    let undone = wait::until_present(&runs, &run, "contain undone", DEADLINE, |run| {
        record(run, "contain").state == StepState::Undone
    })
    .await?;
    assert_eq!(record(&undone, "deny").state, StepState::Succeeded);
    assert!(!quarantined(&bed, &pod).await?);
    bed.undo(&run).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_run_is_undone_by_itself_after_its_time() -> Result<()> {
    let bed = Bed::new("undo-after").await?;
    bed.playbook_with(bed.name(), any_falco(), quarantine(), json!({ "undo": { "after": "2s" } })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    bed.run_in(&finding, Phase::Undone).await?;
    assert!(!quarantined(&bed, &pod).await?);
    bed.finish().await
}

#[tokio::test]
async fn a_run_is_undone_when_its_finding_is_resolved() -> Result<()> {
    let bed = Bed::new("undo-resolved").await?;
    bed.playbook_with(bed.name(), any_falco(), quarantine(), json!({ "undo": { "onResolved": true } })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    bed.finding_in(&finding, FindingState::Remediated).await?;
    let findings: Api<Finding> = bed.namespace.api();
    let resolved = Patch::Merge(json!({ "status": { "state": "Resolved" } }));
    findings.patch_status(&finding, &PatchParams::default(), &resolved).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    assert!(!quarantined(&bed, &pod).await?);
    bed.finding_in(&finding, FindingState::Resolved).await?;
    bed.finish().await
}

#[tokio::test]
async fn of_two_runs_that_change_one_workload_the_second_waits_and_says_for_whom() -> Result<()> {
    let bed = Bed::new("turns").await?;
    let other = format!("{}-other", bed.name());
    // It never gets healthy: it holds the workload until its time is over, and puts back what was there.
    let broken = json!([{ "name": "first", "setImage": { "image": "registry.example/shop:broken" }, "timeout": "6s" }]);
    bed.playbook_with(bed.name(), any_falco(), broken, json!({ "priority": 5 })).await?;
    let later = json!([
        { "name": "think", "wait": { "for": "2s" } },
        { "name": "second", "setImage": { "image": "registry.example/shop:2.0" } },
    ]);
    bed.playbook_with(&other, any_falco(), later, json!({})).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let told = bed.event(&finding, "ObjectBusy").await?;
    assert!(told.contains("step first of remediation") && told.contains("Deployment"), "{told}");
    bed.finding_in(&finding, FindingState::Failed).await?;
    let runs: Api<Remediation> = bed.namespace.api();
    wait::eventually(DEADLINE, "both runs over", async || {
        let all = runs.list(&ListParams::default()).await?.items;
        let over = |run: &&Remediation| run.status.as_ref().is_some_and(|status| status.phase.is_final());
        Ok((all.iter().filter(over).count() == 2).then_some(()))
    })
    .await?;
    let deployments: Api<Deployment> = bed.namespace.api();
    let shop = deployments.get("shop").await?;
    let image = shop.spec.and_then(|spec| spec.template.spec).and_then(|spec| spec.containers[0].image.clone());
    assert_eq!(image.as_deref(), Some("registry.example/shop:2.0"));
    bed.playbooks().delete(&other, &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn of_the_playbooks_of_a_group_the_one_of_the_highest_priority_is_run() -> Result<()> {
    let bed = Bed::new("group").await?;
    let other = format!("{}-other", bed.name());
    let wait = json!([{ "name": "nothing", "wait": { "for": "1ms" } }]);
    bed.playbook_with(bed.name(), any_falco(), wait, json!({ "group": bed.name() })).await?;
    let settings = json!({ "group": bed.name(), "priority": 1 });
    bed.playbook_with(&other, any_falco(), quarantine(), settings).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Succeeded).await?;
    assert_eq!(run.spec.playbook.name, other);
    // Also when the preferred one is gone: the group has had its run.
    bed.playbooks().delete(&other, &DeleteParams::default()).await?;
    bed.alert(&pod.name_any()).await?;
    bed.finding_in(&finding, FindingState::Remediated).await?;
    bed.run_in(&finding, Phase::Succeeded).await?;
    bed.finish().await
}
