//! SARIF 2.1.0, which many scanners write.
//!
//! Fields: oasis-tcs/sarif-spec, `sarif-2.1`. Vulnerabilities of packages are one signal for what was scanned; every other result is one of its
//! own. Texts of code in a result are not kept: of a scanner for secrets they are the secrets.

use std::collections::BTreeMap;

use quell_crds::v1alpha1::{Category, Severity, Vulnerability};
use serde_json::Value;

use crate::json::{self, Object};
use crate::severity::of_cvss;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, at, image, items, number_at, object_at, objects_at, pick, text_at, texts_at, values_at};
use crate::{About, ImageRef, Signal, Unreadable, bound, kinds};

const TOOL: &str = "sarif";

/// Reads logs. What is suppressed, passed or gone from the baseline is no finding.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        let Some(runs) = items(&object, &object.fields, "runs")? else {
            return Err(Unreadable::other_format(object.at("runs"), "a SARIF log has runs"));
        };
        for (at, run) in runs {
            read_run(&object, &at, run, &mut signals)?;
        }
    }
    Ok(signals)
}

fn read_run(object: &Object, at: &str, run: &Fields, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let Some(driver) = object_at(run, &["tool", "driver"]) else {
        return Err(Unreadable::other_format(
            object.at(&format!("{at}.tool.driver")),
            "a run of SARIF says which tool ran",
        ));
    };
    let name = text_at(driver, &["name"]).unwrap_or_default();
    let slug = kinds::slug(&name);
    let tool = if slug.is_empty() { TOOL } else { slug.as_str() };
    let moved = |error: Unreadable| Unreadable { at: format!("{at}.{}", error.at), ..error };
    let mut vulnerable: BTreeMap<String, (About, Vec<Vulnerability>)> = BTreeMap::new();
    for (_, result) in items(object, run, "results").map_err(moved)?.unwrap_or_default() {
        if !is_open(result) {
            continue;
        }
        let rule = rule_of(run, driver, result);
        let id = id_of(result, rule);
        let severity = severity(run, result, rule, &id);
        let scanned = scanned(run, result);
        if let Some(found) = vulnerability(&id, result, rule, severity) {
            let about = scanned.unwrap_or_else(|| About::outside("Artifact", "unknown"));
            vulnerable.entry(format!("{about:?}")).or_insert_with(|| (about, Vec::new())).1.push(found);
            continue;
        }
        let message = message(result, rule);
        let place = place(result);
        let file = || place.as_ref().map(|(uri, _)| About::outside("File", uri));
        let about = scanned.or_else(file).unwrap_or_else(|| About::outside("Artifact", "unknown"));
        let mut details = pick(result, &["level", "kind", "rank", "baselineState"]);
        details.insert("tool".to_owned(), pick(driver, &["name", "version", "semanticVersion"]).into());
        if let Some((uri, line)) = &place {
            details.insert("location".to_owned(), serde_json::json!({ "uri": uri, "startLine": line }));
        }
        if let Some(rule) = rule {
            let mut said = pick(rule, &["id", "name", "helpUri"]);
            said.extend(
                text_at(rule, &["shortDescription", "text"]).map(|text| ("shortDescription".to_owned(), text.into())),
            );
            details.insert("rule".to_owned(), said.into());
        }
        signals.push(Signal {
            severity,
            details: bound::details(&details),
            identity: identity(result, place.as_ref(), &message),
            message,
            ..Signal::new(tool, category(tool, rule), id, about)
        });
    }
    for (about, found) in vulnerable.into_values() {
        let rule = match &about {
            About::Image { image } => image.name(),
            About::Workload { name, .. } => name.clone(),
            _ => tool.to_owned(),
        };
        let identity = vec![Category::Vulnerability.to_string(), about.image_identity()];
        let signal = Signal { identity, ..Signal::new(tool, Category::Vulnerability, rule, about) };
        signals.push(signal.with_vulnerabilities(summarise(found)));
    }
    Ok(())
}

/// Whether a result is a problem that somebody has yet to look at. A suppression that isn't accepted, or not yet, suppresses nothing.
fn is_open(result: &Fields) -> bool {
    let text = |name: &str| text_at(result, &[name]);
    let accepted = |one: &Fields| text_at(one, &["status"]).is_none_or(|status| status == "accepted");
    // One that is accepted is enough, whatever became of others.
    let suppressed = objects_at(result, &["suppressions"]).any(accepted);
    let kind = text("kind").is_none_or(|kind| matches!(kind.as_str(), "fail" | "open" | "review"));
    !suppressed && kind && text("baselineState").is_none_or(|state| state != "absent")
}

