//! What goes wrong ends in a condition and an Event with a reason, and stops nothing else.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterChannel, FindingState, Phase, Remediation, StepState};
use quell_tests::operator::TOKEN_SECRET;
use quell_tests::wait;
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, any_falco, apply, condition, is_quarantined, quarantine, ready};

/// The reason and message of a playbook that is refused.
async fn not_ready(bed: &Bed, matching: Value, steps: Value) -> Result<(String, String)> {
    let spec = json!({ "match": matching, "namespaces": { "include": [bed.name()] }, "steps": steps });
    apply(&bed.playbooks(), "ClusterPlaybook", bed.name(), &spec).await?;
    let playbooks = bed.playbooks();
    let found =
        wait::until_present(&playbooks, bed.name(), "not Ready", DEADLINE, |playbook| ready(playbook) == Some(false))
            .await?;
    let conditions = found.status.unwrap_or_default().conditions;
    let ready = conditions::find(&conditions, ConditionType::Ready).context("no condition Ready")?;
    Ok((ready.reason.clone(), ready.message.clone()))
}

#[tokio::test]
async fn an_expression_that_does_not_compile_makes_the_playbook_not_ready_and_it_matches_nothing() -> Result<()> {
    let bed = Bed::new("compile").await?;
    let (reason, message) = not_ready(&bed, json!({ "when": "findings.rule == 'x'" }), quarantine()).await?;
    assert_eq!(reason, "ExpressionInvalid");
    assert!(message.contains("spec.match.when") && message.contains("findings"), "{message}");
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.finding_in(&finding.name_any(), FindingState::Open).await?;
    bed.finish().await
}

#[tokio::test]
async fn an_unknown_channel_makes_the_playbook_not_ready_until_it_is_there() -> Result<()> {
    let bed = Bed::new("channel").await?;
    let steps = json!([{ "name": "tell", "notify": { "channels": [{ "name": bed.name() }] }, "timeout": "2s" }]);
    let (reason, message) = not_ready(&bed, any_falco(), steps).await?;
    assert_eq!(reason, "ChannelUnknown");
    assert!(message.contains("spec.steps[0].notify.channels[0]"), "{message}");
    let channels: Api<ClusterChannel> = Api::all(bed.namespace.client().clone());
    let webhook =
        json!({ "webhook": { "url": "http://127.0.0.1:9/hook", "hmacKey": { "name": TOKEN_SECRET, "key": "token" } } });
    apply(&channels, "ClusterChannel", bed.name(), &webhook).await?;
    wait::until_present(&bed.playbooks(), bed.name(), "Ready", DEADLINE, |playbook| ready(playbook) == Some(true))
        .await?;
    channels.delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn an_expression_that_fails_is_no_match_and_says_so() -> Result<()> {
    let bed = Bed::new("fails").await?;
    bed.playbook(json!({ "when": "finding.details.nothing == 'x'" }), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let open = bed.finding_in(&finding.name_any(), FindingState::Open).await?;
    let (status, reason, message) = condition(&open, ConditionType::Matched).expect("Matched");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "ExpressionFailed"), "{message}");
    bed.event(&finding.name_any(), "ExpressionFailed").await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!is_quarantined(&pods.get(&pod.name_any()).await?), "an expression that fails is never true");
    bed.finish().await
}

#[tokio::test]
async fn a_step_whose_when_fails_is_refused_and_the_run_fails() -> Result<()> {
    let bed = Bed::new("stepwhen").await?;
    let steps = json!([{ "name": "contain", "quarantine": {}, "when": "finding.details.nothing == 'x'" }]);
    bed.playbook(any_falco(), steps).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Failed).await?;
    assert_eq!(run.status.expect("status").steps[0].reason, "ExpressionFailed");
    bed.event(&finding.name_any(), "ExpressionFailed").await?;
    bed.finish().await
}

