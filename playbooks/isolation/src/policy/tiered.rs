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
use crate::ports::{Ports, Protocol};
use crate::region::{Cube, Others};

/// What all of them write in the same way; `P` is the part of a rule that says which ports.
#[derive(Deserialize)]
pub(super) struct Rules<P> {
    subject: Choice,
    #[serde(default = "Vec::new")]
    ingress: Vec<Written<P>>,
    #[serde(default = "Vec::new")]
    egress: Vec<Written<P>>,
}

/// A rule as it is written.
#[derive(Deserialize)]
struct Written<P> {
    action: String,
    from: Option<Vec<Peer>>,
    to: Option<Vec<Peer>>,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(flatten)]
    ports: P,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// How a version says which ports a rule is about.
pub(super) trait RulePorts {
    /// `None`: it says nothing about ports, so that it is about all of them. `Err`: why it can't be told which.
    fn ports(&self) -> Option<Result<Ports, String>>;
}

/// A name of a port, on whichever protocol a pod has it.
pub(super) fn named(name: &str) -> Ports {
    Protocol::ALL.iter().fold(Ports::default(), |all, each| all.and(&Ports::named(*each, name)))
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

impl<P: RulePorts> Rules<P> {
    /// The policy that these rules are at a place in the order.
    pub(super) fn at(&self, kind: PolicyKind, name: &str, tier: &Tier, priority: f64) -> Result<Policy, String> {
        let subject = match self.subject.labels() {
            Ok((namespace, pods)) => Subject { namespaces: vec![namespace], pods: vec![pods], doubt: None },
            Err(reason) => Subject { doubt: Some(Arc::from(reason)), ..Subject::everyone() },
        };
        let mut sections = Vec::new();
        for (direction, written) in [(Direction::Ingress, &self.ingress), (Direction::Egress, &self.egress)] {
            let rules: Vec<_> = written.iter().map(|each| each.rules(direction)).collect::<Result<_, _>>()?;
            if !rules.is_empty() {
                let rules = rules.into_iter().flatten().collect();
                sections.push(Section { direction, tier: tier.clone(), order: priority, isolates: false, rules });
            }
        }
        let reference = PolicyRef { kind, namespace: None, name: name.to_owned() };
        Ok(Policy { reference, subject, tier: None, sections })
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

impl<P: RulePorts> Written<P> {
    /// A rule whose peers can be told only in part is one rule for each part, at the same place.
    fn rules(&self, direction: Direction) -> Result<Vec<Rule>, String> {
        let ((Direction::Ingress, Some(peers), None) | (Direction::Egress, None, Some(peers))) =
            (direction, &self.from, &self.to)
        else {
            return Err(format!("a rule of it for {direction} doesn't say for whom"));
        };
        let (action, mut doubt) = match self.action.as_str() {
            "Allow" | "Accept" => (Action::Accept, None),
            "Deny" => (Action::Deny, None),
            "Pass" => (Action::Pass, None),
            other => (Action::Pass, Some(format!("a rule of it has the action {other}, which is not known"))),
        };
        let ports = match self.unknown.keys().next() {
            Some(field) => Err(format!("a rule of it has the field {field}, which is not known")),
            None => self.ports.ports().unwrap_or_else(|| Ok(Ports::all())),
        };
        let ports = ports.unwrap_or_else(|reason| {
            doubt.get_or_insert(reason);
            Ports::all()
        });
        let mut certain = Vec::new();
        let mut doubted = Vec::new();
        for peer in peers {
            let (cubes, reason) = peer.cubes();
            match reason.or_else(|| doubt.clone()) {
                None => certain.push(cubes),
                Some(reason) => doubted.push((cubes, reason)),
            }
        }
        let one =
            |peers, doubt: Option<String>| Rule { action, peers, ports: ports.clone(), doubt: doubt.map(Arc::from) };
        let doubted = doubted.into_iter().map(|(cubes, reason)| one(vec![cubes], Some(reason)));
        Ok(std::iter::once(one(certain, None)).chain(doubted).collect())
    }
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
