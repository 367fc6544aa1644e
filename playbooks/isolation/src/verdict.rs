//! One connection: from here to there, on this port.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::{Link, Stage};
use crate::exposure::Grounds;
use crate::pod::{Direction, Seen};
use crate::policy::{Action, PolicyRef, Rule, Told};
use crate::ports::{NamedPort, Protocol};
use crate::region::{Cube, Others, Who};

/// Whether a connection gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Allowed {
        /// Why the source may.
        egress: Grounds,
        /// Why the destination lets it in.
        ingress: Grounds,
    },
    /// It doesn't.
    Denied {
        /// The side that stops it.
        direction: Direction,
        /// The policy that denies it, or the first one that isolates the pod while none allows it.
        by: PolicyRef,
    },
    /// It can't be told.
    Unknown {
        /// The side that can't be told.
        direction: Direction,
        /// Why, without a full stop.
        reason: Arc<str>,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed { egress, ingress } => write!(f, "allowed (egress: {egress}; ingress: {ingress})"),
            Self::Denied { direction, by } => write!(f, "denied at {direction} by {by}"),
            Self::Unknown { direction, reason } => write!(f, "unknown at {direction}: {reason}"),
        }
    }
}

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Allowed(Grounds),
    Denied(PolicyRef),
    Unknown(Arc<str>),
}

impl Side {
    fn lets_through(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// The other end, as one side's policies see it.
#[derive(Clone, Copy)]
pub(crate) enum Other<'a> {
    Pod(Seen<'a>),
    /// A pod on its node's network: most network plugins take it for the node, some for the pod.
    NodePod(Seen<'a>),
    Node,
    Outside,
}

pub(crate) struct Traffic<'a> {
    pub(crate) other: Other<'a>,
    /// Of the other end, where it has one in this family.
    pub(crate) address: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// Of the destination: what names mean.
    pub(crate) names: &'a [NamedPort],
}

/// What a pod's policies say about a connection.
pub(crate) fn side(stages: &[Stage<'_>], pod: &Seen<'_>, traffic: &Traffic<'_>) -> Side {
    if pod.host_network {
        return Side::Allowed(Grounds::HostNetwork);
    }
    if let Other::NodePod(seen) = traffic.other {
        let as_pod = decide(stages, &Traffic { other: Other::Pod(seen), ..*traffic });
        let as_node = decide(stages, &Traffic { other: Other::Node, ..*traffic });
        if as_pod.lets_through() == as_node.lets_through() {
            return as_node;
        }
        return Side::Unknown(Arc::from(
            "the other end is on its node's network, and it is up to the network plugin whether it is taken for a pod",
        ));
    }
    decide(stages, traffic)
}

fn decide(stages: &[Stage<'_>], traffic: &Traffic<'_>) -> Side {
    let mut perhaps = Perhaps::default();
    let mut chosen = false;
    for stage in stages {
        match decide_stage(stage, traffic, &mut perhaps) {
            Outcome::Next => {}
            Outcome::Is(side) => return perhaps.settle(side),
        }
        chosen |= stage.links().any(|link| link.isolates || !link.section.rules.is_empty());
    }
    perhaps.settle(Side::Allowed(if chosen { Grounds::Undecided } else { Grounds::Unselected }))
}

enum Outcome {
    Is(Side),
    Next,
}

fn decide_stage(stage: &Stage<'_>, traffic: &Traffic<'_>, perhaps: &mut Perhaps) -> Outcome {
    for rank in &stage.ranks {
        let mut said = rank.iter().filter_map(|link| Some((first_match(link, traffic, perhaps)?, link)));
        let Some((action, link)) = said.next() else { continue };
        if stage.tier.leaves_order_open()
            && let Some((_, other)) = said.find(|(other, _)| *other != action)
        {
            let (one, other) = (&link.policy.reference, &other.policy.reference);
            return Outcome::Is(Side::Unknown(Arc::from(format!(
                "{one} and {other} have the same priority, and which of them is asked first is not said"
            ))));
        }
        match action {
            Action::Accept => return Outcome::Is(Side::Allowed(Grounds::Policy(link.policy.reference.clone()))),
            Action::Deny => return Outcome::Is(Side::Denied(link.policy.reference.clone())),
            Action::Pass => return Outcome::Next,
        }
    }
    for link in stage.links().filter(|link| link.isolates) {
        match &link.doubt {
            None => return Outcome::Is(Side::Denied(link.policy.reference.clone())),
            Some(reason) => perhaps.add(Action::Deny, reason),
        }
    }
    Outcome::Next
}

fn first_match(link: &Link<'_>, traffic: &Traffic<'_>, perhaps: &mut Perhaps) -> Option<Action> {
    for rule in &link.section.rules {
        match matches(rule, traffic) {
            Told::No => {}
            Told::Yes => match rule.doubt.as_ref().or(link.doubt.as_ref()) {
                None => return Some(rule.action),
                Some(reason) => perhaps.add(rule.action, reason),
            },
            Told::Maybe(reason) => perhaps.add(rule.action, &reason),
        }
    }
    None
}

/// Why rules that can't be told may have said otherwise.
#[derive(Default)]
struct Perhaps {
    allowed: Option<Arc<str>>,
    denied: Option<Arc<str>>,
}

impl Perhaps {
    fn add(&mut self, action: Action, reason: &Arc<str>) {
        // What is passed on may be allowed or denied by the tiers below.
        if action != Action::Deny {
            self.allowed.get_or_insert_with(|| reason.clone());
        }
        if action != Action::Accept {
            self.denied.get_or_insert_with(|| reason.clone());
        }
    }

    fn settle(self, side: Side) -> Side {
        let otherwise = if side.lets_through() { self.denied } else { self.allowed };
        otherwise.map_or(side, Side::Unknown)
    }
}

fn matches(rule: &Rule, traffic: &Traffic<'_>) -> Told {
    if !rule.ports.on_pod(traffic.names).contains(traffic.protocol, traffic.port) {
        return Told::No;
    }
    let mut told = Told::No;
    for cube in rule.peers.iter().flatten() {
        match has(cube, traffic) {
            Told::Yes => return Told::Yes,
            Told::Maybe(reason) => told = Told::Maybe(reason),
            Told::No => {}
        }
    }
    told
}

pub(crate) fn has(cube: &Cube, traffic: &Traffic<'_>) -> Told {
    let at = match traffic.address {
        Some(address) => cube.addresses.contains(address),
        // It has no address of this family: only a rule that doesn't ask for one matches.
        None => cube.addresses == crate::addresses::Addresses::all(),
    };
    if !at {
        return Told::No;
    }
    match (&cube.who, traffic.other) {
        (Who::Pods { namespace, pod }, Other::Pod(seen) | Other::NodePod(seen)) => {
            if pod.matches(|key| seen.label(key)) { seen.is_in(namespace) } else { Told::No }
        }
        (Who::Others(kinds), Other::Node) => other(*kinds, Others::NODES),
        (Who::Others(kinds), Other::Outside) => other(*kinds, Others::WORLD),
        _ => Told::No,
    }
}

fn other(kinds: Others, kind: Others) -> Told {
    if kinds.has(kind) {
        Told::Yes
    } else if kinds.has(Others::API_SERVER) {
        Told::Maybe(Arc::from("whether the API server has the address isn't known"))
    } else {
        Told::No
    }
}
