//! Walks of many pods under the same policies, each part of them made once.
//!
//! What gets through to a pod hangs on the policies that choose it and on nothing else of it, but for the numbers behind its ports' names
//! where a policy speaks of those. Labels that no selector asks about, as the ones that a quarantine puts on a pod, make no difference. The
//! tiers that are asked first are mostly those of the whole cluster, so that even pods of different namespaces have the way through them in
//! common.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::chain::{Stage, stages};
use crate::exposure::Exposure;
use crate::pod::{Direction, Seen};
use crate::policy::{CalicoTier, Policy, Section};
use crate::ports::NamedPort;
use crate::walk::Walk;

/// A tree: the way from its root to a place is what the walks that have come to it have in common.
pub(super) struct Walks<'a> {
    tiers: &'a BTreeMap<String, CalicoTier>,
    places: Vec<Place<'a>>,
    onwards: HashMap<(At, Ahead<'a>), usize>,
}

struct Place<'a> {
    walk: Walk<'a>,
    /// What gets through to a pod for which no further stage follows; known once it was asked for.
    end: Option<Arc<Exposure>>,
}

/// A place, by its index; or where walks of a direction begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Beginning(Direction),
    Place(usize),
}

/// All of a stage and of a pod that what the stage does hangs on.
#[derive(PartialEq, Eq, Hash)]
struct Ahead<'a> {
    /// In the order in which they are asked. The addresses of sections are those of sections, as long as policies aren't changed.
    links: Vec<(*const Section, Option<Arc<str>>)>,
    ports: &'a [NamedPort],
}

impl<'a> Ahead<'a> {
    fn of(stage: &Stage<'_>, pod: Seen<'a>, direction: Direction) -> Self {
        let mut rules = stage.links().flat_map(|link| &link.section.rules);
        let ports =
            if direction == Direction::Ingress && rules.any(|rule| rule.ports.has_names()) { pod.ports } else { &[] };
        let links = stage.links().map(|link| (std::ptr::from_ref(link.section), link.doubt.clone()));
        Self { links: links.collect(), ports }
    }
}

impl<'a> Walks<'a> {
    /// None yet, with these tiers of Calico's.
    pub(super) fn new(tiers: &'a BTreeMap<String, CalicoTier>) -> Self {
        Self { tiers, places: Vec::new(), onwards: HashMap::new() }
    }

    /// What gets through to a pod in one direction. `policies` are all that may have a say about the pod: the same ones, as they are now,
    /// for every pod that is asked about.
    pub(super) fn of(
        &mut self,
        policies: impl Iterator<Item = &'a Policy>,
        pod: Seen<'a>,
        direction: Direction,
    ) -> Arc<Exposure> {
        if pod.ended {
            return Arc::default();
        }
        if pod.host_network {
            return Arc::new(Walk::uncovered(direction));
        }
        let mut at = At::Beginning(direction);
        for stage in stages(policies, self.tiers, &pod, direction) {
            let place = self.onwards(at, &stage, pod, direction);
            at = At::Place(place);
            if self.places[place].walk.is_over() {
                break;
            }
        }
        match at {
            At::Beginning(direction) => Arc::new(Walk::begin(direction).end()),
            At::Place(place) => {
                let Place { walk, end } = &mut self.places[place];
                end.get_or_insert_with(|| Arc::new(walk.clone().end())).clone()
            }
        }
    }

    fn onwards(&mut self, at: At, stage: &Stage<'_>, pod: Seen<'a>, direction: Direction) -> usize {
        let ahead = Ahead::of(stage, pod, direction);
        let Self { places, onwards, .. } = self;
        *onwards.entry((at, ahead)).or_insert_with(|| {
            let mut walk = match at {
                At::Beginning(direction) => Walk::begin(direction),
                At::Place(place) => places[place].walk.clone(),
            };
            walk.through(stage, pod.ports);
            places.push(Place { walk, end: None });
            places.len() - 1
        })
    }
}
