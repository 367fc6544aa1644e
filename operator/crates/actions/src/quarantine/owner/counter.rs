//! Lowering what says how many pods there are, and giving it back: by a ledger on the workload itself, where several runs may have taken
//! theirs.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use kube::api::Api;
use kube::{CustomResource, Resource};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::Effect;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::mark::{annotate, escape};
use crate::quarantine::LOOKS;
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

/// What says how many pods there are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::quarantine) struct Counter {
    pub(super) kind: Counts,
    pub(super) name: String,
    pub(super) uid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counts {
    Deployment,
    ReplicaSet,
    Rollout,
    Job,
}

impl Counts {
    pub(super) fn of(api_version: &str, kind: &str) -> Option<Self> {
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
pub(in crate::quarantine) enum Lowered {
    /// It has that much less.
    By(Effect),
    /// There is nothing to lower, for a reason.
    Nothing(String),
}

impl Counter {
    /// As people name it.
    pub(super) fn title(&self) -> String {
        format!("{:?} {}", self.kind, self.name)
    }

    /// Makes it want `less` pods less, once for this run and step.
    pub(in crate::quarantine) async fn lower(
        &self,
        cx: &Context<'_>,
        namespace: &str,
        less: usize,
    ) -> Result<Lowered, ActionError> {
        match self.kind {
            Counts::Deployment => self.lower_kind::<Deployment>(cx, namespace, less).await,
            Counts::ReplicaSet => self.lower_kind::<ReplicaSet>(cx, namespace, less).await,
            Counts::Rollout => self.lower_kind::<Rollout>(cx, namespace, less).await,
            Counts::Job => self.lower_kind::<Job>(cx, namespace, less).await,
        }
    }

    /// By how much this run and step has lowered it, as its ledger tells.
    pub(in crate::quarantine) async fn was_lowered(
        &self,
        cx: &Context<'_>,
        namespace: &str,
    ) -> Result<Option<Effect>, ActionError> {
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
pub(in crate::quarantine) fn lowered(effect: &Effect) -> bool {
    Counts::of(&effect.api_version, &effect.kind).is_some()
}

/// What an effect says, for people.
pub(in crate::quarantine) fn said(effect: &Effect) -> String {
    let number = |side: &Map<String, Value>| side.values().next().and_then(Value::as_i64).unwrap_or_default();
    let what = if effect.kind == "Job" { "pods in parallel" } else { "replicas" };
    let (before, after) = (number(&effect.before), number(&effect.after));
    format!("{} {} was lowered from {before} to {after} {what}", effect.kind, effect.name)
}

/// Gives a workload back what was taken off it, where nobody has changed it since.
pub(in crate::quarantine) async fn give_back(effect: &Effect, cx: &Context<'_>) -> Result<String, ActionError> {
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
