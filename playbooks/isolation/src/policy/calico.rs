//! Calico's NetworkPolicy, GlobalNetworkPolicy and Tier (projectcalico.org/v3, stored as crd.projectcalico.org/v1):
//! <https://docs.tigera.io/calico/latest/reference/resources/globalnetworkpolicy>.
//!
//! Tiers are asked by their order, policies of a tier by theirs, rules one after the other; what no policy of a tier decides is denied
//! there if one of them chooses the pod, unless the tier's default action is `Pass`. NetworkPolicies stand in the tier `default`, with
//! order 1000; a pod that no tier stops is open.

mod selector;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{Action, CalicoTier, Policy, PolicyRef, Rule, Section, Subject, Tier};
use crate::addresses::{Addresses, net};
use crate::labels::Labels;
use crate::pod::{Direction, SERVICE_ACCOUNT};
use crate::ports::{Ports, Protocol};
use crate::region::{Block, Cube, Others};

/// A label that Calico gives to pods and not to NetworkSets. It writes this in front of what it makes from NetworkPolicies.
const PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    tier: Option<String>,
    order: Option<f64>,
    #[serde(default)]
    selector: String,
    #[serde(default)]
    namespace_selector: String,
    #[serde(default)]
    service_account_selector: String,
    types: Option<Vec<String>>,
    #[serde(default)]
    ingress: Vec<PolicyRule>,
    #[serde(default)]
    egress: Vec<PolicyRule>,
    /// Both are for host endpoints alone.
    #[serde(default)]
    do_not_track: bool,
    #[serde(default, rename = "preDNAT")]
    pre_dnat: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicyRule {
    action: String,
    ip_version: Option<u8>,
    protocol: Option<Value>,
    not_protocol: Option<Value>,
    #[serde(default)]
    source: Entity,
    #[serde(default)]
    destination: Entity,
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[serde(flatten)]
    further: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entity {
    #[serde(default)]
    nets: Vec<String>,
    #[serde(default)]
    not_nets: Vec<String>,
    #[serde(default)]
    selector: String,
    #[serde(default)]
    not_selector: String,
    #[serde(default)]
    namespace_selector: String,
    #[serde(default)]
    ports: Vec<Value>,
    #[serde(default)]
    not_ports: Vec<Value>,
    service_accounts: Option<ServiceAccounts>,
    #[serde(flatten)]
    further: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct ServiceAccounts {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    selector: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TierSpec {
    order: Option<f64>,
    default_action: Option<String>,
}

pub(super) fn read_tier(reference: &PolicyRef, spec: &Value) -> Result<Policy, String> {
    let spec = TierSpec::deserialize(spec).map_err(|error| error.to_string())?;
    let passes = match spec.default_action.as_deref() {
        None | Some("Deny") => false,
        Some("Pass") => true,
        Some(other) => return Err(format!("its default action {other} is not known")),
    };
    let tier = CalicoTier { order: spec.order.unwrap_or(f64::INFINITY), passes };
    Ok(Policy { reference: reference.clone(), subject: Subject::everyone(), sections: Vec::new(), tier: Some(tier) })
}

pub(super) fn read(reference: &PolicyRef, spec: &Value) -> Result<Policy, String> {
    let spec = Spec::deserialize(spec).map_err(|error| error.to_string())?;
    let scope = reference.namespace.as_deref();
    let namespaces = match scope {
        Some(namespace) => vec![Labels::namespace(namespace)],
        None => selector::parse(&spec.namespace_selector)?,
    };
    let has_accounts = !spec.service_account_selector.trim().is_empty();
    let doubt =
        has_accounts.then(|| Arc::from("it chooses pods by labels of their ServiceAccounts, which aren't known"));
    let subject = Subject { namespaces, pods: selector::parse(&spec.selector)?, doubt };
    let types = spec.types.filter(|types| !types.is_empty());
    let covers =
        |name: &str, otherwise| types.as_ref().map_or(otherwise, |types| types.iter().any(|each| each == name));
    let tier = match spec.tier.as_deref() {
        None | Some("" | "default") => Tier::NetworkPolicy,
        Some("kube-admin" | "adminnetworkpolicy") => Tier::Admin,
        Some("kube-baseline" | "baselineadminnetworkpolicy") => Tier::Baseline,
        Some(name) => Tier::Calico(Arc::from(name)),
    };
    let section = |direction, rules: &[PolicyRule]| Section {
        direction,
        // These two tiers pass on what they don't decide.
        isolates: !matches!(tier, Tier::Admin | Tier::Baseline),
        tier: tier.clone(),
        order: spec.order.unwrap_or(f64::INFINITY),
        rules: rules.iter().flat_map(|rule| rule.rules(direction, scope)).collect(),
    };
    let mut sections = Vec::new();
    if !spec.do_not_track && !spec.pre_dnat {
        if covers("Ingress", spec.egress.is_empty() || !spec.ingress.is_empty()) {
            sections.push(section(Direction::Ingress, &spec.ingress));
        }
        if covers("Egress", !spec.egress.is_empty()) {
            sections.push(section(Direction::Egress, &spec.egress));
        }
    }
    Ok(Policy { subject, sections, reference: reference.clone(), tier: None })
}

impl PolicyRule {
    fn rules(&self, direction: Direction, scope: Option<&str>) -> Vec<Rule> {
        let action = match self.action.as_str() {
            "Allow" => Action::Accept,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            // It decides nothing.
            "Log" => return Vec::new(),
            other => {
                return vec![doubted(
                    Action::Pass,
                    &format!("a rule of it has the action {other}, which is not known"),
                )];
            }
        };
        let (other, own) = match direction {
            Direction::Ingress => (&self.source, &self.destination),
            Direction::Egress => (&self.destination, &self.source),
        };
        let most = other.cubes(scope).and_then(|cubes| Ok((cubes, self.ports()?)));
        let (mut cubes, ports) = match most {
            Ok(most) => most,
            Err(reason) => return vec![doubted(action, &reason)],
        };
        if let Some(version) = self.ip_version {
            let family = if version == 4 { "0.0.0.0/0" } else { "::/0" };
            let family = Addresses::block(family.parse().unwrap_or_default(), &[]);
            cubes = cut(cubes, &family);
        }
        let doubt = self.doubt(action, other, own);
        let mut rules = vec![Rule { action, peers: vec![cubes], ports: ports.clone(), doubt: doubt.map(Arc::from) }];
        if other.may_mean_sets() && action != Action::Deny {
            let sets = vec![Cube::others(Others::WORLD)];
            let doubt = Some(Arc::from("which NetworkSets its selector chooses isn't known"));
            rules.push(Rule { action, peers: vec![sets], ports, doubt });
        }
        rules
    }

    /// Why the rule may match less than its peers and ports.
    fn doubt(&self, action: Action, other: &Entity, own: &Entity) -> Option<String> {
        if let Some(field) = self.further.keys().chain(other.further.keys()).chain(own.further.keys()).next() {
            return Some(format!("a rule of it looks at {field}"));
        }
        if own.says_who() {
            return Some("a rule of it narrows down the pods that it is for".to_owned());
        }
        if other.service_accounts.as_ref().is_some_and(|accounts| !accounts.selector.trim().is_empty()) {
            return Some("a rule of it chooses by labels of ServiceAccounts, which aren't known".to_owned());
        }
        // Whoever opens the connection chooses its source port: it may well be let in by it, but isn't kept out by it.
        let by_source = !self.source.ports.is_empty() || !self.source.not_ports.is_empty();
        let without_ports = self.protocol.as_ref().is_some_and(|protocol| of_protocol(protocol).is_none());
        (action != Action::Accept && (by_source || without_ports || self.not_protocol.is_some()))
            .then(|| "a rule of it matches a part of what is told apart here".to_owned())
    }

    fn ports(&self) -> Result<Ports, String> {
        let protocols = match (&self.protocol, &self.not_protocol) {
            (None, None) => Ports::all(),
            (Some(protocol), None) => of_protocol(protocol).map_or_else(Ports::without_numbers, Ports::whole),
            (None, Some(protocol)) => of_protocol(protocol)
                .map_or_else(Ports::all, |protocol| Ports::all().difference(&Ports::whole(protocol))),
            (Some(_), Some(_)) => return Err("a rule of it has both protocol and notProtocol".to_owned()),
        };
        let list = |ports: &[Value]| {
            let all = ports.iter().map(|each| port(each).ok_or_else(|| format!("the port {each} in it is not known")));
            all.collect::<Result<Vec<_>, _>>().map(|all| all.iter().fold(Ports::default(), |sum, one| sum.and(one)))
        };
        let mut ports = protocols;
        if !self.destination.ports.is_empty() {
            ports = ports.intersection(&list(&self.destination.ports)?);
        }
        let not = list(&self.destination.not_ports)?;
        if not.has_names() {
            return Err("a rule of it leaves out ports by their names".to_owned());
        }
        Ok(ports.difference(&not))
    }
}

impl Entity {
    fn says_who(&self) -> bool {
        let texts = [&self.selector, &self.not_selector, &self.namespace_selector];
        texts.iter().any(|text| !text.trim().is_empty())
            || !self.nets.is_empty()
            || !self.not_nets.is_empty()
            || self.service_accounts.is_some()
    }

    /// Selectors choose NetworkSets, too, by their labels, unless they say that they mean pods.
    fn may_mean_sets(&self) -> bool {
        let texts = [&self.selector, &self.namespace_selector];
        texts.iter().any(|text| !text.trim().is_empty()) && self.service_accounts.is_none() && !self.selected().1
    }

    /// The selector, and whether it means pods alone.
    fn selected(&self) -> (&str, bool) {
        let text = self.selector.trim();
        match text.strip_prefix(PODS).map(str::trim_start) {
            Some("") => ("all()", true),
            Some(rest) if !rest.contains("||") => {
                rest.strip_prefix("&&").map_or((text, false), |rest| (rest.trim(), true))
            }
            _ => (text, false),
        }
    }

    /// Everything that is said has to hold.
    fn cubes(&self, scope: Option<&str>) -> Result<Vec<Cube>, String> {
        let namespaces = match (self.namespace_selector.trim(), scope) {
            ("", Some(namespace)) => vec![Labels::namespace(namespace)],
            (text, _) if text.contains("global(") => return Err("a rule of it chooses by global()".to_owned()),
            (text, _) => selector::parse(text)?,
        };
        let pods = |pods: Vec<Labels>| -> Vec<Cube> {
            let pairs = namespaces.iter().flat_map(|namespace| pods.iter().map(move |pod| (namespace, pod)));
            pairs.map(|(namespace, pod)| Cube::pods(namespace.clone(), pod.clone())).collect()
        };
        let accounts = self.service_accounts.as_ref().filter(|accounts| !accounts.names.is_empty());
        let has_selector = !self.selector.trim().is_empty() || !self.namespace_selector.trim().is_empty();
        let mut cubes = Cube::anyone();
        if has_selector || self.service_accounts.is_some() {
            cubes = pods(selector::parse(self.selected().0)?);
        }
        if let Some(accounts) = accounts {
            let names = pods(vec![Labels::one_of(SERVICE_ACCOUNT, accounts.names.iter().map(String::as_str))]);
            cubes = meet(&cubes, &names);
        }
        if !self.nets.is_empty() {
            cubes = cut(cubes, &nets(&self.nets)?);
        }
        if !self.not_nets.is_empty() {
            cubes = cut(cubes, &Addresses::all().difference(&nets(&self.not_nets)?));
        }
        if !self.not_selector.trim().is_empty() {
            let excluded = pods(selector::parse(&self.not_selector)?);
            let all = Ports::all();
            let mut rest = Block::product(&cubes, &all);
            for cube in excluded {
                rest = rest.iter().flat_map(|block| block.difference(&cube, &all)).collect();
            }
            cubes = rest.into_iter().map(|block| block.cube).collect();
        }
        Ok(cubes)
    }
}

fn doubted(action: Action, reason: &str) -> Rule {
    Rule { action, peers: vec![Cube::anyone()], ports: Ports::all(), doubt: Some(Arc::from(reason)) }
}

fn meet(left: &[Cube], right: &[Cube]) -> Vec<Cube> {
    let all = Ports::all();
    let left = Block::product(left, &all);
    left.iter()
        .flat_map(|block| right.iter().filter_map(|cube| block.intersection(cube, &all)))
        .map(|b| b.cube)
        .collect()
}

fn cut(cubes: Vec<Cube>, to: &Addresses) -> Vec<Cube> {
    let cut = cubes.into_iter().map(|cube| Cube { addresses: cube.addresses.intersection(to), ..cube });
    cut.filter(|cube| !cube.addresses.is_empty()).collect()
}

fn nets(texts: &[String]) -> Result<Addresses, String> {
    let mut all = Addresses::default();
    for text in texts {
        let net = net(text).ok_or_else(|| format!("{text:?} in it is not a CIDR"))?;
        all = all.union(&Addresses::block(net, &[]));
    }
    Ok(all)
}

/// `None`: one without ports.
fn of_protocol(value: &Value) -> Option<Protocol> {
    match (value.as_str(), value.as_u64()) {
        (Some(name), _) => Protocol::named(&name.to_ascii_uppercase()),
        (None, Some(6)) => Some(Protocol::Tcp),
        (None, Some(17)) => Some(Protocol::Udp),
        (None, Some(132)) => Some(Protocol::Sctp),
        _ => None,
    }
}

/// A number, a range such as `1000:2000`, or a name: of every protocol, as the rule says which.
fn port(value: &Value) -> Option<Ports> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of = |protocol| -> Option<Ports> {
        let number = |text: &str| text.trim().parse::<u16>().ok();
        match text.split_once(':') {
            Some((first, last)) => Some(Ports::range(protocol, number(first)?, number(last)?)),
            None if text.starts_with(|first: char| first.is_ascii_alphabetic()) => Some(Ports::named(protocol, &text)),
            None => Some(Ports::one(protocol, number(&text)?)),
        }
    };
    Protocol::ALL.into_iter().try_fold(Ports::default(), |all, protocol| Some(all.and(&of(protocol)?)))
}
