//! What the pod's owner does, and how it is kept from starting another.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Resource, ResourceExt};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{Owner, Quarantine};
use quell_crds::v1alpha1::{StepKind, StepState, Workload};
use quell_playbooks::Outcome;
use quell_tests::fixtures::{self, APP, PodCarrier as _, Scaled as _, deployment};
use quell_tests::wait::{self, DEADLINE, eventually};
use quell_tests::{ControlPlane, Recorder, policy_kinds};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{denies, mended, mesh, pod, twice};
use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used};

fn with(owner: Owner) -> StepKind {
    StepKind::Quarantine(Quarantine { owner: Some(owner), ..Quarantine::default() })
}

/// A run about a pod of that workload.
fn run<'a, K: Resource<DynamicType = ()>>(stage: &'a Stage, pod: &Pod, workload: &K) -> Result<Run<'a>> {
    let mut run = Run::of(stage, with(Owner::Pause))?.about(pod);
    run.world.workload = Some(Workload {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        namespace: stage.namespace.name().to_owned(),
        name: workload.name_any(),
        uid: workload.uid().unwrap_or_default(),
    });
    Ok(run)
}

async fn pods(stage: &Stage) -> Result<Vec<Pod>> {
    let selected = ListParams::default().labels(&format!("{APP}=shop"));
    Ok(stage.namespace.api::<Pod>().list(&selected).await?.items)
}

/// The number of pods that a workload wants, and the pods that are there.
async fn wants<K>(stage: &Stage, field: &str, number: i64, count: usize) -> Result<Vec<Pod>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let found = serde_json::to_value(stage.namespace.api::<K>().get("shop").await?)?;
    ensure!(found["spec"][field] == json!(number), "{:?}", found["spec"][field]);
    eventually(DEADLINE, "as many pods as are wanted", async || {
        let there = pods(stage).await?;
        ensure!(there.len() == count, "{:?}", there.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        Ok(Some(there))
    })
    .await
}

#[tokio::test]
async fn a_paused_deployment_has_one_replica_less_and_no_clone_and_gets_it_back() -> Result<()> {
    paused_deployment(&Recorder::new()).await
}

async fn paused_deployment(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&with(Owner::Pause), recorder).await?;
    stage.namespace.create_object(&deployment("shop").replicas(2)).await?;
    let shop = wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let there = pods(&stage).await?;
    let [bad, _] = there.as_slice() else { anyhow::bail!("{there:#?}") };
    let mut run = run(&stage, bad, &shop)?;
    // Containment doesn't wait for the owner, which may be quick.
    let (Outcome::Pending { receipt: Some(receipt), .. } | Outcome::Done { receipt: Some(receipt), .. }) =
        run.perform().await
    else {
        anyhow::bail!("{:?}", run.record)
    };
    assert!(stage.namespace.api::<Pod>().get(&bad.name_any()).await?.labels().contains_key(names::QUARANTINE));
    assert_eq!(receipt.kind, "Pod");
    run.succeed().await?;
    assert!(run.record.message.contains("Deployment shop was lowered from 2 to 1 replicas"), "{}", run.record.message);
    let receipt = run.receipt()?;
    assert_eq!((receipt.also[0].kind.as_str(), &receipt.also[0].before["replicas"]), ("Deployment", &json!(2)));
    let left = wants::<Deployment>(&stage, "replicas", 1, 1).await?;
    // Which of two clean pods of nearly the same age goes is for the ReplicaSet to say.
    assert_ne!(left[0].uid(), bad.uid(), "the pod under quarantine is none of them");
    let victim = stage.namespace.api::<Pod>().get(&bad.name_any()).await?;
    assert_eq!(victim.uid(), bad.uid());

    // The process died before it could write its record.
    let writes = stage.writes();
    run.lose_record();
    run.succeed().await?;
    assert_eq!(run.receipt()?.also, receipt.also);
    assert_eq!(stage.writes(), writes);

    let message = run.undone().await?;
    assert!(message.contains("replicas: 2 again") && message.contains("pod-deletion-cost"), "{message}");
    let back = wants::<Deployment>(&stage, "replicas", 2, 2).await?;
    assert!(back.iter().any(|pod| pod.uid() == bad.uid()), "the pod itself is back, and no other was kept for it");
    let shop = stage.namespace.api::<Deployment>().get("shop").await?;
    assert!(!shop.annotations().contains_key(names::HELD_BACK));
    let writes = stage.writes();
    run.undone().await?;
    assert_eq!(stage.writes(), writes, "undone twice is once");
    Ok(())
}

