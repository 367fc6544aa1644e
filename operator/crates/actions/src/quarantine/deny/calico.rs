//! Calico's own NetworkPolicy: its rules are asked one after the other, so what stays open is allowed first, and the rest denied.

use quell_crds::names;
use quell_crds::v1alpha1::step::{Isolate, Peer, PeerPort, PeerProtocol, Quarantine};
use quell_crds::v1alpha1::{Selector, SelectorOperator};
use serde_json::{Map, Value, json};

use super::super::profile::{DNS_NAMESPACE, DNS_PODS, Profile};

/// Before every policy that people write: Calico's smallest order that is used by habit is 1.
const ORDER: f64 = 0.5;
/// Of pods alone, as Calico itself says it of what it makes from NetworkPolicies: selectors choose its NetworkSets, too.
const PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

pub(super) fn spec(profile: &Profile, parameters: &Quarantine) -> Map<String, Value> {
    let mut spec = Map::from_iter([
        ("tier".to_owned(), json!("default")),
        ("order".to_owned(), json!(ORDER)),
        ("selector".to_owned(), json!(format!("{} == '{}'", names::QUARANTINE, profile.name()))),
    ]);
    let mut types = Vec::new();
    for way in [Way::In, Way::Out] {
        let isolated = way.is_isolated(parameters.isolate);
        if isolated || !parameters.deny_cidrs.is_empty() {
            types.push(json!(way.name()));
            spec.insert(way.name().to_lowercase(), Value::Array(rules(parameters, way, isolated)));
        }
    }
    spec.insert("types".to_owned(), Value::Array(types));
    spec
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn name(self) -> &'static str {
        if self == Self::In { "Ingress" } else { "Egress" }
    }

    fn is_isolated(self, isolate: Isolate) -> bool {
        isolate != if self == Self::In { Isolate::Egress } else { Isolate::Ingress }
    }
}

fn rules(parameters: &Quarantine, way: Way, isolated: bool) -> Vec<Value> {
    let mut rules = Vec::new();
    if parameters.allow_dns && isolated && way == Way::Out {
        let servers = json!({
            "namespaceSelector": format!("{} == '{}'", DNS_NAMESPACE.0, DNS_NAMESPACE.1),
            "selector": format!("{PODS} && {} == '{}'", DNS_PODS.0, DNS_PODS.1),
        });
        for protocol in ["UDP", "TCP"] {
            rules.push(rule("Allow", way, &servers, Some((protocol, json!([53])))));
        }
    }
    for peer in parameters.allow.iter().filter(|peer| way.is_isolated(peer.direction)) {
        let other = entity(peer);
        if peer.ports.is_empty() {
            rules.push(rule("Allow", way, &other, None));
        }
        for protocol in [PeerProtocol::Tcp, PeerProtocol::Udp, PeerProtocol::Sctp] {
            let ports: Vec<Value> = peer.ports.iter().filter(|one| one.protocol == protocol).map(port).collect();
            if !ports.is_empty() {
                rules.push(rule("Allow", way, &other, Some((protocol.as_str(), Value::Array(ports)))));
            }
        }
    }
    if isolated {
        rules.push(json!({"action": "Deny"}));
    } else {
        // Each family of its own: a rule of Calico's is of one.
        for six in [false, true] {
            let nets: Vec<&String> = parameters.deny_cidrs.iter().filter(|one| one.contains(':') == six).collect();
            if !nets.is_empty() {
                rules.push(rule("Deny", way, &json!({"nets": nets}), None));
            }
        }
    }
    rules
}

/// Ports are those of the end that is connected to, whichever way.
fn rule(action: &str, way: Way, other: &Value, ports: Option<(&str, Value)>) -> Value {
    let side = if way == Way::In { "source" } else { "destination" };
    let mut rule = json!({"action": action, side: other});
    if let Some((protocol, ports)) = ports {
        rule["protocol"] = json!(protocol);
        rule["destination"]["ports"] = ports;
    }
    rule
}

fn port(port: &PeerPort) -> Value {
    port.end_port.map_or_else(|| json!(port.port), |end| json!(format!("{}:{end}", port.port)))
}

fn entity(peer: &Peer) -> Value {
    if let Some(cidr) = &peer.cidr {
        let mut entity = json!({"nets": [cidr]});
        if !peer.except.is_empty() {
            entity["notNets"] = json!(peer.except);
        }
        return entity;
    }
    let mut entity = json!({});
    if let Some(namespaces) = &peer.namespace_selector {
        entity["namespaceSelector"] = json!(selector(namespaces));
    }
    entity["selector"] = json!(match peer.pod_selector.as_ref().map(selector) {
        Some(pods) if pods != ALL => format!("{PODS} && {pods}"),
        _ => PODS.to_owned(),
    });
    entity
}

const ALL: &str = "all()";

/// A selector in Calico's language. Values of labels hold no quotes.
fn selector(selector: &Selector) -> String {
    let labels = selector.match_labels.iter().map(|(key, value)| format!("{key} == '{value}'"));
    let further = selector.match_expressions.iter().map(|one| {
        let (key, values) =
            (&one.key, one.values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", "));
        match one.operator {
            SelectorOperator::In => format!("{key} in {{ {values} }}"),
            // As Kubernetes means it, the label may be missing.
            SelectorOperator::NotIn => format!("{key} not in {{ {values} }}"),
            SelectorOperator::Exists => format!("has({key})"),
            SelectorOperator::DoesNotExist => format!("!has({key})"),
        }
    });
    let all: Vec<String> = labels.chain(further).collect();
    if all.is_empty() { ALL.to_owned() } else { all.join(" && ") }
}
