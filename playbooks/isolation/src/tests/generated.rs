//! What holds for every cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::support::{
    Cluster, NAMESPACE_KEYS, NAMESPACES, POD_KEYS, PORTS, cluster, place, read, some_cluster_policy, some_labels,
    some_marked_pod, some_plugin_policy, some_policy, strangers, tiered_cluster,
};
use crate::chain::stages;
use crate::pod::Seen;
use crate::policy::Told;
use crate::region::Block;
use crate::verdict::{Other, Side, Traffic, has, side};
use crate::{Addresses, Allowances, Direction, Exposure, Model, Path, Pod, PodRef, Ports, Protocol};

fn contains(block: &Block, traffic: &Traffic<'_>) -> bool {
    block.ports.on_pod(traffic.names).contains(traffic.protocol, traffic.port) && has(&block.cube, traffic) == Told::Yes
}

fn admits(exposure: &Exposure, direction: Direction, traffic: &Traffic<'_>) -> bool {
    has_path(exposure, direction, traffic, |_| true)
}

fn has_path(exposure: &Exposure, direction: Direction, traffic: &Traffic<'_>, which: impl Fn(&Path) -> bool) -> bool {
    let mut paths = exposure.paths.iter().filter(|path| path.direction == direction && which(path));
    paths.any(|path| Block::product(&path.peer.0, &path.ports).iter().any(|block| contains(block, traffic)))
}

fn doubts(exposure: &Exposure, direction: Direction, traffic: &Traffic<'_>) -> bool {
    let mut doubts = exposure.doubts.iter().filter(|doubt| doubt.direction == direction);
    doubts.any(|doubt| doubt.blocks.iter().any(|block| contains(block, traffic)))
}

