//! Policies that deny whatever others allow, where the cluster serves a kind of them: beside the NetworkPolicy, never in its place.
//!
//! A NetworkPolicy that selects every pod of a namespace allows what it allows to a quarantined pod, too, whatever its labels are. These
//! don't ask: Cilium's deny rules come before all that allows (<https://docs.cilium.io/en/stable/security/policy/language/#deny-policies>), Calico's policies go
//! by their order, in which NetworkPolicies have 1000 (<https://docs.tigera.io/calico/latest/reference/resources/networkpolicy>), and the tier
//! Admin of ClusterNetworkPolicy comes before NetworkPolicies (<https://network-policy-api.sigs.k8s.io/api-overview/>).

mod calico;
mod cilium;
mod cluster;

use std::fmt::Debug;

use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::{CustomResource, Resource, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::PlaybookKind;
use quell_crds::v1alpha1::step::{Method, Quarantine};
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

/// Whether the quarantine is to have such a policy, and which kind: an error where it must have one and can't.
pub(super) fn choose(parameters: &Quarantine, cx: &Context<'_>) -> Result<Option<DenyKind>, ActionError> {
    if parameters.method == Method::Labels {
        return Ok(None);
    }
    let usable =
        |kind: &DenyKind| *kind != DenyKind::ClusterNetworkPolicy || cx.playbook == PlaybookKind::ClusterPlaybook;
    let served: Vec<DenyKind> = cx.cluster.deny_kinds().into_iter().filter(usable).collect();
    let able = served.iter().copied().filter(|kind| kind.lacks(parameters).is_none()).min();
    if able.is_some() || parameters.method != Method::DenyPolicy {
        return Ok(able);
    }
    let why: Vec<&str> = served.iter().filter_map(|kind| kind.lacks(parameters)).collect();
    Err(if why.is_empty() {
        ActionError::refused(
            Reason::TargetUnsupported,
            "this cluster serves no kind of policy that denies whatever others allow (Cilium's, Calico's, or for a ClusterPlaybook \
             ClusterNetworkPolicy): use method: Auto or Labels",
        )
    } else {
        let message = format!(
            "method: DenyPolicy needs a policy that denies whatever others allow, and none that this cluster serves can say what is to \
             stay open: {}. Take that away, or use method: Auto or Labels",
            why.join("; ")
        );
        ActionError::refused(Reason::ParameterInvalid, message)
    })
}

/// The policy stands when this returns; the answer is whether something had to be done for it.
pub(super) async fn ensure(
    kind: DenyKind,
    cx: &Context<'_>,
    namespace: &str,
    profile: &Profile,
    parameters: &Quarantine,
) -> Result<bool, ActionError> {
    let name = profile.policy_name();
    match kind {
        DenyKind::Cilium => {
            let wanted = CiliumNetworkPolicy::new(&name, CiliumSpec(cilium::spec(profile, parameters.isolate)));
            stand(cx, &Api::namespaced(cx.writer.client(), namespace), in_namespace(wanted, namespace), profile).await
        }
        DenyKind::Calico => {
            // The name of a policy begins with its tier's.
            let wanted =
                CalicoNetworkPolicy::new(&format!("default.{name}"), CalicoSpec(calico::spec(profile, parameters)));
            stand(cx, &Api::namespaced(cx.writer.client(), namespace), in_namespace(wanted, namespace), profile).await
        }
        DenyKind::ClusterNetworkPolicy => {
            let wanted = ClusterNetworkPolicy::new(&name, ClusterSpec(cluster::spec(profile, parameters)));
            stand(cx, &Api::all(cx.writer.client()), wanted, profile).await
        }
    }
}

pub(super) fn in_namespace<K: Resource<Scope = NamespaceResourceScope>>(mut object: K, namespace: &str) -> K {
    object.meta_mut().namespace = Some(namespace.to_owned());
    object
}

/// The same for any kind whose `spec` is kept as it is written.
pub(super) async fn stand<K>(
    cx: &Context<'_>,
    api: &Api<K>,
    mut wanted: K,
    profile: &Profile,
) -> Result<bool, ActionError>
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
        // By this label the guards know it, and whoever follows it.
        let is_known = there.labels().get(names::QUARANTINE_POLICY).map(String::as_str) == Some(profile.name());
        if is_known && spec(&there) == spec(&wanted) {
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

impl DenyKind {
    /// Why a policy of this kind can't deny what the step denies, and leave open what it leaves open; `None`: it can.
    fn lacks(self, parameters: &Quarantine) -> Option<&'static str> {
        match self {
            Self::Cilium => cilium::lacks(parameters),
            Self::Calico => None,
            Self::ClusterNetworkPolicy => cluster::lacks(parameters),
        }
    }
}

/// The policy as the isolation model reads it, to ask before it is written.
#[must_use]
pub fn as_object(kind: DenyKind, namespace: &str, parameters: &Quarantine, mark: &Mark) -> Value {
    let profile = Profile::of(parameters);
    let name = profile.policy_name();
    let mut object = match kind {
        DenyKind::Cilium => {
            json!(CiliumNetworkPolicy::new(&name, CiliumSpec(cilium::spec(&profile, parameters.isolate))))
        }
        DenyKind::Calico => {
            json!(CalicoNetworkPolicy::new(&format!("default.{name}"), CalicoSpec(calico::spec(&profile, parameters))))
        }
        DenyKind::ClusterNetworkPolicy => {
            json!(ClusterNetworkPolicy::new(&name, ClusterSpec(cluster::spec(&profile, parameters))))
        }
    };
    object["metadata"]["labels"] = json!(profile.labels(mark));
    if kind != DenyKind::ClusterNetworkPolicy {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use quell_isolation::{Allowances, Exposure, Model, Pod, PodRef, Policy};
    use serde_json::from_value;

    use super::*;

    fn parameters(value: Value) -> Quarantine {
        from_value(value).unwrap_or_default()
    }

    fn mark() -> Mark {
        let text = || "x".to_owned();
        Mark { namespace: text(), remediation: text(), finding: text(), step: text() }
    }

    /// A cluster with a quarantined pod, and these policies.
    fn exposure(parameters: &Quarantine, further: &[Value]) -> Exposure {
        let profile = Profile::of(parameters);
        let mut model = Model::new();
        model.upsert_namespace("shop", &[("kubernetes.io/metadata.name".to_owned(), "shop".to_owned())].into());
        let labels = [(quell_crds::names::QUARANTINE.to_owned(), profile.name().to_owned())].into();
        model.upsert_pod(Pod { namespace: "shop".to_owned(), name: "web".to_owned(), labels, ..Pod::default() });
        model.upsert_policy(Policy::from(&profile.policy("shop", &mark())));
        for policy in further {
            model.upsert_policy(Policy::read(policy).unwrap_or_else(|error| panic!("{error}: {policy}")));
        }
        model.exposure(&PodRef::new("shop", "web")).unwrap_or_else(|| panic!("no such pod"))
    }

    fn allow_all() -> Value {
        let policy: NetworkPolicy = from_value(json!({
            "metadata": {"name": "allow-all", "namespace": "shop"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]},
        }))
        .unwrap_or_default();
        json!(policy)
    }

    fn profiles() -> Vec<Quarantine> {
        let forensics = json!({"namespaceSelector": {"matchLabels": {"team": "soc"}}, "podSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["forensics", "probe"]}, {"key": "old", "operator": "DoesNotExist"}]}});
        let ports = json!([{"port": 22}, {"port": 8000, "endPort": 8010}, {"port": 514, "protocol": "UDP"}]);
        let mut with_ports = forensics.clone();
        with_ports["ports"] = ports.clone();
        let station = json!({"cidr": "10.9.0.0/24", "ports": ports});
        [
            json!({}),
            json!({"isolate": "Ingress"}),
            json!({"allowDNS": true}),
            json!({"allow": [forensics]}),
            json!({"allow": [with_ports], "allowDNS": true, "isolate": "Egress"}),
            json!({"allow": [station]}),
            json!({"allow": [{"cidr": "10.9.0.0/24", "except": ["10.9.0.7/32"], "direction": "Ingress"}]}),
            json!({"allow": [{"podSelector": {"matchLabels": {"app": "forensics"}}}]}),
            json!({"allow": [{"namespaceSelector": {}}], "isolate": "Egress"}),
            json!({"denyCIDRs": ["169.254.169.254/32", "fd00::/8"], "isolate": "Ingress"}),
            json!({"denyCIDRs": ["10.0.0.0/8"], "isolate": "Egress", "allow": [{"cidr": "10.9.0.0/24"}]}),
        ]
        .map(parameters)
        .into()
    }

    /// What the profile alone leaves open is what may be open, and no more than that; and all of that is.
    #[test]
    fn what_stays_open_beside_a_policy_that_allows_all_is_what_the_profile_leaves_open() {
        for (kind, able) in [(DenyKind::Calico, 11), (DenyKind::ClusterNetworkPolicy, 8)] {
            let mut said = 0;
            for parameters in profiles().iter().filter(|parameters| kind.lacks(parameters).is_none()) {
                said += 1;
                let alone = exposure(parameters, &[]);
                let policy = as_object(kind, "shop", parameters, &mark());
                let denied = exposure(parameters, &[allow_all(), policy.clone()]);
                let beyond = denied.beyond(&Allowances::of(&alone));
                // On the way in from outside of the cluster ClusterNetworkPolicy has no say.
                let outside = |line: &String| {
                    kind == DenyKind::ClusterNetworkPolicy && line.starts_with("in from any address that is no pod's")
                };
                let lines: Vec<String> = beyond.lines().first.into_iter().filter(|line| !outside(line)).collect();
                assert_eq!(lines, Vec::<String>::new(), "{kind:?} {parameters:?}\n{policy:#}");
                // Addresses that are denied, and in ClusterNetworkPolicy addresses on the way in, are those of pods, too, which a
                // NetworkPolicy leaves to its selectors.
                let by_address = !parameters.deny_cidrs.is_empty()
                    || (kind == DenyKind::ClusterNetworkPolicy
                        && parameters.allow.iter().any(|peer| peer.cidr.is_some()));
                let lost = alone.beyond(&Allowances::of(&denied));
                assert!(by_address || lost == Exposure::default(), "{kind:?} {parameters:?}\n{:?}", lost.lines().first);
            }
            assert_eq!(said, able, "{kind:?}");
        }
    }

    #[test]
    fn deny_rules_that_come_before_all_that_allows_leave_nothing_open() {
        let able = profiles().into_iter().filter(|parameters| DenyKind::Cilium.lacks(parameters).is_none());
        assert_eq!(able.collect::<Vec<_>>(), profiles()[..2]);
    }

    #[test]
    fn a_pod_that_only_a_network_policy_guards_is_open_beside_one_that_allows_all() {
        assert_ne!(exposure(&Quarantine::default(), &[allow_all()]), Exposure::default());
    }
}
