//! `notify`.

use anyhow::Result;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::{ChannelReference, Notify};
use quell_crds::v1alpha1::{ChannelKind, PlaybookKind, SecretKey, Severity, StepKind, StepRecord, StepState, Webhook};
use quell_playbooks::{Outcome, UndoOutcome};
use quell_tests::Recorder;

use crate::receiver::Receiver;
use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used};

const KEY: &str = "k3y-of-the-signature";

fn tell(channels: &[&str], message: Option<&str>) -> StepKind {
    let channels = channels.iter().map(|name| ChannelReference { name: (*name).to_owned() }).collect();
    StepKind::Notify(Notify { channels, message: message.map(str::to_owned) })
}

fn webhook(receiver: &Receiver, secret: &str) -> ChannelKind {
    let hmac_key = SecretKey { name: secret.to_owned(), key: "key".to_owned() };
    ChannelKind::Webhook(Webhook { url: receiver.at("/hook"), hmac_key })
}

async fn stage(recorder: &Recorder) -> Result<Stage> {
    let stage = Stage::of(&tell(&[], None), recorder).await?;
    stage.secret(&stage.own, "soc", KEY).await?;
    Ok(stage)
}

#[tokio::test]
async fn a_channel_that_has_taken_the_message_is_not_told_again() -> Result<()> {
    partly(&Recorder::new()).await
}

async fn partly(recorder: &Recorder) -> Result<()> {
    let (well, ill) =
        tokio::try_join!(Receiver::answering(&[(200, "")]), Receiver::answering(&[(500, ""), (200, "")]))?;
    let stage = stage(recorder).await?;
    stage.known.channel("well", webhook(&well, "soc"));
    stage.known.channel("ill", webhook(&ill, "soc"));
    let mut run = Run::of(&stage, tell(&["well", "ill"], None))?;
    let Outcome::Failed { reason, transient: true, message, outputs, .. } = run.perform().await else {
        anyhow::bail!("{:?}", run.record)
    };
    assert_eq!(reason, Reason::ChannelUnreachable);
    assert!(message.contains("channel ill") && !message.contains("channel well"), "{message}");
    assert!(outputs.contains_key("sent.well") && !outputs.contains_key("sent.ill"), "{outputs:?}");
    assert_eq!(run.record.state, StepState::Retrying);

    run.succeed().await?;
    run.succeed().await?;
    assert_eq!((well.calls().len(), ill.calls().len()), (1, 2));
    let key = |channel: &str| format!("{}/run-1/act/{channel}", stage.namespace.name());
    assert_eq!(well.calls()[0].header("idempotency-key"), key("well"));
    let tries = ill.calls();
    assert!(tries.iter().all(|call| call.header("idempotency-key") == key("ill")));
    assert!(matches!(run.undo_of_nothing().await, UndoOutcome::LeftAlone { reason: Reason::NothingToUndo, .. }));
    Ok(())
}

#[tokio::test]
async fn the_message_says_what_was_found_where_and_what_was_done() -> Result<()> {
    let receiver = Receiver::answering(&[(200, "")]).await?;
    let stage = stage(&Recorder::new()).await?;
    stage.known.channel("soc", webhook(&receiver, "soc"));
    let mut run = Run::of(&stage, tell(&["soc"], None))?;
    let finding = &mut run.world.finding.spec;
    finding.severity = Severity::High;
    finding.message = "a shell was spawned".to_owned();
    finding.target.image = "registry.example/shop:1.0".to_owned();
    run.others.push(StepRecord {
        name: "contain".to_owned(),
        state: StepState::Succeeded,
        message: "pod shop is cut off".to_owned(),
        ..StepRecord::default()
    });
    run.succeed().await?;
    let body = receiver.calls()[0].body.clone();
    let namespace = stage.namespace.name();
    assert_eq!(body["title"], format!("Netcat in container on Pod {namespace}/shop"));
    assert_eq!(body["severity"], "High");
    let text = body["text"].as_str().unwrap_or_default();
    let parts = ["a shell was spawned", "contain: Succeeded: pod shop is cut off"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    assert!(text.contains(&format!("kubectl quell explain -n {namespace} finding-1")), "{text}");
    assert!(!text.contains("act:"), "{text}");
    assert_eq!(body["fields"]["Image"], "registry.example/shop:1.0");

    let mut run = Run::of(&stage, tell(&["soc"], Some("look!")))?.named("run-2");
    run.succeed().await?;
    assert_eq!(receiver.calls()[1].body["text"], "look!");
    Ok(())
}

#[tokio::test]
async fn a_channel_that_can_not_be_told_is_named_with_the_reason() -> Result<()> {
    let receiver = Receiver::answering(&[(403, "go away")]).await?;
    let stage = stage(&Recorder::new()).await?;
    stage.known.channel("refuses", webhook(&receiver, "soc"));
    stage.known.channel("secretless", webhook(&receiver, "nope"));
    let nobody = Receiver::answering(&[]).await?;
    stage.known.channel("nobody", webhook(&nobody, "soc"));
    drop(nobody);
    let cases = [
        ("refuses", Reason::ReceiverRefused, false),
        ("secretless", Reason::SecretMissing, false),
        ("unknown", Reason::ChannelUnknown, false),
        ("nobody", Reason::ChannelUnreachable, true),
    ];
    for (channel, expected, may_be_mended) in cases {
        let mut run = Run::of(&stage, tell(&[channel], None))?;
        let Outcome::Failed { reason, message, transient, .. } = run.perform().await else {
            anyhow::bail!("{:?}", run.record)
        };
        assert_eq!((reason, transient), (expected, may_be_mended), "{message}");
        assert!(message.contains(&format!("channel {channel}")) && !message.contains(KEY), "{message}");
    }
    let mut all = Run::of(&stage, tell(&["refuses", "nobody"], None))?;
    assert!(matches!(all.perform().await, Outcome::Failed { transient: true, .. }), "one of them may be mended");
    Ok(())
}

#[tokio::test]
async fn the_secrets_of_a_namespaces_playbook_are_in_its_own_namespace() -> Result<()> {
    let receiver = Receiver::answering(&[(200, "")]).await?;
    let kind = tell(&["soc"], None);
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    stage.known.channel("soc", webhook(&receiver, "soc"));
    let mut run = Run::of(&stage, kind.clone())?;
    run.playbook = PlaybookKind::Playbook;
    let message = run.refused(Reason::Forbidden).await?;
    assert!(message.contains("channel soc") && message.contains(stage.namespace.name()), "{message}");

    stage.grant_secrets_here(&kind).await?;
    stage.secret(&stage.namespace, "soc", KEY).await?;
    run.lose_record();
    run.succeed().await?;
    assert_eq!(receiver.calls().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_tells_nobody() -> Result<()> {
    let receiver = Receiver::answering(&[(200, "")]).await?;
    let stage = stage(&Recorder::new()).await?;
    stage.known.channel("soc", webhook(&receiver, "soc"));
    let (outcome, writes) = Run::of(&stage, tell(&["soc"], Some("look!")))?.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!((writes.len(), writes[0].verb, &writes[0].body["text"]), (1, "send", &"look!".into()));
    assert!(!format!("{writes:?}").contains(KEY));
    assert!(receiver.calls().is_empty());
    Ok(())
}

#[tokio::test]
async fn every_right_that_it_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    partly(&recorder).await?;
    assert_all_rights_used(&tell(&[], None), &recorder);
    Ok(())
}
