//! The main job, end to end: a real operator process on a real control plane, each test in a namespace of its own.

mod audited;
mod bad_input;
mod containment;
mod context;
mod denies;
mod doors;
mod dry_run;
mod episodes;
mod expiry;
mod follow_ups;
mod guardrails;
mod guards;
mod mapping;
mod playbooks;
mod probed;
mod restart;
mod rights;
mod signals;
mod steer;
mod support;
mod suppressions;
mod told;
mod watched_tools;
mod watches;
