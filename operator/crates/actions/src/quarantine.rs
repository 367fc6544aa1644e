//! `quarantine`: the pod is cut off from the network, and its owner starts a clean one.
//!
//! The deny policy stands before the pod's labels change, so that no moment is open. The labels change in one patch that tests the pod's
//! UID and its labels as they were thought to be, so that neither a new pod of the same name nor a change in between is overrun.

mod deny;
mod keep;
mod policy;
mod profile;

pub use deny::{DenyKind, as_object as deny_policy};
pub use keep::{Kept, keep};
pub use profile::{FULL, Profile, policy_name};

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::Quarantine;
use quell_playbooks::{Controller, PodFacts, TargetState};
use serde_json::{Map, Value, json};

use self::policy::Wanted;
use crate::mark::{self, Mark, annotate, unannotate};
use crate::write::Patched;
use crate::{ActionError, Context, Progress, Right};

/// Policies are created once a namespace, read only where one of that name is there that Quell didn't see, and mended where
/// somebody changed it. Pods are read only where they aren't as the cache says, and for undo.
pub const RIGHTS: &[Right] = &[
    Right::new("cilium.io", "ciliumnetworkpolicies", "create"),
    Right::new("cilium.io", "ciliumnetworkpolicies", "get"),
    Right::new("cilium.io", "ciliumnetworkpolicies", "patch"),
    Right::new("crd.projectcalico.org", "networkpolicies", "create"),
    Right::new("crd.projectcalico.org", "networkpolicies", "get"),
    Right::new("crd.projectcalico.org", "networkpolicies", "patch"),
    Right::cluster("policy.networking.k8s.io", "clusternetworkpolicies", "create"),
    Right::cluster("policy.networking.k8s.io", "clusternetworkpolicies", "get"),
    Right::cluster("policy.networking.k8s.io", "clusternetworkpolicies", "patch"),
    Right::new("networking.k8s.io", "networkpolicies", "create"),
    Right::new("networking.k8s.io", "networkpolicies", "get"),
    Right::new("networking.k8s.io", "networkpolicies", "patch"),
    Right::new("", "pods", "get"),
    Right::new("", "pods", "patch"),
];

/// Where a receipt says which kind of policy denies whatever others allow.
const DENY: &str = "denyPolicy";
/// Said where the cluster serves such a policy, and it could not be written.
const LACKS_DENY: &str =
    "; the policy that denies whatever others allow could not be written, so Contained may show what they do allow";
/// A pod whose labels change while they are read is read again this often before the try fails.
const LOOKS: usize = 3;

/// The policy that denies whatever others allow, which a quarantine stands on beside its NetworkPolicy.
#[must_use]
pub fn denied_by(receipt: &Receipt) -> Option<DenyKind> {
    serde_json::from_value(receipt.after.get(DENY)?.clone()).ok()
}

/// Cuts the pod off.
pub async fn perform(parameters: &Quarantine, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let mut pod = target(cx)?.clone();
    refuse_host_network(&pod)?;
    let wanted = Wanted::of(parameters, cx)?;
    let stands = policy::ensure(cx, &pod.namespace, &wanted).await?;
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &pod.namespace);
    for _ in 0..LOOKS {
        if let Some(done) = already(&pod, cx.mark, stands.deny) {
            return Ok(done);
        }
        let labels = new_labels(&pod, parameters, &wanted.profile, cx.mark);
        let operations = operations(&pod, &labels, cx.mark);
        match cx.writer.patch_unread(&api, &pod.namespace, &pod.name, operations).await {
            Ok(Patched::Changed(_)) => {
                let mut progress = done(&pod, &labels, parameters, stands.deny);
                if wanted.deny.is_some() && stands.deny.is_none() {
                    progress.message.push_str(LACKS_DENY);
                }
                return Ok(progress);
            }
            // The cache was behind, or somebody was quicker: look at the pod itself and decide anew.
            Ok(Patched::Precondition) => pod = fresh(cx, &api, &pod).await?,
            Err(error) if error.reason() == Reason::TargetNotFound => return Err(gone(&pod.namespace, &pod.name)),
            Err(error) => return Err(error),
        }
    }
    Err(ActionError::for_now(
        Reason::ChangedSince,
        format!("the labels of pod {}/{} change faster than they can be read", pod.namespace, pod.name),
    ))
}

