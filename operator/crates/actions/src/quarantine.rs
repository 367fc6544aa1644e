//! `quarantine`: the pod is cut off from the network, and its owner does what the step says.
//!
//! The deny policy stands before the pod's labels change, so that no moment is open. The labels change in one patch that tests the pod's
//! UID and its labels as they were thought to be, so that neither a new pod of the same name nor a change in between is overrun. What else
//! the step does (its owner, other pods) comes after that, each with a receipt of its own.

mod deny;
mod host_network;
mod keep;
mod mesh;
mod others;
mod owner;
mod pod;
mod policy;
mod probe;
mod profile;
mod recover;

pub use deny::{DenyKind, as_object as deny_policy};
pub use host_network::{CORDONING, OUTPUT as HOST_NETWORK, TERMINATING};
pub use keep::{Kept, keep};
pub use mesh::{AuthorizationPolicy, ISTIO, mesh_policy};
pub use others::would_be as others;
pub use owner::PAUSING;
pub use pod::released_by;
pub use probe::{Answer, RIGHTS as PROBING, probe};
pub use profile::{FULL, Profile, policy_name};
pub use recover::recover;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{HostNetwork, Owner, Quarantine};
use quell_crds::v1alpha1::{Effect, Receipt};
use quell_playbooks::{Controller, PodFacts, TargetState};

use self::owner::{Above, Counter, Lowered};
use self::pod::{Became, Cutting};
use self::policy::Wanted;
use crate::{ActionError, Context, Progress, Right, State};

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
    Right::new("security.istio.io", "authorizationpolicies", "create"),
    Right::new("security.istio.io", "authorizationpolicies", "get"),
    Right::new("security.istio.io", "authorizationpolicies", "patch"),
    Right::new("", "pods", "get"),
    Right::new("", "pods", "patch"),
];

/// What a step with these parameters needs.
#[must_use]
pub fn rights(parameters: &Quarantine) -> Vec<Right> {
    let pausing = if parameters.owner() == Owner::Pause { PAUSING } else { &[] };
    let host_network = match parameters.host_network {
        HostNetwork::Refuse => &[],
        HostNetwork::Cordon => CORDONING,
        HostNetwork::Terminate => TERMINATING,
    };
    let probing = if parameters.probe.is_some() { PROBING } else { &[] };
    let mut all = [RIGHTS, pausing, host_network, probing].concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// Where a receipt says which kind of policy denies whatever others allow.
const DENY: &str = "denyPolicy";
/// Said where the cluster serves such a policy, and it could not be written.
const LACKS_DENY: &str =
    "; the policy that denies whatever others allow could not be written, so Contained may show what they do allow";
/// An object that changes while it is read is read again this often before the try fails.
const LOOKS: usize = 3;

/// The policy that denies whatever others allow, which a quarantine stands on beside its NetworkPolicy.
#[must_use]
pub fn denied_by(receipt: &Receipt) -> Option<DenyKind> {
    serde_json::from_value(receipt.after.get(DENY)?.clone()).ok()
}

/// The receipts of the pods that a step has cut off: the one of the step's own receipt first.
pub fn cut_off(receipt: &Receipt) -> impl Iterator<Item = Receipt> + '_ {
    let own = Receipt::from(receipt.effect.clone());
    std::iter::once(own).chain(receipt.further()).filter(is_cut_off)
}

fn is_cut_off(receipt: &Receipt) -> bool {
    let labelled = receipt.after.get("labels").and_then(|labels| labels.get(names::QUARANTINE));
    receipt.kind == "Pod" && labelled.is_some()
}

