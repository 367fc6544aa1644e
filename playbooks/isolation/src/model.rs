//! The cluster as it is known, kept up to date change by change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::stages;
use crate::exposure::{Exposure, Grounds, LISTED, Listed};
use crate::peer::Peer;
use crate::pod::{Direction, Endpoint, Pod, PodRef, Seen};
use crate::policy::{CalicoTier, Policy, PolicyKind, PolicyRef, Told};
use crate::ports::Protocol;
use crate::region::{Cube, Who};
use crate::verdict::{Other, Side, Traffic, Verdict, side};
use crate::walk::walk;

/// Namespaces, pods and policies.
///
/// Feed it every pod and every policy of every kind that the cluster serves: what it doesn't know doesn't count. The methods that take a
/// change return the tracked pods whose exposure it altered, which is every one that is altered: an exposure says what selectors let
/// through, so other pods coming and going don't change it.
#[derive(Debug, Default)]
pub struct Model {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: BTreeMap<String, BTreeMap<String, Pod>>,
    by_address: HashMap<IpAddr, BTreeSet<PodRef>>,
    policies: Policies,
    /// Sorted by namespace first. `None`: the pod isn't there.
    tracked: BTreeMap<PodRef, Option<Arc<Exposure>>>,
}

#[derive(Debug, Default)]
struct Policies {
    by_namespace: HashMap<String, BTreeMap<PolicyRef, Policy>>,
    of_cluster: BTreeMap<PolicyRef, Policy>,
    tiers: BTreeMap<String, CalicoTier>,
}

impl Policies {
    fn over(&self, namespace: &str) -> impl Iterator<Item = &Policy> {
        self.by_namespace.get(namespace).into_iter().flat_map(BTreeMap::values).chain(self.of_cluster.values())
    }

    fn replace(&mut self, reference: &PolicyRef, policy: Option<Policy>) -> Option<Policy> {
        if reference.kind == PolicyKind::CalicoTier {
            match policy.as_ref().and_then(|policy| policy.tier) {
                Some(tier) => self.tiers.insert(reference.name.clone(), tier),
                None => self.tiers.remove(&reference.name),
            };
        }
        let kept = match &reference.namespace {
            Some(namespace) => self.by_namespace.entry(namespace.clone()).or_default(),
            None => &mut self.of_cluster,
        };
        match policy {
            Some(policy) => kept.insert(reference.clone(), policy),
            None => kept.remove(reference),
        }
    }
}

impl Model {
    /// Of an empty cluster.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A namespace is there, with these labels.
    pub fn upsert_namespace(&mut self, name: &str, labels: &BTreeMap<String, String>) -> Vec<PodRef> {
        if self.namespaces.get(name) == Some(labels) {
            return Vec::new();
        }
        self.namespaces.insert(name.to_owned(), labels.clone());
        self.recompute(Some(name), |_| true, |_| true)
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) -> Vec<PodRef> {
        if self.namespaces.remove(name).is_none() {
            return Vec::new();
        }
        self.recompute(Some(name), |_| true, |_| true)
    }

    /// A pod is there, as it is now.
    pub fn upsert_pod(&mut self, pod: Pod) -> Vec<PodRef> {
        let reference = pod.reference();
        let pods = self.pods.entry(pod.namespace.clone()).or_default();
        if pods.get(&pod.name) == Some(&pod) {
            return Vec::new();
        }
        let addresses = if pod.ended { Vec::new() } else { pod.addresses.clone() };
        let before = pods.insert(pod.name.clone(), pod);
        self.forget_addresses(&reference, before.as_ref());
        for address in addresses {
            self.by_address.entry(address.to_canonical()).or_default().insert(reference.clone());
        }
        self.recompute_pod(&reference)
    }

    /// A pod is gone. It stays tracked: a pod of the same name may come.
    pub fn remove_pod(&mut self, pod: &PodRef) -> Vec<PodRef> {
        let before = self.pods.get_mut(&pod.namespace).and_then(|pods| pods.remove(&pod.name));
        if before.is_none() {
            return Vec::new();
        }
        self.forget_addresses(pod, before.as_ref());
        self.recompute_pod(pod)
    }

