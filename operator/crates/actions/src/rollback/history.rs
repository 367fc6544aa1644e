//! The revisions of a Deployment, and which of them a rollback goes to.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::Api;
use kube::core::Selector;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::{Rollback, RollbackTo};
use quell_ingest::{ImageRef, normalize_image};
use quell_playbooks::images::{self, Affected};
use serde::Deserialize as _;
use serde_json::Value;

use crate::raw::Raw;
use crate::workloads::{Live, same};
use crate::{ActionError, Context};

/// The annotation in which the Deployment controller numbers revisions.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// The label by which it tells the ReplicaSets of one Deployment apart; not part of what people wrote.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// One revision.
#[derive(Clone, Debug)]
pub(super) struct Revision {
    pub(super) number: i64,
    pub(super) replica_set: String,
    /// The pod template as people wrote it.
    pub(super) template: Value,
}

/// The revisions of a Deployment, the oldest first.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) current: i64,
    pub(super) revisions: Vec<Revision>,
}

impl History {
    pub(super) async fn read(cx: &Context<'_>, live: &Live) -> Result<Self, ActionError> {
        let api: Api<Raw<ReplicaSet>> = Api::namespaced(cx.writer.client(), live.namespace());
        let sets = cx.writer.list(&api, live.namespace(), &selector(live)?).await?;
        let mut revisions: Vec<Revision> = sets.into_iter().filter_map(|set| revision(set, live.uid())).collect();
        revisions.sort_by_key(|revision| revision.number);
        let current = live.annotation(REVISION).and_then(|number| number.parse().ok()).unwrap_or_default();
        Ok(Self { current, revisions })
    }

    fn numbered(&self, number: i64) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.number == number)
    }

    fn numbers(&self) -> String {
        let numbers: Vec<String> = self.revisions.iter().map(|revision| revision.number.to_string()).collect();
        numbers.join(", ")
    }
}

fn selector(live: &Live) -> Result<String, ActionError> {
    let unreadable = |problem: String| {
        ActionError::refused(
            Reason::TargetUnsupported,
            format!("the selector of {} can't be read: {problem}", live.title()),
        )
    };
    let selector = LabelSelector::deserialize(&live.spec["selector"]).map_err(|error| unreadable(error.to_string()))?;
    let selector = Selector::try_from(selector).map_err(|error| unreadable(error.to_string()))?;
    Ok(selector.to_string())
}

fn revision(set: Raw<ReplicaSet>, owner: &str) -> Option<Revision> {
    let metadata = set.metadata;
    let mut owners = metadata.owner_references.iter().flatten();
    if !owners.any(|reference| reference.controller == Some(true) && reference.uid == owner) {
        return None;
    }
    let number = metadata.annotations.as_ref()?.get(REVISION)?.parse().ok()?;
    let mut template = set.spec.get("template")?.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(POD_TEMPLATE_HASH);
    }
    Some(Revision { number, replica_set: metadata.name.unwrap_or_default(), template })
}

/// Where a rollback goes.
pub(super) enum Choice<'a> {
    /// To this revision.
    Revision(&'a Revision),
    /// Nowhere: it is there already, says why.
    There(String),
}

pub(super) fn choose<'a>(
    parameters: &Rollback,
    cx: &Context<'_>,
    live: &Live,
    history: &'a History,
) -> Result<Choice<'a>, ActionError> {
    let chosen = match (parameters.to, parameters.revision) {
        (RollbackTo::Previous, _) => previous(live, history)?,
        (RollbackTo::Revision, Some(number)) => numbered(number, live, history)?,
        (RollbackTo::Revision, None) => {
            let message = "`to: Revision` goes with `revision`, which is missing";
            return Err(ActionError::refused(Reason::ParameterInvalid, message));
        }
        (RollbackTo::LastUnaffected, _) => {
            let Some(revision) = last_unaffected(cx, live, history)? else {
                let current = history.current;
                let message = format!("{} runs revision {current}, whose images no open finding names", live.title());
                return Ok(Choice::There(message));
            };
            revision
        }
    };
    if chosen.number == history.current || same(&chosen.template, live.template()) {
        return Ok(Choice::There(format!("{} runs revision {} already", live.title(), chosen.number)));
    }
    Ok(Choice::Revision(chosen))
}

