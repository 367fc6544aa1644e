//! The way through the tiers with everything that could be at the other end at once.

use std::sync::Arc;

use crate::chain::{Link, Stage};
use crate::exposure::{Doubt, Exposure, Grounds, Path, by_ports};
use crate::pod::{Direction, Seen};
use crate::policy::{Action, PolicyRef, Rule};
use crate::ports::{NamedPort, Ports};
use crate::region::Block;

/// A rest in more pieces than this isn't cut any further: it is then told too large, and doubted, rather than computed for long.
const PIECES: usize = 512;

/// What gets through in one direction.
pub(crate) fn walk(stages: &[Stage<'_>], pod: &Seen<'_>, direction: Direction, exposure: &mut Exposure) {
    if pod.ended {
        return;
    }
    let mut walk = Walk { direction, ports: pod.ports, rest: Block::everything(), certain: true, exposure };
    if pod.host_network {
        walk.fall_through(&Grounds::HostNetwork);
        return;
    }
    for stage in stages {
        walk.stage(stage);
        if walk.rest.is_empty() {
            return;
        }
    }
    let chosen =
        stages.iter().flat_map(Stage::links).any(|link| link.section.isolates || !link.section.rules.is_empty());
    let by = if chosen { Grounds::Undecided } else { Grounds::Unselected };
    walk.fall_through(&by);
}

struct Walk<'a> {
    direction: Direction,
    /// Of the pod: what a name means for traffic to it.
    ports: &'a [NamedPort],
    /// What no rule has denied so far. What a rule accepts stays in: it is told once more where another rule accepts it, too.
    rest: Vec<Block>,
    /// Whether everything asked so far could be told.
    certain: bool,
    exposure: &'a mut Exposure,
}

impl Walk<'_> {
    fn stage(&mut self, stage: &Stage<'_>) {
        let mut passed = Vec::new();
        for link in stage.links() {
            for rule in &link.section.rules {
                self.rule(link, rule, &mut passed);
            }
        }
        let isolating = stage.links().filter(|link| link.section.isolates);
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

    fn rule(&mut self, link: &Link<'_>, rule: &Rule, passed: &mut Vec<Block>) {
        let ports = match self.direction {
            Direction::Ingress if rule.ports.has_names() => &rule.ports.on_pod(self.ports),
            _ => &rule.ports,
        };
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
        for peer in &rule.peers {
            let blocks = peer.iter().flat_map(|cube| self.rest.iter().filter_map(|b| b.intersection(cube, ports)));
            let blocks: Vec<_> = blocks.collect();
            self.open(blocks, &Grounds::Policy(link.policy.reference.clone()));
        }
    }

    fn cut(&mut self, link: &Link<'_>, rule: &Rule, ports: &Ports) {
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

    /// From here on nothing is certain.
    fn doubt(&mut self, link: &Link<'_>, reason: &Arc<str>, blocks: Vec<Block>) {
        if !blocks.is_empty() {
            self.tell(Some(link.policy.reference.clone()), reason, blocks);
            self.certain = false;
        }
    }

    fn tell(&mut self, by: Option<PolicyRef>, reason: &Arc<str>, blocks: Vec<Block>) {
        if !blocks.is_empty() {
            let doubt = Doubt { direction: self.direction, reason: reason.clone(), by, blocks };
            if !self.exposure.doubts.contains(&doubt) {
                self.exposure.doubts.push(doubt);
            }
        }
    }

    fn open(&mut self, blocks: Vec<Block>, by: &Grounds) {
        for (peer, ports) in by_ports(blocks) {
            let path = Path { direction: self.direction, peer, ports, by: by.clone(), certain: self.certain };
            // Rules and policies repeat each other; a path is told once by each policy.
            if !self.exposure.paths.contains(&path) {
                self.exposure.paths.push(path);
            }
        }
    }

    fn fall_through(&mut self, by: &Grounds) {
        let rest = std::mem::take(&mut self.rest);
        self.open(rest, by);
    }
}
