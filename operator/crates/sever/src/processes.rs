//! The processes of a pod's containers: found by their cgroup, which they can't choose, and signalled through a pidfd, so that a number that
//! was given to another process meanwhile meets nobody.
//!
//! The kubelet names a pod's cgroup after its UID, the runtime a container's after its ID; both with the drivers `systemd` and `cgroupfs`
//! and on cgroup v1 and v2. The pod's sandbox is none of its containers: it holds the pod's network, and is left alone.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal as Number, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use crate::rounds::{BOUND, until_quiet};
use crate::{Report, Signal};

/// What a process that is asked to end gets before it is made to.
const GRACE: Duration = Duration::from_secs(2);

/// Whose processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// UID of the pod.
    pub pod_uid: String,
    /// IDs of its containers, without the name of their runtime.
    pub containers: BTreeSet<String>,
}

/// Why processes could not be found or signalled.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The list of processes could not be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such process.
    #[error(
        "no process of pod {uid} was found: either its containers have ended, or this container does not see its node's processes"
    )]
    NotFound {
        /// UID of the pod.
        uid: String,
    },
    /// The right is missing.
    #[error(
        "process {pid} may not be signalled: the container needs the capability KILL, and no security profile in its way"
    )]
    NotPermitted {
        /// The process.
        pid: i32,
    },
    /// The signal did not get through.
    #[error("signalling process {pid}: {source}")]
    Signal {
        /// The process.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
}

/// Sends the signal to every process of these containers, and looks again until all are as they should be: a process may fork while it is
/// looked at. `proc` is where the processes of the node are to be seen.
pub fn signal(proc: &Path, target: &Target, signal: Signal) -> Result<Report, ProcessError> {
    let first = of(proc, target)?;
    if first.is_empty() {
        return Err(ProcessError::NotFound { uid: target.pod_uid.clone() });
    }
    let mut met = HashSet::new();
    let remaining = match signal {
        Signal::Stop => {
            until_quiet(BOUND, || round(proc, target, Number::STOP, &mut met, |state| state != State::Stopped))?
        }
        Signal::Continue => {
            until_quiet(BOUND, || round(proc, target, Number::CONT, &mut met, |state| state == State::Stopped))?
        }
        Signal::Kill => {
            // One that is stopped would never see the request.
            for number in [Number::TERM, Number::CONT] {
                round(proc, target, number, &mut met, |_| true)?;
            }
            until_quiet(GRACE, || Ok::<_, ProcessError>(of(proc, target)?.len()))?;
            until_quiet(BOUND, || round(proc, target, Number::KILL, &mut met, |_| true))?
        }
    };
    Ok(Report { deleted: None, signalled: Some(met.len()), remaining })
}

/// One look: signals those whose state is not yet what it should be, and says how many they were.
fn round(
    proc: &Path,
    target: &Target,
    number: Number,
    met: &mut HashSet<Pid>,
    wanting: impl Fn(State) -> bool,
) -> Result<usize, ProcessError> {
    let mut found = 0;
    for pid in of(proc, target)? {
        let Some(state) = state(proc, pid)? else { continue };
        if wanting(state) && send(proc, target, pid, number)? {
            met.insert(pid);
            found += 1;
        }
    }
    Ok(found)
}

/// The living processes of these containers.
fn of(proc: &Path, target: &Target) -> Result<HashSet<Pid>, ProcessError> {
    let failed = |source| ProcessError::Read { path: proc.to_owned(), source };
    let mut found = HashSet::new();
    for entry in fs::read_dir(proc).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        if is_of(proc, target, pid)? && state(proc, pid)?.is_some() {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn is_of(proc: &Path, target: &Target, pid: Pid) -> Result<bool, ProcessError> {
    Ok(read(proc, pid, "cgroup")?.is_some_and(|cgroups| target.owns(&cgroups)))
}

/// How a process stands, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
}

/// `None`: it has ended, and at most waits for its parent to take notice.
fn state(proc: &Path, pid: Pid) -> Result<Option<State>, ProcessError> {
    let Some(stat) = read(proc, pid, "stat")? else { return Ok(None) };
    // The name before it is the process's own choice, brackets and all.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    Ok(match state {
        None | Some('Z' | 'X') => None,
        Some('T') => Some(State::Stopped),
        Some(_) => Some(State::Running),
    })
}

/// `None`: the process is gone.
fn read(proc: &Path, pid: Pid, file: &str) -> Result<Option<String>, ProcessError> {
    const NO_SUCH_PROCESS: i32 = 3;
    let path = proc.join(pid.as_raw_nonzero().to_string()).join(file);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS) => {
            Ok(None)
        }
        Err(source) => Err(ProcessError::Read { path, source }),
    }
}

/// `false`: it has ended meanwhile, or its number is another's now.
fn send(proc: &Path, target: &Target, pid: Pid, number: Number) -> Result<bool, ProcessError> {
    let raw = pid.as_raw_nonzero().get();
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::SRCH => Ok(false),
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => Err(ProcessError::NotPermitted { pid: raw }),
        error => Err(ProcessError::Signal { pid: raw, source: error.into() }),
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(error) => return failed(error),
    };
    // Held now: what is read here is true of the one that gets the signal.
    if !is_of(proc, target, pid)? {
        return Ok(false);
    }
    pidfd_send_signal(&process, number).map(|()| true).or_else(failed)
}

impl Target {
    /// Whether `/proc/<pid>/cgroup` is that of a process in one of the containers.
    fn owns(&self, cgroups: &str) -> bool {
        let slice = format!("pod{}", self.pod_uid.replace('-', "_"));
        let is_pod = |part: &str| {
            part.strip_prefix("pod").is_some_and(|uid| uid == self.pod_uid)
                || part.strip_suffix(".slice").and_then(|name| name.rsplit('-').next()) == Some(slice.as_str())
        };
        let is_container = |part: &str| {
            let name = part.strip_suffix(".scope").and_then(|name| name.rsplit('-').next()).unwrap_or(part);
            self.containers.contains(name)
        };
        // Each line is `hierarchy:controllers:path`; seen from another cgroup namespace the path begins with `/..`.
        cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
            let mut parts = path.split('/');
            parts.by_ref().any(is_pod) && parts.any(is_container)
        })
    }
}
