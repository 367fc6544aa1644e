//! What should come of each pair.

use std::time::Duration;

use super::matrix::Pair;
use super::world;
use crate::node::Plugin;

/// What stands when the pairs are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// No policy.
    Open,
    /// A policy that denies the victim everything, beside one that allows the web's pods everything.
    DenyBesideAllow,
    /// Quell's quarantine of the victim, beside a policy that allows the web's pods everything.
    Quarantined,
    /// The same, and a policy that allows everything to whatever pod is in the namespace.
    QuarantinedBesideAllowForAll,
    /// The quarantine is undone.
    Undone,
}

impl Situation {
    /// In words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Open => "no policy",
            Self::DenyBesideAllow => "deny-all for the victim, beside an allow-all for its label",
            Self::Quarantined => "quarantined by Quell, beside an allow-all for its old label",
            Self::QuarantinedBesideAllowForAll => "quarantined by Quell, beside an allow-all for every pod",
            Self::Undone => "the quarantine is undone",
        }
    }
}

/// Whether the pair should be reached: the only place that says so.
#[must_use]
pub fn expected(plugin: Plugin, situation: Situation, pair: &Pair) -> bool {
    // NetworkPolicies add up: one that allows is enough. What opens a quarantine that stands on a NetworkPolicy alone is denied all the same
    // where the plugin has a kind of policy that denies.
    let quarantined = matches!(situation, Situation::Quarantined | Situation::QuarantinedBesideAllowForAll);
    if plugin == Plugin::None || !quarantined {
        return true;
    }
    // "Traffic to and from the node where a Pod is running is always allowed", says Kubernetes; plugins let the node in and not out.
    let from_the_node = [world::NODE, world::HOST].contains(&pair.from.as_str());
    let to_the_victim = pair.to == world::VICTIM && !from_the_node;
    let from_the_victim = pair.from == world::VICTIM;
    !to_the_victim && !from_the_victim
}

/// Whether a flow that was there before the quarantine goes on under it.
#[must_use]
pub fn flow_survives(plugin: Plugin) -> bool {
    match plugin {
        // Its rules let established connections through before they look at a policy.
        Plugin::None | Plugin::Calico => true,
        Plugin::Cilium => false,
    }
}

/// What Quell's probes must tell of a quarantined pod.
#[must_use]
pub fn probes_tell(plugin: Plugin) -> &'static str {
    match plugin {
        Plugin::None => "GotThrough",
        Plugin::Calico | Plugin::Cilium => "NothingGotThrough",
    }
}

/// What `kubectl quell doctor` must say, and whether it ends well.
#[must_use]
pub fn doctor_says(plugin: Plugin) -> (&'static [&'static str], bool) {
    match plugin {
        Plugin::None => (&["NOT ENFORCED"], false),
        Plugin::Calico => {
            (&["enforced: the last new connection got through", "live on under a policy", "was cut off within"], true)
        }
        Plugin::Cilium => {
            let all = &["enforced: the last new connection got through", "are cut by a policy", "was connected to for"];
            (all, true)
        }
    }
}

/// Whether a pod that the undo puts back behind its Service can answer from the first request on.
#[must_use]
pub fn undo_holds_at_once(plugin: Plugin) -> bool {
    match plugin {
        Plugin::None | Plugin::Calico => true,
        // The Service has it again long before the old identity is off it; until then its share of requests is dropped.
        Plugin::Cilium => false,
    }
}

/// How long a plugin may take until a policy or a label holds; no API tells when.
#[must_use]
pub fn time_to_settle(plugin: Plugin) -> Duration {
    match plugin {
        Plugin::None | Plugin::Calico => Duration::from_secs(5),
        // It gives a pod with new labels its identity after up to 30 s, by a random delay, and some more.
        Plugin::Cilium => Duration::from_mins(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(plugin: Plugin, situation: Situation, from: &str, to: &str) -> bool {
        let pair = Pair { from: from.into(), to: to.into(), kind: "tcp", reached: false, why: String::new() };
        expected(plugin, situation, &pair)
    }

    #[test]
    fn a_quarantined_pod_reaches_nothing_and_is_reached_from_its_node_alone() {
        let places = [world::SIBLING, world::CLIENT, world::PEER, world::HOST, world::NODE, world::OUTSIDE];
        for plugin in [Plugin::Calico, Plugin::Cilium] {
            let quarantined = |from, to| reached(plugin, Situation::Quarantined, from, to);
            assert!(places.iter().all(|to| !quarantined(world::VICTIM, to)), "{plugin:?}");
            let reaching: Vec<_> = places.into_iter().filter(|from| quarantined(from, world::VICTIM)).collect();
            assert_eq!(reaching, [world::HOST, world::NODE], "{plugin:?}");
        }
    }

    #[test]
    fn nobody_else_is_cut_off_and_nothing_is_where_policies_are_not_enforced() {
        assert!(reached(Plugin::Calico, Situation::Quarantined, world::CLIENT, world::SIBLING));
        assert!(!reached(Plugin::Calico, Situation::QuarantinedBesideAllowForAll, world::CLIENT, world::VICTIM));
        assert!(reached(Plugin::Calico, Situation::DenyBesideAllow, world::CLIENT, world::VICTIM));
        assert!(reached(Plugin::None, Situation::Quarantined, world::CLIENT, world::VICTIM));
    }
}