/// Gives the pod its labels back. What others have added since stays.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &receipt.namespace);
    let name = format!("{}/{}", receipt.namespace, receipt.name);
    for _ in 0..LOOKS {
        let pod = cx
            .writer
            .get(&api, &receipt.namespace, &receipt.name)
            .await?
            .map(|pod| facts(&pod))
            .filter(|pod| pod.uid == receipt.uid)
            .ok_or_else(|| {
                ActionError::refused(Reason::TargetNotFound, format!("pod {name} is gone, and its quarantine with it"))
            })?;
        match pod.labels.get(names::REMEDIATION) {
            // Undone before, and not recorded.
            _ if is_back(receipt, &pod) => {
                return Ok(format!(
                    "pod {name} has its labels back and is reachable again; its owner takes it back, and may delete it as one too many"
                ));
            }
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
        let labels = labels_before(receipt, &pod);
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": receipt.uid}),
            json!({"op": "test", "path": "/metadata/labels", "value": pod.labels}),
            json!({"op": "add", "path": "/metadata/labels", "value": labels}),
        ];
        operations.extend(unannotate(pod.annotations.as_ref()));
        if let Patched::Changed(_) = cx.writer.patch_unread(&api, &receipt.namespace, &receipt.name, operations).await?
        {
            return Ok(format!(
                "pod {name} has its labels back and is reachable again; its owner takes it back, and may delete it as one too many"
            ));
        }
    }
    Err(ActionError::for_now(
        Reason::ChangedSince,
        format!("the labels of pod {name} change faster than they can be read"),
    ))
}

/// Whether the pod has all the labels that it had before, and none of the quarantine's.
fn is_back(receipt: &Receipt, pod: &PodFacts) -> bool {
    let before = receipt.before.get("labels").and_then(Value::as_object);
    let mut before = before.into_iter().flatten();
    let free = [names::QUARANTINE, names::REMEDIATION].iter().all(|key| !pod.labels.contains_key(*key));
    free && before.all(|(key, value)| pod.labels.get(key).map(String::as_str) == value.as_str())
}

fn target<'a>(cx: &'a Context<'_>) -> Result<&'a PodFacts, ActionError> {
    let target = &cx.world.finding.spec.target;
    match &cx.world.target {
        TargetState::Pod(pod) => Ok(pod),
        TargetState::Gone => Err(gone(&target.namespace, &target.name)),
        TargetState::Replaced { uid } => Err(replaced(&target.namespace, &target.name, &target.uid, uid)),
        TargetState::NotAPod => Err(ActionError::refused(
            Reason::TargetUnsupported,
            format!("quarantine acts on a pod; this Finding is about {} {}", target.kind, target.name),
        )),
    }
}

fn gone(namespace: &str, name: &str) -> ActionError {
    ActionError::refused(
        Reason::TargetNotFound,
        format!("pod {namespace}/{name} is gone: there is nothing left to cut off"),
    )
}

fn replaced(namespace: &str, name: &str, meant: &str, found: &str) -> ActionError {
    ActionError::refused(
        Reason::TargetReplaced,
        format!(
            "the pod that was reported (UID {meant}) is gone; {namespace}/{name} is another one now (UID {found}) and was left alone"
        ),
    )
}

fn refuse_host_network(pod: &PodFacts) -> Result<(), ActionError> {
    if !pod.host_network {
        return Ok(());
    }
    Err(ActionError::refused(
        Reason::TargetUnsupported,
        format!(
            "pod {}/{} uses the network of its node {}, which no NetworkPolicy covers: cordon the node and end the pod by hand",
            pod.namespace, pod.name, pod.node
        ),
    ))
}

/// A pod that is under quarantine already: by this run, after a crash, or by another.
fn already(pod: &PodFacts, mark: &Mark, deny: Option<DenyKind>) -> Option<Progress> {
    pod.labels.get(names::QUARANTINE)?;
    let name = format!("{}/{}", pod.namespace, pod.name);
    if mark.is_on(pod.annotations.as_ref()) {
        let before = mark::before(pod.annotations.as_ref());
        let was_there = |key: &str| before.get("labels").is_some_and(|labels| labels.get(key).is_some());
        let ours = |key: &str| was_there(key) || key == names::QUARANTINE || key == names::REMEDIATION;
        let put = pod.labels.iter().filter(|(key, _)| ours(key)).map(|(key, value)| (key.clone(), value.clone()));
        let receipt = receipt(pod, before.clone(), &put.collect(), deny);
        return Some(Progress::done(format!("pod {name} is cut off"), Some(receipt)));
    }
    let other = pod.labels.get(names::REMEDIATION).map_or("somebody else", String::as_str);
    Some(Progress::done(format!("pod {name} was cut off already, by {other}; undo that one to lift it"), None))
}

