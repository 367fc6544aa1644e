//! Findings that the API server did not take at once: on disk, until they are delivered.

mod record;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use kube::ResourceExt as _;
use quell_crds::names;
use quell_crds::v1alpha1::{Counted, Finding};
use quell_spool::{Limit, OpenError, Sequence, Spool, SpoolError};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use self::record::{Record, Waiting};
use crate::caches::FindingKey;
use crate::identity::process_name;
use crate::intake::Report;
use crate::metrics::{FaultLabels, Metrics};
use crate::settings::Settings;

/// How many Findings may wait, whatever their size. Each takes some 50 bytes of memory.
const MOST_ENTRIES: u64 = 1_000_000;
/// How much is read from the disk at once, in bytes.
pub(super) const PAGE: usize = 1 << 20;
/// A directory that can't be used is tried again after this.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

/// Why a Finding was not kept on disk.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The spool refused it.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The spool could not be opened.
    #[error("{0}")]
    NotOpen(String),
    /// It can't be written as JSON.
    #[error("the Finding can't be written down: {0}")]
    Json(#[from] serde_json::Error),
}

impl KeepError {
    /// One word for a metric's label.
    fn fault(&self) -> &'static str {
        match self {
            Self::Spool(SpoolError::Full { .. }) => "limit",
            Self::Spool(SpoolError::Disk(error)) => error.fault.as_str(),
            Self::Spool(SpoolError::TooLarge { .. }) | Self::Json(_) => "too-large",
            Self::Spool(SpoolError::Closed) | Self::NotOpen(_) => "closed",
        }
    }
}

/// What is kept, and how it goes.
pub struct Backlog {
    directory: PathBuf,
    limit: Limit,
    spool: ArcSwapOption<Spool>,
    /// A name for this process: numbers of the spool begin anew when it was empty at a start.
    process: String,
    reports: AtomicU64,
    places: Mutex<Places>,
    /// The API server did not take what it was given last.
    away: AtomicBool,
    /// Something is there to be delivered.
    pub(super) news: Notify,
    /// What is wrong with the disk.
    trouble: watch::Sender<Option<Trouble>>,
    /// What became of a file that could not be read.
    set_aside: Mutex<Option<String>>,
    metrics: Metrics,
}

/// Why nothing can be kept.
#[derive(Clone, Debug)]
pub struct Trouble {
    fault: &'static str,
    /// For people.
    pub message: String,
}

#[derive(Default)]
struct Places {
    /// Reports whose first attempt to store them goes on: kept, and not to be delivered beside that.
    under_way: HashMap<String, FindingKey>,
    /// How many wait of each Source. What comes of the same Source goes behind them.
    behind: HashMap<String, usize>,
}

impl Backlog {
    /// Opens the spool that the settings name; `None` where they name none. A directory that can't be used is no reason not to begin: it is
    /// told of, and tried again.
    pub async fn open(settings: &Settings, metrics: &Metrics) -> Option<Arc<Self>> {
        let backlog = Arc::new(Self {
            directory: settings.spool.clone()?,
            limit: Limit { bytes: settings.spool_max_bytes, entries: MOST_ENTRIES },
            spool: ArcSwapOption::empty(),
            process: process_name(),
            reports: AtomicU64::new(0),
            places: Mutex::default(),
            away: AtomicBool::new(false),
            news: Notify::new(),
            trouble: watch::Sender::new(None),
            set_aside: Mutex::default(),
            metrics: metrics.clone(),
        });
        backlog.try_open().await;
        Some(backlog)
    }

    /// Whether the spool is open now.
    async fn try_open(&self) -> bool {
        let opened = self.open_once().await;
        // What could not be read is set aside under another name, and this begins an empty one.
        let opened = match opened {
            Err(error @ OpenError::Corrupt { .. }) => {
                *self.set_aside.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                self.open_once().await
            }
            other => other,
        };
        let Ok(spool) = opened else { return false };
        self.read_behind(&spool).await;
        self.spool.store(Some(Arc::new(spool)));
        self.mended();
        self.news.notify_one();
        true
    }

    async fn open_once(&self) -> Result<Spool, OpenError> {
        let (directory, limit) = (self.directory.clone(), self.limit);
        let opened = tokio::task::spawn_blocking(move || Spool::open(&directory, limit)).await;
        let opened = opened.unwrap_or_else(|_| Err(OpenError::NotADirectory { dir: self.directory.clone() }));
        if let Err(error) = &opened {
            let fault = match error {
                OpenError::Disk(error) => error.fault.as_str(),
                OpenError::Corrupt { .. } => "corrupt",
                OpenError::InUse { .. } | OpenError::NotADirectory { .. } => "closed",
            };
            tracing::error!(%error, "the spool");
            self.failed(fault, error.to_string());
        }
        opened
    }

