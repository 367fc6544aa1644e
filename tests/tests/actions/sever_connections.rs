//! `severConnections`. What the Job does on a real node's connection tracking and to real processes is proven in `operator/crates/sever`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{SeverBy, SeverConnections};
use quell_crds::v1alpha1::{StepKind, StepState};
use quell_playbooks::{Outcome, TargetState, UndoOutcome};
use quell_tests::Recorder;
use quell_tests::fixtures;
use quell_tests::wait::{self, DEADLINE, eventually};
use serde_json::{Value, json};

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, written};

const CUT: &str = r#"{"deleted":12,"remaining":0}"#;

fn by(by: SeverBy) -> StepKind {
    StepKind::SeverConnections(SeverConnections { by })
}

async fn stage(kind: &StepKind) -> Result<Stage> {
    Stage::of(kind, &Recorder::new()).await
}

/// A pod that runs, under quarantine.
pub async fn quarantined(stage: &Stage) -> Result<Pod> {
    let mut pod = fixtures::pod("shop");
    pod.metadata.labels = Some(BTreeMap::from([(names::QUARANTINE.to_owned(), "full".to_owned())]));
    stage.namespace.create_object(&pod).await?;
    wait::pod_ready(&stage.namespace.api(), "shop", DEADLINE).await
}

async fn jobs(stage: &Stage) -> Result<Vec<Job>> {
    Ok(stage.own.api::<Job>().list(&ListParams::default()).await?.items)
}

/// The only Job.
async fn the_job(stage: &Stage) -> Result<Job> {
    let mut all = jobs(stage).await?;
    assert_eq!(all.len(), 1, "{all:#?}");
    all.pop().context("no Job")
}

/// The Job's container ends in that phase with these last words; returns when the Job has ended.
async fn says(stage: &Stage, job: &str, phase: &str, words: &str) -> Result<()> {
    let pods = stage.own.api::<Pod>();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let pod = eventually(DEADLINE, "the Job's pod was started", async || {
        let pod = pods.list(&of_job).await?.items.pop();
        let started = pod.as_ref().and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref()).is_some();
        Ok(pod.filter(|_| started))
    })
    .await?;
    let code = i32::from(phase == "Failed");
    let now = "2026-01-01T00:00:00Z";
    let ended = json!({"exitCode": code, "message": words, "startedAt": now, "finishedAt": now});
    let status = json!({"name": "sever", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "state": {"terminated": ended}});
    let patch = Patch::Merge(json!({"status": {"phase": phase, "containerStatuses": [status]}}));
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
    eventually(DEADLINE, "the Job has ended", async || {
        let job = stage.own.api::<Job>().get(job).await?;
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        let ended = |kind: &str| matches!(kind, "Complete" | "Failed");
        Ok(conditions.iter().any(|one| ended(&one.type_) && one.status == "True").then_some(()))
    })
    .await
}

#[tokio::test]
async fn done_twice_is_one_job_with_one_right_on_the_pods_node_and_what_it_cut_is_told() -> Result<()> {
    cuts(&Recorder::new()).await
}

async fn cuts(recorder: &Recorder) -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = Stage::of(&kind, recorder).await?;
    let pod = quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind)?.about(&pod);
    assert!(matches!(run.perform().await, Outcome::Pending { look_again: None, .. }), "{:?}", run.record);
    let job = the_job(&stage).await?;
    assert_eq!(job.labels()[names::REMEDIATION], "run-1");
    assert_eq!(job.labels()[names::REMEDIATION_NAMESPACE], stage.namespace.name());
    assert_eq!(job.annotations()[names::STEP], "act");
    let wanted = written(&job)?;
    assert_eq!([&wanted["spec"]["backoffLimit"], &wanted["spec"]["activeDeadlineSeconds"]], [0, 120]);
    let of_pod = &wanted["spec"]["template"]["spec"];
    assert_eq!(of_pod["nodeName"], json!(pod.spec.as_ref().and_then(|spec| spec.node_name.clone())));
    assert_eq!(of_pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!([&of_pod["hostNetwork"], &of_pod["automountServiceAccountToken"]], [&json!(true), &json!(false)]);
    assert_eq!([&of_pod["hostPID"], &of_pod["volumes"]], [&Value::Null, &Value::Null]);
    let container = &of_pod["containers"][0];
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("no address")?;
    assert_eq!(container["args"], json!(["sever", "--address", address]));

    // The process died before it could write its record.
    run.lose_record();
    assert!(matches!(run.perform().await, Outcome::Pending { .. }), "{:?}", run.record);
    says(&stage, &job.name_any(), "Succeeded", CUT).await?;
    run.succeed().await?;
    run.lose_record();
    run.succeed().await?;
    assert_eq!((run.output("deleted"), run.output("remaining")), ("12", "0"));
    assert!(run.record.message.contains("12 conntrack entries"), "{}", run.record.message);
    assert_eq!(the_job(&stage).await?.uid(), job.uid());
    assert!(matches!(run.undo().await?, UndoOutcome::LeftAlone { reason: Reason::NothingToUndo, .. }));
    Ok(())
}

