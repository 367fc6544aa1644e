//! Every Finding is one that the API server takes: by the schema of its CRD, and no larger than promised.

use quell_crds::v1alpha1::Format;
use quell_ingest::{LARGEST_FINDING, finding, place_without_cluster, read};
use serde_json::Value;

use crate::bodies::{fixtures, samples};

/// The schema of a Finding's spec.
pub fn of_spec() -> Value {
    let crds = serde_json::to_value(quell_crds::all()).unwrap();
    let finding = crds.as_array().unwrap().iter().find(|crd| crd["spec"]["names"]["kind"] == "Finding").unwrap();
    finding["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// What is wrong with a value, by a schema.
pub fn wrong(value: &Value, schema: &Value, path: &str) -> Option<String> {
    let number = |name: &str| schema[name].as_u64().and_then(|limit| usize::try_from(limit).ok());
    if schema["enum"].as_array().is_some_and(|known| !known.contains(value)) {
        return Some(format!("{path}: {value} is none of {}", schema["enum"]));
    }
    let is_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    };
    if !is_type {
        return Some(format!("{path}: {value} is no {}", schema["type"]));
    }
    match value {
        Value::Object(fields) => {
            if schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true) {
                return None;
            }
            let missing = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|name| !fields.contains_key(name.as_str().unwrap()));
            let inside = |(name, value): (&String, &Value)| match schema["properties"].get(name) {
                Some(schema) => wrong(value, schema, &format!("{path}.{name}")),
                None => Some(format!("{path}.{name} is unknown")),
            };
            missing.map(|name| format!("{path}.{name} is missing")).or_else(|| fields.iter().find_map(inside))
        }
        Value::Array(items) if number("maxItems").is_some_and(|most| items.len() > most) => {
            Some(format!("{path} has {} items", items.len()))
        }
        Value::Array(items) => items.iter().find_map(|item| wrong(item, &schema["items"], path)),
        Value::String(text) => {
            let length = text.chars().count();
            let fits = number("maxLength").is_none_or(|most| length <= most)
                && number("minLength").is_none_or(|least| length >= least);
            (!fits).then(|| format!("{path} has {length} characters"))
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap();
            let fits = schema["minimum"].as_f64().is_none_or(|least| number >= least)
                && schema["maximum"].as_f64().is_none_or(|most| number <= most);
            (!fits).then(|| format!("{path}: {number} is out of bounds"))
        }
        _ => None,
    }
}

/// Reads a body and makes its Findings; what is wrong with one of them.
pub fn check(format: Format, body: &[u8], schema: &Value) -> Option<String> {
    let signals = match read(format, body) {
        Ok(signals) => signals,
        Err(unreadable) => {
            let fine =
                !unreadable.at.is_empty() && !unreadable.problem.is_empty() && !unreadable.to_string().contains('\n');
            return (!fine).then(|| format!("{unreadable:?}"));
        }
    };
    signals.iter().find_map(|signal| {
        let finding = finding("source", signal, &place_without_cluster(signal), "quell");
        let size = serde_json::to_vec(&finding).unwrap().len();
        let named = finding.metadata.name.as_ref().is_some_and(|name| name.len() <= 63);
        if size > LARGEST_FINDING || !named {
            return Some(format!("{size} bytes, named {:?}", finding.metadata.name));
        }
        wrong(&serde_json::to_value(&finding.spec).unwrap(), schema, "spec")
    })
}

#[test]
fn every_finding_is_valid_and_no_larger_than_promised() {
    let schema = of_spec();
    for sample in samples().into_iter().chain(fixtures()) {
        for body in &sample.bodies {
            assert_eq!(check(sample.format, body, &schema), None, "{}", sample.name);
        }
    }
}

#[test]
fn every_format_has_a_fixture_that_makes_a_finding() {
    let fixtures = fixtures();
    for format in Format::ALL {
        let bodies = fixtures.iter().filter(|sample| sample.format == format).flat_map(|sample| &sample.bodies);
        let open = bodies.flat_map(|body| read(format, body).unwrap()).filter(|signal| !signal.resolved).count();
        assert!(open > 0, "{format}");
    }
}