    async fn read_behind(&self, spool: &Spool) {
        let mut after = None;
        while let Ok(page) = spool.page(after, PAGE).await
            && let Some(last) = page.last()
        {
            after = Some(last.sequence);
            for entry in &page {
                if let Ok(record) = serde_json::from_slice::<Record>(&entry.payload) {
                    *self.places().behind.entry(record.finding.spec.source).or_default() += 1;
                }
            }
        }
        let waiting = spool.pending();
        if waiting.entries > 0 {
            tracing::info!(findings = waiting.entries, bytes = waiting.bytes, "Findings wait in the spool from before");
        }
    }

    /// Opens a spool that could not be opened, as soon as that is possible.
    pub async fn keep_open(self: Arc<Self>, end: CancellationToken) {
        while self.spool.load().is_none() {
            tokio::select! {
                () = tokio::time::sleep(OPEN_AGAIN) => {}
                () = end.cancelled() => return,
            }
            self.try_open().await;
        }
    }

    /// Names the report that makes the Finding, so that it is known when it comes again.
    pub fn name_report(&self, finding: &mut Finding) {
        let number = self.reports.fetch_add(1, Ordering::Relaxed);
        finding.annotations_mut().insert(names::REPORT.to_owned(), format!("{}.{number}", self.process));
    }

    /// Whether a report of that Source must wait behind others.
    #[must_use]
    pub fn must_wait(&self, source: &str) -> bool {
        self.is_away() || self.places().behind.contains_key(source)
    }

    /// Whether the API server did not take what it was given last.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// What became of a request to the API server.
    pub fn answered(&self, taken: bool) {
        self.away.store(!taken, Ordering::Release);
    }

    /// Whether the first attempt to store a report of the Finding, which is kept beside that, still goes on.
    #[must_use]
    pub fn is_under_way(&self, finding: &FindingKey) -> bool {
        self.places().under_way.values().any(|one| one == finding)
    }

    /// Keeps a report. When this returns, it is on the disk, and is delivered in its turn.
    pub async fn keep(&self, report: &Report) -> Result<(), KeepError> {
        let source = report.finding.spec.source.clone();
        // Before it is on the disk: what comes meanwhile goes behind it.
        *self.places().behind.entry(source.clone()).or_default() += 1;
        let kept = self.append(self.record(&report.finding, report.is_over)).await;
        match kept {
            Ok(_) => self.news.notify_one(),
            Err(_) => self.gone(&source),
        }
        kept.map(drop)
    }

    /// Keeps a report whose storing goes on. It is delivered once [`Self::to_be_delivered`] says so.
    pub async fn keep_beside(&self, report: &Report) -> Result<Sequence, KeepError> {
        let id = id(&report.finding);
        self.places().under_way.insert(id.clone(), report.key());
        let kept = self.append(self.record(&report.finding, report.is_over)).await;
        if kept.is_err() {
            self.places().under_way.remove(&id);
        }
        kept
    }

    /// Keeps so many repeats that this process counts together with others of a batch, until [`Self::counted`] says that it has.
    pub async fn keep_repeats(&self, finding: &Finding, repeats: i64, batch: Counted) -> Result<Sequence, KeepError> {
        self.append(Record { batch: Some(batch), repeats, ..self.record(finding, false) }).await
    }

    /// Repeats are in the count of their Finding, or can't ever be.
    pub fn counted(&self, repeats: &[Sequence]) {
        for sequence in repeats {
            self.remove(*sequence);
        }
    }

    fn record(&self, finding: &Finding, is_over: bool) -> Record {
        Record { process: self.process.clone(), finding: finding.clone(), batch: None, repeats: 1, is_over }
    }

    async fn append(&self, record: Record) -> Result<Sequence, KeepError> {
        let appended = match (self.spool.load_full(), serde_json::to_vec(&record)) {
            (Some(spool), Ok(payload)) => spool.append(Bytes::from(payload)).await.map_err(KeepError::from),
            (None, _) => Err(KeepError::NotOpen(self.trouble().unwrap_or_default())),
            (_, Err(error)) => Err(error.into()),
        };
        match &appended {
            Ok(_) => self.mended(),
            Err(error) => self.failed(error.fault(), error.to_string()),
        }
        appended
    }

