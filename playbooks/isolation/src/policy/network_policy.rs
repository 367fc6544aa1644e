//! NetworkPolicy (networking.k8s.io/v1).
//!
//! <https://kubernetes.io/docs/concepts/services-networking/network-policies/> and
//! <https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/>. What the API server would refuse, and what
//! thus isn't said anywhere, is doubted.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Action, Policy, PolicyKind, PolicyRef, Rule, Section, Subject, Tier};
use crate::addresses::Addresses;
use crate::labels::Labels;
use crate::pod::Direction;
use crate::ports::{Ports, Protocol};
use crate::region::Cube;

/// Where Calico puts them among its own; elsewhere nothing else stands in their tier.
pub(super) const ORDER: f64 = 1000.0;

pub(super) fn read(policy: &NetworkPolicy) -> Policy {
    let namespace = policy.metadata.namespace.clone().unwrap_or_default();
    let spec = policy.spec.clone().unwrap_or_default();
    let (pods, doubt) = match Labels::of(&spec.pod_selector.unwrap_or_default()) {
        Ok(labels) => (labels, None),
        Err(reason) => (Labels::any(), Some(Arc::from(reason))),
    };
    let ingress = spec.ingress.unwrap_or_default();
    let egress = spec.egress.unwrap_or_default();
    // "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set and Egress will be set if the
    // NetworkPolicy has any egress rules."
    let types = spec.policy_types.filter(|types| !types.is_empty());
    let covers =
        |kind: &str, otherwise: bool| types.as_ref().map_or(otherwise, |types| types.iter().any(|t| t == kind));
    let (for_ingress, for_egress) = (covers("Ingress", true), covers("Egress", !egress.is_empty()));

    let section =
        |direction, rules| Section { direction, tier: Tier::NetworkPolicy, order: ORDER, isolates: true, rules };
    let mut sections = Vec::new();
    if for_ingress {
        let rules = ingress.iter().flat_map(|rule| rules(&namespace, rule.from.as_deref(), rule.ports.as_deref()));
        sections.push(section(Direction::Ingress, rules.collect()));
    }
    if for_egress {
        let rules = egress.iter().flat_map(|rule| rules(&namespace, rule.to.as_deref(), rule.ports.as_deref()));
        sections.push(section(Direction::Egress, rules.collect()));
    }
    Policy {
        subject: Subject { namespaces: vec![Labels::namespace(&namespace)], pods: vec![pods], doubt },
        sections,
        tier: None,
        reference: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            name: policy.metadata.name.clone().unwrap_or_default(),
            namespace: Some(namespace),
        },
    }
}

/// A missing or empty list of peers means every peer, of ports every port. What has no meaning becomes a rule of its own, in doubt.
fn rules(namespace: &str, peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Vec<Rule> {
    let mut doubts = Vec::new();
    let mut all_peers = Vec::new();
    for each in peers.unwrap_or_default() {
        match peer(namespace, each) {
            Ok(cubes) => all_peers.push(cubes),
            Err(reason) => doubts.push(reason),
        }
    }
    let mut all_ports = Ports::default();
    for each in ports.unwrap_or_default() {
        match port(each) {
            Ok(one) => all_ports = all_ports.and(&one),
            Err(reason) => doubts.push(reason),
        }
    }
    if peers.is_none_or(<[_]>::is_empty) {
        all_peers.push(Cube::anyone());
    }
    if ports.is_none_or(<[_]>::is_empty) {
        all_ports = Ports::all();
    }
    let doubted = doubts.into_iter().map(|reason| Rule {
        action: Action::Accept,
        peers: vec![Cube::anyone()],
        ports: Ports::all(),
        doubt: Some(Arc::from(reason)),
    });
    let certain = Rule { action: Action::Accept, peers: all_peers, ports: all_ports, doubt: None };
    std::iter::once(certain).chain(doubted).collect()
}

fn peer(namespace: &str, peer: &NetworkPolicyPeer) -> Result<Vec<Cube>, String> {
    let selected = |selector: &Option<LabelSelector>| selector.as_ref().map(Labels::of).transpose();
    let (namespaces, pods) = (selected(&peer.namespace_selector)?, selected(&peer.pod_selector)?);
    match (&peer.ip_block, namespaces, pods) {
        (Some(block), None, None) => ip_block(block),
        (Some(_), ..) => Err("a peer of it has both an ipBlock and a selector".to_owned()),
        (None, None, None) => Err("a peer of it chooses nothing that is known".to_owned()),
        (None, None, Some(pods)) => Ok(vec![Cube::pods(Labels::namespace(namespace), pods)]),
        (None, Some(namespaces), pods) => Ok(vec![Cube::pods(namespaces, pods.unwrap_or_default())]),
    }
}

/// A block matches whoever has one of its addresses. Whether that is so for pods is up to the network plugin (Cilium: no; Calico: yes);
/// taken as yes, a path is told rather than missed.
fn ip_block(block: &IPBlock) -> Result<Vec<Cube>, String> {
    let parse = |cidr: &String| cidr.parse().map_err(|_| format!("{cidr:?} in it is not a CIDR"));
    let except: Vec<_> = block.except.iter().flatten().map(parse).collect::<Result<_, _>>()?;
    Ok(Cube::at(&Addresses::block(parse(&block.cidr)?, &except)))
}

fn port(port: &NetworkPolicyPort) -> Result<Ports, String> {
    let name = port.protocol.as_deref().unwrap_or("TCP");
    let protocol = Protocol::named(name).ok_or_else(|| format!("the protocol {name} in it is not known"))?;
    let number = |port: i32| u16::try_from(port).map_err(|_| format!("{port} in it is not a port"));
    match (&port.port, port.end_port) {
        (None, None) => Ok(Ports::whole(protocol)),
        (Some(IntOrString::Int(port)), None) => Ok(Ports::one(protocol, number(*port)?)),
        (Some(IntOrString::String(name)), None) => Ok(Ports::named(protocol, name)),
        (Some(IntOrString::Int(first)), Some(last)) if *first <= last => {
            Ok(Ports::range(protocol, number(*first)?, number(last)?))
        }
        (_, Some(last)) => Err(format!("endPort {last} in it has no port below it")),
    }
}
