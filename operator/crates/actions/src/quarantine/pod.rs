//! One pod is cut off, or gets its labels back: one patch that tests what it replaces, and carries the mark and what was there before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{Effect, Receipt};
use quell_playbooks::{Controller, PodFacts};
use serde_json::{Map, Value, json};

use super::others::Chosen;
use super::profile::Profile;
use super::{DENY, DenyKind, LOOKS, facts};
use crate::mark::{self, Mark, annotate, escape, unannotate};
use crate::write::Patched;
use crate::{ActionError, Context};

/// Where a receipt says which other pods the same step cuts off.
pub(super) const OTHERS: &str = "others";
/// Where a receipt says who controlled the pod.
const CONTROLLER: &str = "controller";
/// Of pods that are otherwise alike, a ReplicaSet deletes the one with the lowest cost first:
/// <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost>.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const HIGHEST_COST: i32 = i32::MAX;

/// How a pod is cut off.
pub(super) struct Cutting<'a> {
    /// The quarantine's profile.
    pub profile: &'a Profile,
    /// The pod's own labels are taken away.
    pub detach: bool,
    /// What stands beside the NetworkPolicy.
    pub deny: Option<DenyKind>,
    /// Other pods that go with it.
    pub others: Option<&'a Chosen>,
}

/// What became of it.
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub(super) enum Became {
    /// It is cut off; the pod as it was before.
    CutOff(PodFacts, Receipt),
    /// It was cut off before by another run, which is named.
    ByAnother(String),
}

/// Cuts the pod off. Done before by this very step, it is found so.
pub(super) async fn cut(mut pod: PodFacts, cutting: &Cutting<'_>, cx: &Context<'_>) -> Result<Became, ActionError> {
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &pod.namespace);
    for _ in 0..LOOKS {
        if let Some(found) = already(&pod, cx.mark, cutting.deny) {
            return Ok(found);
        }
        let labels = new_labels(&pod, cutting, cx.mark);
        let operations = operations(&pod, &labels, cutting, cx.mark);
        match cx.writer.patch_unread(&api, &pod.namespace, &pod.name, operations).await {
            Ok(Patched::Changed(_)) => {
                let mut receipt = receipt(&pod, before(&pod), &labels, cutting.deny);
                if let Some(others) = cutting.others {
                    receipt.after.insert(OTHERS.to_owned(), json!(others));
                }
                return Ok(Became::CutOff(pod, receipt));
            }
            // The cache was behind, or somebody was quicker: look at the pod itself and decide anew.
            Ok(Patched::Precondition) => pod = fresh(cx, &api, &pod).await?,
            Err(error) if error.reason() == Reason::TargetNotFound => return Err(gone(&pod.namespace, &pod.name)),
            Err(error) => return Err(error),
        }
    }
    Err(too_fast(&pod.namespace, &pod.name))
}

/// A pod that is under quarantine already: by this run, after a crash, or by another.
fn already(pod: &PodFacts, mark: &Mark, deny: Option<DenyKind>) -> Option<Became> {
    pod.labels.get(names::QUARANTINE)?;
    if !mark.is_on(pod.annotations.as_ref()) {
        let other = pod.labels.get(names::REMEDIATION).map_or("somebody else", String::as_str);
        return Some(Became::ByAnother(other.to_owned()));
    }
    let receipt = found(pod, mark, deny)?;
    let mut was = pod.clone();
    was.controller = controller(&receipt);
    Some(Became::CutOff(was, receipt))
}

/// The receipt of a pod that this very run and step has cut off, as its mark tells it.
pub(super) fn found(pod: &PodFacts, mark: &Mark, deny: Option<DenyKind>) -> Option<Receipt> {
    let ours = pod.labels.contains_key(names::QUARANTINE) && mark.is_on(pod.annotations.as_ref());
    if !ours {
        return None;
    }
    let before = mark::before(pod.annotations.as_ref());
    let was_there = |key: &str| before.get("labels").is_some_and(|labels| labels.get(key).is_some());
    let ours = |key: &str| was_there(key) || key == names::QUARANTINE || key == names::REMEDIATION;
    let put = pod.labels.iter().filter(|(key, _)| ours(key)).map(|(key, value)| (key.clone(), value.clone()));
    let mut receipt = receipt(pod, before.clone(), &put.collect(), deny);
    let others = pod.annotations.as_ref().and_then(|all| all.get(names::OTHERS));
    if let Some(others) = others.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        receipt.after.insert(OTHERS.to_owned(), others);
    }
    Some(receipt)
}

fn new_labels(pod: &PodFacts, cutting: &Cutting<'_>, mark: &Mark) -> BTreeMap<String, String> {
    let mut labels = if cutting.detach { BTreeMap::new() } else { pod.labels.clone() };
    labels.extend(mark.labels());
    labels.insert(names::QUARANTINE.to_owned(), cutting.profile.name().to_owned());
    labels
}

