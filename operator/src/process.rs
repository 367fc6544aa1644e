//! The process: command line, log, signals.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::settings::{Command, LogFormat, Settings, Task};

/// A third of what the operator does in a storm of alerts is allocation, which this one does in half the time of the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Does what the command line says.
///
/// # Panics
/// Where the process can't have threads.
#[must_use]
#[tokio::main]
pub async fn start() -> ExitCode {
    let settings = match Command::parse().task {
        Task::Operator(settings) => settings,
        #[cfg(target_os = "linux")]
        Task::Sever(arguments) => return quell_sever::run(&arguments),
        Task::Probe(arguments) => return quell_probe::run(&arguments),
    };
    log(&settings);
    // The one provider of the process; the only failure is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let end = CancellationToken::new();
    tokio::spawn(end_on_signal(end.clone()));
    match Box::pin(crate::operator::run(*settings, end)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "ends");
            ExitCode::FAILURE
        }
    }
}

fn log(settings: &Settings) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&settings.log))
        // Escape sequences are for terminals: in a file they are noise.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}

async fn end_on_signal(end: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    end.cancel();
}
