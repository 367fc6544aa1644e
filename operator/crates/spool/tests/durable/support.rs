use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use bytes::Bytes;
use quell_spool::{Entry, Limit, Sequence, Spool};

/// More than any test needs.
pub const ROOMY: Limit = Limit { bytes: 1 << 28, entries: 100_000 };

/// Every number has a payload of its own, of 8 bytes to some 16 KiB, so that pages of all kinds come about.
pub fn payload(number: u64) -> Bytes {
    let [_, fill, low, high, ..] = number.wrapping_mul(2_654_435_761).to_le_bytes();
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(8 + usize::from(u16::from_le_bytes([low, high % 64])), fill);
    payload.into()
}

/// The number of a payload, which must be whole.
pub fn number(entry: &Entry) -> u64 {
    let number = entry.payload.first_chunk().map_or(u64::MAX, |head| u64::from_le_bytes(*head));
    assert_eq!(entry.payload, payload(number), "the payload of {number} is as it was appended");
    number
}

/// Everything that waits, in order.
pub async fn all(spool: &Spool) -> Result<Vec<Entry>> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let page = spool.page(all.last().map(|entry| entry.sequence), 64 << 10).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// What waits, by sequence.
pub async fn numbers(spool: &Spool) -> Result<BTreeMap<Sequence, u64>> {
    Ok(all(spool).await?.iter().map(|entry| (entry.sequence, number(entry))).collect())
}

pub fn open(dir: &Path) -> Result<Spool> {
    Ok(Spool::open(dir, ROOMY)?)
}
