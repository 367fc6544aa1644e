//! Tiers: ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy around NetworkPolicy.

use serde_json::{Value, json};

use super::support::{labels, lines, pod, policy, shop};
use crate::{Direction, Endpoint, PodRef, Policy, Protocol, State, Verdict};

fn cluster_policy(tier: &str, priority: u32, name: &str, ingress: &Value) -> Policy {
    let spec = json!({"tier": tier, "priority": priority, "subject": {"namespaces": {}}, "ingress": ingress});
    read("v1alpha2", "ClusterNetworkPolicy", name, &spec)
}

fn read(version: &str, kind: &str, name: &str, spec: &Value) -> Policy {
    let api_version = format!("policy.networking.k8s.io/{version}");
    let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    Policy::read(&object).expect("a policy")
}

fn everything(action: &str) -> Value {
    json!([{"action": action, "from": [{"namespaces": {}}]}])
}

/// What is open for ingress at `shop/db` under these policies.
fn open_under(policies: impl IntoIterator<Item = Policy>) -> Vec<String> {
    let (mut model, db) = shop();
    for policy in policies {
        model.upsert_policy(policy);
    }
    let exposure = model.exposure(&db).expect("a pod");
    lines(&exposure).into_iter().filter(|line| !line.starts_with("out")).collect()
}

fn allow_all() -> Policy {
    Policy::from(&policy("shop", "allow", &json!({"podSelector": {}, "ingress": [{}]})))
}

fn deny_all() -> Policy {
    Policy::from(&policy("shop", "deny", &json!({"podSelector": {}})))
}

const NO_PODS: &str = "in from any address that is no pod's on any port";

#[test]
fn an_admin_deny_stands_before_a_network_policy_that_allows() {
    let open = open_under([allow_all(), cluster_policy("Admin", 1, "deny", &everything("Deny"))]);
    assert_eq!(open, [format!("{NO_PODS}, allowed by NetworkPolicy shop/allow")], "namespaces choose pods alone");
}

#[test]
fn an_admin_accept_stands_before_a_network_policy_that_isolates() {
    let open = open_under([deny_all(), cluster_policy("Admin", 1, "monitoring", &everything("Accept"))]);
    assert_eq!(open, ["in from any pod on any port, allowed by ClusterNetworkPolicy monitoring"]);
}

#[test]
fn what_is_passed_skips_the_rest_of_its_tier_alone() {
    let pass = cluster_policy("Admin", 1, "pass", &everything("Pass"));
    let accept = cluster_policy("Admin", 2, "accept", &everything("Accept"));
    assert!(open_under([pass.clone(), accept, deny_all()]).is_empty());
    let baseline = cluster_policy("Baseline", 1, "baseline", &everything("Deny"));
    let undecided = format!("{NO_PODS}: no policy that chooses the pod decides about it");
    assert_eq!(open_under([pass, baseline]), [undecided]);
}

#[test]
fn the_baseline_decides_only_where_no_network_policy_isolates() {
    let baseline = cluster_policy("Baseline", 1, "baseline", &everything("Deny"));
    assert_eq!(
        open_under([baseline.clone(), allow_all()]),
        ["in from any address on any port, allowed by NetworkPolicy shop/allow"]
    );
    assert!(open_under([cluster_policy("Baseline", 1, "open", &everything("Accept")), deny_all()]).is_empty());
    assert_eq!(open_under([baseline]).len(), 1);
}

#[test]
fn the_smaller_priority_and_the_rule_further_up_are_asked_first() {
    let deny = cluster_policy("Admin", 5, "deny", &everything("Deny"));
    let accept = |priority| cluster_policy("Admin", priority, "accept", &everything("Accept"));
    assert!(open_under([deny.clone(), accept(6), deny_all()]).is_empty());
    assert_eq!(open_under([deny, accept(4), deny_all()]).len(), 1);
    let both = json!([
        {"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "bad"}}}}]},
        {"action": "Accept", "from": [{"namespaces": {"matchLabels": {"team": "web"}}}]},
    ]);
    assert_eq!(
        open_under([cluster_policy("Admin", 1, "p", &both), deny_all()]),
        ["in from namespaces with team=web (app notin (bad)) on any port, allowed by ClusterNetworkPolicy p"]
    );
}

#[test]
fn two_policies_of_the_same_priority_that_disagree_can_not_be_told() {
    let (mut model, db) = shop();
    model.upsert_policy(cluster_policy("Admin", 1, "a", &everything("Accept")));
    model.upsert_policy(cluster_policy("Admin", 1, "b", &everything("Deny")));
    model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    let exposure = model.exposure(&db).expect("a pod");
    assert_eq!(exposure.state(), State::Unknown, "{:?}", lines(&exposure));
    model.upsert_pod(pod("shop", "front", &[]));
    let verdict = model.verdict(&Endpoint::Pod(PodRef::new("shop", "front")), &Endpoint::Pod(db), Protocol::Tcp, 1);
    // The NetworkPolicy isolates the other pod's egress, too: that side is told first.
    assert!(matches!(verdict, Verdict::Denied { direction: Direction::Egress, .. }));
    model.remove_policy(Policy::from(&policy("shop", "deny", &json!({}))).reference());
    let front = Endpoint::Pod(PodRef::new("shop", "front"));
    let verdict = model.verdict(&front, &Endpoint::Pod(PodRef::new("shop", "db")), Protocol::Tcp, 1);
    assert!(matches!(verdict, Verdict::Unknown { direction: Direction::Ingress, .. }), "{verdict}");
}

#[test]
fn ports_are_read_in_the_way_of_each_version() {
    let protocols = json!([
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 50, "end": 60}}}},
        {"sctp": {}},
    ]);
    let ingress = json!([{"action": "Accept", "from": [{"namespaces": {}}], "protocols": protocols}]);
    let open = open_under([deny_all(), cluster_policy("Admin", 1, "p", &ingress)]);
    assert_eq!(open, ["in from any pod on TCP 80, UDP 50-60, any SCTP port, allowed by ClusterNetworkPolicy p"]);

    let ports = json!([
        {"portNumber": {"protocol": "TCP", "port": 80}},
        {"portRange": {"protocol": "UDP", "start": 50, "end": 60}},
        {"namedPort": "web"},
    ]);
    let spec = json!({
        "priority": 1,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
        "ingress": [{"name": "one", "action": "Allow", "from": [{"namespaces": {}}], "ports": ports}],
    });
    let open = open_under([deny_all(), read("v1alpha1", "AdminNetworkPolicy", "p", &spec)]);
    assert_eq!(open, ["in from any pod on TCP 80, UDP 50-60, allowed by AdminNetworkPolicy p"]);
}

