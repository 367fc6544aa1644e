//! Harbor: its webhook in both formats, and the vulnerabilities of an artifact as its API lists them.
//!
//! Fields: goharbor/harbor, `src/pkg/notifier/model/event.go` and `src/controller/event`; goharbor/website,
//! `docs/working-with-projects/project-configuration/configure-webhooks.md`. The webhook counts vulnerabilities and doesn't list them.

use quell_crds::v1alpha1::{Category, Severity, Vulnerability, VulnerabilityCounts};

use crate::image::{digest, normalize_image};
use crate::json::{self, Object};
use crate::severity::severity;
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, items, number_at, object_at, pick, text_at, texts_at};
use crate::{About, FollowUp, ImageRef, Received, Signal, Unreadable, bound};

const TOOL: &str = "harbor";

/// Reads events and lists of vulnerabilities. Only a finished scan says something about an artifact.
pub(crate) fn read(body: &[u8]) -> Result<Received, Unreadable> {
    let mut received = Received::default();
    for object in json::objects(body)? {
        received.extend(event(TOOL, &object)?);
    }
    Ok(received)
}

/// The same of one object; `tool` is whose registry it is.
pub(crate) fn event(tool: &str, object: &Object) -> Result<Received, Unreadable> {
    let fields = &object.fields;
    if let Some((kind, list)) = fields.iter().find(|(kind, _)| is_report(kind)) {
        let Some(list) = list.as_object() else {
            return Err(Unreadable::new(
                object.at(kind),
                format!("an object was expected, this is {}", json::kind_of(list)),
            ));
        };
        return listed(tool, object, kind, list).map(Received::from);
    }
    let cloud_event = fields.contains_key("specversion");
    let data = object_at(fields, &[if cloud_event { "data" } else { "event_data" }]);
    let Some(kind) = text_at(fields, &["type"]).or_else(|| text_at(fields, &["event_type"])) else {
        return Err(Unreadable::other_format(object.at("type"), "an event of Harbor has a type"));
    };
    if !is_event(&kind) {
        return Err(Unreadable::new(
            object.at("type"),
            format!("{kind} is no event of Harbor; is this the body of another tool?"),
        ));
    }
    let Some(data) = data else {
        let at = if cloud_event { "data" } else { "event_data" };
        return Err(Unreadable::other_format(object.at(at), "an event of Harbor has it"));
    };
    let at = ["occur_at", "time"].iter().find_map(|name| time(&text_at(fields, &[name])?));
    completed(tool, object, if cloud_event { "data" } else { "event_data" }, data, at)
}

/// Whether a type is one that Harbor gives, of version 1, 2 or as a CloudEvent.
pub(crate) fn is_event(kind: &str) -> bool {
    const EVENTS: [&str; 22] = [
        "PUSH_ARTIFACT",
        "PULL_ARTIFACT",
        "DELETE_ARTIFACT",
        "SCANNING_COMPLETED",
        "SCANNING_FAILED",
        "SCANNING_STOPPED",
        "QUOTA_EXCEED",
        "QUOTA_WARNING",
        "REPLICATION",
        "TAG_RETENTION",
        "UPLOAD_CHART",
        "DOWNLOAD_CHART",
        "DELETE_CHART",
        "pushImage",
        "pullImage",
        "deleteImage",
        "uploadChart",
        "downloadChart",
        "deleteChart",
        "scanningCompleted",
        "scanningFailed",
        "pushChart",
    ];
    EVENTS.contains(&kind) || kind.starts_with("harbor.")
}

fn is_report(kind: &str) -> bool {
    kind.starts_with("application/vnd.security.vulnerability.report")
        || kind.starts_with("application/vnd.scanner.adapter.vuln.report")
}

