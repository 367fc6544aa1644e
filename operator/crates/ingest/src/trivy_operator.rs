//! VulnerabilityReports of trivy-operator, as a watch sees them; also as its webhook wraps them, and in lists.
//!
//! Fields: aquasecurity/trivy-operator, `docs/docs/crds/vulnerability-report.md`; labels: `pkg/trivyoperator/constants.go`;
//! the wrapping: `pkg/webhook/webhookreporter.go`.

use quell_crds::v1alpha1::{Category, Vulnerability};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::json::{self, Object};
use crate::lenient::{List, Text, field, first_text, severity, time};
use crate::vulnerabilities::summarise;
use crate::{About, ImageRef, MAX_SIGNALS, Signal, Unreadable, bound, image, kinds};

const TOOL: &str = "trivy-operator";
const KIND: &str = "VulnerabilityReport";

/// Reads reports. One with nothing wrong, and one that was deleted, gives no signal.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        read_object(object, &mut signals)?;
    }
    Ok(signals)
}

fn read_object(mut object: Object, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    if let Some(Value::Object(wrapped)) = object.fields.remove("operatorObject") {
        // A report is deleted when it is old, and written anew: that says nothing about the image.
        return match first_text(&object.fields, &["verb"]).as_deref() {
            Some("delete") => Ok(()),
            _ => read_object(object.inside("operatorObject", wrapped), signals),
        };
    }
    let kind = first_text(&object.fields, &["kind"]);
    match (kind.as_deref(), object.fields.remove("items")) {
        (Some(KIND), _) => {
            signals.extend(report(object)?);
            Ok(())
        }
        (Some(kind), Some(Value::Array(items))) if kind.ends_with("List") => {
            if items.len() > MAX_SIGNALS {
                return Err(Unreadable::too_many(object.at("items"), items.len()));
            }
            for (index, item) in items.into_iter().enumerate() {
                let at = format!("items[{index}]");
                let Value::Object(fields) = item else {
                    let problem = format!("an object was expected, this is {}", json::kind_of(&item));
                    return Err(Unreadable::new(object.at(&at), problem));
                };
                read_object(object.inside(&at, fields), signals)?;
            }
            Ok(())
        }
        (Some(kind), _) => {
            let problem = format!("{kind} is not read, only {KIND} of aquasecurity.github.io is");
            Err(Unreadable::new(object.at("kind"), problem))
        }
        (None, _) => Err(Unreadable::new(object.at("kind"), format!("missing: expected {KIND}"))),
    }
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
        }
    }
}

fn report(mut object: Object) -> Result<Option<Signal>, Unreadable> {
    let Some(report) = object.fields.remove("report") else {
        return Err(Unreadable::new(object.at("report"), format!("missing: a {KIND} has it")));
    };
    let at = object.at("report");
    let report: Report = serde_json::from_value(report).map_err(|error| Unreadable::new(at, error.to_string()))?;
    let Some(Value::Object(metadata)) = field(&object.fields, "metadata") else {
        return Err(Unreadable::new(object.at("metadata"), "missing: its labels say what the report is about"));
    };
    let image = report.image();
    let Some(about) = about(metadata, image.clone()) else {
        return Err(Unreadable::new(
            object.at("metadata.labels"),
            "neither trivy-operator.resource.kind and .name nor an owner: what the report is about is unknown",
        ));
    };
    let Report { os, update_timestamp, vulnerabilities, .. } = report;
    let known = vulnerabilities.into_iter().map(Vulnerability::from).filter(|one| !one.id.is_empty());
    let Some(summary) = summarise(known) else { return Ok(None) };
    let mut details = Map::new();
    if let Some(os) = os {
        details.insert("os".to_owned(), os);
    }
    let name = first_text(metadata, &["name"]).unwrap_or_default();
    details.insert("report".to_owned(), json!({ "kind": KIND, "name": name }));
    let reference = image.as_ref().map(|image| image.reference.clone()).unwrap_or_default();
    let digest = image.and_then(|image| image.digest);
    Ok(Some(Signal {
        tool: TOOL.to_owned(),
        rule: if reference.is_empty() { name } else { reference.clone() },
        category: Category::Vulnerability,
        severity: summary.worst,
        message: summary.message,
        about,
        vulnerabilities: summary.listed,
        vulnerability_counts: Some(summary.counts),
        details: bound::details(&details),
        detected_at: time(&update_timestamp.0)
            .or_else(|| first_text(metadata, &["creationTimestamp"]).and_then(|at| time(&at))),
        identity: vec![Category::Vulnerability.to_string(), digest.unwrap_or(reference)],
    }))
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
    let owner = field(metadata, "ownerReferences").and_then(|owners| owners.get(0)).and_then(Value::as_object);
    let owner = owner.unwrap_or(&none);

    let said = |what: &str| {
        let key = format!("trivy-operator.resource.{what}");
        first_text(labels, &[&key]).or_else(|| first_text(annotations, &[&key]))
    };
    let kind = said("kind").or_else(|| first_text(owner, &["kind"]))?;
    let owns = first_text(owner, &["kind"]).as_ref() == Some(&kind);
    let of_owner = |what: &str| first_text(owner, &[what]).filter(|_| owns);
    let name = said("name").or_else(|| of_owner("name"))?;
    let namespace = said("namespace").or_else(|| first_text(metadata, &["namespace"])).unwrap_or_default();
    let container = first_text(labels, &["trivy-operator.container.name"])
        .or_else(|| first_text(annotations, &["trivy-operator.container.name"]));
    Some(match kind.as_str() {
        "Pod" => About::Pod { namespace, name, uid: of_owner("uid"), container, container_id: None, image },
        "Node" => About::Node { name },
        _ => {
            let api_version = of_owner("apiVersion").unwrap_or_else(|| kinds::api_version(&kind));
            About::Workload { api_version, kind, namespace, name, container, image }
        }
    })
}

#[cfg(test)]
mod tests;
