//! What playbooks do, and undo.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use quell_actions::quarantine::Profile;
use quell_crds::names;
use quell_crds::v1alpha1::step::Quarantine;
use quell_crds::v1alpha1::{FindingState, Phase, StepState};
use quell_tests::fixtures::{Described as _, service};
use quell_tests::wait;
use serde_json::json;

use crate::support::{Bed, DEADLINE, any_falco, is_quarantined, quarantine};

#[tokio::test]
async fn a_quarantined_pod_is_behind_the_policy_and_a_clean_replica_takes_its_place() -> Result<()> {
    let bed = Bed::new("contain").await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.finding_in(&finding.name_any(), FindingState::Remediated).await?;

    let pods: Api<Pod> = bed.namespace.api();
    let cut_off = pods.get(&pod.name_any()).await?;
    assert_eq!(cut_off.metadata.uid, pod.metadata.uid);
    assert_eq!(cut_off.labels().get(names::QUARANTINE).map(String::as_str), Some("full"));
    assert!(!cut_off.labels().contains_key("app"), "its own labels are gone: {:?}", cut_off.labels());
    assert!(cut_off.annotations()[names::BEFORE].contains("\"app\":\"shop\""), "and kept on it");
    let policies: Api<NetworkPolicy> = bed.namespace.api();
    let profile = Profile::of(&Quarantine::default());
    assert!(profile.is_said_by(&policies.get(&profile.policy_name()).await?));
    wait::eventually(DEADLINE, "a clean replica", async || {
        let all = pods.list(&ListParams::default().labels("app=shop")).await?;
        let ready = all.items.iter().filter(|pod| wait::is_ready(pod) && !is_quarantined(pod)).count();
        Ok((ready == 2).then_some(()))
    })
    .await?;
    bed.finish().await
}

#[tokio::test]
async fn undo_gives_the_pod_its_labels_back() -> Result<()> {
    let bed = Bed::new("undo").await?;
    bed.namespace.create_object(&service("shop").label("app", "shop")).await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    bed.undo(&run.name_any()).await?;
    let undone = bed.run_in(&finding.name_any(), Phase::Undone).await?;
    assert_eq!(undone.status.expect("status").steps[0].state, StepState::Undone);
    bed.finding_in(&finding.name_any(), FindingState::Undone).await?;
    // The ReplicaSet has adopted it again, and may have chosen it as the one too many.
    let pods: Api<Pod> = bed.namespace.api();
    if let Some(back) = pods.get_opt(&pod.name_any()).await? {
        assert_eq!(back.labels().get("app"), pod.labels().get("app"));
        assert!(!is_quarantined(&back));
        assert!(!back.annotations().contains_key(names::BEFORE));
    }
    bed.finish().await
}

#[tokio::test]
async fn a_step_reads_the_outputs_of_an_earlier_one() -> Result<()> {
    let bed = Bed::new("outputs").await?;
    let build = json!({ "spec": { "template": {
        "metadata": { "annotations": { "quell.dev/test-result": "{\"image\": \"registry.example/shop:1.1\", \"digest\": \"sha256:00\"}" } },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "build", "image": "registry.example/builder:1" }] },
    }}});
    bed.playbook(
        any_falco(),
        json!([
            { "name": "build", "rebuild": { "job": build } },
            { "name": "deploy", "setImage": { "image": "${steps.build.outputs.image}" } },
        ]),
    )
    .await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    let deployments: Api<Deployment> = bed.namespace.api();
    let shop = deployments.get("shop").await?;
    let image = shop.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers[0].image.clone());
    assert_eq!(image.flatten().as_deref(), Some("registry.example/shop:1.1"));
    bed.finish().await
}

