//! The audit trail: each thing that a run did leaves the process as a sealed line, before it is recorded in the Remediation.
//!
//! In that order a crash may leave a thing told twice, and none untold. What takes the lines may be away: they wait in memory, and runs go
//! on; beyond [`MOST`] they are dropped, which the next line that can be written says.

mod file;
mod http;
mod stdout;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use quell_audit::{Chain, Entry, Event, Head};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::file::File;
use crate::audit::http::Http;
use crate::identity::process_name;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// How many lines may wait for what takes them.
pub const MOST: usize = 20_000;
/// How many lines are given away at once.
const BATCH: usize = 500;
/// How long a run waits for its lines to be safe. What takes them is no reason not to act.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end waits for what is under way to tell of itself.
const LAST: Duration = Duration::from_secs(5);
/// What was not taken is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// The head of the chain is in the log after so many lines, so that its end can be proven.
const TELL_HEAD: u64 = 1000;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output; Quell's log goes to standard error.
    Stdout,
    /// A file of this replica alone.
    File(PathBuf),
    /// POSTs of JSON lines.
    Http(reqwest::Url),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "stdout" {
            return Ok(Self::Stdout);
        }
        if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            return Ok(Self::File(PathBuf::from(path)));
        }
        let url: Option<reqwest::Url> = text.parse().ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        url.map(Self::Http)
            .ok_or_else(|| "say stdout, file:/a/path, or an address that begins with https://".to_owned())
    }
}

/// Why lines were not taken.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file.
    #[error("the audit trail {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Another process writes to it.
    #[error("the audit trail {} is written by another process: give each replica a file of its own", .0.display())]
    InUse(PathBuf),
    /// The last line of the file is none of ours.
    #[error("{} is no audit trail: its last line isn't one; name another file, or move it", .0.display())]
    NotOurs(PathBuf),
    /// Standard output.
    #[error("the audit trail, standard output: {0}")]
    Stdout(std::io::Error),
    /// The receiver.
    #[error("the audit trail: {0}")]
    Http(String),
    /// A task panicked.
    #[error("the audit trail: {0}")]
    BrokeOff(#[from] tokio::task::JoinError),
}

enum Sink {
    Stdout,
    File(Box<File>),
    Http(Http),
}

impl Sink {
    async fn put(&mut self, lines: &str) -> Result<(), AuditError> {
        match self {
            Self::Stdout => stdout::put(lines).await,
            Self::File(file) => file.put(lines).await,
            Self::Http(http) => http.put(lines).await,
        }
    }
}

/// Gives the lines away.
pub struct Audit {
    sender: Option<mpsc::Sender<Batch>>,
    /// Entries that found no room.
    lost: std::sync::Arc<AtomicU64>,
}

struct Batch {
    entries: Vec<Entry>,
    written: oneshot::Sender<()>,
}

impl Audit {
    /// Begins the trail that the settings name; without one, entries go nowhere. The last lines are given away after `end`.
    pub async fn begin(
        settings: &Settings,
        metrics: &Metrics,
        http: &reqwest::Client,
        tasks: &TaskTracker,
        end: CancellationToken,
    ) -> Result<Self, AuditError> {
        let lost = std::sync::Arc::new(AtomicU64::new(0));
        let Some(destination) = settings.audit_sink.clone() else { return Ok(Self { sender: None, lost }) };
        let replica = settings.identity.clone().unwrap_or_else(|| "quell".to_owned());
        // What remembers nothing of the process before is given a chain of this process's own.
        let own = Chain::new(&format!("{replica}/{}", process_name()));
        let (sink, chain) = match destination {
            Destination::Stdout => (Sink::Stdout, own),
            Destination::Http(url) => {
                (Sink::Http(Http::new(http.clone(), url, settings.audit_token_file.clone())), own)
            }
            Destination::File(path) => {
                let (file, head) = File::open(path, settings.audit_file_bytes).await?;
                (Sink::File(Box::new(file)), head.map_or_else(|| Chain::new(&replica), Chain::after))
            }
        };
        let (sender, receiver) = mpsc::channel(MOST);
        let writer = Writer {
            sink,
            chain,
            pending: Vec::new(),
            waiting: Vec::new(),
            lost: lost.clone(),
            metrics: metrics.clone(),
            told: 0,
        };
        tasks.spawn(writer.run(receiver, replica, end));
        Ok(Self { sender: Some(sender), lost })
    }