#[tokio::test]
async fn a_channel_that_cannot_be_reached_fails_its_step_while_containment_stands() -> Result<()> {
    let bed = Bed::new("unreachable").await?;
    let channels: Api<ClusterChannel> = Api::all(bed.namespace.client().clone());
    let webhook =
        json!({ "webhook": { "url": "http://127.0.0.1:9/hook", "hmacKey": { "name": TOKEN_SECRET, "key": "token" } } });
    apply(&channels, "ClusterChannel", bed.name(), &webhook).await?;
    let steps = json!([
        { "name": "contain", "quarantine": {} },
        { "name": "tell", "notify": { "channels": [{ "name": bed.name() }] }, "retry": { "limit": 1, "backoff": "100ms" } },
    ]);
    bed.playbook(any_falco(), steps).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Failed).await?;
    let steps = run.status.expect("status").steps;
    assert_eq!((steps[0].state, steps[1].state), (StepState::Succeeded, StepState::Failed));
    assert_eq!((steps[1].reason.as_str(), steps[1].attempts), ("ChannelUnreachable", 2), "{}", steps[1].message);
    bed.event(&finding.name_any(), "ChannelUnreachable").await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    channels.delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_pod_that_is_gone_fails_the_step_and_other_findings_go_on() -> Result<()> {
    let bed = Bed::new("gone").await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let (ghost, real) = (bed.alert("ghost").await?, bed.alert(&pod.name_any()).await?);
    let run = bed.run_in(&ghost.name_any(), Phase::Failed).await?;
    assert_eq!(run.status.expect("status").steps[0].reason, "TargetNotFound");
    bed.event(&ghost.name_any(), "TargetNotFound").await?;
    bed.finding_in(&real.name_any(), FindingState::Remediated).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_deployment_without_an_earlier_revision_fails_the_rollback() -> Result<()> {
    let bed = Bed::new("norevision").await?;
    bed.playbook(any_falco(), json!([{ "name": "back", "rollback": {} }])).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Failed).await?;
    let record = &run.status.expect("status").steps[0];
    assert_eq!(record.reason, "NoEarlierRevision", "{}", record.message);
    bed.event(&finding.name_any(), "NoEarlierRevision").await?;
    bed.finish().await
}

#[tokio::test]
async fn a_finding_of_a_kind_that_a_step_cannot_act_on_says_so() -> Result<()> {
    let bed = Bed::new("kind").await?;
    bed.playbook(json!({ "sources": ["manual"] }), quarantine()).await?;
    let spec = json!({
        "source": "manual", "rule": "a node is suspicious", "severity": "High", "target": { "kind": "Node", "name": "node-1" },
    });
    apply(&bed.findings(), "Finding", "node", &spec).await?;
    let run = bed.run_in("node", Phase::Failed).await?;
    let record = &run.status.expect("status").steps[0];
    assert_eq!(record.reason, "TargetUnsupported", "{}", record.message);
    bed.event("node", "TargetUnsupported").await?;
    bed.finish().await
}

#[tokio::test]
async fn a_finding_that_was_there_before_the_playbook_is_left_alone_until_it_is_reported_again() -> Result<()> {
    let bed = Bed::new("earlier").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.finding_in(&finding.name_any(), FindingState::Open).await?;
    // Kubernetes dates objects by the second: the playbook must be of a later one.
    let created = finding.metadata.creation_timestamp.as_ref().expect("created").0.as_second();
    wait::eventually(DEADLINE, "the next second", async || {
        Ok((chrono::Utc::now().timestamp() > created + 1).then_some(()))
    })
    .await?;
    bed.playbook(any_falco(), quarantine()).await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.alert(&pod.name_any()).await?;
    bed.finding_in(&finding.name_any(), FindingState::Remediated).await?;
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.finish().await
}

#[tokio::test]
async fn a_finding_cannot_have_a_playbook_act_in_another_namespace() -> Result<()> {
    let (bed, other) = (Bed::new("writer").await?, Bed::new("victim").await?);
    bed.playbook(json!({ "sources": ["manual"] }), quarantine()).await?;
    let pod = other.shop("registry.example/shop:1.0").await?;
    let target = json!({ "kind": "Pod", "apiVersion": "v1", "namespace": other.name(), "name": pod.name_any() });
    let spec = json!({ "source": "manual", "rule": "not mine", "severity": "Critical", "target": target });
    apply(&bed.findings(), "Finding", "foreign", &spec).await?;
    bed.finding_in("foreign", FindingState::Open).await?;
    let pods: Api<Pod> = other.namespace.api();
    assert!(!is_quarantined(&pods.get(&pod.name_any()).await?));
    other.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_run_that_quell_did_not_begin_is_refused() -> Result<()> {
    let bed = Bed::new("forged").await?;
    bed.playbook(json!({ "sources": ["nobody"] }), json!([{ "name": "pause", "wait": { "for": "1s" } }])).await?;
    let playbook = bed.playbooks().get(bed.name()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let uid = pod.uid().unwrap_or_default();
    let spec = json!({
        "finding": { "name": "none", "uid": "none" },
        "playbook": { "kind": "ClusterPlaybook", "name": bed.name(), "uid": playbook.uid(), "generation": 1 },
        "target": { "kind": "Pod", "apiVersion": "v1", "namespace": bed.name(), "name": pod.name_any(), "uid": uid },
        "steps": [{ "name": "contain", "quarantine": {} }],
    });
    let runs: Api<Remediation> = bed.namespace.api();
    apply(&runs, "Remediation", "forged", &spec).await?;
    let failed = |run: &Remediation| run.status.as_ref().is_some_and(|status| status.phase == Phase::Failed);
    let run = wait::until_present(&runs, "forged", "refused", DEADLINE, failed).await?;
    let conditions = run.status.unwrap_or_default().conditions;
    let complete = conditions::find(&conditions, ConditionType::Complete).context("no condition Complete")?;
    assert_eq!(complete.reason, "Forbidden", "{}", complete.message);
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.finish().await
}
