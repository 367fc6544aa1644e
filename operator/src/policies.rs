//! Policies of network plugins: followed while the cluster serves them, for what they let through to quarantined pods.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, ResourceExt as _, discovery};
use quell_actions::quarantine;
use quell_crds::names;
use quell_isolation::{Policy, PolicyKind, PolicyRef};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::containment::{Containment, MeshPolicy};

/// A kind of policy, as a CustomResourceDefinition has it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// API group.
    pub group: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// The plural, which is the resource.
    pub plural: &'static str,
}

const fn kind(group: &'static str, kind: &'static str, plural: &'static str) -> Served {
    Served { group, kind, plural }
}

/// Every kind beside NetworkPolicy that has a say over a pod's traffic. Calico keeps what people write as `projectcalico.org/v3` in kinds
/// of `crd.projectcalico.org`; where it serves the former by CustomResourceDefinitions, the latter aren't there.
pub const KINDS: &[Served] = &[
    kind("policy.networking.k8s.io", "ClusterNetworkPolicy", "clusternetworkpolicies"),
    kind("policy.networking.k8s.io", "AdminNetworkPolicy", "adminnetworkpolicies"),
    kind("policy.networking.k8s.io", "BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies"),
    kind("cilium.io", "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
    kind("cilium.io", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies"),
    kind("crd.projectcalico.org", "NetworkPolicy", "networkpolicies"),
    kind("crd.projectcalico.org", "GlobalNetworkPolicy", "globalnetworkpolicies"),
    kind("crd.projectcalico.org", "Tier", "tiers"),
    kind("projectcalico.org", "NetworkPolicy", "networkpolicies"),
    kind("projectcalico.org", "GlobalNetworkPolicy", "globalnetworkpolicies"),
    kind("projectcalico.org", "Tier", "tiers"),
];

/// Istio's: no part of what lets through, so of these only Quell's own are followed, to be put back.
const ISTIO: Served = kind(quarantine::ISTIO.0, quarantine::ISTIO.1, quarantine::ISTIO.2);

/// Follows every kind from the moment that it is served to the moment that it isn't any more, until `end`. `told` is told once it is known
/// which kinds are served, or that it can't be known for now.
pub async fn follow(client: Client, containment: Arc<Containment>, told: oneshot::Sender<()>, end: CancellationToken) {
    let mut told = Some(told);
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let stream = watch(definitions, watcher::Config::default()).default_backoff().take_until(end.cancelled_owned());
    let mut stream = std::pin::pin!(stream);
    let mut open: HashMap<&'static Served, AbortHandle> = HashMap::new();
    let mut listed: HashSet<&'static Served> = HashSet::new();
    loop {
        match stream.try_next().await {
            Ok(None) => break,
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(definition) | Event::Apply(definition))) => {
                let Some(kind) = of(&definition.name_any()) else { continue };
                listed.insert(kind);
                if *kind == ISTIO {
                    containment.istio_is_served();
                } else {
                    containment.is_served(kind);
                }
                // A definition that was just created isn't served at once, and changes again when it is.
                if open.get(kind).is_none_or(AbortHandle::is_finished) {
                    let (client, containment) = (client.clone(), containment.clone());
                    let task = if *kind == ISTIO {
                        tokio::spawn(own_of_istio(client, containment))
                    } else {
                        tokio::spawn(one(client, kind, containment))
                    };
                    open.insert(kind, task.abort_handle());
                }
            }
            Ok(Some(Event::Delete(definition))) => {
                if let Some(kind) = of(&definition.name_any()) {
                    gone(kind, &mut open, &containment);
                }
            }
            Ok(Some(Event::InitDone)) => {
                let missing: Vec<_> = open.keys().copied().filter(|kind| !listed.contains(kind)).collect();
                for kind in missing {
                    gone(kind, &mut open, &containment);
                }
                tell(&mut told);
            }
            Err(error) => {
                tracing::warn!(%error, "which kinds of policies are served can't be told; tried again");
                tell(&mut told);
            }
        }
    }
    for task in open.into_values() {
        task.abort();
    }
}

