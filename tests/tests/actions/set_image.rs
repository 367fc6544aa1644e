//! `setImage`.

use std::fmt::Debug;

use anyhow::Result;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::SetImage;
use quell_crds::v1alpha1::{StepKind, StepState};
use quell_playbooks::Outcome;
use quell_tests::Recorder;
use quell_tests::fixtures::{PodCarrier as _, Scaled as _, daemon_set, deployment, job, stateful_set};
use quell_tests::wait::{self, DEADLINE, Rollout};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, before, marks, written};

const OLD: &str = "registry.example/shop:1.0";
const NEW: &str = "registry.example/shop:1.1";

fn image(image: &str) -> StepKind {
    StepKind::SetImage(SetImage { image: image.to_owned(), container: None })
}

fn image_of(image: &str, container: &str) -> StepKind {
    StepKind::SetImage(SetImage { image: image.to_owned(), container: Some(container.to_owned()) })
}

async fn stage() -> Result<Stage> {
    Stage::of(&image(NEW), &Recorder::new()).await
}

fn images<K: Serialize>(object: &K) -> Result<Vec<String>> {
    let object = serde_json::to_value(object)?;
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
    Ok(containers.iter().filter_map(|container| container["image"].as_str().map(str::to_owned)).collect())
}

fn set(container: &str, image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": container, "image": image}]}}}})
}

#[tokio::test]
async fn done_twice_is_once_and_undo_puts_it_back_whatever_the_kind_of_workload() -> Result<()> {
    every_kind(&Recorder::new()).await.map(drop)
}

async fn every_kind(recorder: &Recorder) -> Result<StepKind> {
    let stage = Stage::of(&image(NEW), recorder).await?;
    there_and_back(&stage, &deployment("shop").image(OLD).replicas(2)).await?;
    there_and_back(&stage, &stateful_set("shop").image(OLD).replicas(2)).await?;
    there_and_back(&stage, &daemon_set("shop").image(OLD)).await?;
    Ok(image(NEW))
}

async fn there_and_back<K>(stage: &Stage, object: &K) -> Result<()>
where
    K: Rollout + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let api = stage.namespace.api::<K>();
    stage.namespace.create_object(object).await?;
    let there = wait::rolled_out(&api, "shop", DEADLINE).await?;
    let mut run = Run::of(stage, image(NEW))?.of_workload(&there);
    let writes = stage.writes();
    assert!(
        matches!(run.perform().await, Outcome::Pending { look_again: None, receipt: Some(_), .. }),
        "{:?}",
        run.record
    );
    assert_eq!(stage.writes(), writes + 1, "one write, so all that is there came with it");
    let patched = api.get("shop").await?;
    assert_eq!(images(&patched)?, [NEW]);
    assert_eq!(before(&patched)?["container"], "app");
    assert_eq!(before(&patched)?["image"], OLD);
    assert_eq!(patched.labels()[names::REMEDIATION], "run-1");

    // The process died before it could write its record.
    let receipt = run.receipt()?;
    run.lose_record();
    run.succeed().await?;
    assert_eq!(run.receipt()?, receipt);
    assert_eq!((run.output("previousImage"), run.output("image")), (OLD, NEW));
    assert!(api.get("shop").await?.is_rolled_out());
    run.succeed().await?;
    assert_eq!(stage.writes(), writes + 1);

    run.undone().await?;
    let undone = api.get("shop").await?;
    assert_eq!(written(&undone)?["spec"], written(&there)?["spec"]);
    assert_eq!(marks(&undone), Vec::<String>::new());
    run.undone().await?;
    assert_eq!(stage.writes(), writes + 2, "undone twice is once");
    Ok(())
}

#[tokio::test]
async fn an_image_that_is_there_already_is_not_written() -> Result<()> {
    let stage = stage().await?;
    let there = stage.namespace.create_object(&deployment("shop").image(NEW)).await?;
    let mut run = Run::of(&stage, image(NEW))?.of_workload(&there);
    run.succeed().await?;
    assert_eq!((run.output("previousImage"), run.output("image")), (NEW, NEW));
    assert!(run.record.receipt.is_none() && stage.writes() == 0);
    Ok(())
}

#[tokio::test]
async fn the_container_is_the_one_that_is_named_or_reported_or_the_only_one() -> Result<()> {
    let stage = stage().await?;
    let object = deployment("shop").image(OLD).container("proxy", OLD).init_container("setup", OLD);
    let there = stage.namespace.create_object(&object).await?;
    let mut run = Run::of(&stage, image(NEW))?.of_workload(&there);
    let message = run.refused(Reason::ParameterInvalid).await?;
    assert!(message.contains("app, proxy, setup"), "{message}");
    run.world.finding.spec.target.container = "sidecar".to_owned();
    run.refused(Reason::ParameterInvalid).await?;
    let mut empty = Run::of(&stage, image_of(" ", "app"))?.of_workload(&there);
    empty.refused(Reason::ParameterInvalid).await?;
    assert_eq!(stage.writes(), 0);

    run.world.finding.spec.target.container = "proxy".to_owned();
    run.lose_record();
    run.succeed().await?;
    let mut named = Run::of(&stage, image_of(NEW, "setup"))?.of_workload(&there).named("run-2");
    named.succeed().await?;
    let now = stage.namespace.api::<Deployment>().get("shop").await?;
    assert_eq!(images(&now)?, [OLD, NEW]);
    let init = &serde_json::to_value(&now)?["spec"]["template"]["spec"]["initContainers"][0]["image"];
    assert_eq!(init, NEW);

    // The first undo finds its container as it left it, under the mark of another run, which stays.
    run.undone().await?;
    let now = stage.namespace.api::<Deployment>().get("shop").await?;
    assert_eq!(images(&now)?, [OLD, OLD]);
    assert_eq!(now.annotations()[names::REMEDIATION], "run-2");
    Ok(())
}

