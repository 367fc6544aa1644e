//! The entries in their file, by redb.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::directory::{Directory, private};
use crate::disk::{Disk, Failure, Tally};
use crate::error::{DiskError, DiskFault, OpenError};
use crate::state::{Entry, Kept, Sequence};

/// Sequence to: milliseconds since 1970 (8 bytes, little-endian), payload.
const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries");
const HEAD: usize = size_of::<u64>();
/// redb would take 1 GiB. What is written is read once, soon, and most often from the page cache.
const CACHE_BYTES: usize = 8 << 20;

/// What is to be written.
pub(crate) struct Addition {
    pub(crate) sequence: u64,
    pub(crate) since: SystemTime,
    pub(crate) payload: Bytes,
}

impl From<Entry> for Addition {
    fn from(Entry { sequence, since, payload }: Entry) -> Self {
        Self { sequence: sequence.0, since, payload }
    }
}

/// An open store. After its first failure it is of no more use and must be opened again.
pub(crate) struct Store {
    database: Option<Database>,
    path: PathBuf,
    failure: Arc<Failure>,
}

impl Store {
    /// Opens the store of a directory, or begins one. What can't be read is set aside.
    pub(crate) fn open(directory: &Directory, tally: &Arc<Tally>) -> Result<(Self, BTreeMap<u64, Kept>), OpenError> {
        let path = directory.store();
        let length = match fs::metadata(&path) {
            Ok(there) => there.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::begin(directory, tally)?.finish(directory)?, BTreeMap::new()));
            }
            Err(error) => return Err(DiskError::new(&path, &error).into()),
        };
        let opened = if length == 0 {
            // redb would begin a store in it; a spool's file has its name only once there is one.
            Err(Fault::Corrupt("it is empty".to_owned()))
        } else {
            Self::at(path.clone(), tally).and_then(|store| store.list().map(|listed| (store, listed)))
        };
        opened.or_else(|fault| match fault {
            Fault::Disk(error) => Err(DiskError::new(&path, &error).into()),
            Fault::Corrupt(cause) => {
                let aside = directory.set_aside().map_err(|error| DiskError::new(&path, &error))?;
                Err(OpenError::Corrupt { path, aside, cause })
            }
        })
    }

    /// A new and empty store under another name, so that a crash leaves either none of it or all.
    pub(crate) fn begin(directory: &Directory, tally: &Arc<Tally>) -> Result<Self, DiskError> {
        let path = directory.unfinished();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(DiskError::new(&path, &error)),
            _ => {}
        }
        let mut store = Self::at(path.clone(), tally).map_err(|fault| fault.at(&path))?;
        // Makes the table.
        store.commit(&[], &[]).map_err(|fault| fault.at(&path))?;
        Ok(store)
    }

    /// Takes the place of the directory's store, at once and for good.
    pub(crate) fn finish(mut self, directory: &Directory) -> Result<Self, DiskError> {
        directory.finish().map_err(|error| DiskError::new(&self.path, &error))?;
        self.path = directory.store();
        Ok(self)
    }

    fn at(path: PathBuf, tally: &Arc<Tally>) -> Result<Self, Fault> {
        let file = private().create(true).truncate(false).open(&path).map_err(Fault::Disk)?;
        let failure = Arc::new(Failure::default());
        let disk = Disk::new(file, Arc::clone(tally), Arc::clone(&failure));
        let database = guarded(&failure, || {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(disk)
                .map_err(redb::Error::from)?;
            Ok(database)
        })?;
        Ok(Self { database: Some(database), path, failure })
    }

    /// Adds and takes away in one commit. When this returns, it is on the disk.
    pub(crate) fn commit(&mut self, additions: &[Addition], removals: &[u64]) -> Result<(), Fault> {
        let database = self.database()?;
        guarded(&self.failure, || {
            let transaction = database.begin_write().map_err(redb::Error::from)?;
            let mut table = transaction.open_table(ENTRIES)?;
            for sequence in removals {
                table.remove(sequence)?;
            }
            for addition in additions {
                let mut room = table.insert_reserve(addition.sequence, HEAD + addition.payload.len())?;
                let (head, payload) = room.as_mut().split_at_mut(HEAD);
                head.copy_from_slice(&millis(addition.since).to_le_bytes());
                payload.copy_from_slice(&addition.payload);
            }
            drop(table);
            transaction.commit()?;
            Ok(())
        })
    }

    /// Entries after `after`, oldest first, of those that are `wanted`: as many as have `bytes` bytes, and one where there is one.
    pub(crate) fn page(
        &self,
        after: Option<Sequence>,
        bytes: usize,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Vec<Entry>, Fault> {
        let database = self.database()?;
        let from = after.map_or(0, |after| after.0.saturating_add(1));
        guarded(&self.failure, || {
            let table = database.begin_read().map_err(redb::Error::from)?.open_table(ENTRIES)?;
            let mut page = Vec::new();
            let mut room = bytes;
            for entry in table.range(from..)? {
                let (sequence, value) = entry?;
                let Some((since, payload)) = split(value.value()) else { return Err(malformed(sequence.value())) };
                if !wanted(sequence.value()) {
                    continue;
                }
                if payload.len() > room && !page.is_empty() {
                    break;
                }
                room = room.saturating_sub(payload.len());
                let sequence = Sequence(sequence.value());
                page.push(Entry { sequence, since, payload: Bytes::copy_from_slice(payload) });
            }
            Ok(page)
        })
    }

    /// Whether what is read from the file may not be on the disk.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.failure.of_sync()
    }

    /// Of the file, in bytes.
    pub(crate) fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    fn list(&self) -> Result<BTreeMap<u64, Kept>, Fault> {
        let database = self.database()?;
        guarded(&self.failure, || {
            let table = database.begin_read().map_err(redb::Error::from)?.open_table(ENTRIES)?;
            table
                .iter()?
                .map(|entry| {
                    let (sequence, value) = entry?;
                    let (since, payload) = split(value.value()).ok_or_else(|| malformed(sequence.value()))?;
                    Ok((sequence.value(), Kept { bytes: payload.len() as u64, since }))
                })
                .collect()
        })
    }

    fn database(&self) -> Result<&Database, Fault> {
        self.database.as_ref().ok_or_else(|| Fault::Corrupt("it is closed".to_owned()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let database = self.database.take();
        let closed = guarded(&self.failure, || database.map_or(Ok(()), |database| Ok(database.close()?)));
        // All that was promised was on the disk before; closing saves the next start some work.
        if let Err(fault) = closed {
            tracing::debug!(path = %self.path.display(), error = %fault.at(&self.path), "the spool was not closed cleanly");
        }
    }
}

/// What came between.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The disk.
    Disk(io::Error),
    /// The content of the file.
    Corrupt(String),
}

impl Fault {
    pub(crate) fn at(&self, path: &std::path::Path) -> DiskError {
        match self {
            Self::Disk(error) => DiskError::new(path, error),
            Self::Corrupt(cause) => {
                DiskError { path: path.to_owned(), fault: DiskFault::Corrupt, cause: cause.clone() }
            }
        }
    }
}

/// Does something with the store. Where it fails, the disk's own first error is the cause, else the content is. redb reports a broken file
/// as an error, but that it always does so is not a promise to end the process by.
fn guarded<T>(failure: &Failure, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
    let error = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(panic.as_ref()).to_owned(),
    };
    match failure.take() {
        // The file is shorter than what is in it says.
        Some(short) if short.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Corrupt(error)),
        Some(cause) => Err(Fault::Disk(cause)),
        None => Err(Fault::Corrupt(error)),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("the store panicked")
}

fn split(value: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (head, payload) = value.split_first_chunk::<HEAD>()?;
    Some((UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(*head)))?, payload))
}

fn malformed(sequence: u64) -> redb::Error {
    redb::Error::Corrupted(format!("entry {sequence} is not one of a spool"))
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}
