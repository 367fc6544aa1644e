//! A pod on its node's network, which no policy covers: its node is cordoned, or the pod is ended, where the step asks for that.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::HostNetwork;
use quell_crds::v1alpha1::{Effect, Receipt};
use quell_playbooks::PodFacts;
use serde_json::{Map, json};

use super::LOOKS;
use super::pod::{gone, replaced};
use crate::mark::{annotate, unannotate};
use crate::raw::Raw;
use crate::write::{Evicted, Patched};
use crate::{ActionError, Context, Progress, Right, State};

/// What `hostNetwork: Cordon` needs.
pub const CORDONING: &[Right] = &[Right::cluster("", "nodes", "get"), Right::cluster("", "nodes", "patch")];
/// What `hostNetwork: Terminate` needs.
pub const TERMINATING: &[Right] =
    &[Right::new("", "pods", "delete"), Right::new("", "pods", "patch"), Right::new("", "pods/eviction", "create")];

/// Output that says what was done about a pod on its node's network.
pub const OUTPUT: &str = "hostNetwork";
/// Where a receipt says that the pod is ended.
const TERMINATED: &str = "terminated";
const UNSCHEDULABLE: &str = "unschedulable";

/// Does what the step says.
pub(super) async fn perform(how: HostNetwork, pod: &PodFacts, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let PodFacts { namespace, name, node, .. } = pod;
    match how {
        HostNetwork::Refuse => Err(ActionError::refused(
            Reason::TargetUnsupported,
            format!(
                "pod {namespace}/{name} uses the network of its node {node}, which no NetworkPolicy covers: cordon the node and end the \
                 pod by hand, or have it done by hostNetwork: Cordon or Terminate"
            ),
        )),
        HostNetwork::Cordon => cordon(pod, cx).await,
        HostNetwork::Terminate => terminate(pod, cx).await,
    }
}

/// Whether a receipt is for a pod that is ended.
pub(super) fn is_terminated(receipt: &Receipt) -> bool {
    receipt.after.get(TERMINATED).is_some()
}

fn done(how: &str, message: String, receipt: Option<Receipt>) -> Progress {
    Progress::done(message, receipt).with_outputs([(OUTPUT.to_owned(), how.to_owned())])
}

async fn cordon(pod: &PodFacts, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let PodFacts { namespace, name, node, .. } = pod;
    let goes_on = format!(
        "pod {namespace}/{name} goes on, with its node's network, which nothing cuts off: take the evidence, then end it"
    );
    let api: Api<Raw<Node>> = Api::all(cx.writer.client());
    for _ in 0..LOOKS {
        let Some(live) = cx.writer.get(&api, "", node).await? else {
            let message = format!("node {node} of pod {namespace}/{name} is gone: there is nothing to cordon");
            return Err(ActionError::refused(Reason::TargetNotFound, message));
        };
        let annotations = live.metadata.annotations.as_ref();
        let receipt = of_node(&live);
        if live.spec[UNSCHEDULABLE] == json!(true) {
            if cx.mark.is_on(annotations) {
                return Ok(done("Cordon", format!("node {node} is cordoned; {goes_on}"), Some(receipt)));
            }
            let other = annotations.and_then(|all| all.get(names::REMEDIATION)).map_or("somebody else", String::as_str);
            return Ok(done("Cordon", format!("node {node} was cordoned already, by {other}; {goes_on}"), None));
        }
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": live.metadata.uid}),
            json!({"op": "test", "path": "/spec/unschedulable", "value": live.spec[UNSCHEDULABLE]}),
            json!({"op": "add", "path": "/spec/unschedulable", "value": true}),
        ];
        operations.extend(annotate(annotations, &cx.mark.annotations_with(&receipt.before)));
        if let Patched::Changed(_) = cx.writer.patch_unread(&api, "", node, operations).await? {
            return Ok(done("Cordon", format!("node {node} is cordoned; {goes_on}"), Some(receipt)));
        }
    }
    Err(too_fast(node))
}

fn of_node(live: &Raw<Node>) -> Receipt {
    Effect {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: live.metadata.name.clone().unwrap_or_default(),
        uid: live.metadata.uid.clone().unwrap_or_default(),
        before: Map::from_iter([(UNSCHEDULABLE.to_owned(), json!(false))]),
        after: Map::from_iter([(UNSCHEDULABLE.to_owned(), json!(true))]),
        ..Effect::default()
    }
    .into()
}

/// The receipt of a node that this very run and step has cordoned, as its mark tells it.
pub(super) async fn cordoned(node: &str, cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    let api: Api<Raw<Node>> = Api::all(cx.writer.client());
    let live = cx.writer.get(&api, "", node).await?;
    // Runs of one name in two namespaces are two, and a node has none.
    let finding = format!("{}/{}", cx.mark.namespace, cx.mark.finding);
    let is_ours = |live: &Raw<Node>| {
        let annotations = live.metadata.annotations.as_ref();
        cx.mark.is_on(annotations) && annotations.and_then(|all| all.get(names::FINDING)) == Some(&finding)
    };
    Ok(live.filter(is_ours).map(|live| of_node(&live)))
}