#[tokio::test]
async fn undo_leaves_alone_what_somebody_else_has_set_since() -> Result<()> {
    let stage = stage().await?;
    let there = stage.namespace.create_object(&deployment("shop").image(OLD)).await?;
    let mut run = Run::of(&stage, image(NEW))?.of_workload(&there);
    run.succeed().await?;
    let theirs = "registry.example/shop:2.0";
    stage.meddle::<Deployment>("shop", set("app", theirs)).await?;
    let message = run.left_alone(Reason::ChangedSince).await?;
    assert!(message.contains(theirs), "{message}");
    let now = stage.namespace.api::<Deployment>().get("shop").await?;
    assert_eq!(images(&now)?, [theirs]);

    // What else somebody has changed stands in nobody's way.
    stage.meddle::<Deployment>("shop", set("app", NEW)).await?;
    stage.meddle::<Deployment>("shop", json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}})).await?;
    run.undone().await?;
    let now = stage.namespace.api::<Deployment>().get("shop").await?;
    assert_eq!(images(&now)?, [OLD]);
    let labels = now.spec.and_then(|spec| spec.template.metadata?.labels).unwrap_or_default();
    assert_eq!(labels.get("a").map(String::as_str), Some("b"));
    Ok(())
}

#[tokio::test]
async fn a_rollout_that_does_not_become_healthy_is_reported_and_put_back() -> Result<()> {
    let stage = stage().await?;
    let mut object = deployment("shop").image(OLD);
    object.spec.get_or_insert_default().progress_deadline_seconds = Some(2);
    stage.namespace.create_object(&object).await?;
    let deployments = stage.namespace.api::<Deployment>();
    let there = wait::rolled_out(&deployments, "shop", DEADLINE).await?;
    let mut run = Run::of(&stage, image("registry.example/shop:broken"))?.of_workload(&there);
    assert_eq!(run.settle().await?, StepState::Reverting, "{:?}", run.record);
    assert_eq!(run.record.reason, Reason::RolloutUnhealthy.to_string());
    run.undone().await?;
    assert_eq!(images(&wait::rolled_out(&deployments, "shop", DEADLINE).await?)?, [OLD]);
    Ok(())
}

/// Only a Deployment says that it has run out of its time: for the others it is the step's own deadline that ends it.
#[tokio::test]
async fn a_stateful_set_that_does_not_become_healthy_waits_for_the_deadline_and_is_put_back() -> Result<()> {
    let stage = stage().await?;
    let sets = stage.namespace.api::<StatefulSet>();
    stage.namespace.create_object(&stateful_set("shop").image(OLD)).await?;
    let there = wait::rolled_out(&sets, "shop", DEADLINE).await?;
    let mut run = Run::of(&stage, image("registry.example/shop:broken"))?.of_workload(&there);
    run.perform().await;
    let seen = |set: &StatefulSet| set.status.as_ref().is_some_and(|status| status.observed_generation == Some(2));
    wait::until_present(&sets, "shop", "is under way", DEADLINE, seen).await?;
    assert!(matches!(run.perform().await, Outcome::Pending { .. }), "{:?}", run.record);
    let message = run.undone().await?;
    assert!(message.contains("by hand"), "{message}");
    assert_eq!(images(&sets.get("shop").await?)?, [OLD]);
    Ok(())
}

#[tokio::test]
async fn what_would_keep_its_pods_or_is_no_workload_of_its_kinds_is_refused() -> Result<()> {
    let stage = stage().await?;
    let mut object = daemon_set("agent").image(OLD);
    object.spec.get_or_insert_default().update_strategy = serde_json::from_value(json!({"type": "OnDelete"}))?;
    let agent: DaemonSet = stage.namespace.create_object(&object).await?;
    let message = Run::of(&stage, image(NEW))?.of_workload(&agent).refused(Reason::TargetUnsupported).await?;
    assert!(message.contains("OnDelete"), "{message}");
    let nightly: Job = stage.namespace.create_object(&job("nightly")).await?;
    Run::of(&stage, image(NEW))?.of_workload(&nightly).refused(Reason::TargetUnsupported).await?;
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_write_and_writes_nothing() -> Result<()> {
    let stage = stage().await?;
    stage.namespace.create_object(&deployment("shop").image(OLD)).await?;
    let there = wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let (outcome, writes) = Run::of(&stage, image(NEW))?.of_workload(&there).rehearse().await;
    assert!(matches!(&outcome, Outcome::Done { outputs, .. } if outputs["image"] == NEW), "{outcome:?}");
    assert_eq!(writes.len(), 1);
    assert_eq!(written(&stage.namespace.api::<Deployment>().get("shop").await?)?, written(&there)?);
    // It is bound to what was there when it was made.
    stage.meddle::<Deployment>("shop", set("app", "registry.example/shop:9")).await?;
    stage.comes_too_late::<Deployment>("shop", &writes[0]).await?;
    Ok(())
}

#[tokio::test]
async fn every_right_that_it_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    let kind = every_kind(&recorder).await?;
    assert_all_rights_used(&kind, &recorder);
    Ok(())
}
