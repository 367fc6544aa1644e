//! The controller of Quell: signals in, Findings out, playbooks run.

mod audit;
mod caches;
mod containment;
mod declared;
mod engine;
mod expiry;
mod fence;
mod finalizers;
#[cfg(test)]
mod fixtures;
mod guardrails;
mod history;
mod identity;
mod intake;
mod lanes;
mod leader;
mod metrics;
mod mirror;
pub mod operator;
mod policies;
mod probes;
mod process;
pub mod rbac;
mod reviews;
mod routes;
pub mod settings;
mod suppressions;

pub use operator::{OperatorError, run, run_with};
pub use process::start;
pub use settings::{Command, LogFormat, Settings, Task};
