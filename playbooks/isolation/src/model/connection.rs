//! Whether one connection gets through, from one end to the other.

use std::net::IpAddr;
use std::sync::Arc;

use super::Model;
use crate::chain::stages;
use crate::exposure::Grounds;
use crate::pod::{Direction, Endpoint, Pod};
use crate::ports::Protocol;
use crate::verdict::{Other, Side, Traffic, Verdict, side};

impl Model {
    /// Whether a connection gets through, in one of the address families that both ends have.
    #[must_use]
    pub fn verdict(&self, from: &Endpoint, to: &Endpoint, protocol: Protocol, port: u16) -> Verdict {
        let (source, destination) = match (self.end(from), self.end(to)) {
            (Ok(source), Ok(destination)) => (source, destination),
            (Err(reason), _) => return Verdict::Unknown { direction: Direction::Egress, reason },
            (_, Err(reason)) => return Verdict::Unknown { direction: Direction::Ingress, reason },
        };
        if source.pod.is_some_and(|source| destination.pod.is_some_and(|pod| pod.reference() == source.reference())) {
            return Verdict::Allowed { egress: Grounds::Itself, ingress: Grounds::Itself };
        }
        let mut verdicts = families(&source, &destination).into_iter().map(|(source_address, destination_address)| {
            let names = destination.pod.map_or([].as_slice(), |pod| &pod.ports);
            let there =
                Traffic { other: self.other(&destination), address: destination_address, protocol, port, names };
            let egress = self.side(&source, Direction::Egress, &there);
            if is_own_node(&source, &destination) {
                return join(egress, Side::Allowed(Grounds::OwnNode));
            }
            let here = Traffic { other: self.other(&source), address: source_address, ..there };
            join(egress, self.side(&destination, Direction::Ingress, &here))
        });
        let Some(mut best) = verdicts.next() else {
            let reason = Arc::from("the two ends have no address of the same family");
            return Verdict::Unknown { direction: Direction::Egress, reason };
        };
        for verdict in verdicts {
            match (&best, &verdict) {
                (_, Verdict::Allowed { .. }) | (Verdict::Denied { .. }, Verdict::Unknown { .. }) => best = verdict,
                _ => {}
            }
        }
        best
    }

    fn end<'a>(&'a self, endpoint: &Endpoint) -> Result<End<'a>, Arc<str>> {
        match endpoint {
            Endpoint::Pod(reference) => {
                let pod = self.pod(reference).ok_or_else(|| format!("no pod {reference} is known"))?;
                let node = pod.host_network.then_some(pod.node.as_str());
                Ok(End { pod: Some(pod), node, addresses: pod.addresses.clone() })
            }
            Endpoint::Address(address) => {
                let owners = self.by_address.get(&address.to_canonical()).into_iter().flatten();
                let owners: Vec<_> = owners.filter_map(|pod| self.pod(pod)).collect();
                // Pods on a node's network have the node's address, and all of them have it: the node is meant.
                let node = owners.iter().find(|pod| pod.host_network).map(|pod| pod.node.as_str());
                let pod = owners.into_iter().find(|pod| !pod.host_network);
                Ok(End { pod, node: if pod.is_some() { None } else { node }, addresses: vec![*address] })
            }
        }
    }

    fn other<'a>(&'a self, end: &End<'a>) -> Other<'a> {
        match (end.pod, end.node) {
            (Some(pod), Some(_)) => Other::NodePod(self.seen(pod)),
            (Some(pod), None) => Other::Pod(self.seen(pod)),
            (None, Some(_)) => Other::Node,
            (None, None) => Other::Outside,
        }
    }

    fn side(&self, end: &End<'_>, direction: Direction, traffic: &Traffic<'_>) -> Side {
        let Some(pod) = end.pod else { return Side::Allowed(Grounds::NotAPod) };
        let seen = self.seen(pod);
        side(&stages(self.policies_over(&pod.namespace, &[]), &self.policies.tiers, &seen, direction), &seen, traffic)
    }
}

struct End<'a> {
    /// `None`: an address that no pod has to itself.
    pod: Option<&'a Pod>,
    /// The node on whose network it is.
    node: Option<&'a str>,
    addresses: Vec<IpAddr>,
}

type Families = Vec<(Option<IpAddr>, Option<IpAddr>)>;

/// The addresses of both ends, by family. A pod without an address yet is asked about by its labels alone.
fn families(source: &End<'_>, destination: &End<'_>) -> Families {
    let of = |end: &End<'_>, v4: bool| end.addresses.iter().map(IpAddr::to_canonical).find(|ip| ip.is_ipv4() == v4);
    if source.addresses.is_empty() || destination.addresses.is_empty() {
        return vec![(source.addresses.first().copied(), destination.addresses.first().copied())];
    }
    let both = [true, false].map(|v4| (of(source, v4), of(destination, v4)));
    both.into_iter().filter(|(a, b)| a.is_some() && b.is_some()).collect()
}

/// Traffic from a node to the pods on it is always let in.
fn is_own_node(source: &End<'_>, destination: &End<'_>) -> bool {
    let node = source.node.filter(|node| !node.is_empty());
    node.is_some() && node == destination.pod.map(|pod| pod.node.as_str())
}

fn join(egress: Side, ingress: Side) -> Verdict {
    match (egress, ingress) {
        (Side::Denied(by), _) => Verdict::Denied { direction: Direction::Egress, by },
        (_, Side::Denied(by)) => Verdict::Denied { direction: Direction::Ingress, by },
        (Side::Unknown(reason), _) => Verdict::Unknown { direction: Direction::Egress, reason },
        (_, Side::Unknown(reason)) => Verdict::Unknown { direction: Direction::Ingress, reason },
        (Side::Allowed(egress), Side::Allowed(ingress)) => Verdict::Allowed { egress, ingress },
    }
}
