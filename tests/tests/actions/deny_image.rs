//! `denyImage`.

use anyhow::{Context as _, Result};
use chrono::{TimeDelta, Utc};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{DenyImage, DenyImageBy, DenyImageNamespaces};
use quell_crds::v1alpha1::{Duration, ImageBlock, ImageBlockSpec, PlaybookKind, Severity, StepKind};
use quell_playbooks::{Outcome, TargetState};
use quell_tests::{ControlPlane, Recorder, crds, wait};
use serde_json::json;

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, written};

const IMAGE: &str = "registry.example/shop:1.4";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn kind(by: DenyImageBy, namespaces: DenyImageNamespaces) -> StepKind {
    StepKind::DenyImage(DenyImage { by, namespaces, r#for: None })
}

fn plain() -> StepKind {
    StepKind::DenyImage(DenyImage::default())
}

async fn stage(recorder: &Recorder) -> Result<Stage> {
    crds::install(ControlPlane::shared().await?).await?;
    Stage::of(&plain(), recorder).await
}

/// A run for a Finding about an image that nothing in the cluster runs.
fn run(stage: &Stage, kind: StepKind) -> Result<Run<'_>> {
    let mut run = Run::of(stage, kind)?;
    let finding = &mut run.world.finding.spec;
    finding.severity = Severity::Critical;
    finding.target.kind = "Image".into();
    finding.target.namespace = String::new();
    finding.target.name = IMAGE.into();
    finding.target.image = IMAGE.into();
    finding.target.digest = DIGEST.into();
    run.world.target = TargetState::NotAPod;
    Ok(run)
}

fn blocks(stage: &Stage) -> Api<ImageBlock> {
    Api::all(stage.namespace.client().clone())
}

fn name(stage: &Stage) -> String {
    names::created_for_cluster(stage.namespace.name(), "run-1", "act")
}

fn accepted(recorder: &Recorder) -> usize {
    recorder.count(|request| request.verb.is_write() && request.status.is_some_and(|status| status.is_success()))
}

#[tokio::test]
async fn it_needs_no_pod_and_the_mark_comes_with_the_effect() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let mut run = run(&stage, plain())?;
    run.succeed().await?;
    assert_eq!(accepted(&stage.recorder), 1, "one write, so all that is there came with it");
    let there = blocks(&stage).get(&name(&stage)).await?;
    assert_eq!(there.labels()[names::REMEDIATION], "run-1");
    assert_eq!(there.annotations()[names::STEP], "act");
    assert_eq!(there.annotations()[names::FINDING], format!("{}/finding-1", stage.namespace.name()));
    assert_eq!((there.spec.tag.as_deref(), there.spec.digest.as_deref()), (Some(IMAGE), Some(DIGEST)));
    assert_eq!(there.spec.namespaces, [stage.namespace.name()]);
    assert_eq!((there.spec.reason.as_str(), there.spec.expires_at), ("Critical: Netcat in container", None));
    assert_eq!(there.spec.finding.as_ref().map(|finding| finding.name.clone()), Some("finding-1".to_owned()));
    assert!(there.meta().owner_references.is_none(), "no record's end lifts it");
    assert_eq!(run.output("imageBlock"), name(&stage));
    assert!(run.record.message.contains(IMAGE) && run.record.message.contains(DIGEST), "{}", run.record.message);
    Ok(())
}

#[tokio::test]
async fn done_twice_is_once_and_undone_twice_is_once() -> Result<()> {
    twice(&Recorder::new()).await
}

async fn twice(recorder: &Recorder) -> Result<()> {
    let stage = stage(recorder).await?;
    let kind = StepKind::DenyImage(DenyImage {
        r#for: Some(Duration::from(std::time::Duration::from_hours(1))),
        ..DenyImage::default()
    });
    let mut run = run(&stage, kind)?;
    let began = Utc::now();
    run.succeed().await?;
    let (receipt, once) = (run.receipt()?, blocks(&stage).get(&name(&stage)).await?);
    let end = once.spec.expires_at.context("an end")?;
    assert!(end > began + TimeDelta::hours(1) && end < Utc::now() + TimeDelta::minutes(61), "{end}");

    // The process died before it could write its record.
    run.lose_record();
    run.succeed().await?;
    assert_eq!(run.receipt()?, receipt);
    assert_eq!(written(&blocks(&stage).get(&name(&stage)).await?)?, written(&once)?);

    run.undone().await?;
    wait::gone(&blocks(&stage), &name(&stage), wait::DEADLINE).await?;
    let writes = accepted(&stage.recorder);
    let message = run.undone().await?;
    assert!(message.contains("gone already"), "{message}");
    assert_eq!(accepted(&stage.recorder), writes);
    Ok(())
}

#[tokio::test]
async fn undo_leaves_alone_what_is_another_by_now_or_was_changed() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let mut run = run(&stage, plain())?;
    run.succeed().await?;
    let change = Patch::Merge(json!({ "spec": { "namespaces": [] } }));
    let changed = blocks(&stage).patch(&name(&stage), &PatchParams::default(), &change).await?;
    let message = run.left_alone(Reason::ChangedSince).await?;
    assert!(message.contains("kubectl delete imageblock"), "{message}");
    assert_eq!(written(&blocks(&stage).get(&name(&stage)).await?)?, written(&changed)?);

    blocks(&stage).delete(&name(&stage), &DeleteParams::default()).await?;
    let another = ImageBlock { metadata: once_more(&changed), spec: changed.spec.clone() };
    let another = blocks(&stage).create(&PostParams::default(), &another).await?;
    run.left_alone(Reason::ChangedSince).await?;
    assert_eq!(blocks(&stage).get(&name(&stage)).await?.uid(), another.uid());
    Ok(())
}

