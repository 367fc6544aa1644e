//! Who can be at the other end, as sets that can be cut with each other.
//!
//! The other end is a pod, or it isn't; and it has an address. A selector says something about the first alone, a CIDR about the second
//! alone (of a pod's address, too, or not: that is up to the network plugin, and taken as yes where the API leaves it open).

use crate::addresses::Addresses;
use crate::labels::Labels;
use crate::ports::Ports;

/// Kinds of peers that no pod selector chooses, as a set. Pods on their node's network are nodes here: network plugins can't tell them
/// from their node (<https://kubernetes.io/docs/concepts/services-networking/network-policies/#networkpolicy-and-hostnetwork-pods>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Others(u8);

impl Others {
    pub(crate) const NODES: Self = Self(1);
    pub(crate) const WORLD: Self = Self(1 << 1);
    pub(crate) const API_SERVER: Self = Self(1 << 2);
    pub(crate) const HEALTH: Self = Self(1 << 3);
    pub(crate) const INIT: Self = Self(1 << 4);
    pub(crate) const UNMANAGED: Self = Self(1 << 5);
    pub(crate) const PROXY: Self = Self(1 << 6);
    pub(crate) const ALL: Self = Self((1 << 7) - 1);

    const NAMES: [(Self, &str); 7] = [
        (Self::WORLD, "addresses outside the cluster"),
        (Self::NODES, "nodes of the cluster"),
        (Self::API_SERVER, "the API server"),
        (Self::HEALTH, "health checks of the network plugin"),
        (Self::INIT, "pods that are about to start"),
        (Self::UNMANAGED, "pods that the network plugin doesn't manage"),
        (Self::PROXY, "the ingress proxy of the network plugin"),
    ];

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn common(self, other: Self) -> Option<Self> {
        let common = self.0 & other.0;
        (common != 0).then_some(Self(common))
    }

    fn without(self, other: Self) -> Option<Self> {
        let rest = self.0 & !other.0;
        (rest != 0).then_some(Self(rest))
    }

    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(kind, _)| self.has(*kind)).map(|(_, name)| name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    Pods { namespace: Labels, pod: Labels },
    Others(Others),
}

impl Who {
    fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Pods { namespace, pod }, Self::Pods { namespace: other_namespace, pod: other_pod }) => {
                Some(Self::Pods {
                    namespace: namespace.intersection(other_namespace)?,
                    pod: pod.intersection(other_pod)?,
                })
            }
            (Self::Others(kinds), Self::Others(other)) => kinds.common(*other).map(Self::Others),
            _ => None,
        }
    }

    fn difference(&self, other: &Self) -> Vec<Self> {
        match (self, other) {
            (Self::Pods { namespace, pod }, Self::Pods { namespace: other_namespace, pod: other_pod }) => {
                let Some(common) = namespace.intersection(other_namespace) else { return vec![self.clone()] };
                let elsewhere = namespace.difference(other_namespace).into_iter();
                let elsewhere = elsewhere.map(|namespace| Self::Pods { namespace, pod: pod.clone() });
                let here = pod.difference(other_pod).into_iter();
                elsewhere.chain(here.map(|pod| Self::Pods { namespace: common.clone(), pod })).collect()
            }
            (Self::Others(kinds), Self::Others(other)) => kinds.without(*other).map(Self::Others).into_iter().collect(),
            _ => vec![self.clone()],
        }
    }
}

/// Peers of one sort, at the addresses of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cube {
    pub(crate) who: Who,
    pub(crate) addresses: Addresses,
}

impl Cube {
    pub(crate) fn pods(namespace: Labels, pod: Labels) -> Self {
        Self { who: Who::Pods { namespace, pod }, addresses: Addresses::all() }
    }

    pub(crate) fn others(kinds: Others) -> Self {
        Self { who: Who::Others(kinds), addresses: Addresses::all() }
    }

    /// Whoever has one of the addresses: a pod or not.
    pub(crate) fn at(addresses: &Addresses) -> Vec<Self> {
        [Who::Pods { namespace: Labels::any(), pod: Labels::any() }, Who::Others(Others::ALL)]
            .map(|who| Self { who, addresses: addresses.clone() })
            .into()
    }

    pub(crate) fn anyone() -> Vec<Self> {
        Self::at(&Addresses::all())
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        let addresses = self.addresses.intersection(&other.addresses);
        if addresses.is_empty() {
            return None;
        }
        Some(Self { who: self.who.intersection(&other.who)?, addresses })
    }

    fn difference(&self, other: &Self) -> Vec<Self> {
        let Some(common) = self.intersection(other) else { return vec![self.clone()] };
        let mut rest: Vec<_> = self
            .who
            .difference(&other.who)
            .into_iter()
            .map(|who| Self { who, addresses: self.addresses.clone() })
            .collect();
        let addresses = self.addresses.difference(&other.addresses);
        if !addresses.is_empty() {
            rest.push(Self { who: common.who, addresses });
        }
        rest
    }
}

/// Peers, and ports of the destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Block {
    pub(crate) cube: Cube,
    pub(crate) ports: Ports,
}

impl Block {
    pub(crate) fn everything() -> Vec<Self> {
        Self::product(&Cube::anyone(), &Ports::all())
    }

    pub(crate) fn product(cubes: &[Cube], ports: &Ports) -> Vec<Self> {
        cubes.iter().map(|cube| Self { cube: cube.clone(), ports: ports.clone() }).collect()
    }

    pub(crate) fn intersection(&self, cube: &Cube, ports: &Ports) -> Option<Self> {
        let ports = self.ports.intersection(ports);
        if ports.is_empty() {
            return None;
        }
        Some(Self { cube: self.cube.intersection(cube)?, ports })
    }

    /// What is left without these peers on these ports: blocks that have nothing in common.
    pub(crate) fn difference(&self, cube: &Cube, ports: &Ports) -> Vec<Self> {
        let Some(common) = self.intersection(cube, ports) else { return vec![self.clone()] };
        let elsewhere = self.cube.difference(cube).into_iter();
        let mut rest: Vec<_> = elsewhere.map(|cube| Self { cube, ports: self.ports.clone() }).collect();
        let ports = self.ports.difference(ports);
        if !ports.is_empty() {
            rest.push(Self { cube: common.cube, ports });
        }
        rest
    }
}
