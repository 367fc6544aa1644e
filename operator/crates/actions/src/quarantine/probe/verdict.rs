//! What the probes of one round tell together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use quell_crds::v1alpha1::step::Quarantine;
use quell_isolation::{Endpoint, Model, Pod as Modelled, PodRef, Protocol, Verdict as Allows};
use quell_playbooks::contained::human;
use quell_playbooks::probe::Verdict;
use serde::Deserialize;

use super::super::profile::Profile;
use super::job::Place;
use crate::jobs;
use crate::mark::Mark;

/// What a probe says of itself; see `quell_probe::Report`.
#[derive(Clone, Debug, Deserialize)]
struct Report {
    peer: [Outcome; 2],
    targets: Vec<Target>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    address: SocketAddr,
    outcome: Outcome,
    tries: u32,
    #[serde(default)]
    answered_until: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Outcome {
    Connected,
    Refused,
    Unreachable,
    Silent,
}

/// What came of the probe at one place.
pub(super) struct Told {
    at: Place,
    of: Result<(Box<Pod>, Report), String>,
}

impl Told {
    pub(super) fn nothing(at: Place, why: String) -> Self {
        Self { at, of: Err(why) }
    }

    pub(super) fn read(at: Place, pod: Pod, said: &str) -> Self {
        let report = serde_json::from_str::<Report>(said);
        let unreadable = |error| format!("what it tried can't be read ({error}); it said: {}", jobs::shortened(said));
        Self { at, of: report.map(|report| (Box::new(pod), report)).map_err(unreadable) }
    }
}

/// Whom it is about.
pub(super) struct Seen<'a> {
    pub(super) pod: &'a Pod,
    pub(super) namespace_labels: &'a BTreeMap<String, String>,
    pub(super) parameters: &'a Quarantine,
    /// The probe namespace.
    pub(super) probing: &'a str,
}

impl Seen<'_> {
    fn from(&self, at: Place) -> String {
        match at {
            Place::Beside => "from beside it".to_owned(),
            Place::Peer | Place::Outside => format!("from namespace {}", self.probing),
        }
    }

    /// Whether the playbook itself lets that probe through: the profile's policy, alone in the cluster, would.
    fn asked_for(&self, probe: &Pod, port: u16) -> bool {
        let mut alone = Model::new();
        let namespace = self.pod.namespace().unwrap_or_default();
        alone.upsert_namespace(&namespace, self.namespace_labels);
        alone.upsert_pod(Modelled::of(self.pod));
        alone.upsert_pod(Modelled::of(probe));
        let nobody =
            Mark { namespace: String::new(), remediation: String::new(), finding: String::new(), step: String::new() };
        alone.upsert_policy(&Profile::of(self.parameters).policy(&namespace, &nobody));
        let end = |pod: &Pod| Endpoint::Pod(PodRef::new(pod.namespace().unwrap_or_default(), pod.name_any()));
        matches!(alone.verdict(&end(probe), &end(self.pod), Protocol::Tcp, port), Allows::Allowed { .. })
    }
}

/// The verdict, and what there is to say.
pub(super) fn of(seen: &Seen<'_>, told: &[Told]) -> (Verdict, String) {
    let (mut through, mut nothing, mut useless) = (Vec::new(), Vec::new(), Vec::new());
    for Told { at, of } in told {
        let from = seen.from(*at);
        let (probe, report) = match of {
            Ok(read) => read,
            Err(why) => {
                useless.push(format!("{from}: {why}"));
                continue;
            }
        };
        let open = report.targets.iter().filter(|target| target.outcome == Outcome::Connected);
        let (asked, leaks): (Vec<_>, Vec<_>) = open.partition(|target| seen.asked_for(probe, target.address.port()));
        if !leaks.is_empty() {
            through.push(format!("{from} on {}", listed(&leaks)));
        } else if report.peer != [Outcome::Connected; 2] {
            useless.push(format!(
                "{from} the probe could not reach even the probe pod in namespace {}, so its own network is closed or broken; let pods \
                 with the label {} reach that namespace",
                seen.probing,
                quell_crds::names::PROBE
            ));
        } else {
            nothing.push(closed(&from, report, &asked));
        }
    }
    let title = format!("pod {}/{}", seen.pod.namespace().unwrap_or_default(), seen.pod.name_any());
    if !through.is_empty() {
        return (Verdict::GotThrough, format!("a probe connected to {title} {}", through.join(", and ")));
    }
    if !useless.is_empty() {
        let rest = if nothing.is_empty() { String::new() } else { format!("; {}", nothing.join("; ")) };
        return (Verdict::NotMade, format!("{title} could not be probed {}{rest}", useless.join("; nor ")));
    }
    (Verdict::NothingGotThrough, format!("probes could not connect to {title}: {}", nothing.join("; ")))
}

