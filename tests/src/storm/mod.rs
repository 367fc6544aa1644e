//! Storms of alerts: how many a second one core takes in, and what becomes of an alert that comes in the middle of one.

pub mod cores;
pub mod sender;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::proxy::Record;

/// Whether a request changed something other than the Lease, which is renewed by the clock.
#[must_use]
pub fn is_write(record: &Record) -> bool {
    record.is_effect() && record.request.resource != "leases"
}

/// The time that a process has spent on all cores so far.
pub fn processor_time(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("the operator's processor time")?;
    // The name before it may hold anything; `utime` and `stime` are the fields 14 and 15, in ticks of 10 ms (proc(5)).
    let (_, fields) = stat.rsplit_once(')').context("no name of the process")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The resident memory of a process in KiB.
pub fn resident_memory(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the operator's memory")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("no number in VmRSS")
}