/// The artifacts of an event, where they were scanned.
fn completed(
    tool: &str,
    object: &Object,
    place: &str,
    data: &Fields,
    at: Option<chrono::DateTime<chrono::Utc>>,
) -> Result<Received, Unreadable> {
    let mut received = Received::default();
    let moved = |error: Unreadable| Unreadable { at: format!("{place}.{}", error.at), ..error };
    for (_, resource) in items(object, data, "resources").map_err(moved)?.unwrap_or_default() {
        let overviews = object_at(resource, &["scan_overview"]).into_iter().flatten();
        let done = overviews.filter_map(|(_, overview)| overview.as_object()).find(|overview| {
            text_at(overview, &["scan_status"])
                .is_some_and(|status| matches!(status.to_ascii_lowercase().as_str(), "success" | "finished"))
        });
        let Some(overview) = done else { continue };
        let signal = Signal { detected_at: at, ..scanned(tool, data, resource, overview) };
        if let Some(request) = follow_up(data, resource).filter(|_| !signal.resolved) {
            received.follow_ups.push(request);
        }
        received.signals.push(signal);
    }
    Ok(received)
}

fn scanned(tool: &str, data: &Fields, resource: &Fields, overview: &Fields) -> Signal {
    let image = image(data, resource);
    let counted = |word: &str| -> i32 {
        let all = object_at(overview, &["summary", "summary"]);
        let count = all.and_then(|all| text_at(all, &[word])).and_then(|count| count.parse().ok()).unwrap_or(0);
        i32::clamp(count, 0, 10_000_000)
    };
    let counts = VulnerabilityCounts {
        critical: counted("Critical"),
        high: counted("High"),
        medium: counted("Medium"),
        low: counted("Low"),
        info: counted("Negligible") + counted("Unknown") + counted("None"),
        fixable: text_at(overview, &["summary", "fixable"]).and_then(|count| count.parse().ok()).unwrap_or(0).max(0),
    };
    let total = counts.critical + counts.high + counts.medium + counts.low + counts.info;
    let total = number_at(overview, &["summary", "total"]).map_or(total, |said| {
        // Counts are small whole numbers.
        #[allow(clippy::cast_possible_truncation)]
        let said = said as i32;
        said.max(total)
    });
    let word = text_at(overview, &["severity"]).unwrap_or_default();
    let worst = severity(&word);
    let clean = total == 0 && matches!(worst, Severity::Info);
    let rule = image.name();
    let message = format!("{total} vulnerabilities, {} fixed by a newer version; worst: {word}", counts.fixable);
    let about = About::Image { image };
    let mut details = pick(overview, &["report_id", "scan_status", "severity", "scanner", "start_time", "end_time"]);
    details.extend(pick(data, &["repository"]));
    Signal {
        severity: worst,
        message: if clean { "no vulnerabilities".to_owned() } else { message },
        resolved: clean,
        vulnerability_counts: (!clean).then_some(counts),
        details: bound::details(&details),
        identity: vec![Category::Vulnerability.to_string(), about.image_identity()],
        ..Signal::new(tool, Category::Vulnerability, rule, about)
    }
}

fn image(data: &Fields, resource: &Fields) -> ImageRef {
    let repository = || text_at(data, &["repository", "repo_full_name"]);
    let said = text_at(resource, &["resource_url"]).or_else(repository).unwrap_or_default();
    let mut image = ImageRef::parse(&said);
    if image.reference.is_empty() {
        image.reference = normalize_image(&repository().unwrap_or_default());
    }
    image.digest = text_at(resource, &["digest"]).and_then(|text| digest(&text)).or(image.digest);
    image
}

fn follow_up(data: &Fields, resource: &Fields) -> Option<FollowUp> {
    let project = text_at(data, &["repository", "namespace"])?;
    let repository = text_at(data, &["repository", "name"])?;
    Some(FollowUp::HarborVulnerabilities { project, repository, digest: digest(&text_at(resource, &["digest"])?)? })
}

/// A vulnerability, and the digests of the artifacts that have it.
type Listed = (Vulnerability, Vec<String>);

