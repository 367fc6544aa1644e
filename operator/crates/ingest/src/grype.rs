//! The JSON report of Grype.
//!
//! Fields: anchore/grype, `grype/presenter/models/document.go` and `match.go`. What the user's configuration ignores is in `ignoredMatches`,
//! and not read.

use quell_crds::v1alpha1::{Category, Vulnerability};
use serde_json::{Map, Value};

use crate::image::digest;
use crate::json::{self, Object};
use crate::severity::severity;
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, at, items, number_at, object_at, objects_at, pick, text_at, texts_at, values_at};
use crate::{About, ImageRef, Signal, Unreadable, bound};

const TOOL: &str = "grype";

/// Reads reports. One with nothing wrong says that what was wrong with the image is no longer.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    json::objects(body)?.iter().map(report).collect()
}

fn report(object: &Object) -> Result<Signal, Unreadable> {
    if !object.fields.contains_key("matches") {
        return Err(Unreadable::other_format(object.at("matches"), "a report of Grype lists its matches here"));
    }
    let matches = items(object, &object.fields, "matches")?.unwrap_or_default();
    // Of packages alone, named by their URLs, there is no source.
    let source = ["source", "descriptor", "distro"].iter().any(|name| object.fields.contains_key(*name));
    if matches.is_empty() && !source {
        return Err(Unreadable::other_format(object.at("source"), "a report of Grype says what was scanned"));
    }
    document(TOOL, object, &matches, &object.fields)
}

/// The signal of a document, whoever wrote it: Kubescape keeps Grype's in an object of its own.
pub(crate) fn document(
    tool: &str,
    object: &Object,
    matches: &[(String, &Fields)],
    fields: &Fields,
) -> Result<Signal, Unreadable> {
    let about = object_at(fields, &["source"]).map_or_else(|| About::outside("Artifact", "unknown"), scanned);
    let name = match &about {
        About::Image { image } => image.name(),
        About::Workload { name, .. } => name.clone(),
        _ => "unknown".to_owned(),
    };
    let mut found = Vec::with_capacity(matches.len());
    for (at, one) in matches {
        if object_at(one, &["vulnerability"]).is_none() {
            return Err(Unreadable::other_format(
                object.at(&format!("{at}.vulnerability")),
                "each match of Grype has it",
            ));
        }
        found.extend(vulnerability(one));
    }
    let identity = vec![Category::Vulnerability.to_string(), about.image_identity()];
    let mut details = pick(fields, &["distro"]);
    if let Some(descriptor) = object_at(fields, &["descriptor"]) {
        details.insert("descriptor".to_owned(), Value::Object(pick(descriptor, &["name", "version", "timestamp"])));
    }
    let detected_at = text_at(fields, &["descriptor", "timestamp"]).and_then(|at| time(&at));
    let signal = Signal {
        details: bound::details(&details),
        detected_at,
        identity,
        ..Signal::new(tool, Category::Vulnerability, name, about)
    };
    Ok(signal.with_vulnerabilities(summarise(found)))
}

fn scanned(source: &Map<String, Value>) -> About {
    let kind = text_at(source, &["type"]).unwrap_or_default();
    let target = at(source, &["target"]);
    let Some(Value::Object(image)) = target else {
        let name = target.and_then(crate::lenient::text).unwrap_or_else(|| "unknown".to_owned());
        let name = name.trim_matches('"');
        return match kind.as_str() {
            "image" => About::Image { image: ImageRef::parse(name) },
            "directory" => About::outside("Filesystem", name),
            "file" => About::outside("File", name),
            _ => About::outside("Artifact", name),
        };
    };
    let input = text_at(image, &["userInput"]).unwrap_or_default();
    let tags = texts_at(image, &["tags"]);
    let repo_digests = texts_at(image, &["repoDigests"]);
    let is_reference =
        |text: &&String| !text.is_empty() && !text.contains(char::is_whitespace) && !text.starts_with(['/', '.']);
    let reference = Some(&input).filter(is_reference).or(tags.first()).or(repo_digests.first());
    let mut found = reference.map(|reference| ImageRef::parse(without_scheme(reference))).unwrap_or_default();
    // The digest that registries know stands before the one of the manifest that Grype made of an archive or a daemon's image.
    found.digest = found
        .digest
        .or_else(|| repo_digests.iter().find_map(|text| digest(text)))
        .or_else(|| text_at(image, &["manifestDigest"]).and_then(|text| digest(&text)));
    found.image_id = text_at(image, &["imageID"]).and_then(|text| digest(&text));
    if found.reference.is_empty() && found.digest.is_none() && found.image_id.is_none() {
        return About::outside("Artifact", if input.is_empty() { "unknown" } else { &input });
    }
    About::Image { image: found }
}

/// Grype takes `registry:nginx`, `docker:nginx` and the like.
fn without_scheme(reference: &str) -> &str {
    ["registry:", "docker:", "podman:", "containerd:"]
        .iter()
        .find_map(|scheme| reference.strip_prefix(scheme))
        .unwrap_or(reference)
}

