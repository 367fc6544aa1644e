//! The Source of a file, and its mapping.

use std::path::Path;

use kube::ResourceExt as _;
use quell_crds::names::GROUP;
use quell_crds::v1alpha1::Source;
use quell_playbooks::mapping::{Mapping, compile};
use serde_json::Value;

use crate::CliError;

/// The mapping of the one Source in the file, and the Source's name.
pub fn read(path: &Path) -> Result<(Mapping, String), CliError> {
    let wrong = |problem: String| CliError::File { file: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("can't be read: {error}")))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| wrong(format!("is not YAML: {error}")))?;
    let mut sources = documents.into_iter().filter(|one| {
        let of_quell = one["apiVersion"].as_str().is_some_and(|version| version.starts_with(&format!("{GROUP}/")));
        of_quell && one["kind"] == "Source"
    });
    let (Some(written), None) = (sources.next(), sources.next()) else {
        return Err(wrong(format!("one document of {GROUP} and kind Source was expected")));
    };
    let source: Source =
        serde_json::from_value(written.clone()).map_err(|error| wrong(format!("is no Source: {error}")))?;
    let name = source.name_any();
    let Some(mapping) = &source.spec.mapping else {
        return Err(wrong(format!("the Source {name} has no spec.mapping; for its format use --format")));
    };
    if source.spec.format.is_some() {
        return Err(wrong("spec: give one of format and mapping".to_owned()));
    }
    // What is not known would be passed over by this program, and refused by the API server.
    let known = serde_json::to_value(mapping).map_err(|error| wrong(error.to_string()))?;
    if let Some(field) = unknown(&written["spec"]["mapping"], &known, "spec.mapping") {
        return Err(wrong(format!("{field}: there is no such field, see `kubectl explain source.spec.mapping`")));
    }
    let mapping = compile(mapping).map_err(|problem| wrong(problem.to_string()))?;
    Ok((mapping, name))
}

/// The first field that was written and isn't known.
fn unknown(written: &Value, known: &Value, at: &str) -> Option<String> {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let (written, known) = (written.as_object()?, known.as_object()?);
    written.iter().filter(|(_, value)| !says_nothing(value)).find_map(|(name, value)| {
        let at = format!("{at}.{name}");
        match known.get(name) {
            None => Some(at),
            Some(known) => unknown(value, known, &at),
        }
    })
}
