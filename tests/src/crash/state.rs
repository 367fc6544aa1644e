//! What there is in the end: the objects that Quell touches, without what differs from run to run.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use http::Request;
use kube::Client;
use serde_json::{Map, Value, json};

use quell_crds::names::field_managers;

use super::names::timeless;
use crate::operator::NAMESPACE;
use crate::proxy::Record;
use crate::requests::Verb;

/// Kinds in the namespace of a scenario.
const KINDS: &[&str] = &[
    "api/v1/*/pods",
    "apis/apps/v1/*/deployments",
    "apis/batch/v1/*/jobs",
    "apis/networking.k8s.io/v1/*/networkpolicies",
    "apis/quell.dev/v1alpha1/*/findings",
    "apis/quell.dev/v1alpha1/*/remediations",
];
/// What is in no namespace, or in Quell's own, is of a scenario where it names its namespace.
const ELSEWHERE: &[&str] = &[
    "apis/quell.dev/v1alpha1/imageblocks",
    "apis/quell.dev/v1alpha1/namespaces/quell/findings",
    "apis/quell.dev/v1alpha1/namespaces/quell/remediations",
];

/// Every object, as text, in order.
pub type State = Vec<String>;

/// A run of a scenario, as the API server has it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Every object, comparable.
    pub state: State,
    /// Remediations: where each is, and its phase.
    pub runs: Vec<(String, String, String)>,
    /// Findings: what their status says of the phases of their runs, and their counts.
    pub findings: Vec<(Vec<String>, i64)>,
}

impl Seen {
    /// Whether every run is over, in `phase`, and its Finding says so.
    #[must_use]
    pub fn is_over(&self, phase: &str) -> bool {
        !self.runs.is_empty()
            && !self.findings.is_empty()
            && self.runs.iter().all(|(.., now)| now == phase)
            && self.findings.iter().all(|(phases, _)| !phases.is_empty() && phases.iter().all(|now| now == phase))
    }
}

/// Reads the objects of the scenario in `namespace`.
pub async fn read(client: &Client, namespace: &str) -> Result<Seen> {
    debug_assert_eq!(NAMESPACE, "quell");
    let mut seen = Seen::default();
    for kind in KINDS {
        let path = format!("/{}", kind.replace('*', &format!("namespaces/{namespace}")));
        for object in list(client, &path).await? {
            take(&mut seen, kind, namespace, &object);
        }
    }
    for kind in ELSEWHERE {
        for object in list(client, &format!("/{kind}")).await? {
            if object.to_string().contains(&format!("{namespace}/"))
                || object.to_string().contains(&format!("{namespace}\""))
            {
                take(&mut seen, kind, namespace, &object);
            }
        }
    }
    seen.state.sort();
    Ok(seen)
}

async fn list(client: &Client, path: &str) -> Result<Vec<Value>> {
    let answer: Value = client.request(Request::get(path).body(Vec::new())?).await.with_context(|| path.to_owned())?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

fn take(seen: &mut Seen, kind: &str, namespace: &str, object: &Value) {
    let kind = kind.rsplit('/').next().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    if kind == "remediations" {
        seen.runs.push((text(&metadata["namespace"]), text(&metadata["name"]), text(&object["status"]["phase"])));
    }
    if kind == "findings" {
        let runs = object["status"]["remediations"].as_array();
        let phases = runs.into_iter().flatten().map(|run| text(&run["phase"])).collect();
        seen.findings.push((phases, object["status"]["count"].as_i64().unwrap_or(1)));
    }
    // What controllers are about to delete is gone, whenever they get to it.
    if metadata["deletionTimestamp"].is_null() {
        seen.state.push(timeless(namespace, &format!("{kind} {}", comparable(kind, object))));
    }
}

fn comparable(kind: &str, object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "labels", "annotations", "finalizers"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), sorted(value));
        }
    }
    // Which of two pods its owner would take away first is set where there are two just then.
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("controller.kubernetes.io/pod-deletion-cost");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owners: Vec<&Value> = owners.into_iter().flatten().map(|owner| &owner["kind"]).collect();
    let rest = match kind {
        // What nodes and controllers write is theirs.
        "pods" => json!({ "images": images(&object["spec"]) }),
        "deployments" => json!({
            "images": images(&object["spec"]["template"]["spec"]), "replicas": object["spec"]["replicas"],
            "paused": object["spec"]["paused"], "template": sorted(&object["spec"]["template"]["metadata"]),
        }),
        "jobs" => {
            json!({ "images": images(&object["spec"]["template"]["spec"]), "succeeded": object["status"]["succeeded"] })
        }
        "findings" => {
            let mut object = object.clone();
            if let Some(status) = object["status"].as_object_mut() {
                // How often a sender that got no answer sent again is looked at elsewhere.
                status.remove("count");
                status.remove("lastSeen");
                // Which process counted.
                status.remove("counted");
            }
            json!({ "spec": sorted(&object["spec"]), "status": sorted(&object["status"]) })
        }
        "remediations" => {
            let mut object = object.clone();
            for step in object["status"]["steps"].as_array_mut().into_iter().flatten() {
                if let Some(step) = step.as_object_mut() {
                    // A try that a crash cut short is a try.
                    step.remove("attempts");
                    // An undo that finds its work done already, or its object gone, says so.
                    if step.get("state").and_then(Value::as_str) == Some("Undone") {
                        step.remove("message");
                    }
                }
            }
            json!({ "spec": sorted(&object["spec"]), "status": sorted(&object["status"]) })
        }
        _ => json!({ "spec": sorted(&object["spec"]) }),
    };
    json!({ "metadata": metadata, "owners": owners, "rest": rest })
}

