//! CRDs of tools whose objects Quell watches, as far as Quell reads them, and one of a tool that nobody knows.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

/// Whether objects of a kind are in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They are.
    Namespaced,
    /// They are the cluster's.
    Cluster,
}

/// A kind whose fields beside the metadata, named here, may hold anything; its plural is that of its name.
pub fn kind(group: &str, version: &str, kind: &str, scope: Scope, fields: &[&str]) -> Result<CustomResourceDefinition> {
    let text = json!({ "type": "string" });
    let mut properties = json!({ "apiVersion": text, "kind": text, "metadata": { "type": "object" } });
    for name in fields {
        properties[*name] = match *name {
            "results" => json!({ "type": "array", "items": anything() }),
            _ => anything(),
        };
    }
    let plural = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)).plural;
    Ok(serde_json::from_value(json!({
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": format!("{scope:?}"),
            "names": { "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": properties } },
            }],
        },
    }))?)
}

fn anything() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The CRD that Gatekeeper makes of a ConstraintTemplate
/// (<https://open-policy-agent.github.io/gatekeeper/website/docs/constrainttemplates>). Its plural is its name.
pub fn constraint(constraint: &str) -> Result<CustomResourceDefinition> {
    let mut definition = kind("constraints.gatekeeper.sh", "v1beta1", constraint, Scope::Cluster, &["spec", "status"])?;
    let plural = constraint.to_lowercase();
    definition.metadata.name = Some(format!("{plural}.constraints.gatekeeper.sh"));
    definition.spec.names.plural = plural;
    Ok(definition)
}

/// Those of trivy-operator's reports beside VulnerabilityReport, after its `deploy/helm/crds`.
pub fn of_trivy_operator(report: &str) -> Result<CustomResourceDefinition> {
    let scope = if report.starts_with("Cluster") { Scope::Cluster } else { Scope::Namespaced };
    kind("aquasecurity.github.io", "v1alpha1", report, scope, &["spec", "status", "report"])
}

/// PolicyReport or ClusterPolicyReport, after `policy-report/crd/v1alpha2` of kubernetes-sigs/wg-policy-prototypes.
pub fn policy_reports(report: &str) -> Result<CustomResourceDefinition> {
    let scope = if report.starts_with("Cluster") { Scope::Cluster } else { Scope::Namespaced };
    kind("wgpolicyk8s.io", "v1alpha2", report, scope, &["scope", "summary", "results"])
}

/// Report or ClusterReport, after `apis/openreports.io/v1alpha1` of openreports/reports-api.
pub fn open_reports(report: &str) -> Result<CustomResourceDefinition> {
    let scope = if report.starts_with("Cluster") { Scope::Cluster } else { Scope::Namespaced };
    kind("openreports.io", "v1alpha1", report, scope, &["scope", "summary", "results"])
}

/// A kind of Kubescape's operator, after `pkg/apis/softwarecomposition/v1beta1` of kubescape/storage. There an API server of its own
/// serves it, whose lists have metadata only; here the cluster does.
pub fn of_kubescape(object: &str) -> Result<CustomResourceDefinition> {
    kind("spdx.softwarecomposition.kubescape.io", "v1beta1", object, Scope::Namespaced, &["spec", "status"])
}

/// `Alert` of a group of one's own.
pub fn alerts(group: &str) -> Result<CustomResourceDefinition> {
    kind(group, "v1", "Alert", Scope::Namespaced, &["spec"])
}