#[tokio::test]
async fn each_run_gives_back_what_it_took_and_nothing_where_somebody_else_has_scaled() -> Result<()> {
    let stage = Stage::of(&with(Owner::Pause), &Recorder::new()).await?;
    stage.namespace.create_object(&deployment("shop").replicas(3)).await?;
    let shop = wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let there = pods(&stage).await?;
    let mut first = run(&stage, &there[0], &shop)?;
    let mut second = run(&stage, &there[1], &shop)?.named("run-2");
    first.succeed().await?;
    second.succeed().await?;
    wants::<Deployment>(&stage, "replicas", 1, 1).await?;
    first.undone().await?;
    wants::<Deployment>(&stage, "replicas", 2, 2).await?;
    stage.meddle::<Deployment>("shop", json!({"spec": {"replicas": 5}})).await?;
    let message = second.left_alone(Reason::ChangedSince).await?;
    assert!(message.contains("which has replicas: 5") && message.contains("its labels back"), "{message}");
    wants::<Deployment>(&stage, "replicas", 5, 5).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_a_replica_set_takes_back_stays_and_its_clone_goes() -> Result<()> {
    let kind = with(Owner::Replace);
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    stage.namespace.create_object(&deployment("shop").replicas(1)).await?;
    wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let bad = pods(&stage).await?.pop().context("no pod")?;
    let mut run = Run::of(&stage, kind)?.about(&bad);
    run.succeed().await?;
    let clone = eventually(DEADLINE, "another takes its place", async || Ok(pods(&stage).await?.pop())).await?;
    wait::pod_ready(&stage.namespace.api(), &clone.name_any(), DEADLINE).await?;
    assert_ne!(clone.uid(), bad.uid());
    run.undone().await?;
    let left = wants::<Deployment>(&stage, "replicas", 1, 1).await?;
    assert_eq!(left[0].uid(), bad.uid());
    Ok(())
}

/// A ReplicaSet that nothing owns.
async fn paused_replica_set(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&with(Owner::Pause), recorder).await?;
    let set: ReplicaSet = serde_json::from_value(replica_set(&json!({})))?;
    let set = stage.namespace.create_object(&set).await?;
    let there = wants::<ReplicaSet>(&stage, "replicas", 2, 2).await?;
    let mut run = run(&stage, &there[0], &set)?;
    run.succeed().await?;
    let left = wants::<ReplicaSet>(&stage, "replicas", 1, 1).await?;
    assert_ne!(left[0].uid(), there[0].uid());
    run.undone().await?;
    wants::<ReplicaSet>(&stage, "replicas", 2, 2).await?;
    Ok(())
}

fn replica_set(owner: &Value) -> Value {
    let labels = json!({APP: "shop"});
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "shop"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
        }},
    });
    if !owner.is_null() && *owner != json!({}) {
        set["metadata"]["ownerReferences"] = json!([owner]);
    }
    set
}

async fn paused_rollout(recorder: &Recorder) -> Result<()> {
    quell_tests::crds::install_these(ControlPlane::shared().await?, vec![policy_kinds::rollout()?]).await?;
    let stage = Stage::of(&with(Owner::Pause), recorder).await?;
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Rollout"), "rollouts");
    let rollouts: Api<DynamicObject> =
        Api::namespaced_with(stage.namespace.client().clone(), stage.namespace.name(), &resource);
    // Without a number it wants one.
    let rollout = DynamicObject::new("shop", &resource).data(json!({"spec": {"paused": false}}));
    let rollout = rollouts.create(&kube::api::PostParams::default(), &rollout).await?;
    let uid = rollout.uid().context("no UID")?;
    let owner = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop", "uid": uid, "controller": true});
    let set: ReplicaSet = serde_json::from_value(replica_set(&owner))?;
    stage.namespace.create_object(&set).await?;
    let there = wants::<ReplicaSet>(&stage, "replicas", 2, 2).await?;
    let mut run = Run::of(&stage, with(Owner::Pause))?.about(&there[0]);
    run.world.workload = Some(Workload {
        api_version: "argoproj.io/v1alpha1".to_owned(),
        kind: "Rollout".to_owned(),
        namespace: stage.namespace.name().to_owned(),
        name: "shop".to_owned(),
        uid,
    });
    run.succeed().await?;
    assert_eq!(rollouts.get("shop").await?.data["spec"], json!({"paused": false, "replicas": 0}));
    run.undone().await?;
    assert_eq!(rollouts.get("shop").await?.data["spec"], json!({"paused": false, "replicas": 1}));
    Ok(())
}

async fn paused_job(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&with(Owner::Pause), recorder).await?;
    // Its pods wait for a node, so that they don't end.
    let job = fixtures::job("shop").with_pod(|spec| {
        spec.node_selector = Some([("no".to_owned(), "such-node".to_owned())].into());
    });
    let job = stage.namespace.create_object(&job).await?;
    let there = wants::<Job>(&stage, "parallelism", 1, 1).await?;
    let mut run = run(&stage, &there[0], &job)?;
    run.succeed().await?;
    assert!(run.record.message.contains("Job shop was lowered from 1 to 0 pods in parallel"), "{}", run.record.message);
    wants::<Job>(&stage, "parallelism", 0, 0).await?;
    stage.namespace.api::<Pod>().get(&there[0].name_any()).await?;
    run.undone().await?;
    wants::<Job>(&stage, "parallelism", 1, 1).await?;
    Ok(())
}

