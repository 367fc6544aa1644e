//! Undo after the record of an effect was lost: it is found by its mark, and lifted; another run's is left alone. Only `get` and `list` are
//! asked for to find it.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use quell_actions::quarantine;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::{DenyImage, Others, Owner, Quarantine, SetImage, SeverBy, SeverConnections};
use quell_crds::v1alpha1::{ImageBlock, StepKind, Workload};
use quell_playbooks::{Recovery, TargetState};
use quell_tests::fixtures::{self, APP, PodCarrier as _, Scaled as _, deployment};
use quell_tests::wait::{self, DEADLINE};
use quell_tests::{ControlPlane, Recorder, crds};
use serde_json::json;

use crate::run::Run;
use crate::stage::{Stage, marks};

/// Found by the run that did it, by no other, and with no write.
async fn found_by_it_alone<'a>(mut run: Run<'a>, other: Run<'a>) -> Result<Run<'a>> {
    let before = run.writes();
    ensure!(matches!(other.recover().await, Recovery::Nothing), "{:?}", other.recover().await);
    run.lose_and_find().await?;
    ensure!(run.writes() == before, "to look writes nothing");
    Ok(run)
}

async fn is_as_before(stage: &Stage, name: &str) -> Result<()> {
    let pod = stage.namespace.api::<Pod>().get(name).await?;
    ensure!(marks(&pod).is_empty() && pod.labels().contains_key(APP), "{:?}", pod.metadata);
    Ok(())
}

async fn pod(stage: &Stage, name: &str) -> Result<Pod> {
    stage.namespace.create_object(&fixtures::pod(name)).await?;
    wait::pod_ready(&stage.namespace.api(), name, DEADLINE).await
}

#[tokio::test]
async fn a_quarantine_is_found_on_its_pod_and_on_the_others_that_it_names() -> Result<()> {
    let kind = StepKind::Quarantine(Quarantine { others: Others::SameDigest, ..Quarantine::default() });
    let mut stage = Stage::of(&kind, &Recorder::new()).await?;
    let (shop, other) = (pod(&stage, "shop").await?, pod(&stage, "other").await?);
    let known = |pod: &Pod| (quarantine::facts(pod), Workload { kind: "Pod".to_owned(), ..Workload::default() });
    stage.known.same_digest = Some(vec![known(&shop), known(&other)]);
    let mut run = Run::of(&stage, kind.clone())?.about(&shop);
    ensure!(matches!(run.recover().await, Recovery::Nothing), "nothing is done yet");
    run.succeed().await?;
    let run = found_by_it_alone(run, Run::of(&stage, kind)?.about(&shop).named("run-2")).await?;
    assert_eq!(run.receipt()?.also[0].name, "other");
    run.undone().await?;
    is_as_before(&stage, "shop").await?;
    is_as_before(&stage, "other").await?;
    assert!(matches!(run.recover().await, Recovery::Nothing), "nothing is left of it");
    Ok(())
}

#[tokio::test]
async fn what_an_owner_was_lowered_by_is_found_in_its_ledger_even_when_the_pod_is_gone() -> Result<()> {
    let kind = StepKind::Quarantine(Quarantine { owner: Some(Owner::Pause), ..Quarantine::default() });
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    stage.namespace.create_object(&deployment("shop").replicas(2)).await?;
    let deployments = stage.namespace.api::<Deployment>();
    let shop = wait::rolled_out(&deployments, "shop", DEADLINE).await?;
    let selected = ListParams::default().labels(&format!("{APP}=shop"));
    let bad = stage.namespace.api::<Pod>().list(&selected).await?.items.into_iter().next().context("no pod")?;
    let about = |name: &str| -> Result<Run<'_>> {
        let run = Run::of(&stage, kind.clone())?.of_workload(&shop).about(&bad).named(name);
        Ok(run)
    };
    let mut run = about("run-1")?;
    run.succeed().await?;
    let mut run = found_by_it_alone(run, about("run-2")?).await?;
    assert_eq!(run.receipt()?.also[0].before["replicas"], json!(2));

    stage.namespace.api::<Pod>().delete(&bad.name_any(), &DeleteParams::default().grace_period(0)).await?;
    wait::gone(&stage.namespace.api::<Pod>(), &bad.name_any(), DEADLINE).await?;
    run.world.target = TargetState::Gone;
    run.lose_record();
    let Recovery::Found(receipt) = run.recover().await else { anyhow::bail!("{:?}", run.recover().await) };
    run.record.receipt = Some(receipt);
    let message = run.undone().await?;
    assert!(message.contains("replicas: 2 again") && message.contains("is gone"), "{message}");
    assert_eq!(deployments.get("shop").await?.spec.and_then(|spec| spec.replicas), Some(2));
    Ok(())
}

