//! An operator that is killed, and one that starts after it.

use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, FindingState, Phase, Remediation, Source};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::operator::source_spec;
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, wait};
use serde_json::json;

use crate::support::{DEADLINE, apply, falco, is_quarantined};

/// A control plane of its own: another test's operator would go on in this one's place.
#[tokio::test]
async fn what_was_begun_or_reported_before_the_operator_was_killed_is_finished_by_the_next() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    let client = control_plane.client().await?;
    apply(&Api::<Source>::all(client.clone()), "Source", "falco", &source_spec("falco")).await?;
    let spec = json!({ "match": {}, "steps": [{ "name": "pause", "wait": { "for": "2s" } }, { "name": "contain", "quarantine": {} }] });
    apply(&Api::<ClusterPlaybook>::all(client.clone()), "ClusterPlaybook", "slow", &spec).await?;
    let namespace = TestNamespace::create(&control_plane, "restart").await?;
    for name in ["begun", "reported"] {
        namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        wait::pod_ready(&namespace.api(), name, DEADLINE).await?;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    let lease = ["--lease-seconds", "3"];

    let first = Operator::start(binary, &control_plane, &lease).await?;
    let (_, begun) = first.post("falco", &falco(namespace.name(), "begun", &json!({}))).await?.finding()?;
    let runs: Api<Remediation> = namespace.api();
    wait::eventually(DEADLINE, "the run is recorded", async || {
        let all = runs.list(&kube::api::ListParams::default()).await?;
        Ok(all.items.iter().any(|run| run.status.is_some()).then_some(()))
    })
    .await?;
    // Dropped: SIGKILL, at once.
    drop(first);

    let second = Operator::start(binary, &control_plane, &lease).await?;
    let (_, reported) = second.post("falco", &falco(namespace.name(), "reported", &json!({}))).await?.finding()?;
    let findings: Api<Finding> = namespace.api();
    for name in [&begun, &reported] {
        let done = |finding: &Finding| {
            finding.status.as_ref().and_then(|status| status.state) == Some(FindingState::Remediated)
        };
        wait::until_present(&findings, name, "remediated", DEADLINE, done).await?;
    }
    let all = runs.list(&kube::api::ListParams::default()).await?;
    assert_eq!(all.items.len(), 2, "one run each");
    for run in &all.items {
        let status = run.status.clone().expect("status");
        assert_eq!(status.phase, Phase::Succeeded, "{}", run.name_any());
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{:#?}", status.steps);
    }
    let pods: Api<Pod> = namespace.api();
    for name in ["begun", "reported"] {
        assert!(is_quarantined(&pods.get(name).await?), "{name}");
    }
    control_plane.stop().await
}
