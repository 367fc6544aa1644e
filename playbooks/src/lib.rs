//! The pure core of Quell: what a playbook means, which Findings it is for, and what its run does next.
//!
//! Nothing here has a client, a clock or randomness: facts and the time are arguments, decisions are values.

pub mod cel;
pub mod compile;
pub mod contained;
pub mod contention;
pub mod facts;
pub mod guardrails;
pub mod images;
pub mod kept;
pub mod kind;
pub mod library;
pub mod mapping;
pub mod mentions;
pub mod parameters;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod record;
pub mod related;
pub mod select;
pub mod suppress;
pub mod template;

pub use compile::{Compiled, Problem, compile};
pub use facts::{Controller, PodFacts, TargetState, World};
pub use library::library;
pub use mentions::Mentions;
pub use plan::{Decision, Plan, plan};
pub use progress::{Outcome, Recovery, UndoOutcome};
pub use record::{apply, refresh};
