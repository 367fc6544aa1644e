//! `rollback`.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{Rollback, RollbackTo};
use quell_crds::v1alpha1::{StepKind, StepState};
use quell_playbooks::Outcome;
use quell_tests::Recorder;
use quell_tests::fixtures::{APP, Described as _, PodCarrier as _, Scaled as _, deployment, digest_of, stateful_set};
use quell_tests::wait::{self, DEADLINE};
use serde_json::{Value, json};

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, before, marks, written};

const REPOSITORY: &str = "registry.example/shop";

fn to(to: RollbackTo, revision: Option<i64>) -> StepKind {
    StepKind::Rollback(Rollback { to, revision })
}

pub fn previous() -> StepKind {
    to(RollbackTo::Previous, None)
}

async fn stage() -> Result<Stage> {
    Stage::of(&previous(), &Recorder::new()).await
}

/// The Deployment `shop`, which has had these tags one after the other.
pub async fn shop(stage: &Stage, tags: &[&str]) -> Result<Deployment> {
    rolled(stage, deployment("shop").replicas(2), tags).await
}

async fn rolled(stage: &Stage, object: Deployment, tags: &[&str]) -> Result<Deployment> {
    let deployments = stage.namespace.api::<Deployment>();
    let mut tags = tags.iter();
    let first = tags.next().context("no tag")?;
    stage.namespace.create_object(&object.image(&format!("{REPOSITORY}:{first}"))).await?;
    let mut there = wait::rolled_out(&deployments, "shop", DEADLINE).await?;
    for tag in tags {
        there = set_tag(stage, tag).await?;
        wait::rolled_out(&deployments, "shop", DEADLINE).await?;
    }
    drop(there);
    Ok(deployments.get("shop").await?)
}

async fn set_tag(stage: &Stage, tag: &str) -> Result<Deployment> {
    let image = format!("{REPOSITORY}:{tag}");
    let containers = json!([{"name": "app", "image": image}]);
    stage.meddle("shop", json!({"spec": {"template": {"spec": {"containers": containers}}}})).await
}

async fn current(stage: &Stage) -> Result<Deployment> {
    Ok(stage.namespace.api::<Deployment>().get("shop").await?)
}

fn tag(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let image = template.and_then(|spec| spec.containers.first()).and_then(|container| container.image.clone());
    image.unwrap_or_default().trim_start_matches(REPOSITORY).trim_start_matches(':').to_owned()
}

fn template(deployment: &Deployment) -> Result<Value> {
    Ok(serde_json::to_value(&deployment.spec.as_ref().context("no spec")?.template)?)
}

#[tokio::test]
async fn done_twice_is_once_and_undo_puts_everything_back() -> Result<()> {
    there_and_back(&Recorder::new()).await
}

async fn there_and_back(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&previous(), recorder).await?;
    let there = shop(&stage, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    assert!(
        matches!(run.perform().await, Outcome::Pending { look_again: None, receipt: Some(_), .. }),
        "{:?}",
        run.record
    );
    assert_eq!(stage.writes(), 1, "one write, so all that is there came with it");
    let patched = current(&stage).await?;
    assert_eq!(tag(&patched), "1.0");
    assert_eq!(before(&patched)?["template"], template(&there)?);
    assert_eq!(before(&patched)?["revision"], 2);
    assert_eq!(patched.labels()[names::REMEDIATION], "run-1");
    let hash = patched.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.labels.clone());
    assert!(!hash.unwrap_or_default().contains_key("pod-template-hash"));

    // The process died before it could write its record.
    let receipt = run.receipt()?;
    run.lose_record();
    run.succeed().await?;
    // The number of the revision included, which is another one by now.
    assert_eq!(run.receipt()?.effect, receipt.effect);
    run.succeed().await?;
    assert_eq!(stage.writes(), 1, "{:?}", recorder.requests());
    wait::Rollout::is_rolled_out(&current(&stage).await?).then_some(()).context("not rolled out")?;

    run.undone().await?;
    let undone = current(&stage).await?;
    assert_eq!(template(&undone)?, template(&there)?);
    assert_eq!(marks(&undone), Vec::<String>::new());
    run.undone().await?;
    assert_eq!(stage.writes(), 2, "undone twice is once");
    Ok(())
}

