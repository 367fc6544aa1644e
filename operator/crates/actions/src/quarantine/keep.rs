//! A quarantine is kept: what somebody changed on it is put back, until it is undone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::time;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::Quarantine;
use serde_json::{Map, Value, json};

use super::mesh::{self, Meshed};
use super::policy::Wanted;
use super::profile::Profile;
use super::{LOOKS, denied_by, facts, policy};
use crate::mark::annotate;
use crate::write::Patched;
use crate::{ActionError, Context};

/// What was found of a quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is as it was made.
    Stands,
    /// The pod is gone, or another one has its name.
    Gone,
    /// It was put back.
    Restored {
        /// What had been changed, for people.
        what: String,
        /// Who wrote to the pod last, as its managed fields tell: `kubectl-label (Update)`.
        by: String,
    },
}

/// A policy doesn't say who wrote it last.
const CHANGER: &str = "whoever changed the policy";

/// Looks at the policy and at the pod itself, and puts back what isn't as the step left it. The record's receipt is believed, never what
/// the pod says of itself. A label that somebody has added stays, as long as it wasn't the pod's before, and as nothing is `open`.
pub async fn keep(
    parameters: &Quarantine,
    receipt: &Receipt,
    open: bool,
    cx: &Context<'_>,
) -> Result<Kept, ActionError> {
    let wanted = Wanted { parameters, profile: Profile::of(parameters), deny: denied_by(receipt) };
    let policy_changed = policy::ensure_afresh(cx, &receipt.namespace, &wanted).await?.changed;
    let kept = labels_and_mark(receipt, open, policy_changed, cx).await?;
    // After what closes: it is no part of containment, and what it can't have is told by the step.
    let meshed = mesh::ensure_afresh(parameters, receipt, cx).await;
    Ok(match kept {
        Kept::Stands if meshed == Meshed::Stands(true) => {
            Kept::Restored { what: "its policy of Istio's".to_owned(), by: CHANGER.to_owned() }
        }
        kept => kept,
    })
}

async fn labels_and_mark(
    receipt: &Receipt,
    open: bool,
    policy_changed: bool,
    cx: &Context<'_>,
) -> Result<Kept, ActionError> {
    let (given, own) = (labels(&receipt.after), labels(&receipt.before));
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &receipt.namespace);
    for _ in 0..LOOKS {
        let found = cx.writer.get(&api, &receipt.namespace, &receipt.name).await?;
        let Some(pod) = found.filter(|pod| pod.uid().as_deref() == Some(&receipt.uid)) else { return Ok(Kept::Gone) };
        let there = facts(&pod);
        let mut labels = given.clone();
        if !open {
            let added = there.labels.iter().filter(|(key, _)| !given.contains_key(*key) && !own.contains_key(*key));
            labels.extend(added.map(|(key, value)| (key.clone(), value.clone())));
        }
        let mut what = if policy_changed { vec!["its policy".to_owned()] } else { Vec::new() };
        what.extend(differences(&labels, &there.labels));
        let annotations = there.annotations.as_ref();
        if there.labels == labels && cx.mark.is_on(annotations) {
            let by = CHANGER.to_owned();
            return Ok(if policy_changed { Kept::Restored { what: what.join(", "), by } } else { Kept::Stands });
        }
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": receipt.uid}),
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": pod.metadata.resource_version}),
            json!({"op": "add", "path": "/metadata/labels", "value": labels}),
        ];
        operations.extend(annotate(annotations, &cx.mark.annotations_with(&receipt.before)));
        match cx.writer.patch_unread(&api, &receipt.namespace, &receipt.name, operations).await {
            Ok(Patched::Changed(_)) => return Ok(Kept::Restored { what: what.join(", "), by: last_writer(&pod) }),
            Ok(Patched::Precondition) => {}
            Err(error) if error.reason() == Reason::TargetNotFound => return Ok(Kept::Gone),
            Err(error) => return Err(error),
        }
    }
    Err(ActionError::for_now(
        Reason::ChangedSince,
        format!("the labels of pod {}/{} change faster than they can be read", receipt.namespace, receipt.name),
    ))
}

/// The labels that one side of a receipt speaks of.
fn labels(side: &Map<String, Value>) -> BTreeMap<String, String> {
    let labels = side.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let text = |(key, value): (String, Value)| Some((key, value.as_str()?.to_owned()));
    Map::into_iter(labels).filter_map(text).collect()
}

fn differences(wanted: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<String> {
    let lost = wanted
        .iter()
        .filter(|(key, _)| !there.contains_key(*key))
        .map(|(key, _)| format!("label {key} was taken away"));
    let changed = wanted
        .iter()
        .filter(|(key, value)| there.get(*key).is_some_and(|found| found != *value))
        .map(|(key, _)| format!("label {key} was changed"));
    let added = there.keys().filter(|key| !wanted.contains_key(*key)).map(|key| format!("label {key} was added"));
    let all: Vec<String> = lost.chain(changed).chain(added).collect();
    if all.is_empty() && wanted == there { vec!["annotations of the quarantine".to_owned()] } else { all }
}

/// Who, but Quell, wrote to the pod last: to its labels, where that can be told. Whoever only takes a label away owns nothing, and its
/// owner writes to a pod that it adopts.
fn last_writer(pod: &Pod) -> String {
    let others = pod.managed_fields().iter().filter(|entry| {
        let manager = entry.manager.as_deref().unwrap_or_default();
        entry.subresource.as_deref().unwrap_or_default().is_empty() && !manager.starts_with("quell/")
    });
    let of_labels = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0["f:metadata"]["f:labels"]);
        fields.and_then(Value::as_object).is_some_and(|labels| !labels.is_empty())
    };
    let last = others.max_by_key(|entry| (of_labels(entry), entry.time.as_ref().map(time::from_kubernetes)));
    last.map_or_else(
        || "an unknown writer".to_owned(),
        |entry| {
            let operation = entry.operation.as_deref().unwrap_or("Update");
            format!("{} ({operation})", entry.manager.as_deref().unwrap_or("an unnamed writer"))
        },
    )
}
