//! NetworkPolicy, rule by rule as its documentation has it.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::support::{labels, lines, named_port, pod, policy, shop};
use crate::{
    Addresses, Allowances, Direction, Endpoint, Grounds, Pod, PodRef, Policy, Ports, Protocol, State, Verdict,
};

const OPEN_IN: &str = "in from any address on any port: no policy selects the pod for ingress";
const OPEN_OUT: &str = "out to any address on any port: no policy selects the pod for egress";

/// What is open at `shop/db` under this policy alone.
fn open_under(spec: &Value) -> Vec<String> {
    let (mut model, db) = shop();
    model.upsert_policy(&policy("shop", "p", spec));
    lines(&model.exposure(&db).expect("a pod"))
}

#[test]
fn a_pod_that_no_policy_selects_is_open_both_ways() {
    let (model, db) = shop();
    let exposure = model.exposure(&db).expect("a pod");
    assert_eq!(lines(&exposure), [OPEN_IN, OPEN_OUT]);
    assert_eq!(exposure.state(), State::Open);
}

#[test]
fn a_policy_without_types_isolates_ingress_and_egress_only_with_egress_rules() {
    assert_eq!(open_under(&json!({"podSelector": {}})), [OPEN_OUT]);
    assert_eq!(open_under(&json!({"podSelector": {}, "egress": []})), [OPEN_OUT]);
    let to_dns = json!({"podSelector": {}, "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]});
    assert_eq!(open_under(&to_dns), ["out to any address on UDP 53, allowed by NetworkPolicy shop/p"]);
    assert_eq!(open_under(&json!({"podSelector": {}, "policyTypes": ["Egress"]})), [OPEN_IN]);
    assert_eq!(open_under(&json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})), Vec::<String>::new());
}

#[test]
fn a_policy_selects_pods_of_its_own_namespace_by_their_labels_alone() {
    let deny = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"]});
    assert!(open_under(&deny).is_empty());
    let (mut model, db) = shop();
    model.upsert_policy(&policy("other", "p", &deny));
    assert_eq!(lines(&model.exposure(&db).expect("a pod")), [OPEN_IN, OPEN_OUT]);
}

#[test]
fn an_empty_rule_and_a_rule_with_empty_lists_allow_everything() {
    for rule in [json!({}), json!({"from": [], "ports": []})] {
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [rule]});
        assert_eq!(open_under(&spec), ["in from any address on any port, allowed by NetworkPolicy shop/p"]);
    }
}

#[test]
fn each_peer_of_a_rule_is_a_path_of_its_own_and_says_who_it_is() {
    let spec = json!({
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                {"podSelector": {"matchLabels": {"app": "front"}}},
                {"namespaceSelector": {"matchLabels": {"team": "web"}}, "podSelector": {"matchLabels": {"app": "front"}}},
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}},
                {"namespaceSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ],
            "ports": [{"port": 8080}, {"port": 9000, "endPort": 9010, "protocol": "SCTP"}, {"protocol": "UDP"}],
        }],
    });
    let on = "on TCP 8080, any UDP port, SCTP 9000-9010, allowed by NetworkPolicy shop/p";
    assert_eq!(
        open_under(&spec),
        [
            format!("in from namespace shop (app=front) {on}"),
            format!("in from namespaces with team=web (app=front) {on}"),
            format!("in from namespace web {on}"),
            format!("in from any pod {on}"),
            format!("in from 10.0.0.0/8 except 10.1.0.0/16 {on}"),
        ]
    );
}

#[test]
fn a_named_port_means_the_number_on_the_pod_that_the_traffic_goes_to() {
    let (mut model, db) = shop();
    let spec = json!({
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": "sql"}]}],
        "egress": [{"ports": [{"port": "web"}]}],
    });
    model.upsert_policy(&policy("shop", "p", &spec));
    let out = "out to any address on TCP port named web, allowed by NetworkPolicy shop/p";
    assert_eq!(lines(&model.exposure(&db).expect("a pod")), [out], "no port of the pod is called sql");

    let with_port = Pod { ports: vec![named_port("sql", Protocol::Tcp, 5432)], ..pod("shop", "db", &[("app", "db")]) };
    model.upsert_pod(with_port);
    let inward = "in from any address on TCP 5432, allowed by NetworkPolicy shop/p";
    assert_eq!(lines(&model.exposure(&db).expect("a pod")), [inward, out]);

    model.upsert_pod(Pod { ports: vec![named_port("web", Protocol::Tcp, 80)], ..pod("web", "front", &[]) });
    let (db, front) = (Endpoint::Pod(db), Endpoint::Pod(PodRef::new("web", "front")));
    assert!(matches!(model.verdict(&db, &front, Protocol::Tcp, 80), Verdict::Allowed { .. }));
    assert!(matches!(
        model.verdict(&db, &front, Protocol::Tcp, 81),
        Verdict::Denied { direction: Direction::Egress, .. }
    ));
}