    fn failed(&self, fault: &'static str, message: String) {
        self.metrics.spool.failures.get_or_create(&FaultLabels { fault }).inc();
        self.trouble.send_if_modified(|trouble| {
            // The numbers in a message change all the time; what people are told changes with what is wrong.
            let news = trouble.as_ref().is_none_or(|trouble| trouble.fault != fault);
            *trouble = Some(Trouble { fault, message });
            news
        });
    }

    /// What was kept beside its storing is stored.
    pub fn stored(&self, report: &Report, sequence: Sequence) {
        self.remove(sequence);
        self.places().under_way.remove(&id(&report.finding));
        // Others of the same Finding may have waited for it.
        self.news.notify_one();
    }

    /// What was kept beside its storing was not stored, or is a repeat that isn't counted.
    pub fn to_be_delivered(&self, report: &Report) {
        let mut places = self.places();
        *places.behind.entry(report.finding.spec.source.clone()).or_default() += 1;
        places.under_way.remove(&id(&report.finding));
        drop(places);
        self.news.notify_one();
    }

    /// What waited is delivered, or can't ever be.
    pub fn delivered(&self, waiting: &Waiting) {
        self.remove(waiting.sequence);
        self.gone(waiting.source());
    }

    fn remove(&self, sequence: Sequence) {
        if let Some(spool) = self.spool.load_full() {
            spool.remove(sequence);
            if spool.last_error().is_none() {
                self.mended();
            }
        }
    }

    fn mended(&self) {
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
    }

    fn gone(&self, source: &str) {
        let mut places = self.places();
        if let Some(behind) = places.behind.get_mut(source) {
            *behind -= 1;
            if *behind == 0 {
                places.behind.remove(source);
            }
        }
    }

    /// What waits after an entry, oldest first, and the last entry that was looked at; `None` at the end. What is being stored or counted
    /// already isn't in it, nor what comes after that of the same Finding: up to where a process's reports are counted is one number. Those
    /// Findings are put among `held`.
    pub async fn page(
        &self,
        after: Option<Sequence>,
        held: &mut HashSet<(String, String)>,
    ) -> Result<Option<(Vec<Waiting>, Sequence)>, KeepError> {
        let Some(spool) = self.spool.load_full() else { return Ok(None) };
        let page = spool.page(after, PAGE).await?;
        let Some(last) = page.last().map(|entry| entry.sequence) else { return Ok(None) };
        let mut waiting = Vec::with_capacity(page.len());
        for entry in page {
            match serde_json::from_slice::<Record>(&entry.payload) {
                Ok(record) if record.batch.is_some() && record.process == self.process => {}
                Ok(record) if self.places().under_way.contains_key(&id(&record.finding)) => {
                    held.insert(key(&record.finding));
                }
                Ok(record) if held.contains(&key(&record.finding)) => {}
                Ok(record) => waiting.push(Waiting { sequence: entry.sequence, since: entry.since, record }),
                Err(error) => {
                    let payload = String::from_utf8_lossy(&entry.payload).into_owned();
                    tracing::error!(%error, payload, "what was kept is no Finding that this version of Quell reads; it is dropped");
                    self.failed("unreadable", format!("an entry of the spool is no Finding: {error}"));
                    spool.remove(entry.sequence);
                }
            }
        }
        Ok(Some((waiting, last)))
    }

    /// Waits until what was delivered has left the disk.
    pub async fn flush(&self) {
        if let Some(spool) = self.spool.load_full()
            && let Err(error) = spool.flush().await
        {
            tracing::warn!(%error, "what was delivered may be delivered again after a restart");
        }
    }

    /// Tells what is wrong as it changes; `None` once nothing is.
    #[must_use]
    pub fn troubles(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    /// What is wrong with the disk now, for people.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().as_ref().map(|trouble| trouble.message.clone())
    }

    /// What became of a file that could not be read at the start, told once.
    pub(super) fn take_set_aside(&self) -> Option<String> {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Brings the gauges up to date.
    pub fn observe(&self) {
        let Some(spool) = self.spool.load_full() else { return };
        let waiting = spool.pending();
        let age = spool.oldest_since().and_then(|since| since.elapsed().ok()).unwrap_or_default();
        let gauges = &self.metrics.spool;
        gauges.entries.set(i64::try_from(waiting.entries).unwrap_or(i64::MAX));
        gauges.bytes.set(i64::try_from(waiting.bytes).unwrap_or(i64::MAX));
        gauges.oldest.set(age.as_secs_f64());
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Namespace and name.
pub(super) fn key(finding: &Finding) -> (String, String) {
    (finding.namespace().unwrap_or_default(), finding.name_any())
}

/// Which report made the Finding.
fn id(finding: &Finding) -> String {
    finding.annotations().get(names::REPORT).cloned().unwrap_or_default()
}
