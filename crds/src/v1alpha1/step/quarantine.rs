mod probe;

pub use probe::Probe;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::Selector;

/// Cut the pod off from the network.
///
/// A policy that denies stands before the pod gets the label that it selects by, so that no moment is open. The pod that the Finding names
/// is cut off, by its UID, and no other. What is still open then is computed from every policy of the cluster, and told by the
/// `Contained` condition of the Finding; a quarantine that somebody changes is put back until it is undone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.denyCIDRs) || (has(self.isolate) && self.isolate != 'Both')").message("denyCIDRs is for the direction that isolate leaves open: with isolate: Both everything is denied anyway"),
    validation = Rule::new("!has(self.denyCIDRs) || self.denyCIDRs.all(one, isCIDR(one))").message("denyCIDRs holds CIDRs, such as 169.254.169.254/32"),
    validation = Rule::new("!has(self.probe) || !has(self.isolate) || self.isolate != 'Egress'").message("probe tries to connect to the pod, which isolate: Egress leaves open; what the pod opens can't be tried from outside of it"),
    validation = Rule::new("!(has(self.detach) && has(self.owner)) || self.detach == (self.owner != 'Keep')").message("detach and owner contradict each other: detach: false is owner: Keep, detach: true is owner: Replace or Pause"),
    validation = Rule::new("!has(self.maxOthers) || (has(self.others) && self.others != 'None')").message("maxOthers goes with others: SameDigest"),
)]
pub struct Quarantine {
    /// Short for `owner`: `true` is `Replace`, `false` is `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,
    /// What the pod's owner (its ReplicaSet, Job, DaemonSet, …) does about it. Default: `Replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Other pods that are cut off as well. Default: `None`. Each has a receipt of its own, and `undo` lifts them all. The pod that the
    /// Finding names goes first, and waits for none of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub others: Others,
    /// The most other pods that are cut off; what there is beyond is told, and left alone. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub max_others: Option<i32>,
    /// What is done about a pod on its node's network (`hostNetwork`), which no policy covers. Default: `Refuse`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_network: HostNetwork,
    /// Which direction is cut off. Default: `Both`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolate: Isolate,
    /// Let the pod ask the cluster's DNS servers: pods with the label `k8s-app=kube-dns` in `kube-system`. Names can carry data out.
    #[serde(default, rename = "allowDNS", skip_serializing_if = "is_default")]
    pub allow_dns: bool,
    /// What stays open all the same, such as the address of a forensics station.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub allow: Vec<Peer>,
    /// Addresses that are cut off in the direction that `isolate` leaves open, such as `169.254.169.254/32`.
    #[serde(default, rename = "denyCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 43)))]
    pub deny_cidrs: Vec<String>,
    /// How the pod is cut off. Default: `Auto`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub method: Method,
    /// Try it: connections that are really made to the pod, once it is cut off. Needs `probe.enabled` in the chart. Without it nothing is
    /// tried, and `Contained` is computed alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
}

/// What the owner of a quarantined pod does about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Owner {
    /// The pod's own labels are taken away, so that no Service sends to it, no policy that allows something selects it, and its owner
    /// starts a clean one in its place; the pod stays for forensics, and its labels are kept on it and in the Remediation. A StatefulSet
    /// can't start another while a pod has the name.
    #[default]
    Replace,
    /// The pod's labels stay, and it stays its owner's, which starts no other. Services go on sending to it, and other policies that select
    /// it may still allow traffic, unless `method` denies them.
    Keep,
    /// The labels are taken away, and the owner is kept from starting another: a Deployment, bare ReplicaSet or Argo Rollout has one
    /// replica less, a Job one less in parallel. A DaemonSet, and an owner of a kind that Quell doesn't know, have no such brake: for
    /// those it is as `Keep`. Undo gives the replica back.
    Pause,
}

/// Which other pods are cut off as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Others {
    /// None.
    #[default]
    None,
    /// Pods of the same namespace that run the image with the same digest, as the Finding names it, or else as the pod runs it. A pod that
    /// is started later isn't among them: `denyImage` keeps it from starting.
    SameDigest,
}

/// What is done about a pod on its node's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HostNetwork {
    /// Nothing: the step fails, and says what can be done.
    #[default]
    Refuse,
    /// The pod's node is cordoned, so that nothing further is placed beside it; the pod itself goes on. Undo uncordons the node.
    Cordon,
    /// The pod is evicted, or deleted where a PodDisruptionBudget forbids that. What was in its memory and on its file system is gone, and
    /// can't be undone.
    Terminate,
}

/// Directions of a pod's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Isolate {
    /// To and from the pod.
    #[default]
    Both,
    /// Connections to the pod.
    Ingress,
    /// Connections that the pod opens.
    Egress,
}

/// How a pod is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// A NetworkPolicy and the pod's labels; and, where this cluster serves a kind of policy that denies whatever others allow, one of
    /// that kind, too.
    #[default]
    Auto,
    /// A NetworkPolicy and the pod's labels alone. A policy that selects every pod of the namespace defeats it; `Contained` says so.
    Labels,
    /// The step fails where this cluster serves no kind of policy that denies whatever others allow.
    DenyPolicy,
}

/// Who stays within reach. Either `cidr`, or selectors of pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cidr) != (has(self.namespaceSelector) || has(self.podSelector))").message("needs either cidr or selectors"),
    validation = Rule::new("!has(self.cidr) || isCIDR(self.cidr)").message("cidr must be one, such as 10.1.2.3/32"),
    validation = Rule::new("!has(self.except) || (has(self.cidr) && self.except.all(one, isCIDR(one)))").message("except holds CIDRs within cidr"),
)]
pub struct Peer {
    /// Which direction stays open. Default: `Both`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub direction: Isolate,
    /// Addresses. Network plugins differ in whether pods count by their addresses: choose those by selectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 43))]
    pub cidr: Option<String>,
    /// Addresses within `cidr` that don't stay open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 43)))]
    pub except: Vec<String>,
    /// Namespaces; without it the pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Pods in them; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// Ports at the end that is connected to; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ports: Vec<PeerPort>,
}

/// Ports of one protocol.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.endPort) || self.endPort >= self.port").message("endPort must not be less than port"))]
pub struct PeerPort {
    /// Default: `TCP`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: PeerProtocol,
    /// The port, or the first of a range.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// The last port of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
}

/// Protocols with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum PeerProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl PeerProtocol {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl Quarantine {
    /// What the owner does, however it is said.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner.unwrap_or(if self.detach == Some(false) { Owner::Keep } else { Owner::Replace })
    }

    /// The most other pods that are cut off.
    #[must_use]
    pub fn most_others(&self) -> usize {
        match self.others {
            Others::None => 0,
            Others::SameDigest => self.max_others.and_then(|most| usize::try_from(most).ok()).unwrap_or(MOST_OTHERS),
        }
    }
}

/// Other pods that are cut off where the step says no number.
const MOST_OTHERS: usize = 10;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
