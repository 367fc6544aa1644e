//! The way to containment against the floor: what a bare client needs for the least that has to happen.
//!
//! The floor creates a custom resource, sees it in a watch and creates one NetworkPolicy. Quell takes an alert over HTTP, keeps it as a
//! Finding, sees that in a watch, decides, and cuts the pod off. Both are timed by the same watch on what they write, in one run, in
//! turns.

pub mod bare;
pub mod quell;
pub mod requests;
pub mod seen;

use std::time::Duration;

use anyhow::{Context as _, Result};

/// How often the operator has computed whether a quarantine holds, how long that took on average, and how often longer than 2 ms; by
/// its metrics.
pub fn verification(metrics: &str) -> Result<(u64, Duration, u64)> {
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).with_context(|| format!("no metric {name}"))
    };
    let number = value("quell_verification_seconds_count")?;
    let within = value("quell_verification_seconds_bucket{le=\"0.002\"}")?;
    let mean = value("quell_verification_seconds_sum")? / number.max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are counts")]
    Ok((number as u64, Duration::from_secs_f64(mean), (number - within) as u64))
}

/// Half of the values are at most this; and 99 of 100.
#[must_use]
pub fn percentiles(values: &mut [Duration]) -> (Duration, Duration) {
    values.sort_unstable();
    let at = |share: usize| values.get((values.len() * share / 100).min(values.len().saturating_sub(1)));
    (at(50).copied().unwrap_or_default(), at(99).copied().unwrap_or_default())
}

/// How many times as long.
#[must_use]
pub fn ratio(value: Duration, floor: Duration) -> f64 {
    value.as_secs_f64() / floor.as_secs_f64().max(f64::EPSILON)
}
