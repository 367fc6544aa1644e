//! What a field's value means; each error says what was expected.

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{Category, Severity, Vulnerability};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::json::kind_of;
use crate::lenient::known;
use crate::{severity as words, time as times};

/// A text, a number or a truth; nothing for null and for a text that says nothing.
pub(super) fn text(value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(known(&text).map(str::to_owned)),
        Value::Bool(_) | Value::Number(_) => Ok(Some(value.to_string())),
        Value::Array(_) | Value::Object(_) => Err(format!("a text was expected, this is {}", kind_of(&value))),
    }
}

/// A word of any tool's, or a number as CVSS has it.
pub(super) fn severity(value: Value) -> Result<Severity, String> {
    const EXPECTED: &str = "write a word such as Critical, High, Medium, Low or Info, or a number from 0 to 10";
    let Some(said) = text(value)? else {
        return Err(format!(
            "is empty; {EXPECTED}, and what counts where there is none as in `item.?level.orValue('Medium')`"
        ));
    };
    if let Ok(score) = said.parse::<f64>() {
        let in_scale = (0.0..=10.0).contains(&score);
        return in_scale
            .then(|| words::of_cvss(score))
            .ok_or_else(|| format!("`{said}` is not in the scale; {EXPECTED}"));
    }
    words::known(&said)
        .or_else(|| rank(&said))
        .ok_or_else(|| format!("`{said}` is no severity that Quell knows; {EXPECTED}"))
}

/// Words of trackers and of pagers.
fn rank(word: &str) -> Option<Severity> {
    Some(match word.to_ascii_lowercase().as_str() {
        "blocker" | "severe" | "urgent" | "very high" | "p0" | "p1" | "sev0" | "sev1" => Severity::Critical,
        "p2" | "sev2" => Severity::High,
        "p3" | "sev3" | "normal" => Severity::Medium,
        "p4" | "sev4" | "trivial" => Severity::Low,
        "p5" | "sev5" | "informative" | "ok" => Severity::Info,
        _ => return None,
    })
}

pub(super) fn category(value: Value) -> Result<Category, String> {
    const ALL: [Category; 8] = [
        Category::Runtime,
        Category::Vulnerability,
        Category::Misconfiguration,
        Category::Secret,
        Category::Policy,
        Category::Compliance,
        Category::Audit,
        Category::Other,
    ];
    let said = text(value)?.unwrap_or_default();
    ALL.into_iter().find(|category| category.to_string().eq_ignore_ascii_case(&said)).ok_or_else(|| {
        let names: Vec<String> = ALL.iter().map(ToString::to_string).collect();
        format!("`{said}` is no category; there are {}", names.join(", "))
    })
}

/// An instant; nothing for null, an empty text, and how Go writes a time that isn't set.
pub(super) fn time(value: Value) -> Result<Option<DateTime<Utc>>, String> {
    let Some(said) = text(value)? else { return Ok(None) };
    let is_unset = said == "0" || said.starts_with("0001-01-01");
    match times::time(&said) {
        None if !is_unset => Err(format!("`{said}` is no time; RFC 3339 or a number since 1970 was expected")),
        at => Ok(at),
    }
}

/// A map, its keys in order: a map of an expression has none.
pub(super) fn details(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Null => Ok(Map::new()),
        mut value @ Value::Object(_) => {
            value.sort_all_objects();
            let Value::Object(fields) = value else { return Ok(Map::new()) };
            Ok(fields)
        }
        other => Err(format!("a map was expected, this is {}; write {{'value': …}}", kind_of(&other))),
    }
}

/// Parts of what makes it the same as one before: one, or each of a list.
pub(super) fn identity(value: &Value, parts: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::String(text) => parts.push(text.clone()),
        Value::Null => parts.push(String::new()),
        Value::Bool(_) | Value::Number(_) => parts.push(value.to_string()),
        Value::Array(items) => return items.iter().try_for_each(|item| identity(item, parts)),
        Value::Object(_) => return Err("a text, a number or a list of them was expected, this is an object".to_owned()),
    }
    Ok(())
}

/// The keys are those that a Finding's vulnerabilities have.
pub(super) fn vulnerabilities(value: Value) -> Result<Vec<Vulnerability>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| vulnerability(item).map_err(|problem| format!("[{i}]{problem}")))
            .collect(),
        other => Err(format!("a list was expected, this is {}", kind_of(&other))),
    }
}

fn vulnerability(value: Value) -> Result<Vulnerability, String> {
    let Value::Object(fields) = value else {
        return Err(format!(": a map with `id` was expected, this is {}", kind_of(&value)));
    };
    let mut one = Vulnerability::default();
    for (key, value) in fields {
        let of_key = |problem: String| format!(".{key}: {problem}");
        let said = |value: Value| text(value).map(Option::unwrap_or_default).map_err(of_key);
        match key.as_str() {
            "id" => one.id = said(value)?,
            "package" => one.package = said(value)?,
            "installedVersion" => one.installed_version = said(value)?,
            "fixedVersion" => one.fixed_version = said(value)?,
            "title" => one.title = said(value)?,
            "severity" => one.severity = severity(value).map_err(of_key)?,
            "score" => one.score = parsed(value).map_err(of_key)?,
            "epss" => one.epss = parsed(value).map_err(of_key)?,
            "fixAvailable" => one.fix_available = parsed(value).map_err(of_key)?,
            "knownExploited" => one.known_exploited = parsed(value).map_err(of_key)?,
            "exploitAvailable" => one.exploit_available = parsed(value).map_err(of_key)?,
            _ => {
                return Err(of_key(
                    "there is no such key; there are id, package, installedVersion, fixedVersion, severity, score, fixAvailable, epss, \
                     knownExploited, exploitAvailable, title"
                        .to_owned(),
                ));
            }
        }
    }
    if one.id.is_empty() { Err(": has no `id`".to_owned()) } else { Ok(one) }
}

/// A number or a truth, also where it is written as a text.
fn parsed<T: DeserializeOwned>(value: Value) -> Result<Option<T>, String> {
    let Some(said) = text(value)? else { return Ok(None) };
    serde_json::from_str(&said.to_ascii_lowercase())
        .map(Some)
        .map_err(|_| format!("`{said}` is not what was expected here"))
}
