//! `kubectl quell`: what is wrong, what was done about it, what would be done, and how to take it back.
//!
//! Everything is in the library, so that tests run the commands as they are; what a command prints goes through [`Io`].

mod approve;
mod audit;
mod client;
mod cluster;
mod doctor;
mod error;
mod explain;
mod facts;
mod find;
mod flags;
mod get;
mod objects;
mod plan;
mod source;
mod steer;
mod stop;
mod table;
mod text;
mod time;
mod told;
mod undo;
mod vex;
mod watch;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use clap::Parser as _;
use quell_crds::v1alpha1::{ApprovalDecision, Intent};

pub use error::CliError;

use crate::flags::{AuditCommand, Command, Flags, SourceCommand, VexCommand};

/// What a command reads and writes.
pub struct Io {
    /// Standard output.
    pub out: Box<dyn Write + Send>,
    /// Standard error.
    pub err: Box<dyn Write + Send>,
    /// Standard input.
    pub input: Box<dyn Read + Send>,
    /// Whether what is printed may have colours.
    pub colours: bool,
    /// Whether a person reads it on a terminal: then tables fit a line. Another program gets every value whole.
    pub terminal: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Well.
    Ok,
    /// It failed, or the answer is no.
    Failed,
    /// It was not called as it can be.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
        }
    }
}

/// Runs one command; `arguments` begin with the name of the program.
pub async fn run(arguments: impl IntoIterator<Item = OsString>, io: &mut Io) -> Exit {
    let flags = match Flags::try_parse_from(arguments) {
        Ok(flags) => flags,
        Err(error) => {
            let wrong = error.use_stderr();
            // What can't be printed can't be told either.
            let _ = if wrong { write!(io.err, "{error}") } else { write!(io.out, "{error}") };
            return if wrong { Exit::Usage } else { Exit::Ok };
        }
    };
    // The one provider of the process; the only failure is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = dispatch(flags, io).await;
    match done.and_then(|exit| io.out.flush().map(|()| exit).map_err(CliError::Output)) {
        Ok(exit) => exit,
        // The reader has seen enough, as `head` does.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            let _ = writeln!(io.err, "error: {error}");
            error.exit()
        }
    }
}

async fn dispatch(flags: Flags, io: &mut Io) -> Result<Exit, CliError> {
    let Flags { connect, command } = flags;
    match command {
        Command::Get(of) => get::run(&of, &connect, io).await,
        Command::Explain(of) => explain::run(&of, &connect, io).await,
        Command::Watch(of) => watch::run(&of, &connect, io).await,
        Command::Plan(of) => Box::pin(plan::run(&of, &connect, io)).await,
        Command::Doctor(of) => Box::pin(doctor::run(&of, &connect, io)).await,
        Command::Undo(of) => undo::run(&of, &connect, io).await,
        Command::Approve(of) => approve::run(&of, ApprovalDecision::Approve, &connect, io).await,
        Command::Deny(of) => approve::run(&of, ApprovalDecision::Deny, &connect, io).await,
        Command::Vex { command: VexCommand::Import(of) } => vex::run(&of, &connect, io).await,
        Command::Pause(of) => steer::run(&of, Intent::Pause, &connect, io).await,
        Command::Resume(of) => steer::run(&of, Intent::Run, &connect, io).await,
        Command::Cancel(of) => steer::run(&of, Intent::Cancel, &connect, io).await,
        Command::Stop(of) => stop::stop(&of, &connect, io).await,
        Command::Go => stop::go(&connect, io).await,
        Command::Source { command: SourceCommand::Test(of) } => source::run(&of, &connect, io),
        Command::Audit { command: AuditCommand::Verify(of) } => audit::run(&of, io),
        Command::Version => {
            writeln!(io.out, "kubectl-quell {}", env!("CARGO_PKG_VERSION")).map_err(CliError::Output)?;
            Ok(Exit::Ok)
        }
    }
}
