//! Istio's AuthorizationPolicy: `DENY` comes before whatever allows, and is for what its rules match
//! (<https://istio.io/latest/docs/reference/config/security/authorization-policy/>).
//!
//! A rule matches where all of its parts do, and a policy where one of its rules does. So what stays open is said by what it isn't, one rule
//! for each way not to be it: from elsewhere, from one of the exceptions' exceptions, to other ports.

use quell_crds::names;
use quell_crds::v1alpha1::step::{Isolate, Peer, PeerProtocol, Quarantine};
use serde_json::{Map, Value, json};

use super::super::profile::Profile;

/// Rules that one policy may come to.
const MOST: usize = 32;

/// What one rule matches: all of these together. Empty: everything.
#[derive(Clone, Default)]
struct Match {
    from: Vec<String>,
    not_from: Vec<String>,
    not_ports: Vec<i32>,
}

/// Peers that stay within reach on the same ports; no ports: on all.
struct Open {
    cidrs: Vec<String>,
    except: Vec<String>,
    ports: Vec<i32>,
}

/// `Ok(None)`: nothing on the way in is denied. An error says why what stays open can't be left so.
pub(super) fn spec(profile: &Profile, parameters: &Quarantine) -> Result<Option<Map<String, Value>>, &'static str> {
    let isolated = parameters.isolate != Isolate::Egress;
    if !isolated && parameters.deny_cidrs.is_empty() {
        return Ok(None);
    }
    let from = if isolated { Vec::new() } else { parameters.deny_cidrs.clone() };
    let mut rules = vec![Match { from, ..Match::default() }];
    for open in open(&parameters.allow)? {
        let mut next = Vec::new();
        for rule in rules {
            let mut from_elsewhere = rule.clone();
            from_elsewhere.not_from.extend(open.cidrs.iter().cloned());
            next.push(from_elsewhere);
            if !open.except.is_empty() {
                if !rule.from.is_empty() {
                    return Err(
                        "what stays open has exceptions of its own (allow.except) beside others, which one rule of Istio's can't say",
                    );
                }
                next.push(Match { from: open.except.clone(), ..rule.clone() });
            }
            if !open.ports.is_empty() {
                let mut to_others = rule;
                to_others.not_ports.extend(&open.ports);
                next.push(to_others);
            }
        }
        if next.len() > MOST {
            return Err("what stays open has too many kinds of peers and ports for one policy of Istio's");
        }
        rules = next;
    }
    Ok(Some(Map::from_iter([
        ("selector".to_owned(), json!({"matchLabels": {names::QUARANTINE: profile.name()}})),
        ("action".to_owned(), json!("DENY")),
        ("rules".to_owned(), rules.iter().map(rule).collect()),
    ])))
}

/// What stays open on the way in. Only TCP goes through a proxy, so exceptions for other protocols need none here.
fn open(allow: &[Peer]) -> Result<Vec<Open>, &'static str> {
    let mut all: Vec<Open> = Vec::new();
    for peer in allow.iter().filter(|peer| peer.direction != Isolate::Egress) {
        let tcp = || peer.ports.iter().filter(|port| port.protocol == PeerProtocol::Tcp);
        if !peer.ports.is_empty() && tcp().next().is_none() {
            continue;
        }
        let Some(cidr) = &peer.cidr else {
            return Err(
                "pods that stay within reach are chosen by labels (allow), and Istio knows its peers by address or identity",
            );
        };
        if tcp().any(|port| port.end_port.is_some()) {
            return Err("ports that stay open are a range (allow.ports.endPort), and Istio knows single ones");
        }
        let mut ports: Vec<i32> = tcp().map(|port| port.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let alike = |one: &&mut Open| one.except.is_empty() && peer.except.is_empty() && one.ports == ports;
        if let Some(open) = all.iter_mut().find(alike) {
            open.cidrs.push(cidr.clone());
        } else {
            all.push(Open { cidrs: vec![cidr.clone()], except: peer.except.clone(), ports });
        }
    }
    Ok(all)
}

