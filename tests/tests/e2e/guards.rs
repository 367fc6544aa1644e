//! What the API server keeps for Quell, with the guards of the chart in force.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use quell_crds::names;
use quell_crds::v1alpha1::{ImageBlock, Phase};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::{ControlPlane, guards, wait};
use serde_json::json;

use crate::support::{Bed, DEADLINE, any_falco, is_quarantined, quarantine};

async fn starts(bed: &Bed, image: &str) -> Result<Pod, kube::Error> {
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    bed.namespace.api::<Pod>().create(&parameters, &pod("asks").image(image)).await
}

async fn block_of(bed: &Bed, run: &str) -> Result<Option<ImageBlock>> {
    let blocks: Api<ImageBlock> = Api::all(bed.namespace.client().clone());
    let of_run = ListParams::default().labels(&format!("{}={run}", names::REMEDIATION));
    Ok(blocks.list(&of_run).await?.items.into_iter().next())
}

#[tokio::test]
async fn an_image_is_refused_until_the_run_is_undone() -> Result<()> {
    let bed = Bed::new("deny").await?;
    let image = format!("registry.example/{}:1.0", bed.name());
    bed.playbook(any_falco(), json!([{ "name": "deny", "denyImage": {} }])).await?;
    let pod = bed.shop(&image).await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Succeeded).await?.name_any();
    let refusal =
        wait::eventually(DEADLINE, "the image is refused", async || Ok(starts(&bed, &image).await.err())).await?;
    assert!(guards::by("blocked-images", &refusal), "{refusal}");
    assert!(refusal.to_string().contains(&format!("on account of Finding {}/{finding}", bed.name())), "{refusal}");
    bed.undo(&run).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    assert!(block_of(&bed, &run).await?.is_none());
    wait::eventually(DEADLINE, "the image may start", async || Ok(starts(&bed, &image).await.ok())).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_block_whose_time_is_over_is_deleted_and_an_event_tells_of_it() -> Result<()> {
    let bed = Bed::new("deny-short").await?;
    let image = format!("registry.example/{}:1.0", bed.name());
    bed.playbook(any_falco(), json!([{ "name": "deny", "denyImage": { "for": "3s" } }])).await?;
    let pod = bed.shop(&image).await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Succeeded).await?;
    let name = names::created_for_cluster(bed.name(), &run.name_any(), "deny");
    wait::gone(&Api::<ImageBlock>::all(bed.namespace.client().clone()), &name, DEADLINE).await?;
    starts(&bed, &image).await?;
    let events: Api<Event> = Api::namespaced(bed.namespace.client().clone(), "default");
    wait::eventually(DEADLINE, "an Event tells of it", async || {
        let of = ListParams::default().fields(&format!("involvedObject.name={name},reason=Expired"));
        Ok(events.list(&of).await?.items.pop())
    })
    .await?;
    // What is gone needs no undo, and doesn't stand in its way.
    bed.undo(&run.name_any()).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_quarantine_can_be_made_and_undone_by_quell_and_lifted_by_nobody_else() -> Result<()> {
    let bed = Bed::new("guarded").await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    let run = bed.run_in(&finding, Phase::Succeeded).await?;
    let cluster = ControlPlane::shared().await?;
    let stranger = cluster.client_as("somebody", &["system:masters", "system:authenticated"]).await?;
    let pods: Api<Pod> = Api::namespaced(stranger, bed.name());
    let lift = Patch::Merge(json!({ "metadata": { "labels": { names::QUARANTINE: null } } }));
    let refusal = pods.patch(&pod.name_any(), &PatchParams::default(), &lift).await.expect_err("it is guarded");
    let undo = format!("kubectl quell undo -n {} remediation/{}", bed.name(), run.name_any());
    assert!(guards::by("quarantined-pods", &refusal) && refusal.to_string().contains(&undo), "{refusal}");
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.undo(&run.name_any()).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    let free = pods.get_opt(&pod.name_any()).await?.is_none_or(|pod| !is_quarantined(&pod));
    assert!(free, "the quarantine of pod {} was not lifted", pod.name_any());
    bed.finish().await
}