/// Cuts the pod off, and goes on to what comes after that.
pub async fn perform(parameters: &Quarantine, cx: &Context<'_>) -> Result<Progress, ActionError> {
    match &cx.record.receipt {
        Some(receipt) if host_network::is_terminated(receipt) => return host_network::end(receipt, cx).await,
        Some(receipt) if is_cut_off(receipt) => return go_on(parameters, receipt.clone(), cx).await,
        _ => {}
    }
    let pod = target(cx)?.clone();
    if pod.host_network {
        return host_network::perform(parameters.host_network, &pod, cx).await;
    }
    let wanted = Wanted::of(parameters, cx)?;
    let stands = policy::ensure(cx, &pod.namespace, &wanted).await?;
    let above = Above::of(pod.controller.as_ref(), cx.world.workload.as_ref());
    let others = others::choose(parameters, &pod, cx);
    let detach = above.lets_go(parameters.owner());
    let cutting = Cutting { profile: &wanted.profile, detach, deny: stands.deny, others: others.as_ref() };
    match pod::cut(pod.clone(), &cutting, cx).await? {
        Became::ByAnother(other) => {
            let name = format!("{}/{}", pod.namespace, pod.name);
            Ok(Progress::done(format!("pod {name} was cut off already, by {other}; undo that one to lift it"), None))
        }
        Became::CutOff(was, mut receipt) => {
            let meshed = mesh::ensure(parameters, &was.namespace, cx).await;
            meshed.note(&mut receipt);
            let lacks = if wanted.deny.is_some() && stands.deny.is_none() { LACKS_DENY } else { "" };
            let above = Above::of(was.controller.as_ref(), cx.world.workload.as_ref());
            let unprobed = probe::rehearse(parameters, &was, cx).await.unwrap_or_default();
            let message = format!("{}{lacks}{}{unprobed}", said(&was, &above, parameters.owner()), meshed.said());
            if others.is_none() && above.lowered(parameters.owner()).is_none() {
                return Ok(Progress::done(message, Some(receipt)));
            }
            further(parameters, &message, receipt, &cutting, cx).await
        }
    }
}

fn said(pod: &PodFacts, above: &Above, owner: Owner) -> String {
    format!("pod {}/{} is cut off and {}", pod.namespace, pod.name, owner::told(pod, above, owner))
}

/// What comes after the pod was cut off, which the record tells.
async fn go_on(parameters: &Quarantine, receipt: Receipt, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let profile = Profile::of(parameters);
    let cutting = Cutting { profile: &profile, detach: true, deny: denied_by(&receipt), others: None };
    let pod = PodFacts {
        namespace: receipt.namespace.clone(),
        name: receipt.name.clone(),
        controller: pod::controller(&receipt),
        ..PodFacts::default()
    };
    let above = Above::of(pod.controller.as_ref(), cx.world.workload.as_ref());
    further(parameters, &said(&pod, &above, parameters.owner()), receipt, &cutting, cx).await
}

/// The other pods, then the owners of all.
async fn further(
    parameters: &Quarantine,
    message: &str,
    mut receipt: Receipt,
    cutting: &Cutting<'_>,
    cx: &Context<'_>,
) -> Result<Progress, ActionError> {
    let ended = others::cut(parameters, &receipt, cutting, cx).await?;
    let mut told = vec![message.to_owned()];
    told.extend(ended.told.iter().cloned());
    for (other, _) in &ended.cut {
        let mut other = other.clone();
        mesh::note_like(&receipt, &mut other);
        add(&mut receipt, other.effect);
    }
    let own = Above::of(pod::controller(&receipt).as_ref(), cx.world.workload.as_ref());
    let first = Receipt::from(receipt.effect.clone());
    let all: Vec<(Receipt, Above)> = std::iter::once((first, own)).chain(ended.cut).collect();
    let mut counters: BTreeMap<&Counter, Vec<&Receipt>> = BTreeMap::new();
    for (pod, above) in &all {
        if let Some(counter) = above.lowered(parameters.owner()) {
            counters.entry(counter).or_default().push(pod);
        }
    }
    for (counter, pods) in counters {
        match hold_back(counter, &pods, cx).await {
            Ok(Some(Lowered::By(effect))) => {
                told.push(owner::said(&effect));
                add(&mut receipt, effect);
            }
            Ok(Some(Lowered::Nothing(why))) => told.push(why),
            Ok(None) => {
                told.push("waits until its owner has let it go".to_owned());
                return Ok(Progress::pending(State::UntilChange, told.join("; "), Some(receipt)));
            }
            Err(error) => {
                told.push(format!("its owner could not be kept from starting another: {error}"));
                return Err(failed(error.reason(), error.is_transient(), &told).after_change(receipt));
            }
        }
    }
    match ended.failed {
        Some((reason, transient)) => Err(failed(reason, transient, &told).after_change(receipt)),
        None => Ok(Progress::done(told.join("; "), Some(receipt))),
    }
}

