//! What a quarantine has changed and nobody has recorded: told from the marks on the pod, on the other pods that it names, and on their
//! owners.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use quell_crds::v1alpha1::step::{HostNetwork, Quarantine};
use quell_crds::v1alpha1::{Effect, Receipt};
use quell_playbooks::{PodFacts, TargetState};

use super::owner::{Above, Counter};
use super::{add, facts, host_network, others, pod};
use crate::{ActionError, Context};

/// Looks for it, where this very step has done it. Pods, nodes and owners are read as they are now: the copy may be behind.
pub async fn recover(parameters: &Quarantine, cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    let target = &cx.world.finding.spec.target;
    let meant = match &cx.world.target {
        TargetState::NotAPod => return Ok(None),
        TargetState::Pod(known) => known.clone(),
        TargetState::Gone | TargetState::Replaced { .. } => PodFacts {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
            node: target.node.clone(),
            ..PodFacts::default()
        },
    };
    if parameters.host_network == HostNetwork::Cordon
        && !meant.node.is_empty()
        && let Some(receipt) = host_network::cordoned(&meant.node, cx).await?
    {
        return Ok(Some(receipt));
    }
    let Some(first) = there(&meant.namespace, &meant.name, &meant.uid, cx).await? else {
        return gone(parameters, &meant, cx).await;
    };
    if let Some(receipt) = host_network::terminating(&first, cx) {
        return Ok(Some(receipt));
    }
    let Some(mut receipt) = pod::found(&first, cx.mark, None) else { return Ok(None) };
    let mut above = vec![Above::of(pod::controller(&receipt).as_ref(), cx.world.workload.as_ref())];
    for (name, uid, workload) in others::named(&receipt)? {
        let other = there(&receipt.namespace, &name, &uid, cx).await?;
        if let Some(other) = other.and_then(|other| pod::found(&other, cx.mark, None)) {
            above.push(Above::of(pod::controller(&other).as_ref(), workload.as_ref()));
            add(&mut receipt, other.effect);
        }
    }
    let counters: BTreeSet<&Counter> = above.iter().filter_map(|above| above.lowered(parameters.owner())).collect();
    for counter in counters {
        if let Some(lowered) = counter.was_lowered(cx, &meant.namespace).await? {
            add(&mut receipt, lowered);
        }
    }
    Ok(Some(receipt))
}

/// The pod is gone, and its mark with it; what its owner was lowered by is there still.
async fn gone(parameters: &Quarantine, meant: &PodFacts, cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    let above = match &meant.controller {
        Some(controller) => Above::of(Some(controller), cx.world.workload.as_ref()),
        None => cx.world.workload.as_ref().map_or(Above::Nobody, Above::topmost),
    };
    let Some(counter) = above.lowered(parameters.owner()) else { return Ok(None) };
    let Some(lowered) = counter.was_lowered(cx, &meant.namespace).await? else { return Ok(None) };
    let mut receipt = Receipt::from(Effect {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: meant.namespace.clone(),
        name: meant.name.clone(),
        uid: meant.uid.clone(),
        ..Effect::default()
    });
    add(&mut receipt, lowered);
    Ok(Some(receipt))
}

async fn there(namespace: &str, name: &str, uid: &str, cx: &Context<'_>) -> Result<Option<PodFacts>, ActionError> {
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), namespace);
    let found = cx.writer.get(&api, namespace, name).await?.map(|pod| facts(&pod));
    Ok(found.filter(|pod| uid.is_empty() || pod.uid == uid))
}
