//! What the owner of a quarantined pod does about it, and how it is kept from starting another.
//!
//! An owner counts its pods by their labels. A pod that loses them is released, and the owner, which has one too few, starts another at
//! once: pausing a Deployment doesn't stop that, for its ReplicaSet goes on. What does is to want one less. That is asked for only once the
//! owner has released the pod: before that it might choose this very pod as the one too many, and the evidence with it. The pod that it
//! has started in between is then the one that it takes away, for it is the youngest, and not ready
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset>).

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use kube::api::Api;
use kube::{CustomResource, Resource};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::Owner;
use quell_crds::v1alpha1::{Effect, Workload};
use quell_playbooks::{Controller, PodFacts};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::LOOKS;
use crate::mark::{annotate, escape};
use crate::raw::Raw;
use crate::write::Patched;
use crate::{ActionError, Context, Right};

/// An owner is read as it is now, and lowered by a patch that tests what it replaces.
pub const PAUSING: &[Right] = &[
    Right::new("apps", "deployments", "get"),
    Right::new("apps", "deployments", "patch"),
    Right::new("apps", "replicasets", "get"),
    Right::new("apps", "replicasets", "patch"),
    Right::new("argoproj.io", "rollouts", "get"),
    Right::new("argoproj.io", "rollouts", "patch"),
    Right::new("batch", "jobs", "get"),
    Right::new("batch", "jobs", "patch"),
];

/// `spec` of Argo's Rollout, as its API has it: <https://argo-rollouts.readthedocs.io/en/stable/features/specification/>.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "argoproj.io",
    version = "v1alpha1",
    kind = "Rollout",
    plural = "rollouts",
    namespaced,
    schema = "disabled"
)]
pub struct RolloutSpec(Map<String, Value>);

/// Who counts a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Above {
    /// Nobody: the pod stands alone.
    Nobody,
    /// Something that can be asked for one pod less.
    Counted(Counter),
    /// A StatefulSet: it can't start another pod while one has the name.
    StatefulSet(String),
    /// A DaemonSet: it wants one on each node.
    DaemonSet(String),
    /// Something else, by kind and name.
    Other(String),
}

/// What says how many pods there are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counter {
    kind: Counts,
    name: String,
    uid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Counts {
    Deployment,
    ReplicaSet,
    Rollout,
    Job,
}

impl Counts {
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version.split_once('/').map_or("", |(group, _)| group), kind) {
            ("apps", "Deployment") => Some(Self::Deployment),
            ("apps", "ReplicaSet") => Some(Self::ReplicaSet),
            ("argoproj.io", "Rollout") => Some(Self::Rollout),
            ("batch", "Job") => Some(Self::Job),
            _ => None,
        }
    }

    /// The field that says how many.
    fn field(self) -> &'static str {
        if self == Self::Job { "parallelism" } else { "replicas" }
    }
}

impl Above {
    /// `workload` is the topmost owner, as far as it is known.
    pub(super) fn of(controller: Option<&Controller>, workload: Option<&Workload>) -> Self {
        let Some(controller) = controller else { return Self::Nobody };
        let titled = || format!("{} {}", controller.kind, controller.name);
        match (controller.api_version.as_str(), controller.kind.as_str()) {
            ("apps/v1", "StatefulSet") => Self::StatefulSet(controller.name.clone()),
            ("apps/v1", "DaemonSet") => Self::DaemonSet(controller.name.clone()),
            // A CronJob above it has no say over the pods of a Job that it has started.
            ("batch/v1", "Job") => {
                Self::Counted(Counter { kind: Counts::Job, name: controller.name.clone(), uid: controller.uid.clone() })
            }
            ("apps/v1", "ReplicaSet") => workload
                .and_then(|top| {
                    Some((Counts::of(&top.api_version, &top.kind).filter(|kind| *kind != Counts::Job)?, top))
                })
                .map_or_else(
                    || Self::Other(titled()),
                    |(kind, top)| Self::Counted(Counter { kind, name: top.name.clone(), uid: top.uid.clone() }),
                ),
            _ => Self::Other(titled()),
        }
    }