#[tokio::test]
async fn replica_sets_rollouts_and_jobs_are_paused_by_one_and_every_right_is_used() -> Result<()> {
    let recorder = Recorder::new();
    tokio::try_join!(twice(&recorder), mended(&recorder), denies::denied(&recorder), mesh::kept(&recorder))?;
    tokio::try_join!(
        paused_deployment(&recorder),
        paused_replica_set(&recorder),
        paused_rollout(&recorder),
        paused_job(&recorder)
    )?;
    assert_all_rights_used(&with(Owner::Pause), &recorder);
    Ok(())
}

#[tokio::test]
async fn a_pod_stays_cut_off_where_its_owner_could_not_be_paused_and_the_step_fails() -> Result<()> {
    // With the rights of a step that doesn't pause.
    let stage = Stage::of(&with(Owner::Replace), &Recorder::new()).await?;
    stage.namespace.create_object(&deployment("shop").replicas(1)).await?;
    let shop = wait::rolled_out(&stage.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
    let bad = pods(&stage).await?.pop().context("no pod")?;
    let mut run = run(&stage, &bad, &shop)?;
    assert_eq!(run.settle().await?, StepState::Failed);
    assert_eq!(run.record.reason, Reason::Forbidden.to_string());
    assert!(
        run.record.message.contains("is cut off") && run.record.message.contains("could not be kept"),
        "{}",
        run.record.message
    );
    assert!(stage.namespace.api::<Pod>().get(&bad.name_any()).await?.labels().contains_key(names::QUARANTINE));
    run.undone().await?;
    assert_eq!(stage.namespace.api::<Pod>().get(&bad.name_any()).await?.labels(), bad.labels());
    Ok(())
}

#[tokio::test]
async fn what_the_owner_does_about_it_is_told_and_labels_stay_where_nothing_else_holds_it_back() -> Result<()> {
    let stage = Stage::of(&with(Owner::Replace), &Recorder::new()).await?;
    let keeps = "keeps its labels";
    let rows = [
        (None, "nothing takes its place", "nothing takes its place"),
        (Some(("apps/v1", "ReplicaSet")), "starts another", keeps),
        (
            Some(("apps/v1", "StatefulSet")),
            "takes its place until it is deleted",
            "takes its place until it is deleted",
        ),
        (Some(("apps/v1", "DaemonSet")), "starts another on node", keeps),
        (Some(("apps.kruise.io/v1alpha1", "CloneSet")), "isn't known to Quell", keeps),
        (Some(("batch.volcano.sh/v1alpha1", "Job")), "isn't known to Quell", keeps),
    ];
    let ways = |replace, pause| [(Owner::Replace, replace), (Owner::Pause, pause), (Owner::Keep, keeps)];
    let all =
        rows.into_iter().flat_map(|(owner, replace, pause)| ways(replace, pause).map(|(how, told)| (owner, how, told)));
    for (number, (owner, how, told)) in all.enumerate() {
        // One each, since undo leaves a note on a ReplicaSet's.
        let name = format!("shop-{number}");
        let mut there = pod(&stage, &fixtures::pod(&name)).await?;
        there.metadata.owner_references = owner.map(|(api_version, kind)| {
            let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
            vec![OwnerReference { api_version, kind, controller: Some(true), ..OwnerReference::default() }]
        });
        let mut run = Run::of(&stage, with(how))?.about(&there);
        run.succeed().await?;
        assert!(run.record.message.contains(told), "{}", run.record.message);
        let labels = stage.namespace.api::<Pod>().get(&name).await?.labels().clone();
        assert_eq!(labels.contains_key(APP), told == keeps, "{how:?} {owner:?}");
        run.undone().await?;
    }
    Ok(())
}
#[tokio::test]
async fn without_detach_the_labels_stay() -> Result<()> {
    let kind = StepKind::Quarantine(Quarantine { detach: Some(false), ..Quarantine::default() });
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind)?.about(&there);
    run.succeed().await?;
    let labels = stage.namespace.api::<Pod>().get("shop").await?.labels().clone();
    assert_eq!((labels.get(APP), labels.len()), (there.labels().get(APP), there.labels().len() + 2));
    assert!(run.record.message.contains("keeps its labels, its Services and its owner"), "{}", run.record.message);
    run.undone().await?;
    assert_eq!(stage.namespace.api::<Pod>().get("shop").await?.labels(), there.labels());
    Ok(())
}
