//! JSON reports of Trivy (`--format json`), posted by whoever runs it: of an image, of files, or of a cluster.
//!
//! Fields: aquasecurity/trivy, `docs/docs/configuration/reporting.md`, and [`report`]. One signal for what was found of one
//! category in one artifact (an image, an object of the cluster): not one for each vulnerability, since the remedy, another
//! image, is one.

mod artifact;
mod report;

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{Category, Severity};
use serde::Deserialize as _;
use serde_json::{Deserializer, Map, Value, json};

use crate::checks::Check;
use crate::json::kind_of;
use crate::lenient::{List, Text, first_text};
use crate::severity::severity;
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::{Signal, Unreadable, bound};
use artifact::Artifact;
use report::{Document, Metadata, Report, Resource, Scanned};

const TOOL: &str = "trivy";

/// Reads reports, one or several after one another. One with nothing wrong says that what was wrong with its image is no longer.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    let mut count = 0;
    for document in Deserializer::from_slice(body).into_iter::<Document>() {
        count += 1;
        let found = match document.map_err(|error| Unreadable::json(&error))? {
            Document::Report(report) => read_report(*report),
            Document::Results(results) => read_results(results),
            Document::Nothing => Ok(Vec::new()),
        };
        signals.extend(found.map_err(|error| match count {
            1 => error,
            _ => Unreadable { at: format!("document {count}, {}", error.at), ..error },
        })?);
    }
    if count == 0 {
        return Err(Unreadable::new("line 1, column 1", "the body is empty, a report of Trivy was expected"));
    }
    Ok(signals)
}

/// A list: of results, as schema 1 is, which don't say of what; or of reports.
fn read_results(values: Vec<Value>) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    let mut results = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let Value::Object(fields) = &value else {
            let problem = format!("an object was expected, this is {}", kind_of(&value));
            return Err(Unreadable::new(format!("[{index}]"), problem));
        };
        let in_place = |error: serde_json::Error| Unreadable::new(format!("[{index}]"), error.to_string());
        if first_text(fields, &["Target"]).is_some() {
            results.push(Scanned::deserialize(value).map_err(in_place)?);
        } else if ["SchemaVersion", "ArtifactName", "ClusterName"].iter().any(|name| fields.contains_key(*name)) {
            let found = read_report(Report::deserialize(value).map_err(in_place)?);
            signals.extend(found.map_err(|error| Unreadable { at: format!("[{index}].{}", error.at), ..error })?);
        } else {
            return Err(Unreadable::new(
                format!("[{index}].Target"),
                "missing: each result of Trivy names what was scanned; is this the body of another tool?",
            ));
        }
    }
    if !results.is_empty() {
        let artifact = Artifact::of_results(&results);
        signals.extend(self::signals(&artifact, results, &Map::new(), None));
    }
    Ok(signals)
}

fn read_report(mut report: Report) -> Result<Vec<Signal>, Unreadable> {
    let at = time(&report.created_at.0);
    let lists = [
        ("Resources", report.resources.take()),
        ("Findings", report.findings.take()),
        ("Vulnerabilities", report.vulnerabilities.take()),
        ("Misconfigurations", report.misconfigurations.take()),
    ];
    let of_cluster = report.cluster_name.is_some() && report.host_name.is_none();
    if of_cluster || lists.iter().any(|(_, list)| list.is_some()) {
        return read_cluster(&report, lists, at);
    }
    if report.artifact_name.is_none() && report.results.is_none() {
        return Err(unknown(&report));
    }
    let results = report.results.take().unwrap_or_default().0;
    let artifact = Artifact::of_report(&report, &results);
    let details = details(&[("ArtifactType", &report.artifact_type)], report.metadata.0.first());
    Ok(signals(&artifact, results, &details, at))
}

fn read_cluster(
    report: &Report,
    lists: [(&str, Option<List<Resource>>); 4],
    at: Option<DateTime<Utc>>,
) -> Result<Vec<Signal>, Unreadable> {
    let cluster = report.cluster_name.clone().unwrap_or_default();
    let mut found = Vec::new();
    for (list, resources) in lists {
        for (index, resource) in resources.unwrap_or_default().into_iter().enumerate() {
            for (field, text) in [("Kind", &resource.kind), ("Name", &resource.name)] {
                if text.known().is_none() {
                    return Err(Unreadable::new(
                        format!("{list}[{index}].{field}"),
                        "missing: a report of trivy k8s names each object; is this the body of another tool?",
                    ));
                }
            }
            let artifact = Artifact::of_resource(&resource);
            let details = details(&[("ClusterName", &cluster)], resource.metadata.0.first());
            found.extend(signals(&artifact, resource.results.0, &details, at));
        }
    }
    Ok(found)
}

