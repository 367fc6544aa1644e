//! The thread that owns the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::directory::Directory;
use crate::disk::Tally;
use crate::error::{DiskError, DiskFault, OpenError, SpoolError};
use crate::state::{Entry, Kept, Sequence, State};
use crate::store::{Addition, Fault, Store};

/// How much of a store is in memory at once while it is written anew.
const REWRITE_BYTES: usize = 4 << 20;

/// A file beyond this is given back when it is empty.
const LARGE_BYTES: u64 = 16 << 20;

type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

/// What the handle asks of the thread.
pub(crate) enum Request {
    Append { payload: Bytes, answer: Answer<Sequence> },
    Remove(Sequence),
    Page { after: Option<Sequence>, bytes: usize, answer: Answer<Vec<Entry>> },
    Flush(Answer<()>),
}

/// What gathered while the last commit ran.
#[derive(Default)]
struct Batch {
    appends: Vec<(Bytes, Answer<Sequence>)>,
    removals: Vec<u64>,
    pages: Vec<(Option<Sequence>, usize, Answer<Vec<Entry>>)>,
    flushes: Vec<Answer<()>>,
}

impl Batch {
    fn take(&mut self, request: Request) {
        match request {
            Request::Append { payload, answer } => self.appends.push((payload, answer)),
            Request::Remove(sequence) => self.removals.push(sequence.0),
            Request::Page { after, bytes, answer } => self.pages.push((after, bytes, answer)),
            Request::Flush(answer) => self.flushes.push(answer),
        }
    }
}

pub(crate) struct Writer {
    directory: Directory,
    /// None after a failure, until it is opened again.
    store: Option<Store>,
    /// Whether the store that failed did so in an fsync.
    in_doubt: bool,
    /// In the store, and not among what is kept: to be taken out with the next commit.
    strays: Vec<u64>,
    next: u64,
    state: Arc<Mutex<State>>,
    tally: Arc<Tally>,
}

impl Writer {
    pub(crate) fn new(
        directory: Directory,
        store: Store,
        next: u64,
        state: Arc<Mutex<State>>,
        tally: Arc<Tally>,
    ) -> Self {
        Self { directory, store: Some(store), in_doubt: false, strays: Vec::new(), next, state, tally }
    }

