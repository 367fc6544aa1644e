//! What playbooks know beside the alert itself: where it was, what else is wrong there, and what that opens to others.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use quell_crds::v1alpha1::{FindingState, Phase, Remediation};
use quell_tests::fixtures::{digest_of, service};
use quell_tests::{ControlPlane, crds, policy_kinds, wait};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, falco, is_quarantined, quarantine};

async fn runs(bed: &Bed) -> Result<Vec<Remediation>> {
    Ok(bed.namespace.api::<Remediation>().list(&ListParams::default()).await?.items)
}

#[tokio::test]
async fn an_alert_about_a_pod_that_is_gone_names_its_workload_its_image_and_its_node() -> Result<()> {
    let bed = Bed::new("late").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let before = bed.alert(&pod.name_any()).await?;
    let pods: Api<Pod> = bed.namespace.api();
    pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    wait::gone(&pods, &pod.name_any(), DEADLINE).await?;
    // Of the same rule it is the same problem; of another it is another.
    assert_eq!(bed.alert(&pod.name_any()).await?.name_any(), before.name_any());
    let mut late = falco(bed.name(), &pod.name_any(), &json!({}));
    late["rule"] = json!("Outbound connection to C2 servers");
    let name = bed.operator.post("falco", &late).await?.finding()?.1;
    let spec = bed.findings().get(&name).await?.spec;
    assert_eq!(Some(&spec.target.uid), pod.metadata.uid.as_ref());
    assert_eq!(spec.target.image, "registry.example/shop:1.0");
    assert_eq!(spec.target.digest, digest_of("registry.example/shop:1.0"));
    assert_eq!(Some(&spec.target.node), pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()));
    let workload = spec.workload.expect("the owner");
    assert_eq!((workload.kind.as_str(), workload.name.as_str()), ("Deployment", "shop"));
    bed.finish().await
}

#[tokio::test]
async fn the_owner_of_a_pod_that_nobody_has_seen_is_told_by_its_name() -> Result<()> {
    let bed = Bed::new("unseen").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let owner = pod.owner_references().first().expect("a ReplicaSet").name.clone();
    let spec = bed.alert(&format!("{owner}-x7x7x")).await?.spec;
    let workload = spec.workload.expect("the owner");
    assert_eq!((workload.kind.as_str(), workload.name.as_str()), ("Deployment", "shop"));
    let spec = bed.alert("nobody-knows-x7x7x").await?.spec;
    assert_eq!(spec.workload, None);
    bed.finish().await
}

fn trivy(image: &str, severity: &str) -> Value {
    json!({
        "SchemaVersion": 2, "CreatedAt": "2026-01-01T00:00:00Z", "ArtifactName": image, "ArtifactType": "container_image",
        "Metadata": { "OS": { "Family": "debian", "Name": "12.5" }, "RepoTags": [image] },
        "Results": [{ "Target": "os", "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": [
            { "VulnerabilityID": "CVE-2026-0001", "PkgName": "openssl", "InstalledVersion": "3.0.1", "Severity": severity },
        ]}],
    })
}

#[tokio::test]
async fn an_alert_is_judged_again_when_another_tool_finds_something_on_its_workload() -> Result<()> {
    let bed = Bed::new("related").await?;
    let when =
        "finding.related.exists(f, f.tool == 'trivy' && f.severity == 'Critical' && f.category == 'Vulnerability')";
    bed.playbook(json!({ "sources": ["falco"], "when": when }), quarantine()).await?;
    let image = format!("registry.example/{}:1.0", bed.name());
    let pod = bed.shop(&image).await?;
    let alert = bed.alert(&pod.name_any()).await?.name_any();
    bed.finding_in(&alert, FindingState::Open).await?;
    bed.operator.post("trivy", &trivy(&image, "MEDIUM")).await?;
    let of_trivy = async || {
        let all = bed.findings().list(&ListParams::default().fields("spec.source=trivy")).await?.items;
        ensure!(all.len() == 1, "there are {}", all.len());
        Ok(all[0].name_any())
    };
    let scanned = of_trivy().await?;
    bed.finding_in(&scanned, FindingState::Open).await?;
    assert_eq!(runs(&bed).await?.len(), 0, "what is on the workload is not bad enough");

    bed.operator.post("trivy", &trivy(&image, "CRITICAL")).await?;
    bed.run_in(&alert, Phase::Succeeded).await?;
    let pods: Api<Pod> = bed.namespace.api();
    assert!(is_quarantined(&pods.get(&pod.name_any()).await?));
    bed.finish().await
}

