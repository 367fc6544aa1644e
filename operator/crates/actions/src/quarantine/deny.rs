//! Policies that deny whatever others allow, where the cluster serves a kind of them: beside the NetworkPolicy, never in its place.
//!
//! A NetworkPolicy that selects every pod of a namespace allows what it allows to a quarantined pod, too, whatever its labels are. These
//! don't ask: Cilium's deny rules come before all that allows (<https://docs.cilium.io/en/stable/security/policy/language/#deny-policies>), Calico's policies go
//! by their order, in which NetworkPolicies have 1000 (<https://docs.tigera.io/calico/latest/reference/resources/networkpolicy>), and the tier
//! Admin of ClusterNetworkPolicy comes before NetworkPolicies (<https://network-policy-api.sigs.k8s.io/api-overview/>).

use std::fmt::Debug;

use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::{CustomResource, Resource, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::PlaybookKind;
use quell_crds::v1alpha1::step::{Isolate, Method, Quarantine};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::LOOKS;
use super::profile::Profile;
use crate::mark::{Mark, annotate, label};
use crate::write::Patched;
use crate::{ActionError, Context};

/// Kinds of policies that deny whatever others allow, the one that is taken first where several are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DenyKind {
    /// CiliumNetworkPolicy, with deny rules.
    Cilium,
    /// Calico's own NetworkPolicy, early in its order.
    Calico,
    /// ClusterNetworkPolicy, in the tier Admin. It is of the whole cluster: for ClusterPlaybooks alone.
    ClusterNetworkPolicy,
}

impl DenyKind {
    /// The kind by its API group and name.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            ("cilium.io", "CiliumNetworkPolicy") => Some(Self::Cilium),
            ("crd.projectcalico.org", "NetworkPolicy") => Some(Self::Calico),
            ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Some(Self::ClusterNetworkPolicy),
            _ => None,
        }
    }
}

/// `spec` of a policy of another project's kind, as its API has it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumNetworkPolicy",
    plural = "ciliumnetworkpolicies",
    namespaced,
    schema = "disabled"
)]
pub struct CiliumSpec(Map<String, Value>);

/// `spec` of a policy of another project's kind, as its API has it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "NetworkPolicy",
    plural = "networkpolicies",
    root = "CalicoNetworkPolicy",
    namespaced,
    schema = "disabled"
)]
pub struct CalicoSpec(Map<String, Value>);

/// `spec` of a policy of another project's kind, as its API has it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "policy.networking.k8s.io",
    version = "v1alpha2",
    kind = "ClusterNetworkPolicy",
    plural = "clusternetworkpolicies",
    schema = "disabled"
)]
pub struct ClusterSpec(Map<String, Value>);

/// Before every policy that people write: Calico's smallest order that is used by habit is 1.
const CALICO_ORDER: f64 = 0.5;

/// Whether the quarantine is to have such a policy, and which kind: an error where it must have one and can't.
pub(super) fn choose(parameters: &Quarantine, cx: &Context<'_>) -> Result<Option<DenyKind>, ActionError> {
    if parameters.method == Method::Labels {
        return Ok(None);
    }
    let leaves_open = parameters.allow_dns || !parameters.allow.is_empty() || !parameters.deny_cidrs.is_empty();
    let usable =
        |kind: &DenyKind| *kind != DenyKind::ClusterNetworkPolicy || cx.playbook == PlaybookKind::ClusterPlaybook;
    let served = cx.cluster.deny_kinds().into_iter().filter(usable).min();
    match (parameters.method, served) {
        (_, Some(kind)) if !leaves_open => Ok(Some(kind)),
        (Method::DenyPolicy, Some(_)) => Err(ActionError::refused(
            Reason::ParameterInvalid,
            "method: DenyPolicy denies everything, and can't leave anything open: take allow, allowDNS and denyCIDRs away, or use \
             method: Labels",
        )),
        (Method::DenyPolicy, None) => Err(ActionError::refused(
            Reason::TargetUnsupported,
            "this cluster serves no kind of policy that denies whatever others allow (Cilium's, Calico's, or for a ClusterPlaybook \
             ClusterNetworkPolicy): use method: Auto or Labels",
        )),
        _ => Ok(None),
    }
}

/// The policy stands when this returns; the answer is whether something had to be done for it.
pub(super) async fn ensure(
    kind: DenyKind,
    cx: &Context<'_>,
    namespace: &str,
    profile: &Profile,
    isolate: Isolate,
) -> Result<bool, ActionError> {
    let name = profile.policy_name();
    match kind {
        DenyKind::Cilium => {
            let wanted = CiliumNetworkPolicy::new(&name, CiliumSpec(cilium(profile, isolate)));
            stand(cx, &Api::namespaced(cx.writer.client(), namespace), in_namespace(wanted, namespace), profile).await
        }
        DenyKind::Calico => {
            // The name of a policy begins with its tier's.
            let wanted = CalicoNetworkPolicy::new(&format!("default.{name}"), CalicoSpec(calico(profile, isolate)));
            stand(cx, &Api::namespaced(cx.writer.client(), namespace), in_namespace(wanted, namespace), profile).await
        }
        DenyKind::ClusterNetworkPolicy => {
            let wanted = ClusterNetworkPolicy::new(&name, ClusterSpec(cluster(profile, isolate)));
            stand(cx, &Api::all(cx.writer.client()), wanted, profile).await
        }
    }
}

fn in_namespace<K: Resource<Scope = NamespaceResourceScope>>(mut object: K, namespace: &str) -> K {
    object.meta_mut().namespace = Some(namespace.to_owned());
    object
}

