//! Clair: vulnerability reports of version 4, what its notifier says, and what the tools around version 2 wrote.
//!
//! Fields: quay/claircore, `vulnerabilityreport.go` and `vulnerability.go`; quay/clair, `httptransport/api/v1` and
//! `Documentation/concepts/notifications.md`; arminc/clair-scanner for the old ones.

use std::collections::BTreeMap;

use quell_crds::v1alpha1::{Category, Severity, Vulnerability};
use serde_json::Value;

use crate::image::digest;
use crate::json::{self, Object};
use crate::lenient::field;
use crate::severity::{of_cvss, severity};
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, image, items, number_at, object_at, pick, text_at, texts_at, values_at};
use crate::{About, FollowUp, ImageRef, Received, Signal, Unreadable, bound};

const TOOL: &str = "clair";

/// Reads reports, notifications and pages of them.
pub(crate) fn read(body: &[u8]) -> Result<Received, Unreadable> {
    let mut received = Received::default();
    for object in json::objects(body)? {
        let has = |name: &str| object.fields.contains_key(name);
        if has("manifest_hash") || has("package_vulnerabilities") {
            received.signals.push(report(&object)?);
        } else if let (Some(id), Some(callback)) =
            (text_at(&object.fields, &["notification_id"]), text_at(&object.fields, &["callback"]))
        {
            received.follow_ups.push(FollowUp::ClairNotifications { id, callback });
        } else if let Some(all) = items(&object, &object.fields, "notifications")? {
            for (at, one) in all {
                received.signals.push(notification(&object, &at, one)?);
            }
        } else if has("manifest") && has("reason") {
            received.signals.push(notification(&object, "", &object.fields)?);
        } else if has("featurename") || has("image") && has("vulnerabilities") {
            received.signals.push(version_2(&object)?);
        } else if has("LayerCount") && has("Vulnerabilities") {
            received.signals.push(of_klar(&object)?);
        } else if has("updater") && has("name") {
            received.signals.push(alone(&object)?);
        } else {
            return Err(Unreadable::other_format(
                object.at("manifest_hash"),
                "a report of Clair has it, a notification notification_id and callback",
            ));
        }
    }
    Ok(received)
}

fn report(object: &Object) -> Result<Signal, Unreadable> {
    let fields = &object.fields;
    let Some(manifest) = text_at(fields, &["manifest_hash"]) else {
        return Err(Unreadable::other_format(object.at("manifest_hash"), "a report of Clair says what was scanned"));
    };
    let none = Fields::new();
    let map = |name: &str| -> Result<&Fields, Unreadable> {
        match field(fields, name) {
            None => Ok(&none),
            Some(Value::Object(map)) => Ok(map),
            Some(other) => Err(Unreadable::new(
                object.at(name),
                format!("an object was expected, this is {}", json::kind_of(other)),
            )),
        }
    };
    let (packages, known, of_package) = (map("packages")?, map("vulnerabilities")?, map("package_vulnerabilities")?);
    let scores = scores(map("enrichments")?);
    let mut found = Vec::new();
    let mut placed = std::collections::HashSet::new();
    for (package, ids) in of_package {
        let package = packages.get(package).and_then(Value::as_object).unwrap_or(&none);
        for id in ids.as_array().into_iter().flatten().filter_map(crate::lenient::text) {
            if let Some(one) = known.get(&id).and_then(Value::as_object) {
                found.extend(vulnerability(one, Some(package), scores.get(&id).copied()));
                placed.insert(id);
            }
        }
    }
    // What no package is said to have names its package itself.
    for (id, one) in known.iter().filter(|(id, _)| !placed.contains(*id)) {
        found.extend(one.as_object().and_then(|one| vulnerability(one, None, scores.get(id).copied())));
    }
    let image = ImageRef { digest: digest(&manifest), ..ImageRef::default() };
    let about = if image.digest.is_some() { About::Image { image } } else { About::outside("Manifest", &manifest) };
    let identity = vec![Category::Vulnerability.to_string(), manifest.clone()];
    let signal = Signal { identity, ..Signal::new(TOOL, Category::Vulnerability, manifest, about) };
    Ok(signal.with_vulnerabilities(summarise(found)))
}

