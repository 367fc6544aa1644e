use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::chain::{HASH, Head, NOTHING, hash};

/// What is wrong at a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It isn't a line of an audit trail.
    Unreadable,
    /// It is cut off: the last line of a file, without its end.
    CutOff,
    /// It isn't what was sealed.
    Changed,
    /// Lines before it are missing.
    Removed {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// It comes after lines that were written after it, or a second time.
    Reordered {
        /// The number that was to come.
        expected: u64,
    },
    /// It is sealed, but does not follow the line before it: that one, or all up to it, was made anew.
    Replaced,
    /// The chain ends before the head that is known.
    Truncated {
        /// What is known.
        head: Head,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("unreadable: this is no line of an audit trail"),
            Self::CutOff => f.write_str("truncated: the line is cut off"),
            Self::Changed => f.write_str("changed: the line isn't what was sealed"),
            Self::Removed { from, to } if from == to => {
                write!(f, "removed: line {from} of the chain is missing before this one")
            }
            Self::Removed { from, to } => {
                write!(f, "removed: lines {from} to {to} of the chain are missing before this one")
            }
            Self::Reordered { expected } => write!(f, "reordered: line {expected} of the chain was to come here"),
            Self::Replaced => f.write_str("replaced: the line doesn't follow the one before it, which was made anew"),
            Self::Truncated { head } => {
                write!(f, "truncated: the chain had line {} with the hash {}", head.number, head.hash)
            }
        }
    }
}

/// A place where a chain breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The file.
    pub file: String,
    /// Line of the file, from 1; 0 for what is missing at the end.
    pub line: usize,
    /// Name of the chain, where it could be read.
    pub chain: String,
    /// Number in the chain, where it could be read.
    pub number: Option<u64>,
    /// What is wrong.
    pub fault: Fault,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Where chains break, in the order of the files.
    pub breaks: Vec<Break>,
    /// Each chain: the number of the first line that is there, and its head.
    pub chains: Vec<(u64, Head)>,
    /// How many lines were read.
    pub lines: usize,
}

#[derive(Deserialize)]
struct Line {
    chain: String,
    number: u64,
    prev: String,
}

struct Seen {
    first: u64,
    last: u64,
    hash: String,
}

/// Reads the files of one or several chains, oldest first.
#[derive(Default)]
pub struct Verifier {
    chains: BTreeMap<String, Seen>,
    report: Report,
    file: String,
}

impl Verifier {
    /// Reads one file.
    pub fn read(&mut self, file: &str, bytes: &[u8]) {
        file.clone_into(&mut self.file);
        let whole = bytes.ends_with(b"\n");
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        let last = lines.len();
        for (at, line) in lines.into_iter().enumerate() {
            self.report.lines += 1;
            self.line(at + 1, line, at + 1 == last && !whole);
        }
    }

    fn line(&mut self, at: usize, bytes: &[u8], cut: bool) {
        let Some((sealed, claimed)) = parts(bytes) else {
            return self.fault(at, None, if cut { Fault::CutOff } else { Fault::Unreadable });
        };
        let Ok(line) = serde_json::from_slice::<Line>(bytes) else {
            return self.fault(at, None, Fault::Unreadable);
        };
        let fault = if hash(sealed) == claimed { self.follow(&line) } else { Some(Fault::Changed) };
        let seen = Seen {
            first: self.chains.get(&line.chain).map_or(line.number, |seen| seen.first.min(line.number)),
            last: line.number,
            hash: claimed.to_owned(),
        };
        if let Some(fault) = fault {
            // The next line is judged by this one, so that one fault is told once. What is out of order takes no part in it.
            let takes_part = !matches!(fault, Fault::Reordered { .. });
            self.fault(at, Some(&line), fault);
            if !takes_part {
                return;
            }
        }
        self.chains.insert(line.chain, seen);
    }

    fn follow(&self, line: &Line) -> Option<Fault> {
        let Some(seen) = self.chains.get(&line.chain) else {
            let begins_wrong = line.number == 0 && line.prev != NOTHING;
            return begins_wrong.then_some(Fault::Replaced);
        };
        let expected = seen.last + 1;
        if line.number < expected {
            Some(Fault::Reordered { expected })
        } else if line.number > expected {
            Some(Fault::Removed { from: expected, to: line.number - 1 })
        } else if line.prev != seen.hash {
            Some(Fault::Replaced)
        } else {
            None
        }
    }

    fn fault(&mut self, line: usize, of: Option<&Line>, fault: Fault) {
        self.report.breaks.push(Break {
            file: self.file.clone(),
            line,
            chain: of.map(|of| of.chain.clone()).unwrap_or_default(),
            number: of.map(|of| of.number),
            fault,
        });
    }

    /// What was found, with the heads that are known from elsewhere.
    #[must_use]
    pub fn finish(mut self, known: &[Head]) -> Report {
        for head in known {
            let seen = self.chains.get(&head.chain);
            let there = seen
                .is_some_and(|seen| seen.last > head.number || (seen.last == head.number && seen.hash == head.hash));
            if !there {
                let (chain, fault) = (head.chain.clone(), Fault::Truncated { head: head.clone() });
                let number = seen.map(|seen| seen.last);
                self.report.breaks.push(Break { file: self.file.clone(), line: 0, chain, number, fault });
            }
        }
        let chains = self.chains.into_iter();
        self.report.chains =
            chains.map(|(chain, seen)| (seen.first, Head { chain, number: seen.last, hash: seen.hash })).collect();
        self.report
    }
}

/// What is sealed, and the seal.
fn parts(line: &[u8]) -> Option<(&[u8], &str)> {
    let before = line.len().checked_sub(HASH.len() + NOTHING.len() + 2)?;
    let (sealed, rest) = line.split_at(before);
    let claimed = rest.strip_prefix(HASH.as_bytes())?.strip_suffix(b"\"}")?;
    let claimed = std::str::from_utf8(claimed).ok()?;
    claimed.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some((sealed, claimed))
}

/// The head of a file that ends with a whole line; `None` for one that is empty. The error is the place of a last line that isn't one, in
/// bytes.
pub(crate) fn last_line(bytes: &[u8]) -> Result<Option<Head>, usize> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if end < bytes.len() {
        return Err(end);
    }
    let Some(line) = bytes[..end].strip_suffix(b"\n").filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let start = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = &line[start..];
    let head = parts(line).and_then(|(_, hash)| {
        let read = serde_json::from_slice::<Line>(line).ok()?;
        Some(Head { chain: read.chain, number: read.number, hash: hash.to_owned() })
    });
    head.map(Some).ok_or(start)
}

impl Head {
    /// The head of what is in a file; `None` for an empty one. The error is where, in bytes, the last line begins that isn't one: it was
    /// cut off when the machine was.
    pub fn of(file: &[u8]) -> Result<Option<Self>, usize> {
        last_line(file)
    }
}

#[cfg(test)]
mod tests;
