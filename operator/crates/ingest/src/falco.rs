//! Falco's `http_output` with `json_output: true`, one alert for each request; also several, as buffering proxies send them.
//!
//! Fields: falcosecurity/falco, `falco.yaml` (`json_*` keys) and `userspace/engine/formats.cpp`; severities:
//! `userspace/engine/falco_common.cpp`; events of the API server's audit log: falcosecurity/plugins, `plugins/k8saudit`.
//!
//! Where an alert happened is read from `output_fields` alone, never from the text of `output`: that holds command lines,
//! so whoever runs a process in a pod could write another pod's name there.

mod audit;
mod place;

use quell_crds::v1alpha1::Category;
use serde_json::{Map, Value};

use crate::json::{self, Object};
use crate::lenient::{field, first_text, text};
use crate::severity::severity;
use crate::time::time;
use crate::{About, Signal, Unreadable, bound};

pub(crate) const TOOL: &str = "falco";

/// Reads alerts; what Falco says about itself (dropped events, metrics) is none.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let objects = json::objects(body).map_err(|unreadable| plain_text(body, unreadable))?;
    objects.iter().filter_map(|object| alert(object).transpose()).collect()
}

/// Falco's default is to send lines of text; say so, rather than what is wrong with them as JSON.
fn plain_text(body: &[u8], unreadable: Unreadable) -> Unreadable {
    match body.trim_ascii_start().first() {
        None | Some(b'{' | b'[') => unreadable,
        Some(_) => Unreadable::new(unreadable.at, "not JSON: set json_output: true in falco.yaml"),
    }
}

/// The signal of one alert.
pub(crate) fn alert(object: &Object) -> Result<Option<Signal>, Unreadable> {
    let alert = &object.fields;
    let Some(rule) = first_text(alert, &["rule"]) else {
        return Err(Unreadable::new(
            object.at("rule"),
            "missing: an alert of Falco names its rule here; is this the body of another tool?",
        ));
    };
    if !["priority", "output", "output_fields"].iter().any(|name| field(alert, name).is_some()) {
        return Err(Unreadable::new(
            object.at("priority"),
            "missing, as are output and output_fields: an alert of Falco has at least one of them",
        ));
    }
    let none = Map::new();
    let fields = match field(alert, "output_fields") {
        None => &none,
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            let problem = format!("an object was expected, this is {}", json::kind_of(other));
            return Err(Unreadable::new(object.at("output_fields"), problem));
        }
    };
    let source = first_text(alert, &["source"]).unwrap_or_else(|| "syscall".to_owned());
    if is_internal(&rule, &source) {
        return Ok(None);
    }
    let hostname = first_text(alert, &["hostname"]).or_else(|| first_text(fields, &["evt.hostname"]));
    let (category, about, identity) = if audit::is_audit(&source, fields) {
        (Category::Audit, audit::about(fields), audit::identity(fields))
    } else if source.starts_with("syscall") {
        (Category::Runtime, place::about(fields, hostname), Vec::new())
    } else {
        // A plugin's event: of a cloud or a service. The host that Falco runs on has no part in it.
        (Category::Other, About::outside("External", &source), vec![source.clone()])
    };
    Ok(Some(Signal {
        severity: first_text(alert, &["priority"]).map_or_else(Default::default, |word| severity(&word)),
        message: first_text(alert, &["output", "message"]).unwrap_or_else(|| rule.clone()),
        details: details(alert, fields),
        detected_at: [field(alert, "time"), field(fields, "evt.time"), field(fields, "evt.time.iso8601")]
            .into_iter()
            .find_map(|at| time(&text(at?)?)),
        identity,
        ..Signal::new(TOOL, category, rule, about)
    }))
}

/// Falco's word about itself: `source: internal`, which old versions don't write, or a rule that begins so.
fn is_internal(rule: &str, source: &str) -> bool {
    const PREFIX: &str = "Falco internal:";
    source.eq_ignore_ascii_case("internal")
        || rule.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The alert under Falco's own names, save what has a field of its own in a Finding.
fn details(alert: &Map<String, Value>, fields: &Map<String, Value>) -> Map<String, Value> {
    let mut details = Map::new();
    for name in ["priority", "source", "hostname", "tags"] {
        if let Some(value) = field(alert, name) {
            details.insert(name.to_owned(), value.clone());
        }
    }
    if !fields.is_empty() {
        details.insert("output_fields".to_owned(), Value::Object(fields.clone()));
    }
    bound::details(&details)
}

#[cfg(test)]
mod tests;