fn operations(pod: &PodFacts, labels: &BTreeMap<String, String>, cutting: &Cutting<'_>, mark: &Mark) -> Vec<Value> {
    let there = if pod.labels.is_empty() { Value::Null } else { json!(pod.labels) };
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.uid}),
        json!({"op": "test", "path": "/metadata/labels", "value": there}),
        json!({"op": "add", "path": "/metadata/labels", "value": labels}),
    ];
    let mut annotations = mark.annotations_with(&before(pod));
    if let Some(others) = cutting.others {
        annotations.insert(names::OTHERS.to_owned(), json!(others).to_string());
    }
    operations.extend(annotate(pod.annotations.as_ref(), &annotations));
    operations
}

fn before(pod: &PodFacts) -> Map<String, Value> {
    let labels = ("labels".to_owned(), json!(pod.labels));
    let controller = pod.controller.as_ref().map(|one| {
        let Controller { api_version, kind, name, uid } = one;
        (CONTROLLER.to_owned(), json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}))
    });
    std::iter::once(labels).chain(controller).collect()
}

/// The owner that has released a quarantined pod. The pod itself says who that was, which is believed as far as the pod's generated name
/// bears it out.
#[must_use]
pub fn released_by(pod: &Pod) -> Option<OwnerReference> {
    let metadata = &pod.metadata;
    metadata.labels.as_ref()?.get(names::QUARANTINE)?;
    let owner = controller_of(&mark::before(metadata.annotations.as_ref()))?;
    let generated = metadata.generate_name.as_deref()? == format!("{}-", owner.name);
    generated.then(|| OwnerReference {
        api_version: owner.api_version,
        kind: owner.kind,
        name: owner.name,
        uid: owner.uid,
        controller: Some(true),
        ..OwnerReference::default()
    })
}

/// Who controlled the pod before it was cut off.
pub(super) fn controller(effect: &Effect) -> Option<Controller> {
    controller_of(&effect.before)
}

fn controller_of(before: &Map<String, Value>) -> Option<Controller> {
    let there = before.get(CONTROLLER)?;
    let text = |key: &str| there[key].as_str().unwrap_or_default().to_owned();
    Some(Controller { api_version: text("apiVersion"), kind: text("kind"), name: text("name"), uid: text("uid") })
}

fn receipt(
    pod: &PodFacts,
    before: Map<String, Value>,
    labels: &BTreeMap<String, String>,
    deny: Option<DenyKind>,
) -> Receipt {
    let mut after = Map::from_iter([("labels".to_owned(), json!(labels))]);
    if let Some(kind) = deny {
        after.insert(DENY.to_owned(), json!(kind));
    }
    Effect {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        before,
        after,
    }
    .into()
}

/// Whether its owner has let the pod go, so that it can't be the one that is taken away when the owner wants less. A pod that is gone is.
pub(super) async fn is_released(receipt: &Receipt, cx: &Context<'_>) -> Result<bool, ActionError> {
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &receipt.namespace);
    let pod = cx.writer.get(&api, &receipt.namespace, &receipt.name).await?.map(|pod| facts(&pod));
    Ok(pod.is_none_or(|pod| pod.uid != receipt.uid || pod.controller.is_none()))
}

/// Gives the pod its labels back. What others have added since stays.
pub(super) async fn restore(effect: &Effect, cx: &Context<'_>) -> Result<String, ActionError> {
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &effect.namespace);
    let name = format!("{}/{}", effect.namespace, effect.name);
    for _ in 0..LOOKS {
        let found = cx.writer.get(&api, &effect.namespace, &effect.name).await?;
        // Where it was undone before and that wasn't recorded, its owner may have ended it since as one too many.
        let Some(there) = found.filter(|pod| pod.metadata.uid.as_ref() == Some(&effect.uid)) else {
            return Ok(format!("pod {name} is gone, and its quarantine with it"));
        };
        let pod = facts(&there);
        let back = || format!("pod {name} has its labels back and is reachable again{}", taken_back(effect, &there));
        match pod.labels.get(names::REMEDIATION) {
            // Undone before, and not recorded.
            _ if is_back(effect, &pod) => return Ok(back()),
            _ if !pod.labels.contains_key(names::QUARANTINE) => {
                return Err(ActionError::refused(
                    Reason::ChangedSince,
                    format!(
                        "the quarantine of pod {name} was lifted by somebody else; its labels are left as they are"
                    ),
                ));
            }
            Some(other) if *other != cx.mark.remediation => {
                return Err(ActionError::refused(
                    Reason::QuarantinedByAnother,
                    format!("pod {name} is under the quarantine of {other} by now; undo that one"),
                ));
            }
            _ => {}
        }
        let labels = labels_before(effect, &pod);
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": effect.uid}),
            json!({"op": "test", "path": "/metadata/labels", "value": pod.labels}),
            json!({"op": "add", "path": "/metadata/labels", "value": labels}),
        ];
        operations.extend(keep_dear(effect, &there));
        operations.extend(unannotate(there.metadata.annotations.as_ref()));
        if let Patched::Changed(_) = cx.writer.patch_unread(&api, &effect.namespace, &effect.name, operations).await? {
            return Ok(back());
        }
    }
    Err(too_fast(&effect.namespace, &effect.name))
}

