//! Protocols and ports.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::ranges::Ranges;

/// A protocol with ports, as in the API's `protocol` fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `TCP`, the default wherever a policy names none.
    Tcp,
    /// `UDP`
    Udp,
    /// `SCTP`
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol of that name, as the API spells it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }

    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A named port of a container: what a policy that names a port means on this pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// `containers[].ports[].name`
    pub name: String,
    /// `containers[].ports[].protocol`
    pub protocol: Protocol,
    /// `containers[].ports[].containerPort`, from 1 to 65535.
    pub number: u16,
}

const FIRST: u128 = 1;
const LAST: u128 = 65535;

/// A set of ports of the three protocols that have them, and whether protocols without ports, such as ICMP, are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    numbers: [Ranges; 3],
    others: bool,
    /// Names resolve on the pod that the traffic goes to, each time anew: there is no number before that pod is known.
    named: BTreeSet<(Protocol, Arc<str>)>,
}

impl Ports {
    /// Every protocol and port.
    #[must_use]
    pub fn all() -> Self {
        Self { numbers: std::array::from_fn(|_| Ranges::new(FIRST, LAST)), others: true, named: BTreeSet::new() }
    }

    /// One port.
    #[must_use]
    pub fn one(protocol: Protocol, port: u16) -> Self {
        Self::range(protocol, port, port)
    }

    /// The ports from `first` to `last`, both included; none where `last` is the smaller one.
    #[must_use]
    pub fn range(protocol: Protocol, first: u16, last: u16) -> Self {
        let mut ports = Self::default();
        ports.numbers[protocol as usize] = Ranges::new(u128::from(first).max(FIRST), u128::from(last));
        ports
    }

    /// Every port of a protocol.
    #[must_use]
    pub fn whole(protocol: Protocol) -> Self {
        Self::range(protocol, 1, u16::MAX)
    }

    pub(crate) fn named(protocol: Protocol, name: &str) -> Self {
        Self { named: BTreeSet::from([(protocol, Arc::from(name))]), ..Self::default() }
    }

    /// ICMP and whatever else has no ports.
    pub(crate) fn without_numbers() -> Self {
        Self { others: true, ..Self::default() }
    }

    /// These ports and those.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            numbers: self.pairwise(other, Ranges::union),
            others: self.others || other.others,
            named: self.named.union(&other.named).cloned().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.iter().all(Ranges::is_empty) && !self.others && self.named.is_empty()
    }

    pub(crate) fn has_names(&self) -> bool {
        !self.named.is_empty()
    }

    /// These ports without the names that may stand for a number that is missing in `left`, and those names alone.
    pub(crate) fn split_vague(self, left: &Self) -> (Self, Self) {
        let whole = Ranges::new(FIRST, LAST);
        let is_plain = |port: &(Protocol, Arc<str>)| left.numbers[port.0 as usize] == whole;
        let (plain, vague) = self.named.iter().cloned().partition(is_plain);
        (Self { named: plain, ..self }, Self { named: vague, ..Self::default() })
    }

    /// Every port that one of the names may stand for.
    pub(crate) fn protocols_of_names(&self) -> Self {
        self.named.iter().fold(Self::default(), |all, (protocol, _)| all.and(&Self::whole(*protocol)))
    }

    pub(crate) fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.numbers[protocol as usize].contains(u128::from(port))
    }

    /// The same ports, with the names replaced by the numbers that they have on a pod. A name that the pod doesn't have is no port.
    pub(crate) fn on_pod(&self, ports: &[NamedPort]) -> Self {
        let mut resolved = Self { named: BTreeSet::new(), ..self.clone() };
        for port in ports.iter().filter(|port| self.has(port)) {
            resolved = resolved.and(&Self::one(port.protocol, port.number));
        }
        resolved
    }

    fn has(&self, port: &NamedPort) -> bool {
        self.named.iter().any(|(protocol, name)| *protocol == port.protocol && **name == *port.name)
    }

    /// What is in both; a name meets any number of its protocol, as it may stand for each of them.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let within = |names: &Self, numbers: &Self| -> BTreeSet<_> {
            let meets = |port: &&(Protocol, Arc<str>)| {
                numbers.named.contains(*port) || !numbers.numbers[port.0 as usize].is_empty()
            };
            names.named.iter().filter(meets).cloned().collect()
        };
        Self {
            numbers: self.pairwise(other, Ranges::intersection),
            others: self.others && other.others,
            named: &within(self, other) | &within(other, self),
        }
    }

    /// What is surely not in `other`, or may not be: a name is taken away only with all ports of its protocol, or by the same name.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let whole = Ranges::new(FIRST, LAST);
        let covered =
            |port: &(Protocol, Arc<str>)| other.named.contains(port) || other.numbers[port.0 as usize] == whole;
        Self {
            numbers: self.pairwise(other, Ranges::difference),
            others: self.others && !other.others,
            named: self.named.iter().filter(|port| !covered(port)).cloned().collect(),
        }
    }

    fn pairwise(&self, other: &Self, operation: impl Fn(&Ranges, &Ranges) -> Ranges) -> [Ranges; 3] {
        std::array::from_fn(|at| operation(&self.numbers[at], &other.numbers[at]))
    }
}