#[tokio::test]
async fn undo_leaves_alone_what_somebody_else_has_deployed_since() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    run.succeed().await?;
    let theirs = set_tag(&stage, "3.0").await?;
    let message = run.left_alone(Reason::ChangedSince).await?;
    assert!(message.contains("spec.containers[app].image"), "{message}");
    assert_eq!(template(&current(&stage).await?)?, template(&theirs)?);
    Ok(())
}

#[tokio::test]
async fn what_somebody_deploys_before_it_is_rolled_out_is_not_overrun() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    run.perform().await;
    set_tag(&stage, "3.0").await?;
    run.refused(Reason::ChangedSince).await?;
    run.left_alone(Reason::ChangedSince).await?;
    assert_eq!(tag(&current(&stage).await?), "3.0");
    Ok(())
}

#[tokio::test]
async fn a_revision_is_found_by_its_number_or_said_to_be_missing() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0", "3.0"]).await?;
    let mut run = Run::of(&stage, to(RollbackTo::Revision, Some(7)))?.of_workload(&there);
    let message = run.refused(Reason::NoEarlierRevision).await?;
    assert!(message.contains("there is 1, 2, 3"), "{message}");

    let mut run = Run::of(&stage, to(RollbackTo::Revision, Some(3)))?.of_workload(&there);
    run.succeed().await?;
    assert!(run.record.receipt.is_none() && stage.writes() == 0, "{:?}", run.record);

    let mut run = Run::of(&stage, to(RollbackTo::Revision, Some(1)))?.of_workload(&there);
    run.succeed().await?;
    assert_eq!((tag(&current(&stage).await?).as_str(), run.output("revision")), ("1.0", "1"));
    Ok(())
}

#[tokio::test]
async fn without_an_earlier_revision_nothing_is_done() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    run.refused(Reason::NoEarlierRevision).await?;
    let mut run = Run::of(&stage, to(RollbackTo::LastUnaffected, None))?.of_workload(&there);
    run.world.finding.spec.target.image = format!("{REPOSITORY}:1.0");
    run.refused(Reason::NoEarlierRevision).await?;
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn the_newest_revision_that_no_finding_names_is_taken() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0", "3.0"]).await?;
    for tag in ["1.0", "2.0", "3.0"] {
        let image = format!("{REPOSITORY}:{tag}");
        stage.known.ran(&image, &digest_of(&image));
    }
    stage.known.finding_names(&digest_of(&format!("{REPOSITORY}:2.0")));
    let unaffected = to(RollbackTo::LastUnaffected, None);

    // The image of the Finding is not the one that runs by now.
    let mut run = Run::of(&stage, unaffected.clone())?.of_workload(&there).named("run-0");
    run.world.finding.spec.target.digest = digest_of(&format!("{REPOSITORY}:2.0"));
    run.succeed().await?;
    assert_eq!((stage.writes(), tag(&current(&stage).await?).as_str()), (0, "3.0"));

    let mut run = Run::of(&stage, unaffected.clone())?.of_workload(&there);
    run.world.finding.spec.target.digest = digest_of(&format!("{REPOSITORY}:3.0"));
    run.succeed().await?;
    assert_eq!(tag(&current(&stage).await?), "1.0");

    stage.known.finding_names(&digest_of(&format!("{REPOSITORY}:1.0")));
    stage.known.finding_names(&digest_of(&format!("{REPOSITORY}:3.0")));
    let mut run = Run::of(&stage, unaffected)?.of_workload(&there).named("run-2");
    let message = run.refused(Reason::NoUnaffectedRevision).await?;
    assert!(message.contains("2: a finding names") && message.contains("which runs now"), "{message}");
    Ok(())
}