#[tokio::test]
async fn a_rollback_waits_for_the_real_controller_and_goes_past_affected_revisions() -> Result<()> {
    let bed = Bed::new("rollback").await?;
    // Findings of every namespace count, so the images must be of this test alone.
    let image = |version: &str| format!("registry.example/{}:{version}", bed.name());
    bed.shop(&image("1.0")).await?;
    let deployments: Api<Deployment> = bed.namespace.api();
    for version in ["1.1", "1.2"] {
        let image = image(version);
        let patch =
            json!({ "spec": { "template": { "spec": { "containers": [{ "name": "app", "image": image }] } } } });
        deployments.patch("shop", &PatchParams::default(), &Patch::Strategic(patch)).await?;
        wait::rolled_out(&deployments, "shop", DEADLINE).await?;
        if version == "1.1" {
            // A Finding that no playbook is for yet names the image of this revision.
            let pod = newest(&bed, &image).await?;
            let old = bed.alert(&pod).await?;
            bed.finding_in(&old.name_any(), FindingState::Open).await?;
        }
    }
    bed.playbook(
        json!({ "sources": ["falco"], "when": "finding.target.image.endsWith(':1.2')" }),
        json!([{ "name": "back", "rollback": { "to": "LastUnaffected" } }]),
    )
    .await?;
    let pod = newest(&bed, &image("1.2")).await?;
    let finding = bed.alert(&pod).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    let shop = deployments.get("shop").await?;
    let runs = shop.spec.and_then(|spec| spec.template.spec).and_then(|spec| spec.containers[0].image.clone());
    assert_eq!(runs, Some(image("1.0")), "{:#?}", run.status);
    bed.finish().await
}

async fn newest(bed: &Bed, image: &str) -> Result<String> {
    let pods: Api<Pod> = bed.namespace.api();
    wait::eventually(DEADLINE, "a pod of the new image", async || {
        let all = pods.list(&ListParams::default().labels("app=shop")).await?;
        let of = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some(image));
        Ok(all.items.iter().filter(of).find(|pod| wait::is_ready(pod)).map(ResourceExt::name_any))
    })
    .await
}

#[tokio::test]
async fn a_rollout_that_does_not_get_healthy_is_put_back_and_the_step_fails() -> Result<()> {
    let bed = Bed::new("putback").await?;
    bed.playbook(
        any_falco(),
        json!([{ "name": "deploy", "setImage": { "image": "registry.example/shop:broken" }, "timeout": "5s" }]),
    )
    .await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Failed).await?;
    let record = &run.status.expect("status").steps[0];
    assert_eq!(record.state, StepState::Failed);
    assert!(matches!(record.reason.as_str(), "TimedOut" | "RolloutUnhealthy"), "{record:#?}");
    let deployments: Api<Deployment> = bed.namespace.api();
    let shop = deployments.get("shop").await?;
    let image = shop.spec.and_then(|spec| spec.template.spec).and_then(|spec| spec.containers[0].image.clone());
    assert_eq!(image.as_deref(), Some("registry.example/shop:1.0"), "{}", record.message);
    bed.finish().await
}

#[tokio::test]
async fn a_run_keeps_the_playbook_as_it_was_when_it_began() -> Result<()> {
    let bed = Bed::new("frozen").await?;
    bed.playbook(
        any_falco(),
        json!([{ "name": "pause", "wait": { "for": "3s" } }, { "name": "contain", "quarantine": {} }]),
    )
    .await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.run_in(&finding.name_any(), Phase::Running).await?;
    bed.playbook(any_falco(), json!([{ "name": "nothing", "wait": { "for": "1s" } }])).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    assert_eq!(run.spec.steps.len(), 2);
    let pods: Api<Pod> = bed.namespace.api();
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.finish().await
}

#[tokio::test]
async fn a_finding_that_was_deleted_and_is_reported_again_has_a_run_of_its_own() -> Result<()> {
    let bed = Bed::new("anew").await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let first = bed.alert(&pod.name_any()).await?;
    bed.run_in(&first.name_any(), Phase::Succeeded).await?;
    bed.findings().delete(&first.name_any(), &kube::api::DeleteParams::default()).await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?), "deleting a Finding lifts nothing");
    // A repeat that comes before the operator has seen the deletion is counted on the Finding that is gone.
    let second = wait::eventually(DEADLINE, "a new Finding", async || {
        bed.operator.post("falco", &crate::support::falco(bed.name(), &pod.name_any(), &json!({}))).await?;
        Ok(bed.findings().get_opt(&first.name_any()).await?)
    })
    .await?;
    assert_ne!(second.metadata.uid, first.metadata.uid);
    let second = bed.finding_in(&second.name_any(), FindingState::Remediated).await?;
    let runs: Api<quell_crds::v1alpha1::Remediation> = bed.namespace.api();
    let runs = runs.list(&ListParams::default()).await?.items;
    let told: Vec<_> = runs.iter().map(|run| (run.name_any(), &run.spec.finding)).collect();
    assert_eq!(runs.len(), 2, "{told:?} of {:?} {:#?}", second.metadata.uid, second.status);
    bed.finish().await
}
