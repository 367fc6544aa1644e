//! Quarantine on a real network: connections that are really tried, between real pods, beside what should come of each.

pub mod attempts;
pub mod doctor;
pub mod expected;
pub mod killed;
pub mod matrix;
pub mod model;
pub mod probed;
pub mod quell;
pub mod scenario;
pub mod severed;
pub mod speed;
pub mod world;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, as the probe counts them.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// From one such time to a later one; nothing where it is not later.
#[must_use]
pub fn between(from: i64, to: i64) -> Duration {
    Duration::from_micros(u64::try_from(to - from).unwrap_or_default())
}