#[tokio::test]
async fn revisions_of_another_deployment_that_the_selector_catches_do_not_count() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0"]).await?;
    let mut canary = deployment("canary").image(&format!("{REPOSITORY}:2.0-canary")).pod_label(APP, "shop");
    canary = canary.pod_label("track", "canary");
    let labels = canary.pod_parts().0.labels.clone();
    canary.spec.get_or_insert_default().selector.match_labels = labels;
    stage.namespace.create_object(&canary).await?;
    wait::rolled_out(&stage.namespace.api::<Deployment>(), "canary", DEADLINE).await?;
    // The canary's second revision, so that there is a number that `shop` has not got.
    let containers = json!([{"name": "app", "image": format!("{REPOSITORY}:3.0-canary")}]);
    let second = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    stage.meddle::<Deployment>("canary", second).await?;
    wait::rolled_out(&stage.namespace.api::<Deployment>(), "canary", DEADLINE).await?;

    let mut run = Run::of(&stage, to(RollbackTo::Revision, Some(2)))?.of_workload(&there);
    let message = run.refused(Reason::NoEarlierRevision).await?;
    assert!(message.contains("there is 1 "), "{message}");
    let sets = stage.namespace.api::<ReplicaSet>().list(&ListParams::default().labels(&format!("{APP}=shop"))).await?;
    assert_eq!(sets.items.len(), 3, "the selector catches them all");
    let mut run = Run::of(&stage, previous())?.of_workload(&there).named("run-2");
    run.refused(Reason::NoEarlierRevision).await?;
    assert_eq!((stage.writes(), tag(&current(&stage).await?).as_str()), (0, "1.0"));
    Ok(())
}

