//! Policies of a service mesh beside a quarantine.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::Role;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use quell_actions::quarantine::{AuthorizationPolicy, ISTIO, Kept, Profile, policy_name};
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{Isolate, Method, Quarantine};
use quell_playbooks::Outcome;
use quell_tests::fixtures;
use quell_tests::wait::{self, DEADLINE};
use quell_tests::{ControlPlane, Recorder, policy_kinds};
use serde_json::{Value, json};

use super::{kind, pod};
use crate::run::Run;
use crate::stage::{Stage, before, not_allowed};

async fn stage(recorder: &Recorder) -> Result<Stage> {
    quell_tests::crds::install_these(ControlPlane::shared().await?, vec![policy_kinds::istio()?]).await?;
    let mut stage = Stage::of(&kind(), recorder).await?;
    stage.known.serves_istio = true;
    Ok(stage)
}

fn full() -> Value {
    json!({"selector": {"matchLabels": {names::QUARANTINE: "full"}}, "action": "DENY", "rules": [{}]})
}

/// Written, taken the edge off, deleted, and each time put back.
pub(super) async fn kept(recorder: &Recorder) -> Result<()> {
    let stage = stage(recorder).await?;
    let policies = stage.namespace.api::<AuthorizationPolicy>();
    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    assert!(!run.record.message.contains("Istio"), "{}", run.record.message);
    let name = policy_name("full");
    let made = policies.get(&name).await?;
    assert_eq!(json!(made.spec), full());
    assert_eq!(made.labels()[names::QUARANTINE_POLICY], "full", "the guards and the watch know it by this");
    assert_eq!(made.annotations()[names::REMEDIATION], "run-1");
    assert_eq!(run.keep(&Quarantine::default(), false).await?, Kept::Stands);

    let blunt = json!({"spec": {"action": "ALLOW"}});
    policies.patch(&name, &PatchParams::default(), &Patch::Merge(blunt)).await?;
    let Kept::Restored { what, .. } = run.keep(&Quarantine::default(), false).await? else {
        anyhow::bail!("not put back")
    };
    assert!(what.contains("Istio"), "{what}");
    let mended = policies.get(&name).await?;
    assert_eq!(json!(mended.spec), full());
    assert_eq!(before(&mended)?["spec"]["action"], "ALLOW");
    let unmarked = json!({"metadata": {"labels": {names::QUARANTINE_POLICY: null}}});
    policies.patch(&name, &PatchParams::default(), &Patch::Merge(unmarked)).await?;
    assert!(matches!(run.keep(&Quarantine::default(), false).await?, Kept::Restored { .. }));
    assert_eq!(policies.get(&name).await?.labels()[names::QUARANTINE_POLICY], "full");
    policies.delete(&name, &DeleteParams::default()).await?;
    wait::gone(&policies, &name, DEADLINE).await?;
    assert!(matches!(run.keep(&Quarantine::default(), false).await?, Kept::Restored { .. }));
    assert_eq!(json!(policies.get(&name).await?.spec), full());

    // A crash loses the record, and it is found again.
    let receipt = run.receipt()?;
    run.lose_record();
    run.succeed().await?;
    assert_eq!(run.receipt()?, receipt);
    run.undone().await?;
    let back = stage.namespace.api::<Pod>().get("shop").await?;
    assert_eq!(back.labels(), there.labels(), "what the policy selects by is off the pod, and so is the policy");
    Ok(())
}

#[tokio::test]
async fn a_policy_of_istios_stands_beside_a_quarantine_and_is_put_back() -> Result<()> {
    kept(&Recorder::new()).await
}

