//! Policies of other kinds: what they allow is seen, and what they deny holds whatever others allow.

use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use quell_actions::quarantine::{AuthorizationPolicy, FULL, policy_name};
use quell_crds::conditions::ConditionType;
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, Source};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::operator::source_spec;
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, crds, policy_kinds, wait};
use serde_json::json;

use crate::support::{DEADLINE, any_falco, apply, condition, falco, quarantine};

/// A control plane of its own, since kinds of policies are of the whole cluster.
#[tokio::test]
async fn what_a_policy_allows_to_all_pods_is_denied_to_quarantined_ones_by_a_kind_that_can() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    crds::install_these(&control_plane, vec![policy_kinds::calico()?, policy_kinds::istio()?]).await?;
    let client = control_plane.client().await?;
    apply(&Api::<Source>::all(client.clone()), "Source", "falco", &source_spec("falco")).await?;
    let playbook = json!({ "match": any_falco(), "steps": quarantine() });
    apply(&Api::<ClusterPlaybook>::all(client.clone()), "ClusterPlaybook", "contain", &playbook).await?;
    let namespace = TestNamespace::create(&control_plane, "denies").await?;
    namespace.create_object(&pod("web").image("registry.example/app:1")).await?;
    wait::pod_ready(&namespace.api::<Pod>(), "web", DEADLINE).await?;
    let allow_all: NetworkPolicy = serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "allow-all"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]},
    }))?;
    namespace.create_object(&allow_all).await?;
    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    let operator = Operator::start(binary, &control_plane, &["--network-plugin", "cilium"]).await?;

    let (_, name) = operator.post("falco", &falco(namespace.name(), "web", &json!({}))).await?.finding()?;
    let findings: Api<Finding> = namespace.api();
    let is = |wanted: &'static str| {
        move |finding: &Finding| {
            condition(finding, ConditionType::Contained).is_some_and(|(status, ..)| status == wanted)
        }
    };
    wait::until_present(&findings, &name, "contained", DEADLINE, is("True")).await?;

    // A mesh's policy stands beside it, and comes back where somebody deletes it.
    let mesh: Api<AuthorizationPolicy> = namespace.api();
    let policy = policy_name(FULL);
    let made = wait::until_present(&mesh, &policy, "there", DEADLINE, |_| true).await?;
    mesh.delete(&policy, &DeleteParams::default()).await?;
    wait::until_present(&mesh, &policy, "there again", DEADLINE, |there| there.uid() != made.uid()).await?;

    // The kind goes, and its policies with it: what the other allows is open again, and told.
    let definitions: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(client.clone());
    definitions.delete("networkpolicies.crd.projectcalico.org", &DeleteParams::default()).await?;
    wait::until_present(&findings, &name, "open", DEADLINE, is("False")).await?;
    control_plane.stop().await
}