/// Why an object is no report: in a format of Trivy's that Quell doesn't read, or of another tool.
fn unknown(report: &Report) -> Unreadable {
    let other = [
        (&report.sarif, "runs", "SARIF"),
        (&report.cyclonedx, "bomFormat", "CycloneDX"),
        (&report.spdx, "spdxVersion", "SPDX"),
    ]
    .into_iter()
    .find(|(field, ..)| field.is_some());
    match other {
        Some((_, field, name)) => Unreadable::new(field, format!("this is {name}: run trivy with --format json")),
        None if report.schema_version.is_some() => {
            Unreadable::new("ArtifactName", "missing, as is Results: a report of Trivy has at least one of them")
        }
        None => Unreadable::new(
            "ArtifactName",
            "missing, as are Results and Resources: a report of Trivy has at least one of them; is this the body of another tool?",
        ),
    }
}

/// What Trivy says about the artifact as a whole, under Trivy's own names.
fn details(texts: &[(&str, &Text)], metadata: Option<&Metadata>) -> Map<String, Value> {
    let known = |name: &str, text: &Text| Some((name.to_owned(), Value::from(text.known()?)));
    let mut details: Map<_, _> = texts.iter().filter_map(|(name, text)| known(name, text)).collect();
    if let Some(os) = metadata.and_then(Metadata::os) {
        let os: Map<_, _> = [("Family", &os.family), ("Name", &os.name), ("EOSL", &os.end_of_life)]
            .into_iter()
            .filter_map(|(n, t)| known(n, t))
            .collect();
        details.insert("OS".to_owned(), os.into());
    }
    details
}

/// The signals of what was found in one artifact, one for each category that was looked for.
fn signals(
    artifact: &Artifact,
    results: Vec<Scanned>,
    details: &Map<String, Value>,
    at: Option<DateTime<Utc>>,
) -> Vec<Signal> {
    let (mut vulnerable, mut failed, mut secrets, mut licenses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut looked_for_vulnerabilities, mut looked_for_failures) = (false, false);
    for Scanned { target, class, vulnerabilities, misconfigurations, secrets: found, licenses: named } in results {
        looked_for_vulnerabilities |= class.0.ends_with("-pkgs");
        looked_for_failures |= class.0 == "config";
        vulnerable.extend(vulnerabilities.into_iter().filter_map(report::Vulnerable::affecting));
        // What passed, or was excepted by who ran Trivy, is no problem.
        let is_failed = |one: &report::Misconfiguration| one.status.known().is_none_or(|status| status == "FAIL");
        failed.extend(misconfigurations.into_iter().filter(is_failed).map(|one| {
            let id = one.id.known().or_else(|| one.old_id.known()).unwrap_or("unknown").to_owned();
            let said = json!({
                "ID": id, "Title": one.title.get(), "Severity": one.severity.get(), "Target": target.get(),
                "Resolution": one.resolution.get(),
            });
            Check { severity: severity(&one.severity.0), name: id, said }
        }));
        secrets.extend(found.into_iter().map(|one| {
            let place = format!("{}:{}", target.get(), one.start_line.get());
            let said = json!({
                "RuleID": one.rule.get(), "Category": one.category.get(), "Title": one.title.get(),
                "Severity": one.severity.get(), "Target": target.get(), "StartLine": one.start_line.0.parse::<u32>().ok(),
            });
            Check { severity: severity(&one.severity.0), name: format!("{} in {place}", one.rule.get()), said }
        }));
        licenses.extend(named.into_iter().filter_map(|one| {
            // Every licence is listed; those that ask for no more than a notice are LOW, and no problem.
            let severity = severity(&one.severity.0);
            let said = json!({"Name": one.name.get(), "Category": one.category.get(), "Severity": one.severity.get(), "PkgName": one.pkg_name.get()});
            (severity >= Severity::Medium).then(|| Check { severity, name: format!("{} of {}", one.name.get(), one.pkg_name.get()), said })
        }));
    }
    let signal = |category: Category| Signal {
        details: bound::details(details),
        detected_at: at,
        identity: vec![category.to_string(), artifact.about.image_identity()],
        ..Signal::new(TOOL, category, artifact.name.clone(), artifact.about.clone())
    };
    let mut signals = Vec::new();
    if looked_for_vulnerabilities || !vulnerable.is_empty() {
        signals.push(signal(Category::Vulnerability).with_vulnerabilities(summarise(vulnerable)));
    }
    if looked_for_failures || !failed.is_empty() {
        signals.push(
            signal(Category::Misconfiguration)
                .with_checks(("Misconfigurations", "failed check", "failed checks"), failed),
        );
    }
    if !secrets.is_empty() {
        signals.push(signal(Category::Secret).with_checks(("Secrets", "secret", "secrets"), secrets));
    }
    if !licenses.is_empty() {
        signals.push(signal(Category::Compliance).with_checks(("Licenses", "license", "licenses"), licenses));
    }
    signals
}

#[cfg(test)]
mod tests;
