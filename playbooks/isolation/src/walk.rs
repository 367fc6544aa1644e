//! The way through the tiers with everything that could be at the other end at once.

use std::borrow::Cow;
use std::sync::Arc;

use crate::chain::{Link, Rank, Stage};
use crate::exposure::{Doubt, Exposure, Grounds, Path, by_ports};
use crate::pod::Direction;
use crate::policy::{Action, PolicyRef, Rule};
use crate::ports::{NamedPort, Ports};
use crate::region::{Block, Cube};

/// A rest in more pieces than this isn't cut any further: it is then told too large, and doubted, rather than computed for long.
const PIECES: usize = 512;

#[derive(Default)]
struct Effects {
    accepted: Vec<Block>,
    /// Accepted by a name that may stand for a port that was denied before.
    vague: Vec<Block>,
    denied: Vec<Block>,
    passed: Vec<Block>,
}

/// What of the rest the peers and ports are; apart from it, what they may be by a name of a port.
fn hits(rest: &[Block], cubes: &[Cube], ports: &Ports) -> (Vec<Block>, Vec<Block>) {
    let (mut plain, mut vague) = (Vec::new(), Vec::new());
    for cube in cubes {
        for block in rest {
            let Some(Block { cube, ports }) = block.intersection(cube, ports) else { continue };
            let (sure, unsure) = ports.split_vague(&block.ports);
            for (blocks, ports) in [(&mut plain, sure), (&mut vague, unsure)] {
                if !ports.is_empty() {
                    blocks.push(Block { cube: cube.clone(), ports });
                }
            }
        }
    }
    (plain, vague)
}

fn common(blocks: &[Block], others: &[&Block]) -> Vec<Block> {
    let pairs = blocks.iter().flat_map(|block| others.iter().map(move |other| (block, other)));
    pairs.filter_map(|(block, other)| block.intersection(&other.cube, &other.ports)).collect()
}

fn without(blocks: Vec<Block>, others: &[&Block]) -> Vec<Block> {
    others
        .iter()
        .fold(blocks, |rest, other| rest.iter().flat_map(|block| block.difference(&other.cube, &other.ports)).collect())
}

/// How far a walk has come. What is ahead hangs on this and on the stages that follow, so a walk that several pods begin alike is made once.
#[derive(Clone)]
pub(crate) struct Walk<'a> {
    direction: Direction,
    /// Of the pod: what a name means for traffic to it.
    ports: &'a [NamedPort],
    /// What no rule has denied so far. What a rule accepts stays in: it is told once more where another rule accepts it, too.
    rest: Vec<Block>,
    /// What a rule that can't be told may have denied, or left to another tier.
    shaky: Vec<Block>,
    /// A policy has had its say.
    chosen: bool,
    exposure: Exposure,
}

impl<'a> Walk<'a> {
    /// With everything still ahead.
    pub(crate) fn begin(direction: Direction) -> Self {
        Self {
            direction,
            ports: &[],
            rest: Block::everything(),
            shaky: Vec::new(),
            chosen: false,
            exposure: Exposure::default(),
        }
    }

    /// Through one stage further, for a pod with these named ports.
    pub(crate) fn through(&mut self, stage: &Stage<'_>, ports: &'a [NamedPort]) {
        self.ports = ports;
        self.chosen |= stage.links().any(|link| link.isolates || !link.section.rules.is_empty());
        self.stage(stage);
    }

    /// Whether nothing is left that a further stage could decide about.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// What gets through in the end, where no stage is left.
    pub(crate) fn end(mut self) -> Exposure {
        let by = if self.chosen { Grounds::Undecided } else { Grounds::Unselected };
        self.fall_through(&by);
        self.exposure
    }

    /// What gets through to a pod that no policy covers.
    pub(crate) fn uncovered(direction: Direction) -> Exposure {
        let mut walk = Self::begin(direction);
        walk.fall_through(&Grounds::HostNetwork);
        walk.exposure
    }