fn vulnerability(found: &Fields) -> Option<Vulnerability> {
    let said = object_at(found, &["vulnerability"])?;
    let id = text_at(said, &["id"])?;
    let related: Vec<String> = objects_at(found, &["relatedVulnerabilities"])
        .filter_map(|one| text_at(one, &["id"]))
        .filter(|other| other.starts_with("CVE-") && *other != id)
        .collect();
    let describe = text_at(said, &["description"])
        .or_else(|| objects_at(found, &["relatedVulnerabilities"]).find_map(|one| text_at(one, &["description"])))
        .unwrap_or_default();
    // Other tools and people know it by its CVE, and a playbook or a suppression names it so.
    let (id, title) = match related.as_slice() {
        [cve] if !id.starts_with("CVE-") => (cve.clone(), format!("{id}: {describe}")),
        _ => (id, describe),
    };
    let scores = |of: &Fields| {
        let all: Vec<f64> =
            objects_at(of, &["cvss"]).filter_map(|cvss| number_at(cvss, &["metrics", "baseScore"])).collect();
        all.into_iter().max_by(f64::total_cmp)
    };
    let state = text_at(said, &["fix", "state"]).unwrap_or_default();
    let fixed = texts_at(said, &["fix", "versions"]).join(", ");
    let lists = |name: &str| -> Vec<&Value> {
        let related = objects_at(found, &["relatedVulnerabilities"]).flat_map(|one| values_at(one, &[name]));
        values_at(said, &[name]).iter().chain(related).collect()
    };
    let epss = lists("epss").iter().filter_map(|one| number_at(one.as_object()?, &["epss"])).max_by(f64::total_cmp);
    Some(Vulnerability {
        id,
        package: text_at(found, &["artifact", "name"]).unwrap_or_default(),
        installed_version: text_at(found, &["artifact", "version"]).unwrap_or_default(),
        fixed_version: fixed,
        severity: text_at(said, &["severity"]).map_or_else(Default::default, |word| severity(&word)),
        score: scores(said)
            .or_else(|| objects_at(found, &["relatedVulnerabilities"]).find_map(scores))
            .filter(|score| *score > 0.0),
        fix_available: match state.as_str() {
            "fixed" => Some(true),
            "not-fixed" | "wont-fix" => Some(false),
            _ => None,
        },
        epss,
        known_exploited: (!lists("knownExploited").is_empty()).then_some(true),
        exploit_available: None,
        title: title.lines().next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::Severity;
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn body(matches: Value) -> Value {
        json!({"matches": matches, "distro": {"name": "debian"}, "descriptor": {"name": "grype", "version": "0.96.0"},
            "source": {"type": "image", "target": {"userInput": "registry:shop:1.4", "imageID": DIGEST, "manifestDigest": "sha256:ff",
                "tags": [], "repoDigests": [format!("registry.example/shop@{DIGEST}")]}}})
    }

    fn one() -> Value {
        json!({"vulnerability": {"id": "GHSA-4374-p667-p6c8", "severity": "High", "description": "rapid reset",
                "cvss": [{"metrics": {"baseScore": 7.5}}], "epss": [{"cve": "CVE-2023-39325", "epss": 0.12}],
                "knownExploited": [{"cve": "CVE-2023-39325"}], "fix": {"versions": ["0.17.0"], "state": "fixed"}},
            "relatedVulnerabilities": [{"id": "CVE-2023-39325", "severity": "High"}],
            "artifact": {"name": "golang.org/x/net", "version": "v0.10.0", "locations": [{"path": "/a"}]}})
    }

    fn signals(body: &Value) -> Vec<Signal> {
        read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_report_is_one_signal_about_its_image_with_what_grype_knows_of_each_vulnerability() {
        let signals = signals(&body(json!([one(), one()])));
        let [signal] = signals.as_slice() else { panic!("{signals:?}") };
        let About::Image { image } = &signal.about else { panic!("an image") };
        assert_eq!((image.reference.as_str(), image.digest.as_deref()), ("docker.io/library/shop:1.4", Some(DIGEST)));
        let [found] = signal.vulnerabilities.as_slice() else { panic!("found at two places, but one") };
        assert_eq!((found.id.as_str(), found.severity, found.score), ("CVE-2023-39325", Severity::High, Some(7.5)));
        assert_eq!(found.title, "GHSA-4374-p667-p6c8: rapid reset");
        assert_eq!((found.epss, found.known_exploited, found.fix_available), (Some(0.12), Some(true), Some(true)));
        assert!(!signal.resolved);
    }

    #[test]
    fn a_clean_report_ends_what_was_wrong_with_the_image() {
        let clean = signals(&body(json!([]))).remove(0);
        let dirty = signals(&body(json!([one()]))).remove(0);
        assert!(clean.resolved);
        assert!(signals(&body(Value::Null)).remove(0).resolved);
        assert_eq!((&clean.rule, &clean.identity, &clean.about), (&dirty.rule, &dirty.identity, &dirty.about));
    }

    #[test]
    fn what_is_no_image_is_named_as_what_it_is() {
        for (source, kind, name) in [
            (json!({"type": "directory", "target": "."}), "Filesystem", "."),
            (json!({"type": "file", "target": "app.jar"}), "File", "app.jar"),
            (Value::Null, "Artifact", "unknown"),
            (json!({"type": "image", "target": {"userInput": "RE DACTED"}}), "Artifact", "RE DACTED"),
        ] {
            let mut body = body(json!([one()]));
            body["source"] = source;
            let about = signals(&body).remove(0).about;
            assert!(matches!(&about, About::Workload { kind: k, name: n, .. } if k == kind && n == name), "{about:?}");
        }
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (r#"{"runs":[]}"#, "matches"),
            (r#"{"matches":[]}"#, "source"),
            (r#"{"matches":[{"a":1}],"source":{}}"#, "matches[0].vulnerability"),
            (r#"{"matches":[{"a":1}]}"#, "matches[0].vulnerability"),
            (r#"{"matches":5,"source":{}}"#, "matches"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
