//! The network plugin: which one Quell believes to be there, and whether what was seen says the same.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Api, ListParams};
use quell_playbooks::contained::{Network, human};

use super::Checked;
use crate::client::{Connection, list};
use crate::told::Told;

const WHAT: &str = "network plugin";

/// What was seen of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// From the request for a policy to the last connection that got through; `None`: they go on.
    pub(super) cut: Option<Duration>,
    /// Whether a connection that was open lives on; `None` where nothing is enforced.
    pub(super) keeps: Option<bool>,
    /// From the request to change a pod's label, which a policy selects by, to the last connection that got through.
    pub(super) relabelled: Option<Duration>,
}

/// The network as the operator has it: as it was told, or as the DaemonSets that are there tell.
pub(super) async fn believed(connection: &Connection, told: Option<&Told>) -> (Option<Network>, Vec<Checked>) {
    let api: Api<DaemonSet> = Api::all(connection.client.clone());
    let there = match list(&api, &ListParams::default()).await {
        Ok(all) => all.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(),
        Err(error) => return (None, vec![Checked::unknown(WHAT, &error)]),
    };
    let seen = Network::of_daemon_sets(there.iter().map(String::as_str));
    let flag = told.and_then(|told| told.by("--network-plugin", "QUELL_NETWORK_PLUGIN"));
    believes(flag.as_deref(), seen)
}

fn believes(flag: Option<&str>, seen: Network) -> (Option<Network>, Vec<Checked>) {
    let named = flag.and_then(Network::named);
    if let Some(flag) = flag
        && named.is_none()
    {
        let found = format!(
            "the operator was told {flag}, which is no plugin that Quell knows: {}, or none",
            Network::KNOWN.join(", ")
        );
        return (None, vec![Checked::bad(WHAT, found)]);
    }
    match (named, seen.plugin.is_empty()) {
        (Some(named), false) if named != seen => {
            let found = format!(
                "the operator was told {} (--network-plugin), and there is a DaemonSet of {}: one of them is wrong",
                named.plugin, seen.plugin
            );
            (Some(named), vec![Checked::bad(WHAT, found)])
        }
        (Some(named), _) => {
            let found = format!("{}, as the operator was told; {}", named.plugin, said(&named));
            (Some(named), vec![Checked::ok(WHAT, found)])
        }
        (None, false) => {
            let found = format!("{}, as its DaemonSet tells; {}", seen.plugin, said(&seen));
            (Some(seen), vec![Checked::ok(WHAT, found)])
        }
        (None, true) => {
            let found = "Quell doesn't know it, and so never says Contained=True: set networkPlugin in the chart, or --network-plugin";
            (None, vec![Checked::note(WHAT, found)])
        }
    }
}

fn said(network: &Network) -> &'static str {
    match (network.enforces, network.keeps_connections) {
        (Some(false), _) => "it is thought to enforce no policies",
        (_, true) => "it is thought to enforce policies, and to keep connections that are open",
        (_, false) => "it is thought to enforce policies, and to cut connections that are open",
    }
}

/// The image that the operator runs, or was told to probe with.
pub(super) fn image(told: &Told) -> Option<String> {
    let own = || told.containers().find(|one| one.name == "quell").and_then(|one| one.image.clone());
    told.by("--probe-image", "QUELL_PROBE_IMAGE").or_else(own)
}

