//! CRDs of other projects' network policies, routes and workloads, as far as Quell writes and reads them: their fields are kept as they are.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::json;

/// `cilium.io/v2` CiliumNetworkPolicy.
pub fn cilium() -> Result<CustomResourceDefinition> {
    kind("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies", "Namespaced")
}

/// `crd.projectcalico.org/v1` NetworkPolicy.
pub fn calico() -> Result<CustomResourceDefinition> {
    kind("crd.projectcalico.org", "v1", "NetworkPolicy", "networkpolicies", "Namespaced")
}

/// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
pub fn cluster() -> Result<CustomResourceDefinition> {
    kind("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", "Cluster")
}

/// `security.istio.io/v1` AuthorizationPolicy.
pub fn istio() -> Result<CustomResourceDefinition> {
    kind("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies", "Namespaced")
}

/// `gateway.networking.k8s.io/v1` HTTPRoute.
pub fn http_route() -> Result<CustomResourceDefinition> {
    kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", "Namespaced")
}

/// `argoproj.io/v1alpha1` Rollout.
pub fn rollout() -> Result<CustomResourceDefinition> {
    kind("argoproj.io", "v1alpha1", "Rollout", "rollouts", "Namespaced")
}

fn kind(group: &str, version: &str, kind: &str, plural: &str, scope: &str) -> Result<CustomResourceDefinition> {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut annotations = json!({});
    // The API server asks for it in the groups of the community.
    if group == "policy.networking.k8s.io" {
        annotations["api-approved.kubernetes.io"] = json!("https://github.com/kubernetes-sigs/network-policy-api");
    } else if group == "gateway.networking.k8s.io" {
        annotations["api-approved.kubernetes.io"] = json!("https://github.com/kubernetes-sigs/gateway-api");
    }
    Ok(serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}"), "annotations": annotations },
        "spec": {
            "group": group, "scope": scope,
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{ "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    }))?)
}