#[test]
fn what_the_api_server_would_refuse_is_doubted_and_never_isolated() {
    let refused = [
        json!({"ports": [{"port": "web", "endPort": 90}]}),
        json!({"ports": [{"port": 90, "endPort": 80}]}),
        json!({"ports": [{"protocol": "ICMP"}]}),
        json!({"from": [{}]}),
        json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}),
        json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
        json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]}),
    ];
    for rule in refused {
        let (mut model, db) = shop();
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [rule]});
        model.upsert_policy(&policy("shop", "p", &spec));
        let exposure = model.exposure(&db).expect("a pod");
        assert_eq!(exposure.state(), State::Unknown, "{rule}");
        assert_eq!(exposure.doubts[0].by.as_ref().map(ToString::to_string).as_deref(), Some("NetworkPolicy shop/p"));
    }
}

#[test]
fn a_policy_whose_selector_can_not_be_read_may_select_the_pod_or_not() {
    let (mut model, db) = shop();
    let spec = json!({
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["d*"]}]},
        "policyTypes": ["Ingress", "Egress"],
    });
    model.upsert_policy(&policy("shop", "p", &spec));
    let exposure = model.exposure(&db).expect("a pod");
    assert_eq!(exposure.state(), State::Unknown);
    assert!(exposure.paths.iter().all(|path| !path.certain), "{:?}", lines(&exposure));
}

#[test]
fn an_allow_all_beside_a_deny_all_leaves_the_pod_open_and_is_named() {
    let (mut model, db) = shop();
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    model.upsert_policy(&policy("shop", "deny", &deny));
    assert_eq!(model.exposure(&db).expect("a pod").state(), State::Isolated);
    let allow = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]});
    model.upsert_policy(&policy("shop", "allow", &allow));
    assert_eq!(
        lines(&model.exposure(&db).expect("a pod")),
        ["in from any address on any port, allowed by NetworkPolicy shop/allow"]
    );
}

#[test]
fn other_labels_and_other_policies_are_asked_about_before_they_are_written() {
    let (mut model, db) = shop();
    model.upsert_policy(&policy(
        "shop",
        "allow",
        &json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]}),
    ));
    let quarantine = labels(&[("quell.dev/quarantine", "full")]);
    let deny = json!({
        "podSelector": {"matchLabels": {"quell.dev/quarantine": "full"}},
        "policyTypes": ["Ingress", "Egress"],
    });
    let deny = Policy::from(&policy("shop", "quarantine", &deny));
    let state = |labels, extra: &[Policy]| model.exposure_with(&db, labels, extra).expect("a pod").state();
    assert_eq!(state(&quarantine, &[]), State::Open, "without the policy, the labels open everything");
    assert_eq!(state(&quarantine, std::slice::from_ref(&deny)), State::Isolated);
    let both = labels(&[("app", "db"), ("quell.dev/quarantine", "full")]);
    assert_eq!(state(&both, &[deny]), State::Open, "the allowing policy still selects the pod");
}

#[test]
fn leaks_are_what_is_open_beyond_what_was_asked_for() {
    let (mut model, db) = shop();
    let spec = json!({
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.9.0.0/24"}}], "ports": [{"port": 22}]}],
        "egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}, {"port": 443}]}],
    });
    model.upsert_policy(&policy("shop", "p", &spec));
    let exposure = model.exposure(&db).expect("a pod");
    let forensics = Addresses::block("10.9.0.0/25".parse().expect("a CIDR"), &[]);
    let asked = Allowances::dns().addresses(Direction::Ingress, &forensics, &Ports::one(Protocol::Tcp, 22));
    assert_eq!(
        lines(&exposure.beyond(&asked)),
        [
            "in from 10.9.0.128/25 on TCP 22, allowed by NetworkPolicy shop/p",
            "out to any address on TCP 443, allowed by NetworkPolicy shop/p",
        ]
    );
    let all = asked.direction(Direction::Ingress).direction(Direction::Egress);
    assert_eq!(exposure.beyond(&all).state(), State::Isolated);
    let at_the_cluster = lines(&exposure.beyond(&Allowances::cluster_dns().direction(Direction::Ingress)));
    assert!(at_the_cluster.iter().any(|line| line.contains("on TCP 53, 443, UDP 53")), "{at_the_cluster:?}");
}