fn new_labels(pod: &PodFacts, parameters: &Quarantine, profile: &Profile, mark: &Mark) -> BTreeMap<String, String> {
    let mut labels = if parameters.detach { BTreeMap::new() } else { pod.labels.clone() };
    labels.extend(mark.labels());
    labels.insert(names::QUARANTINE.to_owned(), profile.name().to_owned());
    labels
}

fn operations(pod: &PodFacts, labels: &BTreeMap<String, String>, mark: &Mark) -> Vec<Value> {
    let there = if pod.labels.is_empty() { Value::Null } else { json!(pod.labels) };
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.uid}),
        json!({"op": "test", "path": "/metadata/labels", "value": there}),
        json!({"op": "add", "path": "/metadata/labels", "value": labels}),
    ];
    operations.extend(annotate(pod.annotations.as_ref(), &mark.annotations_with(&before(pod))));
    operations
}

fn before(pod: &PodFacts) -> Map<String, Value> {
    Map::from_iter([("labels".to_owned(), json!(pod.labels))])
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
    Receipt {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        before,
        after,
    }
}

fn done(
    pod: &PodFacts,
    labels: &BTreeMap<String, String>,
    parameters: &Quarantine,
    deny: Option<DenyKind>,
) -> Progress {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let message = if parameters.detach {
        format!("pod {name} is cut off and out of its Services; {}", owner(pod))
    } else {
        format!("pod {name} is cut off by policy and keeps its labels, its Services and its owner")
    };
    Progress::done(message, Some(receipt(pod, before(pod), labels, deny)))
}

/// What the owner of a detached pod does about it.
fn owner(pod: &PodFacts) -> String {
    let Some(Controller { kind, name }) = &pod.controller else {
        return "nothing owns it, so nothing takes its place".to_owned();
    };
    match kind.as_str() {
        "ReplicaSet" | "ReplicationController" => format!("{kind} {name} released it and starts another in its place"),
        "DaemonSet" => format!("DaemonSet {name} released it and starts another on node {}", pod.node),
        "Job" => format!("Job {name} released it and starts another in its place"),
        "StatefulSet" => format!(
            "StatefulSet {name} can't replace it while it has this name: nothing takes its place until it is deleted"
        ),
        _ => format!("what {kind} {name}, its owner, does about it isn't known to Quell"),
    }
}

async fn fresh(cx: &Context<'_>, api: &Api<Pod>, known: &PodFacts) -> Result<PodFacts, ActionError> {
    let pod = cx.writer.get(api, &known.namespace, &known.name).await?.map(|pod| facts(&pod));
    match pod {
        None => Err(gone(&known.namespace, &known.name)),
        Some(pod) if pod.uid != known.uid => Err(replaced(&known.namespace, &known.name, &known.uid, &pod.uid)),
        Some(pod) => Ok(pod),
    }
}

/// What was there before, and what others have added to the quarantined pod since.
fn labels_before(receipt: &Receipt, pod: &PodFacts) -> Map<String, Value> {
    let labels = |of: &Map<String, Value>| of.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let ours = labels(&receipt.after);
    let mut restored = labels(&receipt.before);
    for (key, value) in &pod.labels {
        let added_since = !ours.contains_key(key) && key != names::QUARANTINE && key != names::REMEDIATION;
        if added_since {
            restored.insert(key.clone(), json!(value));
        }
    }
    restored
}

/// The facts of a pod as the API server gives it.
#[must_use]
pub fn facts(pod: &Pod) -> PodFacts {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    PodFacts {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations: metadata.annotations.as_ref().map(|all| {
            let ours = all.iter().filter(|(key, _)| key.starts_with("quell.dev/"));
            ours.map(|(key, value)| (key.clone(), value.clone())).collect()
        }),
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        service_account: spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        controller: metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| Controller { kind: owner.kind.clone(), name: owner.name.clone() }),
        addresses: pod
            .status
            .iter()
            .flat_map(|status| status.pod_ips.iter().flatten())
            .map(|one| one.ip.clone())
            .collect(),
    }
}
