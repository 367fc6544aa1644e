//! Other pods that run the same image.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use quell_actions::quarantine;
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::Workload;
use quell_crds::v1alpha1::step::{Others, Owner, Quarantine};
use quell_playbooks::PodFacts;
use quell_tests::Recorder;
use quell_tests::fixtures::{self, PodCarrier as _, Scaled as _, deployment};
use quell_tests::wait::{self, DEADLINE};
use serde_json::json;

use super::pod;
use crate::run::Run;
use crate::stage::{Stage, marks};

fn kind(max_others: Option<i32>) -> StepKind {
    StepKind::Quarantine(Quarantine { others: Others::SameDigest, max_others, ..Quarantine::default() })
}

/// A pod that nothing owns, as the caches know it.
fn known(pod: &Pod) -> (PodFacts, Workload) {
    let workload = Workload { kind: "Pod".to_owned(), ..Workload::default() };
    (quarantine::facts(pod), workload)
}

async fn is_cut_off(stage: &Stage, name: &str) -> Result<bool> {
    Ok(stage.namespace.api::<Pod>().get(name).await?.labels().contains_key(names::QUARANTINE))
}

#[tokio::test]
async fn others_are_cut_off_as_far_as_is_allowed_and_each_gets_its_labels_back() -> Result<()> {
    let mut stage = Stage::of(&kind(Some(2)), &Recorder::new()).await?;
    let shop = pod(&stage, &fixtures::pod("shop")).await?;
    let mut all = vec![known(&shop)];
    for name in ["a", "b", "c"] {
        all.push(known(&pod(&stage, &fixtures::pod(name)).await?));
    }
    all.push(known(&pod(&stage, &fixtures::pod("on-host").host_network()).await?));
    stage.known.same_digest = Some(all);
    let mut run = Run::of(&stage, kind(Some(2)))?.about(&shop);
    run.succeed().await?;
    for (name, cut) in [("shop", true), ("a", true), ("b", true), ("c", false), ("on-host", false)] {
        assert_eq!(is_cut_off(&stage, name).await?, cut, "{name}");
    }
    let message = &run.record.message;
    assert!(message.contains("a is cut off, too") && message.contains("1 more run this image"), "{message}");
    let receipt = run.receipt()?;
    let names: Vec<_> = receipt.also.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(quarantine::cut_off(&receipt).count(), 3);

    let message = run.undone().await?;
    assert!(
        ["shop", "a", "b"].iter().all(|name| message.contains(&format!("/{name} has its labels back"))),
        "{message}"
    );
    for name in ["shop", "a", "b", "c"] {
        let there = stage.namespace.api::<Pod>().get(name).await?;
        assert!(marks(&there).is_empty() && there.labels().contains_key(fixtures::APP), "{name}: {:?}", there.metadata);
    }
    Ok(())
}

#[tokio::test]
async fn pods_that_are_started_since_are_not_taken_for_more_of_them_after_a_crash() -> Result<()> {
    let mut stage = Stage::of(&kind(None), &Recorder::new()).await?;
    let shop = pod(&stage, &fixtures::pod("shop")).await?;
    let other = pod(&stage, &fixtures::pod("other")).await?;
    stage.known.same_digest = Some(vec![known(&shop), known(&other)]);
    let mut run = Run::of(&stage, kind(None))?.about(&shop);
    run.succeed().await?;
    let receipt = run.receipt()?;
    run.lose_record();

    let clone = pod(&stage, &fixtures::pod("clone")).await?;
    stage.known.same_digest = Some(vec![known(&shop), known(&other), known(&clone)]);
    let mut again = Run::of(&stage, kind(None))?.about(&shop);
    let writes = stage.writes();
    again.succeed().await?;
    assert_eq!(again.receipt()?, receipt);
    assert_eq!(stage.writes(), writes);
    assert!(!is_cut_off(&stage, "clone").await?);
    Ok(())
}

/// Before it is cut off, whoever holds the pod's rights writes its annotations.
#[tokio::test]
async fn others_that_a_pod_named_beforehand_are_not_cut_off_by_a_step_that_asks_for_none() -> Result<()> {
    let asks = StepKind::Quarantine(Quarantine { owner: Some(Owner::Pause), ..Quarantine::default() });
    let stage = Stage::of(&asks, &Recorder::new()).await?;
    let innocent = pod(&stage, &fixtures::pod("innocent")).await?;
    stage.namespace.create_object(&deployment("shop").replicas(1)).await?;
    let shop = wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let there = stage.namespace.api::<Pod>().list(&ListParams::default().labels("app=shop")).await?;
    let name = there.items.first().map(ResourceExt::name_any).unwrap_or_default();
    let forged = json!({"pods": [{"name": "innocent", "uid": innocent.uid()}]}).to_string();
    let bad: Pod = stage.meddle(&name, json!({"metadata": {"annotations": {names::OTHERS: forged}}})).await?;
    let mut run = Run::of(&stage, asks)?.of_workload(&shop).about(&bad);
    run.succeed().await?;
    // The process died before it could write its record, and the next one looks at the pod.
    run.lose_record();
    run.succeed().await?;
    let changed: Vec<_> = run.receipt()?.also.into_iter().map(|one| one.kind).collect();
    assert_eq!(changed, ["Deployment"]);
    assert!(!is_cut_off(&stage, "innocent").await?);
    run.undone().await?;
    assert!(marks(&stage.namespace.api::<Pod>().get(&name).await?).is_empty());
    Ok(())
}

#[tokio::test]
async fn one_that_is_gone_or_under_another_run_is_told_and_the_rest_goes_on() -> Result<()> {
    let mut stage = Stage::of(&kind(None), &Recorder::new()).await?;
    let shop = pod(&stage, &fixtures::pod("shop")).await?;
    let (gone, taken) = (pod(&stage, &fixtures::pod("gone")).await?, pod(&stage, &fixtures::pod("taken")).await?);
    let rest = pod(&stage, &fixtures::pod("rest")).await?;
    stage.known.same_digest = Some([&shop, &gone, &taken, &rest].map(known).into());
    stage.namespace.api::<Pod>().delete("gone", &DeleteParams::default()).await?;
    wait::gone(&stage.namespace.api::<Pod>(), "gone", DEADLINE).await?;
    Run::of(&stage, super::kind())?.about(&taken).named("run-2").succeed().await?;

    let mut run = Run::of(&stage, kind(None))?.about(&shop);
    run.succeed().await?;
    let message = &run.record.message;
    assert!(message.contains("gone is gone") && message.contains("taken was cut off already, by run-2"), "{message}");
    assert!(is_cut_off(&stage, "rest").await?);
    run.undone().await?;
    assert!(is_cut_off(&stage, "taken").await?, "the other run's stays");
    Ok(())
}

#[tokio::test]
async fn where_the_digest_is_not_known_none_is_cut_off_and_that_is_told() -> Result<()> {
    let stage = Stage::of(&kind(None), &Recorder::new()).await?;
    let shop = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind(None))?.about(&shop);
    run.succeed().await?;
    assert!(run.record.message.contains("none was cut off"), "{}", run.record.message);
    assert!(is_cut_off(&stage, "shop").await?);
    Ok(())
}
