//! The cluster as it is known, kept up to date change by change.

mod connection;
mod walks;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::exposure::{Exposure, LISTED, Listed};
use crate::model::walks::Walks;
use crate::peer::Peer;
use crate::pod::{Direction, Pod, PodRef, Seen};
use crate::policy::{CalicoTier, Policy, PolicyKind, PolicyRef, Told};
use crate::region::{Cube, Who};

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
    tracked: BTreeMap<PodRef, Option<Sides>>,
}

/// What is open at a pod, each direction for itself: most changes are about one, and many pods share one.
#[derive(Clone, Debug, PartialEq)]
struct Sides([Arc<Exposure>; 2]);

impl Sides {
    fn joined(&self) -> Exposure {
        let [ingress, egress] = &self.0;
        let mut exposure = (**ingress).clone();
        exposure.paths.extend_from_slice(&egress.paths);
        exposure.doubts.extend_from_slice(&egress.doubts);
        exposure
    }
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

    /// The tiers, if these policies stood, too.
    fn tiers_over(&self, extra: &[Policy]) -> Cow<'_, BTreeMap<String, CalicoTier>> {
        let mut tiers = Cow::Borrowed(&self.tiers);
        for policy in extra.iter().filter(|policy| policy.reference.kind == PolicyKind::CalicoTier) {
            match policy.tier {
                Some(tier) => tiers.to_mut().insert(policy.reference.name.clone(), tier),
                None => tiers.to_mut().remove(&policy.reference.name),
            };
        }
        tiers
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
        let spoken_of = |direction| versions().any(|policy| policy.speaks_of(direction));
        self.recompute(of, spoken_of, |pod| versions().any(|policy| concerns(policy, pod)))
    }

    /// A policy is gone.
    pub fn remove_policy(&mut self, policy: &PolicyRef) -> Vec<PodRef> {
        let Some(before) = self.policies.replace(policy, None) else { return Vec::new() };
        let spoken_of = |direction| before.speaks_of(direction);
        self.recompute(policy.namespace.as_deref(), spoken_of, |pod| concerns(&before, pod))
    }

    /// From now on changes are told that alter this pod's exposure. Returns the exposure; `None` while no such pod is there.
    pub fn track(&mut self, pod: PodRef) -> Option<Exposure> {
        let sides = self.pod(&pod).map(|there| self.sides(&self.seen(there), &[]));
        let exposure = sides.as_ref().map(Sides::joined);
        self.tracked.insert(pod, sides);
        exposure
    }

    /// Ends what [`Self::track`] began.
    pub fn untrack(&mut self, pod: &PodRef) {
        self.tracked.remove(pod);
    }

    /// The tracked pods, with their exposure; `None` while no such pod is there.
    pub fn tracked(&self) -> impl Iterator<Item = (&PodRef, Option<Exposure>)> {
        self.tracked.iter().map(|(pod, sides)| (pod, sides.as_ref().map(Sides::joined)))
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
        match self.tracked.get(pod) {
            Some(sides) => sides.as_ref().map(Sides::joined),
            None => Some(self.sides(&self.seen(self.pod(pod)?), &[]).joined()),
        }
    }

    /// What would be open at a pod with these labels, if these policies stood, too. One that is there by the same reference is replaced.
    #[must_use]
    pub fn exposure_with(&self, pod: &PodRef, labels: &BTreeMap<String, String>, extra: &[Policy]) -> Option<Exposure> {
        let pod = self.pod(pod)?;
        Some(self.sides(&Seen { labels, ..self.seen(pod) }, extra).joined())
    }

    fn sides(&self, pod: &Seen<'_>, extra: &[Policy]) -> Sides {
        let tiers = self.policies.tiers_over(extra);
        let mut walks = Walks::new(&tiers);
        Sides(Direction::BOTH.map(|direction| walks.of(self.policies_over(pod.namespace, extra), *pod, direction)))
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
        let sides = self.pod(pod).map(|there| self.sides(&self.seen(there), &[]));
        match self.tracked.insert(pod.clone(), sides.clone()) {
            Some(before) if before == sides => Vec::new(),
            _ => vec![pod.clone()],
        }
    }

    /// A direction that a change says nothing about is as it was.
    fn recompute(
        &mut self,
        namespace: Option<&str>,
        spoken_of: impl Fn(Direction) -> bool,
        concerned: impl Fn(&Seen<'_>) -> bool,
    ) -> Vec<PodRef> {
        let first = PodRef::new(namespace.unwrap_or_default(), "");
        let tracked = self.tracked.range(first..).take_while(|(pod, _)| namespace.is_none_or(|n| n == pod.namespace));
        let mut walks = Walks::new(&self.policies.tiers);
        let mut changed = Vec::new();
        for (reference, before) in tracked {
            let Some(pod) = self.pod(reference) else { continue };
            let seen = self.seen(pod);
            if !concerned(&seen) {
                continue;
            }
            let now = Sides(Direction::BOTH.map(|direction| match before {
                Some(before) if !spoken_of(direction) => before.0[direction as usize].clone(),
                _ => walks.of(self.policies.over(&pod.namespace), seen, direction),
            }));
            if before.as_ref() != Some(&now) {
                changed.push((reference.clone(), now));
            }
        }
        let exposures = changed.into_iter().map(|(pod, sides)| {
            self.tracked.insert(pod.clone(), Some(sides));
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
}

fn concerns(policy: &Policy, pod: &Seen<'_>) -> bool {
    policy.subject.chooses(pod) != Told::No
}

fn has_address(cube: &Cube, pod: &Pod) -> bool {
    cube.addresses == crate::addresses::Addresses::all()
        || pod.addresses.iter().any(|address| cube.addresses.contains(*address))
}
