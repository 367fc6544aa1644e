//! Reports of trivy-operator, as a watch sees them; also as its webhook wraps them, in lists, and in a dictionary of lists.
//!
//! Fields: aquasecurity/trivy-operator, `docs/docs/crds` and `deploy/helm/crds`; labels: `pkg/trivyoperator/constants.go`; the wrapping:
//! `pkg/webhook/webhookreporter.go`. Its forerunner Starboard wrote the same under labels of its own.

use quell_crds::v1alpha1::{Category, Vulnerability};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checks::Check;
use crate::json::{self, Object, kind_of};
use crate::kubernetes::{Resource, owner, resources_in};
use crate::lenient::{List, Text, field, first_text};
use crate::severity::{known, severity};
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, is_true, items, object_at, objects_at, pick, text_at};
use crate::{About, ImageRef, Signal, Unreadable, bound, image, kinds};

const TOOL: &str = "trivy-operator";
const GROUP: &str = "aquasecurity.github.io";
const WANTED: &str = "a report of aquasecurity.github.io";

/// Reads reports. One with nothing wrong, and one that was deleted, says that what it reported is no longer.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        read_object(object, false, &mut signals)?;
    }
    Ok(signals)
}

fn read_object(mut object: Object, deleted: bool, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    if let Some(Value::Object(wrapped)) = object.fields.shift_remove("operatorObject") {
        let deleted = first_text(&object.fields, &["verb"]).is_some_and(|verb| verb == "delete");
        return read_object(object.inside("operatorObject", wrapped), deleted, signals);
    }
    let is_dictionary =
        !object.fields.is_empty() && object.fields.keys().all(|key| key.ends_with(&format!(".{GROUP}")));
    if is_dictionary {
        for (key, value) in std::mem::take(&mut object.fields) {
            let Value::Array(reports) = value else {
                return Err(Unreadable::new(
                    object.at(&key),
                    format!("a list was expected, this is {}", kind_of(&value)),
                ));
            };
            for (index, report) in reports.into_iter().enumerate() {
                let at = format!("{key}[{index}]");
                let Value::Object(fields) = report else {
                    return Err(Unreadable::new(
                        object.at(&at),
                        format!("an object was expected, this is {}", kind_of(&report)),
                    ));
                };
                read_object(object.inside(&at, fields), deleted, signals)?;
            }
        }
        return Ok(());
    }
    for mut resource in resources_in(object, WANTED)? {
        if resource.group() != GROUP {
            return Err(resource.not_read(WANTED));
        }
        resource.deleted |= deleted;
        let before = signals.len();
        report(&mut resource, signals)?;
        if resource.deleted {
            signals.iter_mut().skip(before).for_each(|signal| signal.resolved = true);
        }
    }
    Ok(())
}

