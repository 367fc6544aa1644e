//! Pods on their node's network.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use quell_actions::quarantine;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{HostNetwork, Quarantine};
use quell_tests::Recorder;
use quell_tests::fixtures::{self, APP, PodCarrier as _};
use quell_tests::wait::{self, DEADLINE};
use serde_json::json;

use super::{denies, mended, mesh, pod, stage, twice};
use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, marks, written};

fn kind(host_network: HostNetwork) -> StepKind {
    StepKind::Quarantine(Quarantine { host_network, ..Quarantine::default() })
}

#[tokio::test]
async fn a_pod_on_its_nodes_network_is_refused_because_no_policy_covers_it() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop").host_network()).await?;
    let mut run = Run::of(&stage, super::kind())?.about(&there);
    let message = run.refused(Reason::TargetUnsupported).await?;
    assert!(message.contains("hostNetwork: Cordon or Terminate"), "{message}");
    assert_eq!(stage.writes(), 0);
    Ok(())
}

/// A node of its own, since others need theirs.
async fn node(stage: &Stage) -> Result<(Api<Node>, Node)> {
    let nodes: Api<Node> = Api::all(stage.namespace.client().clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": stage.namespace.name()}}))?;
    let node = nodes.create(&PostParams::default(), &node).await?;
    Ok((nodes, node))
}

async fn cordoned(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&kind(HostNetwork::Cordon), recorder).await?;
    let (nodes, node) = node(&stage).await?;
    let name = node.name_any();
    let there = stage.namespace.create_object(&fixtures::pod("shop").host_network().on_node(&name)).await?;
    let mut run = Run::of(&stage, kind(HostNetwork::Cordon))?.about(&there);
    run.succeed().await?;
    assert!(run.record.message.contains(&format!("node {name} is cordoned")), "{}", run.record.message);
    assert_eq!(run.output(quarantine::HOST_NETWORK), "Cordon");
    let receipt = run.receipt()?;
    assert_eq!(quarantine::cut_off(&receipt).count(), 0, "it is no quarantine");
    let once = nodes.get(&name).await?;
    assert_eq!(once.spec.clone().and_then(|spec| spec.unschedulable), Some(true));

    run.lose_record();
    run.succeed().await?;
    assert_eq!(run.receipt()?, receipt);
    let other = Run::of(&stage, kind(HostNetwork::Cordon))?.about(&there).named("run-2");
    let mut other = other;
    other.succeed().await?;
    assert!(other.record.message.contains("cordoned already, by run-1") && other.record.receipt.is_none());

    run.undone().await?;
    let after = nodes.get(&name).await?;
    assert!(marks(&after).is_empty() && after.spec.and_then(|spec| spec.unschedulable).is_none());
    run.undone().await?;
    let by_hand = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch(&name, &PatchParams::default(), &by_hand).await?;
    run.left_alone(Reason::ChangedSince).await?;
    nodes.delete(&name, &DeleteParams::default()).await?;
    run.left_alone(Reason::TargetNotFound).await?;
    Ok(())
}

#[tokio::test]
async fn its_node_is_cordoned_where_the_step_says_so_and_undo_uncordons_it() -> Result<()> {
    let recorder = Recorder::new();
    tokio::try_join!(
        twice(&recorder),
        mended(&recorder),
        denies::denied(&recorder),
        mesh::kept(&recorder),
        cordoned(&recorder)
    )?;
    assert_all_rights_used(&kind(HostNetwork::Cordon), &recorder);
    Ok(())
}

async fn terminated(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&kind(HostNetwork::Terminate), recorder).await?;
    let pods = stage.namespace.api::<Pod>();
    let there = pod(&stage, &fixtures::pod("shop").host_network()).await?;
    let mut run = Run::of(&stage, kind(HostNetwork::Terminate))?.about(&there);
    run.perform().await;
    assert!(marks(&pods.get("shop").await?).contains(&"quell.dev/remediation".to_owned()), "meant before it is done");
    run.succeed().await?;
    assert!(run.record.message.contains("was evicted"), "{}", run.record.message);
    wait::gone(&pods, "shop", DEADLINE).await?;
    run.left_alone(Reason::NothingToUndo).await?;

    // It died between the eviction and the record.
    let mut again = Run::of(&stage, kind(HostNetwork::Terminate))?.about(&there);
    again.record.receipt = run.record.receipt.clone();
    again.succeed().await?;

    let kept = pod(&stage, &fixtures::pod("kept").host_network()).await?;
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"name": "kept"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {APP: "kept"}}},
    }))?;
    stage.namespace.create_object(&budget).await?;
    let mut run = Run::of(&stage, kind(HostNetwork::Terminate))?.about(&kept);
    run.succeed().await?;
    assert!(run.record.message.contains("PodDisruptionBudget forbids"), "{}", run.record.message);
    wait::gone(&pods, "kept", DEADLINE).await?;
    Ok(())
}

#[tokio::test]
async fn it_is_ended_where_the_step_says_so_even_against_a_disruption_budget() -> Result<()> {
    let recorder = Recorder::new();
    tokio::try_join!(
        twice(&recorder),
        mended(&recorder),
        denies::denied(&recorder),
        mesh::kept(&recorder),
        terminated(&recorder)
    )?;
    assert_all_rights_used(&kind(HostNetwork::Terminate), &recorder);
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_of_its_end_ends_nothing() -> Result<()> {
    let stage = Stage::of(&kind(HostNetwork::Terminate), &Recorder::new()).await?;
    let there = pod(&stage, &fixtures::pod("shop").host_network()).await?;
    let run = Run::of(&stage, kind(HostNetwork::Terminate))?.about(&there);
    let (_, writes) = run.rehearse().await;
    let verbs: Vec<_> = writes.iter().map(|write| write.verb).collect();
    assert_eq!(verbs, ["patch", "evict"]);
    assert_eq!(written(&stage.namespace.api::<Pod>().get("shop").await?)?, written(&there)?);
    Ok(())
}