    fn stage(&mut self, stage: &Stage<'_>) {
        let mut passed = Vec::new();
        for rank in &stage.ranks {
            if rank.len() > 1 && stage.tier.leaves_order_open() {
                self.level(rank, &mut passed);
                continue;
            }
            for link in rank {
                for rule in &link.section.rules {
                    self.rule(link, rule, &mut passed);
                }
            }
        }
        let isolating = stage.links().filter(|link| link.isolates);
        let mut isolated = false;
        for link in isolating {
            match &link.doubt {
                None => isolated = true,
                Some(reason) => {
                    let blocks = self.rest.clone();
                    self.doubt(link, reason, blocks);
                }
            }
        }
        if isolated {
            self.rest = passed;
        } else {
            self.rest.append(&mut passed);
        }
    }

    /// Policies of which any may be asked first: what one accepts and another doesn't can't be told.
    fn level(&mut self, rank: &Rank<'_>, passed: &mut Vec<Block>) {
        let start = self.rest.clone();
        let effects: Vec<_> = rank.iter().map(|link| self.effects(link, passed)).collect();
        for (at, link) in rank.iter().enumerate() {
            let others = || effects.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, effects)| effects);
            let stopped: Vec<_> = others().flat_map(|other| other.denied.iter().chain(&other.passed)).collect();
            let denied: Vec<_> = others().flat_map(|other| &other.denied).collect();
            let reason = Arc::from(
                "another policy of the same priority decides otherwise, and which of them is asked first is not said",
            );
            let Effects { accepted, vague, passed: mine, .. } = &effects[at];
            let by = Grounds::Policy(link.policy.reference.clone());
            self.open(without(accepted.clone(), &stopped), &by);
            self.open_as(vague.clone(), &by, false);
            self.tell(Some(link.policy.reference.clone()), &reason, common(accepted, &stopped));
            self.doubt(link, &reason, common(mine, &denied));
            passed.extend(mine.iter().cloned());
        }
        let gone: Vec<_> = effects.iter().flat_map(|each| each.denied.iter().chain(&each.passed)).collect();
        self.rest = without(start, &gone);
    }

    /// What a policy alone would do with the rest.
    fn effects(&mut self, link: &Link<'_>, passed: &mut Vec<Block>) -> Effects {
        let mut effects = Effects::default();
        let mut rest = self.rest.clone();
        for rule in &link.section.rules {
            if rule.doubt.is_some() || link.doubt.is_some() {
                self.rule(link, rule, passed);
                continue;
            }
            let ports = self.resolved(rule);
            if rule.action != Action::Accept && ports.has_names() {
                let unsure = self.matching(rule, &ports.protocols_of_names());
                self.shaky.extend(unsure);
            }
            let cubes: Vec<_> = rule.peers.iter().flatten().cloned().collect();
            let (blocks, vague) = hits(&rest, &cubes, &ports);
            match rule.action {
                Action::Accept => {
                    effects.accepted.extend(blocks);
                    effects.vague.extend(vague);
                }
                Action::Deny => effects.denied.extend(blocks.into_iter().chain(vague)),
                Action::Pass => effects.passed.extend(blocks.into_iter().chain(vague)),
            }
            for cube in &cubes {
                rest = rest.iter().flat_map(|block| block.difference(cube, &ports)).collect();
            }
        }
        effects
    }

    fn resolved<'r>(&self, rule: &'r Rule) -> Cow<'r, Ports> {
        match self.direction {
            Direction::Ingress if rule.ports.has_names() => Cow::Owned(rule.ports.on_pod(self.ports)),
            _ => Cow::Borrowed(&rule.ports),
        }
    }

    fn rule(&mut self, link: &Link<'_>, rule: &Rule, passed: &mut Vec<Block>) {
        let ports = &self.resolved(rule);
        match (rule.action, rule.doubt.as_ref().or(link.doubt.as_ref())) {
            (Action::Accept, None) => self.accept(link, rule, ports),
            (Action::Deny, None) => self.cut(link, rule, ports),
            (Action::Pass, None) => {
                passed.extend(self.matching(rule, ports));
                self.cut(link, rule, ports);
            }
            (Action::Accept | Action::Deny, Some(reason)) => {
                let blocks = self.matching(rule, ports);
                self.doubt_rule(link, rule, reason, blocks);
            }
            (Action::Pass, Some(reason)) => {
                let blocks = self.matching(rule, ports);
                passed.extend(blocks.iter().cloned());
                self.doubt_rule(link, rule, reason, blocks);
            }
        }
    }

    fn matching(&self, rule: &Rule, ports: &Ports) -> Vec<Block> {
        let cubes = rule.peers.iter().flatten();
        cubes.flat_map(|cube| self.rest.iter().filter_map(move |block| block.intersection(cube, ports))).collect()
    }

    fn accept(&mut self, link: &Link<'_>, rule: &Rule, ports: &Ports) {
        let by = Grounds::Policy(link.policy.reference.clone());
        for peer in &rule.peers {
            let (blocks, vague) = hits(&self.rest, peer, ports);
            self.open(blocks, &by);
            self.open_as(vague, &by, false);
        }
    }

    fn cut(&mut self, link: &Link<'_>, rule: &Rule, ports: &Ports) {
        if ports.has_names() {
            // Which numbers they are differs from peer to peer: the path stays, and isn't certain.
            let unsure = ports.protocols_of_names();
            let blocks = self.matching(rule, &unsure);
            self.shaky.extend(blocks);
        }
        for cube in rule.peers.iter().flatten() {
            let rest: Vec<_> = self.rest.iter().flat_map(|block| block.difference(cube, ports)).collect();
            if rest.len() > PIECES {
                let reason = Arc::from("too many rules cut across each other");
                let blocks = self.rest.clone();
                self.doubt(link, &reason, blocks);
                return;
            }
            self.rest = rest;
        }
    }

    fn doubt_rule(&mut self, link: &Link<'_>, rule: &Rule, reason: &Arc<str>, blocks: Vec<Block>) {
        if rule.action == Action::Accept {
            self.tell(Some(link.policy.reference.clone()), reason, blocks);
        } else {
            self.doubt(link, reason, blocks);
        }
    }

    /// From here on this much isn't certain any more.
    fn doubt(&mut self, link: &Link<'_>, reason: &Arc<str>, blocks: Vec<Block>) {
        self.shaky.extend(blocks.iter().cloned());
        self.tell(Some(link.policy.reference.clone()), reason, blocks);
    }

    fn tell(&mut self, by: Option<PolicyRef>, reason: &Arc<str>, blocks: Vec<Block>) {
        if !blocks.is_empty() {
            let doubt = Doubt { direction: self.direction, reason: reason.clone(), by, blocks };
            if !self.exposure.doubts.iter().any(|told| **told == doubt) {
                self.exposure.doubts.push(Arc::new(doubt));
            }
        }
    }

    fn open(&mut self, blocks: Vec<Block>, by: &Grounds) {
        let shaky: Vec<_> = self.shaky.iter().collect();
        let uncertain = common(&blocks, &shaky);
        self.open_as(without(blocks, &shaky), by, true);
        self.open_as(uncertain, by, false);
    }

    fn open_as(&mut self, blocks: Vec<Block>, by: &Grounds, certain: bool) {
        for (peer, ports) in by_ports(blocks) {
            let path = Path { direction: self.direction, peer, ports, by: by.clone(), certain };
            // Rules and policies repeat each other; a path is told once by each policy.
            if !self.exposure.paths.iter().any(|told| **told == path) {
                self.exposure.paths.push(Arc::new(path));
            }
        }
    }

    fn fall_through(&mut self, by: &Grounds) {
        // A name that was passed on may stand for a port that was denied before.
        let (blocks, vague) = hits(&self.rest, &Cube::anyone(), &Ports::all());
        self.rest.clear();
        self.open(blocks, by);
        self.open_as(vague, by, false);
    }
}
