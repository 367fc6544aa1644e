//! Reports of `kubescape scan --format json`: version 2, its summary alone, and version 1.

use std::collections::BTreeMap;

use quell_crds::v1alpha1::{Category, Severity};

use super::TOOL;
use crate::checks::Check;
use crate::json::Object;
use crate::kubernetes::referred;
use crate::time::time;
use crate::walk::{Fields, items, number_at, object_at, objects_at, pick, text_at, texts_at};
use crate::{About, Signal, Unreadable};

const WORDS: (&str, &str, &str) = ("controls", "failed control", "failed controls");

pub(super) fn read(object: &Object, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let fields = &object.fields;
    let summary = object_at(fields, &["summaryDetails"]);
    if let Some(results) =
        items(object, fields, "results")?.filter(|_| summary.is_some() || fields.contains_key("resources"))
    {
        return version_2(object, &results, summary, signals);
    }
    if let Some(frameworks) =
        items(object, fields, "frameworks")?.filter(|all| all.iter().any(|(_, one)| one.contains_key("controlReports")))
    {
        return version_1(object, &frameworks, signals);
    }
    if fields.contains_key("controlReports") {
        return version_1(object, &[(String::new(), fields)], signals);
    }
    let controls =
        summary.and_then(|summary| object_at(summary, &["controls"])).or_else(|| object_at(fields, &["controls"]));
    let Some(controls) = controls
        .filter(|_| summary.is_some() || fields.contains_key("frameworks") || fields.contains_key("ResourceCounters"))
    else {
        return Err(Unreadable::other_format(
            object.at("summaryDetails"),
            "a report of Kubescape has it, or frameworks",
        ));
    };
    signals.push(cluster(controls));
    Ok(())
}

/// Of a summary alone: what failed somewhere in the cluster.
fn cluster(controls: &Fields) -> Signal {
    let failed = controls.iter().filter_map(|(id, control)| Some((id, control.as_object()?)));
    let failed = failed.filter(|(_, control)| is_failed(control)).map(|(id, control)| Check {
        severity: of_factor(number_at(control, &["scoreFactor"])),
        name: name(id, control),
        said: pick(control, &["controlID", "name", "scoreFactor", "complianceScore", "ResourceCounters"]).into(),
    });
    let signal = Signal {
        identity: vec![Category::Compliance.to_string()],
        ..Signal::new(TOOL, Category::Compliance, "cluster scan", About::outside("Cluster", "cluster"))
    };
    signal.with_checks(WORDS, failed.collect())
}

fn version_2(
    object: &Object,
    results: &[(String, &Fields)],
    summary: Option<&Fields>,
    signals: &mut Vec<Signal>,
) -> Result<(), Unreadable> {
    let none = Fields::new();
    let summaries = summary.and_then(|summary| object_at(summary, &["controls"])).unwrap_or(&none);
    let resources: BTreeMap<String, &Fields> = objects_at(&object.fields, &["resources"])
        .filter_map(|resource| Some((text_at(resource, &["resourceID"])?, object_at(resource, &["object"])?)))
        .collect();
    let at = text_at(&object.fields, &["generationTime"]).and_then(|at| time(&at));
    for (place, result) in results {
        let Some(id) = text_at(result, &["resourceID"]) else {
            return Err(Unreadable::other_format(
                object.at(&format!("{place}.resourceID")),
                "each result of Kubescape has it",
            ));
        };
        let moved = |error: Unreadable| Unreadable { at: format!("{place}.{}", error.at), ..error };
        let controls = items(object, result, "controls").map_err(moved)?.unwrap_or_default();
        let failed = controls.into_iter().filter(|(_, control)| is_failed(control)).map(|(_, control)| {
            let id = text_at(control, &["controlID"]).unwrap_or_else(|| "unknown".to_owned());
            let factor = number_at(summaries, &[&id, "scoreFactor"]).or_else(|| number_at(control, &["scoreFactor"]));
            let mut said = pick(control, &["controlID", "name"]);
            said.extend(factor.map(|factor| ("scoreFactor".to_owned(), factor.into())));
            let paths: Vec<String> = objects_at(control, &["rules"])
                .flat_map(|rule| objects_at(rule, &["paths"]))
                .filter_map(|path| text_at(path, &["failedPath"]).or_else(|| text_at(path, &["fixPath", "path"])))
                .take(10)
                .collect();
            if !paths.is_empty() {
                said.insert("paths".to_owned(), paths.into());
            }
            Check { severity: of_factor(factor), name: name(&id, control), said: said.into() }
        });
        let failed = failed.collect();
        signals.push(
            Signal { detected_at: at, ..of_object(about(&id, resources.get(&id).copied())) }.with_checks(WORDS, failed),
        );
    }
    Ok(())
}

