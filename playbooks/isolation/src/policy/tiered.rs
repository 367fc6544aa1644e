//! What ClusterNetworkPolicy and its forerunners have in common: subjects, peers, and rules that are asked in their order.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::{Action, Policy, PolicyKind, PolicyRef, Rule, Section, Subject, Tier};
use crate::addresses::Addresses;
use crate::labels::Labels;
use crate::pod::Direction;
use crate::ports::Ports;
use crate::region::{Cube, Others};

/// A policy as it is read, but for what its kind writes in its own way.
pub(super) struct Tiered {
    pub(super) kind: PolicyKind,
    pub(super) name: String,
    pub(super) tier: Tier,
    pub(super) priority: f64,
    pub(super) subject: Choice,
    pub(super) ingress: Vec<TieredRule>,
    pub(super) egress: Vec<TieredRule>,
}

/// Pods, by their namespace's labels alone or by both.
#[derive(Clone, Default, Deserialize)]
pub(super) struct Choice {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPods>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamespacedPods {
    #[serde(default)]
    namespace_selector: LabelSelector,
    #[serde(default)]
    pod_selector: LabelSelector,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer {
    #[serde(flatten)]
    choice: Choice,
    nodes: Option<LabelSelector>,
    networks: Option<Vec<String>>,
    domain_names: Option<Vec<String>>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

pub(super) struct TieredRule {
    pub(super) action: String,
    pub(super) peers: Vec<Peer>,
    /// `Err`: why it can't be told which.
    pub(super) ports: Result<Ports, String>,
}

impl Tiered {
    pub(super) fn policy(self) -> Policy {
        let subject = match self.subject.labels() {
            Ok((namespace, pods)) => Subject { namespaces: vec![namespace], pods: vec![pods], doubt: None },
            Err(reason) => Subject { doubt: Some(Arc::from(reason)), ..Subject::everyone() },
        };
        let section = |direction, rules: &[TieredRule]| Section {
            direction,
            tier: self.tier.clone(),
            order: self.priority,
            isolates: false,
            rules: rules.iter().flat_map(rule).collect(),
        };
        Policy {
            reference: PolicyRef { kind: self.kind, namespace: None, name: self.name.clone() },
            subject,
            tier: None,
            sections: [section(Direction::Ingress, &self.ingress), section(Direction::Egress, &self.egress)]
                .into_iter()
                .filter(|section| !section.rules.is_empty())
                .collect(),
        }
    }
}

impl Choice {
    fn labels(&self) -> Result<(Labels, Labels), String> {
        match (&self.namespaces, &self.pods) {
            (Some(namespaces), None) => Ok((Labels::of(namespaces)?, Labels::any())),
            (None, Some(pods)) => Ok((Labels::of(&pods.namespace_selector)?, Labels::of(&pods.pod_selector)?)),
            _ => Err("it doesn't say which pods in a way that is known".to_owned()),
        }
    }
}

/// A rule whose peers can be told only in part is one rule for each part, at the same place.
fn rule(rule: &TieredRule) -> Vec<Rule> {
    let (action, mut doubt) = match rule.action.as_str() {
        "Allow" | "Accept" => (Action::Accept, None),
        "Deny" => (Action::Deny, None),
        "Pass" => (Action::Pass, None),
        other => (Action::Pass, Some(format!("a rule of it has the action {other}, which is not known"))),
    };
    let ports = rule.ports.clone().unwrap_or_else(|reason| {
        doubt.get_or_insert(reason);
        Ports::all()
    });
    let mut certain = Vec::new();
    let mut doubted = Vec::new();
    for peer in &rule.peers {
        let (cubes, reason) = peer.cubes();
        match reason.or_else(|| doubt.clone()) {
            None => certain.push(cubes),
            Some(reason) => doubted.push((cubes, reason)),
        }
    }
    let one = |peers, doubt: Option<String>| Rule { action, peers, ports: ports.clone(), doubt: doubt.map(Arc::from) };
    let doubted = doubted.into_iter().map(|(cubes, reason)| one(vec![cubes], Some(reason)));
    std::iter::once(one(certain, None)).chain(doubted).collect()
}

impl Peer {
    /// The most that it can match, and why it may be less.
    ///
    /// What none of its fields says, a newer API may; that a plugin then has to fail closed is no proof that it does.
    fn cubes(&self) -> (Vec<Cube>, Option<String>) {
        let set = [
            self.choice.namespaces.is_some() || self.choice.pods.is_some(),
            self.nodes.is_some(),
            self.networks.is_some(),
            self.domain_names.is_some(),
        ];
        if !self.unknown.is_empty() || set.iter().filter(|is_set| **is_set).count() != 1 {
            return (Cube::anyone(), Some("a peer of it is chosen in a way that is not known".to_owned()));
        }
        if let Some(networks) = &self.networks {
            // Traffic between pods is checked against networks, too.
            let parsed: Option<Vec<_>> = networks.iter().map(|cidr| cidr.parse().ok()).collect();
            let Some(blocks) = parsed else {
                return (Cube::anyone(), Some(format!("not every network in it is a CIDR: {}", networks.join(", "))));
            };
            let all = blocks.into_iter().map(|block| Addresses::block(block, &[]));
            return (Cube::at(&all.fold(Addresses::default(), |all, block| all.union(&block))), None);
        }
        if let Some(nodes) = &self.nodes {
            let all = Labels::of(nodes).is_ok_and(|labels| labels.is_any());
            let doubt = (!all).then(|| "which nodes it chooses isn't known".to_owned());
            return (vec![Cube::others(Others::NODES)], doubt);
        }
        if let Some(names) = &self.domain_names {
            let reason = format!("it chooses by names of hosts ({})", names.join(", "));
            return (Cube::anyone(), Some(reason));
        }
        match self.choice.labels() {
            Ok((namespaces, pods)) => (vec![Cube::pods(namespaces, pods)], None),
            Err(reason) => (vec![Cube::pods(Labels::any(), Labels::any())], Some(reason)),
        }
    }
}

pub(super) fn port(number: i64) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{number} in it is not a port"))
}

pub(super) fn union(ports: impl Iterator<Item = Result<Ports, String>>) -> Result<Ports, String> {
    ports.into_iter().try_fold(Ports::default(), |all, ports| Ok(all.and(&ports?)))
}