fn report(resource: &mut Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    if resource.kind == "ClusterComplianceReport" {
        return compliance(resource, signals);
    }
    let kind = resource.kind.strip_prefix("Cluster").unwrap_or(&resource.kind).to_owned();
    match kind.as_str() {
        "VulnerabilityReport" => signals.push(vulnerabilities(resource)?),
        "ConfigAuditReport" | "RbacAssessmentReport" | "InfraAssessmentReport" => {
            signals.push(failed_checks(resource, &kind)?);
        }
        "ExposedSecretReport" => signals.push(secrets(resource)?),
        "CISKubeBenchReport" => benchmark(resource, signals)?,
        // What is in an image, and what Starboard's hunter saw: nothing that is wrong by itself.
        "SbomReport" | "KubeHunterReport" => {}
        _ => return Err(resource.not_read(WANTED)),
    }
    Ok(())
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    artifact: Artifact,
    registry: Registry,
    os: Option<Value>,
    update_timestamp: Text,
    vulnerabilities: List<Found>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Artifact {
    repository: Text,
    tag: Text,
    digest: Text,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Registry {
    server: Text,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Found {
    #[serde(rename = "vulnerabilityID")]
    id: Text,
    resource: Text,
    installed_version: Text,
    fixed_version: Text,
    severity: Text,
    score: Text,
    title: Text,
}

impl From<Found> for Vulnerability {
    fn from(found: Found) -> Self {
        Self {
            id: found.id.get(),
            package: found.resource.get(),
            installed_version: found.installed_version.get(),
            fixed_version: found.fixed_version.get(),
            severity: severity(&found.severity.0),
            score: found.score.known().and_then(|score| score.parse().ok()).filter(|score| *score > 0.0),
            title: found.title.get(),
            ..Self::default()
        }
    }
}

/// What a report is about, and its name.
fn subject(resource: &Resource, image: Option<ImageRef>) -> Result<(About, String), Unreadable> {
    let Some(metadata) = object_at(&resource.object.fields, &["metadata"]) else {
        return Err(Unreadable::new(
            resource.object.at("metadata"),
            "missing: its labels say what the report is about",
        ));
    };
    let Some(about) = about(metadata, image) else {
        return Err(Unreadable::new(
            resource.object.at("metadata.labels"),
            "neither trivy-operator.resource.kind and .name nor an owner: what the report is about is unknown",
        ));
    };
    Ok((about, first_text(metadata, &["name"]).unwrap_or_default()))
}

fn missing(resource: &Resource) -> Unreadable {
    Unreadable::new(resource.object.at("report"), format!("missing: a {} has it", resource.kind))
}

fn vulnerabilities(resource: &mut Resource) -> Result<Signal, Unreadable> {
    let Some(report) = resource.object.fields.shift_remove("report") else { return Err(missing(resource)) };
    let at = resource.object.at("report");
    let report: Report = serde_json::from_value(report).map_err(|error| Unreadable::new(at, error.to_string()))?;
    let image = report.image();
    let (about, name) = subject(resource, image.clone())?;
    let Report { os, update_timestamp, vulnerabilities, .. } = report;
    let known = vulnerabilities.into_iter().map(Vulnerability::from).filter(|one| !one.id.is_empty());
    let mut details = Map::new();
    if let Some(os) = os {
        details.insert("os".to_owned(), os);
    }
    details.insert("report".to_owned(), json!({ "kind": resource.kind, "name": name }));
    let rule = image.as_ref().map(ImageRef::name).unwrap_or(name);
    let created = || text_at(&resource.object.fields, &["metadata", "creationTimestamp"]).and_then(|at| time(&at));
    let signal = Signal {
        details: bound::details(&details),
        detected_at: time(&update_timestamp.0).or_else(created),
        identity: vec![Category::Vulnerability.to_string(), about.image_identity()],
        ..Signal::new(TOOL, Category::Vulnerability, rule, about)
    };
    Ok(signal.with_vulnerabilities(summarise(known)))
}

fn failed_checks(resource: &Resource, kind: &str) -> Result<Signal, Unreadable> {
    let Some(report) = object_at(&resource.object.fields, &["report"]) else { return Err(missing(resource)) };
    let (about, name) = subject(resource, None)?;
    let checks = listed(resource, report, "checks")?;
    let failed =
        checks.into_iter().filter(|(_, check)| text_at(check, &["success"]).is_some_and(|success| success == "false"));
    let failed = failed.map(|(_, check)| {
        let id = first_text(check, &["checkID", "id", "title"]).unwrap_or_else(|| "unknown".to_owned());
        Check {
            severity: first_text(check, &["severity"]).map_or_else(Default::default, |word| severity(&word)),
            said: pick(check, &["checkID", "title", "severity", "category", "messages", "remediation"]).into(),
            name: id,
        }
    });
    Ok(signal(resource, report, Category::Misconfiguration, kind.to_owned(), about, &name)
        .with_checks(("checks", "failed check", "failed checks"), failed.collect()))
}

fn secrets(resource: &Resource) -> Result<Signal, Unreadable> {
    let Some(report) = object_at(&resource.object.fields, &["report"]) else { return Err(missing(resource)) };
    let text = |way: &[&str]| Text(text_at(report, way).unwrap_or_default());
    let image = Report {
        artifact: Artifact {
            repository: text(&["artifact", "repository"]),
            tag: text(&["artifact", "tag"]),
            digest: text(&["artifact", "digest"]),
        },
        registry: Registry { server: text(&["registry", "server"]) },
        ..Report::default()
    };
    let (about, name) = subject(resource, image.image())?;
    let found = listed(resource, report, "secrets")?.into_iter().map(|(_, one)| {
        let rule = first_text(one, &["ruleID", "title"]).unwrap_or_else(|| "secret".to_owned());
        let place = first_text(one, &["target"]).unwrap_or_default();
        Check {
            severity: first_text(one, &["severity"]).map_or_else(Default::default, |word| severity(&word)),
            // The match is masked by the operator; still, what isn't needed isn't kept.
            said: pick(one, &["ruleID", "category", "title", "severity", "target"]).into(),
            name: format!("{rule} in {place}"),
        }
    });
    let rule = image.image().map_or_else(|| resource.kind.clone(), |image| image.name());
    Ok(signal(resource, report, Category::Secret, rule, about, &name)
        .with_checks(("secrets", "secret", "secrets"), found.collect()))
}

fn signal(resource: &Resource, report: &Fields, category: Category, rule: String, about: About, name: &str) -> Signal {
    let at = text_at(report, &["updateTimestamp"])
        .or_else(|| text_at(&resource.object.fields, &["metadata", "creationTimestamp"]));
    Signal {
        details: Map::from_iter([("report".to_owned(), json!({ "kind": resource.kind, "name": name }))]),
        detected_at: at.and_then(|at| time(&at)),
        identity: vec![category.to_string(), about.image_identity()],
        ..Signal::new(TOOL, category, rule, about)
    }
}

fn listed<'a>(resource: &Resource, report: &'a Fields, name: &str) -> Result<Vec<(String, &'a Fields)>, Unreadable> {
    let list = items(&resource.object, report, name)
        .map_err(|error| Unreadable { at: format!("report.{}", error.at), ..error })?;
    Ok(list.unwrap_or_default())
}

/// Controls of a standard, each one signal: those that failed, and those that passed, which end them. Those that only a person can check have
/// neither.
fn compliance(resource: &Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let fields = &resource.object.fields;
    let Some(name) = text_at(fields, &["metadata", "name"]) else {
        return Err(Unreadable::other_format(resource.object.at("metadata.name"), "a report has a name"));
    };
    let Some(status) = object_at(fields, &["status"]) else { return Ok(()) };
    let at = text_at(status, &["updateTimestamp"]).and_then(|at| time(&at));
    let details =
        object_at(status, &["detailReport"]).map(|report| objects_at(report, &["results"]).collect::<Vec<_>>());
    let summary = ["summaryReport", "summary"].iter().find_map(|name| object_at(status, &[name]));
    let summary =
        summary.map(|report| objects_at(report, &["controlCheck"]).collect::<Vec<_>>()).filter(|list| !list.is_empty());
    for control in summary.or(details).unwrap_or_default() {
        let Some(id) = text_at(control, &["id"]) else { continue };
        let checks: Vec<_> = objects_at(control, &["checks"]).collect();
        let failed = match text_at(control, &["totalFail"]) {
            Some(total) => total.parse().unwrap_or(0),
            None if checks.is_empty() => continue,
            None => checks.iter().filter(|check| !is_true(check, &["success"])).count(),
        };
        let said = text_at(control, &["severity"]).and_then(|word| known(&word));
        let worst = || checks.iter().filter_map(|check| known(&text_at(check, &["severity"])?)).max();
        let title = text_at(control, &["name"]).unwrap_or_else(|| id.clone());
        let mut more = pick(control, &["id", "name", "severity", "totalFail"]);
        let shown = checks.iter().filter(|check| !is_true(check, &["success"])).take(50);
        let shown: Vec<Value> = shown
            .map(|check| pick(check, &["checkID", "title", "severity", "target", "messages", "remediation"]).into())
            .collect();
        if !shown.is_empty() {
            more.insert("checks".to_owned(), shown.into());
        }
        signals.push(Signal {
            severity: said.or_else(worst).unwrap_or_default(),
            message: format!("{title}: {failed} failed"),
            resolved: failed == 0,
            details: bound::details(&more),
            detected_at: at,
            ..Signal::new(TOOL, Category::Compliance, format!("{name} {id}"), About::outside("Cluster", "cluster"))
        });
    }
    Ok(())
}

/// Starboard's run of kube-bench on a node.
fn benchmark(resource: &mut Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let (about, _) = subject(resource, None)?;
    let Some(Value::Object(report)) = resource.object.fields.shift_remove("report") else {
        return Err(missing(resource));
    };
    let report = resource.object.inside("report", report);
    for (at, section) in items(&report, &report.fields, "sections")?.unwrap_or_default() {
        crate::kube_bench::controls(&report, &at, section, Some(&about), signals)?;
    }
    Ok(())
}

impl Report {
    fn image(&self) -> Option<ImageRef> {
        let repository = self.artifact.repository.known()?;
        // The registry of an image that names none is left out by old versions.
        let mut reference = match self.registry.server.known() {
            Some(server) if !repository.starts_with(&format!("{server}/")) => format!("{server}/{repository}"),
            _ => repository.to_owned(),
        };
        let digest = self.artifact.digest.known().and_then(image::digest);
        match (self.artifact.tag.known(), &digest) {
            (Some(tag), _) => reference = format!("{reference}:{tag}"),
            (None, Some(digest)) => reference = format!("{reference}@{digest}"),
            (None, None) => {}
        }
        Some(ImageRef { digest, ..ImageRef::parse(&reference) })
    }
}

/// The object whose pods run the image: by the labels, by the annotation that holds a name too long for a label, or by the
/// report's owner.
fn about(metadata: &Map<String, Value>, image: Option<ImageRef>) -> Option<About> {
    let none = Map::new();
    let map = |name: &str| field(metadata, name).and_then(Value::as_object).unwrap_or(&none);
    let (labels, annotations) = (map("labels"), map("annotations"));
    let owner = owner(metadata).unwrap_or(&none);

    let said = |what: &str| {
        [TOOL, "starboard"].iter().find_map(|tool| {
            let key = format!("{tool}.resource.{what}");
            first_text(labels, &[&key]).or_else(|| first_text(annotations, &[&key]))
        })
    };
    let kind = said("kind").or_else(|| first_text(owner, &["kind"]))?;
    let owns = first_text(owner, &["kind"]).as_ref() == Some(&kind);
    let of_owner = |what: &str| first_text(owner, &[what]).filter(|_| owns);
    let name = said("name").or_else(|| of_owner("name"))?;
    let namespace = said("namespace").or_else(|| first_text(metadata, &["namespace"])).unwrap_or_default();
    let container = ["trivy-operator.container.name", "starboard.container.name"]
        .iter()
        .find_map(|key| first_text(labels, &[key]).or_else(|| first_text(annotations, &[key])));
    Some(match kind.as_str() {
        "Pod" => About::Pod { namespace, name, uid: of_owner("uid"), container, container_id: None, image },
        "Node" | "NodeInfo" => About::Node { name },
        _ => {
            let api_version = of_owner("apiVersion").unwrap_or_else(|| kinds::api_version(&kind));
            About::Workload { api_version, kind, namespace, name, uid: of_owner("uid"), container, image }
        }
    })
}

#[cfg(test)]
mod tests;
