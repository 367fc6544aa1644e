//! `rebuild` by a Job.

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{JobBuild, Rebuild};
use quell_crds::v1alpha1::{StepKind, StepState};
use quell_playbooks::{Outcome, UndoOutcome};
use quell_tests::Recorder;
use quell_tests::control_plane::{EXIT_CODE, RESULT};
use quell_tests::fixtures::job;
use quell_tests::wait::{self, DEADLINE};
use serde_json::{Value, json};

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, written};

pub const RESULT_OF_BUILD: &str = r#"{"image": "registry.example/shop:1.1", "digest": "sha256:abc"}"#;

fn of(spec: &Value) -> Result<StepKind> {
    let spec = spec.as_object().cloned().context("no object")?;
    Ok(StepKind::Rebuild(Rebuild::Job(JobBuild { spec })))
}

pub fn saying(annotations: &[(&str, &str)]) -> Result<StepKind> {
    let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
    let container = json!({"name": "build", "image": "registry.example/builder:1"});
    of(&json!({"template": {"metadata": {"annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [container]}}}))
}

fn name() -> String {
    names::created_by("run-1", "act")
}

#[tokio::test]
async fn done_twice_is_one_job_and_its_message_becomes_outputs() -> Result<()> {
    builds(&Recorder::new()).await
}

pub async fn builds(recorder: &Recorder) -> Result<()> {
    let kind = saying(&[(RESULT, RESULT_OF_BUILD)])?;
    let stage = Stage::of(&kind, recorder).await?;
    let jobs = stage.namespace.api::<Job>();
    let mut run = Run::of(&stage, kind)?;
    assert!(matches!(run.perform().await, Outcome::Pending { look_again: None, .. }), "{:?}", run.record);
    let created = jobs.get(&name()).await?;
    assert_eq!(
        (&created.labels()[names::REMEDIATION], &created.labels()[names::MANAGED_BY]),
        (&"run-1".into(), &"quell".into())
    );
    assert_eq!(created.annotations()[names::STEP], "act");
    assert_eq!(created.spec.as_ref().and_then(|spec| spec.backoff_limit), Some(0));

    // The process died before it could write its record.
    run.lose_record();
    run.succeed().await?;
    assert_eq!((run.output("image"), run.output("digest")), ("registry.example/shop:1.1", "sha256:abc"));
    run.succeed().await?;
    assert_eq!(stage.writes(), 1);
    let all = jobs.list(&ListParams::default()).await?.items;
    assert_eq!(all.iter().map(ResourceExtUid::id).collect::<Vec<_>>(), [created.id()]);
    let pods = stage.namespace.api::<Pod>().list(&ListParams::default()).await?.items;
    assert_eq!(pods.iter().map(|pod| pod.labels()[names::REMEDIATION].as_str()).collect::<Vec<_>>(), ["run-1"]);
    assert!(matches!(run.undo().await?, UndoOutcome::LeftAlone { reason: Reason::NothingToUndo, .. }));
    Ok(())
}

trait ResourceExtUid {
    fn id(&self) -> String;
}

impl ResourceExtUid for Job {
    fn id(&self) -> String {
        self.uid().unwrap_or_default()
    }
}

#[tokio::test]
async fn lines_are_read_as_well_and_silence_is_no_failure() -> Result<()> {
    let stage = Stage::of(&saying(&[])?, &Recorder::new()).await?;
    let mut silent = Run::of(&stage, saying(&[])?)?;
    silent.succeed().await?;
    assert!(silent.record.outputs.is_empty());
    let mut lines = Run::of(&stage, saying(&[(RESULT, "image=r/shop:2\ndigest=sha256:1")])?)?.named("run-2");
    lines.succeed().await?;
    assert_eq!((lines.output("image"), lines.output("digest")), ("r/shop:2", "sha256:1"));
    Ok(())
}

#[tokio::test]
async fn a_message_that_says_nothing_readable_is_a_failure_that_repeats_it() -> Result<()> {
    let kind = saying(&[(RESULT, "all went well")])?;
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let mut run = Run::of(&stage, kind)?;
    assert_eq!(run.settle().await?, StepState::Failed);
    assert_eq!(run.record.reason, Reason::ResultUnreadable.to_string());
    assert!(run.record.message.contains("all went well"), "{}", run.record.message);
    Ok(())
}

#[tokio::test]
async fn a_build_that_fails_says_why() -> Result<()> {
    let kind = saying(&[(RESULT, "no space left on device"), (EXIT_CODE, "3")])?;
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let mut run = Run::of(&stage, kind)?;
    assert_eq!(run.settle().await?, StepState::Failed);
    assert_eq!(run.record.reason, Reason::BuildFailed.to_string());
    let message = &run.record.message;
    let parts = ["BackoffLimitExceeded", "no space left on device", "kubectl logs"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_job_that_the_api_server_refuses_is_refused_in_its_words() -> Result<()> {
    let stage = Stage::of(&saying(&[])?, &Recorder::new()).await?;
    let container = json!({"name": "Not A Name", "image": "x"});
    let wrong = of(&json!({"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}))?;
    let message = Run::of(&stage, wrong)?.refused(Reason::Invalid).await?;
    assert!(message.contains("spec.template.spec.containers[0].name"), "{message}");
    for wrong in
        [json!({}), json!({"template": 7}), json!({"template": {"metadata": "x"}}), json!({"backoffLimit": "x"})]
    {
        Run::of(&stage, of(&wrong)?)?.refused(Reason::Invalid).await?;
    }
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn a_job_of_somebody_else_is_left_alone() -> Result<()> {
    let kind = saying(&[])?;
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let theirs = stage.namespace.create_object(&job(&name())).await?;
    let message = Run::of(&stage, kind)?.refused(Reason::Invalid).await?;
    assert!(message.contains("left alone"), "{message}");
    let now = stage.namespace.api::<Job>().get(&name()).await?;
    assert_eq!(now.uid(), theirs.uid());
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn a_job_that_was_deleted_is_not_made_a_second_time() -> Result<()> {
    let kind = saying(&[(RESULT, RESULT_OF_BUILD)])?;
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let jobs = stage.namespace.api::<Job>();
    let mut run = Run::of(&stage, kind)?;
    run.perform().await;
    jobs.delete(&name(), &DeleteParams::background()).await?;
    wait::gone(&jobs, &name(), DEADLINE).await?;
    run.refused(Reason::BuildFailed).await?;
    assert!(jobs.get_opt(&name()).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_create_and_creates_nothing() -> Result<()> {
    let kind = saying(&[])?;
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let (outcome, writes) = Run::of(&stage, kind)?.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(writes.iter().map(|write| write.verb).collect::<Vec<_>>(), ["create"]);
    assert!(stage.namespace.api::<Job>().list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

#[tokio::test]
async fn every_right_that_rebuild_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    tokio::try_join!(builds(&recorder), crate::rebuild_http::builds(&recorder))?;
    assert_all_rights_used(&saying(&[])?, &recorder);
    Ok(())
}

#[tokio::test]
async fn the_template_that_people_wrote_is_kept() -> Result<()> {
    let container = json!({"name": "build", "image": "b:1", "args": ["--push"]});
    let kind = of(&json!({"backoffLimit": 2, "template": {"metadata": {"labels": {"team": "shop"}},
        "spec": {"restartPolicy": "Never", "containers": [container]}}}))?;
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    Run::of(&stage, kind)?.perform().await;
    let created = written(&stage.namespace.api::<Job>().get(&name()).await?)?;
    assert_eq!(created["spec"]["backoffLimit"], 2);
    assert_eq!(created["spec"]["template"]["metadata"]["labels"]["team"], "shop");
    assert_eq!(created["spec"]["template"]["spec"]["containers"][0]["args"], json!(["--push"]));
    Ok(())
}