    /// Whether there is a trail.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Tells of what happened. Returns when that is safe, or after a moment in any case.
    pub async fn write(&self, entries: Vec<Entry>) {
        let Some(sender) = self.sender.as_ref().filter(|_| !entries.is_empty()) else { return };
        let (written, safe) = oneshot::channel();
        let number = entries.len() as u64;
        if sender.try_send(Batch { entries, written }).is_err() {
            self.lost.fetch_add(number, Ordering::AcqRel);
            return;
        }
        let _ = tokio::time::timeout(PATIENCE, safe).await;
    }
}

struct Writer {
    sink: Sink,
    chain: Chain,
    /// Lines that are sealed and not yet taken.
    pending: Vec<String>,
    /// Who waits for them.
    waiting: Vec<oneshot::Sender<()>>,
    lost: std::sync::Arc<AtomicU64>,
    metrics: Metrics,
    told: u64,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Batch>, replica: String, end: CancellationToken) {
        let message = format!("replica {replica}, quell {}", env!("CARGO_PKG_VERSION"));
        self.seal(&Entry { time: Utc::now(), event: Event::Begin, message, ..Entry::default() });
        loop {
            let taken = self.give().await;
            if !taken && end.is_cancelled() {
                tracing::error!(lines = self.pending.len(), "the end of the audit trail was not taken, and is lost");
                break;
            }
            tokio::select! {
                biased;
                batch = receiver.recv() => match batch {
                    Some(batch) => self.take(batch),
                    None => break,
                },
                () = tokio::time::sleep(AGAIN), if !taken => {}
                () = end.cancelled() => {
                    // What is under way comes to its end in this time, and tells of it.
                    let last = tokio::time::timeout(LAST, receiver.recv()).await;
                    match last {
                        Ok(Some(batch)) => self.take(batch),
                        _ => break,
                    }
                }
            }
            while self.pending.len() < MOST
                && let Ok(batch) = receiver.try_recv()
            {
                self.take(batch);
            }
        }
        self.give().await;
        self.tell_head();
    }

    fn take(&mut self, batch: Batch) {
        let lost = self.lost.swap(0, Ordering::AcqRel);
        if lost > 0 {
            let message = format!("{lost} entries were lost: the trail was not taken for too long");
            self.seal(&Entry { time: Utc::now(), event: Event::Lost, lost, message, ..Entry::default() });
        }
        for entry in &batch.entries {
            self.seal(entry);
        }
        self.waiting.push(batch.written);
    }

    fn seal(&mut self, entry: &Entry) {
        if self.pending.len() >= MOST {
            self.lost.fetch_add(1, Ordering::AcqRel);
            self.metrics.audit_lost.inc();
            return;
        }
        match self.chain.seal(entry) {
            Ok(line) => self.pending.push(line),
            Err(error) => tracing::error!(%error, ?entry, "an entry of the audit trail can't be written as JSON"),
        }
    }

    /// Whether everything that is pending was taken.
    async fn give(&mut self) -> bool {
        while !self.pending.is_empty() {
            let number = self.pending.len().min(BATCH);
            let lines: String = self.pending[..number].iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            if let Err(error) = self.sink.put(&lines).await {
                self.metrics.audit_failures.inc();
                tracing::error!(%error, lines = self.pending.len(), "the audit trail waits; it is tried again");
                return false;
            }
            self.pending.drain(..number);
            self.metrics.audit_lines.inc_by(number as u64);
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
        if self.chain.head().is_some_and(|head| head.number >= self.told + TELL_HEAD) {
            self.tell_head();
        }
        true
    }

    /// The log is kept elsewhere than the trail: with this the trail's end can be proven.
    fn tell_head(&mut self) {
        if let Some(head) = self.chain.head() {
            self.told = head.number;
            tracing::info!(head = %head, "the head of the audit trail");
        }
    }
}

/// The last line of a file; none where it has none.
type FileHead = Option<Head>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_standard_output_a_file_or_an_address() {
        assert_eq!("stdout".parse(), Ok(Destination::Stdout));
        assert_eq!("file:/var/log/quell.jsonl".parse(), Ok(Destination::File("/var/log/quell.jsonl".into())));
        assert!(matches!("https://audit.example/lines".parse(), Ok(Destination::Http(_))));
        for wrong in ["", "file:", "ftp://x", "/var/log/x", "stderr"] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
