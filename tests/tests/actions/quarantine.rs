//! `quarantine`.

mod denies;
mod host_network;
mod kept;
mod mesh;
mod others;
mod owner;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use quell_actions::quarantine::{FULL, Profile};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::Quarantine;
use quell_playbooks::{Outcome, TargetState};
use quell_tests::Recorder;
use quell_tests::fixtures::{self, APP, Described as _, Scaled as _, deployment, service};
use quell_tests::wait::{self, DEADLINE, eventually};
use serde_json::{Value, json};

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, before, marks, written};

/// Name of the policy of the profile that denies everything.
const POLICY: &str = "quell-quarantine-full";

fn is_intact(policy: &NetworkPolicy) -> bool {
    Profile::of(&Quarantine::default()).is_said_by(policy)
}

fn kind() -> StepKind {
    StepKind::Quarantine(Quarantine::default())
}

async fn stage() -> Result<Stage> {
    Stage::of(&kind(), &Recorder::new()).await
}

async fn pod(stage: &Stage, pod: &Pod) -> Result<Pod> {
    let name = pod.name_any();
    stage.namespace.create_object(pod).await?;
    wait::pod_ready(&stage.namespace.api(), &name, DEADLINE).await
}

async fn policy(stage: &Stage) -> Result<NetworkPolicy> {
    Ok(stage.namespace.api::<NetworkPolicy>().get(POLICY).await?)
}

#[tokio::test]
async fn the_pod_leaves_its_service_and_its_owner_starts_a_clean_one() -> Result<()> {
    let stage = stage().await?;
    stage.namespace.create_object(&deployment("shop").replicas(2)).await?;
    stage.namespace.create_object(&service("shop")).await?;
    wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let pods = stage.namespace.api::<Pod>();
    let selected = ListParams::default().labels(&format!("{APP}=shop"));
    let bad = pods.list(&selected).await?.items.into_iter().next().context("no pod")?;
    endpoints(&stage, |names| names.len() == 2 && names.contains(&bad.name_any())).await?;

    Run::of(&stage, kind())?.about(&bad).succeed().await?;

    endpoints(&stage, |names| names.len() == 2 && !names.contains(&bad.name_any())).await?;
    let clean = pods.list(&selected).await?.items;
    assert!(clean.len() == 2 && clean.iter().all(|pod| pod.uid() != bad.uid()), "{clean:#?}");
    let kept = eventually(DEADLINE, "the pod is released by its owner, and stays", async || {
        let pod = pods.get(&bad.name_any()).await?;
        Ok(pod.owner_references().is_empty().then_some(pod))
    })
    .await?;
    assert_eq!((kept.uid(), &kept.labels()[names::QUARANTINE]), (bad.uid(), &FULL.to_owned()));
    Ok(())
}

async fn endpoints(stage: &Stage, wanted: impl Fn(&[String]) -> bool) -> Result<()> {
    let slices = stage.namespace.api::<EndpointSlice>();
    let of_service = ListParams::default().labels("kubernetes.io/service-name=shop");
    eventually(DEADLINE, "the Service sends to the right pods", async || {
        let slices = slices.list(&of_service).await?.items;
        let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
        let ready = endpoints.filter(|one| one.conditions.as_ref().and_then(|it| it.ready) == Some(true));
        let names: Vec<String> = ready.filter_map(|one| one.target_ref?.name).collect();
        ensure!(wanted(&names), "{names:?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn the_mark_and_what_was_there_before_come_with_the_effect() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop").label("tier", "web")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let was = there.labels().clone();
    assert_eq!(was["tier"], "web");
    let patches = stage.recorder.count(|request| request.verb.as_str() == "patch" && request.name == "shop");
    assert_eq!(patches, 1, "one write, so all that is there came with it");

    let there = stage.namespace.api::<Pod>().get("shop").await?;
    assert_eq!(before(&there)?, json!({"labels": was}));
    assert_eq!(there.annotations()[names::REMEDIATION], "run-1");
    assert_eq!(there.annotations()[names::STEP], "act");
    assert_eq!(there.annotations()[names::FINDING], format!("{}/finding-1", stage.namespace.name()));
    let labels = [(names::QUARANTINE, FULL), (names::REMEDIATION, "run-1")];
    assert_eq!(there.labels(), &BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned()))));
    assert!(is_intact(&policy(&stage).await?));
    Ok(())
}

#[tokio::test]
async fn done_twice_is_once() -> Result<()> {
    let recorder = Recorder::new();
    twice(&recorder).await
}

