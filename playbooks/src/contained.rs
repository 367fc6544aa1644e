//! Whether a quarantined pod is contained: what is open, whether the network enforces policies, and what it keeps open all the same.

use std::fmt::Write as _;
use std::time::Duration;

use quell_crds::conditions::{Reason, Status};
use quell_isolation::{Exposure, State};

/// Paths that a condition's message lists; the status lists more of them.
const TOLD: usize = 5;

/// What is known of the cluster's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The plugin, such as `Calico`; empty where it isn't known.
    pub plugin: String,
    /// Whether it enforces NetworkPolicies; `None` where that isn't known.
    pub enforces: Option<bool>,
    /// Whether connections that are open when a policy comes live on.
    pub keeps_connections: bool,
}

/// Names of DaemonSets and plugins, the plugin, whether it enforces NetworkPolicies, and whether it keeps open connections.
///
/// That connections live on with Calico and kube-router, and are cut by Cilium, was seen with packets (`docs/packets.md`). Of the others
/// their projects say so, or say nothing: then they count as kept.
const PLUGINS: &[(&[&str], &str, bool, bool)] = &[
    (&["calico", "calico-node", "canal"], "Calico", true, true),
    (&["cilium"], "Cilium", true, false),
    (&["kube-router"], "kube-router", true, true),
    (&["antrea", "antrea-agent"], "Antrea", true, true),
    (&["ovn-kubernetes", "ovnkube-node"], "OVN-Kubernetes", true, true),
    (&["weave-net"], "Weave Net", true, true),
    (&["kindnet"], "kindnet", true, true),
    (&["kube-network-policies"], "kube-network-policies", true, true),
    (&["flannel", "kube-flannel", "kube-flannel-ds"], "flannel", false, true),
    (&["none"], "none", false, true),
];

impl Network {
    /// What [`Self::named`] knows, by the first name of each.
    pub const KNOWN: [&str; 9] = [
        "calico",
        "cilium",
        "kube-router",
        "antrea",
        "ovn-kubernetes",
        "weave-net",
        "kindnet",
        "kube-network-policies",
        "flannel",
    ];

    /// The plugin of that name, in any case: as `--network-plugin` has it, or as its DaemonSet is called.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (_, plugin, enforces, keeps_connections) =
            PLUGINS.iter().find(|(names, ..)| names.contains(&name.as_str()))?;
        Some(Self { plugin: (*plugin).to_owned(), enforces: Some(*enforces), keeps_connections: *keeps_connections })
    }

    /// The network of a cluster with these DaemonSets: a plugin that enforces counts for more than one that doesn't, since flannel often
    /// runs with another that enforces for it.
    pub fn of_daemon_sets<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = names.into_iter().filter(|name| *name != "none").filter_map(Self::named);
        known.max_by_key(|network| network.enforces).unwrap_or_default()
    }
}

/// What is known of one quarantined pod.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// `namespace/name`.
    pub pod: &'a str,
    /// What gets through beyond what was asked to stay open; `None`: the pod is gone.
    pub leaks: Option<&'a Exposure>,
    /// The network.
    pub network: &'a Network,
    /// The pod's open connections were cut after the quarantine stood.
    pub severed: bool,
    /// From the moment that the alert was taken in to the pod's quarantine; `None` where it isn't known.
    pub after: Option<Duration>,
}