fn failed(reason: Reason, transient: bool, told: &[String]) -> ActionError {
    let message = told.join("; ");
    if transient { ActionError::for_now(reason, message) } else { ActionError::refused(reason, message) }
}

fn add(receipt: &mut Receipt, effect: Effect) {
    if !receipt.also.iter().any(|known| known.is_on_the_same(&effect)) {
        receipt.also.push(effect);
    }
}

/// Keeps an owner from starting others for these pods. `None`: it hasn't let them go yet.
async fn hold_back(counter: &Counter, pods: &[&Receipt], cx: &Context<'_>) -> Result<Option<Lowered>, ActionError> {
    let namespace = pods.first().map_or("", |pod| pod.namespace.as_str());
    // In a rehearsal nothing was taken from it that it could let go.
    if !cx.writer.is_rehearsal() {
        for pod in pods {
            if !pod::is_released(pod, cx).await? {
                return Ok(None);
            }
        }
    }
    counter.lower(cx, namespace, pods.len()).await.map(Some)
}

/// Puts back all that the receipt tells of: owners first, so that a pod that comes back finds room.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    if host_network::is_terminated(receipt) {
        let message = format!("pod {}/{} was ended: that can't be undone", receipt.namespace, receipt.name);
        return Err(ActionError::refused(Reason::NothingToUndo, message));
    }
    if receipt.kind == "Node" {
        return host_network::uncordon(receipt, cx).await;
    }
    let (owners, pods): (Vec<&Effect>, Vec<&Effect>) = receipt.also.iter().partition(|effect| owner::lowered(effect));
    let mut told = Vec::new();
    for effect in owners {
        told.push(owner::give_back(effect, cx).await);
    }
    told.push(pod::restore(receipt, cx).await);
    for effect in pods {
        told.push(pod::restore(effect, cx).await);
    }
    let message = told.iter().map(|one| one.as_ref().map_or_else(ToString::to_string, Clone::clone));
    let message = message.collect::<Vec<_>>().join("; ");
    let errors = || told.iter().filter_map(|one| one.as_ref().err());
    match errors().find(|error| error.is_transient()).or_else(|| errors().next()) {
        Some(error) if error.is_transient() => Err(ActionError::for_now(error.reason(), message)),
        Some(error) => Err(ActionError::refused(error.reason(), message)),
        None => Ok(message),
    }
}

fn target<'a>(cx: &'a Context<'_>) -> Result<&'a PodFacts, ActionError> {
    let target = &cx.world.finding.spec.target;
    match &cx.world.target {
        TargetState::Pod(pod) => Ok(pod),
        TargetState::Gone => Err(pod::gone(&target.namespace, &target.name)),
        TargetState::Replaced { uid } => Err(pod::replaced(&target.namespace, &target.name, &target.uid, uid)),
        TargetState::NotAPod => Err(ActionError::refused(
            Reason::TargetUnsupported,
            format!("quarantine acts on a pod; this Finding is about {} {}", target.kind, target.name),
        )),
    }
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
        controller: metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)).map(
            |owner| Controller {
                api_version: owner.api_version.clone(),
                kind: owner.kind.clone(),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            },
        ),
        addresses: pod
            .status
            .iter()
            .flat_map(|status| status.pod_ips.iter().flatten())
            .map(|one| one.ip.clone())
            .collect(),
    }
}