#[test]
fn a_pod_on_its_nodes_network_is_open_whatever_policies_say() {
    let (mut model, db) = shop();
    model.upsert_pod(Pod { host_network: true, ..pod("shop", "db", &[]) });
    model.upsert_policy(&policy("shop", "p", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    let exposure = model.exposure(&db).expect("a pod");
    assert_eq!(exposure.state(), State::Open);
    assert!(exposure.paths.iter().all(|path| path.by == Grounds::HostNetwork));
    assert!(lines(&exposure)[0].ends_with("the pod is on its node's network, which no policy covers"));
}

#[test]
fn a_pod_that_has_ended_is_isolated_and_its_address_is_free_for_another() {
    let (mut model, db) = shop();
    model.upsert_pod(Pod { ended: true, ..model.pod(&db).expect("a pod").clone() });
    assert_eq!(model.exposure(&db).expect("a pod").state(), State::Isolated);
    let next = Pod { addresses: vec![IpAddr::from([10, 0, 0, 1])], ..pod("shop", "next", &[]) };
    model.upsert_pod(next);
    model.upsert_policy(&policy("shop", "p", &json!({"podSelector": {}})));
    let from = Endpoint::Address(IpAddr::from([192, 0, 2, 1]));
    let verdict = model.verdict(&from, &Endpoint::Address(IpAddr::from([10, 0, 0, 1])), Protocol::Tcp, 80);
    assert!(matches!(verdict, Verdict::Denied { direction: Direction::Ingress, .. }), "{verdict}");
}

#[test]
fn nodes_reach_their_own_pods_and_pods_themselves_and_neither_is_a_leak() {
    let (mut model, db) = shop();
    model.upsert_policy(&policy("shop", "p", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    let node = |name: &str, node: &str, last: u8| Pod {
        host_network: true,
        node: node.to_owned(),
        addresses: vec![IpAddr::from([172, 16, 0, last])],
        ..pod("system", name, &[])
    };
    model.upsert_pod(node("here", "one", 1));
    model.upsert_pod(node("there", "two", 2));
    let to = Endpoint::Pod(db.clone());
    let from = |endpoint| model.verdict(&endpoint, &to, Protocol::Tcp, 80);
    let own = Verdict::Allowed { egress: Grounds::HostNetwork, ingress: Grounds::OwnNode };
    assert_eq!(from(Endpoint::Pod(PodRef::new("system", "here"))), own);
    assert!(matches!(
        from(Endpoint::Address(IpAddr::from([172, 16, 0, 1]))),
        Verdict::Allowed { ingress: Grounds::OwnNode, .. }
    ));
    assert!(matches!(from(Endpoint::Pod(PodRef::new("system", "there"))), Verdict::Denied { .. }));
    assert_eq!(from(Endpoint::Pod(db.clone())), Verdict::Allowed { egress: Grounds::Itself, ingress: Grounds::Itself });
    assert_eq!(model.exposure(&db).expect("a pod").state(), State::Isolated);
}

#[test]
fn whether_a_selector_means_a_pod_on_its_nodes_network_can_not_be_told() {
    let (mut model, db) = shop();
    model.upsert_policy(&policy(
        "shop",
        "p",
        &json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}),
    ));
    model.upsert_pod(Pod { host_network: true, node: "two".to_owned(), ..pod("system", "agent", &[]) });
    let verdict = model.verdict(&Endpoint::Pod(PodRef::new("system", "agent")), &Endpoint::Pod(db), Protocol::Tcp, 80);
    assert!(matches!(verdict, Verdict::Unknown { direction: Direction::Ingress, .. }), "{verdict}");
}

#[test]
fn a_namespace_that_is_not_known_is_doubted_only_where_its_labels_are_asked_for() {
    let (mut model, db) = shop();
    model.upsert_pod(Pod { addresses: vec![IpAddr::from([10, 0, 0, 9])], ..pod("dark", "p", &[]) });
    model.upsert_policy(&policy(
        "shop",
        "p",
        &json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]}]}),
    ));
    let from = Endpoint::Pod(PodRef::new("dark", "p"));
    let ask = |model: &crate::Model| model.verdict(&from, &Endpoint::Pod(db.clone()), Protocol::Tcp, 80);
    assert!(matches!(ask(&model), Verdict::Unknown { .. }));
    model.upsert_namespace("dark", &labels(&[]));
    assert!(matches!(ask(&model), Verdict::Denied { .. }));
    model.upsert_namespace("dark", &labels(&[("team", "web")]));
    assert!(matches!(ask(&model), Verdict::Allowed { .. }));
}

#[test]
fn the_pods_behind_a_path_are_listed_first_ones_first() {
    let (mut model, db) = shop();
    for number in 0..70 {
        model.upsert_pod(pod("shop", &format!("front-{number:02}"), &[("app", "front")]));
    }
    model.upsert_pod(Pod { ended: true, ..pod("shop", "front-old", &[("app", "front")]) });
    let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}]});
    model.upsert_policy(&policy("shop", "p", &spec));
    let exposure = model.exposure(&db).expect("a pod");
    let pods = model.pods(&exposure.paths[0].peer);
    assert_eq!((pods.first.len(), pods.more), (64, 6));
    assert_eq!(pods.first[0], PodRef::new("shop", "front-00"));
}

#[test]
fn both_families_of_a_pod_are_asked_and_one_that_gets_through_is_enough() {
    let (mut model, db) = shop();
    let both = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])];
    model.upsert_pod(Pod { addresses: both, ..pod("shop", "db", &[]) });
    let only_v6 = json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]});
    model.upsert_policy(&policy("shop", "p", &only_v6));
    let from =
        |address: IpAddr| model.verdict(&Endpoint::Address(address), &Endpoint::Pod(db.clone()), Protocol::Tcp, 1);
    assert!(matches!(from(IpAddr::from([192, 0, 2, 1])), Verdict::Denied { .. }));
    assert!(matches!(from(IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, 1])), Verdict::Allowed { .. }));
}
