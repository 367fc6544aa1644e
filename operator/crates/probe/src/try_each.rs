//! Addresses that should not answer, tried until they don't, beside one that must.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::ProbeError;
use crate::attempt::{Outcome, connect};

/// Where a container leaves its last words:
/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// How long one attempt waits: a first packet that is lost is sent again after a second.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// An address that fails as often as this, one try after the other, counts as closed.
const FAILURES: u32 = 3;
/// How long the peer that must answer may take to: its pod has just started.
const PEER: Duration = Duration::from_secs(30);

/// Tries to connect to each address until it does not answer any more.
#[derive(Args, Clone, Debug)]
pub struct Try {
    /// What must answer before and after, or the probe proves nothing
    #[arg(long, value_name = "IP:PORT")]
    pub peer: SocketAddr,
    /// What should not answer; may be given several times
    #[arg(long = "target", value_name = "IP:PORT", required = true)]
    pub targets: Vec<SocketAddr>,
    /// Seconds after which what still answers counts as open
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub within: u64,
    /// File that the result is written to; it must be there
    #[arg(long, value_name = "FILE", default_value = TERMINATION_LOG)]
    pub report: PathBuf,
}

/// What came of it, as it is read in the container's termination message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The peer before the first try and after the last: unless both are connected, the rest proves nothing.
    pub peer: [Outcome; 2],
    /// Each address.
    pub targets: Vec<Tried>,
}

/// What came of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// The address.
    pub address: SocketAddr,
    /// The last attempt.
    pub outcome: Outcome,
    /// How often it was tried.
    pub tries: u32,
    /// Milliseconds from the first attempt to the last one that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_until: Option<u64>,
}

pub(crate) fn run(arguments: &Try) -> Result<(), ProbeError> {
    let before = reach_peer(arguments.peer);
    let within = Duration::from_secs(arguments.within);
    let targets = std::thread::scope(|scope| {
        let all: Vec<_> =
            arguments.targets.iter().map(|&address| scope.spawn(move || until_closed(address, within))).collect();
        all.into_iter().filter_map(|one| one.join().ok()).collect()
    });
    let after = connect(arguments.peer, TIMEOUT);
    let report = Report { peer: [before, after], targets };
    let text = serde_json::json!(report).to_string();
    println!("{text}");
    leave(&arguments.report, &text)
        .map_err(|source| ProbeError::Write { what: arguments.report.display().to_string(), source })
}

fn reach_peer(peer: SocketAddr) -> Outcome {
    let began = Instant::now();
    loop {
        let outcome = connect(peer, TIMEOUT);
        if outcome == Outcome::Connected || began.elapsed() > PEER {
            return outcome;
        }
        std::thread::sleep(PAUSE);
    }
}

fn until_closed(address: SocketAddr, within: Duration) -> Tried {
    let began = Instant::now();
    let (mut tries, mut failures, mut answered_until) = (0, 0, None);
    loop {
        let outcome = connect(address, TIMEOUT);
        tries += 1;
        if outcome == Outcome::Connected {
            failures = 0;
            answered_until = Some(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        } else {
            failures += 1;
        }
        if failures >= FAILURES || began.elapsed() >= within {
            return Tried { address, outcome, tries, answered_until };
        }
        std::thread::sleep(PAUSE);
    }
}

/// The kubelet has put the file there; one that isn't there is not made.
fn leave(report: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(report)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn tried(targets: Vec<SocketAddr>, peer: SocketAddr) -> Report {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let arguments = Try { peer, targets, within: 1, report: file.path().to_owned() };
        run(&arguments).expect("a report");
        serde_json::from_str(&std::fs::read_to_string(file.path()).expect("a report")).expect("JSON")
    }

    #[test]
    fn what_answers_for_the_whole_time_is_open_and_what_never_does_is_closed() {
        let open = TcpListener::bind("127.0.0.1:0").expect("a port");
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let address = open.local_addr().expect("an address");
        let report = tried(vec![address, closed], address);
        assert_eq!(report.peer, [Outcome::Connected; 2]);
        let [first, second] = report.targets[..] else { panic!("{report:?}") };
        assert_eq!((first.outcome, second.outcome), (Outcome::Connected, Outcome::Refused));
        assert!(first.answered_until.is_some_and(|until| until > 500), "{first:?}");
        assert_eq!((second.tries, second.answered_until), (FAILURES, None));
    }

    #[test]
    fn a_report_that_nobody_could_read_is_a_failure() {
        let open = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let nowhere = tempfile::tempdir().expect("a folder").path().join("none");
        assert!(leave(&nowhere, "said").is_err());
        assert!(!nowhere.exists(), "{open}");
    }
}
