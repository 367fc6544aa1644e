//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (cilium.io/v2): <https://docs.cilium.io/en/stable/security/policy/>.
//!
//! What a deny rule matches is denied whatever any policy allows; else it is allowed if any policy, a NetworkPolicy too, allows it; else
//! it is denied if any policy turns default deny on, which having rules for the direction does unless the policy says otherwise.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{Action, Policy, PolicyRef, Rule, Section, Subject, Tier, network_policy};
use crate::addresses::{Addresses, net};
use crate::labels::{Labels, NAMESPACE_NAME};
use crate::pod::{Direction, SERVICE_ACCOUNT};
use crate::ports::{Ports, Protocol};
use crate::region::{Cube, Others, Who};

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";

/// Peers or ports, and why it may be fewer.
type Most<T> = (T, Option<String>);

pub(super) fn read(reference: &PolicyRef, object: &Value) -> Result<Policy, String> {
    let one = object.get("spec").filter(|spec| !spec.is_null());
    let more = object.get("specs").and_then(Value::as_array).into_iter().flatten();
    let mut specs = one.into_iter().chain(more);
    let spec = specs.next().ok_or("it has neither a spec nor specs")?;
    if specs.next().is_some() {
        return Err("it has more than one spec".to_owned());
    }
    let spec = spec.as_object().ok_or("its spec is no object")?;
    let scope = reference.namespace.as_deref();
    let Some(selector) = spec.get("endpointSelector") else {
        // With a nodeSelector it is for nodes.
        return Ok(Policy {
            subject: Subject::everyone(),
            sections: Vec::new(),
            reference: reference.clone(),
            tier: None,
        });
    };
    let subject = match endpoints(selector, scope)? {
        (Who::Pods { namespace, pod }, doubt) => {
            Subject { namespaces: vec![namespace], pods: vec![pod], doubt: doubt.map(Arc::from) }
        }
        (Who::Others(_), _) => return Err("it is for something that is no pod".to_owned()),
    };
    let sections = [(Direction::Ingress, "ingress", "ingressDeny"), (Direction::Egress, "egress", "egressDeny")]
        .into_iter()
        .flat_map(|(direction, allow, deny)| {
            let list = |key: &str| spec.get(key).and_then(Value::as_array).map_or([].as_slice(), Vec::as_slice);
            let rules = |key, action| list(key).iter().flat_map(|each| rules(each, direction, scope, action)).collect();
            let (accepted, denied): (Vec<_>, Vec<_>) = (rules(allow, Action::Accept), rules(deny, Action::Deny));
            let default_deny = spec.get("enableDefaultDeny").and_then(|set| set.get(allow)).and_then(Value::as_bool);
            let isolates = default_deny.unwrap_or(!list(allow).is_empty() || !list(deny).is_empty());
            let order = network_policy::ORDER;
            [
                Section { direction, tier: Tier::CiliumDeny, order, isolates: false, rules: denied },
                Section { direction, tier: Tier::NetworkPolicy, order, isolates, rules: accepted },
            ]
        })
        .filter(|section| section.isolates || !section.rules.is_empty())
        .collect();
    Ok(Policy { subject, sections, reference: reference.clone(), tier: None })
}

/// A rule without any field chooses nobody; one with ports alone is for everybody.
fn rules(rule: &Value, direction: Direction, scope: Option<&str>, action: Action) -> Vec<Rule> {
    let Some(fields) = rule.as_object() else { return vec![doubted(action, "a rule of it is no object")] };
    let fields = || fields.iter().filter(|(_, value)| !value.is_null());
    let mut peers: Option<Vec<Most<Vec<Cube>>>> = None;
    let mut ports: Option<Vec<Most<Ports>>> = None;
    let mut restricted = None;
    for (key, value) in fields() {
        let items = value.as_array().map_or([].as_slice(), Vec::as_slice);
        match key.as_str() {
            "toPorts" if items.is_empty() => {}
            "toPorts" => ports.get_or_insert_default().extend(items.iter().map(port_rule)),
            "icmps" => ports.get_or_insert_default().push(icmp(action)),
            "fromRequires" | "toRequires" => restricted = Some("a rule of it has further requirements".to_owned()),
            "authentication" => restricted = Some("a rule of it asks for authentication".to_owned()),
            _ => peers.get_or_insert_default().extend(peers_of(key, items, direction, scope, action)),
        }
    }
    let peers = match (peers, &ports) {
        (Some(peers), _) => peers,
        (None, Some(_)) => vec![(Cube::anyone(), None)],
        (None, None) => return Vec::new(),
    };
    let ports = ports.unwrap_or_else(|| vec![(Ports::all(), None)]);
    let pairs = peers.iter().flat_map(|peer| ports.iter().map(move |ports| (peer, ports)));
    let rule = |((cubes, why), (ports, why_ports)): (&Most<Vec<Cube>>, &Most<Ports>)| Rule {
        action,
        peers: vec![cubes.clone()],
        ports: ports.clone(),
        doubt: why.as_ref().or(why_ports.as_ref()).or(restricted.as_ref()).map(|reason| Arc::from(reason.as_str())),
    };
    pairs.map(rule).collect()
}

