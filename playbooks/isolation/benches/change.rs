//! How long a change takes to be answered: 10,000 pods in 100 namespaces, 2,000 policies, 100 tracked pods.
//!
//! Each time is that of one call that takes the change and returns the tracked pods that it alters, with their new exposures computed.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use quell_isolation::{Allowances, Model, Pod, PodRef, Policy};
use serde_json::{Value, json};

const NAMESPACES: usize = 100;
const PODS: usize = 10_000;
const POLICIES: usize = 2_000;
const OF_CLUSTER: usize = 20;
const TRACKED: usize = 100;
const ROUNDS: usize = 200;

fn namespace(number: usize) -> String {
    format!("namespace-{}", number % NAMESPACES)
}

fn labels(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn pod(number: usize, version: usize) -> Pod {
    let address = u32::try_from(number).map_or(Ipv4Addr::UNSPECIFIED, |number| Ipv4Addr::from(0x0a00_0000 + number));
    Pod {
        namespace: namespace(number),
        name: format!("pod-{number}"),
        uid: number.to_string(),
        labels: labels(&[
            ("app", format!("app-{}", number / NAMESPACES % 20)),
            ("pod-template-hash", format!("hash-{version}")),
            // As every quarantined pod has one of its own.
            ("quell.dev/remediation", format!("run-{number}")),
            ("tier", format!("tier-{}", (number / NAMESPACES + version) % 3)),
        ]),
        addresses: vec![IpAddr::V4(address)],
        node: format!("node-{}", number % 50),
        ..Pod::default()
    }
}

fn policy(number: usize, version: usize) -> Option<Policy> {
    let app = format!("app-{}", number / NAMESPACES % 20);
    let object = json!({
        "metadata": {"namespace": namespace(number), "name": format!("policy-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [
                    {"podSelector": {"matchLabels": {"tier": format!("tier-{}", version % 3)}}},
                    {"namespaceSelector": {"matchLabels": {"team": "web"}}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"port": 8080}, {"port": 9000, "endPort": 9010 + version % 7}],
            }],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}, {"to": [{"podSelector": {}}]}],
        },
    });
    serde_json::from_value::<NetworkPolicy>(object).ok().map(|policy| Policy::from(&policy))
}

fn cluster_policy(number: usize, version: usize) -> Option<Policy> {
    let deny = |team: String| json!({"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": team}}}]});
    let object: Value = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("cluster-{number}")},
        "spec": {
            "tier": "Admin",
            "priority": number,
            "subject": {"namespaces": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}},
            "ingress": [
                deny(format!("team-{number}")),
                deny(format!("version-{version}")),
                {
                    "action": "Accept",
                    "from": [{"namespaces": {"matchLabels": {"team": format!("monitoring-{number}")}}}],
                    "protocols": [{"tcp": {"destinationPort": {"number": 9100 + number}}}],
                },
            ],
        },
    });
    Policy::read(&object).ok()
}

/// A policy that closes a quarantined pod.
fn quarantine(namespace: &str) -> Option<Policy> {
    let object = json!({
        "metadata": {"namespace": namespace, "name": "quarantine"},
        "spec": {"podSelector": {"matchLabels": {"quell.dev/quarantine": "full"}}, "policyTypes": ["Ingress", "Egress"]},
    });
    serde_json::from_value::<NetworkPolicy>(object).ok().map(|policy| Policy::from(&policy))
}

fn model() -> Model {
    let mut model = Model::new();
    for number in 0..NAMESPACES {
        model.upsert_namespace(&namespace(number), &labels(&[("team", format!("team-{}", number % 10))]));
    }
    for number in 0..PODS {
        model.upsert_pod(pod(number, 0));
    }
    for number in 0..POLICIES - OF_CLUSTER {
        policy(number, 0).map(|policy| model.upsert_policy(policy));
    }
    for number in 0..OF_CLUSTER {
        cluster_policy(number, 0).map(|policy| model.upsert_policy(policy));
    }
    // Spread over namespaces and apps.
    for number in (0..PODS).step_by(PODS / TRACKED) {
        let number = number + number / (PODS / TRACKED);
        model.track(PodRef::new(namespace(number), format!("pod-{number}")));
    }
    model
}

/// Times of many calls, of which only the call itself counts.
fn measure(what: &str, mut call: impl FnMut(usize) -> (Duration, usize)) {
    let mut times = Vec::with_capacity(ROUNDS);
    let mut altered = 0;
    for round in 1..=ROUNDS {
        let (time, changed) = call(round);
        times.push(time);
        altered += changed;
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 1000).min(times.len() - 1)];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?}, exposures altered {altered}", at(500), at(990), at(1000));
}

fn timed<T>(call: impl FnOnce() -> T, count: impl FnOnce(T) -> usize) -> (Duration, usize) {
    let start = Instant::now();
    let result = black_box(call());
    (start.elapsed(), count(result))
}

fn main() {
    let start = Instant::now();
    let mut model = model();
    println!("isolation: {PODS} pods, {POLICIES} policies, {TRACKED} tracked, built in {:?}", start.elapsed());
    let count = |changed: Vec<PodRef>| changed.len();
    let tracked: Vec<_> = model.tracked().map(|(pod, _)| pod.clone()).collect();
    let number_of = |pod: &PodRef| pod.name.trim_start_matches("pod-").parse().unwrap_or_default();
    let numbers: Vec<usize> = tracked.iter().map(number_of).collect();

    measure("label of a tracked pod", |round| {
        let pod = pod(numbers[round % numbers.len()], round);
        timed(|| model.upsert_pod(pod), count)
    });
    measure("label of any pod", |round| {
        let pod = pod(round * 7 % PODS, round);
        timed(|| model.upsert_pod(pod), count)
    });
    measure("policy of a namespace", |round| {
        match policy(numbers[round % numbers.len()] % (POLICIES - OF_CLUSTER), round) {
            Some(policy) => timed(|| model.upsert_policy(policy), count),
            None => (Duration::ZERO, 0),
        }
    });
    measure("policy of the cluster", |round| match cluster_policy(round % OF_CLUSTER, round) {
        Some(policy) => timed(|| model.upsert_policy(policy), count),
        None => (Duration::ZERO, 0),
    });
    measure("label of a namespace", |round| {
        let team = if round % 3 == 0 { "web".to_owned() } else { format!("team-{}", round % 10) };
        let (name, labels) = (namespace(round), labels(&[("team", team)]));
        timed(|| model.upsert_namespace(&name, &labels), count)
    });
    measure("exposure of a pod", |round| {
        timed(|| model.exposure(&tracked[round % tracked.len()]), |exposure| exposure.map_or(0, |all| all.paths.len()))
    });
    // All that is computed of a pod that was just cut off, before any watch shows it so.
    let cut_off = labels(&[("quell.dev/quarantine", "full".to_owned())]);
    measure("a pod that was just cut off, judged", |round| {
        let pod = &tracked[round % tracked.len()];
        let Some(policy) = quarantine(&pod.namespace) else { return (Duration::ZERO, 0) };
        timed(
            || {
                let exposure = model.exposure_with(pod, &cut_off, std::slice::from_ref(&policy));
                exposure.unwrap_or_default().beyond(&Allowances::none()).lines()
            },
            |leaks| leaks.first.len(),
        )
    });
    measure("pods behind a path", |round| {
        let exposure = model.exposure(&tracked[round % tracked.len()]).unwrap_or_default();
        let Some(path) = exposure.paths.get(round % exposure.paths.len().max(1)) else { return (Duration::ZERO, 0) };
        timed(|| model.pods(&path.peer), |pods| pods.first.len() + pods.more)
    });
}