fn tell(told: &mut Option<oneshot::Sender<()>>) {
    if let Some(told) = told.take() {
        // Nobody waits any more when the operator ends.
        let _ = told.send(());
    }
}

fn of(definition: &str) -> Option<&'static Served> {
    let (plural, group) = definition.split_once('.')?;
    KINDS.iter().chain([&ISTIO]).find(|kind| (kind.plural, kind.group) == (plural, group))
}

fn gone(kind: &'static Served, open: &mut HashMap<&'static Served, AbortHandle>, containment: &Containment) {
    if let Some(task) = open.remove(kind) {
        task.abort();
    }
    if *kind == ISTIO {
        containment.istio_is_served_no_more();
    } else {
        containment.is_served_no_more(kind);
    }
}

/// Follows the policies of Istio's kind that quarantines have, until the kind isn't served any more.
async fn own_of_istio(client: Client, containment: Arc<Containment>) {
    let resource = match discovery::group(&client, ISTIO.group).await.map(|group| group.recommended_kind(ISTIO.kind)) {
        Ok(Some((resource, _))) => resource,
        Ok(None) => return,
        Err(error) => {
            tracing::info!(kind = ISTIO.kind, %error, "not served yet");
            return;
        }
    };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let stream = watch(api, watcher::Config::default().labels(names::QUARANTINE_POLICY)).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: BTreeMap<MeshPolicy, Value> = BTreeMap::new();
    let key = |object: &DynamicObject| (object.namespace().unwrap_or_default(), object.name_any());
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(mut object)) => {
                listed.insert(key(&object), object.data["spec"].take());
            }
            Ok(Event::InitDone) => containment.mesh_policies_are(std::mem::take(&mut listed)),
            Ok(Event::Apply(mut object)) => {
                let spec = object.data["spec"].take();
                containment.mesh_policy_is(key(&object), Some(spec));
            }
            Ok(Event::Delete(object)) => containment.mesh_policy_is(key(&object), None),
            Err(error) => tracing::warn!(kind = ISTIO.kind, %error, "policies can't be followed; tried again"),
        }
    }
}

async fn one(client: Client, kind: &'static Served, containment: Arc<Containment>) {
    let found = match discovery::group(&client, kind.group).await {
        Ok(group) => group.recommended_kind(kind.kind),
        Err(error) => {
            tracing::info!(kind = kind.kind, %error, "not served yet");
            return;
        }
    };
    let (Some((resource, _)), Some(policy_kind)) = (found, PolicyKind::of(kind.group, kind.kind)) else { return };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let stream =
        watch(api, watcher::Config::default()).modify(|object| object.managed_fields_mut().clear()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut known: BTreeSet<PolicyRef> = BTreeSet::new();
    let mut listed: BTreeSet<PolicyRef> = BTreeSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object) | Event::Apply(object)) => match read(&object, kind) {
                Ok(policy) => {
                    listed.insert(policy.reference().clone());
                    known.insert(policy.reference().clone());
                    containment.policy_stands(policy);
                }
                Err(error) => tracing::warn!(kind = kind.kind, name = object.name_any(), error, "not a policy"),
            },
            Ok(Event::Delete(object)) => {
                let reference = PolicyRef { kind: policy_kind, namespace: object.namespace(), name: object.name_any() };
                known.remove(&reference);
                containment.policy_gone(&reference);
            }
            Ok(Event::InitDone) => {
                for reference in &known - &listed {
                    containment.policy_gone(&reference);
                }
                known.clone_from(&listed);
                containment.is_read(kind);
            }
            Err(error) => {
                tracing::warn!(kind = kind.kind, %error, "policies can't be followed; tried again");
            }
        }
    }
}

fn read(object: &DynamicObject, kind: &Served) -> Result<Policy, String> {
    let mut value = json!(object);
    // In a list the objects don't say what they are.
    if value["kind"].is_null() {
        value["kind"] = json!(kind.kind);
        value["apiVersion"] = json!(format!("{}/v1", kind.group));
    }
    Policy::read(&value).map_err(|error| error.to_string())
}
