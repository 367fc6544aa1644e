//! The CRD of trivy-operator's VulnerabilityReport, written after its published fields
//! (<https://aquasecurity.github.io/trivy-operator/latest/docs/crds/vulnerability-report/>): as far as Quell reads it.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::json;

/// The CRD.
pub fn vulnerability_reports() -> Result<CustomResourceDefinition> {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let object = |required: &[&str], properties: serde_json::Value| json!({ "type": "object", "required": required, "properties": properties });
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
