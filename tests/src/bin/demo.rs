//! `cargo demo`: an incident from alert to remediation, on a control plane of its own.

use std::process::ExitCode;

use clap::Parser as _;
use quell_tests::demo::{self, Arguments};

fn main() -> ExitCode {
    // The demo runs Quell as a process of its own, and this binary is the one that is sure to be there.
    if std::env::args_os().nth(1).is_some_and(|first| first == "operator") {
        return quell_operator::start();
    }
    demo::start(&Arguments::parse())
}
