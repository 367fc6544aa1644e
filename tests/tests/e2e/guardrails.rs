//! Guardrails, at the moment of the effect.

use std::ffi::OsString;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{
    ClusterChannel, ClusterPlaybook, Finding, FindingState, Guardrail, Phase, Remediation, Source, StepState,
};
use quell_tests::demo::receiver::{KEY, Receiver};
use quell_tests::fixtures::{PodCarrier as _, deployment, pod};
use quell_tests::operator::source_spec;
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, wait};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::{Bed, DEADLINE, any_falco, apply, condition, falco, is_quarantined, quarantine};

/// A Guardrail of this test alone. The others of this binary have the same operator: `spec` must be about this namespace only.
async fn guardrail(bed: &Bed, spec: &Value) -> Result<Api<Guardrail>> {
    let api: Api<Guardrail> = Api::all(bed.namespace.client().clone());
    let mut spec = spec.clone();
    spec["lastReadyReplica"] = json!("Allow");
    apply(&api, "Guardrail", bed.name(), &spec).await?;
    let ready = |guardrail: &Guardrail| {
        let status = guardrail.status.clone().unwrap_or_default();
        status.observed_generation == guardrail.metadata.generation
            && conditions::is_true(&status.conditions, ConditionType::Ready)
    };
    wait::until_present(&api, bed.name(), "Ready", DEADLINE, ready).await?;
    Ok(api)
}

async fn quarantined(api: &Api<Pod>) -> Result<usize> {
    Ok(api.list(&ListParams::default()).await?.items.iter().filter(|pod| is_quarantined(pod)).count())
}

