//! What network policies still let through to a pod, and from it.
//!
//! A [`Model`] is kept up to date with namespaces, pods and policies, and tells of each change which of the tracked pods it alters. Of a
//! pod it answers an [`Exposure`]: every path that is open, by which policy, and what can't be told. [`Exposure::beyond`] leaves the
//! leaks alone, [`Model::exposure_with`] asks before a label or a policy is written, [`Model::verdict`] asks about one connection.
//!
//! Nothing here has a client, a clock or randomness. Whether the network plugin enforces what the policies say is beyond it: that takes
//! a probe.

mod addresses;
mod allowances;
mod chain;
mod exposure;
mod labels;
mod model;
mod peer;
mod pod;
mod policy;
mod ports;
mod ranges;
mod region;
#[cfg(test)]
mod tests;
mod verdict;
mod walk;

pub use addresses::Addresses;
pub use allowances::{AllowanceError, Allowances};
pub use exposure::{Doubt, Exposure, Grounds, LISTED, Listed, Path, State};
pub use model::Model;
pub use peer::Peer;
pub use pod::{Direction, Endpoint, Pod, PodRef};
pub use policy::{Policy, PolicyError, PolicyKind, PolicyRef};
pub use ports::{NamedPort, Ports, Protocol};
pub use verdict::Verdict;
