//! Findings that nobody ends: after the time that their Source gives they expire, and are none the less there when they come back.

use std::path::Path;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{Finding, FindingState, Phase, Source};
use quell_tests::operator::source_spec;
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, wait};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply, condition, falco, is_quarantined, quarantine};

/// A Source of the namespace's name for Falco's alerts, once it takes them.
async fn source(namespace: &TestNamespace, more: Value) -> Result<()> {
    let sources: Api<Source> = Api::all(namespace.client().clone());
    let mut spec = source_spec("falco");
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    apply(&sources, "Source", namespace.name(), &spec).await?;
    let is_ready = |source: &Source| {
        let conditions = source.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions::is_true(conditions, ConditionType::Ready)
    };
    wait::until_present(&sources, namespace.name(), "Ready", DEADLINE, is_ready).await?;
    Ok(())
}

/// An alert of that Source about a pod of the namespace, which needn't be there.
async fn alert(operator: &Operator, namespace: &TestNamespace, pod: &str) -> Result<String> {
    let answer = operator.post(namespace.name(), &falco(namespace.name(), pod, &json!({}))).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(answer.finding()?.1)
}

async fn close(bed: Bed) -> Result<()> {
    let sources: Api<Source> = Api::all(bed.namespace.client().clone());
    sources.delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn what_its_source_does_not_report_any_more_expires_and_is_a_new_episode_when_it_does() -> Result<()> {
    let bed = Bed::new("expires").await?;
    source(&bed.namespace, json!({ "expireAfter": "10s" })).await?;
    let finding = alert(bed.operator, &bed.namespace, "web").await?;
    let expired = bed.finding_in(&finding, FindingState::Expired).await?;
    let (status, reason, message) = condition(&expired, ConditionType::Resolved).expect("Resolved");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "Expired"), "{message}");
    assert!(message.ends_with("nobody said that it is over"), "{message}");
    let status = expired.status.unwrap_or_default();
    let (seen, at) = (status.last_seen.expect("lastSeen"), status.expired_at.expect("expiredAt"));
    assert!(at - seen >= chrono::TimeDelta::seconds(10), "{seen} {at}");
    assert_eq!(status.resolved_at, None);
    bed.event(&finding, "Expired").await?;
    let counted = format!("quell_findings_expired_total{{source=\"{}\"}} 1", bed.name());
    assert!(bed.operator.metrics().await?.contains(&counted));

    assert_eq!(alert(bed.operator, &bed.namespace, "web").await?, finding);
    let back = |finding: &Finding| {
        let status = finding.status.clone().unwrap_or_default();
        let told = condition(finding, ConditionType::Resolved).is_some_and(|(_, reason, _)| reason == "ReportedAgain");
        (status.episode, status.count, status.state, status.expired_at) == (2, 2, Some(FindingState::Open), None)
            && told
    };
    wait::until_present(&bed.findings(), &finding, "open again", DEADLINE, back).await?;
    close(bed).await
}

#[tokio::test]
async fn what_is_under_quarantine_does_not_expire_before_it_is_lifted() -> Result<()> {
    let bed = Bed::new("kept-open").await?;
    source(&bed.namespace, json!({ "expireAfter": "10s" })).await?;
    let all_but_web = json!({ "sources": [bed.name()], "when": "finding.target.name != 'web'" });
    bed.playbook(all_but_web, quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = alert(bed.operator, &bed.namespace, &pod.name_any()).await?;
    let run = bed.run_in(&finding, Phase::Succeeded).await?;
    bed.finding_in(&finding, FindingState::Remediated).await?;

    // By when one that was reported later has expired, this one would have.
    let later = alert(bed.operator, &bed.namespace, "web").await?;
    bed.finding_in(&later, FindingState::Expired).await?;
    let status = bed.findings().get(&finding).await?.status.unwrap_or_default();
    assert_eq!((status.state, status.expired_at), (Some(FindingState::Remediated), None));
    let pods: Api<Pod> = bed.namespace.api();
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));

    bed.undo(&run.name_any()).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    bed.finding_in(&finding, FindingState::Expired).await?;
    close(bed).await
}

#[tokio::test]
async fn a_time_that_is_given_later_counts_for_findings_that_are_there() -> Result<()> {
    let bed = Bed::new("expire-later").await?;
    source(&bed.namespace, json!({})).await?;
    let finding = alert(bed.operator, &bed.namespace, "web").await?;
    bed.finding_in(&finding, FindingState::Open).await?;
    let sources: Api<Source> = Api::all(bed.namespace.client().clone());
    let after = Patch::Merge(json!({ "spec": { "expireAfter": "10s" } }));
    sources.patch(bed.name(), &PatchParams::default(), &after).await?;
    bed.finding_in(&finding, FindingState::Expired).await?;
    close(bed).await
}

/// A control plane of its own: another test's operator would do what this one's is to do.
#[tokio::test]
async fn what_was_to_expire_expires_under_the_next_operator_when_one_is_killed() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    let namespace = TestNamespace::create(&control_plane, "expires").await?;
    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    let first = Operator::start(binary, &control_plane, &["--lease-seconds", "3"]).await?;
    source(&namespace, json!({ "expireAfter": "10s" })).await?;
    let finding = alert(&first, &namespace, "web").await?;
    // Dropped: SIGKILL, at once.
    drop(first);
    let _second = Operator::start(binary, &control_plane, &["--lease-seconds", "3"]).await?;
    let expired =
        |finding: &Finding| finding.status.as_ref().and_then(|status| status.state) == Some(FindingState::Expired);
    wait::until_present(&namespace.api::<Finding>(), &finding, "expired", DEADLINE, expired).await?;
    control_plane.stop().await
}