/// `TCP 80, 8000-8080`, `UDP port named dns`, `any port`.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("any port");
        }
        let whole = Ranges::new(FIRST, LAST);
        let mut parts = Vec::new();
        for protocol in Protocol::ALL {
            let numbers = &self.numbers[protocol as usize];
            if *numbers == whole {
                parts.push(format!("any {protocol} port"));
            } else if !numbers.is_empty() {
                let numbers: Vec<_> = numbers.iter().map(range).collect();
                parts.push(format!("{protocol} {}", numbers.join(", ")));
            }
        }
        parts.extend(self.named.iter().map(|(protocol, name)| format!("{protocol} port named {name}")));
        if self.others {
            parts.push("ICMP and other protocols without ports".to_owned());
        }
        if parts.is_empty() {
            return f.write_str("no port");
        }
        f.write_str(&parts.join(", "))
    }
}

fn range((first, last): (u128, u128)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_as_a_person_writes_them() {
        let ports = Ports::one(Protocol::Tcp, 80)
            .and(&Ports::range(Protocol::Tcp, 8000, 8080))
            .and(&Ports::named(Protocol::Udp, "dns"));
        assert_eq!(ports.to_string(), "TCP 80, 8000-8080, UDP port named dns");
        assert_eq!(Ports::all().to_string(), "any port");
        assert_eq!(Ports::whole(Protocol::Sctp).to_string(), "any SCTP port");
        assert_eq!(Ports::default().to_string(), "no port");
    }

    #[test]
    fn a_name_is_a_port_only_on_a_pod_that_has_it_with_the_same_protocol() {
        let web = NamedPort { name: "web".to_owned(), protocol: Protocol::Tcp, number: 8080 };
        assert!(Ports::named(Protocol::Tcp, "web").on_pod(std::slice::from_ref(&web)).contains(Protocol::Tcp, 8080));
        assert!(Ports::named(Protocol::Udp, "web").on_pod(&[web]).is_empty());
        assert!(Ports::named(Protocol::Tcp, "web").on_pod(&[]).is_empty());
    }

    #[test]
    fn a_name_goes_away_with_all_ports_of_its_protocol_and_not_with_some() {
        let name = Ports::named(Protocol::Tcp, "web");
        assert!(name.difference(&Ports::whole(Protocol::Tcp)).is_empty());
        assert_eq!(name.difference(&Ports::range(Protocol::Tcp, 2, u16::MAX)), name);
        assert_eq!(name.difference(&Ports::whole(Protocol::Udp)), name);
    }
}