/// Frameworks, their controls, and for each rule the objects that fail it.
fn version_1(object: &Object, frameworks: &[(String, &Fields)], signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    // An object may fail one control in several frameworks.
    let mut failed: BTreeMap<String, (About, BTreeMap<String, Check>)> = BTreeMap::new();
    for (place, framework) in frameworks {
        let moved = |error: Unreadable| Unreadable {
            at: format!("{place}.{}", error.at).trim_start_matches('.').to_owned(),
            ..error
        };
        for (_, control) in items(object, framework, "controlReports").map_err(moved)?.unwrap_or_default() {
            let id = text_at(control, &["controlID"])
                .or_else(|| text_at(control, &["id"]))
                .unwrap_or_else(|| "unknown".to_owned());
            for response in objects_at(control, &["ruleReports"]).flat_map(|rule| objects_at(rule, &["ruleResponses"]))
            {
                if text_at(response, &["ruleStatus"])
                    .is_some_and(|status| matches!(status.as_str(), "passed" | "success" | "skipped"))
                {
                    continue;
                }
                for resource in objects_at(response, &["alertObject", "k8sApiObjects"]) {
                    let Some(about) = of_resource(resource) else { continue };
                    let factor = number_at(control, &["baseScore"]).or_else(|| number_at(response, &["alertScore"]));
                    let mut said = pick(control, &["controlID", "name", "baseScore", "remediation"]);
                    said.extend(pick(response, &["alertMessage", "failedPaths"]));
                    let check = Check { severity: of_factor(factor), name: name(&id, control), said: said.into() };
                    failed
                        .entry(format!("{about:?}"))
                        .or_insert_with(|| (about, BTreeMap::new()))
                        .1
                        .insert(id.clone(), check);
                }
            }
        }
    }
    let at = text_at(&object.fields, &["generationTime"]).and_then(|at| time(&at));
    for (about, checks) in failed.into_values() {
        signals.push(Signal { detected_at: at, ..of_object(about) }.with_checks(WORDS, checks.into_values().collect()));
    }
    Ok(())
}

/// The signal about what a scan says of one object, before it is known what that is.
pub(super) fn of_object(about: About) -> Signal {
    let title = match &about {
        About::Pod { namespace, name, .. } => format!("{namespace}/Pod/{name}"),
        About::Workload { namespace, kind, name, .. } if namespace.is_empty() => format!("{kind}/{name}"),
        About::Workload { namespace, kind, name, .. } => format!("{namespace}/{kind}/{name}"),
        About::Node { name } => format!("Node/{name}"),
        _ => "scan".to_owned(),
    };
    Signal {
        identity: vec![Category::Misconfiguration.to_string()],
        ..Signal::new(TOOL, Category::Misconfiguration, title, about)
    }
}

pub(super) fn name(id: &str, control: &Fields) -> String {
    text_at(control, &["name"]).map_or_else(|| id.to_owned(), |name| format!("{id} {name}"))
}

/// As its status says, which is a text or an object in different versions; where it is left out, as those of its rules.
pub(super) fn is_failed(control: &Fields) -> bool {
    let said = text_at(control, &["status", "status"])
        .or_else(|| text_at(control, &["status"]))
        .or_else(|| text_at(control, &["statusInfo", "status"]));
    match said {
        Some(status) => status == "failed",
        None => objects_at(control, &["rules"])
            .any(|rule| text_at(rule, &["status"]).is_some_and(|status| status == "failed")),
    }
}

/// From 0 to 10, as kubescape/opa-utils, `reporthandling/apis/severity.go`, groups it.
pub(super) fn of_factor(factor: Option<f64>) -> Severity {
    match factor {
        Some(factor) if factor >= 9.0 => Severity::Critical,
        Some(factor) if factor >= 7.0 => Severity::High,
        Some(factor) if factor >= 4.0 => Severity::Medium,
        Some(factor) if factor >= 1.0 => Severity::Low,
        _ => Severity::Info,
    }
}

fn of_resource(resource: &Fields) -> Option<About> {
    // Either the object itself, or a reference to it.
    match object_at(resource, &["metadata"]) {
        Some(metadata) => {
            let (kind, name) = (text_at(resource, &["kind"])?, text_at(metadata, &["name"])?);
            let namespace = text_at(metadata, &["namespace"]).unwrap_or_default();
            let uid = text_at(metadata, &["uid"]).filter(|uid| crate::kinds::is_uid(uid));
            Some(About::object(text_at(resource, &["apiVersion"]).unwrap_or_default(), &kind, namespace, name, uid))
        }
        None => referred(resource, ""),
    }
}

/// The object of an id such as `apps/v1/shop/Deployment/web`, or of a file `path=…/api=apps/v1//Deployment/web`.
fn about(id: &str, object: Option<&Fields>) -> About {
    if let Some(about) = object.and_then(of_resource) {
        let image = object.and_then(only_image);
        return about.with_container(None, image);
    }
    let said = id.split_once("api=").map_or(id, |(_, rest)| rest);
    let parts: Vec<&str> = said.split('/').collect();
    match parts.as_slice() {
        [group, version, namespace, kind, name @ ..] if !name.is_empty() && !kind.is_empty() => {
            let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
            About::object(api_version, kind, (*namespace).to_owned(), name.join("/"), None)
        }
        _ => About::outside("Artifact", id),
    }
}

fn only_image(object: &Fields) -> Option<crate::ImageRef> {
    let spec = object_at(object, &["spec", "template", "spec"]).or_else(|| object_at(object, &["spec"]))?;
    let images: Vec<String> = objects_at(spec, &["containers"]).flat_map(|one| texts_at(one, &["image"])).collect();
    match images.as_slice() {
        [one] => crate::walk::image(Some(one.clone())),
        _ => None,
    }
}
