//! Calico's tiers, orders and actions.

use serde_json::{Value, json};

use super::support::{lines, policy, shop};
use crate::{Policy, State};

fn read(kind: &str, namespace: Option<&str>, name: &str, spec: &Value) -> Policy {
    let metadata = json!({"name": name, "namespace": namespace});
    let object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec});
    Policy::read(&object).expect("a policy")
}

fn global(name: &str, spec: &Value) -> Policy {
    read("GlobalNetworkPolicy", None, name, spec)
}

fn tier(name: &str, order: f64, action: &str) -> Policy {
    read("Tier", None, name, &json!({"order": order, "defaultAction": action}))
}

fn allow_all() -> Policy {
    Policy::from(&policy("shop", "allow", &json!({"podSelector": {}, "ingress": [{}]})))
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
fn a_deny_of_a_smaller_order_stands_before_a_network_policy_and_one_of_a_larger_does_not() {
    let deny = |order: f64| {
        global("deny", &json!({"order": order, "selector": "app == 'db'", "ingress": [{"action": "Deny"}]}))
    };
    assert!(open_under([allow_all(), deny(1.0)]).is_empty());
    assert_eq!(
        open_under([allow_all(), deny(2000.0)]),
        ["in from any address on any port, allowed by NetworkPolicy shop/allow"]
    );
    let last = global("deny", &json!({"selector": "all()", "ingress": [{"action": "Deny"}]}));
    assert_eq!(open_under([allow_all(), last]).len(), 1, "without an order it is asked last");
}

#[test]
fn a_policy_that_does_not_choose_the_pod_says_nothing() {
    let other = |selector: &str, namespaces: &str| {
        let spec = json!({
            "order": 1.0, "selector": selector, "namespaceSelector": namespaces, "ingress": [{"action": "Deny"}],
        });
        global("deny", &spec)
    };
    assert_eq!(open_under([allow_all(), other("app == 'front'", "")]).len(), 1);
    assert_eq!(open_under([allow_all(), other("", "team == 'web'")]).len(), 1);
    assert!(open_under([allow_all(), other("", "team == 'sales' || team == 'web'")]).is_empty());
}

#[test]
fn a_tier_that_is_asked_about_beforehand_counts_as_one_that_stands() {
    let (mut model, db) = shop();
    let says_nothing = global("security.p", &json!({"tier": "security", "selector": "all()", "ingress": []}));
    let extra = [tier("security", 100.0, "Deny"), says_nothing, allow_all()];
    let asked = model.exposure_with(&db, &model.pod(&db).expect("a pod").labels.clone(), &extra).expect("a pod");
    for policy in extra {
        model.upsert_policy(policy);
    }
    assert_eq!(Some(asked), model.exposure(&db));
}

#[test]
fn a_tier_stops_what_it_does_not_decide_unless_it_passes() {
    let strict = json!({"tier": "security", "selector": "all()", "ingress": [{"action": "Pass", "source": {"nets": ["10.0.0.0/8"]}}]});
    let open = open_under([tier("security", 100.0, "Deny"), global("security.p", &strict), allow_all()]);
    assert_eq!(open, ["in from 10.0.0.0/8 on any port, allowed by NetworkPolicy shop/allow"]);
    let open = open_under([tier("security", 100.0, "Pass"), global("security.p", &strict), allow_all()]);
    assert_eq!(open, ["in from any address on any port, allowed by NetworkPolicy shop/allow"]);
}

#[test]
fn tiers_are_asked_by_their_order_and_a_change_of_it_is_told() {
    let allow = global("front.p", &json!({"tier": "front", "selector": "all()", "ingress": [{"action": "Allow"}]}));
    let deny = global("back.p", &json!({"tier": "back", "selector": "all()", "ingress": [{"action": "Deny"}]}));
    let (mut model, db) = shop();
    for policy in [allow, deny, tier("front", 1.0, "Deny"), tier("back", 2.0, "Deny")] {
        model.upsert_policy(policy);
    }
    model.upsert_policy(&policy("shop", "out", &json!({"podSelector": {}, "policyTypes": ["Egress"]})));
    assert_eq!(model.track(db.clone()).expect("a pod").state(), State::Open);
    assert_eq!(model.upsert_policy(tier("front", 3.0, "Deny")), std::slice::from_ref(&db));
    assert_eq!(model.exposure(&db).expect("a pod").state(), State::Isolated);
}

#[test]
fn a_tier_that_is_not_known_is_doubted() {
    let deny =
        json!({"tier": "lost", "selector": "all()", "types": ["Ingress", "Egress"], "ingress": [{"action": "Allow"}]});
    let (mut model, db) = shop();
    model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    model.upsert_policy(global("lost.p", &deny));
    let exposure = model.exposure(&db).expect("a pod");
    assert_eq!(exposure.state(), State::Unknown, "{:?}", lines(&exposure));
}

#[test]
fn rules_are_cut_by_everything_that_they_say() {
    let rule = json!({
        "action": "Allow",
        "protocol": "TCP",
        "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]},
        "destination": {"ports": [80, "8000:8080"], "notPorts": [8001]},
    });
    let spec = json!({"selector": "all()", "ingress": [{"action": "Log"}, rule]});
    assert_eq!(
        open_under([global("p", &spec)]),
        ["in from 10.0.0.0/8 except 10.1.0.0/16 on TCP 80, 8000, 8002-8080, allowed by Calico GlobalNetworkPolicy p"]
    );
    let excluding = json!({"selector": "all()", "ingress": [
        {"action": "Allow", "source": {"notSelector": "app == 'bad'", "nets": ["10.0.0.0/8"]}},
    ]});
    assert_eq!(
        open_under([global("p", &excluding)]),
        [
            "in from any namespace (app notin (bad)) at 10.0.0.0/8 and any address that is no pod's at 10.0.0.0/8 on any port, \
          allowed by Calico GlobalNetworkPolicy p"
        ]
    );
}

#[test]
fn a_selector_of_a_policy_in_a_namespace_is_for_that_namespace_and_may_mean_network_sets() {
    let spec =
        json!({"selector": "app == 'db'", "ingress": [{"action": "Allow", "source": {"selector": "app == 'front'"}}]});
    assert_eq!(
        open_under([read("NetworkPolicy", Some("shop"), "p", &spec)]),
        [
            "in from namespace shop (app=front) on any port, allowed by Calico NetworkPolicy shop/p",
            "maybe in from addresses outside the cluster on any port: Calico NetworkPolicy shop/p can't be told: \
             which NetworkSets its selector chooses isn't known",
        ]
    );
    let accounts =
        json!({"selector": "", "ingress": [{"action": "Allow", "source": {"serviceAccounts": {"names": ["robot"]}}}]});
    assert_eq!(
        open_under([read("NetworkPolicy", Some("shop"), "p", &accounts)]),
        ["in from namespace shop (service account=robot) on any port, allowed by Calico NetworkPolicy shop/p"]
    );
}

#[test]
fn what_can_not_be_told_is_doubted_and_never_isolated() {
    let rules = [
        json!({"action": "Allow", "http": {"methods": ["GET"]}}),
        json!({"action": "Allow", "source": {"services": {"name": "front"}}}),
        json!({"action": "Allow", "source": {"selector": "app contains 'x'"}}),
        json!({"action": "Allow", "source": {"namespaceSelector": "global()"}}),
        json!({"action": "Allow", "source": {"serviceAccounts": {"selector": "role == 'x'"}}}),
        json!({"action": "Allow", "destination": {"selector": "app == 'db'"}}),
        json!({"action": "Allow", "source": {"nets": ["10.0.0.0/99"]}}),
        json!({"action": "Maybe"}),
    ];
    for rule in rules {
        let (mut model, db) = shop();
        model.upsert_policy(&policy("shop", "deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
        model.upsert_policy(global(
            "p",
            &json!({"order": 1.0, "selector": "all()", "types": ["Ingress"], "ingress": [rule]}),
        ));
        let exposure = model.exposure(&db).expect("a pod");
        assert_eq!(exposure.state(), State::Unknown, "{rule}: {:?}", lines(&exposure));
    }
}

#[test]
fn a_deny_by_source_port_keeps_nobody_out() {
    let rule = json!({"action": "Deny", "protocol": "TCP", "source": {"ports": [12345]}});
    let open = open_under([allow_all(), global("p", &json!({"order": 1.0, "selector": "all()", "ingress": [rule]}))]);
    assert!(
        open.iter().any(|line| line.contains("any TCP port, allowed by NetworkPolicy shop/allow (unless")),
        "{open:?}"
    );
}

#[test]
fn a_policy_for_host_endpoints_alone_says_nothing_about_pods() {
    let spec = json!({"order": 1.0, "selector": "all()", "doNotTrack": true, "applyOnForward": true, "ingress": [{"action": "Deny"}]});
    assert_eq!(open_under([allow_all(), global("p", &spec)]).len(), 1);
}

#[test]
fn the_types_of_a_policy_follow_from_its_rules_where_it_names_none() {
    let (mut model, db) = shop();
    let directions = |exposure: &crate::Exposure| exposure.paths.iter().map(|path| path.direction).collect::<Vec<_>>();
    model.upsert_policy(global("p", &json!({"selector": "all()", "egress": [{"action": "Deny"}]})));
    assert_eq!(directions(&model.exposure(&db).expect("a pod")), [crate::Direction::Ingress]);
    model.upsert_policy(global("p", &json!({"selector": "all()"})));
    assert_eq!(directions(&model.exposure(&db).expect("a pod")), [crate::Direction::Egress]);
}
