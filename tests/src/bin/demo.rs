//! `cargo demo`: an incident from alert to remediation, on a control plane of its own.

use std::process::ExitCode;

use clap::Parser as _;
use quell_tests::demo::{self, Arguments};

fn main() -> ExitCode {
    quell_tests::operator::run_as_quell().unwrap_or_else(|| demo::start(&Arguments::parse()))
}
