use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::Entry;

/// What the first line of a chain has in place of the hash of the line before it.
pub(crate) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What stands before the hash in a line.
pub(crate) const HASH: &str = r#","hash":""#;

/// How far a chain has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Name of the chain.
    pub chain: String,
    /// Number of the last line.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.chain, self.number, self.hash)
    }
}

/// A head is written otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a head is written as CHAIN:NUMBER:HASH, as Quell's log has it")]
pub struct HeadError;

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let mut parts = text.rsplitn(3, ':');
        let (hash, number, chain) = (parts.next(), parts.next(), parts.next());
        let hash = hash.filter(|hash| hash.len() == NOTHING.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match (chain.filter(|chain| !chain.is_empty()), number.and_then(|number| number.parse().ok()), hash) {
            (Some(chain), Some(number), Some(hash)) => {
                Ok(Self { chain: chain.to_owned(), number, hash: hash.to_ascii_lowercase() })
            }
            _ => Err(HeadError),
        }
    }
}

#[derive(Serialize)]
struct Sealed<'a> {
    chain: &'a str,
    number: u64,
    #[serde(flatten)]
    entry: &'a Entry,
    prev: &'a str,
}

/// Seals lines, one after the other.
#[derive(Clone, Debug)]
pub struct Chain {
    name: String,
    last: Option<(u64, String)>,
}

impl Chain {
    /// A chain with no line yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), last: None }
    }

    /// Goes on after a line that is there.
    #[must_use]
    pub fn after(head: Head) -> Self {
        Self { name: head.chain, last: Some((head.number, head.hash)) }
    }

    /// The last line; none where there is none yet.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        let (number, hash) = self.last.clone()?;
        Some(Head { chain: self.name.clone(), number, hash })
    }

    /// The line of an entry, without its line end.
    pub fn seal(&mut self, entry: &Entry) -> Result<String, serde_json::Error> {
        let (number, prev) = match &self.last {
            Some((number, hash)) => (number + 1, hash.as_str()),
            None => (0, NOTHING),
        };
        let mut line = serde_json::to_string(&Sealed { chain: &self.name, number, entry, prev })?;
        // The brace that closes it is not in what is sealed.
        line.pop();
        let hash = hash(line.as_bytes());
        line.push_str(HASH);
        line.push_str(&hash);
        line.push_str("\"}");
        self.last = Some((number, hash));
        Ok(line)
    }
}

pub(crate) fn hash(sealed: &[u8]) -> String {
    let mut text = String::with_capacity(NOTHING.len());
    for byte in Sha256::digest(sealed) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
