//! `cargo faults`: alerts against an API server in trouble, and an audit of what came of each.

use std::process::ExitCode;

use clap::Parser as _;
use quell_tests::faults::{self, Arguments};

fn main() -> ExitCode {
    quell_tests::operator::run_as_quell().unwrap_or_else(|| faults::start(&Arguments::parse()))
}
