//! What Quell has taken in and not yet delivered, on disk.
//!
//! A signal may be answered with success once it is safe. While the API server is slow, away or busy with containment, safe means here:
//! written and fsynced, to be delivered in order later. The spool knows neither Kubernetes nor signals: it keeps bytes.
//!
//! - [`Spool::append`] returns when the entry is on the disk. One thread owns the file and commits whatever has gathered while its last
//!   commit ran, so that a thousand signals at once cost few fsyncs and one alone waits for nothing but its own.
//! - [`Spool::page`] reads what waits, oldest first; [`Spool::remove`] takes away what was delivered. A crash may forget a removal, and
//!   with it have an entry delivered twice; Findings have fixed names, so that this is a repeat and not a second Finding.
//! - A disk that fails fails the appends of that moment, by name. The file is opened anew for the next ones, so that a disk that is
//!   mended needs no restart.
//!
//! # The store
//! One file of redb 4, rather than fjall 3, the other well-kept store in pure Rust (both MIT or Apache-2.0). fjall's commit costs half:
//! it appends to a journal, where redb writes some seven pages (280 µs against 150 µs for one entry of 2 KiB with its fdatasync, 680 µs
//! against 300 µs for 32). Still redb, because a spool is for the bad day:
//! - After a crash redb goes on from the last commit whose checksums are right. It verifies every page on opening when asked to, and names
//!   a broken one as an error. fjall has open issues about starting after a kill: writes that stall until it is killed again (#257),
//!   journals that are never given back and grow until no start succeeds (#288).
//! - A spool is written, read once and emptied. redb uses its pages again. fjall keeps a tombstone of what is removed until it compacts,
//!   and lays out 64 MiB of journal for the first entry.
//! - redb starts no thread, lets all reads and writes go by [`StorageBackend`](redb::StorageBackend), so that a failed fsync is known as
//!   one, and brings no crate but libc. fjall brings threads and some forty crates.
//!
//! redb's checksum (XXH3) is no defence against somebody who both writes signals and picks the instant of a power cut; they could break
//! what waits.

mod directory;
mod disk;
mod error;
mod spool;
mod state;
mod store;
mod writer;

pub use error::{DiskError, DiskFault, OpenError, SpoolError};
pub use spool::Spool;
pub use state::{Activity, Entry, Limit, MAX_PAYLOAD, Pending, Sequence, Trouble};
