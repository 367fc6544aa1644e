//! `rebuild` behind an HTTP endpoint.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::{HttpBuild, HttpPoll, Rebuild};
use quell_crds::v1alpha1::{PlaybookKind, SecretKey, StepKind, StepState};
use quell_playbooks::Outcome;
use quell_tests::Recorder;
use serde_json::json;

use crate::receiver::Receiver;
use crate::run::Run;
use crate::stage::Stage;

const TOKEN: &str = "t0ken-of-the-builder";

fn ask(receiver: &Receiver) -> HttpBuild {
    HttpBuild {
        url: receiver.at("/builds?secret=inQuery"),
        body: json!({"image": "registry.example/shop"}).as_object().cloned().unwrap_or_default(),
        headers: BTreeMap::from([("X-Team".to_owned(), "shop".to_owned())]),
        bearer_token: Some(SecretKey { name: "builder".to_owned(), key: "key".to_owned() }),
        poll: HttpPoll {
            url: receiver.at("/builds/${started.id}"),
            interval: Some(std::time::Duration::from_millis(1).into()),
            succeeded: "response.state == 'done'".to_owned(),
            failed: "response.state == 'failed'".to_owned(),
            outputs: BTreeMap::from([("image".to_owned(), "${response.image}:${started.id}".to_owned())]),
        },
    }
}

fn kind(build: HttpBuild) -> StepKind {
    StepKind::Rebuild(Rebuild::Http(build))
}

async fn stage(receiver: &Receiver) -> Result<Stage> {
    let stage = Stage::of(&kind(ask(receiver)), &Recorder::new()).await?;
    stage.secret(&stage.own, "builder", &format!("{TOKEN}\n")).await?;
    Ok(stage)
}

#[tokio::test]
async fn a_build_is_started_once_asked_for_and_read() -> Result<()> {
    builds(&Recorder::new()).await
}