/// The highest CVSS score of each vulnerability. Where Clair doesn't know a severity, it may know this.
fn scores(enrichments: &Fields) -> BTreeMap<String, f64> {
    let mut scores = BTreeMap::new();
    for (_, list) in enrichments.iter().filter(|(kind, _)| kind.contains("cvss")) {
        for (id, values) in list.as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
            let values = values.as_array().into_iter().flatten().filter_map(Value::as_object);
            let highest = values.filter_map(|one| number_at(one, &["baseScore"])).max_by(f64::total_cmp);
            if let Some(score) = highest {
                let known = scores.entry(id.clone()).or_insert(score);
                *known = known.max(score);
            }
        }
    }
    scores
}

fn vulnerability(one: &Fields, package: Option<&Fields>, score: Option<f64>) -> Option<Vulnerability> {
    let text = |way: &[&str]| text_at(one, way);
    let of_package =
        |name: &str| package.and_then(|package| text_at(package, &[name])).or_else(|| text(&["package", name]));
    let normalized = text(&["normalized_severity"]).map(|word| severity(&word));
    let severity = match normalized {
        Some(known) if known != Severity::Info => known,
        // Go's struct writes `severity`, and distributions words of their own.
        _ => match text(&["severity"]).map(|word| severity(&word)) {
            Some(known) if known != Severity::Info => known,
            _ if text(&["normalized_severity"]).as_deref() == Some("Negligible") => Severity::Info,
            _ => score.map_or(Severity::Info, of_cvss),
        },
    };
    Some(Vulnerability {
        id: text(&["name"])?,
        package: of_package("name").unwrap_or_default(),
        installed_version: of_package("version").unwrap_or_default(),
        fixed_version: text(&["fixed_in_version"]).unwrap_or_default(),
        severity,
        score: score.filter(|score| *score > 0.0),
        title: text(&["description"]).unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
        ..Vulnerability::default()
    })
}

