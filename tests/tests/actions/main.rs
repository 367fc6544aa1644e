//! The contract of every action, on a real control plane.
//!
//! Every scenario acts as a service account that has the rights which the action's kind declares, and no others. So what an action asks
//! for beyond them fails here, and what it declares and never asks for is found by [`stage::assert_all_rights_used`].

// A scenario is polled once a test; where its future lives is no matter.
#![allow(clippy::large_futures)]

mod deny_image;
mod notify;
mod probe;
mod quarantine;
mod rebuild_http;
mod rebuild_job;
mod receiver;
mod recover;
mod revoke_access;
mod rollback;
mod run;
mod set_image;
mod sever_connections;
mod stage;
mod wait;