fn doubted(action: Action, reason: &str) -> Rule {
    Rule { action, peers: vec![Cube::anyone()], ports: Ports::all(), doubt: Some(Arc::from(reason)) }
}

/// The peers of one field.
fn peers_of(key: &str, items: &[Value], way: Direction, scope: Option<&str>, action: Action) -> Vec<Most<Vec<Cube>>> {
    let world = || Cube::others(Others::WORLD);
    match key {
        "fromEndpoints" | "toEndpoints" => items.iter().map(|item| endpoint_peer(item, scope)).collect(),
        "fromEntities" | "toEntities" => entities(items, way, action),
        "fromCIDR" | "toCIDR" => items.iter().map(|item| cidr(item, &[])).collect(),
        "fromCIDRSet" | "toCIDRSet" => items.iter().map(cidr_set).collect(),
        "toFQDNs" => vec![(vec![world()], Some("it chooses by names of hosts".to_owned()))],
        "toServices" => vec![(Cube::anyone(), Some("it chooses by Services".to_owned()))],
        "fromGroups" | "toGroups" => vec![(vec![world()], Some("it chooses by groups of a cloud".to_owned()))],
        "fromNodes" | "toNodes" => {
            vec![(vec![Cube::others(Others::NODES)], Some("which nodes it chooses isn't known".to_owned()))]
        }
        other => vec![(Cube::anyone(), Some(format!("a rule of it has the field {other}, which is not known")))],
    }
}

fn endpoint_peer(selector: &Value, scope: Option<&str>) -> Most<Vec<Cube>> {
    match endpoints(selector, scope) {
        Ok((who, doubt)) => (vec![Cube { who, addresses: Addresses::all() }], doubt),
        Err(reason) => (Cube::anyone(), Some(reason)),
    }
}

/// A selector of Cilium speaks of the labels of the pod and of its namespace at once. Of a policy in a namespace, it is for that one
/// unless it says which.
fn endpoints(selector: &Value, scope: Option<&str>) -> Result<Most<Who>, String> {
    let selector = LabelSelector::deserialize(selector).map_err(|error| error.to_string())?;
    let all = Labels::of(&selector)?.with_keys(|key| {
        key.strip_prefix("k8s:")
            .or_else(|| key.strip_prefix("any:"))
            .or_else(|| key.strip_prefix("k8s."))
            .unwrap_or(key)
            .to_owned()
    });
    let (mut namespace, mut pod) = (Labels::any(), Labels::any());
    for (key, labels) in all.split() {
        let place = if let Some(key) = key.strip_prefix(NAMESPACE_LABELS) {
            namespace.intersection(&labels.with_keys(|_| key.to_owned())).map(|both| namespace = both)
        } else if key == NAMESPACE {
            namespace.intersection(&labels.with_keys(|_| NAMESPACE_NAME.to_owned())).map(|both| namespace = both)
        } else if key == "io.cilium.k8s.policy.serviceaccount" {
            pod.intersection(&labels.with_keys(|_| SERVICE_ACCOUNT.to_owned())).map(|both| pod = both)
        } else if key.contains(':') || key.starts_with("reserved.") || key.starts_with("io.cilium.k8s.policy.") {
            return Err(format!("it chooses by {key}, which is no label of a pod"));
        } else {
            pod.intersection(&labels).map(|both| pod = both)
        };
        // One label can't be asked for two things at once: nobody is chosen.
        if place.is_none() {
            pod = Labels::one_of(key, []);
        }
    }
    if let Some(scope) = scope
        && !namespace.has_key(|_| true)
    {
        namespace = Labels::namespace(scope);
    }
    Ok((Who::Pods { namespace, pod }, None))
}

