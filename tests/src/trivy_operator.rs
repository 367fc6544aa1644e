//! trivy-operator's VulnerabilityReport: the CRD, written after its published fields
//! (<https://aquasecurity.github.io/trivy-operator/latest/docs/crds/vulnerability-report/>): as far as Quell reads it.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// The CRD.
pub fn vulnerability_reports() -> Result<CustomResourceDefinition> {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    let vulnerability = object(
        &["vulnerabilityID", "resource", "installedVersion", "fixedVersion", "severity", "title"],
        json!({
            "vulnerabilityID": text, "resource": text, "installedVersion": text, "fixedVersion": text, "title": text,
            "severity": { "type": "string", "enum": ["CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN"] },
            "score": { "type": "number" }, "primaryLink": text, "description": text, "target": text, "class": text,
            "packageType": text, "packagePURL": text, "links": { "type": "array", "items": text },
        }),
    );
    let report = object(
        &["updateTimestamp", "scanner", "artifact", "summary", "vulnerabilities"],
        json!({
            "updateTimestamp": { "type": "string", "format": "date-time" },
            "scanner": object(&["name", "vendor", "version"], json!({ "name": text, "vendor": text, "version": text })),
            "registry": object(&[], json!({ "server": text })),
            "artifact": object(&[], json!({ "repository": text, "tag": text, "digest": text, "mimeType": text })),
            "os": object(&[], json!({ "family": text, "name": text, "eosl": { "type": "boolean" } })),
            "summary": object(
                &["criticalCount", "highCount", "mediumCount", "lowCount", "unknownCount"],
                json!({
                    "criticalCount": count, "highCount": count, "mediumCount": count, "lowCount": count,
                    "unknownCount": count, "noneCount": count,
                }),
            ),
            "vulnerabilities": { "type": "array", "items": vulnerability },
        }),
    );
    Ok(serde_json::from_value(json!({
        "metadata": { "name": "vulnerabilityreports.aquasecurity.github.io" },
        "spec": {
            "group": "aquasecurity.github.io", "scope": "Namespaced",
            "names": {
                "kind": "VulnerabilityReport", "listKind": "VulnerabilityReportList", "plural": "vulnerabilityreports",
                "singular": "vulnerabilityreport", "shortNames": ["vuln", "vulns"],
            },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": object(&["report"], json!({
                    "apiVersion": text, "kind": text, "metadata": { "type": "object" }, "report": report,
                }))},
            }],
        },
    }))?)
}

/// A report about the container `app` of an object, given as kind and name, whose image is `registry.example/shop:1.0`.
#[must_use]
pub fn vulnerability_report(namespace: &str, (kind, name): (&str, &str), vulnerabilities: &[Value]) -> Value {
    let count = |severity: &str| vulnerabilities.iter().filter(|one| one["severity"] == severity).count();
    json!({
        "apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "VulnerabilityReport",
        "metadata": { "name": format!("{}-{name}-app", kind.to_lowercase()), "namespace": namespace, "labels": {
            "trivy-operator.container.name": "app", "trivy-operator.resource.kind": kind,
            "trivy-operator.resource.name": name, "trivy-operator.resource.namespace": namespace,
        }},
        "report": {
            "updateTimestamp": "2026-01-01T00:00:00Z", "scanner": { "name": "Trivy", "vendor": "Aqua Security", "version": "0.70.0" },
            "registry": { "server": "registry.example" }, "artifact": { "repository": "shop", "tag": "1.0" },
            "summary": {
                "criticalCount": count("CRITICAL"), "highCount": count("HIGH"), "mediumCount": count("MEDIUM"),
                "lowCount": count("LOW"), "unknownCount": count("UNKNOWN"),
            },
            "vulnerabilities": vulnerabilities,
        },
    })
}

/// One of its vulnerabilities, which a newer version fixes; `severity` in trivy-operator's words.
#[must_use]
pub fn vulnerability(id: &str, severity: &str) -> Value {
    json!({
        "vulnerabilityID": id, "resource": "openssl", "installedVersion": "3.0.1", "fixedVersion": "3.0.2",
        "severity": severity, "title": "openssl: a test", "score": 7.5,
    })
}
