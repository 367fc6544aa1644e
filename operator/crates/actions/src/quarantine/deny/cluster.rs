//! ClusterNetworkPolicy, in the tier Admin: its rules are asked one after the other, so what stays open is accepted first, and the rest
//! denied: <https://network-policy-api.sigs.k8s.io/reference/spec/>.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use quell_crds::names;
use quell_crds::v1alpha1::step::{Isolate, Peer, PeerPort, PeerProtocol, Quarantine};
use serde_json::{Map, Value, json};

use super::super::profile::{DNS_NAMESPACE, DNS_PODS, Profile};

/// Why such a policy can't say what a profile leaves open; `None`: it can.
pub(super) fn lacks(parameters: &Quarantine) -> Option<&'static str> {
    if parameters.allow.iter().any(|peer| !peer.except.is_empty()) {
        return Some("ClusterNetworkPolicy has no exceptions of addresses (allow.except)");
    }
    let own = |peer: &Peer| peer.cidr.is_none() && peer.namespace_selector.is_none();
    if parameters.allow.iter().any(own) {
        return Some(
            "ClusterNetworkPolicy is of the whole cluster, and can't mean the pod's own namespace: name it by namespaceSelector",
        );
    }
    let denied_in = !parameters.deny_cidrs.is_empty() && parameters.isolate == Isolate::Egress;
    denied_in.then_some("ClusterNetworkPolicy has no addresses on the way in (denyCIDRs)")
}

pub(super) fn spec(profile: &Profile, parameters: &Quarantine) -> Map<String, Value> {
    let pods = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {names::QUARANTINE: profile.name()}}});
    let mut spec = Map::from_iter([
        ("tier".to_owned(), json!("Admin")),
        ("priority".to_owned(), json!(0)),
        ("subject".to_owned(), json!({"pods": pods})),
    ]);
    if parameters.isolate != Isolate::Egress {
        // On the way in there are no addresses to say: those from outside are the NetworkPolicy's alone, to deny and to allow.
        let open = parameters.allow.iter().filter(|peer| peer.direction != Isolate::Egress && peer.cidr.is_none());
        let mut rules: Vec<Value> = open.map(|one| accept("from", &peer(one), protocols(&one.ports))).collect();
        rules.push(json!({"name": "quarantine", "action": "Deny", "from": [{"namespaces": {}}]}));
        spec.insert("ingress".to_owned(), Value::Array(rules));
    }
    let mut rules = Vec::new();
    let isolated = parameters.isolate != Isolate::Ingress;
    if parameters.allow_dns && isolated {
        let labels = |(key, value): (&str, &str)| json!({"matchLabels": {key: value}});
        let servers = json!({"pods": {"namespaceSelector": labels(DNS_NAMESPACE), "podSelector": labels(DNS_PODS)}});
        let port = json!({"destinationPort": {"number": 53}});
        rules.push(accept("to", &servers, Some(json!([{"udp": port}, {"tcp": port}]))));
    }
    let denied =
        if isolated { vec!["0.0.0.0/0", "::/0"] } else { parameters.deny_cidrs.iter().map(String::as_str).collect() };
    if !denied.is_empty() {
        let open = parameters.allow.iter().filter(|peer| peer.direction != Isolate::Ingress);
        rules.extend(open.map(|one| accept("to", &peer(one), protocols(&one.ports))));
        let mut to = vec![json!({"networks": denied})];
        if isolated {
            to.insert(0, json!({"namespaces": {}}));
        }
        rules.push(json!({"name": "quarantine", "action": "Deny", "to": to}));
        spec.insert("egress".to_owned(), Value::Array(rules));
    }
    spec
}

fn accept(side: &str, peer: &Value, protocols: Option<Value>) -> Value {
    let mut rule = json!({"name": "left-open", "action": "Accept", side: [peer]});
    if let Some(protocols) = protocols {
        rule["protocols"] = protocols;
    }
    rule
}

fn peer(peer: &Peer) -> Value {
    if let Some(cidr) = &peer.cidr {
        return json!({"networks": [cidr]});
    }
    let namespaces = peer.namespace_selector.as_ref().map(LabelSelector::from).unwrap_or_default();
    match peer.pod_selector.as_ref().map(LabelSelector::from) {
        Some(pods) => json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}}),
        None => json!({"namespaces": namespaces}),
    }
}

fn protocols(ports: &[PeerPort]) -> Option<Value> {
    let one = |port: &PeerPort| {
        let protocol = match port.protocol {
            PeerProtocol::Tcp => "tcp",
            PeerProtocol::Udp => "udp",
            PeerProtocol::Sctp => "sctp",
        };
        let which = match port.end_port {
            Some(end) if end > port.port => json!({"range": {"start": port.port, "end": end}}),
            _ => json!({"number": port.port}),
        };
        json!({protocol: {"destinationPort": which}})
    };
    (!ports.is_empty()).then(|| Value::Array(ports.iter().map(one).collect()))
}
