//! What somebody changes of a quarantine is put back.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use quell_actions::quarantine::Kept;
use quell_crds::names;
use quell_crds::v1alpha1::step::Quarantine;
use quell_tests::fixtures::{self, Described as _};
use quell_tests::wait::{self, DEADLINE};
use serde_json::json;

use super::{POLICY, is_intact, kind, pod, policy, stage};
use crate::run::Run;
use crate::stage::before;

#[tokio::test]
async fn what_somebody_takes_off_or_puts_back_is_undone_and_what_they_add_stays() -> Result<()> {
    let stage = stage().await?;
    let pods = stage.namespace.api::<Pod>();
    let there = pod(&stage, &fixtures::pod("shop").label("tier", "web")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let made = pods.get("shop").await?;
    assert_eq!(run.keep(&Quarantine::default(), false).await?, Kept::Stands);

    stage.meddle::<Pod>("shop", json!({"metadata": {"labels": {names::QUARANTINE: null, "case": "42"}}})).await?;
    let Kept::Restored { what, by } = run.keep(&Quarantine::default(), false).await? else { panic!("not put back") };
    assert!(what.contains("label quell.dev/quarantine was taken away"), "{what}");
    assert!(!by.is_empty() && !by.contains("quell"), "{by}");
    let mut labels = made.labels().clone();
    labels.insert("case".to_owned(), "42".to_owned());
    assert_eq!(pods.get("shop").await?.labels(), &labels);

    stage.meddle::<Pod>("shop", json!({"metadata": {"labels": {"tier": "web"}}})).await?;
    assert!(matches!(run.keep(&Quarantine::default(), false).await?, Kept::Restored { .. }));
    assert_eq!(pods.get("shop").await?.labels(), &labels, "what was the pod's own is what policies know it by");

    assert!(matches!(run.keep(&Quarantine::default(), true).await?, Kept::Restored { .. }));
    assert_eq!(pods.get("shop").await?.labels(), made.labels(), "where something is open, nothing added stays");
    Ok(())
}

#[tokio::test]
async fn the_record_is_believed_and_not_what_the_pod_says_was_there_before() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let forged = json!({"metadata": {"labels": {names::QUARANTINE: null}, "annotations": {names::BEFORE: "{\"labels\":{\"app\":\"bank\"}}"}}});
    stage.meddle::<Pod>("shop", forged).await?;
    run.keep(&Quarantine::default(), false).await?;
    assert_eq!(before(&stage.namespace.api::<Pod>().get("shop").await?)?, json!({"labels": there.labels()}));
    run.undone().await?;
    assert_eq!(stage.namespace.api::<Pod>().get("shop").await?.labels(), there.labels());
    Ok(())
}

#[tokio::test]
async fn a_policy_that_was_opened_or_deleted_is_put_back_although_it_was_known_to_stand() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    stage.meddle::<NetworkPolicy>(POLICY, json!({"spec": {"egress": [{}]}})).await?;
    assert!(matches!(run.keep(&Quarantine::default(), false).await?, Kept::Restored { .. }));
    assert!(is_intact(&policy(&stage).await?));

    let policies = stage.namespace.api::<NetworkPolicy>();
    stage.meddle::<NetworkPolicy>(POLICY, json!({"metadata": {"finalizers": null}})).await?;
    policies.delete(POLICY, &DeleteParams::default()).await?;
    wait::gone(&policies, POLICY, DEADLINE).await?;
    assert!(matches!(run.keep(&Quarantine::default(), false).await?, Kept::Restored { .. }));
    assert!(is_intact(&policy(&stage).await?));
    Ok(())
}
