//! What `rollback` and `setImage` share: the workload as it is now, a change of its pod template that carries the mark, and the way
//! back.

mod difference;
mod health;
mod unfit;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::{Resource, core::NamespaceResourceScope};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{Effect, Receipt};
use serde_json::{Map, Value, json};

pub(crate) use difference::{differences, same};
pub(crate) use health::Health;
pub(crate) use unfit::refuse_unfit;

use crate::mark::{self, annotate, label, unannotate, unlabel};
use crate::raw::Raw;
use crate::write::Patched;
use crate::{ActionError, Context, Progress, State};

/// A workload that changes while it is read is read again this often before the try fails.
pub(crate) const LOOKS: usize = 3;

/// Key of a receipt's `before`: the workload's generation.
const GENERATION: &str = "generation";
/// Key of a receipt's `before`: when the deadline of an earlier roll-out had passed. See [`Live::health`].
const EXCEEDED_BEFORE: &str = "deadlineExceededAt";

/// The kinds of workload whose pod template can be changed and whose roll-out can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

impl Kind {
    pub(crate) fn of(kind: &str) -> Option<Self> {
        match kind {
            "Deployment" => Some(Self::Deployment),
            "StatefulSet" => Some(Self::StatefulSet),
            "DaemonSet" => Some(Self::DaemonSet),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

/// A workload as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) kind: Kind,
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: Value,
    pub(crate) status: Value,
}

impl Live {
    fn new<K>(kind: Kind, raw: Raw<K>) -> Self {
        Self { kind, metadata: raw.metadata, spec: raw.spec, status: raw.status }
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn template(&self) -> &Value {
        &self.spec["template"]
    }

    /// As people name it.
    pub(crate) fn title(&self) -> String {
        format!("{} {}/{}", self.kind.name(), self.namespace(), self.name())
    }

    /// As kubectl names it.
    pub(crate) fn kubectl_name(&self) -> String {
        format!("-n {} {}/{}", self.namespace(), self.kind.name().to_lowercase(), self.name())
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The receipt of a change of this workload.
    pub(crate) fn receipt(&self, before: Map<String, Value>, after: Map<String, Value>) -> Receipt {
        Effect {
            api_version: "apps/v1".to_owned(),
            kind: self.kind.name().to_owned(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            before,
            after,
        }
        .into()
    }
}

/// The workload that the Finding's target belongs to. `supported` are the kinds that the step can act on; `otherwise` says what to do
/// about those that it can't.
pub(crate) async fn find(
    cx: &Context<'_>,
    step: &str,
    supported: &[Kind],
    otherwise: &str,
) -> Result<Live, ActionError> {
    let target = &cx.world.finding.spec.target;
    let Some(workload) = &cx.world.workload else {
        return Err(ActionError::refused(
            Reason::TargetUnsupported,
            format!(
                "{step} acts on a workload; {} {}/{} belongs to none that is known",
                target.kind, target.namespace, target.name
            ),
        ));
    };
    let in_apps = workload.api_version.is_empty() || workload.api_version.starts_with("apps/");
    let Some(kind) = Kind::of(&workload.kind).filter(|kind| in_apps && supported.contains(kind)) else {
        return Err(ActionError::refused(
            Reason::TargetUnsupported,
            format!("{step} can't act on {} {}/{}: {otherwise}", workload.kind, workload.namespace, workload.name),
        ));
    };
    let namespace = if workload.namespace.is_empty() { &cx.mark.namespace } else { &workload.namespace };
    read(cx, kind, namespace, &workload.name, &workload.uid).await
}

/// The workload that a receipt is for.
pub(crate) async fn again(cx: &Context<'_>, receipt: &Receipt) -> Result<Live, ActionError> {
    let kind = Kind::of(&receipt.kind).ok_or_else(|| {
        ActionError::refused(Reason::TargetUnsupported, format!("a receipt for a {} can't be read", receipt.kind))
    })?;
    read(cx, kind, &receipt.namespace, &receipt.name, &receipt.uid).await
}

async fn read(cx: &Context<'_>, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<Live, ActionError> {
    let found = match kind {
        Kind::Deployment => get::<Deployment>(cx, kind, namespace, name).await?,
        Kind::StatefulSet => get::<StatefulSet>(cx, kind, namespace, name).await?,
        Kind::DaemonSet => get::<DaemonSet>(cx, kind, namespace, name).await?,
    };
    let title = format!("{} {namespace}/{name}", kind.name());
    let live = found.ok_or_else(|| {
        ActionError::refused(Reason::TargetNotFound, format!("{title} is gone: there is nothing left to change"))
    })?;
    if !uid.is_empty() && uid != live.uid() {
        return Err(ActionError::refused(
            Reason::TargetReplaced,
            format!(
                "the {title} that is meant (UID {uid}) is gone; the one of that name now (UID {}) was left alone",
                live.uid()
            ),
        ));
    }
    Ok(live)
}

async fn get<K>(cx: &Context<'_>, kind: Kind, namespace: &str, name: &str) -> Result<Option<Live>, ActionError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug,
{
    let api: Api<Raw<K>> = Api::namespaced(cx.writer.client(), namespace);
    Ok(cx.writer.get(&api, namespace, name).await?.map(|raw| Live::new(kind, raw)))
}

/// What this step has changed already: as the mark on the workload tells it after a crash that came before the record.
/// `after` makes what the step put there from what was there before.
pub(crate) fn marked(
    cx: &Context<'_>,
    live: &Live,
    after: impl FnOnce(&Map<String, Value>) -> Map<String, Value>,
) -> Option<Receipt> {
    let annotations = live.metadata.annotations.as_ref();
    cx.mark.is_on(annotations).then(|| {
        let before = mark::before(annotations);
        let after = after(&before);
        live.receipt(before, after)
    })
}

/// Another run whose change of this workload is being rolled out right now: two at once would each take the other's for its own. A
/// change that came after that run's is nobody's to wait for.
pub(crate) fn busy_with_another(cx: &Context<'_>, live: &Live) -> Option<Progress> {
    let other = live.annotation(names::REMEDIATION).filter(|other| *other != cx.mark.remediation)?;
    let before = mark::before(live.metadata.annotations.as_ref());
    let theirs = before.get(GENERATION).and_then(Value::as_i64).map(|generation| generation + 1);
    if theirs != live.metadata.generation {
        return None;
    }
    let Health::Rolling(how) = live.health(&before) else { return None };
    let message = format!("waits for {other}, which has changed {} as well: {how}", live.title());
    Some(Progress::pending(State::Again(std::time::Duration::from_secs(5)), message, None))
}

/// Changes the workload in one request that also carries the mark and what was there before; `operations` test what they replace.
/// `None`: it isn't any more as it was read.
pub(crate) async fn change(
    cx: &Context<'_>,
    live: &Live,
    operations: Vec<Value>,
    before: &Map<String, Value>,
) -> Result<Option<Live>, ActionError> {
    let mut all = vec![json!({"op": "test", "path": "/metadata/uid", "value": live.uid()})];
    all.extend(operations);
    all.extend(label(live.metadata.labels.as_ref(), &cx.mark.labels()));
    all.extend(annotate(live.metadata.annotations.as_ref(), &cx.mark.annotations_with(before)));
    send(cx, live, all).await
}

/// What is kept of the workload as it was, beside what the step replaces.
pub(crate) fn remember(live: &Live, before: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    let exceeded = live.deadline_exceeded_at().map(|at| (EXCEEDED_BEFORE.to_owned(), json!(at)));
    let generation = (GENERATION.to_owned(), json!(live.metadata.generation));
    before.into_iter().chain([generation]).chain(exceeded).collect()
}

/// How the part of a workload that a step changed stands now.
pub(crate) enum Standing {
    /// As the step left it; the operations put back what was there before, and test what they replace.
    AsLeft(Vec<Value>),
    /// As it was before the step.
    AsBefore,
    /// Changed by somebody else; says what.
    Changed(String),
}

/// Puts back what was there before, and takes the mark off, where the workload still is as the step left it.
pub(crate) async fn put_back(
    receipt: &Receipt,
    cx: &Context<'_>,
    judge: impl Fn(&Live) -> Standing,
) -> Result<Live, ActionError> {
    for _ in 0..LOOKS {
        let live = again(cx, receipt).await?;
        let ours = cx.mark.is_on(live.metadata.annotations.as_ref());
        let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": live.uid()})];
        match judge(&live) {
            Standing::AsLeft(back) => operations.extend(back),
            Standing::AsBefore if ours => {}
            Standing::AsBefore => return Ok(live),
            Standing::Changed(what) => {
                let message = format!("somebody has changed {what} of {} since: left alone", live.title());
                return Err(ActionError::refused(Reason::ChangedSince, message));
            }
        }
        if ours {
            operations.extend(unannotate(live.metadata.annotations.as_ref()));
            operations.extend(unlabel(live.metadata.labels.as_ref()));
        }
        if let Some(live) = send(cx, &live, operations).await? {
            return Ok(live);
        }
    }
    Err(too_fast(&format!("{} {}/{}", receipt.kind, receipt.namespace, receipt.name)))
}

pub(crate) fn too_fast(title: &str) -> ActionError {
    ActionError::for_now(Reason::ChangedSince, format!("{title} changes faster than it can be read"))
}

async fn send(cx: &Context<'_>, live: &Live, operations: Vec<Value>) -> Result<Option<Live>, ActionError> {
    match live.kind {
        Kind::Deployment => patch::<Deployment>(cx, live, operations).await,
        Kind::StatefulSet => patch::<StatefulSet>(cx, live, operations).await,
        Kind::DaemonSet => patch::<DaemonSet>(cx, live, operations).await,
    }
}

async fn patch<K>(cx: &Context<'_>, live: &Live, operations: Vec<Value>) -> Result<Option<Live>, ActionError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug,
{
    let api: Api<Raw<K>> = Api::namespaced(cx.writer.client(), live.namespace());
    match cx.writer.patch(&api, live.namespace(), live.name(), operations).await? {
        Patched::Changed(raw) => Ok(Some(Live::new(live.kind, *raw))),
        Patched::Precondition => Ok(None),
    }
}

/// Where the roll-out of a change stands. `what` says what was changed.
pub(crate) fn follow(live: &Live, receipt: Receipt, what: &str) -> Result<Progress, ActionError> {
    match live.health(&receipt.before) {
        Health::RolledOut(how) => Ok(Progress::done(format!("{what}, and it is rolled out: {how}"), Some(receipt))),
        Health::Rolling(how) => {
            Ok(Progress::pending(State::UntilChange, format!("{what}; waits for it: {how}"), Some(receipt)))
        }
        Health::Unhealthy(why) => {
            let look = format!("see kubectl describe {}", live.kubectl_name());
            let message = format!("{what}, but it does not become healthy: {why}; {look}");
            Err(ActionError::refused(Reason::RolloutUnhealthy, message).after_change(receipt))
        }
    }
}
