//! CRDs of tools whose objects Quell watches, as far as Quell reads them, and one of a tool that nobody knows.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// A kind with these fields beside its metadata.
fn kind(
    group: &str,
    version: &str,
    (kind, plural): (&str, &str),
    scope: &str,
    fields: &Value,
) -> Result<CustomResourceDefinition> {
    let text = json!({ "type": "string" });
    let mut properties = json!({ "apiVersion": text, "kind": text, "metadata": { "type": "object" } });
    for (name, schema) in fields.as_object().into_iter().flatten() {
        properties[name] = schema.clone();
    }
    Ok(serde_json::from_value(json!({
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": scope,
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
/// (<https://open-policy-agent.github.io/gatekeeper/website/docs/constrainttemplates>).
pub fn constraint(constraint: &str) -> Result<CustomResourceDefinition> {
    let names = (constraint, constraint.to_lowercase());
    let fields = json!({ "spec": anything(), "status": anything() });
    kind("constraints.gatekeeper.sh", "v1beta1", (names.0, &names.1), "Cluster", &fields)
}

/// PolicyReport, after `policy-report/crd/v1alpha2` of kubernetes-sigs/wg-policy-prototypes.
pub fn policy_reports() -> Result<CustomResourceDefinition> {
    let fields =
        json!({ "scope": anything(), "summary": anything(), "results": { "type": "array", "items": anything() } });
    kind("wgpolicyk8s.io", "v1alpha2", ("PolicyReport", "policyreports"), "Namespaced", &fields)
}

/// `Alert` of a group of one's own.
pub fn alerts(group: &str) -> Result<CustomResourceDefinition> {
    kind(group, "v1", ("Alert", "alerts"), "Namespaced", &json!({ "spec": anything() }))
}
