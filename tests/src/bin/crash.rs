//! `cargo crash`: Quell is killed before and after each single request, and nothing is lost and nothing doubled.

use std::process::ExitCode;

use clap::Parser as _;
use quell_tests::crash::{self, Arguments};

fn main() -> ExitCode {
    quell_tests::operator::run_as_quell().unwrap_or_else(|| crash::start(&Arguments::parse()))
}