fn vulnerabilities(object: &Object, kind: &str, list: &Fields) -> Result<Vec<Listed>, Unreadable> {
    let moved = |error: Unreadable| Unreadable { at: format!("{kind}.{}", error.at), ..error };
    let all = items(object, list, "vulnerabilities").map_err(moved)?.unwrap_or_default();
    Ok(all
        .into_iter()
        .map(|(_, one)| {
            let text = |name: &str| text_at(one, &[name]).unwrap_or_default();
            let scores = ["score_v3", "score_v2"].iter().find_map(|name| number_at(one, &["preferred_cvss", name]));
            let found = Vulnerability {
                id: text("id"),
                package: text("package"),
                installed_version: text("version"),
                fixed_version: text("fix_version"),
                severity: severity(&text("severity")),
                score: scores.filter(|score| *score > 0.0),
                title: text("description").lines().next().unwrap_or_default().to_owned(),
                ..Vulnerability::default()
            };
            (found, texts_at(one, &["artifact_digests"]).iter().filter_map(|text| digest(text)).collect())
        })
        .collect())
}

/// What the API lists for an artifact, by the digests that each vulnerability names.
fn listed(tool: &str, object: &Object, kind: &str, list: &Fields) -> Result<Vec<Signal>, Unreadable> {
    let mut of: std::collections::BTreeMap<Option<String>, Vec<Vulnerability>> = std::collections::BTreeMap::new();
    for (found, digests) in vulnerabilities(object, kind, list)? {
        if digests.is_empty() {
            of.entry(None).or_default().push(found);
        } else {
            for digest in digests {
                of.entry(Some(digest)).or_default().push(found.clone());
            }
        }
    }
    let at = text_at(list, &["generated_at"]).and_then(|at| time(&at));
    Ok(of
        .into_iter()
        .map(|(digest, found)| {
            let image = ImageRef { digest, ..ImageRef::default() };
            let about =
                if image.digest.is_some() { About::Image { image } } else { About::outside("Artifact", "unknown") };
            let identity = about.image_identity();
            let rule = if identity.is_empty() { "artifact".to_owned() } else { identity.clone() };
            let details = bound::details(&pick(list, &["scanner", "severity"]));
            let identity = vec![Category::Vulnerability.to_string(), identity];
            Signal { identity, details, detected_at: at, ..Signal::new(tool, Category::Vulnerability, rule, about) }
                .with_vulnerabilities(summarise(found))
        })
        .collect())
}

