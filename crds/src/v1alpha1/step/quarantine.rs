use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::Selector;

/// Cut the pod off from the network.
///
/// A policy that denies stands before the pod gets the label that it selects by, so that no moment is open. The pod that the Finding names
/// is cut off, by its UID, and no other. What is still open then is computed from every policy of the cluster, and told by the
/// `Contained` condition of the Finding; a quarantine that somebody changes is put back until it is undone.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.denyCIDRs) || (has(self.isolate) && self.isolate != 'Both')").message("denyCIDRs is for the direction that isolate leaves open: with isolate: Both everything is denied anyway"),
    validation = Rule::new("!has(self.denyCIDRs) || self.denyCIDRs.all(one, isCIDR(one))").message("denyCIDRs holds CIDRs, such as 169.254.169.254/32"),
)]
pub struct Quarantine {
    /// Take the pod's own labels away, so that no Service sends to it, no policy that allows something selects it, and its owner starts a
    /// clean replica in its place; the pod stays for forensics, and its labels are kept on it and in the Remediation. With `false` the
    /// labels stay, and its owner keeps it: then other policies that select the pod may still allow traffic, unless `method` denies them.
    /// Default: true.
    #[serde(default = "yes")]
    pub detach: bool,
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

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            detach: true,
            isolate: Isolate::Both,
            allow_dns: false,
            allow: Vec::new(),
            deny_cidrs: Vec::new(),
            method: Method::Auto,
        }
    }
}

fn yes() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
