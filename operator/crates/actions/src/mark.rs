//! The mark that every effect carries: which run and step made it.

use std::collections::BTreeMap;

use quell_crds::names;
use serde_json::{Map, Value, json};

/// Which run and step something is done for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Namespace of the Remediation and the Finding.
    pub namespace: String,
    /// Name of the Remediation.
    pub remediation: String,
    /// Name of the Finding.
    pub finding: String,
    /// Name of the step.
    pub step: String,
}

impl Mark {
    /// The labels: what a watch selects by.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(names::REMEDIATION.to_owned(), self.remediation.clone())])
    }

    /// The annotations, without what was there before.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (names::REMEDIATION.to_owned(), self.remediation.clone()),
            (names::STEP.to_owned(), self.step.clone()),
            (names::FINDING.to_owned(), format!("{}/{}", self.namespace, self.finding)),
        ])
    }

    /// The annotations, with what was there before.
    #[must_use]
    pub fn annotations_with(&self, before: &Map<String, Value>) -> BTreeMap<String, String> {
        let mut annotations = self.annotations();
        annotations.insert(names::BEFORE.to_owned(), Value::Object(before.clone()).to_string());
        annotations
    }

    /// Whether an object carries the mark of this very run and step.
    #[must_use]
    pub fn is_on(&self, annotations: Option<&BTreeMap<String, String>>) -> bool {
        let is =
            |key: &str, wanted: &str| annotations.and_then(|all| all.get(key)).is_some_and(|value| value == wanted);
        is(names::REMEDIATION, &self.remediation) && is(names::STEP, &self.step)
    }
}

/// What was there before, as an object's annotation tells it.
#[must_use]
pub fn before(annotations: Option<&BTreeMap<String, String>>) -> Map<String, Value> {
    annotations
        .and_then(|all| all.get(names::BEFORE))
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// JSON patch operations that put annotations on an object; `there` are those it has, `None` where it has no map to put them in.
#[must_use]
pub fn annotate(there: Option<&BTreeMap<String, String>>, add: &BTreeMap<String, String>) -> Vec<Value> {
    if there.is_none() {
        // The test keeps annotations that somebody adds in between from being lost.
        return vec![
            json!({"op": "test", "path": "/metadata/annotations", "value": null}),
            json!({"op": "add", "path": "/metadata/annotations", "value": add}),
        ];
    }
    let path = |key: &str| format!("/metadata/annotations/{}", escape(key));
    add.iter().map(|(key, value)| json!({"op": "add", "path": path(key), "value": value})).collect()
}

/// JSON patch operations that take Quell's annotations off an object that has them.
#[must_use]
pub fn unannotate(there: Option<&BTreeMap<String, String>>) -> Vec<Value> {
    let ours = [names::REMEDIATION, names::STEP, names::FINDING, names::BEFORE, names::OTHERS];
    let has = |key: &&str| there.is_some_and(|all| all.contains_key(*key));
    ours.iter()
        .filter(|key| has(key))
        .map(|key| json!({"op": "remove", "path": format!("/metadata/annotations/{}", escape(key))}))
        .collect()
}

/// JSON patch operations that put labels on an object; `there` are those it has, `None` where it has none.
#[must_use]
pub fn label(there: Option<&BTreeMap<String, String>>, add: &BTreeMap<String, String>) -> Vec<Value> {
    if there.is_none_or(BTreeMap::is_empty) {
        // The test keeps labels that somebody adds in between from being lost.
        return vec![
            json!({"op": "test", "path": "/metadata/labels", "value": null}),
            json!({"op": "add", "path": "/metadata/labels", "value": add}),
        ];
    }
    let path = |key: &str| format!("/metadata/labels/{}", escape(key));
    add.iter().map(|(key, value)| json!({"op": "add", "path": path(key), "value": value})).collect()
}

/// JSON patch operations that take the run's label off an object that has it.
#[must_use]
pub fn unlabel(there: Option<&BTreeMap<String, String>>) -> Vec<Value> {
    let path = format!("/metadata/labels/{}", escape(names::REMEDIATION));
    let has = there.is_some_and(|all| all.contains_key(names::REMEDIATION));
    has.then(|| json!({"op": "remove", "path": path})).into_iter().collect()
}

/// A key as a JSON pointer has it (RFC 6901).
#[must_use]
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