#[tokio::test]
async fn only_a_deployment_that_is_there_and_meant_is_rolled_back() -> Result<()> {
    let stage = stage().await?;
    let set = stage.namespace.create_object(&stateful_set("db")).await?;
    let mut run = Run::of(&stage, previous())?.of_workload::<StatefulSet>(&set);
    let message = run.refused(Reason::TargetUnsupported).await?;
    assert!(message.contains("setImage"), "{message}");
    run.world.workload = None;
    run.refused(Reason::TargetUnsupported).await?;

    let there = shop(&stage, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    if let Some(workload) = &mut run.world.workload {
        workload.uid = "another".to_owned();
    }
    run.refused(Reason::TargetReplaced).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    stage.namespace.api::<Deployment>().delete("shop", &DeleteParams::foreground()).await?;
    wait::gone(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    run.refused(Reason::TargetNotFound).await?;
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn what_would_not_take_effect_or_not_last_is_refused() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    let cases = [
        (json!({"spec": {"paused": true}}), "kubectl rollout resume"),
        (
            json!({"spec": {"paused": false}, "metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "a"}}}),
            "Argo CD",
        ),
        (
            json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": null},
                "labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}}),
            "kustomize.toolkit.fluxcd.io/reconcile=disabled",
        ),
        (
            json!({"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": null, "helm.toolkit.fluxcd.io/name": "shop"}}}),
            "flux suspend helmrelease shop",
        ),
    ];
    for (patch, expected) in cases {
        stage.meddle::<Deployment>("shop", patch).await?;
        let message = run.refused(Reason::TargetUnsupported).await?;
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(stage.writes(), 0);
    // Flux was told to leave it alone.
    let told = json!({"metadata": {"labels": {"helm.toolkit.fluxcd.io/name": null, "kustomize.toolkit.fluxcd.io/name": "apps"},
        "annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}});
    stage.meddle::<Deployment>("shop", told).await?;
    run.lose_record();
    run.succeed().await?;
    assert_eq!(tag(&current(&stage).await?), "1.0");
    Ok(())
}

#[tokio::test]
async fn a_rollout_that_does_not_become_healthy_is_reported_and_put_back() -> Result<()> {
    let stage = stage().await?;
    let mut object = deployment("shop").image(&format!("{REPOSITORY}:broken"));
    object.spec.get_or_insert_default().progress_deadline_seconds = Some(2);
    stage.namespace.create_object(&object).await?;
    let deployments = stage.namespace.api::<Deployment>();
    let numbered = |there: &Deployment| there.annotations().contains_key("deployment.kubernetes.io/revision");
    wait::until_present(&deployments, "shop", "has a revision", DEADLINE, numbered).await?;
    set_tag(&stage, "2.0").await?;
    let there = wait::rolled_out(&deployments, "shop", DEADLINE).await?;

    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    assert_eq!(run.settle().await?, StepState::Reverting, "{:?}", run.record);
    assert_eq!(run.record.reason, Reason::RolloutUnhealthy.to_string());
    assert!(run.record.message.contains("kubectl describe"), "{}", run.record.message);
    run.undone().await?;
    let back = wait::rolled_out(&deployments, "shop", DEADLINE).await?;
    assert_eq!(template(&back)?, template(&there)?);

    // And out of a roll-out that had run out of its time before the step: that doesn't count against it.
    set_tag(&stage, "3.0-broken").await?;
    let exceeded = |there: &Deployment| {
        let conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|one| one.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    };
    let there = wait::until_present(&deployments, "shop", "is stuck", DEADLINE, exceeded).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there).named("run-2");
    run.succeed().await?;
    assert_eq!(tag(&current(&stage).await?), "2.0");
    Ok(())
}

#[tokio::test]
async fn a_run_waits_for_another_that_rolls_out_the_same_workload_and_for_nobody_else() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0"]).await?;
    set_tag(&stage, "3.0-broken").await?;
    let deployments = stage.namespace.api::<Deployment>();
    let third = |there: &Deployment| {
        there.annotations().get("deployment.kubernetes.io/revision").is_some_and(|revision| revision == "3")
    };
    wait::until_present(&deployments, "shop", "has a third revision", DEADLINE, third).await?;
    set_tag(&stage, "2.0").await?;
    wait::rolled_out(&deployments, "shop", DEADLINE).await?;

    let mut other = Run::of(&stage, previous())?.of_workload(&there).named("run-0");
    other.perform().await;
    assert_eq!(tag(&current(&stage).await?), "3.0-broken");
    let mut run = Run::of(&stage, to(RollbackTo::Revision, Some(1)))?.of_workload(&there);
    let outcome = run.perform().await;
    assert!(matches!(outcome, Outcome::Pending { look_again: Some(_), receipt: None, .. }), "{outcome:?}");
    assert!(run.record.message.contains("run-0"), "{}", run.record.message);

    // Somebody deploys what gets stuck: that is no run's, and this one is the cure.
    set_tag(&stage, "4.0-broken").await?;
    run.lose_record();
    run.succeed().await?;
    assert_eq!(tag(&current(&stage).await?), "1.0");
    other.left_alone(Reason::ChangedSince).await?;
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_write_and_writes_nothing() -> Result<()> {
    let stage = stage().await?;
    let there = shop(&stage, &["1.0", "2.0"]).await?;
    let run = Run::of(&stage, previous())?.of_workload(&there);
    let (outcome, writes) = run.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].object, format!("Deployment {}/shop", stage.namespace.name()));
    assert_eq!(written(&current(&stage).await?)?, written(&there)?);
    // It is bound to what was there when it was made.
    set_tag(&stage, "9.0").await?;
    stage.comes_too_late::<Deployment>("shop", &writes[0]).await?;
    Ok(())
}

#[tokio::test]
async fn every_right_that_it_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    there_and_back(&recorder).await?;
    assert_all_rights_used(&previous(), &recorder);
    Ok(())
}

#[tokio::test]
async fn labels_of_its_own_stay_through_it_all() -> Result<()> {
    let stage = stage().await?;
    let object = deployment("shop").label("team", "shop").annotation("note", "x");
    let there = rolled(&stage, object, &["1.0", "2.0"]).await?;
    let mut run = Run::of(&stage, previous())?.of_workload(&there);
    run.succeed().await?;
    run.undone().await?;
    let after = current(&stage).await?;
    assert_eq!((after.labels(), &after.annotations()["note"]), (there.labels(), &"x".to_owned()));
    Ok(())
}
