//! `cargo faults`: alerts against an API server in trouble, and an audit of what came of each.

use std::process::ExitCode;

use clap::Parser as _;
use quell_tests::faults::{self, Arguments};

fn main() -> ExitCode {
    // Quell runs as a process of its own, and this binary is the one that is sure to be there.
    if std::env::args_os().nth(1).is_some_and(|first| first == "operator") {
        return quell_operator::start();
    }
    faults::start(&Arguments::parse())
}