pub async fn builds(recorder: &Recorder) -> Result<()> {
    let receiver =
        Receiver::answering(&[(500, "try later"), (201, r#"{"id": 7}"#), (200, r#"{"state": "queued"}"#)]).await?;
    let stage = Stage::of(&kind(ask(&receiver)), recorder).await?;
    stage.secret(&stage.own, "builder", &format!("{TOKEN}\n")).await?;
    let mut run = Run::of(&stage, kind(ask(&receiver)))?;
    let Outcome::Failed { reason, transient: true, message, .. } = run.perform().await else {
        anyhow::bail!("{:?}", run.record)
    };
    assert_eq!(reason, Reason::ReceiverUnreachable);
    assert!(message.contains("500") && message.contains("try later"), "{message}");

    let Outcome::Pending { look_again: Some(_), .. } = run.perform().await else { anyhow::bail!("{:?}", run.record) };
    assert_eq!(run.output("started"), r#"{"id":7}"#);
    // It is asked for by what the record says: a new process starts nothing anew.
    run.perform().await;
    // The endpoint restarts: the build goes on.
    receiver.answers(&[(503, "restarting"), (200, r#"{"state": "done", "image": "registry.example/shop"}"#)]);
    assert!(matches!(run.perform().await, Outcome::Pending { .. }), "{:?}", run.record);
    assert!(run.record.message.contains("503"), "{}", run.record.message);
    run.succeed().await?;
    assert_eq!(run.output("image"), "registry.example/shop:7");

    let calls = receiver.calls();
    let posts: Vec<_> = calls.iter().filter(|call| call.method == "POST").collect();
    assert_eq!(posts.len(), 2);
    let key = format!("{}/run-1/act", stage.namespace.name());
    for post in &posts {
        assert_eq!((post.header("idempotency-key"), post.header("x-team")), (key.as_str(), "shop"));
        assert_eq!(post.body, json!({"image": "registry.example/shop"}));
    }
    assert!(calls.iter().all(|call| call.header("authorization") == format!("Bearer {TOKEN}")));
    assert!(calls.iter().filter(|call| call.method == "GET").all(|call| call.path == "/builds/7"));
    Ok(())
}

#[tokio::test]
async fn what_the_endpoint_repeats_of_a_secret_is_told_nobody() -> Result<()> {
    let echo = format!("bad token {TOKEN} in inQuery secret=inQuery");
    let receiver = Receiver::answering(&[(401, &echo)]).await?;
    let stage = stage(&receiver).await?;
    let mut run = Run::of(&stage, kind(ask(&receiver)))?;
    let message = run.refused(Reason::ReceiverRefused).await?;
    assert!(message.contains("401") && message.contains("[redacted]"), "{message}");
    assert!(!message.contains(TOKEN) && !message.contains("secret=inQuery"), "{message}");

    receiver.answers(&[(200, &format!(r#"{{"id": 7, "token": "{TOKEN}"}}"#))]);
    run.lose_record();
    run.perform().await;
    assert!(!serde_json::to_string(&run.record)?.contains(TOKEN), "{:?}", run.record);
    receiver.answers(&[(200, &format!(r#"{{"state": "failed", "token": "{TOKEN}"}}"#))]);
    assert_eq!(run.settle().await?, StepState::Failed);
    assert_eq!(run.record.reason, Reason::BuildFailed.to_string());
    assert!(!run.record.message.contains(TOKEN), "{}", run.record.message);
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_mended_by_another_try_is_not_tried_again() -> Result<()> {
    let receiver = Receiver::answering(&[(302, "https://elsewhere.example/")]).await?;
    let stage = stage(&receiver).await?;
    let mut run = Run::of(&stage, kind(ask(&receiver)))?;
    let message = run.refused(Reason::ReceiverRefused).await?;
    assert!(message.contains("redirect"), "{message}");
    assert_eq!(run.record.state, StepState::Failed);

    receiver.answers(&[(200, r#"{"id": 7}"#), (200, r#"{"other": 1}"#)]);
    let mut run = Run::of(&stage, kind(ask(&receiver)))?;
    run.perform().await;
    let message = run.refused(Reason::ExpressionFailed).await?;
    assert!(message.contains("rebuild.http.poll.failed") && message.contains("other"), "{message}");

    receiver.answers(&[(200, r#"{"id": 7}"#), (404, "no such build")]);
    let mut run = Run::of(&stage, kind(ask(&receiver)))?;
    run.perform().await;
    run.refused(Reason::ReceiverRefused).await?;
    Ok(())
}

#[tokio::test]
async fn without_its_token_or_an_endpoint_it_says_which() -> Result<()> {
    let receiver = Receiver::answering(&[(200, "{}")]).await?;
    let stage = stage(&receiver).await?;
    let mut missing = ask(&receiver);
    missing.bearer_token = Some(SecretKey { name: "builder".to_owned(), key: "nope".to_owned() });
    let message = Run::of(&stage, kind(missing))?.refused(Reason::SecretMissing).await?;
    assert!(message.contains("nope"), "{message}");
    let mut wrong = ask(&receiver);
    wrong.url = "ftp://ci.example".to_owned();
    Run::of(&stage, kind(wrong))?.refused(Reason::ParameterInvalid).await?;
    let mut wrong = ask(&receiver);
    wrong.headers = BTreeMap::from([("X-Bad".to_owned(), "a\nb".to_owned())]);
    Run::of(&stage, kind(wrong))?.refused(Reason::ParameterInvalid).await?;
    assert!(receiver.calls().is_empty());

    let nobody = Receiver::answering(&[]).await?;
    let build = ask(&nobody);
    drop(nobody);
    let mut run = Run::of(&stage, kind(build))?;
    let outcome = run.perform().await;
    let unreachable = matches!(outcome, Outcome::Failed { reason: Reason::ReceiverUnreachable, transient: true, .. });
    assert!(unreachable, "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn the_token_of_a_namespaces_playbook_is_in_its_own_namespace() -> Result<()> {
    let receiver = Receiver::answering(&[(200, "queued")]).await?;
    let stage = Stage::of(&kind(ask(&receiver)), &Recorder::new()).await?;
    stage.grant_secrets_here(&kind(ask(&receiver))).await?;
    stage.secret(&stage.namespace, "builder", "of-the-namespace").await?;
    let mut run = Run::of(&stage, kind(ask(&receiver)))?;
    run.playbook = PlaybookKind::Playbook;
    run.perform().await;
    let call = receiver.calls().into_iter().next().context("no call")?;
    assert_eq!(call.header("authorization"), "Bearer of-the-namespace");
    assert_eq!(run.output("started"), "\"queued\"");
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_calls_nobody() -> Result<()> {
    let receiver = Receiver::answering(&[(200, "{}")]).await?;
    let stage = stage(&receiver).await?;
    let (outcome, writes) = Run::of(&stage, kind(ask(&receiver)))?.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(
        writes.iter().map(|write| (write.verb, write.object.as_str())).collect::<Vec<_>>(),
        [("POST", receiver.at("/builds").as_str())]
    );
    assert!(receiver.calls().is_empty());
    Ok(())
}
