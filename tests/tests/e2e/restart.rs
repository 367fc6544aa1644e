//! An operator that is killed, and one that starts after it.

use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use quell_actions::quarantine::Profile;
use quell_crds::names;
use quell_crds::v1alpha1::step::Quarantine;
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

/// A control plane of its own: another test's operator would keep what this one's does not.
#[tokio::test]
async fn a_quarantine_outlives_an_operator_that_is_down_and_records_that_are_deleted_meanwhile() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    quell_tests::guards::remove(&control_plane, &quell_tests::guards::Guards::default()).await?;
    let client = control_plane.client().await?;
    apply(&Api::<Source>::all(client.clone()), "Source", "falco", &source_spec("falco")).await?;
    let spec = json!({ "match": {}, "steps": [{ "name": "contain", "quarantine": {} }] });
    let playbooks = Api::<ClusterPlaybook>::all(client.clone());
    apply(&playbooks, "ClusterPlaybook", "contain", &spec).await?;
    let namespace = TestNamespace::create(&control_plane, "outlives").await?;
    for name in ["kept", "forgotten"] {
        namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        wait::pod_ready(&namespace.api(), name, DEADLINE).await?;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    let lease = ["--lease-seconds", "3"];
    let findings: Api<Finding> = namespace.api();
    let remediated =
        |finding: &Finding| finding.status.as_ref().and_then(|status| status.state) == Some(FindingState::Remediated);

    let first = Operator::start(binary, &control_plane, &lease).await?;
    let mut reported = Vec::new();
    for name in ["kept", "forgotten"] {
        let (_, finding) = first.post("falco", &falco(namespace.name(), name, &json!({}))).await?.finding()?;
        wait::until_present(&findings, &finding, "remediated", DEADLINE, remediated).await?;
        reported.push(finding);
    }
    let pods: Api<Pod> = namespace.api();
    let quarantined = [pods.get("kept").await?, pods.get("forgotten").await?];
    // Dropped: SIGKILL, at once.
    drop(first);

    // While nobody looks: the playbook and one pod's records are deleted, the other pod is set free, and the policy is opened.
    playbooks.delete("contain", &DeleteParams::default()).await?;
    let runs: Api<Remediation> = namespace.api();
    for run in runs.list(&kube::api::ListParams::default()).await?.items {
        if run.spec.finding.name == reported[1] {
            runs.delete(&run.name_any(), &DeleteParams::default()).await?;
            wait::gone(&runs, &run.name_any(), DEADLINE).await?;
        }
    }
    findings.delete(&reported[1], &DeleteParams::default()).await?;
    wait::gone(&findings, &reported[1], DEADLINE).await?;
    let policies: Api<NetworkPolicy> = namespace.api();
    let policy = "quell-quarantine-full";
    let free = Patch::Merge(json!({ "metadata": { "labels": { names::QUARANTINE: null } } }));
    pods.patch("kept", &PatchParams::default(), &free).await?;
    let open = Patch::Merge(json!({ "spec": { "ingress": [{}] } }));
    policies.patch(policy, &PatchParams::default(), &open).await?;

    let second = Operator::start(binary, &control_plane, &lease).await?;
    let back = |pod: &Pod| pod.labels() == quarantined[0].labels();
    wait::until_present(&pods, "kept", "under quarantine again", DEADLINE, back).await?;
    let profile = Profile::of(&Quarantine::default());
    wait::until_present(&policies, policy, "closed again", DEADLINE, |policy| profile.is_said_by(policy)).await?;
    let forgotten = pods.get("forgotten").await?;
    assert_eq!(forgotten.labels(), quarantined[1].labels(), "no record, and no freedom either");
    let before = forgotten.annotations().get(names::BEFORE);
    assert!(before.is_some_and(|before| before.contains("labels")), "what was there can still be read: {before:?}");

    // With the last records deleted and Quell gone for good, all of it stays, and the finalizer with it.
    for run in runs.list(&kube::api::ListParams::default()).await?.items {
        runs.delete(&run.name_any(), &DeleteParams::default()).await?;
        wait::gone(&runs, &run.name_any(), DEADLINE).await?;
    }
    drop(second);
    let third = Operator::start(binary, &control_plane, &lease).await?;
    let (_, later) = third.post("falco", &falco(namespace.name(), "no-such-pod", &json!({}))).await?.finding()?;
    let seen = |finding: &Finding| finding.status.as_ref().is_some_and(|status| status.state.is_some());
    wait::until_present(&findings, &later, "looked at", DEADLINE, seen).await?;
    for was in &quarantined {
        assert_eq!(pods.get(&was.name_any()).await?.labels(), was.labels());
    }
    let there = policies.get(policy).await?;
    assert!(profile.is_said_by(&there) && there.metadata.deletion_timestamp.is_none());
    assert_eq!(there.finalizers(), [names::QUARANTINE]);
    control_plane.stop().await
}
