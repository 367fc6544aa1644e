//! Other pods that run the same image, where the step asks for them.
//!
//! Which ones is said when the pod that the Finding names is cut off, in the same write: pods that are started since, in place of those that
//! are cut off, run the same image and would else be taken for more of them, for ever.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{Others, Quarantine};
use quell_crds::v1alpha1::{Receipt, Workload};
use quell_playbooks::PodFacts;
use serde::{Deserialize, Serialize};

use super::facts;
use super::owner::Above;
use super::pod::{self, Became, Cutting, OTHERS};
use crate::{ActionError, Context};

/// Which other pods are cut off, and how many more there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Chosen {
    pods: Vec<Other>,
    /// Beyond what the step allows.
    #[serde(default, skip_serializing_if = "is_zero")]
    left: usize,
    /// The image's digest isn't known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Other {
    name: String,
    uid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<Workload>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Chooses, from what is known without a request.
pub(super) fn choose(parameters: &Quarantine, pod: &PodFacts, cx: &Context<'_>) -> Option<Chosen> {
    if parameters.others == Others::None {
        return None;
    }
    let Some(mut all) = same(pod, cx) else {
        return Some(Chosen { unknown: true, ..Chosen::default() });
    };
    let left = all.len().saturating_sub(parameters.most_others());
    all.truncate(parameters.most_others());
    let other = |(pod, workload): (PodFacts, Workload)| Other {
        name: pod.name,
        uid: pod.uid,
        // A pod that nothing owns is its own.
        workload: Some(workload).filter(|top| top.kind != "Pod"),
    };
    Some(Chosen { pods: all.into_iter().map(other).collect(), left, unknown: false })
}

/// Pods with the same image that aren't cut off yet, in their order.
fn same(pod: &PodFacts, cx: &Context<'_>) -> Option<Vec<(PodFacts, Workload)>> {
    let target = &cx.world.finding.spec.target;
    let mut all = cx.cluster.same_digest(pod, &target.container, &target.digest)?;
    all.retain(|(other, _)| {
        other.uid != pod.uid && !other.host_network && !other.labels.contains_key(names::QUARANTINE)
    });
    all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    Some(all)
}

/// The other pods that the step would cut off now, and the workload of each.
#[must_use]
pub fn would_be(parameters: &Quarantine, pod: &PodFacts, cx: &Context<'_>) -> Vec<(PodFacts, Workload)> {
    if parameters.others == Others::None {
        return Vec::new();
    }
    let mut all = same(pod, cx).unwrap_or_default();
    all.truncate(parameters.most_others());
    all
}

/// What came of the others.
#[derive(Default)]
pub(super) struct Ended {
    /// Those that are cut off, and what is above each.
    pub cut: Vec<(Receipt, Above)>,
    /// For people.
    pub told: Vec<String>,
    /// The first that failed, with a word on each.
    pub failed: Option<(Reason, bool)>,
}

fn chosen(first: &Receipt) -> Result<Option<Chosen>, ActionError> {
    let Some(value) = first.after.get(OTHERS) else { return Ok(None) };
    serde_json::from_value(value.clone()).map(Some).map_err(|error| {
        ActionError::refused(Reason::Invalid, format!("which other pods were meant can't be read: {error}"))
    })
}

/// Name, UID and workload of those that the receipt of the first names.
pub(super) fn named(first: &Receipt) -> Result<Vec<(String, String, Option<Workload>)>, ActionError> {
    let pods = chosen(first)?.map(|chosen| chosen.pods).unwrap_or_default();
    Ok(pods.into_iter().map(|other| (other.name, other.uid, other.workload)).collect())
}

/// Cuts off those that the receipt of the first names, side by side.
pub(super) async fn cut(
    parameters: &Quarantine,
    first: &Receipt,
    cutting: &Cutting<'_>,
    cx: &Context<'_>,
) -> Result<Ended, ActionError> {
    // A step that asks for others writes which with the quarantine; what a pod named before that is anybody's word.
    let asked_for = parameters.others != Others::None;
    let Some(chosen) = chosen(first)?.filter(|_| asked_for) else { return Ok(Ended::default()) };
    let mut ended = Ended::default();
    let all = join_all(chosen.pods.iter().map(|other| one(parameters, &first.namespace, other, cutting, cx))).await;
    for (other, became) in chosen.pods.iter().zip(all) {
        let name = &other.name;
        match became {
            Ok((Became::CutOff(..), None)) => {}
            Ok((Became::CutOff(_, receipt), Some(above))) => {
                ended.told.push(format!("{name} is cut off, too"));
                ended.cut.push((receipt, above));
            }
            Ok((Became::ByAnother(run), _)) => ended.told.push(format!("{name} was cut off already, by {run}")),
            Err(error) if matches!(error.reason(), Reason::TargetNotFound | Reason::TargetReplaced) => {
                ended.told.push(format!("{name} is gone"));
            }
            Err(error) => {
                ended.told.push(format!("{name} could not be cut off: {error}"));
                let worse = ended.failed.is_none_or(|(_, transient)| transient);
                if worse {
                    ended.failed = Some((error.reason(), error.is_transient()));
                }
            }
        }
    }
    if chosen.unknown {
        ended
            .told
            .push("which other pods run the same image isn't known, for its digest isn't: none was cut off".into());
    } else if chosen.pods.is_empty() {
        ended.told.push("no other pod of the namespace runs this image".into());
    }
    if chosen.left > 0 {
        ended.told.push(format!("{} more run this image and were left alone: maxOthers", chosen.left));
    }
    Ok(ended)
}

async fn one(
    parameters: &Quarantine,
    namespace: &str,
    other: &Other,
    cutting: &Cutting<'_>,
    cx: &Context<'_>,
) -> Result<(Became, Option<Above>), ActionError> {
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), namespace);
    let found = cx.writer.get(&api, namespace, &other.name).await?.map(|pod| facts(&pod));
    let there = found.filter(|pod| pod.uid == other.uid).ok_or_else(|| pod::gone(namespace, &other.name))?;
    let above = Above::of(there.controller.as_ref(), other.workload.as_ref());
    let detach = above.lets_go(parameters.owner());
    let cutting = Cutting { detach, others: None, ..*cutting };
    let became = pod::cut(there, &cutting, cx).await?;
    let above = match &became {
        // Done before, it may have been let go since: who was above it then is in its receipt.
        Became::CutOff(_, receipt) => Some(Above::of(pod::controller(receipt).as_ref(), other.workload.as_ref())),
        Became::ByAnother(_) => None,
    };
    Ok((became, above))
}
