//! Whether a quarantine holds, what opens it, and who puts it back.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use quell_actions::quarantine::Profile;
use quell_crds::conditions::{self, ConditionType};
use quell_crds::names;
use quell_crds::v1alpha1::step::Quarantine;
use quell_crds::v1alpha1::{Finding, FindingState, Phase, Remediation};
use quell_tests::wait;
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, any_falco, condition, quarantine};

const POLICY: &str = "quell-quarantine-full";

/// A pod under quarantine, and its Finding.
async fn quarantined(bed: &Bed) -> Result<(Pod, Finding)> {
    bed.playbook(any_falco(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let finding = bed.finding_in(&finding.name_any(), FindingState::Remediated).await?;
    Ok((pod, finding))
}

pub async fn contained(bed: &Bed, finding: &str, status: &str, reason: &str) -> Result<Finding> {
    let what = format!("Contained={status} for {reason}");
    let is = |finding: &Finding| {
        condition(finding, ConditionType::Contained).is_some_and(|(is, why, _)| is == status && why == reason)
    };
    wait::until_present(&bed.findings(), finding, &what, DEADLINE, is).await
}

async fn patch<K>(api: &Api<K>, name: &str, patch: Value) -> Result<()>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

pub fn allow_all(bed: &Bed) -> Result<NetworkPolicy> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "allow-all", "namespace": bed.name()},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"protocol": "TCP", "port": 8080}]}]},
    }))?)
}

#[tokio::test]
async fn a_policy_that_selects_every_pod_of_the_namespace_is_named_and_its_end_is_seen() -> Result<()> {
    let bed = Bed::new("leak").await?;
    bed.namespace.create_object(&allow_all(&bed)?).await?;
    let (pod, finding) = quarantined(&bed).await?;
    let finding = contained(&bed, &finding.name_any(), "False", "PathsOpen").await?;
    let leak = format!("allowed by NetworkPolicy {}/allow-all", bed.name());
    let (_, _, message) = condition(&finding, ConditionType::Contained).context("no condition")?;
    assert!(message.contains(&leak) && message.contains("TCP 8080") && message.contains(&pod.name_any()), "{message}");
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    for paths in [
        finding.status.clone().unwrap_or_default().open_paths,
        run.status.clone().map(|status| status.open_paths).unwrap_or_default(),
    ] {
        assert!(paths.len() == 1 && paths[0].contains(&leak), "{paths:?}");
    }
    assert!(bed.event(&finding.name_any(), "PathsOpen").await?.contains(&leak));

    bed.namespace.api::<NetworkPolicy>().delete("allow-all", &DeleteParams::default()).await?;
    let finding = contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    assert!(finding.status.unwrap_or_default().open_paths.is_empty());
    bed.finish().await
}

#[tokio::test]
async fn a_path_that_opens_later_flips_the_condition_and_is_told() -> Result<()> {
    let bed = Bed::new("opens").await?;
    let (_, finding) = quarantined(&bed).await?;
    let finding = contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    let (_, _, message) = condition(&finding, ConditionType::Contained).context("no condition")?;
    assert!(message.contains(" after the alert"), "it says how long it took: {message}");
    bed.namespace.create_object(&allow_all(&bed)?).await?;
    contained(&bed, &finding.name_any(), "False", "PathsOpen").await?;
    bed.event(&finding.name_any(), "PathsOpen").await?;
    bed.finish().await
}

#[tokio::test]
async fn labels_that_somebody_takes_off_or_puts_back_are_put_right_and_the_writer_is_named() -> Result<()> {
    let bed = Bed::new("kept").await?;
    let (pod, finding) = quarantined(&bed).await?;
    contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    let pods: Api<Pod> = bed.namespace.api();
    let name = pod.name_any();
    let made = pods.get(&name).await?;
    let lifted = json!({"metadata": {"labels": {names::QUARANTINE: null, "app": "shop"}}});
    pods.patch(
        &name,
        &PatchParams { field_manager: Some("gitops".to_owned()), ..PatchParams::default() },
        &Patch::Merge(lifted),
    )
    .await?;
    wait::until_present(&pods, &name, "under quarantine again", DEADLINE, |pod| pod.labels() == made.labels()).await?;
    let told = bed.event(&finding.name_any(), "QuarantineRestored").await?;
    assert!(told.contains("gitops") && told.contains("label quell.dev/quarantine was taken away"), "{told}");
    contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    bed.finish().await
}

#[tokio::test]
async fn a_policy_that_somebody_opens_is_closed_again() -> Result<()> {
    let bed = Bed::new("policy").await?;
    let (_, finding) = quarantined(&bed).await?;
    contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    let policies: Api<NetworkPolicy> = bed.namespace.api();
    patch(&policies, POLICY, json!({"spec": {"egress": [{}]}})).await?;
    let profile = Profile::of(&Quarantine::default());
    wait::until_present(&policies, POLICY, "closed", DEADLINE, |policy| profile.is_said_by(policy)).await?;
    bed.event(&finding.name_any(), "QuarantineRestored").await?;

    // Without its finalizer it can really be deleted, and comes back.
    patch(&policies, POLICY, json!({"metadata": {"finalizers": null}})).await?;
    let before = policies.get(POLICY).await?.uid();
    policies.delete(POLICY, &DeleteParams::default()).await?;
    wait::until_present(&policies, POLICY, "there again", DEADLINE, |policy| policy.uid() != before).await?;
    contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    bed.finish().await
}

