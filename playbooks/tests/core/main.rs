//! What the core promises, rule by rule.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]
#![allow(clippy::needless_pass_by_value, reason = "json! is given as it is written")]

mod compile;
mod contention;
mod gate;
mod generated;
mod guardrails;
mod kept;
mod library;
mod order;
mod record;
mod recover;
mod retry;
mod select;
mod steer;
mod support;
mod suppress;
mod undo;