#[test]
fn networks_match_pods_too_and_nodes_are_no_pods() {
    let (mut model, db) = shop();
    model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    let egress = json!([
        {"action": "Accept", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]},
        {"action": "Accept", "to": [{"nodes": {}}]},
    ]);
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": egress});
    model.upsert_policy(read("v1alpha2", "ClusterNetworkPolicy", "p", &spec));
    assert_eq!(
        lines(&model.exposure(&db).expect("a pod")),
        [
            "out to 10.0.0.0/8, fd00::/8 on any port, allowed by ClusterNetworkPolicy p",
            "out to nodes of the cluster on any port, allowed by ClusterNetworkPolicy p",
        ]
    );
}

#[test]
fn what_a_rule_says_in_a_way_that_is_not_known_is_doubted() {
    let rules = [
        json!({"action": "Accept", "to": [{"domainNames": ["*.example.com"]}]}),
        json!({"action": "Accept", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}),
        json!({"action": "Accept", "to": [{"serviceAccounts": {"names": ["robot"]}}]}),
        json!({"action": "Accept", "to": [{}]}),
        json!({"action": "Allow maybe", "to": [{"namespaces": {}}]}),
        json!({"action": "Accept", "to": [{"namespaces": {}}], "protocols": [{"tcp": {"flags": "SYN"}}]}),
        json!({"action": "Accept", "to": [{"namespaces": {}}], "weather": "fine"}),
    ];
    for rule in rules {
        let (mut model, db) = shop();
        model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
        let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]});
        model.upsert_policy(read("v1alpha2", "ClusterNetworkPolicy", "p", &spec));
        let exposure = model.exposure(&db).expect("a pod");
        assert_eq!(exposure.state(), State::Unknown, "{rule}: {:?}", lines(&exposure));
    }
}

#[test]
fn a_deny_that_can_not_be_told_takes_no_path_away() {
    let (mut model, db) = shop();
    let egress = json!([{"action": "Deny", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}]);
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": egress});
    model.upsert_policy(read("v1alpha2", "ClusterNetworkPolicy", "p", &spec));
    let exposure = model.exposure(&db).expect("a pod");
    let out: Vec<_> = lines(&exposure).into_iter().filter(|line| line.starts_with("out to nodes")).collect();
    assert_eq!(
        out,
        ["out to nodes of the cluster on any port: no policy that chooses the pod decides about it \
          (unless a rule that can't be told denies it)"]
    );
}

#[test]
fn a_policy_that_can_not_be_read_is_doubted_and_never_isolates() {
    let deny = Policy::from(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    for spec in
        [json!(null), json!({"tier": "Middle", "priority": 1, "subject": {"namespaces": {}}}), json!({"subject": 1})]
    {
        let (mut model, db) = shop();
        model.upsert_policy(deny.clone());
        model.upsert_policy(read("v1alpha2", "ClusterNetworkPolicy", "p", &spec));
        assert_eq!(model.exposure(&db).expect("a pod").state(), State::Unknown, "{spec}");
    }
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    assert!(
        Policy::read(&other).is_err_and(|error| error.to_string() == "Pod of v1 is no kind of policy that is known")
    );
}

#[test]
fn a_change_of_a_namespaces_labels_is_told_where_a_policy_of_the_cluster_chooses_by_them() {
    let (mut model, db) = shop();
    let subject = json!({"namespaces": {"matchLabels": {"team": "sales"}}});
    let spec = json!({"tier": "Admin", "priority": 1, "subject": subject, "ingress": everything("Deny")});
    model.upsert_policy(read("v1alpha2", "ClusterNetworkPolicy", "p", &spec));
    model.track(db.clone());
    assert!(model.upsert_namespace("shop", &labels(&[("team", "sales"), ("other", "x")])).is_empty());
    assert_eq!(model.upsert_namespace("shop", &labels(&[("team", "web")])), [db]);
}