/// What was seen, beside what Quell believes.
pub(super) fn compared(believed: Option<&Network>, seen: &Seen) -> Vec<Checked> {
    let mut told = Vec::new();
    match seen.cut {
        None => told.push(Checked::bad(
            "policies",
            "NOT ENFORCED: a pod that a NetworkPolicy denies everything is still connected to. No quarantine holds here: install a network \
             plugin that enforces policies; until then cordon and terminate",
        )),
        Some(cut) => told.push(Checked::ok(
            "policies",
            format!("enforced: the last new connection got through {} after the policy was asked for", human(cut)),
        )),
    }
    match seen.keeps {
        None => {}
        Some(true) => told.push(Checked::note(
            "open connections",
            "live on under a policy that denies them: put severConnections after quarantine, or delete the pod once the evidence is taken",
        )),
        Some(false) => told.push(Checked::ok("open connections", "are cut by a policy that denies them")),
    }
    match seen.relabelled {
        Some(late) if late > Duration::from_secs(2) => told.push(Checked::note(
            "labels",
            format!(
                "a pod that gets a label which a policy selects by was connected to for {} more: a quarantine holds that much later here; \
                 see docs/packets.md",
                human(late)
            ),
        )),
        Some(soon) => told.push(Checked::ok(
            "labels",
            format!("a pod that gets a label which a policy selects by was cut off within {}", human(soon)),
        )),
        None if seen.cut.is_some() => told.push(Checked::bad(
            "labels",
            "a pod that got a label which a policy selects by was still connected to when the time was over: a quarantine works by that; \
             give it more with --timeout",
        )),
        None => {}
    }
    let Some(believed) = believed else { return told };
    if believed.enforces.is_some_and(|enforces| enforces != seen.cut.is_some()) {
        let thought = if seen.cut.is_some() { "enforces nothing" } else { "enforces policies" };
        let found = format!(
            "Quell believes that {} {thought}, and that is not so here: set networkPlugin in the chart",
            believed.plugin
        );
        told.push(Checked::bad(WHAT, found));
    } else if seen.keeps == Some(true) && !believed.keeps_connections {
        let found = format!(
            "Quell believes that {} cuts open connections, and here it did not: Contained may say more than is so",
            believed.plugin
        );
        told.push(Checked::bad(WHAT, found));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const MS: fn(u64) -> Option<Duration> = |ms| Some(Duration::from_millis(ms));

    fn worst(believed: Option<&str>, seen: Seen) -> Level {
        let network = believed.and_then(Network::named);
        compared(network.as_ref(), &seen).iter().map(|one| one.level).max().unwrap_or(Level::Ok)
    }

    #[test]
    fn a_network_that_enforces_nothing_is_bad_whatever_quell_believes() {
        let nothing = Seen { cut: None, keeps: None, relabelled: None };
        for believed in [None, Some("none"), Some("calico")] {
            assert_eq!(worst(believed, nothing), Level::Bad);
            let told = compared(believed.and_then(Network::named).as_ref(), &nothing);
            assert!(told[0].found.starts_with("NOT ENFORCED"), "{told:?}");
        }
    }

    #[test]
    fn what_was_seen_counts_for_more_than_what_is_believed() {
        let calico = Seen { cut: MS(12), keeps: Some(true), relabelled: MS(50) };
        assert_eq!(worst(Some("calico"), calico), Level::Note);
        assert_eq!(worst(Some("cilium"), calico), Level::Bad);
        assert_eq!(worst(Some("flannel"), calico), Level::Bad);
        let cilium = Seen { cut: MS(180), keeps: Some(false), relabelled: MS(21_000) };
        assert_eq!(worst(Some("cilium"), cilium), Level::Note);
        assert_eq!(worst(Some("cilium"), Seen { relabelled: MS(90), ..cilium }), Level::Ok);
        assert_eq!(worst(Some("cilium"), Seen { relabelled: None, ..cilium }), Level::Bad);
    }

    #[test]
    fn what_the_operator_was_told_is_compared_with_the_daemon_sets() {
        let calico = || Network::of_daemon_sets(["calico-node"]);
        for (flag, seen, level) in [
            (None, calico(), Level::Ok),
            (Some("calico"), calico(), Level::Ok),
            (Some("cilium"), calico(), Level::Bad),
            (Some("cilium"), Network::default(), Level::Ok),
            (Some("sneakernet"), calico(), Level::Bad),
            (None, Network::default(), Level::Note),
        ] {
            let (_, told) = believes(flag, seen);
            assert_eq!(told[0].level, level, "{flag:?}: {told:?}");
        }
    }
}