#[tokio::test]
async fn what_came_back_is_told() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.perform().await;
    let job = the_job(&stage).await?.name_any();
    says(&stage, &job, "Succeeded", r#"{"deleted":3,"remaining":1}"#).await?;
    run.succeed().await?;
    assert_eq!(run.output("remaining"), "1");
    assert!(run.record.message.contains("1 came back"), "{}", run.record.message);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_not_under_quarantine_is_refused_and_one_whose_label_is_newer_than_the_copy_is_not() -> Result<()>
{
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    stage.namespace.create_object(&fixtures::pod("shop")).await?;
    let pod = wait::pod_ready(&stage.namespace.api(), "shop", DEADLINE).await?;
    let mut run = Run::of(&stage, kind)?.about(&pod);
    let message = run.refused(Reason::NotQuarantined).await?;
    assert!(message.contains("Put a quarantine step before this one"), "{message}");
    assert!(jobs(&stage).await?.is_empty());

    stage.meddle::<Pod>("shop", json!({"metadata": {"labels": {names::QUARANTINE: "full"}}})).await?;
    assert!(matches!(run.perform().await, Outcome::Pending { .. }), "{:?}", run.record);
    Ok(())
}

#[tokio::test]
async fn what_was_not_switched_on_is_refused_and_says_how() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let mut stage = stage(&kind).await?;
    stage.known.severing = None;
    let pod = quarantined(&stage).await?;
    let message = Run::of(&stage, kind)?.about(&pod).refused(Reason::NotEnabled).await?;
    assert!(message.contains("sever.enabled=true"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_pod_with_its_nodes_addresses_is_refused_for_the_node_would_be_cut_off() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let mut pod = fixtures::pod("shop");
    pod.metadata.labels = Some(BTreeMap::from([(names::QUARANTINE.to_owned(), "full".to_owned())]));
    pod.spec.as_mut().context("no spec")?.host_network = Some(true);
    stage.namespace.create_object(&pod).await?;
    let pod = wait::pod_ready(&stage.namespace.api(), "shop", DEADLINE).await?;
    Run::of(&stage, kind)?.about(&pod).refused(Reason::TargetUnsupported).await?;
    assert!(jobs(&stage).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_gone_and_what_is_no_pod_are_refused() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind.clone())?.about(&pod);
    stage.namespace.api::<Pod>().delete("shop", &DeleteParams::default()).await?;
    wait::gone(&stage.namespace.api::<Pod>(), "shop", DEADLINE).await?;
    run.refused(Reason::TargetNotFound).await?;
    let mut run = Run::of(&stage, kind)?;
    run.world.target = TargetState::NotAPod;
    run.refused(Reason::TargetUnsupported).await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_fails_repeats_what_its_container_said() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.perform().await;
    let job = the_job(&stage).await?.name_any();
    says(&stage, &job, "Failed", "listing conntrack entries is not permitted").await?;
    assert_eq!(run.settle().await?, StepState::Failed);
    assert_eq!(run.record.reason, Reason::SeverFailed.to_string());
    assert!(run.record.message.contains("listing conntrack entries is not permitted"), "{}", run.record.message);
    Ok(())
}

#[tokio::test]
async fn a_result_that_says_nothing_readable_is_no_success() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.perform().await;
    let job = the_job(&stage).await?.name_any();
    says(&stage, &job, "Succeeded", "well done").await?;
    assert_eq!(run.settle().await?, StepState::Failed);
    assert_eq!(run.record.reason, Reason::ResultUnreadable.to_string());
    Ok(())
}

#[tokio::test]
async fn a_job_of_somebody_else_is_left_alone() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let name = names::created_by(&format!("{}/run-1", stage.namespace.name()), "act");
    let theirs = stage.own.create_object(&fixtures::job(&name)).await?;
    let message = Run::of(&stage, kind)?.about(&pod).refused(Reason::Invalid).await?;
    assert!(message.contains("left alone"), "{message}");
    assert_eq!(the_job(&stage).await?.uid(), theirs.uid());
    Ok(())
}