#[tokio::test]
async fn what_is_protected_is_left_alone_told_and_contained_once_it_may_be() -> Result<()> {
    let bed = Bed::new("protected").await?;
    let receiver = Receiver::listen(unbounded_channel().0).await?;
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": bed.name() }, "stringData": { "key": KEY } });
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(bed.namespace.client().clone(), quell_tests::operator::NAMESPACE);
    secrets.patch(bed.name(), &PatchParams::apply("quell-tests").force(), &Patch::Apply(&secret)).await?;
    let channels: Api<ClusterChannel> = Api::all(bed.namespace.client().clone());
    let spec = json!({ "webhook": { "url": receiver.url(), "hmacKey": { "name": bed.name(), "key": "key" } } });
    apply(&channels, "ClusterChannel", bed.name(), &spec).await?;
    let rails = guardrail(
        &bed,
        &json!({
            "protect": [{ "name": "shop", "namespaces": [bed.name()], "labels": { "matchLabels": { "app": "shop" } }, "reason": "ask the shop" }],
            "channels": [{ "name": bed.name() }],
        }),
    )
    .await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let held = bed.finding_in(&finding.name_any(), FindingState::Held).await?;
    let (status, reason, message) = condition(&held, ConditionType::Held).expect("condition");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Protected"));
    assert!(message.contains("ask the shop") && message.contains(&pod.name_any()), "{message}");
    assert!(bed.event(&finding.name_any(), "Protected").await?.contains("ask the shop"));
    assert!(bed.operator.metrics().await?.contains("reason=\"Protected\""));
    wait::eventually(DEADLINE, "the channel is told", async || {
        let told = receiver.deliveries();
        Ok(told.iter().any(|one| one.verified.is_ok() && one.body.to_string().contains("ask the shop")).then_some(()))
    })
    .await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert_eq!(quarantined(&pods).await?, 0);

    apply(&rails, "Guardrail", bed.name(), &json!({ "lastReadyReplica": "Allow" })).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    let status = run.status.expect("status");
    assert_eq!((status.steps[0].state, status.steps[0].attempts), (StepState::Succeeded, 1));
    assert!(conditions::find(&status.conditions, ConditionType::Held).is_none());
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    rails.delete(bed.name(), &DeleteParams::default()).await?;
    channels.delete(bed.name(), &DeleteParams::default()).await?;
    secrets.delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn of_many_at_once_as_many_are_contained_as_the_limit_says_and_an_undo_makes_room_for_one_more() -> Result<()> {
    let bed = Bed::new("limit").await?;
    let limit = json!({ "name": "few", "per": "Namespace", "max": 4, "window": "1h", "namespaces": [bed.name()] });
    let rails = guardrail(&bed, &json!({ "limits": [limit] })).await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let names: Vec<String> = (0..24).map(|i| format!("web-{i}")).collect();
    for name in &names {
        bed.namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
    }
    for name in &names {
        wait::pod_ready(&bed.namespace.api(), name, DEADLINE).await?;
    }
    let findings = try_join_all(names.iter().map(|name| bed.alert(name))).await?;
    let runs: Api<Remediation> = bed.namespace.api();
    let count = async |phase: Phase, state: StepState| -> Result<usize> {
        let all = runs.list(&ListParams::default()).await?.items;
        let of = all.iter().filter_map(|run| run.status.as_ref()).filter(|status| status.phase == phase);
        Ok(of.filter(|status| status.steps.iter().any(|record| record.state == state)).count())
    };
    wait::eventually(DEADLINE, "all runs are contained or held", async || {
        let done = count(Phase::Succeeded, StepState::Succeeded).await?;
        let held = count(Phase::Running, StepState::Held).await?;
        ensure!(done <= 4, "{done} got through");
        Ok((done + held == findings.len()).then_some(()))
    })
    .await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert_eq!(quarantined(&pods).await?, 4);

    let all = runs.list(&ListParams::default()).await?.items;
    let first = all.iter().find(|run| run.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded));
    bed.undo(&first.expect("one got through").name_any()).await?;
    wait::eventually(DEADLINE, "one more is contained", async || {
        let undone = count(Phase::Undone, StepState::Undone).await?;
        let done = count(Phase::Succeeded, StepState::Succeeded).await?;
        ensure!(done <= 4, "{done} got through");
        Ok((undone == 1 && done == 4).then_some(()))
    })
    .await?;
    assert_eq!(quarantined(&pods).await?, 4);
    rails.delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

struct Own {
    control_plane: ControlPlane,
    namespace: TestNamespace,
}

impl Own {
    /// A control plane of its own: what this says holds for the whole cluster.
    async fn new(steps: Value) -> Result<Self> {
        let control_plane = ControlPlane::start(Options::default()).await?;
        quell_tests::operator::prepare(&control_plane).await?;
        let client = control_plane.client().await?;
        apply(&Api::<Source>::all(client.clone()), "Source", "falco", &source_spec("falco")).await?;
        let spec = json!({ "match": {}, "steps": steps });
        apply(&Api::<ClusterPlaybook>::all(client), "ClusterPlaybook", "contain", &spec).await?;
        let namespace = TestNamespace::create(&control_plane, "rails").await?;
        Ok(Self { control_plane, namespace })
    }

    async fn operator(&self) -> Result<Operator> {
        Operator::start(Path::new(env!("CARGO_BIN_EXE_quell")), &self.control_plane, &["--lease-seconds", "3"]).await
    }

    async fn pod(&self, name: &str) -> Result<()> {
        self.namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        wait::pod_ready(&self.namespace.api(), name, DEADLINE).await?;
        Ok(())
    }

    async fn alert(&self, operator: &Operator, pod: &str) -> Result<String> {
        Ok(operator.post("falco", &falco(self.namespace.name(), pod, &json!({}))).await?.finding()?.1)
    }

    async fn is_in(&self, finding: &str, state: FindingState) -> Result<Finding> {
        let api: Api<Finding> = self.namespace.api();
        let is = |finding: &Finding| finding.status.as_ref().and_then(|status| status.state) == Some(state);
        wait::until_present(&api, finding, &format!("in state {state}"), DEADLINE, is).await
    }

    async fn is_held_for(&self, finding: &str, reason: &str) -> Result<()> {
        let api: Api<Finding> = self.namespace.api();
        let is =
            |finding: &Finding| condition(finding, ConditionType::Held).is_some_and(|(_, found, _)| found == reason);
        wait::until_present(&api, finding, &format!("held for {reason}"), DEADLINE, is).await?;
        Ok(())
    }

    async fn kubectl_quell(&self, arguments: &[&str]) -> Result<()> {
        let kubeconfig = self.control_plane.kubeconfig_path().display().to_string();
        let all = ["kubectl-quell", "--kubeconfig", &kubeconfig].into_iter().chain(arguments.iter().copied());
        let sink = || Box::new(std::io::sink());
        let mut io = quell_cli::Io {
            out: sink(),
            err: sink(),
            input: Box::new(Cursor::new("")),
            colours: false,
            terminal: false,
        };
        let exit = quell_cli::run(all.map(OsString::from), &mut io).await;
        ensure!(exit == quell_cli::Exit::Ok, "kubectl quell {arguments:?}: {exit:?}");
        Ok(())
    }
}

#[tokio::test]
async fn the_stop_switch_and_a_guardrail_that_cannot_be_read_hold_everything_but_the_undo_of_a_person() -> Result<()> {
    let own = Own::new(quarantine()).await?;
    for name in ["before", "stopped", "unread"] {
        own.pod(name).await?;
    }
    let operator = own.operator().await?;
    let before = own.alert(&operator, "before").await?;
    own.is_in(&before, FindingState::Remediated).await?;

    own.kubectl_quell(&["stop", "--reason", "ana looks"]).await?;
    let pods: Api<Pod> = own.namespace.api();
    let rails: Api<Guardrail> = Api::all(own.namespace.client().clone());
    wait::until_present(&rails, "stop", "seen", DEADLINE, |guardrail| {
        guardrail.status.as_ref().is_some_and(|status| {
            conditions::find(&status.conditions, ConditionType::Ready).is_some_and(|ready| ready.reason == "Stopped")
        })
    })
    .await?;
    let stopped = own.alert(&operator, "stopped").await?;
    own.is_held_for(&stopped, "Stopped").await?;
    assert!(!is_quarantined(&pods.get("stopped").await?));
    // The way back is open.
    let runs: Api<Remediation> = own.namespace.api();
    let of = |finding: &str| ListParams::default().fields(&format!("spec.finding.name={finding}"));
    let run = runs.list(&of(&before)).await?.items.remove(0);
    runs.patch(&run.name_any(), &PatchParams::default(), &Patch::Merge(json!({ "spec": { "intent": "Undo" } })))
        .await?;
    own.is_in(&before, FindingState::Undone).await?;
    assert!(!is_quarantined(&pods.get("before").await?));

    own.kubectl_quell(&["go"]).await?;
    own.is_in(&stopped, FindingState::Remediated).await?;
    assert!(is_quarantined(&pods.get("stopped").await?));

    let broken = json!({ "protect": [{ "name": "broken", "when": "nobody.knows" }] });
    apply(&rails, "Guardrail", "broken", &broken).await?;
    let told =
        wait::until_present(&rails, "broken", "not Ready", DEADLINE, |guardrail| guardrail.status.is_some()).await?;
    let ready =
        conditions::find(&told.status.expect("status").conditions, ConditionType::Ready).cloned().expect("Ready");
    assert_eq!(ready.status, "False");
    assert!(ready.message.contains("spec.protect[0].when"), "{}", ready.message);
    let unread = own.alert(&operator, "unread").await?;
    own.is_held_for(&unread, "GuardrailUnreadable").await?;
    assert!(!is_quarantined(&pods.get("unread").await?));
    rails.delete("broken", &DeleteParams::default()).await?;
    own.is_in(&unread, FindingState::Remediated).await?;
    drop(operator);
    own.control_plane.stop().await
}

#[tokio::test]
async fn what_was_contained_before_a_restart_is_counted_after_it() -> Result<()> {
    let own = Own::new(quarantine()).await?;
    for name in ["first", "second", "third"] {
        own.pod(name).await?;
    }
    let rails: Api<Guardrail> = Api::all(own.namespace.client().clone());
    apply(&rails, "Guardrail", "few", &json!({ "limits": [{ "name": "few", "per": "Cluster", "max": 2 }] })).await?;
    let operator = own.operator().await?;
    for name in ["first", "second"] {
        let finding = own.alert(&operator, name).await?;
        own.is_in(&finding, FindingState::Remediated).await?;
    }
    // SIGKILL.
    drop(operator);
    let operator = own.operator().await?;
    let third = own.alert(&operator, "third").await?;
    own.is_held_for(&third, "LimitReached").await?;
    let pods: Api<Pod> = own.namespace.api();
    assert!(!is_quarantined(&pods.get("third").await?));
    apply(&rails, "Guardrail", "few", &json!({ "limits": [{ "name": "few", "per": "Cluster", "max": 3 }] })).await?;
    own.is_in(&third, FindingState::Remediated).await?;
    drop(operator);
    own.control_plane.stop().await
}

#[tokio::test]
async fn the_last_ready_pod_is_contained_when_another_is_ready() -> Result<()> {
    let own = Own::new(quarantine()).await?;
    let rails: Api<Guardrail> = Api::all(own.namespace.client().clone());
    apply(&rails, "Guardrail", "keep", &json!({})).await?;
    own.namespace.create_object(&deployment("shop").image("registry.example/shop:1.0")).await?;
    let deployments: Api<Deployment> = own.namespace.api();
    wait::rolled_out(&deployments, "shop", DEADLINE).await?;
    let pods: Api<Pod> = own.namespace.api();
    let only = pods.list(&ListParams::default().labels("app=shop")).await?.items.remove(0).name_any();
    let operator = own.operator().await?;
    let finding = own.alert(&operator, &only).await?;
    own.is_held_for(&finding, "LastReadyReplica").await?;
    assert!(!is_quarantined(&pods.get(&only).await?));
    deployments.patch("shop", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "replicas": 2 } }))).await?;
    own.is_in(&finding, FindingState::Remediated).await?;
    assert!(is_quarantined(&pods.get(&only).await?));
    drop(operator);
    own.control_plane.stop().await
}