fn entities(items: &[Value], direction: Direction, action: Action) -> Vec<Most<Vec<Cube>>> {
    let names: Vec<_> = items.iter().filter_map(Value::as_str).collect();
    let pods = || Cube::pods(Labels::any(), Labels::any());
    let both_nodes = names.contains(&"host") && names.contains(&"remote-node");
    let entity = |name: &str| -> Most<Vec<Cube>> {
        let kinds = match name {
            "all" => return (Cube::anyone(), None),
            "none" => return (Vec::new(), None),
            "cluster" => {
                let kinds = [Others::NODES, Others::HEALTH, Others::INIT, Others::UNMANAGED, Others::PROXY];
                return (vec![pods(), Cube::others(kinds.into_iter().fold(Others::NODES, Others::and))], None);
            }
            // The pod's own node: it always gets in.
            "host" if direction == Direction::Ingress => return (Vec::new(), None),
            "host" | "remote-node" => Others::NODES,
            "world" | "world-ipv4" | "world-ipv6" => Others::WORLD,
            "kube-apiserver" => Others::API_SERVER,
            "health" => Others::HEALTH,
            "init" => Others::INIT,
            "unmanaged" => Others::UNMANAGED,
            "ingress" => Others::PROXY,
            other => return (Cube::anyone(), Some(format!("the entity {other} in it is not known"))),
        };
        // Taken for more than it is, an entity may be allowed, but not denied.
        let is_part = match name {
            "host" | "remote-node" => direction == Direction::Egress && !both_nodes,
            name => name.starts_with("world-"),
        };
        let doubt = (is_part && action == Action::Deny).then(|| format!("{name} is a part of what is told apart here"));
        (vec![Cube::others(kinds)], doubt)
    };
    names.into_iter().map(entity).collect()
}

/// Only for addresses outside the cluster.
fn cidr(value: &Value, except: &[IpNet]) -> Most<Vec<Cube>> {
    let world = |addresses| vec![Cube { who: Who::Others(Others::WORLD), addresses }];
    match value.as_str().and_then(net) {
        Some(net) => (world(Addresses::block(net, except)), None),
        None => (world(Addresses::all()), Some(format!("{value} in it is not a CIDR"))),
    }
}

fn cidr_set(value: &Value) -> Most<Vec<Cube>> {
    let except = value.get("except").and_then(Value::as_array).into_iter().flatten();
    let except: Option<Vec<_>> = except.map(|each| each.as_str().and_then(net)).collect();
    let known = value.as_object().is_some_and(|fields| fields.keys().all(|key| key == "cidr" || key == "except"));
    match (value.get("cidr"), except) {
        (Some(block), Some(except)) if known => cidr(block, &except),
        _ => (vec![Cube::others(Others::WORLD)], Some("which addresses it chooses isn't known".to_owned())),
    }
}

fn icmp(action: Action) -> Most<Ports> {
    // Some types of ICMP are more than nothing, and less than all that has no ports.
    let doubt = (action == Action::Deny).then(|| "it is for some types of ICMP".to_owned());
    (Ports::without_numbers(), doubt)
}

fn port_rule(value: &Value) -> Most<Ports> {
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    let further = fields.iter().find(|(key, value)| *key != "ports" && !value.is_null());
    let mut doubt = further.map(|(key, _)| format!("a rule of it looks at what is said on the connection ({key})"));
    let ports = fields.get("ports").and_then(Value::as_array).map_or([].as_slice(), Vec::as_slice);
    let mut all = Ports::default();
    for each in ports {
        let ports = port(each);
        if ports.is_none() {
            doubt.get_or_insert_with(|| format!("the port {each} in it is not known"));
        }
        all = all.and(&ports.unwrap_or_else(Ports::all));
    }
    (if ports.is_empty() { Ports::all() } else { all }, doubt)
}

fn port(value: &Value) -> Option<Ports> {
    let protocols = match value.get("protocol").and_then(Value::as_str).unwrap_or("ANY") {
        "" | "ANY" => Protocol::ALL.to_vec(),
        name => vec![Protocol::named(name)?],
    };
    let text = value.get("port").map_or(Some("0"), Value::as_str)?;
    let last = value.get("endPort").and_then(Value::as_u64).filter(|last| *last > 0);
    let of = |protocol| match (text.parse::<u16>(), last) {
        (Ok(0), _) => Some(Ports::whole(protocol)),
        (Ok(first), None) => Some(Ports::one(protocol, first)),
        (Ok(first), Some(last)) => Some(Ports::range(protocol, first, u16::try_from(last).ok()?)),
        (Err(_), None) => Some(Ports::named(protocol, &text.to_ascii_lowercase())),
        (Err(_), Some(_)) => None,
    };
    protocols.into_iter().try_fold(Ports::default(), |all, protocol| Some(all.and(&of(protocol)?)))
}