    fn forget_addresses(&mut self, reference: &PodRef, pod: Option<&Pod>) {
        for address in pod.into_iter().flat_map(|pod| &pod.addresses) {
            if let Some(pods) = self.by_address.get_mut(&address.to_canonical()) {
                pods.remove(reference);
                if pods.is_empty() {
                    self.by_address.remove(&address.to_canonical());
                }
            }
        }
    }

    /// A policy stands, as it is now.
    pub fn upsert_policy(&mut self, policy: impl Into<Policy>) -> Vec<PodRef> {
        let policy = policy.into();
        let reference = policy.reference.clone();
        let before = self.policies.replace(&reference, Some(policy.clone()));
        if before.as_ref() == Some(&policy) {
            return Vec::new();
        }
        let of = reference.namespace.as_deref();
        let versions = [Some(&policy), before.as_ref()];
        let versions = || versions.into_iter().flatten();
        let spoken_of = |direction: &Direction| versions().any(|policy| policy.speaks_of(*direction));
        self.recompute(of, spoken_of, |pod| versions().any(|policy| concerns(policy, pod)))
    }

    /// A policy is gone.
    pub fn remove_policy(&mut self, policy: &PolicyRef) -> Vec<PodRef> {
        let Some(before) = self.policies.replace(policy, None) else { return Vec::new() };
        let spoken_of = |direction: &Direction| before.speaks_of(*direction);
        self.recompute(policy.namespace.as_deref(), spoken_of, |pod| concerns(&before, pod))
    }

    /// From now on changes are told that alter this pod's exposure. Returns the exposure; `None` while no such pod is there.
    pub fn track(&mut self, pod: PodRef) -> Option<Arc<Exposure>> {
        let exposure = self.exposure(&pod).map(Arc::new);
        self.tracked.insert(pod, exposure.clone());
        exposure
    }

    /// Ends what [`Self::track`] began.
    pub fn untrack(&mut self, pod: &PodRef) {
        self.tracked.remove(pod);
    }

    /// The tracked pods, with their exposure; `None` while no such pod is there.
    pub fn tracked(&self) -> impl Iterator<Item = (&PodRef, Option<&Arc<Exposure>>)> {
        self.tracked.iter().map(|(pod, exposure)| (pod, exposure.as_ref()))
    }

    /// A pod that is known.
    #[must_use]
    pub fn pod(&self, pod: &PodRef) -> Option<&Pod> {
        self.pods.get(&pod.namespace)?.get(&pod.name)
    }

    /// A policy that stands.
    #[must_use]
    pub fn policy(&self, policy: &PolicyRef) -> Option<&Policy> {
        match &policy.namespace {
            Some(namespace) => self.policies.by_namespace.get(namespace)?.get(policy),
            None => self.policies.of_cluster.get(policy),
        }
    }

    /// The policies of a kind that stand.
    pub fn policies(&self, kind: PolicyKind) -> impl Iterator<Item = &PolicyRef> {
        let all = self.policies.by_namespace.values().chain([&self.policies.of_cluster]);
        all.flat_map(BTreeMap::keys).filter(move |policy| policy.kind == kind)
    }

    /// What is open at a pod; `None` where no such pod is known.
    #[must_use]
    pub fn exposure(&self, pod: &PodRef) -> Option<Exposure> {
        let pod = self.pod(pod)?;
        Some(self.exposure_of(&self.seen(pod), &[]))
    }

    /// What would be open at a pod with these labels, if these policies stood, too. One that is there by the same reference is replaced.
    #[must_use]
    pub fn exposure_with(&self, pod: &PodRef, labels: &BTreeMap<String, String>, extra: &[Policy]) -> Option<Exposure> {
        let pod = self.pod(pod)?;
        Some(self.exposure_of(&Seen { labels, ..self.seen(pod) }, extra))
    }

    fn exposure_of(&self, pod: &Seen<'_>, extra: &[Policy]) -> Exposure {
        let mut exposure = Exposure::default();
        for direction in Direction::BOTH {
            self.walk(pod, extra, direction, &mut exposure);
        }
        exposure
    }