#[tokio::test]
async fn an_image_that_was_set_is_found_and_put_back_and_a_change_since_is_not_taken_for_it() -> Result<()> {
    let kind = StepKind::SetImage(SetImage { image: "registry.example/shop:2".to_owned(), container: None });
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let there = stage.namespace.create_object(&deployment("shop").image("registry.example/shop:1")).await?;
    let mut run = Run::of(&stage, kind.clone())?.of_workload(&there);
    run.perform().await;
    let run = found_by_it_alone(run, Run::of(&stage, kind.clone())?.of_workload(&there).named("run-2")).await?;
    run.undone().await?;
    let back = stage.namespace.api::<Deployment>().get("shop").await?;
    assert_eq!(
        (&back.spec.clone().map(|spec| spec.template), marks(&back).len()),
        (&there.spec.clone().map(|spec| spec.template), 0)
    );

    let mut again = Run::of(&stage, kind)?.of_workload(&there).named("run-3");
    again.perform().await;
    let theirs =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "registry.example/shop:3"}]}}}});
    stage.meddle::<Deployment>("shop", theirs).await?;
    again.lose_and_find().await?;
    let message = again.left_alone(Reason::ChangedSince).await?;
    assert!(message.contains("registry.example/shop:3 now"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_rollback_is_found_and_put_back() -> Result<()> {
    let kind = crate::rollback::previous();
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let there = crate::rollback::shop(&stage, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, kind.clone())?.of_workload(&there);
    run.perform().await;
    let run = found_by_it_alone(run, Run::of(&stage, kind)?.of_workload(&there).named("run-2")).await?;
    run.undone().await?;
    let back = stage.namespace.api::<Deployment>().get(&there.name_any()).await?;
    assert_eq!(marks(&back), Vec::<String>::new());
    assert_eq!(back.spec.map(|spec| spec.template), there.spec.map(|spec| spec.template));
    Ok(())
}

#[tokio::test]
async fn a_block_is_found_and_deleted_but_not_where_somebody_has_changed_it() -> Result<()> {
    crds::install(ControlPlane::shared().await?).await?;
    let kind = StepKind::DenyImage(DenyImage::default());
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let blocks: Api<ImageBlock> = Api::all(stage.namespace.client().clone());
    let about = |name: &str| -> Result<Run<'_>> {
        let mut run = Run::of(&stage, kind.clone())?.named(name);
        run.world.finding.spec.target.image = "registry.example/shop:1.4".into();
        Ok(run)
    };
    let mut run = about("run-1")?;
    run.succeed().await?;
    let mut run = found_by_it_alone(run, about("run-2")?).await?;
    run.undone().await?;
    wait::gone(&blocks, &run.receipt()?.name, DEADLINE).await?;

    run.lose_record();
    run.succeed().await?;
    let name = run.receipt()?.effect.name;
    blocks.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"reason": "theirs"}}))).await?;
    run.lose_and_find().await?;
    run.left_alone(Reason::ChangedSince).await?;
    blocks.delete(&name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_paused_a_pod_is_found() -> Result<()> {
    let kind = StepKind::SeverConnections(SeverConnections { by: SeverBy::Pause });
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let there = crate::sever_connections::quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind.clone())?.about(&there);
    run.perform().await;
    let run = found_by_it_alone(run, Run::of(&stage, kind)?.about(&there).named("run-2")).await?;
    run.undo().await?;
    let jobs = stage.own.api::<Job>().list(&ListParams::default()).await?.items;
    assert_eq!(jobs.len(), 2, "a second one lets the processes go on");
    Ok(())
}
