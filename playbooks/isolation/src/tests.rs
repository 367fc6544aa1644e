//! Rules of the model, from the outside as far as they can be seen there.

mod calico;
mod cilium;
mod cluster_network_policy;
mod generated;
mod network_policy;
mod oracle;
mod support;
