//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2): <https://network-policy-api.sigs.k8s.io/reference/spec/>.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::tiered::{self, RulePorts, Rules};
use super::{Policy, PolicyKind, Tier};
use crate::ports::{Ports, Protocol};

#[derive(Deserialize)]
struct Spec {
    tier: String,
    priority: f64,
    #[serde(flatten)]
    rules: Rules<Matches>,
}

#[derive(Deserialize)]
struct Matches {
    protocols: Option<Vec<Match>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    tcp: Option<Destination>,
    udp: Option<Destination>,
    sctp: Option<Destination>,
    destination_named_port: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Destination {
    destination_port: Option<Port>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Port {
    number: Option<i64>,
    range: Option<Range>,
}

#[derive(Deserialize)]
struct Range {
    start: i64,
    end: i64,
}

pub(super) fn read(name: &str, spec: &Value) -> Result<Policy, String> {
    let spec = Spec::deserialize(spec).map_err(|error| error.to_string())?;
    let tier = match spec.tier.as_str() {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        other => return Err(format!("the tier {other} is not known")),
    };
    spec.rules.at(PolicyKind::ClusterNetworkPolicy, name, &tier, spec.priority)
}

impl RulePorts for Matches {
    fn ports(&self) -> Option<Result<Ports, String>> {
        self.protocols.as_ref().map(|protocols| tiered::union(protocols.iter().map(Match::ports)))
    }
}

impl Match {
    fn ports(&self) -> Result<Ports, String> {
        let numbered = [(Protocol::Tcp, &self.tcp), (Protocol::Udp, &self.udp), (Protocol::Sctp, &self.sctp)];
        let mut numbered = numbered.into_iter().filter_map(|(protocol, each)| Some((protocol, each.as_ref()?)));
        match (numbered.next(), &self.destination_named_port, self.unknown.is_empty()) {
            (Some((protocol, destination)), None, true) if numbered.next().is_none() => destination.ports(protocol),
            (None, Some(name), true) => Ok(tiered::named(name)),
            _ => Err("it matches protocols in a way that is not known".to_owned()),
        }
    }
}

impl Destination {
    fn ports(&self, protocol: Protocol) -> Result<Ports, String> {
        if !self.unknown.is_empty() {
            return Err(format!("it matches {protocol} in a way that is not known"));
        }
        match &self.destination_port {
            None => Ok(Ports::whole(protocol)),
            Some(Port { number: Some(number), range: None }) => Ok(Ports::one(protocol, tiered::port(*number)?)),
            Some(Port { number: None, range: Some(range) }) => {
                Ok(Ports::range(protocol, tiered::port(range.start)?, tiered::port(range.end)?))
            }
            Some(_) => Err(format!("it matches {protocol} in a way that is not known")),
        }
    }
}
