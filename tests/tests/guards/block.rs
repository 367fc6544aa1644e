//! ImageBlocks: who writes them.

use anyhow::Result;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names;
use quell_crds::v1alpha1::{ImageBlock, ImageBlockSpec};
use quell_tests::wait;
use serde_json::json;

use crate::bed::{Bed, refused};

const BLOCKS: &str = "image-blocks";

fn api(of: &Client) -> Api<ImageBlock> {
    Api::all(of.clone())
}

fn block(bed: &Bed, name: &str) -> ImageBlock {
    let spec = ImageBlockSpec {
        tag: Some("registry.example/shop:1".to_owned()),
        namespaces: vec![bed.name().to_owned()],
        reason: "a test".to_owned(),
        ..ImageBlockSpec::default()
    };
    ImageBlock::new(&format!("{}-{name}", bed.name()), spec)
}

#[tokio::test]
async fn what_a_run_has_blocked_only_quell_and_the_break_glass_group_lift() -> Result<()> {
    let bed = Bed::new("run").await?;
    let mut of_run = block(&bed, "run");
    of_run.labels_mut().insert(names::REMEDIATION.to_owned(), "run-1".to_owned());
    let name = of_run.name_any();
    refused(api(&bed.stranger).create(&PostParams::default(), &of_run).await, BLOCKS, "that of a run");
    let by_quell = bed.service_account(bed.name(), true).await?;
    for (makes, lifts) in [(&bed.quell, &bed.break_glass), (&by_quell, &bed.quell)] {
        api(makes).create(&PostParams::default(), &of_run).await?;
        for change in [
            json!({ "spec": { "tag": "registry.example/other:1" } }),
            json!({ "spec": { "expiresAt": "2020-01-01T00:00:00Z" } }),
            json!({ "metadata": { "labels": { names::REMEDIATION: null } } }),
        ] {
            let answer = api(&bed.stranger).patch(&name, &PatchParams::default(), &Patch::Merge(change)).await;
            refused(answer, BLOCKS, "kubectl quell undo lifts it");
        }
        refused(
            api(&bed.stranger).delete(&name, &DeleteParams::default()).await,
            BLOCKS,
            "nobody but Quell changes it",
        );
        api(lifts).delete(&name, &DeleteParams::default()).await?;
        wait::gone(&api(&bed.stranger), &name, wait::DEADLINE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_people_block_is_theirs() -> Result<()> {
    let bed = Bed::new("people").await?;
    let theirs = block(&bed, "theirs");
    let name = theirs.name_any();
    api(&bed.stranger).create(&PostParams::default(), &theirs).await?;
    let change = Patch::Merge(json!({ "spec": { "reason": "another" } }));
    api(&bed.stranger).patch(&name, &PatchParams::default(), &change).await?;
    let claim = Patch::Merge(json!({ "metadata": { "labels": { names::REMEDIATION: "run-1" } } }));
    refused(api(&bed.stranger).patch(&name, &PatchParams::default(), &claim).await, BLOCKS, "that of a run");
    api(&bed.stranger).delete(&name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn no_image_is_blocked_in_the_namespaces_that_the_cluster_stands_on() -> Result<()> {
    let bed = Bed::new("exempt").await?;
    for exempt in ["kube-system", "quell"] {
        let mut wrong = block(&bed, exempt);
        wrong.spec.namespaces = vec![exempt.to_owned()];
        let answer = api(&bed.stranger).create(&PostParams::default(), &wrong).await;
        let error = answer.expect_err(exempt).to_string();
        assert!(error.contains("no image is blocked in kube-system, quell"), "{error}");
    }
    Ok(())
}
