//! What profiles leave open, and policies that deny whatever others allow.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, TypeMeta};
use kube::core::{ApiResource, GroupVersionKind};
use quell_actions::quarantine::{self, DenyKind, FULL, Kept, Profile};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{Isolate, Method, Quarantine};
use quell_tests::fixtures;
use quell_tests::{ControlPlane, Recorder, policy_kinds};
use serde_json::json;
use tokio::sync::Mutex;

use super::{is_intact, kind, pod, policy, stage};
use crate::run::Run;
use crate::stage::Stage;

#[tokio::test]
async fn profiles_with_other_exceptions_stand_beside_each_other() -> Result<()> {
    let forensics: Quarantine = serde_json::from_value(json!({
        "allowDNS": true, "allow": [{"cidr": "10.9.0.0/24", "except": ["10.9.0.7/32"], "direction": "Ingress",
            "ports": [{"port": 22}, {"port": 8000, "endPort": 8010}]}, {"podSelector": {"matchLabels": {"app": "forensics"}}}],
    }))?;
    let kind = StepKind::Quarantine(forensics.clone());
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let profile = Profile::of(&forensics);
    let one = pod(&stage, &fixtures::pod("one")).await?;
    Run::of(&stage, kind)?.about(&one).succeed().await?;
    let two = pod(&stage, &fixtures::pod("two")).await?;
    Run::of(&stage, super::kind())?.about(&two).named("run-2").succeed().await?;

    let pods = stage.namespace.api::<Pod>();
    assert_eq!(pods.get("one").await?.labels()[names::QUARANTINE], profile.name());
    assert_eq!(pods.get("two").await?.labels()[names::QUARANTINE], FULL);
    let there = stage.namespace.api::<NetworkPolicy>().get(&profile.policy_name()).await?;
    assert!(profile.is_said_by(&there), "{:#?}", there.spec);
    assert!(is_intact(&policy(&stage).await?));
    Ok(())
}

/// The same scenario with each kind that denies, and what is served decides which.
pub(super) async fn denied(recorder: &Recorder) -> Result<()> {
    // One of the kinds is of the whole cluster.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let control_plane = ControlPlane::shared().await?;
    let kinds = vec![policy_kinds::cilium()?, policy_kinds::calico()?, policy_kinds::cluster()?];
    quell_tests::crds::install_these(control_plane, kinds).await?;
    for kind in [DenyKind::Cilium, DenyKind::Calico, DenyKind::ClusterNetworkPolicy] {
        let mut stage = Stage::of(&super::kind(), recorder).await?;
        stage.known.deny_kinds = [kind].into();
        // A profile of its own, since one of these is of the whole cluster.
        let parameters = Quarantine { isolate: Isolate::Ingress, method: Method::DenyPolicy, ..Quarantine::default() };
        let there = pod(&stage, &fixtures::pod("shop")).await?;
        let mut run = Run::of(&stage, StepKind::Quarantine(parameters.clone()))?.about(&there);
        run.succeed().await?;
        let receipt = run.receipt()?;
        assert_eq!(quarantine::denied_by(&receipt), Some(kind));

        let wanted = quarantine::deny_policy(kind, stage.namespace.name(), &parameters, &run.mark);
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::try_from(&TypeMeta {
                api_version: wanted["apiVersion"].as_str().unwrap_or_default().to_owned(),
                kind: wanted["kind"].as_str().unwrap_or_default().to_owned(),
            })?,
            match kind {
                DenyKind::Cilium => "ciliumnetworkpolicies",
                DenyKind::Calico => "networkpolicies",
                DenyKind::ClusterNetworkPolicy => "clusternetworkpolicies",
            },
        );
        let client = stage.namespace.client().clone();
        let api: Api<DynamicObject> = if kind == DenyKind::ClusterNetworkPolicy {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, stage.namespace.name(), &resource)
        };
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        assert_eq!(api.get(name).await?.data["spec"], wanted["spec"]);

        // Somebody takes the edge off it, and a crash loses the record: it is made again as it was.
        let blunt = json!({"spec": {"ingress": null, "ingressDeny": null}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(blunt)).await?;
        assert!(matches!(run.keep(&parameters, false).await?, Kept::Restored { .. }));
        assert_eq!(api.get(name).await?.data["spec"], wanted["spec"]);
        run.lose_record();
        run.succeed().await?;
        assert_eq!(run.receipt()?, receipt);
        api.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_that_denies_whatever_others_allow_stands_beside_the_network_policy() -> Result<()> {
    denied(&Recorder::new()).await
}

#[tokio::test]
async fn a_deny_policy_that_must_be_and_can_not_is_an_error_and_one_that_may_be_is_done_without() -> Result<()> {
    let stage = stage().await?;
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let must = StepKind::Quarantine(Quarantine { method: Method::DenyPolicy, ..Quarantine::default() });
    let message = Run::of(&stage, must)?.about(&there).refused(Reason::TargetUnsupported).await?;
    assert!(message.contains("method: Auto"), "{message}");
    assert_eq!(stage.writes(), 0);
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    assert_eq!(quarantine::denied_by(&run.receipt()?), None);
    Ok(())
}