fn rule(one: &Match) -> Value {
    let mut rule = json!({});
    let mut source = json!({});
    for (key, blocks) in [("ipBlocks", &one.from), ("notIpBlocks", &one.not_from)] {
        if !blocks.is_empty() {
            source[key] = json!(blocks);
        }
    }
    if source != json!({}) {
        rule["from"] = json!([{"source": source}]);
    }
    if !one.not_ports.is_empty() {
        let ports: Vec<String> = one.not_ports.iter().map(ToString::to_string).collect();
        rule["to"] = json!([{"operation": {"notPorts": ports}}]);
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(parameters: Value) -> Value {
        let parameters: Quarantine = serde_json::from_value(parameters).unwrap_or_default();
        match spec(&Profile::of(&parameters), &parameters) {
            Ok(spec) => spec.map_or(Value::Null, |mut spec| spec.remove("rules").unwrap_or_default()),
            Err(why) => json!(why),
        }
    }

    /// Whether a connection is denied, as Istio reads rules. Blocks are of whole bytes here.
    fn is_denied(rules: &Value, from: &str, port: i32) -> bool {
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
        };
        let within = |blocks: &Value| {
            strings(blocks).iter().any(|block| {
                let (address, bits) = block.split_once('/').unwrap_or((block, "32"));
                let bytes = bits.parse::<usize>().unwrap_or(32) / 8;
                address.split('.').take(bytes).eq(from.split('.').take(bytes))
            })
        };
        rules.as_array().into_iter().flatten().any(|rule| {
            let (source, operation) = (&rule["from"][0]["source"], &rule["to"][0]["operation"]);
            let from_is = source["ipBlocks"].is_null() || within(&source["ipBlocks"]);
            let to_is = operation["notPorts"].is_null() || !strings(&operation["notPorts"]).contains(&port.to_string());
            from_is && !within(&source["notIpBlocks"]) && to_is
        })
    }

    #[test]
    fn without_exceptions_one_empty_rule_matches_everything() {
        assert_eq!(rules(json!({})), json!([{}]));
        assert_eq!(rules(json!({"isolate": "Ingress", "denyCIDRs": ["10.0.0.0/8"]})), json!([{}]));
        // What stays open on the way out alone is none of its business; nor is what isn't TCP.
        let out = json!({"allowDNS": true, "allow": [{"podSelector": {}, "direction": "Egress"}, {"podSelector": {},
            "ports": [{"port": 53, "protocol": "UDP"}]}]});
        assert_eq!(rules(out), json!([{}]));
    }

    #[test]
    fn nothing_is_said_where_the_way_in_stays_open() {
        assert_eq!(rules(json!({"isolate": "Egress"})), Value::Null);
        let denied = rules(json!({"isolate": "Egress", "denyCIDRs": ["10.0.0.0/8"]}));
        assert_eq!(denied, json!([{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]));
    }

    #[test]
    fn what_stays_open_is_denied_to_nobody_else_and_nothing_else_stays_open() {
        let allow = json!([
            {"cidr": "10.9.0.0/24", "except": ["10.9.0.7/32"], "ports": [{"port": 22}, {"port": 53, "protocol": "UDP"}]},
            {"cidr": "10.8.0.0/24"},
            {"cidr": "10.7.0.0/24"},
            {"cidr": "10.6.0.0/16", "ports": [{"port": 443}]},
        ]);
        let rules = rules(json!({ "allow": allow }));
        for (from, port, open) in [
            ("10.9.0.1", 22, true),
            ("10.9.0.1", 53, false),
            ("10.9.0.1", 443, false),
            ("10.9.0.7", 22, false),
            ("10.8.0.7", 22, true),
            ("10.7.0.7", 8080, true),
            ("10.6.1.1", 443, true),
            ("10.6.1.1", 22, false),
            ("10.5.0.1", 22, false),
            ("10.5.0.1", 443, false),
        ] {
            assert_eq!(is_denied(&rules, from, port), !open, "{from}:{port} {rules:#}");
        }
    }

    #[test]
    fn what_it_cannot_say_exactly_is_not_said_at_all() {
        for allow in [
            json!([{"podSelector": {"matchLabels": {"app": "forensics"}}}]),
            json!([{"cidr": "10.9.0.0/24", "ports": [{"port": 8000, "endPort": 8010}]}]),
            json!([{"cidr": "10.9.0.0/24", "except": ["10.9.0.1/32"]}, {"cidr": "10.8.0.0/24", "except": ["10.8.0.1/32"]}]),
        ] {
            let said = rules(json!({ "allow": allow }));
            assert!(said.is_string(), "{said:#}");
        }
        let many: Vec<Value> =
            (1..=6).map(|n| json!({"cidr": format!("10.{n}.0.0/16"), "ports": [{"port": n}]})).collect();
        assert!(rules(json!({ "allow": many })).is_string(), "two rules to the power of six");
    }
}
