//! Dry runs: what would be done is written down, and nothing else is left behind.

use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{
    ClusterPlaybook, Finding, FindingState, Guardrail, Mode, Phase, Remediation, Source, StepState,
};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::operator::source_spec;
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, wait};
use serde_json::json;

use crate::support::{Bed, DEADLINE, any_falco, apply, falco, is_quarantined, quarantine, ready};

#[tokio::test]
async fn a_dry_run_shows_every_write_in_its_record_and_makes_none() -> Result<()> {
    let bed = Bed::new("dryrun").await?;
    let steps = json!([
        { "name": "contain", "quarantine": {} },
        { "name": "deploy", "setImage": { "image": "registry.example/shop:1.1" } },
    ]);
    let spec =
        json!({ "match": any_falco(), "namespaces": { "include": [bed.name()] }, "mode": "DryRun", "steps": steps });
    apply(&bed.playbooks(), "ClusterPlaybook", bed.name(), &spec).await?;
    wait::until_present(&bed.playbooks(), bed.name(), "Ready", DEADLINE, |playbook| ready(playbook) == Some(true))
        .await?;
    let before = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&before.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    assert_eq!(run.spec.mode, Mode::DryRun);
    let status = run.status.expect("status");
    assert!(status.steps.iter().all(|record| record.state == StepState::Succeeded && record.receipt.is_none()));
    let writes = |step: usize| &status.steps[step].writes;
    let pod = format!("Pod {}/{}", bed.name(), before.name_any());
    let patch = writes(0).iter().find(|write| write.object == pod).expect("the pod's patch");
    assert!(patch.difference.contains("quell.dev/quarantine"), "{}", patch.difference);
    assert!(writes(0).iter().any(|write| write.verb == "create" && write.object.starts_with("NetworkPolicy")));
    let patch = writes(1).iter().find(|write| write.object.starts_with("Deployment")).expect("the Deployment's patch");
    assert!(patch.difference.contains("registry.example/shop:1.1"), "{}", patch.difference);
    let complete = conditions::find(&status.conditions, ConditionType::Complete).expect("Complete");
    assert_eq!(complete.reason, "DryRun");

    bed.finding_in(&finding.name_any(), FindingState::Open).await?;
    let after = bed.namespace.api::<Pod>().get(&before.name_any()).await?;
    assert!(!is_quarantined(&after));
    assert_eq!(bed.namespace.api::<NetworkPolicy>().list(&ListParams::default()).await?.items.len(), 0);
    let events = bed.namespace.api::<Event>().list(&ListParams::default()).await?.items;
    let ours = events.iter().filter(|event| event.involved_object.kind.as_deref() == Some("Finding"));
    assert_eq!(ours.count(), 0, "{events:?}");
    bed.finish().await
}

/// A control plane of its own: a Guardrail that has all playbooks learn holds for the whole cluster.
#[tokio::test]
async fn while_a_guardrail_has_all_playbooks_learn_every_run_is_a_dry_run() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    let client = control_plane.client().await?;
    apply(&Api::<Source>::all(client.clone()), "Source", "falco", &source_spec("falco")).await?;
    let spec = json!({ "match": {}, "steps": quarantine() });
    apply(&Api::<ClusterPlaybook>::all(client.clone()), "ClusterPlaybook", "contain", &spec).await?;
    let rails: Api<Guardrail> = Api::all(client);
    apply(&rails, "Guardrail", "learn", &json!({ "learn": true })).await?;
    let namespace = TestNamespace::create(&control_plane, "learn").await?;
    for name in ["learning", "acting"] {
        namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        wait::pod_ready(&namespace.api(), name, DEADLINE).await?;
    }
    let operator = Operator::start(Path::new(env!("CARGO_BIN_EXE_quell")), &control_plane, &[]).await?;
    let alert = async |pod: &str| -> Result<String> {
        Ok(operator.post("falco", &falco(namespace.name(), pod, &json!({}))).await?.finding()?.1)
    };
    let runs: Api<Remediation> = namespace.api();
    let learning = alert("learning").await?;
    wait::eventually(DEADLINE, "a dry run", async || {
        let all = runs.list(&ListParams::default().fields(&format!("spec.finding.name={learning}"))).await?.items;
        let ended = |run: &Remediation| {
            run.spec.mode == Mode::DryRun && run.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded)
        };
        Ok(all.iter().any(ended).then_some(()))
    })
    .await?;
    let pods: Api<Pod> = namespace.api();
    assert!(!is_quarantined(&pods.get("learning").await?));

    rails.delete("learn", &DeleteParams::default()).await?;
    wait::eventually(DEADLINE, "a pod is contained", async || {
        let finding = alert("acting").await?;
        let findings: Api<Finding> = namespace.api();
        let state = findings.get(&finding).await?.status.and_then(|status| status.state);
        Ok((state == Some(FindingState::Remediated)).then_some(()))
    })
    .await?;
    assert!(is_quarantined(&pods.get("acting").await?));
    drop(operator);
    control_plane.stop().await
}