#[tokio::test]
async fn the_pod_is_cut_off_before_a_mesh_is_asked_for_anything_and_the_second_asks_for_nothing() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let one = pod(&stage, &fixtures::pod("one")).await?;
    let run = Run::of(&stage, kind())?.about(&one);
    let (outcome, writes) = run.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    let said: Vec<String> = writes.iter().map(|write| format!("{} {}", write.verb, write.object)).collect();
    let (namespace, name) = (stage.namespace.name(), policy_name("full"));
    let policy = |kind: &str| format!("create {kind} {namespace}/{name}");
    let pod_of = format!("patch Pod {namespace}/one");
    assert_eq!(said, [policy("NetworkPolicy"), pod_of, policy("AuthorizationPolicy")]);

    Run::of(&stage, kind())?.about(&one).succeed().await?;
    let before = stage.writes();
    let two = pod(&stage, &fixtures::pod("two")).await?;
    let mut second = Run::of(&stage, kind())?.about(&two).named("run-2");
    second.succeed().await?;
    assert_eq!(stage.writes() - before, 1, "the pod's labels, and nothing else");
    // It stands on the policy all the same.
    let policies = stage.namespace.api::<AuthorizationPolicy>();
    policies.delete(&name, &DeleteParams::default()).await?;
    wait::gone(&policies, &name, DEADLINE).await?;
    assert!(matches!(second.keep(&Quarantine::default(), false).await?, Kept::Restored { .. }));
    Ok(())
}

#[tokio::test]
async fn what_stays_open_is_left_open_or_no_policy_is_written_and_the_step_says_why() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let policies = stage.namespace.api::<AuthorizationPolicy>();
    let exact: Quarantine =
        serde_json::from_value(json!({"allow": [{"cidr": "10.9.0.0/24", "ports": [{"port": 22}]}]}))?;
    let there = pod(&stage, &fixtures::pod("exact")).await?;
    Run::of(&stage, StepKind::Quarantine(exact.clone()))?.about(&there).succeed().await?;
    let rules = json!([
        {"from": [{"source": {"notIpBlocks": ["10.9.0.0/24"]}}]},
        {"to": [{"operation": {"notPorts": ["22"]}}]},
    ]);
    assert_eq!(json!(policies.get(&Profile::of(&exact).policy_name()).await?.spec)["rules"], rules);

    let by_labels: Quarantine = serde_json::from_value(json!({"allow": [{"podSelector": {}}]}))?;
    let outgoing = Quarantine { isolate: Isolate::Egress, ..Quarantine::default() };
    let labels = Quarantine { method: Method::Labels, ..Quarantine::default() };
    for (name, parameters, says) in
        [("by-labels", by_labels, "chosen by labels"), ("outgoing", outgoing, ""), ("labels", labels, "")]
    {
        let there = pod(&stage, &fixtures::pod(name)).await?;
        let mut run = Run::of(&stage, StepKind::Quarantine(parameters.clone()))?.about(&there).named(name);
        run.succeed().await?;
        let policy = Profile::of(&parameters).policy_name();
        assert!(policies.get_opt(&policy).await?.is_none(), "{name}");
        let message = &run.record.message;
        assert_eq!(message.contains("Istio"), !says.is_empty(), "{message}");
        assert!(message.contains(says), "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_mesh_that_refuses_its_policy_undoes_no_quarantine_and_is_told() -> Result<()> {
    let stage = stage(&Recorder::new()).await?;
    let roles = stage.namespace.api::<Role>();
    let mut role = roles.get("steps-finding").await?;
    role.rules.iter_mut().for_each(|rules| rules.retain(|rule| rule.api_groups != Some(vec![ISTIO.0.to_owned()])));
    roles.replace("steps-finding", &PostParams::default(), &role).await?;
    not_allowed(&stage, ISTIO.0, ISTIO.2, "create").await?;

    let there = pod(&stage, &fixtures::pod("shop")).await?;
    let mut run = Run::of(&stage, kind())?.about(&there);
    run.succeed().await?;
    let message = &run.record.message;
    assert!(message.contains("no policy of Istio's was written") && message.contains("forbidden"), "{message}");
    assert_eq!(stage.namespace.api::<Pod>().get("shop").await?.labels()[names::QUARANTINE], "full");
    assert!(stage.namespace.api::<NetworkPolicy>().get_opt(&policy_name("full")).await?.is_some());
    assert_eq!(run.keep(&Quarantine::default(), false).await?, Kept::Stands);
    Ok(())
}