async fn twice(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&kind(), recorder).await?;
    let pods = stage.namespace.api::<Pod>();
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let (receipt, once) = (run.receipt()?, pods.get("shop").await?);
    let (policy_once, writes) = (policy(&stage).await?, stage.writes());

    // The process died before it could write its record: once with the caches behind, once with them up to date.
    run.lose_record();
    run.succeed().await?;
    assert_eq!(run.receipt()?, receipt);
    run.lose_record();
    run.knows(&once);
    run.succeed().await?;
    assert_eq!(run.receipt()?, receipt);
    assert_eq!(stage.writes(), writes);
    assert_eq!(written(&pods.get("shop").await?)?, written(&once)?);
    assert_eq!(written(&policy(&stage).await?)?, written(&policy_once)?);

    run.undone().await?;
    let after = pods.get("shop").await?;
    assert_eq!(after.labels(), there.labels());
    let writes = stage.writes();
    run.undone().await?;
    assert_eq!(stage.writes(), writes, "undone twice is once");
    Ok(())
}

#[tokio::test]
async fn undo_gives_back_every_label_and_leaves_no_mark() -> Result<()> {
    let stage = stage().await?;
    let annotated = fixtures::pod("annotated").annotation("team", "shop").label("example.com/a_b", "1");
    for object in [fixtures::pod("plain"), fixtures::pod("bare"), annotated] {
        let mut there = pod(&stage, &object).await?;
        if there.name_any() == "bare" {
            // Some labels come from the node.
            let none: BTreeMap<_, _> = there.labels().keys().map(|key| (key.clone(), Value::Null)).collect();
            there = stage.meddle("bare", json!({"metadata": {"labels": none}})).await?;
            assert!(there.metadata.labels.is_none() && there.metadata.annotations.is_none());
        }
        let mut run = Run::of(&stage, kind())?.about(&there);
        run.succeed().await?;
        assert!(marks(&stage.namespace.api::<Pod>().get(&there.name_any()).await?).len() >= 4);
        run.undone().await?;
        let after = stage.namespace.api::<Pod>().get(&there.name_any()).await?;
        assert_eq!(after.labels(), there.labels());
        assert_eq!(after.annotations(), there.annotations());
    }
    Ok(())
}

#[tokio::test]
async fn undo_keeps_what_others_have_added_and_leaves_alone_what_they_have_lifted() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    stage.meddle::<Pod>("shop", json!({"metadata": {"labels": {"case": "42"}}})).await?;
    run.undone().await?;
    let after = stage.namespace.api::<Pod>().get("shop").await?;
    let mut expected = there.labels().clone();
    expected.insert("case".to_owned(), "42".to_owned());
    assert_eq!(after.labels(), &expected);

    let there = pod(&stage, &fixtures::pod("lifted")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let lifted = json!({"metadata": {"labels": {names::QUARANTINE: null, "app": "else"}}});
    let lifted = stage.meddle::<Pod>("lifted", lifted).await?;
    let message = run.left_alone(Reason::ChangedSince).await?;
    assert!(message.contains("lifted by somebody else"), "{message}");
    assert_eq!(written(&stage.namespace.api::<Pod>().get("lifted").await?)?, written(&lifted)?);
    Ok(())
}

#[tokio::test]
async fn a_quarantine_of_another_run_is_neither_doubled_nor_lifted() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut first = Run::of(&stage, kind())?.about(&there);
    first.succeed().await?;
    let once = stage.namespace.api::<Pod>().get("shop").await?;

    let mut second = Run::of(&stage, kind())?.about(&there).named("run-2");
    second.succeed().await?;
    assert!(second.record.receipt.is_none(), "{:?}", second.record);
    assert!(second.record.message.contains("run-1"), "{}", second.record.message);
    assert_eq!(written(&stage.namespace.api::<Pod>().get("shop").await?)?, written(&once)?);

    second.record.receipt = first.record.receipt.clone();
    second.left_alone(Reason::QuarantinedByAnother).await?;
    assert_eq!(written(&stage.namespace.api::<Pod>().get("shop").await?)?, written(&once)?);
    Ok(())
}

