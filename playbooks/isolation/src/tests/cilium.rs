//! Cilium's policies: deny before allow, default deny, and what can't be told.

use serde_json::{Value, json};

use super::support::{lines, policy, shop};
use crate::{Policy, State};

fn read(namespace: Option<&str>, name: &str, spec: &Value) -> Policy {
    let kind = if namespace.is_some() { "CiliumNetworkPolicy" } else { "CiliumClusterwideNetworkPolicy" };
    let metadata = json!({"name": name, "namespace": namespace});
    let object = json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec});
    Policy::read(&object).expect("a policy")
}

fn ingress(rules: &Value) -> Policy {
    read(Some("shop"), "p", &json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": rules}))
}

/// What is open for ingress at `shop/db`.
fn open_under(policies: impl IntoIterator<Item = Policy>) -> Vec<String> {
    let (mut model, db) = shop();
    for policy in policies {
        model.upsert_policy(policy);
    }
    let exposure = model.exposure(&db).expect("a pod");
    lines(&exposure).into_iter().filter(|line| !line.starts_with("out to")).collect()
}

#[test]
fn an_empty_rule_isolates_and_a_rule_for_every_endpoint_allows_those_of_the_namespace() {
    assert!(open_under([ingress(&json!([{}]))]).is_empty());
    assert_eq!(
        open_under([ingress(&json!([{"fromEndpoints": [{}]}]))]),
        ["in from namespace shop on any port, allowed by CiliumNetworkPolicy shop/p"]
    );
    assert!(open_under([ingress(&json!([{"fromEndpoints": []}]))]).is_empty());
}

#[test]
fn endpoints_of_other_namespaces_are_chosen_by_labels_that_stand_for_them() {
    let rules = json!([{
        "fromEndpoints": [
            {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "web", "k8s:app": "front"}},
            {"matchLabels": {"io.cilium.k8s.namespace.labels.team": "web", "any:app": "front"}},
        ],
        "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}, {"port": "9000", "endPort": 9010, "protocol": "UDP"}]}],
    }]);
    assert_eq!(
        open_under([ingress(&rules)]),
        [
            "in from namespace web (app=front) on TCP 8080, UDP 9000-9010, allowed by CiliumNetworkPolicy shop/p",
            "in from namespaces with team=web (app=front) on TCP 8080, UDP 9000-9010, allowed by CiliumNetworkPolicy shop/p",
        ]
    );
}

#[test]
fn a_deny_rule_wins_over_whatever_allows_even_a_network_policy() {
    let allow = Policy::from(&policy("shop", "allow", &json!({"podSelector": {}, "ingress": [{}]})));
    let deny = json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]});
    assert!(open_under([allow.clone(), read(None, "deny", &deny)]).is_empty());
    let some = json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["world"]}, {"fromEndpoints": [{}]}]});
    let open = open_under([allow, read(None, "deny", &some)]);
    assert_eq!(open.len(), 1);
    assert!(open[0].starts_with("in from nodes of the cluster, the API server, health checks"), "{open:?}");
}

#[test]
fn default_deny_can_be_turned_off_and_then_rules_isolate_nothing() {
    let spec = json!({
        "endpointSelector": {},
        "ingress": [{"fromEntities": ["cluster"]}],
        "enableDefaultDeny": {"ingress": false},
    });
    let open = open_under([read(None, "p", &spec)]);
    assert!(open.iter().any(|line| line.starts_with("in from any address on any port: ")), "{open:?}");
}

#[test]
fn network_policies_and_cilium_add_up() {
    let deny = Policy::from(&policy("shop", "deny", &json!({"podSelector": {}})));
    let rules = json!([{"fromCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}]}]);
    assert_eq!(
        open_under([deny, ingress(&rules)]),
        ["in from addresses outside the cluster at 192.0.2.0/25 on any port, allowed by CiliumNetworkPolicy shop/p"]
    );
}

#[test]
fn the_pods_own_node_is_no_leak_and_other_nodes_are() {
    assert!(open_under([ingress(&json!([{"fromEntities": ["host"]}]))]).is_empty());
    assert_eq!(
        open_under([ingress(&json!([{"fromEntities": ["remote-node"]}]))]),
        ["in from nodes of the cluster on any port, allowed by CiliumNetworkPolicy shop/p"]
    );
}

#[test]
fn what_can_not_be_told_is_doubted_and_never_isolated() {
    let ports = json!([{"ports": [{"port": "80"}]}]);
    let rules = [
        json!({"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [{"path": "/"}]}}]}),
        json!({"fromEndpoints": [{}], "fromRequires": [{}]}),
        json!({"fromEndpoints": [{}], "authentication": {"mode": "required"}}),
        json!({"fromCIDRSet": [{"cidrGroupRef": "offices"}]}),
        json!({"fromEndpoints": [{"matchLabels": {"reserved:host": ""}}], "toPorts": ports}),
        json!({"fromGroups": [{"aws": {}}]}),
        json!({"fromEntities": ["martians"]}),
        json!({"fromWeather": ["fine"]}),
        json!({"fromCIDR": ["10.0.0.0/99"]}),
    ];
    for rule in rules {
        let (mut model, db) = shop();
        model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
        model.upsert_policy(ingress(&json!([rule])));
        let exposure = model.exposure(&db).expect("a pod");
        assert_eq!(exposure.state(), State::Unknown, "{rule}: {:?}", lines(&exposure));
    }
}

#[test]
fn names_of_hosts_are_told_as_what_they_are() {
    let (mut model, db) = shop();
    model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    let spec = json!({"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "example.com"}]}]});
    model.upsert_policy(read(Some("shop"), "api", &spec));
    assert_eq!(
        lines(&model.exposure(&db).expect("a pod")),
        ["maybe out to addresses outside the cluster on any port: \
          CiliumNetworkPolicy shop/api can't be told: it chooses by names of hosts"]
    );
}

#[test]
fn a_deny_rule_that_can_not_be_told_takes_no_path_away() {
    let deny = json!({"endpointSelector": {}, "ingressDeny": [{"fromCIDRSet": [{"cidrGroupRef": "offices"}]}]});
    let allow = ingress(&json!([{"fromEntities": ["world"]}]));
    let open = open_under([allow, read(None, "deny", &deny)]);
    assert!(open[0].ends_with("(unless a rule that can't be told denies it)"), "{open:?}");
}

#[test]
fn a_policy_for_nodes_says_nothing_about_pods() {
    let spec = json!({"nodeSelector": {}, "ingress": [{"fromEntities": ["all"]}]});
    let open = open_under([read(None, "nodes", &spec)]);
    assert_eq!(open, ["in from any address on any port: no policy selects the pod for ingress"]);
}