/// Calls `with` for everything that the generated pod could be asked about.
fn each_traffic(cluster: &Cluster, pod: &Pod, mut with: impl FnMut(Direction, &Traffic<'_>)) {
    let pods =
        cluster.pods.iter().map(|other| (Other::Pod(seen(cluster, other)), other.addresses[0], other.ports.as_slice()));
    let strangers = strangers().map(|address| (Other::Outside, address, [].as_slice()));
    for (other, address, their_names) in pods.chain(strangers) {
        for direction in Direction::BOTH {
            let names = if direction == Direction::Ingress { &pod.ports } else { their_names };
            for protocol in Protocol::ALL {
                for port in PORTS {
                    with(direction, &Traffic { other, address: Some(address), protocol, port, names });
                }
            }
        }
    }
}

fn seen<'a>(cluster: &'a Cluster, pod: &'a Pod) -> Seen<'a> {
    Seen::of(pod, cluster.namespaces.get(&pod.namespace))
}

#[derive(Clone, Debug)]
enum Change {
    Namespace(&'static str, Option<BTreeMap<String, String>>),
    Pod(u8, Option<Pod>),
    Policy(Value, bool),
}

fn any_policy() -> impl Strategy<Value = Value> {
    prop_oneof![3 => some_policy(), 2 => some_cluster_policy(), 1 => some_plugin_policy()]
}

fn change() -> impl Strategy<Value = Change> {
    let namespace = (select(NAMESPACES.as_slice()), proptest::option::weighted(0.8, some_labels(NAMESPACE_KEYS)));
    let pod =
        (0..7_u8).prop_flat_map(|number| (Just(number), proptest::option::weighted(0.8, some_marked_pod(number))));
    prop_oneof![
        1 => namespace.prop_map(|(name, labels)| Change::Namespace(name, labels)),
        1 => pod.prop_map(|(number, pod)| Change::Pod(number, pod)),
        3 => (any_policy(), prop::bool::weighted(0.7)).prop_map(|(policy, stands)| Change::Policy(policy, stands)),
    ]
}

/// Makes the change in the model, and in the cluster as it is written down.
fn make(change: Change, model: &mut Model, cluster: &mut Cluster) -> Vec<PodRef> {
    match change {
        Change::Namespace(name, Some(labels)) => {
            let changed = model.upsert_namespace(name, &labels);
            cluster.namespaces.insert(name.to_owned(), labels);
            changed
        }
        Change::Namespace(name, None) => {
            cluster.namespaces.remove(name);
            model.remove_namespace(name)
        }
        Change::Pod(number, pod) => {
            let reference = PodRef::new(NAMESPACES[usize::from(number) % 3], format!("pod-{number}"));
            cluster.pods.retain(|pod| pod.reference() != reference);
            cluster.pods.extend(pod.clone());
            match pod {
                Some(pod) => model.upsert_pod(pod),
                None => model.remove_pod(&reference),
            }
        }
        Change::Policy(policy, stands) => {
            cluster.policies.retain(|other| place(other) != place(&policy));
            let read = read(&policy);
            if stands {
                cluster.policies.push(policy);
                model.upsert_policy(read)
            } else {
                model.remove_policy(read.reference())
            }
        }
    }
}

fn exposures(model: &Model) -> BTreeMap<PodRef, Option<Exposure>> {
    model.tracked().map(|(pod, exposure)| (pod.clone(), exposure)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_path_is_listed_exactly_where_a_connection_would_get_through(cluster in tiered_cluster()) {
        let model = cluster.model();
        let policies: Vec<_> = cluster.policies.iter().map(read).collect();
        // A port's name beside a deny, and policies of the same priority, can't always be told; anything else can.
        let of_cluster: Vec<_> = cluster.policies.iter().filter(|p| p["kind"] == "ClusterNetworkPolicy").collect();
        let ranks: BTreeSet<_> = of_cluster.iter().map(|p| (p["spec"]["tier"].as_str(), p["spec"]["priority"].as_u64())).collect();
        let is_exact = ranks.len() == of_cluster.len() && (of_cluster.is_empty() || !json!(cluster.policies).to_string().contains("\"web\"") && !json!(cluster.policies).to_string().contains("\"dns\""));
        for pod in &cluster.pods {
            let exposure = model.exposure(&pod.reference()).expect("a pod");
            let me = seen(&cluster, pod);
            let stages = Direction::BOTH.map(|direction| stages(policies.iter(), &BTreeMap::new(), &me, direction));
            let mut wrong = Vec::new();
            each_traffic(&cluster, pod, |direction, traffic| {
                let told = side(&stages[direction as usize], &me, traffic);
                let (open, doubted) = (admits(&exposure, direction, traffic), doubts(&exposure, direction, traffic));
                let certain = has_path(&exposure, direction, traffic, |path| path.certain);
                let right = match &told {
                    Side::Allowed(_) if is_exact => certain && !doubted,
                    Side::Denied(_) if is_exact => !open && !doubted,
                    Side::Allowed(_) => open,
                    Side::Denied(_) => !certain,
                    Side::Unknown(_) => open || doubted,
                };
                if !right {
                    wrong.push((direction, traffic.address, traffic.protocol, traffic.port, told, open, doubted));
                }
            });
            prop_assert!(wrong.is_empty(), "{}: {wrong:?}\n{:#?}", pod.name, exposure.lines());
        }
    }

    #[test]
    fn a_leak_is_exactly_what_is_open_and_was_not_asked_for(cluster in cluster(), second in 0..4_u8, port in 40..90_u16) {
        let block = Addresses::block(format!("10.{second}.0.0/15").parse().expect("a CIDR"), &[]);
        let ports = Ports::range(Protocol::Tcp, 50, port);
        let asked = Allowances::dns().addresses(Direction::Ingress, &block, &ports).addresses(Direction::Egress, &block, &ports);
        let is_asked = |direction, traffic: &Traffic<'_>| {
            let in_block = block.contains(traffic.address.expect("an address"))
                && traffic.protocol == Protocol::Tcp && (50..=port).contains(&traffic.port);
            in_block || direction == Direction::Egress && traffic.port == 53 && traffic.protocol != Protocol::Sctp
        };
        let model = cluster.model();
        for pod in &cluster.pods {
            let exposure = model.exposure(&pod.reference()).expect("a pod");
            let leaks = exposure.beyond(&asked);
            let mut wrong = Vec::new();
            each_traffic(&cluster, pod, |direction, traffic| {
                let is_leak = admits(&exposure, direction, traffic) && !is_asked(direction, traffic);
                // A port that has a name only is told by its name, whatever its number is.
                let by_name = direction == Direction::Egress && leaks.paths.iter().any(|path| path.ports.has_names());
                if admits(&leaks, direction, traffic) != is_leak && !by_name {
                    wrong.push((direction, traffic.address, traffic.protocol, traffic.port));
                }
                if is_leak && !admits(&leaks, direction, traffic) {
                    wrong.push((direction, traffic.address, traffic.protocol, traffic.port));
                }
            });
            prop_assert!(wrong.is_empty(), "{}: {wrong:?}", pod.name);
        }
    }

    #[test]
    fn changes_one_by_one_come_to_the_same_as_a_model_made_anew(
        start in tiered_cluster(),
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let (mut model, mut cluster) = (start.model(), start);
        for number in 0..7_u8 {
            model.track(PodRef::new(NAMESPACES[usize::from(number) % 3], format!("pod-{number}")));
        }
        for change in changes {
            let before = exposures(&model);
            let told: BTreeSet<_> = make(change.clone(), &mut model, &mut cluster).into_iter().collect();
            let (after, anew) = (exposures(&model), cluster.model());
            for (pod, exposure) in &after {
                prop_assert_eq!(exposure, &anew.exposure(pod), "{} after {:?}", pod, change);
            }
            let changed: BTreeSet<_> = after.keys().filter(|pod| before[*pod] != after[*pod]).cloned().collect();
            prop_assert_eq!(told, changed, "after {:?}", change);
        }
    }

    #[test]
    fn pods_that_share_their_way_are_told_what_each_is_told_alone(
        cluster in tiered_cluster(),
        pods in [some_marked_pod(0), some_marked_pod(3), some_marked_pod(6)],
        more in prop::collection::vec(any_policy(), 0..4),
        last in any_policy(),
    ) {
        let mut cluster = cluster;
        // All in one namespace, two of them told apart by nothing but what no policy asks about.
        let twin = |name: &str, of: &Pod| Pod { name: name.to_owned(), ..of.clone() };
        let twins = [twin("twin", &pods[0]), twin("other-ports", &Pod { ports: pods[1].ports.clone(), ..pods[0].clone() })];
        cluster.pods.retain(|pod| !["pod-0", "pod-3", "pod-6"].contains(&pod.name.as_str()));
        cluster.pods.extend(pods.into_iter().chain(twins));
        let together = || {
            let mut model = cluster.model();
            for policy in &more {
                model.upsert_policy(read(policy));
            }
            model
        };
        let mut model = together();
        for pod in &cluster.pods {
            model.track(pod.reference());
        }
        model.upsert_policy(read(&last));
        for pod in &cluster.pods {
            let mut alone = together();
            alone.upsert_policy(read(&last));
            prop_assert_eq!(model.exposure(&pod.reference()), alone.exposure(&pod.reference()), "{}", pod.name);
        }
    }

    #[test]
    fn asking_beforehand_comes_to_the_same_as_doing_it(
        cluster in tiered_cluster(),
        labels in some_labels(POD_KEYS),
        extra in prop::collection::vec(any_policy(), 0..3),
    ) {
        let mut model = cluster.model();
        let pod = &cluster.pods[0];
        let mut extra: Vec<_> = extra.iter().map(read).collect();
        extra.sort_by(|a, b| a.reference().cmp(b.reference()));
        extra.dedup_by(|a, b| a.reference() == b.reference());
        let asked = model.exposure_with(&pod.reference(), &labels, &extra);
        model.upsert_pod(Pod { labels, ..pod.clone() });
        for policy in extra {
            model.upsert_policy(policy);
        }
        prop_assert_eq!(asked, model.exposure(&pod.reference()));
    }
}

#[test]
fn an_address_written_as_ipv6_is_the_pod_that_has_it_as_ipv4() {
    let (model, db) = super::support::shop();
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
    let verdict = model.verdict(&crate::Endpoint::Address(mapped), &crate::Endpoint::Pod(db), Protocol::Tcp, 80);
    assert!(matches!(verdict, crate::Verdict::Allowed { egress: crate::Grounds::Itself, .. }), "{verdict}");
}
