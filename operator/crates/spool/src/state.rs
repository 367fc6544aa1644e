//! What waits, as the handle and the thread of a spool both know it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::{DiskError, SpoolError};

/// The largest payload, in bytes: 1 MiB, which is more than an API server takes in one request to etcd (1.5 MiB with its overhead).
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The place of an entry in the order. Grows with each; one spool, while it is open, gives none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub(crate) u64);

impl From<Sequence> for u64 {
    fn from(sequence: Sequence) -> Self {
        sequence.0
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What waits to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order.
    pub sequence: Sequence,
    /// When it was appended, to the millisecond.
    pub since: SystemTime,
    /// What was appended.
    pub payload: Bytes,
}

/// How much may wait. On disk it takes about twice the bytes, as redb rounds entries up to pages; after a failed fsync, for a while, twice
/// that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Of payloads.
    pub bytes: u64,
    /// How many entries. Each takes some 50 bytes of memory, its payload none.
    pub entries: u64,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many entries.
    pub entries: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// What is wrong with the spool now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The last failure.
    pub error: DiskError,
    /// Since when nothing has succeeded.
    pub since: SystemTime,
}

/// What the spool has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Entries that were appended and are, or were, on disk.
    pub appended: u64,
    /// Bytes of their payloads.
    pub appended_bytes: u64,
    /// Commits that succeeded.
    pub commits: u64,
    /// fdatasync calls.
    pub syncs: u64,
    /// Bytes that were written to the file.
    pub written_bytes: u64,
    /// Entries that were kept and are gone, as the store broke while it was open.
    pub lost: u64,
}

/// Of an entry that is on disk, what isn't its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) bytes: u64,
    pub(crate) since: SystemTime,
}

/// What waits, and how the spool does.
#[derive(Debug)]
pub(crate) struct State {
    limit: Limit,
    /// On disk and not removed. The store may hold others: what was removed a moment ago, and what a failed commit left behind.
    kept: BTreeMap<u64, Kept>,
    kept_bytes: u64,
    /// Taken in and not yet on disk.
    coming: Pending,
    trouble: Option<Trouble>,
    appended: Pending,
    commits: u64,
    lost: u64,
}

impl State {
    pub(crate) fn new(limit: Limit, kept: BTreeMap<u64, Kept>) -> Self {
        let kept_bytes = kept.values().map(|kept| kept.bytes).sum();
        let none = Pending::default();
        Self { limit, kept, kept_bytes, coming: none, trouble: None, appended: none, commits: 0, lost: 0 }
    }

    /// Books room for a payload, or says that there is none.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), SpoolError> {
        let waiting = self.waiting();
        if waiting.entries >= self.limit.entries || waiting.bytes.saturating_add(bytes) > self.limit.bytes {
            return Err(SpoolError::Full { entries: waiting.entries, bytes: waiting.bytes, limit: self.limit });
        }
        self.coming.entries += 1;
        self.coming.bytes += bytes;
        Ok(())
    }

    /// Gives room back that was booked.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.coming.entries -= 1;
        self.coming.bytes -= bytes;
    }

    /// What was booked is on disk.
    pub(crate) fn keep(&mut self, sequence: u64, kept: Kept) {
        self.release(kept.bytes);
        self.appended.entries += 1;
        self.appended.bytes += kept.bytes;
        self.kept_bytes += kept.bytes;
        self.kept.insert(sequence, kept);
    }

    /// Takes an entry out; whether it was there.
    pub(crate) fn remove(&mut self, sequence: u64) -> bool {
        let removed = self.kept.remove(&sequence);
        self.kept_bytes -= removed.map_or(0, |kept| kept.bytes);
        removed.is_some()
    }

    /// Forgets what is not in the store, which broke, and says how many entries that were.
    pub(crate) fn lose_all_but(&mut self, there: &BTreeMap<u64, Kept>) -> usize {
        let lost: Vec<u64> = self.kept.keys().copied().filter(|sequence| !there.contains_key(sequence)).collect();
        for sequence in &lost {
            self.remove(*sequence);
        }
        self.lost += lost.len() as u64;
        lost.len()
    }

    pub(crate) fn is_kept(&self, sequence: u64) -> bool {
        self.kept.contains_key(&sequence)
    }

    pub(crate) fn committed(&mut self) {
        self.commits += 1;
        self.trouble = None;
    }

    pub(crate) fn failed(&mut self, error: &DiskError) {
        let since = self.trouble.as_ref().map_or_else(SystemTime::now, |trouble| trouble.since);
        self.trouble = Some(Trouble { error: error.clone(), since });
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.clone()
    }

    pub(crate) fn kept(&self) -> Pending {
        Pending { entries: self.kept.len() as u64, bytes: self.kept_bytes }
    }

    pub(crate) fn oldest_since(&self) -> Option<SystemTime> {
        self.kept.first_key_value().map(|(_, kept)| kept.since)
    }

    /// What the disk has done is known by the disk.
    pub(crate) fn activity(&self) -> Activity {
        Activity {
            appended: self.appended.entries,
            appended_bytes: self.appended.bytes,
            commits: self.commits,
            lost: self.lost,
            ..Activity::default()
        }
    }

    fn waiting(&self) -> Pending {
        let kept = self.kept();
        Pending { entries: kept.entries + self.coming.entries, bytes: kept.bytes + self.coming.bytes }
    }
}
