//! What `severConnections` does on the node of a pod: the conntrack entries of the pod's addresses are deleted, or the processes of its
//! containers are stopped, let go on, or ended.
//!
//! It runs as `quell sever` in a Job of its own, with the one capability that it needs, and knows nothing of Kubernetes but a pod's UID,
//! the IDs of its containers, and its addresses.

pub mod conntrack;
pub mod processes;
mod rounds;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::processes::Target;

/// Where a container leaves its last words:
/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What shall be severed. Exactly one of addresses and a pod.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// Delete the conntrack entries of this address; may be given several times
    #[arg(long = "address", value_name = "IP", required_unless_present = "pod_uid", conflicts_with = "pod_uid")]
    pub addresses: Vec<IpAddr>,
    /// Send a signal to the processes of the pod with this UID
    #[arg(long, value_name = "UID", requires = "containers", requires = "signal")]
    pub pod_uid: Option<String>,
    /// ID of a container of that pod, without the name of its runtime; may be given several times
    #[arg(long = "container", value_name = "ID", requires = "pod_uid")]
    pub containers: Vec<String>,
    /// What the processes get
    #[arg(long, value_enum, requires = "pod_uid")]
    pub signal: Option<Signal>,
    /// File that the result is written to; it must be there
    #[arg(long, value_name = "FILE", default_value = TERMINATION_LOG)]
    pub report: PathBuf,
}

/// What the processes of a pod get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Signal {
    /// SIGSTOP: they stand still, and keep their memory.
    Stop,
    /// SIGCONT: they go on.
    Continue,
    /// SIGTERM, and SIGKILL to what is still there after 2 s.
    Kill,
}

/// What came of it, as the step reads it in the container's termination message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Conntrack entries that were deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<usize>,
    /// Processes that got the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signalled: Option<usize>,
    /// Entries that came back, or processes that are not as they should be, when it gave up.
    pub remaining: usize,
}

/// Why nothing could be severed.
#[derive(Debug, Error)]
pub enum SeverError {
    /// Connection tracking could not be read or changed.
    #[error(transparent)]
    Conntrack(#[from] conntrack::ConntrackError),
    /// Processes could not be found or signalled.
    #[error(transparent)]
    Processes(#[from] processes::ProcessError),
    /// The command line says neither what nor how.
    #[error("neither an address nor a pod's UID with a signal was given")]
    Nothing,
}

/// Does what the command line says, and writes what came of it to standard output and into the report.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let (text, code) = match sever(arguments) {
        Ok(report) => (serde_json::json!(report).to_string(), ExitCode::SUCCESS),
        Err(error) => (error.to_string(), ExitCode::FAILURE),
    };
    println!("{text}");
    match leave(&arguments.report, &text) {
        Ok(()) => code,
        // Without the report nobody knows what was done.
        Err(error) => {
            eprintln!("{}: {error}", arguments.report.display());
            ExitCode::FAILURE
        }
    }
}

fn sever(arguments: &Arguments) -> Result<Report, SeverError> {
    match (&arguments.pod_uid, arguments.signal) {
        (Some(uid), Some(signal)) => {
            let target = Target { pod_uid: uid.clone(), containers: arguments.containers.iter().cloned().collect() };
            Ok(processes::signal(Path::new("/proc"), &target, signal)?)
        }
        _ if arguments.addresses.is_empty() => Err(SeverError::Nothing),
        _ => {
            let addresses: BTreeSet<IpAddr> = arguments.addresses.iter().copied().collect();
            Ok(conntrack::cut(&addresses)?)
        }
    }
}

/// The kubelet has put the file there; one that isn't there is not made.
fn leave(report: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(report)?.write_all(text.as_bytes())
}
