//! The file under the store: it counts, and remembers what failed first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// What has been asked of the disk since the spool was opened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) syncs: AtomicU64,
    pub(crate) written: AtomicU64,
}

/// What went wrong with one file. The store answers everything after a failure with the bare fact that there was one.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    first: Mutex<Option<io::Error>>,
    sync: AtomicBool,
}

impl Failure {
    pub(crate) fn take(&self) -> Option<io::Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether an fsync failed. The kernel then counts the pages as clean that it could not write (fsync(2), NOTES), so that what is read
    /// from the file may not be on the disk, and no later fsync will bring it there.
    pub(crate) fn of_sync(&self) -> bool {
        self.sync.load(Ordering::Acquire)
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let copy = error
                .raw_os_error()
                .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error);
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(copy);
        })
    }
}

/// A file for the store. It takes no lock: the directory's covers it.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    tally: Arc<Tally>,
    failure: Arc<Failure>,
}

impl Disk {
    pub(crate) fn new(file: File, tally: Arc<Tally>, failure: Arc<Failure>) -> Self {
        Self { file, tally, failure }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.failure.note(self.file.metadata().map(|metadata| metadata.len()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.failure.note(self.file.read_exact_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.failure.note(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tally.syncs.fetch_add(1, Ordering::Relaxed);
        let synced = self.file.sync_data();
        self.failure.sync.fetch_or(synced.is_err(), Ordering::AcqRel);
        self.failure.note(synced)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.tally.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.failure.note(self.file.write_all_at(data, offset))
    }
}
