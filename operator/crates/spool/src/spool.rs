use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::directory::Directory;
use crate::disk::Tally;
use crate::error::{DiskError, OpenError, SpoolError};
use crate::state::{Activity, Entry, Limit, MAX_PAYLOAD, Pending, Sequence, State, Trouble};
use crate::store::Store;
use crate::writer::{Request, Writer, lock};

/// Entries on disk, in the order in which they came, until they are removed.
///
/// Dropping it commits what is still to be, which takes a commit's time, and ends its thread.
#[derive(Debug)]
pub struct Spool {
    state: Arc<Mutex<State>>,
    tally: Arc<Tally>,
    /// None only while it is dropped.
    requests: Option<mpsc::UnboundedSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Spool {
    /// Opens the spool in a directory, which is created where it isn't there, for its owner alone. What waits in it from before is read
    /// by [`Spool::page`]; more than the limit may wait, which was another then.
    ///
    /// Blocks, and reads and verifies the whole file: some 4 ms for each MiB that waits.
    pub fn open(dir: &Path, limit: Limit) -> Result<Self, OpenError> {
        let directory = Directory::claim(dir)?;
        let tally = Arc::new(Tally::default());
        let (store, kept) = Store::open(&directory, &tally)?;
        let next = kept.last_key_value().map_or(0, |(last, _)| last + 1);
        let state = Arc::new(Mutex::new(State::new(limit, kept)));
        let (requests, asked) = mpsc::unbounded_channel();
        let writer = Writer::new(directory, store, next, Arc::clone(&state), Arc::clone(&tally));
        let thread = thread::Builder::new()
            .name("quell-spool".to_owned())
            .spawn(move || writer.run(asked))
            .map_err(|error| DiskError::new(dir, &error))?;
        Ok(Self { state, tally, requests: Some(requests), thread: Some(thread) })
    }

    /// Keeps a payload, of at most [`MAX_PAYLOAD`] bytes. When this returns, it is on the disk.
    ///
    /// A call that is given up may have its entry kept all the same.
    pub async fn append(&self, payload: Bytes) -> Result<Sequence, SpoolError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(SpoolError::TooLarge { bytes: payload.len() });
        }
        lock(&self.state).reserve(payload.len() as u64)?;
        self.ask(|answer| Request::Append { payload, answer }).await
    }

    /// What comes after an entry, or from the first: oldest first, as many as have `bytes` bytes together, and one where there is one.
    /// An empty page says that nothing more waits.
    pub async fn page(&self, after: Option<Sequence>, bytes: usize) -> Result<Vec<Entry>, SpoolError> {
        self.ask(|answer| Request::Page { after, bytes, answer }).await
    }

    /// Takes away what was delivered. It doesn't count any more from now on, and leaves the disk with the next commit: at once, where
    /// none runs. A crash before that brings it back.
    pub fn remove(&self, sequence: Sequence) {
        if lock(&self.state).remove(sequence.0) {
            self.send(Request::Remove(sequence));
        }
    }

    /// Waits until everything that was asked for before is on the disk. Where the disk has failed, this tries it again.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        self.ask(Request::Flush).await
    }

    /// What is on disk and waits.
    #[must_use]
    pub fn pending(&self) -> Pending {
        lock(&self.state).kept()
    }

    /// When the oldest entry that waits was appended.
    #[must_use]
    pub fn oldest_since(&self) -> Option<SystemTime> {
        lock(&self.state).oldest_since()
    }

    /// What the disk failed with, until a commit has succeeded again.
    #[must_use]
    pub fn last_error(&self) -> Option<Trouble> {
        lock(&self.state).trouble()
    }

    /// What was done so far.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity {
            syncs: self.tally.syncs.load(Ordering::Relaxed),
            written_bytes: self.tally.written.load(Ordering::Relaxed),
            ..lock(&self.state).activity()
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, SpoolError>>) -> Request,
    ) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        self.send(request(answer));
        answered.await.unwrap_or(Err(SpoolError::Closed))
    }

    /// Where the thread is gone, the answer goes with the request.
    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