fn closed(from: &str, report: &Report, asked: &[&Target]) -> String {
    let closed: Vec<&Target> = report.targets.iter().filter(|target| target.outcome != Outcome::Connected).collect();
    let tries: u32 = closed.iter().map(|target| target.tries).sum();
    let mut text = format!("{from} {tries} tries on {}", listed(&closed));
    if let Some(until) = closed.iter().filter_map(|target| target.answered_until).max() {
        let _ =
            write!(text, ", the last one that was answered {} after the first", human(Duration::from_millis(until)));
    }
    let refused: Vec<&Target> = closed.iter().copied().filter(|target| target.outcome == Outcome::Refused).collect();
    if !refused.is_empty() {
        let _ = write!(text, " ({} was refused: by the network, or because nothing listens there)", listed(&refused));
    }
    if !asked.is_empty() {
        let _ = write!(text, " ({} answered, which the playbook leaves open)", listed(asked));
    }
    text
}

fn listed(targets: &[&Target]) -> String {
    let mut all: Vec<String> = targets.iter().take(6).map(|target| target.address.to_string()).collect();
    match targets.len() {
        0 => return "nothing".to_owned(),
        more @ 7.. => all.push(format!("{} more", more - 6)),
        _ => {}
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use quell_crds::names;
    use quell_crds::v1alpha1::step::Peer;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, address: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {names::QUARANTINE: "full"}},
            "status": {"podIP": address, "podIPs": [{"ip": address}]},
        }))
        .expect("a pod")
    }

    fn told(at: Place, peer: &str, outcome: &str) -> Told {
        let report = json!({
            "peer": ["Connected", peer],
            "targets": [{"address": "10.0.0.1:80", "outcome": outcome, "tries": 3, "answeredUntil": 1200}],
        });
        let namespace = if at == Place::Beside { "shop" } else { "quell-probe" };
        let mut probe = pod(namespace, "probe", "10.0.0.9");
        probe.metadata.labels = None;
        Told::read(at, probe, &report.to_string())
    }

    fn judged(parameters: &Quarantine, told: &[Told]) -> (Verdict, String) {
        let mut victim = pod("shop", "web", "10.0.0.1");
        let profile = Profile::of(parameters);
        victim.metadata.labels = Some(BTreeMap::from([(names::QUARANTINE.to_owned(), profile.name().to_owned())]));
        of(&Seen { pod: &victim, namespace_labels: &BTreeMap::new(), parameters, probing: "quell-probe" }, told)
    }

    #[test]
    fn nothing_got_through_only_where_every_place_tried_and_reached_its_peer() {
        let full = Quarantine::default();
        for (outside, beside, verdict, says) in [
            (
                ("Connected", "Silent"),
                ("Connected", "Refused"),
                Verdict::NothingGotThrough,
                "was refused: by the network",
            ),
            (
                ("Connected", "Silent"),
                ("Silent", "Silent"),
                Verdict::NotMade,
                "from beside it the probe could not reach",
            ),
            (
                ("Connected", "Connected"),
                ("Silent", "Silent"),
                Verdict::GotThrough,
                "namespace quell-probe on 10.0.0.1:80",
            ),
            (
                ("Silent", "Silent"),
                ("Connected", "Unreachable"),
                Verdict::NotMade,
                "could not be probed from namespace",
            ),
        ] {
            let all = [told(Place::Outside, outside.0, outside.1), told(Place::Beside, beside.0, beside.1)];
            let (found, message) = judged(&full, &all);
            assert_eq!(found, verdict, "{message}");
            assert!(message.contains(says), "{message}");
        }
        let broken =
            [told(Place::Outside, "Connected", "Silent"), Told::read(Place::Beside, Pod::default(), "panicked")];
        let (found, message) = judged(&full, &broken);
        assert_eq!(found, Verdict::NotMade);
        assert!(message.contains("panicked"), "{message}");
    }

    #[test]
    fn when_the_network_took_its_time_it_is_said() {
        let all = [told(Place::Outside, "Connected", "Silent"), told(Place::Beside, "Connected", "Silent")];
        let (_, message) = judged(&Quarantine::default(), &all);
        assert!(message.contains("the last one that was answered 1.2s after the first"), "{message}");
    }

    #[test]
    fn what_the_playbook_leaves_open_is_no_leak_and_what_it_leaves_open_to_others_is() {
        let stations = |cidr: &str| Quarantine {
            allow: vec![Peer { cidr: Some(cidr.to_owned()), ..Peer::default() }],
            ..Quarantine::default()
        };
        let all = || [told(Place::Outside, "Connected", "Connected"), told(Place::Beside, "Connected", "Connected")];
        let (found, message) = judged(&stations("10.0.0.0/24"), &all());
        assert_eq!(found, Verdict::NothingGotThrough, "{message}");
        assert!(message.contains("which the playbook leaves open"), "{message}");
        assert_eq!(judged(&stations("10.9.0.0/24"), &all()).0, Verdict::GotThrough);
    }
}
