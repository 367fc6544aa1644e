use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::state::{Limit, MAX_PAYLOAD};

/// Why a spool can't be opened. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error(
        "the spool in {} is open already: end the process that has it, or give this one a directory of its own", dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The path is taken by something else.
    #[error("the spool can't be kept in {}: it is no directory; name another path, or move what is there", dir.display())]
    NotADirectory {
        /// The path that was given.
        dir: PathBuf,
    },
    /// The disk doesn't do what was asked of it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is in the file is no spool any more. The file is kept under another name; opening again begins an empty spool.
    #[error(
        "the spool {} can't be read ({cause}); it was set aside as {}: keep that file to see what was lost, and open again for an empty spool",
        path.display(),
        aside.display()
    )]
    Corrupt {
        /// The file as it was named.
        path: PathBuf,
        /// The name it has now.
        aside: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// Why the spool did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// As much waits as may; nothing was written.
    #[error(
        "the spool is full: {entries} of at most {} entries and {bytes} of at most {} bytes wait to be delivered", limit.entries, limit.bytes
    )]
    Full {
        /// How many entries wait.
        entries: u64,
        /// Bytes of their payloads.
        bytes: u64,
        /// What may wait.
        limit: Limit,
    },
    /// The payload is larger than an entry may be; nothing was written.
    #[error("{bytes} bytes are more than an entry of the spool may have ({MAX_PAYLOAD})")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
    },
    /// The disk failed. What was to be appended does not count as kept, whatever of it may have reached the disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The spool's thread has ended.
    #[error("the spool is closed")]
    Closed,
}

/// What the disk did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// The file or directory that it is about.
    pub path: PathBuf,
    /// What is wrong, as far as it can be told.
    pub fault: DiskFault,
    /// What the system said.
    pub cause: String,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the spool {} can't be used ({}): {}", self.path.display(), self.cause, self.fault.advice())
    }
}

impl std::error::Error for DiskError {}

impl DiskError {
    pub(crate) fn new(path: &Path, error: &io::Error) -> Self {
        Self { path: path.to_owned(), fault: DiskFault::of(error.kind()), cause: error.to_string() }
    }
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskFault {
    /// No space, no quota, or a limit on the size of files.
    Full,
    /// Mounted read-only, or remounted so after an error.
    ReadOnly,
    /// No right to it.
    Forbidden,
    /// The file was found to be broken and is set aside.
    Corrupt,
    /// Anything else.
    Other,
}

impl DiskFault {
    fn of(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Other,
        }
    }

    /// One word for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::Forbidden => "forbidden",
            Self::Corrupt => "corrupt",
            Self::Other => "other",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Full => "the disk is full; make room, or raise the quota or the limit on the size of files",
            Self::ReadOnly => {
                "the file system is read-only; mount it writable, after a check of the disk if it turned so by itself"
            }
            Self::Forbidden => {
                "the directory must belong to, or be writable for, the user that Quell runs as (fsGroup)"
            }
            Self::Corrupt => "what was in it is set aside, and an empty spool takes its place",
            Self::Other => "look at the disk and at the kernel's log",
        }
    }
}