/// The rule of a result: by its index, in the driver or the extension that it names, else by its id.
fn rule_of<'a>(run: &'a Fields, driver: &'a Fields, result: &Fields) -> Option<&'a Fields> {
    let extension = text_at(result, &["rule", "toolComponent", "index"]).and_then(|index| index.parse::<usize>().ok());
    let component = match extension.and_then(|index| values_at(run, &["tool", "extensions"]).get(index)) {
        Some(Value::Object(extension)) => extension,
        _ => driver,
    };
    let index = text_at(result, &["ruleIndex"])
        .or_else(|| text_at(result, &["rule", "index"]))
        .and_then(|index| index.parse::<usize>().ok());
    let by_index = index.and_then(|index| values_at(component, &["rules"]).get(index)).and_then(Value::as_object);
    by_index.or_else(|| {
        let id = text_at(result, &["ruleId"]).or_else(|| text_at(result, &["rule", "id"]))?;
        // An id may name a part of a rule after a slash.
        let is = |rule: &&Fields| {
            text_at(rule, &["id"]).is_some_and(|known| known == id || id.starts_with(&format!("{known}/")))
        };
        let extensions =
            objects_at(run, &["tool", "extensions"]).flat_map(|extension| objects_at(extension, &["rules"]));
        objects_at(driver, &["rules"]).chain(extensions).find(is)
    })
}

fn id_of(result: &Fields, rule: Option<&Fields>) -> String {
    text_at(result, &["ruleId"])
        .or_else(|| text_at(result, &["rule", "id"]))
        .or_else(|| rule.and_then(|rule| text_at(rule, &["id"])))
        // Some name no rule at all: then the message's first line has to.
        .or_else(|| message_text(result).and_then(|text| text.lines().next().map(str::to_owned)))
        .unwrap_or_else(|| "unnamed rule".to_owned())
}

/// The score that code hosts read, else the level: of the result, else as the run was told, else of the rule, else a warning.
fn severity(run: &Fields, result: &Fields, rule: Option<&Fields>, id: &str) -> Severity {
    let score = number_at(result, &["properties", "security-severity"])
        .or_else(|| number_at(rule?, &["properties", "security-severity"]));
    if let Some(score) = score.filter(|score| *score > 0.0) {
        return of_cvss(score);
    }
    // Which rule is meant is told by its id, its GUID, or its place among the rules.
    let is_rule = |one: &&Fields| {
        let named = |name: &str| text_at(one, &["descriptor", name]);
        let by_index = || {
            let index: usize = named("index")?.parse().ok()?;
            Some(std::ptr::eq(values_at(run, &["tool", "driver", "rules"]).get(index)?.as_object()?, rule?))
        };
        named("id")
            .map(|said| said == id)
            .or_else(|| Some(named("guid")? == text_at(rule?, &["guid"])?))
            .or_else(by_index)
            .unwrap_or(false)
    };
    let told = || {
        let mut overrides =
            objects_at(run, &["invocations"]).flat_map(|one| objects_at(one, &["ruleConfigurationOverrides"]));
        overrides.find(is_rule).and_then(|one| text_at(one, &["configuration", "level"]))
    };
    let by_rule = || text_at(rule?, &["defaultConfiguration", "level"]);
    match text_at(result, &["level"]).or_else(told).or_else(by_rule).as_deref() {
        Some("error") => Severity::High,
        Some("note") => Severity::Low,
        Some("warning") | None => Severity::Medium,
        Some(_) => Severity::Info,
    }
}

fn category(tool: &str, rule: Option<&Fields>) -> Category {
    let tags: Vec<String> =
        rule.and_then(|rule| object_at(rule, &["properties"])).map(|all| texts_at(all, &["tags"])).unwrap_or_default();
    let is = |words: &[&str]| {
        words.iter().any(|word| tool.contains(word) || tags.iter().any(|tag| tag.to_lowercase().contains(word)))
    };
    if is(&["secret", "gitleaks", "trufflehog"]) {
        Category::Secret
    } else if is(&["misconfiguration", "dockle", "checkov", "kics", "kubesec", "tfsec", "terrascan", "hadolint"]) {
        Category::Misconfiguration
    } else {
        Category::Other
    }
}

fn message_text(result: &Fields) -> Option<String> {
    text_at(result, &["message", "text"]).or_else(|| text_at(result, &["message", "markdown"]))
}

/// Its text, or that of its rule with the arguments filled in.
fn message(result: &Fields, rule: Option<&Fields>) -> String {
    if let Some(text) = message_text(result) {
        return text;
    }
    let of_rule = |id: &str| rule.and_then(|rule| text_at(rule, &["messageStrings", id, "text"]));
    let template = text_at(result, &["message", "id"]).and_then(|id| of_rule(&id));
    let described = || rule.and_then(|rule| text_at(rule, &["shortDescription", "text"]));
    let mut text = template.or_else(described).unwrap_or_else(|| "no message".to_owned());
    for (index, argument) in object_at(result, &["message"])
        .map(|message| texts_at(message, &["arguments"]))
        .unwrap_or_default()
        .iter()
        .take(10)
        .enumerate()
    {
        text = text.replace(&format!("{{{index}}}"), argument);
    }
    text
}

