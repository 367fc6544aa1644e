//! What may stay open at a pod that is cut off otherwise.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use thiserror::Error;

use crate::addresses::Addresses;
use crate::exposure::Exposure;
use crate::labels::Labels;
use crate::pod::Direction;
use crate::ports::{Ports, Protocol};
use crate::region::{Block, Cube};

/// Why something can't be allowed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AllowanceError {
    /// A selector has no meaning.
    #[error("can't read what is to stay open: {0}")]
    Selector(String),
}

/// What was asked to stay open: a path within it is no leak.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowances(Vec<(Direction, Block)>);

impl Allowances {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All that an exposure lets through for sure: what a policy that was written on purpose leaves open is asked for.
    #[must_use]
    pub fn of(exposure: &Exposure) -> Self {
        let paths = exposure.paths.iter().filter(|path| path.certain);
        let blocks = paths.flat_map(|path| {
            let direction = path.direction;
            Block::product(&path.peer.0, &path.ports).into_iter().map(move |block| (direction, block))
        });
        Self(blocks.collect())
    }

    /// DNS, wherever it is answered: out to UDP and TCP 53.
    #[must_use]
    pub fn dns() -> Self {
        Self::none().with(Direction::Egress, &Cube::anyone(), &Self::dns_ports())
    }

    /// DNS at the cluster's own servers alone: pods with `k8s-app=kube-dns` in `kube-system`, as Kubernetes' own addons label them.
    #[must_use]
    pub fn cluster_dns() -> Self {
        let servers = Cube::pods(Labels::namespace("kube-system"), Labels::equal("k8s-app", "kube-dns"));
        Self::none().with(Direction::Egress, &[servers], &Self::dns_ports())
    }

    fn dns_ports() -> Ports {
        Ports::one(Protocol::Udp, 53).and(&Ports::one(Protocol::Tcp, 53))
    }

    /// And everything in one direction, as a profile wants it that isolates the other one alone.
    #[must_use]
    pub fn direction(self, direction: Direction) -> Self {
        self.with(direction, &Cube::anyone(), &Ports::all())
    }

    /// And whoever has one of the addresses.
    #[must_use]
    pub fn addresses(self, direction: Direction, addresses: &Addresses, ports: &Ports) -> Self {
        self.with(direction, &Cube::at(addresses), ports)
    }

    /// And pods that two selectors choose. An empty one chooses all.
    pub fn pods(
        self,
        direction: Direction,
        namespaces: &LabelSelector,
        pods: &LabelSelector,
        ports: &Ports,
    ) -> Result<Self, AllowanceError> {
        let labels = |selector| Labels::of(selector).map_err(AllowanceError::Selector);
        let cube = Cube::pods(labels(namespaces)?, labels(pods)?);
        Ok(self.with(direction, &[cube], ports))
    }

    /// And pods of one namespace.
    pub fn pods_in(
        self,
        direction: Direction,
        namespace: &str,
        pods: &LabelSelector,
        ports: &Ports,
    ) -> Result<Self, AllowanceError> {
        let pods = Labels::of(pods).map_err(AllowanceError::Selector)?;
        Ok(self.with(direction, &[Cube::pods(Labels::namespace(namespace), pods)], ports))
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn with(mut self, direction: Direction, cubes: &[Cube], ports: &Ports) -> Self {
        self.0.extend(Block::product(cubes, ports).into_iter().map(|block| (direction, block)));
        self
    }

    /// What of the blocks wasn't asked for.
    pub(crate) fn take(&self, direction: Direction, blocks: Vec<Block>) -> Vec<Block> {
        let asked = self.0.iter().filter(|(way, _)| *way == direction);
        asked.fold(blocks, |rest, (_, block)| {
            rest.into_iter().flat_map(|open| open.difference(&block.cube, &block.ports)).collect()
        })
    }
}
