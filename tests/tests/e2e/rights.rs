//! Whose rights a playbook has, and that nobody gets more by writing one.

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterPlaybook, FindingState, Phase, Playbook, Remediation};
use quell_tests::fixtures::{PodCarrier as _, pod, service_account};
use quell_tests::{ControlPlane, TestNamespace, wait};
use serde_json::json;

use crate::support::{Bed, DEADLINE, any_falco, apply, is_quarantined, quarantine, ready};

/// Waits until the playbook's status speaks of it as it is, and gives back status and message of Ready.
async fn judged(playbooks: &Api<Playbook>, name: &str, reason: &str) -> Result<(String, String)> {
    wait::eventually(DEADLINE, &format!("Playbook {name} is judged {reason}"), async || {
        let playbook = playbooks.get(name).await?;
        let status = playbook.status.context("no status yet")?;
        anyhow::ensure!(status.observed_generation == playbook.metadata.generation, "its status is of an earlier one");
        let ready = conditions::find(&status.conditions, ConditionType::Ready).context("no condition")?;
        anyhow::ensure!(ready.reason == reason, "it is {ready:?}");
        Ok(Some((ready.status.clone(), ready.message.clone())))
    })
    .await
}

/// Lets a ServiceAccount of `home` do what these rules say in `namespace`.
async fn allow(
    home: &TestNamespace,
    namespace: &TestNamespace,
    account: &str,
    rules: &[(&str, &str, &[&str])],
) -> Result<()> {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
    let rules = rules.iter().map(|(group, resource, verbs)| PolicyRule {
        api_groups: Some(owned(&[group])),
        resources: Some(owned(&[resource])),
        verbs: owned(verbs),
        ..PolicyRule::default()
    });
    namespace.create_object(&Role { metadata: metadata.clone(), rules: Some(rules.collect()) }).await?;
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: account.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: Some(home.name().to_owned()),
            ..Subject::default()
        }]),
    };
    namespace.create_object(&binding).await?;
    Ok(())
}

const CONTAINS: &[(&str, &str, &[&str])] =
    &[("networking.k8s.io", "networkpolicies", &["create", "get", "patch"]), ("", "pods", &["get", "patch"])];

#[tokio::test]
async fn a_playbook_whose_account_lacks_rights_is_not_ready_until_it_has_them() -> Result<()> {
    let bed = Bed::new("tenant").await?;
    bed.namespace.create_object(&service_account("responder")).await?;
    let playbooks: Api<Playbook> = bed.namespace.api();
    let spec = json!({ "match": any_falco(), "serviceAccountName": "responder", "steps": quarantine() });
    apply(&playbooks, "Playbook", "contain", &spec).await?;
    let (status, message) = judged(&playbooks, "contain", "RightsMissing").await?;
    assert_eq!(status, "False");
    let user = format!("system:serviceaccount:{}:responder", bed.name());
    for told in [&user, "spec.steps[0]", "create networkpolicies.networking.k8s.io", "patch pods", bed.name()] {
        assert!(message.contains(told), "{told} is missing in: {message}");
    }
    assert!(!message.contains("cilium.io"), "what it can do without isn't asked for: {message}");

    let first = bed.shop("registry.example/shop:1.0").await?;
    let waits = bed.alert(&first.name_any()).await?;
    bed.finding_in(&waits.name_any(), FindingState::Open).await?;
    let runs: Api<Remediation> = bed.namespace.api();
    assert!(runs.list(&ListParams::default()).await?.items.is_empty(), "it matches nothing");
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!is_quarantined(&pods.get(&first.name_any()).await?));

    allow(&bed.namespace, &bed.namespace, "responder", CONTAINS).await?;
    judged(&playbooks, "contain", "Accepted").await?;
    bed.finding_in(&waits.name_any(), FindingState::Remediated).await?;
    assert!(is_quarantined(&pods.get(&first.name_any()).await?), "what waited for the rights is done");
    bed.finish().await
}

#[tokio::test]
async fn a_namespaced_playbook_has_the_rights_of_its_service_account_and_no_more() -> Result<()> {
    let bed = Bed::new("taken").await?;
    bed.namespace.create_object(&service_account("responder")).await?;
    allow(&bed.namespace, &bed.namespace, "responder", CONTAINS).await?;
    let playbooks: Api<Playbook> = bed.namespace.api();
    let spec = json!({ "match": any_falco(), "serviceAccountName": "responder", "steps": quarantine() });
    apply(&playbooks, "Playbook", "contain", &spec).await?;
    judged(&playbooks, "contain", "Accepted").await?;
    // Taken away between two looks: what counts is what the account may do at the moment of the effect.
    bed.namespace.api::<RoleBinding>().delete("responder", &DeleteParams::default()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Failed).await?;
    let record = &run.status.expect("status").steps[0];
    assert_eq!(record.reason, "Forbidden", "{}", record.message);
    assert!(record.message.contains("system:serviceaccount"), "{}", record.message);
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.event(&finding.name_any(), "Forbidden").await?;
    bed.finish().await
}