#[tokio::test]
async fn labels_and_annotations_that_the_caches_do_not_know_yet_are_kept_too() -> Result<()> {
    let stage = stage().await?;
    let changes =
        [("labels", json!({"labels": {"version": "2"}})), ("annotations", json!({"annotations": {"a": "b"}}))];
    for (name, change) in changes {
        let known = pod(&stage, &fixtures::pod(name)).await?;
        let there = stage.meddle::<Pod>(name, json!({"metadata": change})).await?;
        let mut run = Run::of(&stage, kind())?.about(&known);
        run.succeed().await?;
        assert_eq!(stage.namespace.api::<Pod>().get(name).await?.labels().len(), 2);
        run.undone().await?;
        let after = stage.namespace.api::<Pod>().get(name).await?;
        assert_eq!((after.labels(), after.annotations()), (there.labels(), there.annotations()));
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_gone_or_replaced_is_left_alone() -> Result<()> {
    let stage = stage().await?;
    let pods = stage.namespace.api::<Pod>();
    let old = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&old);
    pods.delete("shop", &DeleteParams::default()).await?;
    wait::gone(&pods, "shop", DEADLINE).await?;
    run.refused(Reason::TargetNotFound).await?;

    let new = pod(&stage, &fixtures::pod("shop")).await?;
    // The caches know the old one still.
    let message = run.refused(Reason::TargetReplaced).await?;
    assert!(message.contains(&new.uid().context("no UID")?), "{message}");
    run.world.target = TargetState::Replaced { uid: new.uid().context("no UID")? };
    run.refused(Reason::TargetReplaced).await?;
    run.world.target = TargetState::Gone;
    run.refused(Reason::TargetNotFound).await?;
    run.world.target = TargetState::NotAPod;
    run.refused(Reason::TargetUnsupported).await?;
    assert_eq!(written(&pods.get("shop").await?)?, written(&new)?);
    Ok(())
}

#[tokio::test]
async fn undo_of_a_pod_that_is_gone_says_so() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    stage.namespace.api::<Pod>().delete("shop", &DeleteParams::default()).await?;
    wait::gone(&stage.namespace.api::<Pod>(), "shop", DEADLINE).await?;
    // Nothing of it is left, and whether it was lifted before that can't be told from a pod that is gone.
    run.undone().await?;
    Ok(())
}

#[tokio::test]
async fn a_policy_that_somebody_opened_is_mended_and_says_what_was_there() -> Result<()> {
    mended(&Recorder::new()).await
}

async fn mended(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&kind(), recorder).await?;
    let open = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": POLICY},
        "spec": {"podSelector": {"matchLabels": {names::QUARANTINE: FULL}}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]}});
    let open: NetworkPolicy = serde_json::from_value(open)?;
    assert!(!is_intact(&open));
    stage.namespace.create_object(&open).await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    Run::of(&stage, kind())?.about(&there).succeed().await?;
    let mended = policy(&stage).await?;
    assert!(is_intact(&mended), "{:?}", mended.spec);
    assert_eq!(before(&mended)?["spec"]["egress"], json!([{}]));
    assert_eq!(mended.annotations()[names::REMEDIATION], "run-1");
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_write_and_writes_nothing() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let run = Run::of(&stage, kind())?.about(&there);
    for _ in 0..2 {
        let (outcome, writes) = run.rehearse().await;
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        let said: Vec<String> = writes.iter().map(|write| format!("{} {}", write.verb, write.object)).collect();
        let namespace = stage.namespace.name();
        assert_eq!(said, [format!("create NetworkPolicy {namespace}/{POLICY}"), format!("patch Pod {namespace}/shop")]);
    }
    assert_eq!(written(&stage.namespace.api::<Pod>().get("shop").await?)?, written(&there)?);
    assert!(stage.namespace.api::<NetworkPolicy>().get_opt(POLICY).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn every_right_that_it_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    tokio::try_join!(twice(&recorder), mended(&recorder), denies::denied(&recorder), mesh::kept(&recorder))?;
    assert_all_rights_used(&kind(), &recorder);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_found_cut_off_is_told_of_as_if_the_answer_had_come() -> Result<()> {
    let stage = stage().await?;
    stage.namespace.create_object(&fixtures::deployment("shop")).await?;
    wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let there = stage.namespace.api::<Pod>().list(&ListParams::default()).await?.items.remove(0);
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let (message, receipt) = (run.record.message.clone(), run.receipt()?);
    assert!(message.contains("ReplicaSet"), "{message}");
    let pods = stage.namespace.api::<Pod>();
    let released = |pod: &Pod| pod.owner_references().is_empty();
    wait::until_present(&pods, &there.name_any(), "released", DEADLINE, released).await?;

    run.lose_record();
    let mut run = run.about(&pods.get(&there.name_any()).await?);
    run.succeed().await?;
    assert_eq!((run.record.message.clone(), run.receipt()?), (message, receipt));
    let owner = quell_actions::quarantine::released_by(&pods.get(&there.name_any()).await?).context("no owner")?;
    assert_eq!(owner.kind, "ReplicaSet");
    Ok(())
}