/// The `Contained` condition of a pod.
#[must_use]
pub fn judge(observed: &Observed<'_>) -> (Status, Reason, String) {
    let Observed { pod, network, .. } = observed;
    let Some(leaks) = observed.leaks else {
        return (Status::True, Reason::TargetGone, format!("pod {pod} is gone, and its connections with it"));
    };
    let cut_off =
        observed.after.map_or_else(String::new, |after| format!("; cut off {} after the alert", human(after)));
    match leaks.state() {
        State::Open => {
            let message = format!("pod {pod} can still be reached, or reach out: {}", listed(leaks));
            return (Status::False, Reason::PathsOpen, message);
        }
        State::Unknown => {
            let message = format!("what gets through to pod {pod} can't be told: {}", listed(leaks));
            return (Status::Unknown, Reason::PathsUnknown, message);
        }
        State::Isolated => {}
    }
    let policies = format!("no policy lets anything through to pod {pod} or from it but what was asked for");
    match network.enforces {
        Some(true) if network.keeps_connections && !observed.severed => {
            let message = format!(
                "{policies}{cut_off}; but with {} connections that were open before live on: add severConnections to the playbook, \
                 or delete the pod once the evidence is taken",
                network.plugin
            );
            (Status::Unknown, Reason::ConnectionsKept, message)
        }
        Some(true) => {
            let severed = if observed.severed { ", and open connections were cut" } else { "" };
            let message = format!(
                "{policies}{severed}{cut_off}; its own node, exec and logs always reach it, and {} enforces policies",
                network.plugin
            );
            (Status::True, Reason::NothingGetsThrough, message)
        }
        Some(false) => {
            let plugin = if network.plugin == "none" { "this cluster's network" } else { network.plugin.as_str() };
            let message = format!("{policies}, but {plugin} enforces no policies: delete the pod, or cordon its node");
            (Status::False, Reason::NotEnforced, message)
        }
        None => {
            let message = format!(
                "{policies}{cut_off}; whether this cluster's network enforces policies isn't known: run `kubectl quell doctor`, \
                 or set the operator's --network-plugin"
            );
            (Status::Unknown, Reason::EnforcementUnknown, message)
        }
    }
}

/// `8ms`, `1.2s`.
#[must_use]
pub fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis().max(1))
    } else {
        format!("{:.1}s", duration.as_secs_f64())
    }
}

fn listed(leaks: &Exposure) -> String {
    let lines = leaks.lines();
    let mut text = lines.first.iter().take(TOLD).cloned().collect::<Vec<_>>().join("; ");
    let more = lines.first.len().saturating_sub(TOLD) + lines.more;
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use quell_isolation::{Model, Pod, PodRef};

    use super::*;

    fn open() -> Exposure {
        let mut model = Model::new();
        model.upsert_pod(Pod { namespace: "shop".to_owned(), name: "web".to_owned(), ..Pod::default() });
        model.exposure(&PodRef::new("shop", "web")).unwrap_or_default()
    }

    fn judged(leaks: Option<&Exposure>, plugin: Option<&str>, severed: bool) -> (Status, Reason, String) {
        let network = plugin.and_then(Network::named).unwrap_or_default();
        let after = Some(Duration::from_millis(9));
        judge(&Observed { pod: "shop/web", leaks, network: &network, severed, after })
    }

    #[test]
    fn it_is_contained_only_where_nothing_is_open_and_the_network_enforces_and_keeps_nothing() {
        let nothing = Exposure::default();
        for (leaks, plugin, severed, status, reason) in [
            (None, None, false, Status::True, Reason::TargetGone),
            (Some(&open()), Some("cilium"), true, Status::False, Reason::PathsOpen),
            (Some(&nothing), None, true, Status::Unknown, Reason::EnforcementUnknown),
            (Some(&nothing), Some("flannel"), true, Status::False, Reason::NotEnforced),
            (Some(&nothing), Some("calico-node"), false, Status::Unknown, Reason::ConnectionsKept),
            (Some(&nothing), Some("calico-node"), true, Status::True, Reason::NothingGetsThrough),
            (Some(&nothing), Some("Cilium"), false, Status::True, Reason::NothingGetsThrough),
        ] {
            let (found, why, message) = judged(leaks, plugin, severed);
            assert_eq!((found, why), (status, reason), "{message}");
            assert!(message.contains("shop/web"), "{message}");
        }
    }

    #[test]
    fn a_plugin_that_enforces_counts_for_more_than_one_that_does_not() {
        assert_eq!(Network::of_daemon_sets(["kube-flannel-ds", "calico-node", "kube-proxy"]).plugin, "Calico");
        assert_eq!(Network::of_daemon_sets(["kube-flannel-ds"]).enforces, Some(false));
        assert_eq!(Network::of_daemon_sets(["kube-proxy", "none"]), Network::default());
        assert!(Network::KNOWN.iter().all(|name| Network::named(name).is_some()));
    }

    #[test]
    fn an_open_path_is_named_with_what_leaves_it_open() {
        let (_, _, message) = judged(Some(&open()), Some("cilium"), false);
        assert!(
            message.contains("in from any address on any port: no policy selects the pod for ingress"),
            "{message}"
        );
    }
}