/// The receipt of a pod that this very run and step is about to end, or has ended, as its mark tells it.
pub(super) fn terminating(pod: &PodFacts, cx: &Context<'_>) -> Option<Receipt> {
    let ours = pod.host_network && cx.mark.is_on(pod.annotations.as_ref());
    ours.then(|| of_ended(pod))
}

fn of_ended(pod: &PodFacts) -> Receipt {
    Effect {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        after: Map::from_iter([(TERMINATED.to_owned(), json!(true))]),
        ..Effect::default()
    }
    .into()
}

/// Lets pods be placed on the node again, where nobody has changed that since.
pub(super) async fn uncordon(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let node = &receipt.name;
    let api: Api<Raw<Node>> = Api::all(cx.writer.client());
    for _ in 0..LOOKS {
        let found = cx.writer.get(&api, "", node).await?;
        let Some(live) = found.filter(|live| live.metadata.uid.as_ref() == Some(&receipt.uid)) else {
            let message = format!("node {node} is gone, or another one has its name: there is nothing to uncordon");
            return Err(ActionError::refused(Reason::TargetNotFound, message));
        };
        let annotations = live.metadata.annotations.as_ref();
        let is_cordoned = live.spec[UNSCHEDULABLE] == json!(true);
        let ours = cx.mark.is_on(annotations);
        if !ours && is_cordoned {
            let message = format!("node {node} was cordoned by somebody else since: it was left so");
            return Err(ActionError::refused(Reason::ChangedSince, message));
        }
        if !ours {
            return Ok(format!("node {node} takes pods again"));
        }
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": live.metadata.uid}),
            json!({"op": "test", "path": "/spec/unschedulable", "value": live.spec[UNSCHEDULABLE]}),
        ];
        // kubectl uncordon takes the field away, too.
        operations.extend(is_cordoned.then(|| json!({"op": "remove", "path": "/spec/unschedulable"})));
        operations.extend(unannotate(annotations));
        if let Patched::Changed(_) = cx.writer.patch_unread(&api, "", node, operations).await? {
            return Ok(format!("node {node} takes pods again"));
        }
    }
    Err(too_fast(node))
}

/// The pod is marked first: what deletes it can't carry the mark, so that it is meant must be written down before.
async fn terminate(pod: &PodFacts, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let PodFacts { namespace, name, .. } = pod;
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), namespace);
    let receipt = of_ended(pod);
    let mut there = pod.annotations.clone();
    for _ in 0..LOOKS {
        let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": pod.uid})];
        operations.extend(annotate(there.as_ref(), &cx.mark.annotations_with(&Map::new())));
        match cx.writer.patch_unread(&api, namespace, name, operations).await {
            Ok(Patched::Changed(_)) if cx.writer.is_rehearsal() => return end(&receipt, cx).await,
            Ok(Patched::Changed(_)) => {
                let message = format!("pod {namespace}/{name} uses its node's network, and is about to be ended");
                return Ok(Progress::pending(State::Again(std::time::Duration::ZERO), message, Some(receipt)));
            }
            Ok(Patched::Precondition) => {
                let found = cx.writer.get(&api, namespace, name).await?.ok_or_else(|| gone(namespace, name))?;
                let uid = found.metadata.uid.unwrap_or_default();
                if uid != pod.uid {
                    return Err(replaced(namespace, name, &pod.uid, &uid));
                }
                there = found.metadata.annotations;
            }
            Err(error) if error.reason() == Reason::TargetNotFound => return Err(gone(namespace, name)),
            Err(error) => return Err(error),
        }
    }
    Err(ActionError::for_now(
        Reason::ChangedSince,
        format!("pod {namespace}/{name} changes faster than it can be read"),
    ))
}

/// Ends the pod that a receipt is for.
pub(super) async fn end(receipt: &Receipt, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let Effect { namespace, name, uid, .. } = &receipt.effect;
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), namespace);
    let how = match cx.writer.evict(&api, namespace, name, uid).await? {
        Evicted::Accepted => "was evicted",
        Evicted::Gone => "is gone",
        Evicted::Forbidden => {
            cx.writer.delete(&api, namespace, name, uid).await?;
            "was deleted, for a PodDisruptionBudget forbids to evict it"
        }
    };
    let message = format!(
        "pod {namespace}/{name} uses its node's network, which no policy covers: it {how}, and ends within its grace period; its owner \
         starts another, on whatever node"
    );
    Ok(done("Terminate", message, Some(receipt.clone())))
}

fn too_fast(node: &str) -> ActionError {
    ActionError::for_now(Reason::ChangedSince, format!("node {node} changes faster than it can be read"))
}
