//! The other end of a path, for people.

use std::fmt;

use crate::addresses::Addresses;
use crate::labels::{Labels, NAMESPACE_NAME};
use crate::region::{Cube, Others, Who};

/// Who a path comes from or goes to: pods that selectors choose, addresses, or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub(crate) Vec<Cube>);

impl Peer {
    /// Whether it is everybody: any pod, and any address that is no pod's.
    #[must_use]
    pub fn is_anyone(&self) -> bool {
        self.addresses() == Some(&Addresses::all())
    }

    /// The addresses, where it is whoever has one of them, a pod or not.
    #[must_use]
    pub fn addresses(&self) -> Option<&Addresses> {
        let everyone = Cube::anyone();
        match self.0.as_slice() {
            [pods, others]
                if pods.addresses == others.addresses
                    && [pods, others].iter().zip(&everyone).all(|(cube, every)| cube.who == every.who) =>
            {
                Some(&pods.addresses)
            }
            _ => None,
        }
    }

    /// Whether pods can be among them.
    #[must_use]
    pub fn has_pods(&self) -> bool {
        self.0.iter().any(|cube| matches!(cube.who, Who::Pods { .. }))
    }
}

/// `any address`, `10.0.0.0/8 except 10.1.0.0/16`, `namespace web (app=front)`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(addresses) = self.addresses() {
            return addresses.fmt(f);
        }
        let parts: Vec<_> = self.0.iter().map(describe).collect();
        f.write_str(&parts.join(" and "))
    }
}

fn describe(cube: &Cube) -> String {
    let who = match &cube.who {
        Who::Pods { namespace, pod } => pods(namespace, pod),
        Who::Others(Others::ALL) => "any address that is no pod's".to_owned(),
        Who::Others(kinds) => kinds.names().collect::<Vec<_>>().join(", "),
    };
    if cube.addresses == Addresses::all() { who } else { format!("{who} at {}", cube.addresses) }
}

fn pods(namespace: &Labels, pod: &Labels) -> String {
    let names: Option<Vec<_>> = namespace.values(NAMESPACE_NAME).map(Iterator::collect);
    let rest = if names.is_some() { namespace.without(NAMESPACE_NAME) } else { namespace.clone() };
    let place = match names.as_deref() {
        None if rest.is_any() && pod.is_any() => return "any pod".to_owned(),
        None if rest.is_any() => "any namespace".to_owned(),
        None => format!("namespaces with {rest}"),
        Some([name]) => format!("namespace {name}"),
        Some(names) => format!("namespaces {}", names.join(", ")),
    };
    let place = if rest.is_any() || !place.starts_with("namespace ") && names.is_none() {
        place
    } else {
        format!("{place} while it has {rest}")
    };
    if pod.is_any() { place } else { format!("{place} ({pod})") }
}
