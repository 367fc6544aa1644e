//! Clusters, written down and generated.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::{Exposure, Model, NamedPort, Pod, PodRef, Policy, Protocol};

pub(super) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn pod(namespace: &str, name: &str, pairs: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        labels: labels(pairs),
        node: "one".to_owned(),
        service_account: "default".to_owned(),
        ..Pod::default()
    }
}

pub(super) fn named_port(name: &str, protocol: Protocol, number: u16) -> NamedPort {
    NamedPort { name: name.to_owned(), protocol, number }
}

pub(super) fn policy(namespace: &str, name: &str, spec: &Value) -> NetworkPolicy {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    serde_json::from_value(object).expect("a NetworkPolicy")
}

/// Namespace `shop` with one pod, `db`, at 10.0.0.1.
pub(super) fn shop() -> (Model, PodRef) {
    let mut model = Model::new();
    model.upsert_namespace("shop", &labels(&[("team", "sales")]));
    let db = Pod { addresses: vec![IpAddr::from([10, 0, 0, 1])], ..pod("shop", "db", &[("app", "db")]) };
    let reference = db.reference();
    model.upsert_pod(db);
    (model, reference)
}

pub(super) fn lines(exposure: &Exposure) -> Vec<String> {
    exposure.lines().first
}

/// A cluster as the generator makes it.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) pods: Vec<Pod>,
    /// As the API has them.
    pub(super) policies: Vec<Value>,
}

impl Cluster {
    pub(super) fn model(&self) -> Model {
        let mut model = Model::new();
        for (name, labels) in &self.namespaces {
            model.upsert_namespace(name, labels);
        }
        for pod in &self.pods {
            model.upsert_pod(pod.clone());
        }
        for policy in &self.policies {
            model.upsert_policy(read(policy));
        }
        model
    }
}

pub(super) fn read(object: &Value) -> Policy {
    Policy::read(object).expect("a policy")
}

/// What no two policies have in common.
pub(super) fn place(policy: &Value) -> (String, String, String) {
    let metadata = &policy["metadata"];
    (policy["kind"].to_string(), metadata["namespace"].to_string(), metadata["name"].to_string())
}

const VALUES: [&str; 3] = ["x", "y", "z"];
pub(super) const NAMESPACES: [&str; 3] = ["one", "two", "three"];
pub(super) const PORTS: [u16; 4] = [53, 80, 81, 443];

pub(super) fn some_labels(keys: &'static [&'static str]) -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = proptest::option::weighted(0.6, select(VALUES.as_slice()));
    prop::collection::vec(value, keys.len()).prop_map(|values| {
        let pairs = keys.iter().zip(values);
        pairs.filter_map(|(key, value)| Some(((*key).to_owned(), value?.to_owned()))).collect()
    })
}

pub(super) const NAMESPACE_KEYS: &[&str] = &["team", "env"];
pub(super) const POD_KEYS: &[&str] = &["app", "tier"];

fn selector(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let pair = (select(keys), select(VALUES.as_slice()));
    let operator = select(["In", "NotIn", "Exists", "DoesNotExist"].as_slice());
    let expression = (select(keys), operator, prop::collection::btree_set(select(VALUES.as_slice()), 1..3)).prop_map(
        |(key, operator, values)| match operator {
            "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
            _ => json!({"key": key, "operator": operator}),
        },
    );
    prop_oneof![
        2 => Just(json!({})),
        4 => pair.prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        4 => prop::collection::vec(expression, 1..3).prop_map(|all| json!({"matchExpressions": all})),
    ]
}

