//! What Kubescape's operator keeps in the cluster.

use quell_crds::v1alpha1::{Category, Severity, VulnerabilityCounts};

use super::posture::{is_failed, name, of_factor, of_object};
use super::{TOOL, WANTED};
use crate::checks::Check;
use crate::grype;
use crate::kubernetes::Resource;
use crate::walk::{Fields, image, items, number_at, object_at, pick, text_at};
use crate::{About, ImageRef, Signal, Unreadable, bound};

const GROUP: &str = "spdx.softwarecomposition.kubescape.io";

pub(super) fn read(resource: &Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    if resource.group() != GROUP {
        return Err(resource.not_read(WANTED));
    }
    let found = match resource.kind.as_str() {
        "WorkloadConfigurationScan" => Some(scan(resource)),
        "WorkloadConfigurationScanSummary" => Some(summary(resource)),
        "VulnerabilityManifest" => vulnerabilities(resource)?,
        "VulnerabilityManifestSummary" => Some(vulnerability_counts(resource)),
        // Sums over namespaces, lists of what is in images, profiles of behaviour: nothing that is wrong by itself.
        _ => None,
    };
    signals.extend(found.map(|signal| Signal { resolved: signal.resolved || resource.deleted, ..signal }));
    Ok(())
}

fn scan(resource: &Resource) -> Signal {
    let none = Fields::new();
    let controls = object_at(&resource.object.fields, &["spec", "controls"]).unwrap_or(&none);
    let failed = controls.iter().filter_map(|(id, control)| Some((id, control.as_object()?)));
    let failed = failed.filter(|(_, control)| is_failed(control)).map(|(id, control)| Check {
        severity: match text_at(control, &["severity", "severity"]).and_then(|word| crate::severity::known(&word)) {
            Some(severity) => severity,
            None => of_factor(number_at(control, &["severity", "scoreFactor"])),
        },
        name: name(id, control),
        said: pick(control, &["controlID", "name", "severity"]).into(),
    });
    of_object(about(resource, None)).with_checks(("controls", "failed control", "failed controls"), failed.collect())
}

fn summary(resource: &Resource) -> Signal {
    let counts = counts(&resource.object.fields, &[]);
    let signal = of_object(about(resource, None));
    match worst(&counts) {
        None => Signal { resolved: true, ..signal },
        Some(severity) => Signal {
            severity,
            message: format!("failed controls: {}", words(&counts)),
            details: bound::details(&spec(resource)),
            ..signal
        },
    }
}

fn vulnerabilities(resource: &Resource) -> Result<Option<Signal>, Unreadable> {
    let Some(payload) = object_at(&resource.object.fields, &["spec", "payload"]) else { return Ok(None) };
    let moved = |error: Unreadable| Unreadable { at: format!("spec.payload.{}", error.at), ..error };
    let Some(matches) = items(&resource.object, payload, "matches").map_err(moved)? else { return Ok(None) };
    let signal = grype::document(TOOL, &resource.object, &matches, payload)?;
    let of = image_of(resource).or_else(|| match &signal.about {
        About::Image { image } => Some(image.clone()),
        _ => None,
    });
    Ok(Some(placed(signal, resource, of)))
}

fn vulnerability_counts(resource: &Resource) -> Signal {
    // Those that are loaded at run time are told apart; all of them are in the image.
    let counts = counts(&resource.object.fields, &["all"]);
    let mut details = spec(resource);
    details.shift_remove("vulnerabilitiesRef");
    let signal = Signal {
        details: bound::details(&details),
        ..Signal::new(TOOL, Category::Vulnerability, "", About::outside("Artifact", "unknown"))
    };
    let signal = match worst(&counts) {
        None => Signal { resolved: true, ..signal },
        Some(severity) => Signal {
            severity,
            message: format!("vulnerabilities: {}", words(&counts)),
            vulnerability_counts: Some(VulnerabilityCounts {
                critical: counts[0].1,
                high: counts[1].1,
                medium: counts[2].1,
                low: counts[3].1,
                info: counts[4].1 + counts[5].1,
                fixable: 0,
            }),
            ..signal
        },
    };
    placed(signal, resource, image_of(resource))
}

/// The same signal about the workload that the object's labels name, or the image.
fn placed(signal: Signal, resource: &Resource, of: Option<ImageRef>) -> Signal {
    let about = about(resource, of.clone());
    let rule = of.map_or_else(|| signal.rule.clone(), |image| image.name());
    let rule = if rule.is_empty() {
        text_at(&resource.object.fields, &["metadata", "name"]).unwrap_or_default()
    } else {
        rule
    };
    Signal { identity: vec![Category::Vulnerability.to_string(), about.image_identity()], rule, about, ..signal }
}

/// The image that annotations or labels name: its id has the digest, its tag the name.
fn image_of(resource: &Resource) -> Option<ImageRef> {
    let said = |name: &str| {
        ["annotations", "labels"].iter().find_map(|map| text_at(&resource.object.fields, &["metadata", map, name]))
    };
    let id = image(said("kubescape.io/image-id"));
    match image(said("kubescape.io/image-tag").or_else(|| said("kubescape.io/image-name"))) {
        Some(tag) => Some(ImageRef { digest: tag.digest.clone().or_else(|| id.and_then(|id| id.digest)), ..tag }),
        None => id,
    }
}

/// The workload that the labels name, else the image, else the object itself.
fn about(resource: &Resource, image: Option<ImageRef>) -> About {
    let metadata = |way: &[&str]| text_at(&resource.object.fields, &[&["metadata"], way].concat());
    let label = |name: &str| metadata(&["labels", &format!("kubescape.io/workload-{name}")]);
    let own = || metadata(&["namespace"]).unwrap_or_default();
    let container =
        label("container-name").or_else(|| metadata(&["annotations", "kubescape.io/workload-container-name"]));
    if let (Some(kind), Some(name)) = (label("kind"), label("name")) {
        let api_version = match (label("api-group"), label("api-version")) {
            (Some(group), Some(version)) => format!("{group}/{version}"),
            (None, Some(version)) => version,
            _ => String::new(),
        };
        return About::object(api_version, &kind, label("namespace").unwrap_or_else(own), name, None)
            .with_container(container, image);
    }
    if let Some(image) = image {
        return About::Image { image };
    }
    let name = metadata(&["name"]).unwrap_or_else(|| "unknown".to_owned());
    About::object(resource.api_version.clone(), &resource.kind, own(), name, None)
}

fn spec(resource: &Resource) -> Fields {
    object_at(&resource.object.fields, &["spec"])
        .map(|spec| pick(spec, &["severities", "vulnerabilitiesRef"]))
        .unwrap_or_default()
}

/// How many there are of each severity, from the worst on.
fn counts(fields: &Fields, way: &[&str]) -> [(&'static str, i32); 6] {
    ["critical", "high", "medium", "low", "negligible", "unknown"].map(|name| {
        let way: Vec<&str> = ["spec", "severities", name].iter().chain(way).copied().collect();
        (
            name,
            text_at(fields, &way)
                .and_then(|count| count.parse().ok())
                .filter(|count: &i32| (0..=1_000_000).contains(count))
                .unwrap_or(0),
        )
    })
}

fn worst(counts: &[(&str, i32)]) -> Option<Severity> {
    counts.iter().find(|(_, count)| *count > 0).map(|(name, _)| crate::severity::severity(name))
}

fn words(counts: &[(&str, i32)]) -> String {
    counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect::<Vec<_>>()
        .join(", ")
}
