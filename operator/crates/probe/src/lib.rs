//! Connections that are really tried, from a pod: what the probes of a quarantine and `kubectl quell doctor` run.
//!
//! It runs as `quell probe` in pods without any right, and knows nothing of Kubernetes but addresses and ports.

pub mod attempt;
mod listen;
mod try_each;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use thiserror::Error;

pub use crate::listen::Listen;
pub use crate::try_each::{Report, Tried, Try};
pub use crate::watch::{Line, Watch, Way};

/// What `quell probe` is asked for.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What a probe can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Answer whoever connects: what other probes must be able to reach
    Listen(Listen),
    /// Try to connect until nothing answers any more, or the time is over; write what came of it
    Try(Try),
    /// Connect again and again, and hold one connection; print each attempt
    Watch(Watch),
}

/// Why a probe could not be made.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It can't be connected to.
    #[error("can't listen on port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody would know what came of it.
    #[error("can't write {what}: {source}")]
    Write {
        /// The file, or standard output.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Does what the command line says.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.task {
        Task::Listen(listen) => listen::run(listen),
        Task::Try(tried) => try_each::run(tried),
        Task::Watch(watch) => watch::run(watch),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What can't be told can't be told either.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