    fn walk(&self, pod: &Seen<'_>, extra: &[Policy], direction: Direction, exposure: &mut Exposure) {
        let stages = stages(self.policies_over(pod.namespace, extra), &self.policies.tiers, pod, direction);
        walk(&stages, pod, direction, exposure);
    }

    fn policies_over<'a>(&'a self, namespace: &str, extra: &'a [Policy]) -> impl Iterator<Item = &'a Policy> {
        let standing = self.policies.over(namespace);
        standing.filter(|policy| extra.iter().all(|other| other.reference != policy.reference)).chain(extra)
    }

    fn seen<'a>(&'a self, pod: &'a Pod) -> Seen<'a> {
        Seen::of(pod, self.namespaces.get(&pod.namespace))
    }

    fn recompute_pod(&mut self, pod: &PodRef) -> Vec<PodRef> {
        if !self.tracked.contains_key(pod) {
            return Vec::new();
        }
        let exposure = self.exposure(pod).map(Arc::new);
        match self.tracked.insert(pod.clone(), exposure.clone()) {
            Some(before) if before == exposure => Vec::new(),
            _ => vec![pod.clone()],
        }
    }

    /// Pods that look the same to every policy have the same exposure: it is computed once for all of them.
    /// A direction that a change says nothing about is as it was.
    fn recompute(
        &mut self,
        namespace: Option<&str>,
        spoken_of: impl Fn(&Direction) -> bool,
        concerned: impl Fn(&Seen<'_>) -> bool,
    ) -> Vec<PodRef> {
        let first = PodRef::new(namespace.unwrap_or_default(), "");
        let tracked = self.tracked.range(first..).take_while(|(pod, _)| namespace.is_none_or(|n| n == pod.namespace));
        let mut computed: HashMap<Seen<'_>, Arc<Exposure>> = HashMap::new();
        let mut changed = Vec::new();
        for (reference, before) in tracked {
            let Some(pod) = self.pod(reference) else { continue };
            let seen = self.seen(pod);
            if !concerned(&seen) {
                continue;
            }
            let now = computed.entry(seen).or_insert_with(|| {
                let mut exposure = Exposure::default();
                for direction in Direction::BOTH {
                    match before {
                        Some(before) if !spoken_of(&direction) => exposure.extend(before, direction),
                        _ => self.walk(&seen, &[], direction, &mut exposure),
                    }
                }
                Arc::new(exposure)
            });
            if before.as_ref() != Some(now) {
                changed.push((reference.clone(), now.clone()));
            }
        }
        let exposures = changed.into_iter().map(|(pod, exposure)| {
            self.tracked.insert(pod.clone(), Some(exposure));
            pod
        });
        exposures.collect()
    }

    /// The pods that are among these peers now: the first [`LISTED`], sorted, and how many more there are. Pods that have ended and pods
    /// on their node's network are none of them.
    #[must_use]
    pub fn pods(&self, peer: &Peer) -> Listed<PodRef> {
        let among = |pod: &Pod| {
            let seen = self.seen(pod);
            peer.0.iter().any(|cube| match &cube.who {
                Who::Pods { namespace, pod: labels } => {
                    labels.matches(|key| seen.label(key))
                        && seen.is_in(namespace) == Told::Yes
                        && has_address(cube, pod)
                }
                Who::Others(_) => false,
            })
        };
        let pods = self.pods.values().flat_map(BTreeMap::values);
        let found = pods.filter(|pod| !pod.ended && !pod.host_network && among(pod));
        let listed = Listed::of(found, LISTED);
        Listed { first: listed.first.into_iter().map(Pod::reference).collect(), more: listed.more }
    }

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

fn concerns(policy: &Policy, pod: &Seen<'_>) -> bool {
    policy.subject.chooses(pod) != Told::No
}

fn has_address(cube: &Cube, pod: &Pod) -> bool {
    cube.addresses == crate::addresses::Addresses::all()
        || pod.addresses.iter().any(|address| cube.addresses.contains(*address))
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
