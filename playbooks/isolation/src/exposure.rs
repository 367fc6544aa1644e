//! What is open at a pod.

use std::fmt;
use std::sync::Arc;

use crate::allowances::Allowances;
use crate::peer::Peer;
use crate::pod::Direction;
use crate::policy::PolicyRef;
use crate::ports::Ports;
use crate::region::{Block, Cube, Who};

/// How many lines [`Exposure::lines`] lists.
pub const LISTED: usize = 64;

/// Why a path is open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grounds {
    /// A policy allows it.
    Policy(PolicyRef),
    /// No policy isolates the pod in this direction.
    Unselected,
    /// Policies choose the pod, but none of them decides about this.
    Undecided,
    /// The pod is on its node's network, which no policy covers.
    HostNetwork,
    /// A pod always reaches itself.
    Itself,
    /// A node always reaches its own pods.
    OwnNode,
    /// This end is no pod: policies don't speak of it.
    NotAPod,
}

impl fmt::Display for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy(policy) => return write!(f, "allowed by {policy}"),
            Self::Unselected => "no policy isolates the pod",
            Self::Undecided => "no policy that chooses the pod decides about it",
            Self::HostNetwork => "the pod is on its node's network, which no policy covers",
            Self::Itself => "a pod always reaches itself",
            Self::OwnNode => "a node always reaches its own pods",
            Self::NotAPod => "no policy speaks of an end that is no pod",
        })
    }
}

/// Traffic that gets through: peers, and ports of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// To the pod, or from it.
    pub direction: Direction,
    /// The other end.
    pub peer: Peer,
    /// Ports of the destination.
    pub ports: Ports,
    /// Why it is open.
    pub by: Grounds,
    /// Whether it is open for sure: not where a rule that can't be told may deny it first.
    pub certain: bool,
}

/// One line: `in from namespace web (app=front) on TCP 8080, allowed by NetworkPolicy shop/allow-web`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_end(f, self.direction, &self.peer, &self.ports)?;
        match &self.by {
            Grounds::Policy(policy) => write!(f, ", allowed by {policy}")?,
            Grounds::Unselected => write!(f, ": no policy selects the pod for {}", self.direction)?,
            other => write!(f, ": {other}")?,
        }
        if self.certain { Ok(()) } else { f.write_str(" (unless a rule that can't be told denies it)") }
    }
}

fn write_end(f: &mut fmt::Formatter<'_>, direction: Direction, peer: &Peer, ports: &Ports) -> fmt::Result {
    let way = match direction {
        Direction::Ingress => "in from",
        Direction::Egress => "out to",
    };
    write!(f, "{way} {peer} on {ports}")
}

/// What can't be told of a pod's exposure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The direction that it is about.
    pub direction: Direction,
    /// Why it can't be told, without a full stop.
    pub reason: Arc<str>,
    /// The policy that can't be told.
    pub by: Option<PolicyRef>,
    /// The most that may be open.
    pub(crate) blocks: Vec<Block>,
}

/// One line: `maybe in from any address on any port: CiliumNetworkPolicy shop/api decides by names of hosts`.
impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("maybe ")?;
        for (at, (peer, ports)) in by_ports(self.blocks.clone()).iter().enumerate() {
            if at > 0 {
                f.write_str(" and ")?;
            }
            write_end(f, self.direction, peer, ports)?;
        }
        match &self.by {
            Some(policy) => write!(f, ": {policy} can't be told: {}", self.reason),
            None => write!(f, ": {}", self.reason),
        }
    }
}

/// What an exposure comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing gets through.
    Isolated,
    /// At least one path is open.
    Open,
    /// No path is open for sure, but something can't be told.
    Unknown,
}

/// Everything that gets through to a pod, and from it.
///
/// Left out, as no policy can cut it: traffic between a pod and itself, and from the pod's own node (its kubelet, its pods on the node's
/// network): <https://kubernetes.io/docs/concepts/services-networking/network-policies/#the-two-sorts-of-pod-isolation>. That the network
/// plugin enforces policies, and those kinds, is taken for granted; only a probe proves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Open paths: ingress first, then in the order in which policies are asked. Shared by the pods that have them in common.
    pub paths: Vec<Arc<Path>>,
    /// What can't be told.
    pub doubts: Vec<Arc<Doubt>>,
}

impl Exposure {
    /// What it comes to.
    #[must_use]
    pub fn state(&self) -> State {
        if self.paths.iter().any(|path| path.certain) {
            State::Open
        } else if self.paths.is_empty() && self.doubts.is_empty() {
            State::Isolated
        } else {
            State::Unknown
        }
    }

    /// What is open beyond what was asked for: the leaks.
    #[must_use]
    pub fn beyond(&self, allowances: &Allowances) -> Self {
        let paths = self.paths.iter().flat_map(|path| {
            let blocks = allowances.take(path.direction, Block::product(&path.peer.0, &path.ports));
            by_ports(blocks).into_iter().map(|(peer, ports)| Arc::new(Path { peer, ports, ..(**path).clone() }))
        });
        let doubts = self.doubts.iter().filter_map(|doubt| {
            let blocks = allowances.take(doubt.direction, doubt.blocks.clone());
            (!blocks.is_empty()).then(|| Arc::new(Doubt { blocks, ..(**doubt).clone() }))
        });
        Self { paths: paths.collect(), doubts: doubts.collect() }
    }

    /// The first [`LISTED`] paths and doubts, a line each, and how many more there are.
    #[must_use]
    pub fn lines(&self) -> Listed<String> {
        let paths = self.paths.iter().map(ToString::to_string);
        Listed::of(paths.chain(self.doubts.iter().map(ToString::to_string)), LISTED)
    }
}

/// The first of many, and how many more there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// The first ones.
    pub first: Vec<T>,
    /// How many more there are.
    pub more: usize,
}

impl<T> Listed<T> {
    pub(crate) fn of(mut all: impl Iterator<Item = T>, most: usize) -> Self {
        let first = all.by_ref().take(most).collect();
        Self { first, more: all.count() }
    }
}

/// Peers that can be reached on the same ports, as one.
pub(crate) fn by_ports(blocks: Vec<Block>) -> Vec<(Peer, Ports)> {
    let mut groups: Vec<(Vec<Cube>, Ports)> = Vec::new();
    for Block { cube, ports } in blocks {
        match groups.iter_mut().find(|(_, group)| *group == ports) {
            Some((cubes, _)) => add(cubes, cube),
            None => groups.push((vec![cube], ports)),
        }
    }
    groups.into_iter().map(|(cubes, ports)| (Peer(cubes), ports)).collect()
}

/// What cutting has taken apart comes together again where it is the same sort of peers, or at the same addresses.
fn add(cubes: &mut Vec<Cube>, cube: Cube) {
    for before in cubes.iter_mut() {
        if before.who == cube.who {
            before.addresses = before.addresses.union(&cube.addresses);
            return;
        }
        if let (Who::Others(kinds), Who::Others(other)) = (&mut before.who, &cube.who)
            && before.addresses == cube.addresses
        {
            *kinds = kinds.and(*other);
            return;
        }
    }
    cubes.push(cube);
}