fn of_replica_set(effect: &Effect) -> bool {
    controller(effect).is_some_and(|owner| owner.kind == "ReplicaSet") && was_detached(effect)
}

/// Its own labels were taken away.
pub(super) fn was_detached(effect: &Effect) -> bool {
    let own = effect.before.get("labels").and_then(Value::as_object);
    own.is_some_and(|own| own.keys().any(|key| effect.after.get("labels").is_none_or(|put| put.get(key).is_none())))
}

/// A ReplicaSet that takes the pod back has one too many: it shall rather delete the one that it started in its place.
fn keep_dear(effect: &Effect, pod: &Pod) -> Option<Value> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let path = format!("/metadata/annotations/{}", escape(DELETION_COST));
    let wanted = of_replica_set(effect) && !annotations.contains_key(DELETION_COST);
    wanted.then(|| json!({"op": "add", "path": path, "value": HIGHEST_COST.to_string()}))
}

/// What its owner does about a pod that has its labels back, for people.
fn taken_back(effect: &Effect, pod: &Pod) -> String {
    let Some(owner) = controller(effect).filter(|_| was_detached(effect)) else { return String::new() };
    let Controller { kind, name, .. } = owner;
    let ready = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    match kind.as_str() {
        "ReplicaSet" if ready => format!(
            "; ReplicaSet {name} takes it back, has one too many and deletes another: this one is kept by its annotation {DELETION_COST}"
        ),
        "ReplicaSet" => format!(
            "; ReplicaSet {name} takes it back, has one too many, and deletes pods that aren't ready first, such as this one"
        ),
        "StatefulSet" => format!("; StatefulSet {name} takes it back"),
        "DaemonSet" => format!(
            "; DaemonSet {name} takes it back and keeps the older of its two pods on the node, which this one is"
        ),
        _ => format!("; {kind} {name} takes it back, and may delete it as one too many"),
    }
}

/// Whether the pod has all the labels that it had before, and none of the quarantine's.
fn is_back(effect: &Effect, pod: &PodFacts) -> bool {
    let before = effect.before.get("labels").and_then(Value::as_object);
    let mut before = before.into_iter().flatten();
    let free = [names::QUARANTINE, names::REMEDIATION].iter().all(|key| !pod.labels.contains_key(*key));
    free && before.all(|(key, value)| pod.labels.get(key).map(String::as_str) == value.as_str())
}

/// What was there before, and what others have added to the quarantined pod since.
fn labels_before(effect: &Effect, pod: &PodFacts) -> Map<String, Value> {
    let labels = |of: &Map<String, Value>| of.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let ours = labels(&effect.after);
    let mut restored = labels(&effect.before);
    for (key, value) in &pod.labels {
        let added_since = !ours.contains_key(key) && key != names::QUARANTINE && key != names::REMEDIATION;
        if added_since {
            restored.insert(key.clone(), json!(value));
        }
    }
    restored
}

async fn fresh(cx: &Context<'_>, api: &Api<Pod>, known: &PodFacts) -> Result<PodFacts, ActionError> {
    let pod = cx.writer.get(api, &known.namespace, &known.name).await?.map(|pod| facts(&pod));
    match pod {
        None => Err(gone(&known.namespace, &known.name)),
        Some(pod) if pod.uid != known.uid => Err(replaced(&known.namespace, &known.name, &known.uid, &pod.uid)),
        Some(pod) => Ok(pod),
    }
}

pub(super) fn gone(namespace: &str, name: &str) -> ActionError {
    ActionError::refused(
        Reason::TargetNotFound,
        format!("pod {namespace}/{name} is gone: there is nothing left to cut off"),
    )
}

pub(super) fn replaced(namespace: &str, name: &str, meant: &str, found: &str) -> ActionError {
    ActionError::refused(
        Reason::TargetReplaced,
        format!(
            "the pod that was reported (UID {meant}) is gone; {namespace}/{name} is another one now (UID {found}) and was left alone"
        ),
    )
}

fn too_fast(namespace: &str, name: &str) -> ActionError {
    ActionError::for_now(
        Reason::ChangedSince,
        format!("the labels of pod {namespace}/{name} change faster than they can be read"),
    )
}
