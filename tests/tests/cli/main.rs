//! `kubectl quell` against a real API server. Where a command waits for Quell, the test writes what Quell would write.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::unwrap_used)]

mod bed;
mod doctor;
mod plan;
mod read;
mod undo;