#[tokio::test]
async fn a_playbook_is_run_for_what_is_open_to_the_outside_alone() -> Result<()> {
    let bed = Bed::new("exposed").await?;
    let when = "exposure.external && !exposure.privileged && exposure.services.exists(s, s.type == 'NodePort')";
    bed.playbook(json!({ "sources": ["falco"], "when": when }), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?.name_any();
    let inner = bed.alert(&pod).await?.name_any();
    bed.finding_in(&inner, FindingState::Open).await?;
    assert_eq!(runs(&bed).await?.len(), 0);

    let mut open = service("shop");
    open.spec.get_or_insert_default().type_ = Some("NodePort".to_owned());
    bed.namespace.create_object(&open).await?;
    // The copy of the Service is there soon, and each report asks anew.
    wait::eventually(DEADLINE, "a run for what is reported now", async || {
        bed.alert(&pod).await?;
        Ok((!runs(&bed).await?.is_empty()).then_some(()))
    })
    .await?;
    bed.run_in(&inner, Phase::Succeeded).await?;
    bed.finish().await
}

#[tokio::test]
async fn what_an_ingress_or_a_route_of_a_gateway_leads_to_is_open_to_the_outside() -> Result<()> {
    let bed = Bed::new("led-to").await?;
    crds::install_these(ControlPlane::shared().await?, vec![policy_kinds::http_route()?]).await?;
    let led = |kind: &str, host: &str| {
        format!("exposure.external && exposure.ingresses.exists(i, i.kind == '{kind}' && '{host}' in i.hosts)")
    };
    for (name, kind, host) in [("ingress", "Ingress", "shop.example"), ("route", "HTTPRoute", "api.example")] {
        let playbook = format!("{}-{name}", bed.name());
        let matching = json!({ "sources": ["falco"], "when": led(kind, host) });
        bed.playbook_with(&playbook, matching, json!([{ "name": "look", "wait": { "for": "1s" } }]), json!({})).await?;
    }
    let pod = bed.shop("registry.example/shop:1.0").await?.name_any();
    bed.namespace.create_object(&service("shop")).await?;
    let inner = bed.alert(&pod).await?.name_any();
    bed.finding_in(&inner, FindingState::Open).await?;
    assert_eq!(runs(&bed).await?.len(), 0, "a Service alone leads nobody in");

    let rule = json!({ "host": "shop.example", "http": { "paths": [
        { "path": "/", "pathType": "Prefix", "backend": { "service": { "name": "shop", "port": { "number": 80 } } } },
    ] } });
    let ingress: Ingress =
        serde_json::from_value(json!({ "metadata": { "name": "edge" }, "spec": { "rules": [rule] } }))?;
    bed.namespace.create_object(&ingress).await?;
    // The copy is there soon, and each report asks anew.
    let begun = async |name: &str| {
        let of = format!("{}-{name}", bed.name());
        wait::eventually(DEADLINE, &format!("a run of {of}"), async || {
            bed.alert(&pod).await?;
            Ok(runs(&bed).await?.into_iter().find(|run| run.spec.playbook.name == of))
        })
        .await
    };
    begun("ingress").await?;
    assert_eq!(runs(&bed).await?.len(), 1, "there is no HTTPRoute yet");
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let routes: Api<DynamicObject> =
        Api::namespaced_with(bed.namespace.client().clone(), bed.name(), &ApiResource::from_gvk(&kind));
    let route: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "edge" },
        "spec": {
            "parentRefs": [{ "name": "public" }], "hostnames": ["api.example"],
            "rules": [{ "backendRefs": [{ "name": "shop", "port": 80 }] }],
        },
    }))?;
    wait::eventually(DEADLINE, "the route is written", async || {
        Ok(Some(routes.create(&PostParams::default(), &route).await?))
    })
    .await?;
    begun("route").await?;
    for name in ["ingress", "route"] {
        bed.playbooks().delete(&format!("{}-{name}", bed.name()), &DeleteParams::default()).await?;
    }
    bed.finish().await
}