    /// Serves until the handle is gone and all that it asked for is done.
    pub(crate) fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = Batch::default();
            batch.take(first);
            while let Ok(next) = requests.try_recv() {
                batch.take(next);
            }
            self.serve(batch);
        }
    }

    fn serve(&mut self, batch: Batch) {
        let Batch { appends, removals, pages, flushes } = batch;
        let (payloads, answers): (Vec<_>, Vec<_>) = appends.into_iter().unzip();
        let additions = self.number(payloads);
        let result = self.commit(&additions, removals);
        self.record(&additions, result.as_ref().err());
        for (answer, addition) in answers.into_iter().zip(&additions) {
            // Who asked may have gone; the entry stays all the same.
            let _ = answer.send(result.clone().map(|()| Sequence(addition.sequence)).map_err(SpoolError::from));
        }
        for answer in flushes {
            let _ = answer.send(result.clone().map_err(SpoolError::from));
        }
        // Last, so that a page shows what was appended before it was asked for.
        for (after, bytes, answer) in pages {
            let _ = answer.send(self.page(after, bytes).map_err(SpoolError::from));
        }
    }

    /// A number is never given twice: what a failed commit left behind may turn up in the store yet.
    fn number(&mut self, payloads: Vec<Bytes>) -> Vec<Addition> {
        let since = SystemTime::now();
        let numbers = self.next..;
        self.next += payloads.len() as u64;
        numbers.zip(payloads).map(|(sequence, payload)| Addition { sequence, since, payload }).collect()
    }

    fn commit(&mut self, additions: &[Addition], removals: Vec<u64>) -> Result<(), DiskError> {
        self.strays.extend(removals);
        if self.store.is_some() && additions.is_empty() && self.strays.is_empty() {
            return Ok(());
        }
        self.mend()?;
        let strays = std::mem::take(&mut self.strays);
        self.with_store(|store| store.commit(additions, &strays))?;
        self.state().committed();
        if additions.is_empty() {
            self.give_back();
        }
        Ok(())
    }

    /// redb keeps a file about as large as it ever was. Where nothing waits in a large one, an empty one takes its place.
    fn give_back(&mut self) {
        let empty = self.state().kept().entries == 0;
        let Some(store) = self.store.as_ref().filter(|store| empty && store.length() > LARGE_BYTES) else { return };
        match Store::begin(&self.directory, &self.tally).and_then(|fresh| fresh.finish(&self.directory)) {
            Ok(fresh) => self.store = Some(fresh),
            Err(error) => tracing::debug!(path = %store.path().display(), %error, "the spool's file stays large"),
        }
    }

    fn page(&mut self, after: Option<Sequence>, bytes: usize) -> Result<Vec<Entry>, DiskError> {
        self.mend()?;
        let state = Arc::clone(&self.state);
        let read = self.with_store(|store| store.page(after, bytes, |sequence| lock(&state).is_kept(sequence)));
        read.inspect_err(|error| self.state().failed(error))
    }

    fn record(&self, additions: &[Addition], failure: Option<&DiskError>) {
        let mut state = self.state();
        if let Some(error) = failure {
            tracing::warn!(%error, entries = additions.len(), "the spool keeps nothing");
            state.failed(error);
        }
        for Addition { sequence, since, payload } in additions {
            let bytes = payload.len() as u64;
            match failure {
                None => state.keep(*sequence, Kept { bytes, since: *since }),
                Some(_) => state.release(bytes),
            }
        }
    }

    /// A store that failed is closed. What it was doing may be in it or not.
    fn with_store<T>(&mut self, act: impl FnOnce(&mut Store) -> Result<T, Fault>) -> Result<T, DiskError> {
        let Some(store) = &mut self.store else { return Err(self.closed()) };
        let fault = match act(store) {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        let error = fault.at(store.path());
        self.in_doubt |= store.is_in_doubt();
        self.store = None;
        Err(error)
    }

    /// Opens the store again where it failed before. It may hold what was never promised, and lack what was removed a moment ago; after
    /// this it is as the state says.
    fn mend(&mut self) -> Result<(), DiskError> {
        if self.store.is_some() {
            return Ok(());
        }
        let (store, there) = Store::open(&self.directory, &self.tally).map_err(|error| self.as_disk_error(error))?;
        self.strays = self.reconcile(&there);
        self.store = Some(store);
        if self.in_doubt {
            // Until it is rewritten nothing may build on it.
            self.rewrite().inspect_err(|_| self.store = None)?;
        }
        Ok(())
    }

    fn reconcile(&self, there: &BTreeMap<u64, Kept>) -> Vec<u64> {
        let mut state = self.state();
        let lost = state.lose_all_but(there);
        if lost > 0 {
            tracing::error!(directory = %self.directory.path().display(), entries = lost, "the spool broke and lost what it kept");
        }
        there.keys().copied().filter(|sequence| !state.is_kept(*sequence)).collect()
    }

    /// Brings everything that is kept to the disk again, in a new file. On failure the old one, and the doubt about it, stay.
    fn rewrite(&mut self) -> Result<(), DiskError> {
        let state = Arc::clone(&self.state);
        let mut fresh = Store::begin(&self.directory, &self.tally)?;
        let mut after = None;
        loop {
            let page =
                self.with_store(|store| store.page(after, REWRITE_BYTES, |sequence| lock(&state).is_kept(sequence)))?;
            let Some(last) = page.last() else { break };
            after = Some(last.sequence);
            let additions: Vec<_> = page.into_iter().map(Addition::from).collect();
            fresh.commit(&additions, &[]).map_err(|fault| fault.at(fresh.path()))?;
        }
        self.store = Some(fresh.finish(&self.directory)?);
        self.strays.clear();
        self.in_doubt = false;
        Ok(())
    }

    fn as_disk_error(&self, error: OpenError) -> DiskError {
        match error {
            OpenError::Disk(error) => error,
            OpenError::Corrupt { path, aside, cause } => {
                let cause = format!("{cause}; set aside as {}", aside.display());
                DiskError { path, fault: DiskFault::Corrupt, cause }
            }
            OpenError::InUse { .. } | OpenError::NotADirectory { .. } => self.closed(),
        }
    }

    fn closed(&self) -> DiskError {
        DiskError { path: self.directory.store(), fault: DiskFault::Other, cause: "it is closed".to_owned() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Nothing that holds the lock leaves the state half changed.
pub(crate) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