fn block() -> impl Strategy<Value = Value> {
    let v4 =
        (0..4_u8, 8..32_u8, prop::collection::vec((0..4_u8, 0..4_u8), 0..3)).prop_map(|(second, prefix, holes)| {
            let except: Vec<_> = holes.iter().map(|(a, b)| format!("10.{a}.{b}.0/{}", 22 + a)).collect();
            json!({"ipBlock": {"cidr": format!("10.{second}.0.0/{prefix}"), "except": except}})
        });
    let v6 = (0..3_u8, 16..48_u8).prop_map(|(second, prefix)| {
        json!({"ipBlock": {"cidr": format!("fd00:{second}::/{prefix}"), "except": [format!("fd00:{second}:1::/64")]}})
    });
    prop_oneof![3 => v4, 1 => v6, 1 => Just(json!({"ipBlock": {"cidr": "0.0.0.0/0"}}))]
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector(POD_KEYS).prop_map(|pods| json!({"podSelector": pods})),
        selector(NAMESPACE_KEYS).prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(POD_KEYS), selector(NAMESPACE_KEYS))
            .prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
        block(),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = select(vec![None, Some("TCP"), Some("UDP"), Some("SCTP")]);
    let port = prop_oneof![
        1 => Just(json!({})),
        3 => select(PORTS.as_slice()).prop_map(|port| json!({"port": port})),
        2 => select(["web", "dns"].as_slice()).prop_map(|name| json!({"port": name})),
        2 => (40..90_u16, 0..50_u16).prop_map(|(first, more)| json!({"port": first, "endPort": first + more})),
    ];
    (protocol, port).prop_map(|(protocol, mut port)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

fn rules(side: &'static str) -> impl Strategy<Value = Value> {
    let some = |strategy: BoxedStrategy<Value>| prop_oneof![1 => Just(None), 1 => Just(Some(Vec::new())), 6 => prop::collection::vec(strategy, 1..3).prop_map(Some)];
    let rule = (some(peer().boxed()), some(port().boxed())).prop_map(move |(peers, ports)| {
        let mut rule = json!({});
        if let Some(peers) = peers {
            rule[side] = json!(peers);
        }
        if let Some(ports) = ports {
            rule["ports"] = json!(ports);
        }
        rule
    });
    prop::collection::vec(rule, 0..3).prop_map(Value::from)
}

pub(super) fn some_policy() -> impl Strategy<Value = Value> {
    let types =
        select(vec![None, Some(json!(["Ingress"])), Some(json!(["Egress"])), Some(json!(["Ingress", "Egress"]))]);
    let (ingress, egress) = (proptest::option::of(rules("from")), proptest::option::of(rules("to")));
    (select(NAMESPACES.as_slice()), 0..5, selector(POD_KEYS), types, ingress, egress).prop_map(
        |(namespace, number, pods, types, ingress, egress)| {
            let mut spec = json!({"podSelector": pods});
            for (key, value) in [("policyTypes", types), ("ingress", ingress), ("egress", egress)] {
                if let Some(value) = value {
                    spec[key] = value;
                }
            }
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": format!("policy-{number}")},
                "spec": spec,
            })
        },
    )
}

/// The pod of that number; its number alone decides its namespace, name and address.
pub(super) fn some_pod(number: u8) -> impl Strategy<Value = Pod> {
    let port = (select(["web", "dns"].as_slice()), select(Protocol::ALL.as_slice()), select(PORTS.as_slice()));
    (some_labels(POD_KEYS), prop::collection::vec(port, 0..3)).prop_map(move |(labels, ports)| {
        let address = if number % 4 == 3 {
            IpAddr::from([0xfd00, u16::from(number / 4), 1, 0, 0, 0, 0, 1])
        } else {
            IpAddr::from([10, number % 4, number / 4, 1])
        };
        let mut ports: Vec<_> =
            ports.iter().map(|(name, protocol, number)| named_port(name, *protocol, *number)).collect();
        // The other implementation takes one name a port.
        ports.sort_by_key(|port| (port.protocol, port.number));
        ports.dedup_by_key(|port| (port.protocol, port.number));
        Pod {
            labels,
            ports,
            addresses: vec![address],
            ..pod(NAMESPACES[usize::from(number) % 3], &format!("pod-{number}"), &[])
        }
    })
}

fn tiered_rules(side: &'static str) -> impl Strategy<Value = Value> {
    let pods = (selector(POD_KEYS), selector(NAMESPACE_KEYS))
        .prop_map(|(pods, namespaces)| json!({"pods": {"podSelector": pods, "namespaceSelector": namespaces}}));
    let namespaces = selector(NAMESPACE_KEYS).prop_map(|namespaces| json!({"namespaces": namespaces}));
    let networks =
        (0..4_u8, 8..32_u8).prop_map(|(second, prefix)| json!({"networks": [format!("10.{second}.0.0/{prefix}")]}));
    let peer = if side == "from" {
        prop_oneof![pods, namespaces].boxed()
    } else {
        prop_oneof![2 => pods, 2 => namespaces, 1 => networks, 1 => Just(json!({"networks": ["0.0.0.0/0", "::/0"]}))]
            .boxed()
    };
    let port = prop_oneof![
        select(PORTS.as_slice()).prop_map(|port| json!({"tcp": {"destinationPort": {"number": port}}})),
        (40..60_u16, 60..90_u16)
            .prop_map(|(start, end)| json!({"udp": {"destinationPort": {"range": {"start": start, "end": end}}}})),
        select(["web", "dns"].as_slice()).prop_map(|name| json!({"destinationNamedPort": name})),
    ];
    let action = select(["Accept", "Deny", "Pass"].as_slice());
    let ports = proptest::option::of(prop::collection::vec(port, 1..3));
    let rule = (action, prop::collection::vec(peer, 1..3), ports).prop_map(move |(action, peers, ports)| {
        let mut rule = json!({"action": action, side: peers});
        if let Some(ports) = ports {
            rule["protocols"] = json!(ports);
        }
        rule
    });
    prop::collection::vec(rule, 0..4).prop_map(Value::from)
}