    /// What counts the pods of a workload, where no pod tells any more who controlled it.
    pub(super) fn topmost(workload: &Workload) -> Self {
        let Workload { api_version, kind, name, uid, .. } = workload;
        Counts::of(api_version, kind).map_or_else(
            || Self::Other(format!("{kind} {name}")),
            |kind| Self::Counted(Counter { kind, name: name.clone(), uid: uid.clone() }),
        )
    }

    /// Whether the pod's own labels are taken away.
    pub(super) fn lets_go(&self, owner: Owner) -> bool {
        match owner {
            Owner::Replace => true,
            Owner::Keep => false,
            Owner::Pause => matches!(self, Self::Nobody | Self::Counted(_) | Self::StatefulSet(_)),
        }
    }

    /// What is lowered for it, where it is.
    pub(super) fn lowered(&self, owner: Owner) -> Option<&Counter> {
        match self {
            Self::Counted(counter) if owner == Owner::Pause => Some(counter),
            _ => None,
        }
    }
}

/// What the owner of a pod does, for people.
pub(super) fn told(pod: &PodFacts, above: &Above, owner: Owner) -> String {
    if !above.lets_go(owner) {
        return match (above, owner) {
            (Above::DaemonSet(name), Owner::Pause) => format!(
                "keeps its labels: DaemonSet {name} can't be kept from starting another on node {} in any other way that spares the rest",
                pod.node
            ),
            (Above::Other(name), Owner::Pause) => {
                format!("keeps its labels: how {name}, its owner, is kept from starting another isn't known to Quell")
            }
            _ => "keeps its labels, its Services and its owner".to_owned(),
        };
    }
    match above {
        Above::Nobody => "is out of its Services; nothing owns it, so nothing takes its place".to_owned(),
        Above::StatefulSet(name) => format!(
            "is out of its Services; StatefulSet {name} can't replace it while it has this name: nothing takes its place until it is \
             deleted, and pods after it may wait"
        ),
        Above::Counted(counter) if owner == Owner::Pause => {
            format!("is out of its Services; {} starts none in its place", counter.title())
        }
        Above::DaemonSet(name) => {
            format!("is out of its Services; DaemonSet {name} released it and starts another on node {}", pod.node)
        }
        Above::Counted(_) => {
            let (kind, name) = pod.controller.as_ref().map_or(("", ""), |one| (one.kind.as_str(), one.name.as_str()));
            format!("is out of its Services; {kind} {name} released it and starts another in its place")
        }
        Above::Other(name) if name.starts_with("ReplicaSet ") || name.starts_with("ReplicationController ") => {
            format!("is out of its Services; {name} released it and starts another in its place")
        }
        Above::Other(name) => {
            format!("is out of its Services; what {name}, its owner, does about it isn't known to Quell")
        }
    }
}

/// By how much runs have lowered a workload, and what came of it: as long as that is what is there, nobody else has changed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ledger {
    now: i64,
    by: BTreeMap<String, i64>,
}

impl Ledger {
    fn on<K>(live: &Raw<K>) -> Self {
        let text = live.metadata.annotations.as_ref().and_then(|all| all.get(names::HELD_BACK));
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Operations that write it, where it is still as it was read.
    fn write<K>(&self, live: &Raw<K>) -> Vec<Value> {
        let there = live.metadata.annotations.as_ref();
        let path = format!("/metadata/annotations/{}", escape(names::HELD_BACK));
        let mut operations = Vec::new();
        if let Some(text) = there.and_then(|all| all.get(names::HELD_BACK)) {
            operations.push(json!({"op": "test", "path": path, "value": text}));
        }
        if self.by.is_empty() {
            operations.extend((!operations.is_empty()).then(|| json!({"op": "remove", "path": path})));
        } else {
            let text = (names::HELD_BACK.to_owned(), json!(self).to_string());
            operations.extend(annotate(there, &BTreeMap::from([text])));
        }
        operations
    }
}

/// What became of lowering a workload.
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub(super) enum Lowered {
    /// It has that much less.
    By(Effect),
    /// There is nothing to lower, for a reason.
    Nothing(String),
}

impl Counter {
    /// As people name it.
    fn title(&self) -> String {
        format!("{:?} {}", self.kind, self.name)
    }

