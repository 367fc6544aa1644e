//! What comes in, and what becomes of it.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::conditions::ConditionType;
use quell_crds::v1alpha1::{Category, Finding, FindingState, Severity, Source};
use quell_tests::fixtures::digest_of;
use quell_tests::operator::NAMESPACE;
use quell_tests::{ControlPlane, crds, trivy_operator, wait};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply, condition, falco};

#[tokio::test]
async fn a_falco_alert_becomes_a_finding_with_owner_image_and_node_from_the_cluster() -> Result<()> {
    let bed = Bed::new("alert").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    let spec = &finding.spec;
    assert_eq!((spec.source.as_str(), spec.severity, spec.category), ("falco", Severity::Critical, Category::Runtime));
    assert_eq!(Some(&spec.target.uid), pod.metadata.uid.as_ref());
    assert_eq!(spec.target.image, "registry.example/shop:1.0");
    assert_eq!(spec.target.digest, digest_of("registry.example/shop:1.0"));
    assert_eq!(Some(&spec.target.node), pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()));
    let workload = spec.workload.clone().expect("the owner");
    assert_eq!((workload.kind.as_str(), workload.name.as_str()), ("Deployment", "shop"));
    let open = bed.finding_in(&finding.name_any(), FindingState::Open).await?;
    let (_, reason, message) = condition(&open, ConditionType::Matched).expect("Matched");
    assert_eq!(reason, "NoPlaybookMatched", "{message}");
    bed.finish().await
}

#[tokio::test]
async fn the_same_alert_again_raises_the_count_and_makes_no_second_finding() -> Result<()> {
    let bed = Bed::new("again").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?.name_any();
    let first = bed.alert(&pod).await?;
    for again in 0..4 {
        let more = bed.alert_with(&pod, json!({ "proc.cmdline": format!("sh -c {again}"), "proc.pid": again })).await?;
        assert_eq!(more.name_any(), first.name_any());
    }
    let counted = |finding: &Finding| finding.status.as_ref().is_some_and(|status| status.count == 5);
    wait::until_present(&bed.findings(), &first.name_any(), "counted 5 times", DEADLINE, counted).await?;
    assert_eq!(bed.findings().list(&ListParams::default()).await?.items.len(), 1);
    bed.finish().await
}

#[tokio::test]
async fn a_falcosidekick_alert_is_understood_as_well() -> Result<()> {
    let bed = Bed::new("sidekick").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?.name_any();
    let mut body = falco(bed.name(), &pod, &json!({}));
    body["uuid"] = json!("2435103e-c7ec-4118-b737-5f9979c00310");
    let answer = bed.operator.post("falcosidekick", &body).await?;
    let (_, name) = answer.finding()?;
    let finding = bed.findings().get(&name).await?;
    assert_eq!((finding.spec.source.as_str(), finding.spec.target.name.as_str()), ("falcosidekick", pod.as_str()));
    bed.finish().await
}

#[tokio::test]
async fn an_alert_about_a_pod_that_is_not_there_is_a_finding_that_says_so() -> Result<()> {
    let bed = Bed::new("ghost").await?;
    let finding = bed.alert("ghost").await?;
    let open = bed.finding_in(&finding.name_any(), FindingState::Open).await?;
    let (status, reason, message) = condition(&open, ConditionType::TargetResolved).expect("TargetResolved");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "TargetNotFound"));
    assert!(message.contains("there is no pod"), "{message}");
    bed.finish().await
}

