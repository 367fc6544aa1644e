//! Runs over real files of the tools, where they are at hand (a folder `shared/samples` beside the repository), and over fixtures of our own.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bodies;
mod matrix;
mod robust;
mod schema;
mod table;