/// The file and line of a result.
fn place(result: &Fields) -> Option<(String, Option<String>)> {
    let location = objects_at(result, &["locations"]).next()?;
    let uri = text_at(location, &["physicalLocation", "artifactLocation", "uri"])
        .or_else(|| text_at(location, &["logicalLocations", "fullyQualifiedName"]))?;
    Some((uri, text_at(location, &["physicalLocation", "region", "startLine"])))
}

/// The tool's own fingerprints, else where it is and what it says.
fn identity(result: &Fields, place: Option<&(String, Option<String>)>, message: &str) -> Vec<String> {
    for name in ["fingerprints", "partialFingerprints"] {
        let Some(prints) = object_at(result, &[name]).filter(|prints| !prints.is_empty()) else { continue };
        let mut prints: Vec<String> = prints.iter().map(|(name, value)| format!("{name}={value}")).collect();
        prints.sort();
        return prints;
    }
    let (uri, line) = place.cloned().unwrap_or_default();
    vec![uri, line.unwrap_or_default(), message.to_owned()]
}

/// The image that Trivy names in its run's properties, or Grype in a location; else the repository that was scanned.
fn scanned(run: &Fields, result: &Fields) -> Option<About> {
    let property = |name: &str| text_at(run, &["properties", name]);
    if let Some(name) = property("imageName") {
        let digests = object_at(run, &["properties"]).map(|all| texts_at(all, &["repoDigests"])).unwrap_or_default();
        let digest = digests.iter().find_map(|text| crate::image::digest(text));
        let image_id = property("imageID").and_then(|id| crate::image::digest(&id));
        // The name of an archive is no reference.
        let is_archive = [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end));
        let found = image(Some(name.clone()).filter(|_| !is_archive))
            .unwrap_or_else(|| ImageRef { reference: name, ..ImageRef::default() });
        return Some(About::Image { image: ImageRef { digest: found.digest.clone().or(digest), image_id, ..found } });
    }
    // Grype writes `<image>@<layer>:<path>`, and the image in front of the path.
    let logical = objects_at(result, &["locations"]).flat_map(|location| objects_at(location, &["logicalLocations"]));
    let named = logical.filter_map(|one| text_at(one, &["fullyQualifiedName"])).find_map(|name| {
        let (image, rest) = name.split_once('@')?;
        (rest.contains(":/") && !image.is_empty()).then(|| image.to_owned())
    });
    if let Some(image) = image(named) {
        return Some(About::Image { image });
    }
    let repository = at(run, &["versionControlProvenance"]).and_then(|list| list.get(0)).and_then(Value::as_object);
    repository.and_then(|one| text_at(one, &["repositoryUri"])).map(|uri| About::outside("Repository", &uri))
}

/// Of a package that is vulnerable: what Trivy and Grype write as text.
fn vulnerability(id: &str, result: &Fields, rule: Option<&Fields>, severity: Severity) -> Option<Vulnerability> {
    let prefix =
        ["CVE-", "GHSA-", "DLA-", "TEMP-", "ALAS", "ELSA-", "RHSA-"].iter().any(|prefix| id.starts_with(prefix));
    if !prefix {
        return None;
    }
    let said = message_text(result).unwrap_or_default();
    let help = rule.and_then(|rule| text_at(rule, &["help", "text"])).unwrap_or_default();
    let line = |key: &str| {
        said.lines()
            .chain(help.lines())
            .find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches(':').trim().to_owned()))
    };
    let name = help.lines().find_map(|line| line.strip_prefix("Vulnerability ")).map(|text| text.trim().to_owned());
    let id = name.filter(|name| id.starts_with(name.as_str())).unwrap_or_else(|| id.to_owned());
    // Grype: `… package: openssl, version 1.1.1 was found at: …`, or `… at version 1.0.1  which would …`.
    let in_words = said
        .split_once("version ")
        .map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().trim_end_matches(',').to_owned());
    let fixed =
        line("Fixed Version").or_else(|| line("Fix Version")).filter(|version| version != "none").unwrap_or_default();
    Some(Vulnerability {
        id,
        package: line("Package").unwrap_or_default(),
        installed_version: line("Installed Version").or_else(|| line("Version")).or(in_words).unwrap_or_default(),
        fixed_version: fixed,
        severity,
        score: rule.and_then(|rule| number_at(rule, &["properties", "security-severity"])).filter(|score| *score > 0.0),
        title: rule.and_then(|rule| text_at(rule, &["shortDescription", "text"])).unwrap_or_default(),
        ..Vulnerability::default()
    })
}

#[cfg(test)]
mod tests;