/// What an event of Harbor counted, with what its API lists of the same artifact. Of an index of images the list is of all of them, as the
/// counts are. A list of none leaves the signal as it is: the event has counted some.
pub fn with_list(signal: Signal, body: &[u8]) -> Result<Signal, Unreadable> {
    let mut found = Vec::new();
    let mut is_list = false;
    for object in json::objects(body)? {
        for (kind, list) in object.fields.iter().filter(|(kind, _)| is_report(kind)) {
            is_list = true;
            // An artifact that the scanner knows nothing of has `null` here.
            let Some(list) = list.as_object() else { continue };
            found.extend(vulnerabilities(&object, kind, list)?.into_iter().map(|(found, _)| found));
        }
    }
    if !is_list {
        let missing = "application/vnd.security.vulnerability.report";
        return Err(Unreadable::other_format(missing, "what Harbor's API lists of an artifact has it"));
    }
    Ok(match summarise(found) {
        Some(found) => signal.with_vulnerabilities(Some(found)),
        None => signal,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn data(status: &str, word: &str, counts: &Value) -> Value {
        json!({"resources": [{"digest": DIGEST, "tag": "1.4", "resource_url": "harbor.example/shop/web:1.4", "scan_overview": {
            "application/vnd.security.vulnerability.report; version=1.1": {"report_id": "r", "scan_status": status, "severity": word, "summary": counts}}}],
            "repository": {"name": "web", "namespace": "shop", "repo_full_name": "shop/web"}})
    }

    fn read_one(body: &Value) -> Received {
        read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_finished_scan_is_a_signal_with_its_counts_and_what_is_to_be_fetched() {
        let counts = json!({"total": 5, "fixable": 4, "summary": {"High": 4, "Unknown": 1}});
        for body in [
            json!({"type": "SCANNING_COMPLETED", "occur_at": 1_680_501_893, "event_data": data("Success", "High", &counts)}),
            json!({"specversion": "1.0", "id": "1", "source": "/p", "type": "harbor.scan.completed", "time": "2023-04-03T06:12:55Z", "data": data("Success", "High", &counts)}),
        ] {
            let received = read_one(&body);
            let [signal] = received.signals.as_slice() else { panic!("{received:?}") };
            assert_eq!((signal.rule.as_str(), signal.severity), ("harbor.example/shop/web:1.4", Severity::High));
            let counts = signal.vulnerability_counts.unwrap();
            assert_eq!((counts.high, counts.info, counts.fixable), (4, 1, 4));
            assert!(matches!(&signal.about, About::Image { image } if image.digest.as_deref() == Some(DIGEST)));
            assert!(
                matches!(&received.follow_ups[..], [FollowUp::HarborVulnerabilities { project, repository, .. }] if project == "shop" && repository == "web")
            );
        }
    }

    #[test]
    fn a_clean_scan_ends_what_was_found_and_a_failed_one_says_nothing() {
        let scan = |status: &str, word: &str, counts: Value| {
            read_one(&json!({"type": "SCANNING_COMPLETED", "event_data": data(status, word, &counts)}))
        };
        let clean = scan("Success", "None", json!({"total": 0, "fixable": 0, "summary": {}}));
        assert!(clean.signals[0].resolved && clean.follow_ups.is_empty());
        assert_eq!(clean.signals[0].identity, scan("Success", "Low", json!({"total": 1})).signals[0].identity);
        assert_eq!(scan("Error", "", json!(null)), Received::default());
        assert_eq!(
            read_one(&json!({"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"digest": DIGEST}]}})),
            Received::default()
        );
    }

    #[test]
    fn the_list_of_an_artifact_is_one_signal_about_its_digest() {
        let body = json!({"application/vnd.security.vulnerability.report; version=1.1": {"severity": "High", "vulnerabilities": [
            {"id": "CVE-1", "package": "p", "version": "1", "fix_version": "2", "severity": "High", "artifact_digests": [DIGEST], "preferred_cvss": {"score_v3": 7.8}}]}});
        let signal = read_one(&body).signals.remove(0);
        assert_eq!((signal.severity, signal.vulnerabilities[0].score), (Severity::High, Some(7.8)));
        assert!(matches!(&signal.about, About::Image { image } if image.digest.as_deref() == Some(DIGEST)));
    }

    #[test]
    fn what_an_event_counts_and_the_api_lists_is_one_signal_about_the_events_image() {
        let event = json!({"type": "SCANNING_COMPLETED", "event_data": data("Success", "High", &json!({"total": 2}))});
        let counted = read_one(&event).signals.remove(0);
        let list = |all: Value| {
            json!({"application/vnd.security.vulnerability.report; version=1.1": {"vulnerabilities": all}}).to_string()
        };
        let both = list(json!([
            {"id": "CVE-1", "package": "p", "version": "1", "severity": "Critical", "artifact_digests": ["sha256:of-a-child"]},
            {"id": "CVE-2", "package": "q", "version": "1", "severity": "Low"},
        ]));
        let whole = with_list(counted.clone(), both.as_bytes()).unwrap();
        let ids: Vec<_> = whole.vulnerabilities.iter().map(|one| one.id.as_str()).collect();
        assert_eq!((ids, whole.severity), (vec!["CVE-1", "CVE-2"], Severity::Critical));
        assert_eq!((&whole.about, &whole.identity, &whole.rule), (&counted.about, &counted.identity, &counted.rule));
        assert_eq!(with_list(counted.clone(), list(json!([])).as_bytes()).unwrap(), counted);
        assert!(with_list(counted.clone(), b"{}").is_err());
        assert!(with_list(counted, b"<html>").is_err());
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (json!({"a": 1}), "type"),
            (json!({"type": "MatchedPolicy"}), "type"),
            (json!({"type": "PUSH_ARTIFACT"}), "event_data"),
            (json!({"type": "SCANNING_COMPLETED", "event_data": {"resources": 1}}), "event_data.resources"),
        ] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
