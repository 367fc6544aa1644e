//! The policies that a pod has to do with, in the order in which they are asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pod::{Direction, Seen};
use crate::policy::{CalicoTier, Policy, Section, Tier, Told};

/// A section of a policy that chooses the pod, or may.
#[derive(Clone, Debug)]
pub(crate) struct Link<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) section: &'a Section,
    /// Whether the pod is denied what no rule of the tier decides.
    pub(crate) isolates: bool,
    /// Why the policy may not choose the pod, or may be asked at another place.
    pub(crate) doubt: Option<Arc<str>>,
}

/// Sections of the same rank: one after the other, but for tiers that leave open which of them comes first.
pub(crate) type Rank<'a> = Vec<Link<'a>>;

pub(crate) struct Stage<'a> {
    pub(crate) tier: &'a Tier,
    pub(crate) ranks: Vec<Rank<'a>>,
}

impl Stage<'_> {
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link<'_>> {
        self.ranks.iter().flatten()
    }
}

/// The tiers that have something to say about a pod, first to last.
pub(crate) fn stages<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    tiers: &BTreeMap<String, CalicoTier>,
    pod: &Seen<'_>,
    direction: Direction,
) -> Vec<Stage<'a>> {
    let mut links = Vec::new();
    for policy in policies {
        let doubt = match policy.subject.chooses(pod) {
            Told::No => continue,
            Told::Maybe(reason) => Some(reason),
            Told::Yes => None,
        };
        for section in policy.sections.iter().filter(|section| section.direction == direction) {
            let place = section.tier.order(tiers);
            let lost = || Arc::from("the tier that it stands in isn't known");
            let doubt = doubt.clone().or_else(|| place.is_none().then(lost));
            let isolates = section.isolates && !section.tier.passes(tiers);
            links.push((place.unwrap_or(f64::NEG_INFINITY), Link { policy, section, isolates, doubt }));
        }
    }
    links.sort_by(|(place, a), (other, b)| {
        place
            .total_cmp(other)
            .then_with(|| a.section.tier.cmp(&b.section.tier))
            .then(a.section.order.total_cmp(&b.section.order))
            .then_with(|| a.policy.reference.name.cmp(&b.policy.reference.name))
            .then_with(|| a.policy.reference.cmp(&b.policy.reference))
    });
    let links = links.into_iter().map(|(_, link)| link);
    let mut stages: Vec<Stage<'a>> = Vec::new();
    for link in links {
        match stages.last_mut() {
            Some(stage) if *stage.tier == link.section.tier => match stage.ranks.last_mut() {
                Some(rank) if is_level(rank, &link) => rank.push(link),
                _ => stage.ranks.push(vec![link]),
            },
            _ => stages.push(Stage { tier: &link.section.tier, ranks: vec![vec![link]] }),
        }
    }
    stages
}

fn is_level(rank: &Rank<'_>, link: &Link<'_>) -> bool {
    rank.first().is_some_and(|first| first.section.order.total_cmp(&link.section.order).is_eq())
}
