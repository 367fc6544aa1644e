//! Findings in the Open Cybersecurity Schema Framework, as Prowler, AWS Security Hub and others write them.
//!
//! Fields: ocsf/ocsf-schema, `events/findings/*.json` and `objects/`. Classes 2001 (the old security finding) to 2007; events of other classes
//! are no findings.

use quell_crds::v1alpha1::{Category, Severity, Vulnerability};
use serde_json::Value;

use crate::aws::{Event, ecr_image};
use crate::json::object_in_text;
use crate::kinds::{self, is_name, is_uid};
use crate::severity::{known, severity};
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::walk::{
    Fields, container_id, image, is_true, items, number_at, object_at, objects_at, pick, text_at, texts_at,
};
use crate::{About, ImageRef, Signal, Unreadable, bound, falco};

const TOOL: &str = "ocsf";

/// Reads a finding, or those that Security Hub puts into one event.
pub(crate) fn read(event: &Event, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let fields = &event.object.fields;
    if !fields.contains_key("class_uid")
        && let Some(list) = items(&event.object, fields, "findings")?
    {
        for (at, one) in list {
            signals.extend(finding(event, &at, one)?);
        }
        return Ok(());
    }
    signals.extend(finding(event, "", fields)?);
    Ok(())
}

fn finding(event: &Event, at: &str, fields: &Fields) -> Result<Option<Signal>, Unreadable> {
    let inside = |name: &str| event.object.at(&if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") });
    let Some(class) = text_at(fields, &["class_uid"]).and_then(|class| class.parse::<u32>().ok()) else {
        return Err(Unreadable::other_format(inside("class_uid"), "an event of OCSF says its class"));
    };
    if !(2001..=2099).contains(&class) {
        return Ok(None);
    }
    let info = ["finding_info", "finding"].iter().find_map(|name| object_at(fields, &[name]));
    let Some(info) = info else {
        return Err(Unreadable::other_format(inside("finding_info"), "a finding of OCSF has it"));
    };
    // Falco's alerts in the old class keep what Falco said, which says more.
    let product = text_at(fields, &["metadata", "product", "name"]).unwrap_or_default();
    if product.eq_ignore_ascii_case("falco") {
        let alert = text_at(fields, &["raw_data"]).and_then(|text| object_in_text(&text));
        if let Some(alert) = alert {
            return falco::alert(&event.object.inside("raw_data", alert));
        }
    }
    let status = text_at(fields, &["status_code"]).unwrap_or_default().to_ascii_uppercase();
    if status == "MANUAL" {
        // Only a person can tell.
        return Ok(None);
    }
    let tool = kinds::slug(&product);
    let tool = if tool.is_empty() { TOOL.to_owned() } else { tool };
    let title = text_at(info, &["title"])
        .or_else(|| text_at(fields, &["message"]))
        .unwrap_or_else(|| "untitled finding".to_owned());
    let category = category(class, &tool);
    let found: Vec<Vulnerability> =
        objects_at(fields, &["vulnerabilities"]).flat_map(|one| vulnerabilities(one, severity_of(fields))).collect();
    let rule = rule(class, fields, info, &title, &found);
    let mut details = pick(
        fields,
        &[
            "class_uid",
            "activity_name",
            "severity",
            "status",
            "status_code",
            "status_detail",
            "compliance",
            "remediation",
            "risk_details",
            "cloud",
            "evidences",
        ],
    );
    details.insert("finding_info".to_owned(), pick(info, &["uid", "desc", "types", "analytic"]).into());
    let resources: Vec<Value> = resources(fields)
        .map(|one| pick(one, &["uid", "name", "namespace", "type", "region", "labels"]).into())
        .take(10)
        .collect();
    if !resources.is_empty() {
        details.insert("resources".to_owned(), resources.into());
    }
    let at = [text_at(fields, &["time_dt"]), text_at(fields, &["time"]), text_at(info, &["last_seen_time_dt"])];
    let about = about(fields);
    let identity = match text_at(info, &["uid"]) {
        Some(uid) => vec![uid, place_of(fields)],
        None => vec![place_of(fields)],
    };
    let signal = Signal { details: bound::details(&details), identity, ..Signal::new(&tool, category, rule, about) };
    let signal = if found.is_empty() { signal } else { signal.with_vulnerabilities(summarise(found)) };
    Ok(Some(Signal {
        severity: severity_of(fields),
        message: text_at(fields, &["status_detail"]).or_else(|| text_at(fields, &["message"])).unwrap_or(title),
        resolved: is_over(fields, &status),
        detected_at: at.into_iter().flatten().find_map(|at| time(&at)),
        ..signal
    }))
}

/// By its number; of `Other` and of what has none by its word.
fn severity_of(fields: &Fields) -> Severity {
    let word = || text_at(fields, &["severity"]).map_or(Severity::Info, |word| severity(&word));
    match text_at(fields, &["severity_id"]).as_deref() {
        Some("1") => Severity::Info,
        Some("2") => Severity::Low,
        Some("3") => Severity::Medium,
        Some("4") => Severity::High,
        Some("5" | "6") => Severity::Critical,
        _ => word(),
    }
}

/// Closed, suppressed, resolved, archived or deleted; or a check that passed.
fn is_over(fields: &Fields, status_code: &str) -> bool {
    let text = |way: &[&str]| text_at(fields, way).unwrap_or_default();
    let passed = |word: &str| matches!(word.to_ascii_uppercase().as_str(), "PASS" | "PASSED");
    matches!(text(&["status_id"]).as_str(), "3" | "4" | "5" | "6")
        || text(&["activity_id"]) == "3"
        || passed(status_code)
        || passed(&text(&["compliance", "status"]))
        || text(&["compliance", "status_id"]) == "1"
}

fn category(class: u32, tool: &str) -> Category {
    match class {
        2002 => Category::Vulnerability,
        2003 => Category::Compliance,
        // Prowler writes its checks as detections.
        _ if tool == "prowler" => Category::Misconfiguration,
        _ => Category::Other,
    }
}

/// The name of what was looked for: of a vulnerability its id, of a check its code or control, else what found it, else the title.
fn rule(class: u32, fields: &Fields, info: &Fields, title: &str, found: &[Vulnerability]) -> String {
    let checked =
        || text_at(fields, &["metadata", "event_code"]).or_else(|| text_at(fields, &["compliance", "control"]));
    let analytic = || text_at(info, &["analytic", "name"]).or_else(|| text_at(info, &["analytic", "uid"]));
    // Titles of detections name what was found, and are another each time.
    let kind = || texts_at(info, &["types"]).into_iter().next().filter(|_| class == 2004);
    match found {
        [one, ..] if class == 2002 => one.id.clone(),
        _ => checked().or_else(analytic).or_else(kind).unwrap_or_else(|| title.to_owned()),
    }
}

fn vulnerabilities(one: &Fields, severity: Severity) -> Vec<Vulnerability> {
    let id = ["cve", "advisory", "cwe"]
        .iter()
        .find_map(|name| text_at(one, &[name, "uid"]))
        .or_else(|| text_at(one, &["title"]));
    let Some(id) = id else { return Vec::new() };
    let scores = object_at(one, &["cve"]).map(|cve| {
        objects_at(cve, &["cvss"]).filter_map(|cvss| number_at(cvss, &["base_score"])).max_by(f64::total_cmp)
    });
    let flag = |name: &str| one.get(name).map(|_| is_true(one, &[name]));
    let of = |package: &Fields| {
        let text = |name: &str| text_at(package, &[name]).unwrap_or_default();
        let version = match text("release") {
            release if release.is_empty() || text("version").ends_with(&release) => text("version"),
            release => format!("{}-{release}", text("version")),
        };
        Vulnerability {
            id: id.clone(),
            package: text("name"),
            installed_version: version,
            fixed_version: text("fixed_in_version"),
            severity: text_at(one, &["severity"]).and_then(|word| known(&word)).unwrap_or(severity),
            score: scores.flatten(),
            fix_available: flag("is_fix_available"),
            epss: number_at(one, &["cve", "epss", "score"]),
            known_exploited: None,
            exploit_available: flag("is_exploit_available"),
            title: text_at(one, &["title"]).or_else(|| text_at(one, &["cve", "title"])).unwrap_or_default(),
        }
    };
    let found: Vec<_> = objects_at(one, &["affected_packages"]).chain(objects_at(one, &["packages"])).map(of).collect();
    if found.is_empty() { vec![of(&Fields::new())] } else { found }
}

fn resources(fields: &Fields) -> impl Iterator<Item = &Fields> {
    objects_at(fields, &["resources"]).chain(objects_at(fields, &["resource"]))
}

/// What tells one finding from another of the same id: some write the same for all.
fn place_of(fields: &Fields) -> String {
    resources(fields).find_map(|one| text_at(one, &["uid"]).or_else(|| text_at(one, &["name"]))).unwrap_or_default()
}

fn about(fields: &Fields) -> About {
    let container = ["container"]
        .iter()
        .find_map(|name| object_at(fields, &[name]))
        .or_else(|| object_at(fields, &["actor", "process", "container"]));
    if let Some(about) = container.and_then(of_container) {
        return about;
    }
    for resource in resources(fields) {
        if let Some(about) = of_resource(resource) {
            return about;
        }
    }
    match text_at(fields, &["device", "hostname"]) {
        Some(name) if is_name(&name, 253) => About::Node { name },
        _ => About::outside("External", &place_of(fields)).or_unknown(),
    }
}

fn of_container(container: &Fields) -> Option<About> {
    let id = text_at(container, &["uid"]).and_then(|id| container_id(&id))?;
    let name = text_at(container, &["image", "name"]);
    let reference = match (name, text_at(container, &["image", "tag"])) {
        (Some(name), Some(tag)) if !name.contains(':') => Some(format!("{name}:{tag}")),
        (name, _) => name,
    };
    let digest = text_at(container, &["image", "uid"]).and_then(|text| crate::image::digest(&text));
    let image = image(reference).map(|found| ImageRef { digest: found.digest.clone().or(digest), ..found });
    Some(About::Container { id, node: None, image })
}

fn of_resource(resource: &Fields) -> Option<About> {
    let text = |name: &str| text_at(resource, &[name]);
    let kind = text("type").unwrap_or_default();
    // AWS writes what it knows of a resource as a text.
    let parsed = text("data").and_then(|data| object_in_text(&data));
    let data = parsed.as_ref().or_else(|| object_at(resource, &["data"]));
    if let Some(found) = data.and_then(|data| object_at(data, &["AwsEcrContainerImage"])) {
        let said = |name: &str| text_at(found, &[name]);
        let arn = text("uid").filter(|uid| uid.starts_with("arn:")).or_else(|| said("RepositoryName"))?;
        let tag = texts_at(found, &["ImageTags"]).into_iter().next();
        return Some(About::Image {
            image: ecr_image(&arn, said("RegistryId").as_deref(), tag.as_deref(), said("ImageDigest").as_deref()),
        });
    }
    let metadata = data.and_then(|data| object_at(data, &["metadata"]));
    let name = text("name").filter(|name| is_name(name, 253));
    let namespace = text("namespace").or_else(|| metadata.and_then(|metadata| text_at(metadata, &["namespace"])));
    let is_pod =
        metadata.is_some_and(|metadata| metadata.contains_key("pod_ip") || metadata.contains_key("containers"));
    let said = kind.strip_prefix("Kubernetes").unwrap_or(&kind);
    let object_kind = if is_pod { Some("Pod") } else { kinds::is_kind(said).then_some(said) };
    if let (Some(name), Some(object_kind)) = (name, object_kind) {
        let uid =
            text("uid").or_else(|| metadata.and_then(|metadata| text_at(metadata, &["uid"]))).filter(|uid| is_uid(uid));
        let namespace = namespace.filter(|namespace| is_name(namespace, 63)).unwrap_or_default();
        return Some(About::object(String::new(), object_kind, namespace, name, uid));
    }
    let name = text("uid").filter(|uid| uid.starts_with("arn:")).or_else(|| text("name")).or_else(|| text("uid"))?;
    Some(About::outside(if kind.is_empty() { "External" } else { &kind }, &name))
}

#[cfg(test)]
mod tests;
