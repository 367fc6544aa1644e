//! Pods, and the ends of a connection.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use crate::labels::{Labels, NAMESPACE_NAME};
use crate::policy::Told;
use crate::ports::{NamedPort, Protocol};

/// No label key has a space, so it is none that a person sets.
pub(crate) const SERVICE_ACCOUNT: &str = "service account";

/// A pod's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl PodRef {
    /// Of that namespace and name.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What policies can look at in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `status.podIPs`; none before it has a network.
    pub addresses: Vec<IpAddr>,
    /// Node that it runs on; empty before it is scheduled.
    pub node: String,
    /// Whether it shares its node's network, which no policy covers.
    pub host_network: bool,
    /// Ports that have a name.
    pub ports: Vec<NamedPort>,
    /// ServiceAccount that it runs as: Cilium and Calico can choose by it.
    pub service_account: String,
    /// Whether it has ended (phase `Succeeded` or `Failed`), for good: it has no network any more, and its addresses may be another's.
    pub ended: bool,
}

impl Pod {
    /// The pod as the API has it.
    #[must_use]
    pub fn of(pod: &core::Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let containers = spec.into_iter().flat_map(|spec| {
            // Sidecars are init containers; their ports count, too.
            spec.containers.iter().chain(spec.init_containers.iter().flatten())
        });
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(named_port);
        let addresses = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()));
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
            node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
            ports: ports.collect(),
            service_account: spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
            ended: status
                .and_then(|status| status.phase.as_deref())
                .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
        }
    }

    /// Its place.
    #[must_use]
    pub fn reference(&self) -> PodRef {
        PodRef::new(&self.namespace, &self.name)
    }
}

fn named_port(port: &core::ContainerPort) -> Option<NamedPort> {
    Some(NamedPort {
        name: port.name.clone()?,
        protocol: Protocol::named(port.protocol.as_deref().unwrap_or("TCP"))?,
        number: u16::try_from(port.container_port).ok()?,
    })
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A pod.
    Pod(PodRef),
    /// An address. Where a pod has it, that pod is meant.
    Address(IpAddr),
}

/// The side of a pod's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections that the pod opens.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What selectors see of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seen<'a> {
    pub(crate) namespace: &'a str,
    /// `None` where the namespace isn't known.
    pub(crate) namespace_labels: Option<&'a BTreeMap<String, String>>,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) service_account: &'a str,
    pub(crate) ports: &'a [NamedPort],
    pub(crate) host_network: bool,
    pub(crate) ended: bool,
}

impl<'a> Seen<'a> {
    pub(crate) fn of(pod: &'a Pod, namespace_labels: Option<&'a BTreeMap<String, String>>) -> Self {
        Self {
            namespace: &pod.namespace,
            namespace_labels,
            labels: &pod.labels,
            service_account: &pod.service_account,
            ports: &pod.ports,
            host_network: pod.host_network,
            ended: pod.ended,
        }
    }

    /// Whether a namespace selector chooses the pod's namespace. Its name is always known.
    pub(crate) fn is_in(&self, namespace: &Labels) -> Told {
        let name = |key: &str| (key == NAMESPACE_NAME).then_some(self.namespace);
        let told = match self.namespace_labels {
            Some(labels) => namespace.matches(|key| name(key).or_else(|| labels.get(key).map(String::as_str))),
            None if !namespace.has_key(|key| key != NAMESPACE_NAME) => namespace.matches(name),
            // What is asked of other labels may be so; the name may say no all the same.
            None if namespace.only(NAMESPACE_NAME).matches(name) => {
                return Told::Maybe(Arc::from(format!("the labels of namespace {} aren't known", self.namespace)));
            }
            None => false,
        };
        if told { Told::Yes } else { Told::No }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&'a str> {
        if key == SERVICE_ACCOUNT {
            return Some(self.service_account);
        }
        self.labels.get(key).map(String::as_str)
    }
}