#[tokio::test]
async fn a_job_that_was_deleted_is_made_anew_unless_it_would_restart_containers_again() -> Result<()> {
    for (kind, again) in [(by(SeverBy::Conntrack), true), (by(SeverBy::Restart), false)] {
        let stage = stage(&kind).await?;
        let pod = quarantined(&stage).await?;
        let mut run = Run::of(&stage, kind)?.about(&pod);
        run.perform().await;
        let first = the_job(&stage).await?;
        stage.own.api::<Job>().delete(&first.name_any(), &DeleteParams::background()).await?;
        wait::gone(&stage.own.api::<Job>(), &first.name_any(), DEADLINE).await?;
        if again {
            assert!(matches!(run.perform().await, Outcome::Pending { .. }), "{:?}", run.record);
            assert_ne!(the_job(&stage).await?.uid(), first.uid());
        } else {
            let message = run.refused(Reason::SeverFailed).await?;
            assert!(message.contains("not made a second time"), "{message}");
            assert!(jobs(&stage).await?.is_empty());
        }
    }
    Ok(())
}

#[tokio::test]
async fn processes_are_stopped_by_a_job_among_the_nodes_processes_and_undo_lets_them_go_on() -> Result<()> {
    let kind = by(SeverBy::Pause);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let ids = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    let ids: Vec<String> = ids.into_iter().filter_map(|one| one.container_id).collect();
    let [id] = &ids[..] else { anyhow::bail!("{ids:?}") };
    let id = id.trim_start_matches("containerd://");
    let uid = pod.uid().unwrap_or_default();

    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.perform().await;
    let job = the_job(&stage).await?;
    let spec = written(&job)?["spec"]["template"]["spec"].clone();
    assert_eq!([&spec["hostPID"], &spec["hostNetwork"]], [&json!(true), &Value::Null]);
    let container = &spec["containers"][0];
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["KILL"]));
    assert_eq!(container["args"], json!(["sever", "--pod-uid", uid, "--signal", "Stop", "--container", id]));
    says(&stage, &job.name_any(), "Succeeded", r#"{"signalled":4,"remaining":0}"#).await?;
    run.succeed().await?;
    assert_eq!(run.output("signalled"), "4");

    // Asked for, and waited for.
    assert!(matches!(run.undo().await?, UndoOutcome::TryAgain { reason: Reason::InProgress, .. }));
    assert!(matches!(run.undo().await?, UndoOutcome::TryAgain { reason: Reason::InProgress, .. }));
    let undo = jobs(&stage).await?.into_iter().find(|one| one.uid() != job.uid()).context("no second Job")?;
    let arguments = &written(&undo)?["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(*arguments, json!(["sever", "--pod-uid", uid, "--signal", "Continue", "--container", id]));
    says(&stage, &undo.name_any(), "Succeeded", r#"{"signalled":4,"remaining":0}"#).await?;
    assert!(run.undone().await?.contains("4 processes"));
    assert_eq!(jobs(&stage).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn undo_of_a_pause_has_nothing_to_do_for_a_pod_that_is_gone() -> Result<()> {
    let kind = by(SeverBy::Pause);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.perform().await;
    stage.namespace.api::<Pod>().delete("shop", &DeleteParams::default()).await?;
    wait::gone(&stage.namespace.api::<Pod>(), "shop", DEADLINE).await?;
    run.left_alone(Reason::TargetNotFound).await?;
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_create_and_creates_nothing() -> Result<()> {
    let kind = by(SeverBy::Conntrack);
    let stage = stage(&kind).await?;
    let pod = quarantined(&stage).await?;
    let (outcome, writes) = Run::of(&stage, kind)?.about(&pod).rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(writes.iter().map(|write| write.verb).collect::<Vec<_>>(), ["create"]);
    assert!(jobs(&stage).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn every_right_that_sever_connections_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    cuts(&recorder).await?;
    assert_all_rights_used(&by(SeverBy::Conntrack), &recorder);
    Ok(())
}
