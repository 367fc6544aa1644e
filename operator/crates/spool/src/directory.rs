//! The directory of a spool: who has it, and what its files are called.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{DiskError, OpenError};

/// A directory that is this spool's alone until it is dropped, or its process ends however it ends.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Creates the directory where it isn't there, for its owner alone.
    pub(crate) fn claim(path: &Path) -> Result<Self, OpenError> {
        let failed = |error: &io::Error| OpenError::from(DiskError::new(path, error));
        match fs::metadata(path) {
            Ok(there) if !there.is_dir() => return Err(OpenError::NotADirectory { dir: path.to_owned() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(OpenError::NotADirectory { dir: path.to_owned() });
            }
            Err(error) => return Err(failed(&error)),
        }
        let lock = private().create(true).truncate(false).open(path.join("lock")).map_err(|error| failed(&error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("spool.redb")
    }

    /// A store that is being made, and counts for nothing yet.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.path.join("spool.redb.new")
    }

    /// What was made takes the store's place, at once and for good.
    pub(crate) fn finish(&self) -> io::Result<()> {
        fs::rename(self.unfinished(), self.store())?;
        sync(&self.path)
    }

    /// Keeps the store under another name, and returns that.
    pub(crate) fn set_aside(&self) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let aside = self.path.join(format!("spool.redb.corrupt-{now}"));
        fs::rename(self.store(), &aside)?;
        sync(&self.path)?;
        Ok(aside)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing the file isn't enough where a child process of this one has it too, between its fork and its exec.
        let _ = self.lock.unlock();
    }
}

/// Reads and writes; nobody else does either.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // A name is on the disk once its directory is.
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