    /// Makes it want `less` pods less, once for this run and step.
    pub(super) async fn lower(&self, cx: &Context<'_>, namespace: &str, less: usize) -> Result<Lowered, ActionError> {
        match self.kind {
            Counts::Deployment => self.lower_kind::<Deployment>(cx, namespace, less).await,
            Counts::ReplicaSet => self.lower_kind::<ReplicaSet>(cx, namespace, less).await,
            Counts::Rollout => self.lower_kind::<Rollout>(cx, namespace, less).await,
            Counts::Job => self.lower_kind::<Job>(cx, namespace, less).await,
        }
    }

    /// By how much this run and step has lowered it, as its ledger tells.
    pub(super) async fn was_lowered(&self, cx: &Context<'_>, namespace: &str) -> Result<Option<Effect>, ActionError> {
        match self.kind {
            Counts::Deployment => self.was_lowered_kind::<Deployment>(cx, namespace).await,
            Counts::ReplicaSet => self.was_lowered_kind::<ReplicaSet>(cx, namespace).await,
            Counts::Rollout => self.was_lowered_kind::<Rollout>(cx, namespace).await,
            Counts::Job => self.was_lowered_kind::<Job>(cx, namespace).await,
        }
    }

    async fn was_lowered_kind<K>(&self, cx: &Context<'_>, namespace: &str) -> Result<Option<Effect>, ActionError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
    {
        let api: Api<Raw<K>> = Api::namespaced(cx.writer.client(), namespace);
        let found = cx.writer.get(&api, namespace, &self.name).await?;
        let live = found.filter(|live| self.uid.is_empty() || live.metadata.uid.as_ref() == Some(&self.uid));
        Ok(live.and_then(|live| {
            let ledger = Ledger::on(&live);
            let by = ledger.by.get(&cx.key())?;
            Some(self.effect(namespace, &live, ledger.now + by, ledger.now))
        }))
    }

    fn effect<K>(&self, namespace: &str, live: &Raw<K>, before: i64, after: i64) -> Effect
    where
        K: Resource<DynamicType = ()>,
    {
        let field = self.kind.field();
        Effect {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: namespace.to_owned(),
            name: self.name.clone(),
            uid: live.metadata.uid.clone().unwrap_or_default(),
            before: Map::from_iter([(field.to_owned(), json!(before))]),
            after: Map::from_iter([(field.to_owned(), json!(after))]),
        }
    }

    async fn lower_kind<K>(&self, cx: &Context<'_>, namespace: &str, less: usize) -> Result<Lowered, ActionError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
    {
        let (field, title) = (self.kind.field(), self.title());
        let api: Api<Raw<K>> = Api::namespaced(cx.writer.client(), namespace);
        for _ in 0..LOOKS {
            let found = cx.writer.get(&api, namespace, &self.name).await?;
            let Some(live) = found.filter(|live| self.uid.is_empty() || live.metadata.uid.as_ref() == Some(&self.uid))
            else {
                return Ok(Lowered::Nothing(format!("{title} is gone, and starts none")));
            };
            let effect = |before: i64, after: i64| self.effect(namespace, &live, before, after);
            let mut ledger = Ledger::on(&live);
            // Done before, and not recorded.
            if let Some(by) = ledger.by.get(&cx.key()) {
                return Ok(Lowered::By(effect(ledger.now + by, ledger.now)));
            }
            let now = live.spec[field].as_i64().unwrap_or(1);
            let by = now.min(i64::try_from(less).unwrap_or(i64::MAX));
            if by <= 0 {
                return Ok(Lowered::Nothing(format!("{title} wants no pod as it is, and starts none")));
            }
            if ledger.now != now {
                // Somebody has changed it since: what runs took off it before that is no more theirs to give back.
                ledger.by.clear();
            }
            ledger.now = now - by;
            ledger.by.insert(cx.key(), by);
            let operations = change(&live, field, ledger.now, &ledger);
            if let Patched::Changed(_) = cx.writer.patch_unread(&api, namespace, &self.name, operations).await? {
                return Ok(Lowered::By(effect(now, now - by)));
            }
        }
        Err(ActionError::for_now(Reason::ChangedSince, format!("{title} changes faster than it can be read")))
    }
}

fn change<K>(live: &Raw<K>, field: &str, to: i64, ledger: &Ledger) -> Vec<Value> {
    let path = format!("/spec/{field}");
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": live.metadata.uid}),
        json!({"op": "test", "path": path, "value": live.spec[field]}),
        json!({"op": "add", "path": path, "value": to}),
    ];
    operations.extend(ledger.write(live));
    operations
}

/// Whether an effect is one of these.
pub(super) fn lowered(effect: &Effect) -> bool {
    Counts::of(&effect.api_version, &effect.kind).is_some()
}

/// What an effect says, for people.
pub(super) fn said(effect: &Effect) -> String {
    let number = |side: &Map<String, Value>| side.values().next().and_then(Value::as_i64).unwrap_or_default();
    let what = if effect.kind == "Job" { "pods in parallel" } else { "replicas" };
    let (before, after) = (number(&effect.before), number(&effect.after));
    format!("{} {} was lowered from {before} to {after} {what}", effect.kind, effect.name)
}

/// Gives a workload back what was taken off it, where nobody has changed it since.
pub(super) async fn give_back(effect: &Effect, cx: &Context<'_>) -> Result<String, ActionError> {
    match Counts::of(&effect.api_version, &effect.kind) {
        Some(Counts::Deployment) => give_back_kind::<Deployment>(Counts::Deployment, effect, cx).await,
        Some(Counts::ReplicaSet) => give_back_kind::<ReplicaSet>(Counts::ReplicaSet, effect, cx).await,
        Some(Counts::Rollout) => give_back_kind::<Rollout>(Counts::Rollout, effect, cx).await,
        Some(Counts::Job) => give_back_kind::<Job>(Counts::Job, effect, cx).await,
        None => Err(ActionError::refused(
            Reason::NothingToUndo,
            format!("the receipt for {} {} is not known to this version of Quell", effect.kind, effect.name),
        )),
    }
}

async fn give_back_kind<K>(counts: Counts, effect: &Effect, cx: &Context<'_>) -> Result<String, ActionError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
{
    let (field, title) = (counts.field(), format!("{} {}/{}", effect.kind, effect.namespace, effect.name));
    let number = |side: &Map<String, Value>| side.get(field).and_then(Value::as_i64).unwrap_or_default();
    let (before, after) = (number(&effect.before), number(&effect.after));
    let api: Api<Raw<K>> = Api::namespaced(cx.writer.client(), &effect.namespace);
    for _ in 0..LOOKS {
        let found = cx.writer.get(&api, &effect.namespace, &effect.name).await?;
        let Some(live) = found.filter(|live| live.metadata.uid.as_ref() == Some(&effect.uid)) else {
            let message = format!("{title} is gone: there is nothing to give back to");
            return Err(ActionError::refused(Reason::TargetNotFound, message));
        };
        let now = live.spec[field].as_i64().unwrap_or(1);
        let mut ledger = Ledger::on(&live);
        let ours = ledger.by.remove(&cx.key()).is_some();
        if !ours && now != after {
            // Undone before, and not recorded; or by somebody else.
            return Ok(format!("{title} has {field}: {now}, and nothing of this run is left on it"));
        }
        let untouched = ours && now == ledger.now;
        let to = if untouched { now + before - after } else { now };
        if untouched {
            ledger.now = to;
        }
        let operations = change(&live, field, to, &ledger);
        let changed = !ours
            || matches!(
                cx.writer.patch_unread(&api, &effect.namespace, &effect.name, operations).await?,
                Patched::Changed(_)
            );
        if changed && untouched {
            return Ok(format!("{title} has {field}: {to} again"));
        }
        if changed {
            let message = format!(
                "somebody has changed {title} since, which has {field}: {now}; it was left so. Before the quarantine it had {before}"
            );
            return Err(ActionError::refused(Reason::ChangedSince, message));
        }
    }
    Err(ActionError::for_now(Reason::ChangedSince, format!("{title} changes faster than it can be read")))
}
