//! `cargo crash`: Quell is killed before and after each single request, and nothing is lost and nothing doubled.

use std::process::ExitCode;

use clap::Parser as _;
use quell_tests::crash::{self, Arguments};

fn main() -> ExitCode {
    // Quell runs as a process of its own, and this binary is the one that is sure to be there.
    if std::env::args_os().nth(1).is_some_and(|first| first == "operator") {
        return quell_operator::start();
    }
    crash::start(&Arguments::parse())
}