/// With priorities that meet now and then.
pub(super) fn some_cluster_policy() -> impl Strategy<Value = Value> {
    let tier = select(["Admin", "Baseline"].as_slice());
    let subject = prop_oneof![
        selector(NAMESPACE_KEYS).prop_map(|namespaces| json!({"namespaces": namespaces})),
        selector(POD_KEYS).prop_map(|pods| json!({"pods": {"podSelector": pods, "namespaceSelector": {}}})),
    ];
    (tier, 0..4, 0..6, subject, tiered_rules("from"), tiered_rules("to")).prop_map(
        |(tier, number, priority, subject, ingress, egress)| {
            let spec =
                json!({"tier": tier, "priority": priority, "subject": subject, "ingress": ingress, "egress": egress});
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy",
                "metadata": {"name": format!("cluster-{number}")},
                "spec": spec,
            })
        },
    )
}

/// Of the plugins, so that tiers lie between those of Kubernetes, come and go, and can't always be told.
pub(super) fn some_plugin_policy() -> impl Strategy<Value = Value> {
    let calico = |kind: &'static str, name: String, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let tier = (select(["front", "back"].as_slice()), 1..4, select(["Deny", "Pass"].as_slice())).prop_map(
        move |(name, order, action)| {
            let order = f64::from(order) * 600_000.0;
            calico("Tier", name.to_owned(), json!({"order": order, "defaultAction": action}))
        },
    );
    let rule = (select(["Allow", "Deny", "Pass"].as_slice()), select(VALUES.as_slice()), proptest::bool::ANY).prop_map(
        |(action, value, is_named)| {
            let ports = if is_named { json!(["web", 81]) } else { json!(["50:80"]) };
            let source = json!({"selector": format!("app == '{value}'")});
            json!({"action": action, "protocol": "TCP", "source": source, "destination": {"ports": ports}})
        },
    );
    let global =
        (select(["front", "back"].as_slice()), 0..3, select(VALUES.as_slice()), prop::collection::vec(rule, 0..3))
            .prop_map(move |(tier, number, value, rules)| {
                let spec =
                    json!({"tier": tier, "order": number, "selector": format!("tier != '{value}'"), "ingress": rules});
                calico("GlobalNetworkPolicy", format!("{tier}.{number}"), spec)
            });
    let cilium = (0..2, selector(POD_KEYS), selector(POD_KEYS)).prop_map(|(number, chosen, denied)| {
        json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": format!("cilium-{number}")},
            "spec": {"endpointSelector": chosen, "ingressDeny": [{"fromEndpoints": [denied]}]},
        })
    });
    prop_oneof![1 => tier, 2 => global, 1 => cilium]
}

/// As a quarantine and a ReplicaSet leave it: with labels that no selector asks about, and now and then beyond all policies.
pub(super) fn some_marked_pod(number: u8) -> impl Strategy<Value = Pod> {
    let rarely = || prop::bool::weighted(0.1);
    (some_pod(number), select(VALUES.as_slice()), rarely(), rarely()).prop_map(
        move |(mut pod, hash, ended, host_network)| {
            pod.labels.insert("pod-template-hash".to_owned(), hash.to_owned());
            pod.labels.insert("quell.dev/remediation".to_owned(), format!("run-{number}-{hash}"));
            Pod { host_network, ended, ..pod }
        },
    )
}

/// With policies of the kinds whose order is known for sure, and of the cluster.
pub(super) fn tiered_cluster() -> impl Strategy<Value = Cluster> {
    (cluster(), prop::collection::vec(some_cluster_policy(), 0..4)).prop_map(|(mut cluster, policies)| {
        cluster.policies.extend(policies);
        cluster.policies.sort_by_key(place);
        cluster.policies.dedup_by_key(|policy| place(policy));
        cluster
    })
}

pub(super) fn cluster() -> impl Strategy<Value = Cluster> {
    let namespaces = NAMESPACES.map(|_| some_labels(NAMESPACE_KEYS));
    let pods: Vec<_> = (0..7).map(|number| some_pod(number).boxed()).collect();
    (namespaces, pods, prop::collection::vec(some_policy(), 0..7)).prop_map(|(labels, pods, mut policies)| {
        let place =
            |policy: &Value| (policy["metadata"]["namespace"].to_string(), policy["metadata"]["name"].to_string());
        policies.sort_by_key(place);
        policies.dedup_by_key(|policy| place(policy));
        Cluster { namespaces: NAMESPACES.map(str::to_owned).into_iter().zip(labels).collect(), pods, policies }
    })
}

/// Addresses that no generated pod has.
pub(super) fn strangers() -> [IpAddr; 3] {
    [IpAddr::from([10, 1, 200, 9]), IpAddr::from([192, 0, 2, 1]), IpAddr::from([0xfd00, 1, 7, 0, 0, 0, 0, 9])]
}