fn images(spec: &Value) -> Vec<&Value> {
    spec["containers"].as_array().into_iter().flatten().map(|container| &container["image"]).collect()
}

/// Maps have no order of their own, neither here nor in JSON that is in a text.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::String(text) if text.starts_with('{') => serde_json::from_str::<Value>(text)
            .map_or_else(|_| value.clone(), |inner| sorted(&inner).to_string().into()),
        other => other.clone(),
    }
}

/// How often each effect took place, by what it was done to. Records of Quell's own, which may be written again, don't count, but that
/// they are made does.
#[must_use]
pub fn effects(namespace: &str, records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records.iter().filter(|record| record.is_effect() && !is_book_keeping(record)) {
        let request = &record.request;
        let what = format!("{} {} {}", request.method, request.path, record.name());
        *counts.entry(timeless(namespace, &what)).or_default() += 1;
    }
    counts
}

fn is_book_keeping(record: &Record) -> bool {
    let request = &record.request;
    // What is recorded, and what is kept as it should be for as long as it should, such as a finalizer.
    let kept = request.field_manager() == field_managers::RECORD && request.verb != Verb::Create;
    kept || request.subresource == "status"
        || ["leases", "events"].contains(&request.resource.as_str())
        || request.group == "authorization.k8s.io"
        || request.group == "authentication.k8s.io"
}

/// The lines that only one of two has; of two that are about the same, the place where they part.
#[must_use]
pub fn difference(expected: &[String], found: &[String]) -> String {
    let (mut missing, mut more): (Vec<&String>, Vec<&String>) = (Vec::new(), found.iter().collect());
    for line in expected {
        match more.iter().position(|other| other == &line) {
            Some(index) => drop(more.swap_remove(index)),
            None => missing.push(line),
        }
    }
    let mut told = Vec::new();
    for line in missing {
        match more.iter().position(|other| other.chars().take(SAME).eq(line.chars().take(SAME))) {
            Some(index) => told.push(parting(line, more.swap_remove(index))),
            None => told.push(format!("  - {line}")),
        }
    }
    told.extend(more.into_iter().map(|line| format!("  + {line}")));
    told.join("\n")
}

/// Lines that begin like this are about objects of one kind.
const SAME: usize = 30;
/// As much is shown around the place where two lines part, in characters.
const AROUND: usize = 150;

fn parting(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<char>, Vec<char>) = (expected.chars().collect(), found.chars().collect());
    let at = expected.iter().zip(&found).take_while(|(one, other)| one == other).count();
    let part =
        |line: &[char]| -> String { line[at.saturating_sub(AROUND)..(at + AROUND).min(line.len())].iter().collect() };
    let kind: String = expected.iter().take(SAME).collect();
    format!("  {kind}…\n    - …{}…\n    + …{}…", part(&expected), part(&found))
}