fn once_more(block: &ImageBlock) -> kube::api::ObjectMeta {
    kube::api::ObjectMeta { name: block.metadata.name.clone(), ..kube::api::ObjectMeta::default() }
}

#[tokio::test]
async fn a_block_of_that_name_by_somebody_else_is_left_alone() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let spec = ImageBlockSpec { tag: Some(IMAGE.to_owned()), reason: "theirs".to_owned(), ..ImageBlockSpec::default() };
    let theirs = blocks(&stage).create(&PostParams::default(), &ImageBlock::new(&name(&stage), spec)).await?;
    run(&stage, plain())?.refused(Reason::ChangedSince).await?;
    assert_eq!(written(&blocks(&stage).get(&name(&stage)).await?)?, written(&theirs)?);
    Ok(())
}

#[tokio::test]
async fn runs_of_one_name_in_two_namespaces_are_two() -> Result<()> {
    let (one, two) = (stage(&Recorder::new()).await?, stage(&Recorder::new()).await?);
    run(&one, plain())?.succeed().await?;
    let mut second = run(&two, plain())?;
    second.succeed().await?;
    second.undone().await?;
    blocks(&one).get(&name(&one)).await.context("the other's stands still")?;
    Ok(())
}

#[tokio::test]
async fn what_of_the_image_is_refused_is_what_was_asked_for() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let own = DenyImageNamespaces::Own;
    for (step, by, image, digest, wanted) in [
        ("digest", DenyImageBy::Digest, IMAGE, DIGEST, json!({ "digest": DIGEST })),
        ("tag", DenyImageBy::Tag, IMAGE, DIGEST, json!({ "tag": IMAGE })),
        ("repository", DenyImageBy::Repository, IMAGE, DIGEST, json!({ "repository": "registry.example/shop" })),
        ("short", DenyImageBy::Image, "nginx", "", json!({ "tag": "docker.io/library/nginx:latest" })),
        ("pinned", DenyImageBy::Image, &format!("a.example:5000/b@{DIGEST}"), "", json!({ "digest": DIGEST })),
        ("port", DenyImageBy::Repository, "a.example:5000/b/c:1", "", json!({ "repository": "a.example:5000/b/c" })),
    ] {
        let mut run = run(&stage, kind(by, own))?.named(step);
        run.world.finding.spec.target.image = image.into();
        run.world.finding.spec.target.digest = digest.into();
        run.succeed().await?;
        let name = names::created_for_cluster(stage.namespace.name(), step, "act");
        let there = json!(blocks(&stage).get(&name).await?.spec);
        for key in ["digest", "tag", "repository"] {
            assert_eq!(there[key], wanted[key], "{step}: {there}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_finding_that_does_not_name_what_is_to_be_refused_says_so() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let own = DenyImageNamespaces::Own;
    for (by, image, digest, says) in [
        (DenyImageBy::Digest, IMAGE, "", "no digest"),
        (DenyImageBy::Tag, &*format!("registry.example/shop@{DIGEST}"), "", "no tag"),
        (DenyImageBy::Image, "", "", "no digest and no tag"),
        (DenyImageBy::Repository, "", DIGEST, "no repository"),
    ] {
        let mut run = run(&stage, kind(by, own))?;
        let target = &mut run.world.finding.spec.target;
        (target.kind, target.image, target.digest) = ("Pod".to_owned(), image.to_owned(), digest.to_owned());
        let message = run.refused(Reason::ParameterInvalid).await?;
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(accepted(&stage.recorder), 0);
    Ok(())
}

#[tokio::test]
async fn all_namespaces_are_for_cluster_playbooks_and_quells_own_is_never_meant() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let all = kind(DenyImageBy::Tag, DenyImageNamespaces::All);
    let mut of_namespace = run(&stage, all.clone())?;
    of_namespace.playbook = PlaybookKind::Playbook;
    of_namespace.refused(Reason::Forbidden).await?;

    let mut in_own = stage;
    in_own.known = crate::stage::Known::in_namespace(in_own.namespace.name());
    let message = run(&in_own, plain())?.refused(Reason::ParameterInvalid).await?;
    assert!(message.contains("denyImage.namespaces: All"), "{message}");
    let mut everywhere = run(&in_own, all)?;
    // A tag of this test's own, for it is refused to all.
    everywhere.world.finding.spec.target.image = format!("registry.example/{}:1", in_own.namespace.name());
    everywhere.succeed().await?;
    assert_eq!(blocks(&in_own).get(&name(&in_own)).await?.spec.namespaces, Vec::<String>::new());
    assert!(everywhere.record.message.contains("every namespace"), "{}", everywhere.record.message);
    everywhere.undone().await?;
    Ok(())
}

#[tokio::test]
async fn a_service_account_without_the_right_is_told_so() -> Result<()> {
    crds::install(ControlPlane::shared().await?).await?;
    // With the rights of another kind of step.
    let stage =
        Stage::of(&StepKind::Quarantine(quell_crds::v1alpha1::step::Quarantine::default()), &Recorder::new()).await?;
    let message = run(&stage, plain())?.refused(Reason::Forbidden).await?;
    assert!(message.contains("cannot create resource \"imageblocks\""), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_write_and_writes_nothing() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let (outcome, writes) = run(&stage, plain())?.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    let said: Vec<String> = writes.iter().map(|write| format!("{} {}", write.verb, write.object)).collect();
    assert_eq!(said, [format!("create ImageBlock {}", name(&stage))]);
    assert!(blocks(&stage).get_opt(&name(&stage)).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn every_right_that_it_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    twice(&recorder).await?;
    assert_all_rights_used(&plain(), &recorder);
    Ok(())
}
