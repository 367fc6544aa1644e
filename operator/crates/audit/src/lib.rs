//! What Quell did, as lines of JSON that can't be changed, removed or reordered without a trace.
//!
//! Each line is sealed: its last field is the SHA-256 of everything before that field, which holds the hash of the line before it. So a
//! line can't be changed without changing all that follow. Lines form a chain with a name, one for each process that writes; a line's
//! number is its place in it.
//!
//! A chain proves nothing about its end: whoever holds the file can leave the last lines out, or make the whole chain anew. Against that
//! its head, the number and hash of the last line, has to be known elsewhere.
//!
//! No clock and no file is asked here: bytes in, bytes out.

mod chain;
mod entry;
mod verify;

pub use chain::{Chain, Head, HeadError};
pub use entry::{Change, Entry, Event, Playbook, about, changes};
pub use verify::{Break, Fault, Report, Verifier};
