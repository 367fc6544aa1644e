//! What the core promises, rule by rule.

mod compile;
mod generated;
mod library;
mod order;
mod record;
mod retry;
mod select;
mod support;
mod undo;