#[tokio::test]
async fn a_target_or_a_template_that_names_another_namespace_is_refused_whatever_the_account_may_do_there() -> Result<()>
{
    let (bed, other) = (Bed::new("mine").await?, TestNamespace::create(ControlPlane::shared().await?, "theirs").await?);
    let victim = other.create_object(&pod("victim").image("registry.example/app:1")).await?;
    bed.namespace.create_object(&service_account("responder")).await?;
    let rules: Vec<_> = CONTAINS
        .iter()
        .copied()
        .chain([("batch", "jobs", &["create", "get"][..]), ("", "pods", &["list"][..])])
        .collect();
    allow(&bed.namespace, &bed.namespace, "responder", &rules).await?;
    allow(&bed.namespace, &other, "responder", &rules).await?;
    let playbooks: Api<Playbook> = bed.namespace.api();
    let spec = json!({ "match": {}, "serviceAccountName": "responder", "steps": quarantine() });
    apply(&playbooks, "Playbook", "contain", &spec).await?;
    let template = json!({
        "metadata": { "namespace": other.name() },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "build", "image": "registry.example/builder:1" }] },
    });
    let build = json!([{ "name": "build", "rebuild": { "job": { "spec": { "template": template } } } }]);
    let spec = json!({ "match": any_falco(), "serviceAccountName": "responder", "steps": build });
    apply(&playbooks, "Playbook", "build", &spec).await?;
    judged(&playbooks, "contain", "Accepted").await?;
    judged(&playbooks, "build", "Accepted").await?;

    let target = json!({
        "kind": "Pod", "apiVersion": "v1", "namespace": other.name(), "name": "victim", "uid": victim.uid(),
    });
    let spec = json!({ "source": "manual", "rule": "not mine", "severity": "Critical", "target": target });
    apply(&bed.findings(), "Finding", "foreign", &spec).await?;
    bed.finding_in("foreign", FindingState::Open).await?;
    let own = bed.shop("registry.example/shop:1.0").await?;
    let alert = bed.alert(&own.name_any()).await?;
    let runs: Api<Remediation> = bed.namespace.api();
    let ended = async |playbook: &str, phase: Phase| {
        wait::eventually(DEADLINE, &format!("the run of {playbook} is {phase}"), async || {
            let all = runs.list(&ListParams::default()).await?.items;
            let is = |run: &Remediation| {
                run.spec.playbook.name == playbook && run.status.as_ref().is_some_and(|status| status.phase == phase)
            };
            Ok(all.into_iter().find(is))
        })
        .await
    };
    assert_eq!(ended("contain", Phase::Succeeded).await?.spec.finding.name, alert.name_any(), "its own is acted on");
    let build = ended("build", Phase::Failed).await?.status.expect("status");
    assert_eq!(build.steps[0].reason, "ParameterInvalid", "{}", build.steps[0].message);
    assert!(build.steps[0].message.contains(other.name()), "{}", build.steps[0].message);

    let all = runs.list(&ListParams::default()).await?.items;
    assert!(all.iter().all(|run| run.spec.finding.name != "foreign"), "no run for a target elsewhere");
    assert!(!is_quarantined(&other.api::<Pod>().get("victim").await?));
    for namespace in [&other, &bed.namespace] {
        assert!(namespace.api::<Job>().list(&ListParams::default()).await?.items.is_empty(), "no Job");
    }
    assert!(other.api::<NetworkPolicy>().list(&ListParams::default()).await?.items.is_empty(), "no policy");
    other.finish().await?;
    bed.finish().await
}

#[tokio::test]
async fn a_cluster_playbook_has_the_rights_of_the_account_that_it_names_and_no_others() -> Result<()> {
    let bed = Bed::new("named").await?;
    bed.namespace.create_object(&service_account("responder")).await?;
    let account = json!({ "namespace": bed.name(), "name": "responder" });
    let spec = json!({
        "match": any_falco(), "namespaces": { "include": [bed.name()] }, "serviceAccount": account, "steps": quarantine(),
    });
    apply(&bed.playbooks(), "ClusterPlaybook", bed.name(), &spec).await?;
    let is = |wanted: bool| move |playbook: &ClusterPlaybook| ready(playbook) == Some(wanted);
    let refused = wait::until_present(&bed.playbooks(), bed.name(), "not Ready", DEADLINE, is(false)).await?;
    let status = refused.status.expect("status");
    let found = conditions::find(&status.conditions, ConditionType::Ready).expect("Ready");
    assert_eq!(found.reason, "RightsMissing", "{}", found.message);
    allow(&bed.namespace, &bed.namespace, "responder", CONTAINS).await?;
    wait::until_present(&bed.playbooks(), bed.name(), "Ready", DEADLINE, is(true)).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let run = bed.run_in(&finding.name_any(), Phase::Succeeded).await?;
    assert_eq!(run.spec.playbook.service_account_namespace, bed.name());
    let contained = bed.namespace.api::<Pod>().get(&pod.name_any()).await?;
    assert!(is_quarantined(&contained));
    bed.finish().await
}