fn previous<'a>(live: &Live, history: &'a History) -> Result<&'a Revision, ActionError> {
    let mut earlier = history.revisions.iter().rev();
    earlier.find(|revision| revision.number < history.current).ok_or_else(|| {
        ActionError::refused(
            Reason::NoEarlierRevision,
            format!(
                "{} has no revision before {}, the one that runs now: nothing to go back to; put an image that is known to be good there \
                 with setImage",
                live.title(),
                history.current
            ),
        )
    })
}

fn numbered<'a>(number: i64, live: &Live, history: &'a History) -> Result<&'a Revision, ActionError> {
    history.numbered(number).ok_or_else(|| {
        ActionError::refused(
            Reason::NoEarlierRevision,
            format!(
                "{} has no revision {number}, or no longer; there is {} (see kubectl rollout history {})",
                live.title(),
                history.numbers(),
                live.kubectl_name()
            ),
        )
    })
}

/// The newest revision that no open Finding speaks against. `None`: that is the one that runs now.
fn last_unaffected<'a>(
    cx: &Context<'_>,
    live: &Live,
    history: &'a History,
) -> Result<Option<&'a Revision>, ActionError> {
    let affected = affected(cx);
    let judged: Vec<images::Revision> =
        history.revisions.iter().map(|revision| with_images(revision.number, &revision.template, cx)).collect();
    let current = with_images(history.current, live.template(), cx);
    if names_an_image(cx) && !affected.includes(&current) {
        return Ok(None);
    }
    let found = images::last_unaffected(&judged, history.current, &affected);
    if let Some(revision) = found.and_then(|found| history.numbered(found.number)) {
        return Ok(Some(revision));
    }
    let why: Vec<String> = judged
        .iter()
        .map(|revision| {
            let now = if revision.number == history.current { ", which runs now" } else { "" };
            let against = against(revision, &affected);
            let against = if against.is_empty() { String::new() } else { format!(": a finding names {against}") };
            format!("{}{now}{against}", revision.number)
        })
        .collect();
    let (reason, what) = if judged.iter().all(|revision| revision.number == history.current) {
        (Reason::NoEarlierRevision, "no other revision than the one that runs now")
    } else {
        (Reason::NoUnaffectedRevision, "no revision that is free of open findings")
    };
    let message = format!(
        "{} has {what} ({}): deploy an image that is free of them, or name a revision with `to: Revision`",
        live.title(),
        why.join("; ")
    );
    Err(ActionError::refused(reason, message))
}

/// What open Findings name, this one's own image among them: it may be newer than the caches.
fn affected(cx: &Context<'_>) -> Affected {
    let mut affected = cx.cluster.affected();
    let target = &cx.world.finding.spec.target;
    affected.add(&normal_form(&target.image), &target.digest);
    affected
}

fn normal_form(image: &str) -> String {
    if image.is_empty() { String::new() } else { normalize_image(image) }
}

/// Whether the Finding says which image is bad. Where it doesn't, the revision that runs now can't be taken for a good one.
fn names_an_image(cx: &Context<'_>) -> bool {
    let target = &cx.world.finding.spec.target;
    !target.digest.is_empty() || !target.image.is_empty()
}

fn with_images(number: i64, template: &Value, cx: &Context<'_>) -> images::Revision {
    let lists = ["containers", "initContainers"].map(|list| &template["spec"][list]);
    let containers = lists.into_iter().filter_map(Value::as_array).flatten();
    let references: Vec<ImageRef> =
        containers.filter_map(|container| container["image"].as_str()).map(ImageRef::parse).collect();
    let images: BTreeSet<String> = references.iter().map(|image| image.reference.clone()).collect();
    let mut revision = images::Revision { number, images, ..images::Revision::default() };
    for image in references {
        // A reference with a digest says which image is meant; only of the others must pods tell.
        let told = match image.digest {
            Some(digest) => BTreeSet::from([digest]),
            None => cx.cluster.digests_of(&BTreeSet::from([image.reference.clone()])),
        };
        if told.is_empty() {
            revision.undigested.insert(image.reference);
        }
        revision.digests.extend(told);
    }
    revision
}

fn against(revision: &images::Revision, affected: &Affected) -> String {
    let digests = affected.digests.intersection(&revision.digests);
    let by_name =
        affected.undigested.intersection(&revision.images).chain(affected.images.intersection(&revision.undigested));
    let named: BTreeSet<&str> = by_name.chain(digests).map(String::as_str).collect();
    named.into_iter().collect::<Vec<_>>().join(" and ")
}