#[tokio::test]
async fn whoever_fights_it_again_and_again_is_named_and_answered_ever_more_slowly() -> Result<()> {
    let bed = Bed::new("fight").await?;
    let (pod, finding) = quarantined(&bed).await?;
    contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;
    let pods: Api<Pod> = bed.namespace.api();
    let lifted = json!({"metadata": {"labels": {names::QUARANTINE: null}}});
    for _ in 0..3 {
        patch(&pods, &pod.name_any(), lifted.clone()).await?;
        let is_back = |pod: &Pod| pod.labels().contains_key(names::QUARANTINE);
        wait::until_present(&pods, &pod.name_any(), "under quarantine again", DEADLINE, is_back).await?;
    }
    let told = bed.event(&finding.name_any(), "QuarantineContested").await?;
    assert!(told.contains("3 times"), "{told}");
    bed.finish().await
}

#[tokio::test]
async fn deleting_the_records_lifts_nothing() -> Result<()> {
    let bed = Bed::new("records").await?;
    let (pod, finding) = quarantined(&bed).await?;
    let runs: Api<Remediation> = bed.namespace.api();
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    // The playbook first, or the Finding that is deleted last would begin a run for the alert that is sent again.
    bed.playbooks().delete(bed.name(), &DeleteParams::default()).await?;
    runs.delete(&run.name_any(), &DeleteParams::default()).await?;
    bed.findings().delete(&finding.name_any(), &DeleteParams::default()).await?;
    wait::gone(&runs, &run.name_any(), DEADLINE).await?;
    wait::gone(&bed.findings(), &finding.name_any(), DEADLINE).await?;
    // Quell has taken notice by the time that it has handled a later alert.
    let other = bed.alert("no-such-pod").await?;
    bed.finding_in(&other.name_any(), FindingState::Open).await?;
    let there = bed.namespace.api::<Pod>().get(&pod.name_any()).await?;
    assert_eq!(there.labels().get(names::QUARANTINE).map(String::as_str), Some("full"));
    let policy = bed.namespace.api::<NetworkPolicy>().get(POLICY).await?;
    assert!(Profile::of(&Quarantine::default()).is_said_by(&policy) && policy.metadata.deletion_timestamp.is_none());
    bed.finish().await
}

#[tokio::test]
async fn the_policy_stays_while_a_pod_needs_it_and_lets_go_afterwards() -> Result<()> {
    let bed = Bed::new("finalizer").await?;
    let (pod, finding) = quarantined(&bed).await?;
    let policies: Api<NetworkPolicy> = bed.namespace.api();
    policies.delete(POLICY, &DeleteParams::default()).await?;
    let held = policies.get(POLICY).await?;
    assert!(held.metadata.deletion_timestamp.is_some() && held.finalizers() == [names::QUARANTINE]);
    contained(&bed, &finding.name_any(), "True", "NothingGetsThrough").await?;

    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    bed.undo(&run.name_any()).await?;
    let undone = bed.run_in(&finding.name_any(), Phase::Undone).await?;
    let there = undone.status.map(|status| status.conditions).unwrap_or_default();
    assert!(conditions::find(&there, ConditionType::Contained).is_none(), "nothing is claimed of {}", pod.name_any());
    wait::gone(&policies, POLICY, DEADLINE).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_namespace_with_a_quarantine_can_be_deleted_and_the_policy_outlives_the_pod() -> Result<()> {
    let bed = Bed::new("deleted").await?;
    let (pod, _) = quarantined(&bed).await?;
    let pods: Api<Pod> = bed.namespace.api();
    // A pod that takes its time to end.
    patch(&pods, &pod.name_any(), json!({"metadata": {"finalizers": ["tests.quell.dev/slow"]}})).await?;
    let namespaces: Api<Namespace> = Api::all(bed.namespace.client().clone());
    namespaces.delete(bed.name(), &DeleteParams::default()).await?;
    // Servers since 1.33 delete pods first (KEP-5080); before that, the finalizer alone makes sure of it.
    let ending = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    wait::until_present(&pods, &pod.name_any(), "being deleted", DEADLINE, ending).await?;
    let policy = bed.namespace.api::<NetworkPolicy>().get(POLICY).await?;
    ensure!(policy.finalizers() == [names::QUARANTINE], "it can go before the pod: {:?}", policy.metadata);
    patch(&pods, &pod.name_any(), json!({"metadata": {"finalizers": null}})).await?;
    wait::gone(&namespaces, bed.name(), DEADLINE).await?;
    bed.playbooks().delete(bed.name(), &DeleteParams::default()).await?;
    Ok(())
}