/// That a vulnerability of a manifest came or went.
fn notification(object: &Object, at: &str, one: &Fields) -> Result<Signal, Unreadable> {
    let inside = |name: &str| object.at(&if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") });
    let (Some(manifest), Some(said)) = (text_at(one, &["manifest"]), object_at(one, &["vulnerability"])) else {
        return Err(Unreadable::other_format(
            inside("manifest"),
            "a notification of Clair names a manifest and a vulnerability",
        ));
    };
    let Some(found) = vulnerability(said, None, None) else {
        return Err(Unreadable::other_format(inside("vulnerability.name"), "a vulnerability has a name"));
    };
    let identity = vec![found.package.clone(), found.installed_version.clone(), manifest.clone()];
    let image = ImageRef { digest: digest(&manifest), ..ImageRef::default() };
    let about = if image.digest.is_some() { About::Image { image } } else { About::outside("Manifest", &manifest) };
    let reason = text_at(one, &["reason"]).unwrap_or_default();
    let rule = found.id.clone();
    let signal = Signal {
        identity,
        details: bound::details(&pick(one, &["id", "reason"])),
        ..Signal::new(TOOL, Category::Vulnerability, rule, about)
    };
    Ok(Signal { resolved: reason == "removed", ..signal.with_vulnerabilities(summarise([found])) })
}

/// A vulnerability as Clair's API shows it: of no image, but of a package.
fn alone(object: &Object) -> Result<Signal, Unreadable> {
    let Some(found) = vulnerability(&object.fields, None, None) else {
        return Err(Unreadable::other_format(object.at("name"), "a vulnerability has a name"));
    };
    let about = About::outside("Package", if found.package.is_empty() { "unknown" } else { &found.package });
    let identity = vec![found.installed_version.clone()];
    let signal = Signal { identity, ..Signal::new(TOOL, Category::Vulnerability, found.id.clone(), about) };
    Ok(signal.with_vulnerabilities(summarise([found])))
}

/// klar: vulnerabilities by their severity, of an image that it doesn't name; who sends the report may name it in a field `image`.
fn of_klar(object: &Object) -> Result<Signal, Unreadable> {
    let fields = &object.fields;
    let none = Fields::new();
    let by_severity = match field(fields, "Vulnerabilities") {
        Some(Value::Object(map)) => map,
        None => &none,
        Some(other) => {
            let problem = format!("an object was expected, this is {}", json::kind_of(other));
            return Err(Unreadable::new(object.at("Vulnerabilities"), problem));
        }
    };
    let mut found = Vec::new();
    for level in by_severity.keys() {
        let moved = |error: Unreadable| Unreadable { at: format!("Vulnerabilities.{}", error.at), ..error };
        for (at, one) in items(object, by_severity, level).map_err(moved)?.unwrap_or_default() {
            let text = |name: &str| text_at(one, &[name]).unwrap_or_default();
            let Some(id) = text_at(one, &["Name"]) else {
                return Err(Unreadable::other_format(
                    object.at(&format!("Vulnerabilities.{at}.Name")),
                    "each of them has a name",
                ));
            };
            found.push(Vulnerability {
                id,
                package: text("FeatureName"),
                installed_version: text("FeatureVersion"),
                fixed_version: text("FixedBy"),
                severity: severity(text_at(one, &["Severity"]).as_deref().unwrap_or(level)),
                title: text("Description").lines().next().unwrap_or_default().to_owned(),
                ..Vulnerability::default()
            });
        }
    }
    Ok(of_image(text_at(fields, &["image"]), found))
}

/// clair-scanner and clairctl: what isn't approved of an image.
fn version_2(object: &Object) -> Result<Signal, Unreadable> {
    let fields = &object.fields;
    let approved = |id: &str| {
        !values_at(fields, &["unapproved"]).is_empty() && !texts_at(fields, &["unapproved"]).iter().any(|one| one == id)
    };
    let mut found = Vec::new();
    for (at, one) in items(object, fields, "vulnerabilities")?.unwrap_or_default() {
        let text = |name: &str| text_at(one, &[name]).unwrap_or_default();
        let Some(id) = text_at(one, &["vulnerability"]) else {
            return Err(Unreadable::other_format(object.at(&format!("{at}.vulnerability")), "each of them has a name"));
        };
        if approved(&id) {
            continue;
        }
        found.push(Vulnerability {
            id,
            package: text("featurename"),
            installed_version: text("featureversion"),
            fixed_version: text("fixedby"),
            severity: severity(&text("severity")),
            title: text("description").lines().next().unwrap_or_default().to_owned(),
            ..Vulnerability::default()
        });
    }
    Ok(of_image(text_at(fields, &["image"]), found))
}

fn of_image(name: Option<String>, found: Vec<Vulnerability>) -> Signal {
    let name = name.unwrap_or_else(|| "unknown".to_owned());
    let about =
        image(Some(name.clone())).map_or_else(|| About::outside("Artifact", &name), |image| About::Image { image });
    let rule = match &about {
        About::Image { image } => image.name(),
        _ => name,
    };
    let identity = vec![Category::Vulnerability.to_string(), about.image_identity()];
    Signal { identity, ..Signal::new(TOOL, Category::Vulnerability, rule, about) }
        .with_vulnerabilities(summarise(found))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn one(body: &Value) -> Signal {
        read(body.to_string().as_bytes()).unwrap().signals.remove(0)
    }

    fn report(severity: &str, score: f64) -> Value {
        json!({"manifest_hash": DIGEST, "packages": {"1": {"name": "libssl", "version": "1.0"}},
            "vulnerabilities": {"7": {"name": "CVE-1", "normalized_severity": severity, "fixed_in_version": "1.1", "description": "a\nb"}},
            "package_vulnerabilities": {"1": ["7"]},
            "enrichments": {"message/vnd.clair.map.vulnerability; enricher=clair.cvss schema=x": [{"7": [{"baseScore": score}]}]}})
    }

    #[test]
    fn a_report_is_one_signal_about_its_manifest() {
        let signal = one(&report("High", 5.0));
        assert!(matches!(&signal.about, About::Image { image } if image.digest.as_deref() == Some(DIGEST)));
        let found = &signal.vulnerabilities[0];
        assert_eq!(
            [&found.id, &found.package, &found.installed_version, &found.fixed_version, &found.title],
            ["CVE-1", "libssl", "1.0", "1.1", "a"]
        );
        assert_eq!((found.severity, found.score), (Severity::High, Some(5.0)));
    }

    #[test]
    fn an_unknown_severity_is_that_of_the_score_and_a_negligible_one_stays() {
        for (word, score, severity) in [
            ("Unknown", 9.8, Severity::Critical),
            ("Unknown", 7.5, Severity::High),
            ("Unknown", 0.0, Severity::Info),
            ("Negligible", 9.8, Severity::Info),
            ("Low", 9.8, Severity::Low),
        ] {
            assert_eq!(one(&report(word, score)).severity, severity, "{word} {score}");
        }
    }

    #[test]
    fn a_notification_is_fetched_and_its_page_read() {
        let said =
            json!({"notification_id": "5e4b", "callback": "https://clair.example/notifier/api/v1/notification/5e4b"});
        let received = read(said.to_string().as_bytes()).unwrap();
        assert!(received.signals.is_empty());
        assert!(
            matches!(&received.follow_ups[..], [FollowUp::ClairNotifications { id, callback }] if id == "5e4b" && callback.starts_with("https://clair"))
        );
        let page = |reason: &str| {
            json!({"page": {"size": 1}, "notifications": [{"id": "n", "manifest": DIGEST, "reason": reason,
                "vulnerability": {"name": "CVE-1", "severity": "High", "package": {"name": "apt", "version": "1"}}}]})
        };
        let (added, removed) = (one(&page("added")), one(&page("removed")));
        assert_eq!((added.rule.as_str(), added.severity, added.resolved), ("CVE-1", Severity::High, false));
        assert!(removed.resolved && removed.identity == added.identity && removed.rule == added.rule);
    }

    #[test]
    fn of_the_old_reports_what_is_approved_is_no_finding() {
        let body = |unapproved: Value| {
            json!({"image": "shop:1", "unapproved": unapproved, "vulnerabilities": [
                {"featurename": "systemd", "featureversion": "237", "vulnerability": "CVE-1", "severity": "Defcon1", "fixedby": ""}]})
        };
        assert_eq!(one(&body(json!(["CVE-1"]))).severity, Severity::Critical);
        assert_eq!(one(&body(json!([]))).vulnerabilities.len(), 1);
        assert!(one(&body(json!(["CVE-2"]))).resolved);
    }

    #[test]
    fn a_report_of_klar_is_one_signal_and_an_empty_one_ends_it() {
        let body = |vulnerabilities: Value| json!({"LayerCount": 9, "Vulnerabilities": vulnerabilities});
        let of = |name: &str, severity: &str| json!({"Name": name, "Severity": severity, "FeatureName": "perl", "FeatureVersion": "5", "FixedBy": "6"});
        let found = one(&body(
            json!({"High": [of("RHSA-1", "High")], "Medium": [of("RHSA-2", "Medium"), of("RHSA-3", "Medium")]}),
        ));
        assert_eq!((found.severity, found.vulnerabilities.len(), found.resolved), (Severity::High, 3, false));
        assert_eq!(
            (found.vulnerabilities[0].package.as_str(), found.vulnerabilities[0].fixed_version.as_str()),
            ("perl", "6")
        );
        for empty in [json!({}), Value::Null] {
            let clean = one(&body(empty));
            assert!(clean.resolved && clean.identity == found.identity && clean.about == found.about);
        }
        let mut named = body(json!({"High": [of("RHSA-1", "High")]}));
        named["image"] = json!("registry.example/shop:1");
        assert!(matches!(one(&named).about, About::Image { image } if image.reference == "registry.example/shop:1"));
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (json!({"LayerCount": 1, "Vulnerabilities": 3}), "Vulnerabilities"),
            (json!({"LayerCount": 1, "Vulnerabilities": {"High": [{}]}}), "Vulnerabilities.High[0].Name"),
            (json!({"a": 1}), "manifest_hash"),
            (json!({"manifest_hash": "x", "packages": 3}), "packages"),
            (json!({"notifications": [{}]}), "notifications[0].manifest"),
            (json!({"image": "x", "vulnerabilities": [{}]}), "vulnerabilities[0].vulnerability"),
        ] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
