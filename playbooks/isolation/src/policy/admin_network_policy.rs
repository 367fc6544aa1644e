//! AdminNetworkPolicy and BaselineAdminNetworkPolicy (policy.networking.k8s.io/v1alpha1), the forerunners of ClusterNetworkPolicy:
//! <https://network-policy-api.sigs.k8s.io/api-overview/>.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::tiered::{self, RulePorts, Rules};
use super::{Policy, PolicyKind, Tier};
use crate::ports::{Ports, Protocol};

/// After every priority that a ClusterNetworkPolicy of the baseline tier can have, which is at most 1000. No API says which comes first;
/// no cluster is known to serve both.
const BASELINE: f64 = 1001.0;

#[derive(Deserialize)]
struct Spec {
    /// An AdminNetworkPolicy has one, the baseline is alone.
    priority: Option<f64>,
    #[serde(flatten)]
    rules: Rules<Matches>,
}

#[derive(Deserialize)]
struct Matches {
    ports: Option<Vec<Match>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    port_number: Option<Number>,
    named_port: Option<String>,
    port_range: Option<Range>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Number {
    protocol: Option<String>,
    port: i64,
}

#[derive(Deserialize)]
struct Range {
    protocol: Option<String>,
    start: i64,
    end: i64,
}

pub(super) fn read(kind: PolicyKind, name: &str, spec: &Value) -> Result<Policy, String> {
    let spec = Spec::deserialize(spec).map_err(|error| error.to_string())?;
    let (tier, priority) = match (kind, spec.priority) {
        (PolicyKind::BaselineAdminNetworkPolicy, _) => (Tier::Baseline, BASELINE),
        (_, Some(priority)) => (Tier::Admin, priority),
        (_, None) => return Err("it has no priority".to_owned()),
    };
    spec.rules.at(kind, name, &tier, priority)
}

impl RulePorts for Matches {
    fn ports(&self) -> Option<Result<Ports, String>> {
        self.ports.as_ref().map(|ports| tiered::union(ports.iter().map(Match::ports)))
    }
}

impl Match {
    fn ports(&self) -> Result<Ports, String> {
        match (&self.port_number, &self.named_port, &self.port_range, self.unknown.is_empty()) {
            (Some(number), None, None, true) => {
                Ok(Ports::one(protocol(number.protocol.as_deref())?, tiered::port(number.port)?))
            }
            (None, Some(name), None, true) => Ok(tiered::named(name)),
            (None, None, Some(range), true) => Ok(Ports::range(
                protocol(range.protocol.as_deref())?,
                tiered::port(range.start)?,
                tiered::port(range.end)?,
            )),
            _ => Err("it matches ports in a way that is not known".to_owned()),
        }
    }
}

fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    let name = name.unwrap_or("TCP");
    Protocol::named(name).ok_or_else(|| format!("the protocol {name} in it is not known"))
}
