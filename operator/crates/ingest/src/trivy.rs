//! JSON reports of Trivy (`--format json`), posted by whoever runs it: of an image, of files, or of a cluster.
//!
//! Fields: aquasecurity/trivy, `docs/docs/configuration/reporting.md`, and [`report`]. One signal for what was found of one
//! category in one artifact (an image, an object of the cluster): not one for each vulnerability, since the remedy, another
//! image, is one.

mod artifact;
mod report;

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{Category, Severity};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::lenient::{List, Text, severity, time};
use crate::vulnerabilities::summarise;
use crate::{MAX_SIGNALS, Signal, Unreadable, bound};
use artifact::Artifact;
use report::{Metadata, Report, Resource, Scanned};

const TOOL: &str = "trivy";

/// Most checks or secrets that `details` lists, and most that a message names.
const LISTED: usize = 50;
const NAMED: usize = 5;

/// Reads a report. One with nothing wrong gives no signal.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    match body.trim_ascii_start().first() {
        // Schema 1: a list of results, or null where there were none.
        Some(b'[') => {
            let List(results) = parse::<List<Scanned>>(body)?;
            if let Some(index) = results.iter().position(|result| result.target.known().is_none()) {
                return Err(Unreadable::new(
                    format!("[{index}].Target"),
                    "missing: each result of Trivy names what was scanned; is this the body of another tool?",
                ));
            }
            let artifact = Artifact::of_results(&results);
            Ok(signals(&artifact, results, &Map::new(), None))
        }
        Some(b'n') => parse::<()>(body).map(|()| Vec::new()),
        _ => read_report(parse(body)?),
    }
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body).map_err(|error| Unreadable::json(&error))
}

fn read_report(mut report: Report) -> Result<Vec<Signal>, Unreadable> {
    let at = time(&report.created_at.0);
    let lists = [
        ("Resources", report.resources.take()),
        ("Findings", report.findings.take()),
        ("Vulnerabilities", report.vulnerabilities.take()),
        ("Misconfigurations", report.misconfigurations.take()),
    ];
    if report.cluster_name.is_some() || lists.iter().any(|(_, list)| list.is_some()) {
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
        if found.len() > MAX_SIGNALS {
            return Err(Unreadable::too_many(list, found.len()));
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

/// The signals of what was found in one artifact, one for each category.
fn signals(
    artifact: &Artifact,
    results: Vec<Scanned>,
    details: &Map<String, Value>,
    at: Option<DateTime<Utc>>,
) -> Vec<Signal> {
    let (mut vulnerable, mut failed, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
    for Scanned { target, vulnerabilities, misconfigurations, secrets: found } in results {
        vulnerable.extend(vulnerabilities.into_iter().filter_map(report::Vulnerable::affecting));
        // What passed, or was excepted by who ran Trivy, is no problem.
        let is_failed = |one: &report::Misconfiguration| one.status.known().is_none_or(|status| status == "FAIL");
        failed.extend(misconfigurations.into_iter().filter(is_failed).map(|one| {
            let id = one.id.known().or_else(|| one.old_id.known()).unwrap_or("unknown").to_owned();
            let said = json!({
                "ID": id, "Title": one.title.get(), "Severity": one.severity.get(), "Target": target.get(),
                "Resolution": one.resolution.get(),
            });
            Item { severity: severity(&one.severity.0), name: id, said }
        }));
        secrets.extend(found.into_iter().map(|one| {
            let place = format!("{}:{}", target.get(), one.start_line.get());
            let said = json!({
                "RuleID": one.rule.get(), "Category": one.category.get(), "Title": one.title.get(),
                "Severity": one.severity.get(), "Target": target.get(), "StartLine": one.start_line.0.parse::<u32>().ok(),
            });
            Item { severity: severity(&one.severity.0), name: format!("{} in {place}", one.rule.get()), said }
        }));
    }
    let signal = |category: Category, severity: Severity, message: String, details: &Map<String, Value>| Signal {
        tool: TOOL.to_owned(),
        rule: artifact.name.clone(),
        category,
        severity,
        message,
        about: artifact.about.clone(),
        vulnerabilities: Vec::new(),
        vulnerability_counts: None,
        details: bound::details(details),
        detected_at: at,
        identity: vec![category.to_string(), artifact.identity()],
    };
    let listed = |category: Category, (key, one, many): (&str, &str, &str), mut items: Vec<Item>| {
        items.sort_by(|a, b| (b.severity, &a.name).cmp(&(a.severity, &b.name)));
        let worst = items.first()?.severity;
        let message = message(&items, one, many);
        let mut details = details.clone();
        details.insert(key.to_owned(), items.into_iter().take(LISTED).map(|item| item.said).collect());
        Some(signal(category, worst, message, &details))
    };
    let vulnerable = summarise(vulnerable).map(|summary| Signal {
        vulnerabilities: summary.listed,
        vulnerability_counts: Some(summary.counts),
        ..signal(Category::Vulnerability, summary.worst, summary.message, details)
    });
    let failed = listed(Category::Misconfiguration, ("Misconfigurations", "failed check", "failed checks"), failed);
    let secrets = listed(Category::Secret, ("Secrets", "secret", "secrets"), secrets);
    [vulnerable, failed, secrets].into_iter().flatten().collect()
}

/// A failed check, or a secret.
struct Item {
    severity: Severity,
    name: String,
    said: Value,
}

fn message(items: &[Item], one: &str, many: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for item in items {
        if names.len() < NAMED && !names.contains(&item.name.as_str()) {
            names.push(&item.name);
        }
    }
    let more = if items.iter().all(|item| names.contains(&item.name.as_str())) { "" } else { ", …" };
    let noun = if items.len() == 1 { one } else { many };
    format!("{} {noun}: {}{more}", items.len(), names.join(", "))
}

#[cfg(test)]
mod tests;