async fn stand<K>(cx: &Context<'_>, api: &Api<K>, mut wanted: K, profile: &Profile) -> Result<bool, ActionError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    wanted.meta_mut().labels = Some(profile.labels(cx.mark));
    wanted.meta_mut().annotations = Some(cx.mark.annotations());
    let (name, namespace) = (wanted.name_any(), wanted.namespace().unwrap_or_default());
    for _ in 0..LOOKS {
        if cx.writer.create(api, &wanted).await?.is_some() {
            return Ok(true);
        }
        // Gone again already: create it again.
        let Some(there) = cx.writer.get(api, &namespace, &name).await? else { continue };
        if spec(&there) == spec(&wanted) {
            return Ok(false);
        }
        if mend(cx, api, &there, &wanted, profile).await? {
            return Ok(true);
        }
    }
    Err(ActionError::for_now(
        Reason::ChangedSince,
        format!("{} {name} changes faster than it can be read", K::kind(&())),
    ))
}

/// `false`: it isn't any more as it was read.
async fn mend<K>(cx: &Context<'_>, api: &Api<K>, there: &K, wanted: &K, profile: &Profile) -> Result<bool, ActionError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let metadata = there.meta();
    let before = Map::from_iter([("spec".to_owned(), spec(there))]);
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version}),
        json!({"op": "add", "path": "/spec", "value": spec(wanted)}),
    ];
    operations.extend(label(metadata.labels.as_ref(), &profile.labels(cx.mark)));
    operations.extend(annotate(metadata.annotations.as_ref(), &cx.mark.annotations_with(&before)));
    let namespace = there.namespace().unwrap_or_default();
    match cx.writer.patch_unread(api, &namespace, &there.name_any(), operations).await {
        Ok(Patched::Changed(_)) => Ok(true),
        Ok(Patched::Precondition) => Ok(false),
        Err(error) if error.reason() == Reason::TargetNotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn spec<K: Serialize>(object: &K) -> Value {
    let mut object = json!(object);
    object["spec"].take()
}

fn directions(isolate: Isolate) -> (bool, bool) {
    (isolate != Isolate::Egress, isolate != Isolate::Ingress)
}

/// Not the host: it probes the pod, and a container that fails its probes is restarted, and the evidence in it lost.
fn cilium(profile: &Profile, isolate: Isolate) -> Map<String, Value> {
    let pods = json!([{"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}]}]);
    let (ingress, egress) = directions(isolate);
    let mut spec =
        Map::from_iter([("endpointSelector".to_owned(), json!({"matchLabels": {names::QUARANTINE: profile.name()}}))]);
    if ingress {
        let others = json!(["world", "remote-node", "unmanaged", "init"]);
        spec.insert("ingressDeny".to_owned(), json!([{"fromEndpoints": pods}, {"fromEntities": others}]));
    }
    if egress {
        spec.insert("egressDeny".to_owned(), json!([{"toEntities": ["all"]}]));
    }
    spec
}

fn calico(profile: &Profile, isolate: Isolate) -> Map<String, Value> {
    let (ingress, egress) = directions(isolate);
    let mut spec = Map::from_iter([
        ("tier".to_owned(), json!("default")),
        ("order".to_owned(), json!(CALICO_ORDER)),
        ("selector".to_owned(), json!(format!("{} == '{}'", names::QUARANTINE, profile.name()))),
    ]);
    let mut types = Vec::new();
    for (wanted, type_, rules) in [(ingress, "Ingress", "ingress"), (egress, "Egress", "egress")] {
        if wanted {
            types.push(json!(type_));
            spec.insert(rules.to_owned(), json!([{"action": "Deny"}]));
        }
    }
    spec.insert("types".to_owned(), Value::Array(types));
    spec
}

fn cluster(profile: &Profile, isolate: Isolate) -> Map<String, Value> {
    let (ingress, egress) = directions(isolate);
    let pods = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {names::QUARANTINE: profile.name()}}});
    let mut spec = Map::from_iter([
        ("tier".to_owned(), json!("Admin")),
        ("priority".to_owned(), json!(0)),
        ("subject".to_owned(), json!({"pods": pods})),
    ]);
    if ingress {
        spec.insert(
            "ingress".to_owned(),
            json!([{"name": "quarantine", "action": "Deny", "from": [{"namespaces": {}}]}]),
        );
    }
    if egress {
        let networks = json!(["0.0.0.0/0", "::/0"]);
        let to = json!([{"namespaces": {}}, {"networks": networks}]);
        spec.insert("egress".to_owned(), json!([{"name": "quarantine", "action": "Deny", "to": to}]));
    }
    spec
}

/// The policy as the isolation model reads it, to ask before it is written.
#[must_use]
pub fn as_object(kind: DenyKind, namespace: &str, parameters: &Quarantine, mark: &Mark) -> Value {
    let profile = Profile::of(parameters);
    let (name, isolate) = (profile.policy_name(), parameters.isolate);
    let mut object = match kind {
        DenyKind::Cilium => json!(CiliumNetworkPolicy::new(&name, CiliumSpec(cilium(&profile, isolate)))),
        DenyKind::Calico => {
            json!(CalicoNetworkPolicy::new(&format!("default.{name}"), CalicoSpec(calico(&profile, isolate))))
        }
        DenyKind::ClusterNetworkPolicy => {
            json!(ClusterNetworkPolicy::new(&name, ClusterSpec(cluster(&profile, isolate))))
        }
    };
    object["metadata"]["labels"] = json!(profile.labels(mark));
    if kind != DenyKind::ClusterNetworkPolicy {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}