#[tokio::test]
async fn an_alert_about_a_namespace_that_is_not_there_is_kept_in_quells_own() -> Result<()> {
    let bed = Bed::new("nowhere").await?;
    let gone = format!("{}-gone", bed.name());
    let answer = bed.operator.post("falco", &falco(&gone, "web", &json!({}))).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (namespace, name) = answer.finding()?;
    assert_eq!(namespace, NAMESPACE);
    let findings: Api<Finding> = Api::namespaced(bed.namespace.client().clone(), NAMESPACE);
    assert_eq!(findings.get(&name).await?.spec.target.namespace, gone);
    findings.delete(&name, &kube::api::DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_body_that_is_not_understood_is_refused_with_its_place_and_changes_nothing() -> Result<()> {
    let bed = Bed::new("refused").await?;
    let cases = [
        ("falco", "{\"output\": ", "line 1"),
        ("falco", "{\"receiver\": \"x\", \"alerts\": []}", "rule"),
        ("falco", "", ""),
        ("trivy", "[{\"nonsense\": 1}]", ""),
        ("trivy", "\"text\"", ""),
    ];
    for (source, body, place) in cases {
        let answer = bed.operator.post_text(source, body, Some(quell_tests::operator::TOKEN)).await?;
        assert_eq!(answer.status, 400, "{source} {body}: {}", answer.body);
        let said = answer.body.to_string();
        assert!(said.contains(place), "{source} {body}: {said}");
    }
    assert_eq!(bed.findings().list(&ListParams::default()).await?.items.len(), 0);
    bed.finish().await
}

#[tokio::test]
async fn a_sender_without_the_token_is_not_let_in() -> Result<()> {
    let bed = Bed::new("token").await?;
    let body = falco(bed.name(), "web", &json!({})).to_string();
    assert_eq!(bed.operator.post_text("falco", &body, None).await?.status, 401);
    assert_eq!(bed.operator.post_text("falco", &body, Some("another")).await?.status, 401);
    assert_eq!(bed.operator.post_text("nothing", &body, Some("another")).await?.status, 404);
    assert_eq!(bed.findings().list(&ListParams::default()).await?.items.len(), 0);
    let metrics = bed.operator.metrics().await?;
    assert!(metrics.contains("outcome=\"unauthorized\""), "{metrics}");
    bed.finish().await
}

#[tokio::test]
async fn a_trivy_report_becomes_a_finding_on_each_workload_that_runs_the_image() -> Result<()> {
    let bed = Bed::new("trivy").await?;
    let image = format!("registry.example/{}:1.0", bed.name());
    bed.shop(&image).await?;
    let answer = bed.operator.post("trivy", &trivy_report(&image)).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (namespace, name) = answer.finding()?;
    assert_eq!(namespace, bed.name());
    let finding = bed.findings().get(&name).await?;
    let spec = &finding.spec;
    assert_eq!((spec.target.kind.as_str(), spec.target.name.as_str()), ("Deployment", "shop"));
    assert_eq!((spec.severity, spec.category), (Severity::Critical, Category::Vulnerability));
    let counts = spec.vulnerability_counts.expect("counts");
    assert_eq!((counts.critical, counts.high, counts.fixable), (1, 1, 1));
    assert_eq!(spec.vulnerabilities[0].id, "CVE-2026-0001");
    bed.finish().await
}

#[tokio::test]
async fn a_vulnerability_report_of_trivy_operator_becomes_a_finding_on_the_deployment() -> Result<()> {
    let bed = Bed::new("reports").await?;
    let control_plane = ControlPlane::shared().await?;
    crds::install_these(control_plane, vec![trivy_operator::vulnerability_reports()?]).await?;
    let sources: Api<Source> = Api::all(bed.namespace.client().clone());
    apply(&sources, "Source", "trivy-operator", &json!({ "format": "trivy-operator", "watch": {} })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let owner = pod.owner_references().first().expect("a ReplicaSet").name.clone();
    let report = trivy_operator::vulnerability_report(
        bed.name(),
        ("ReplicaSet", &owner),
        &[trivy_operator::vulnerability("CVE-2026-0002", "HIGH")],
    );
    bed.namespace.put(&report).await?;
    let finding = wait::eventually(DEADLINE, "a Finding of the report", async || {
        let all = bed.findings().list(&ListParams::default()).await?;
        Ok(all.items.into_iter().find(|finding| finding.spec.source == "trivy-operator"))
    })
    .await?;
    let workload = finding.spec.workload.clone().expect("the owner");
    assert_eq!((workload.kind.as_str(), workload.name.as_str()), ("Deployment", "shop"));
    assert_eq!(finding.spec.severity, Severity::High);
    assert_eq!(finding.spec.vulnerabilities.len(), 1);
    bed.finish().await
}

fn trivy_report(image: &str) -> Value {
    json!({
        "SchemaVersion": 2, "CreatedAt": "2026-01-01T00:00:00Z", "ArtifactName": image, "ArtifactType": "container_image",
        "Metadata": { "OS": { "Family": "debian", "Name": "12.5" }, "RepoTags": [image] },
        "Results": [{ "Target": format!("{image} (debian 12.5)"), "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": [
            { "VulnerabilityID": "CVE-2026-0003", "PkgName": "zlib1g", "InstalledVersion": "1.2", "Severity": "HIGH", "Title": "zlib" },
            { "VulnerabilityID": "CVE-2026-0001", "PkgName": "openssl", "InstalledVersion": "3.0.1", "FixedVersion": "3.0.2",
              "Severity": "CRITICAL", "Title": "openssl" },
        ]}],
    })
}

#[tokio::test]
async fn a_pod_that_was_replaced_under_its_name_is_left_alone() -> Result<()> {
    let bed = Bed::new("replaced").await?;
    bed.playbook(crate::support::any_falco(), crate::support::quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?.name_any();
    let old = "11111111-2222-3333-4444-555555555555";
    let finding = bed.alert_with(&pod, json!({ "k8s.pod.uid": old })).await?;
    assert_eq!(finding.spec.target.uid, old);
    let failed = bed.finding_in(&finding.name_any(), FindingState::Failed).await?;
    let (_, reason, _) = condition(&failed, ConditionType::TargetResolved).expect("TargetResolved");
    assert_eq!(reason, "TargetReplaced");
    bed.event(&finding.name_any(), "TargetReplaced").await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(!crate::support::is_quarantined(&pods.get(&pod).await?), "the new pod must be left alone");
    bed.finish().await
}
