//! How a step's record changes: what a step reported, written into its record. Pure; the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{Receipt, Retry, Step, StepRecord, StepState};

use crate::kind::traits;

/// What became of a try.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is done.
    Done {
        /// What was done, for people.
        message: String,
        /// For later steps.
        outputs: BTreeMap<String, String>,
        /// What was changed.
        receipt: Option<Receipt>,
    },
    /// It has begun, and its end is waited for.
    Pending {
        /// What is waited for.
        message: String,
        /// For later looks at it.
        outputs: BTreeMap<String, String>,
        /// What was changed so far.
        receipt: Option<Receipt>,
        /// When to look again; `None`: when something that the step has marked changes.
        look_again: Option<Duration>,
    },
    /// It failed.
    Failed {
        /// The category.
        reason: Reason,
        /// What stands in the way, and what to do.
        message: String,
        /// Another try may mend it.
        transient: bool,
        /// What was changed all the same.
        receipt: Option<Receipt>,
    },
}

/// What became of an undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndoOutcome {
    /// What was there before is there again.
    Undone {
        /// What was done, for people.
        message: String,
    },
    /// Left as it is, for a reason.
    LeftAlone {
        /// The category.
        reason: Reason,
        /// What was found, and what to do.
        message: String,
    },
    /// It failed, and another try may mend it.
    TryAgain {
        /// The category.
        reason: Reason,
        /// What stands in the way.
        message: String,
    },
}

/// The longest wait between two tries.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
/// How often an undo is tried before a person must look: enough for an API server that restarts.
const UNDO_TRIES: i32 = 12;
/// Longest message that a record holds, in bytes.
const LONGEST_MESSAGE: usize = 2048;

/// The record of a step that begins, or begins a further try.
pub fn begin(record: &mut StepRecord, now: DateTime<Utc>) {
    record.state = StepState::Running;
    record.attempts += 1;
    record.started_at.get_or_insert(now);
    record.next_at = None;
}

/// Writes what became of a try into the record. `key` identifies run and step; it spreads the waits of many runs.
pub fn settle(record: &mut StepRecord, step: &Step, outcome: Outcome, key: &str, now: DateTime<Utc>) {
    match outcome {
        Outcome::Done { message, outputs, receipt } => {
            record.outputs.extend(outputs);
            keep(&mut record.receipt, receipt);
            end(record, StepState::Succeeded, Reason::Succeeded, &message, now);
        }
        Outcome::Pending { message, outputs, receipt, look_again } => {
            record.outputs.extend(outputs);
            keep(&mut record.receipt, receipt);
            record.reason = Reason::InProgress.to_string();
            record.message = shorten(&message);
            record.next_at = look_again.and_then(|wait| later(now, wait));
        }
        Outcome::Failed { reason, message, transient, receipt } => {
            keep(&mut record.receipt, receipt);
            let retry = step.retry.clone().unwrap_or_default();
            if transient && record.attempts <= retry.limit {
                let wait = backoff(&retry, record.attempts, key);
                record.state = StepState::Retrying;
                record.reason = reason.to_string();
                record.message = shorten(&message);
                record.next_at = later(now, wait);
            } else {
                fail(record, step, reason, &message, now);
            }
        }
    }
}

/// The step failed for good; what it had changed is put back first where its kind asks for that.
pub fn fail(record: &mut StepRecord, step: &Step, reason: Reason, message: &str, now: DateTime<Utc>) {
    if traits(&step.kind).put_back_on_failure && record.receipt.is_some() {
        record.state = StepState::Reverting;
        record.reason = reason.to_string();
        record.message = shorten(message);
        record.next_at = None;
    } else {
        end(record, StepState::Failed, reason, message, now);
    }
}

/// Writes what became of putting back what a failed step had changed.
pub fn settle_revert(record: &mut StepRecord, outcome: UndoOutcome, key: &str, now: DateTime<Utc>) {
    let failure = record.message.clone();
    record.state = StepState::Failed;
    match outcome {
        UndoOutcome::Undone { message } => {
            record.message = shorten(&format!("{failure}; {message}"));
            record.receipt = None;
        }
        UndoOutcome::LeftAlone { message, .. } => record.message = shorten(&format!("{failure}; {message}")),
        UndoOutcome::TryAgain { message, .. } => {
            record.attempts += 1;
            if record.attempts <= UNDO_TRIES {
                record.state = StepState::Reverting;
                record.next_at = later(now, backoff(&Retry::default(), record.attempts, key));
                return;
            }
            record.message = shorten(&format!("{failure}; it could not be put back: {message}"));
        }
    }
    record.next_at = None;
    record.finished_at = Some(now);
}

/// Writes what became of an undo into the record.
pub fn settle_undo(record: &mut StepRecord, outcome: UndoOutcome, key: &str, now: DateTime<Utc>) {
    match outcome {
        UndoOutcome::Undone { message } => end(record, StepState::Undone, Reason::Undone, &message, now),
        UndoOutcome::LeftAlone { reason, message } => end(record, StepState::NotUndone, reason, &message, now),
        UndoOutcome::TryAgain { reason, message } => {
            if record.state != StepState::Undoing {
                record.attempts = 0;
            }
            record.attempts += 1;
            if record.attempts > UNDO_TRIES {
                return end(record, StepState::NotUndone, reason, &message, now);
            }
            record.state = StepState::Undoing;
            record.reason = reason.to_string();
            record.message = shorten(&message);
            record.next_at = later(now, backoff(&Retry::default(), record.attempts, key));
        }
    }
}

/// Ends a record.
pub fn end(record: &mut StepRecord, state: StepState, reason: Reason, message: &str, now: DateTime<Utc>) {
    record.state = state;
    record.reason = reason.to_string();
    record.message = shorten(message);
    record.next_at = None;
    record.finished_at = Some(now);
}

/// When a step that began must have ended.
#[must_use]
pub fn deadline(record: &StepRecord, step: &Step) -> Option<DateTime<Utc>> {
    let timeout = step.timeout.map(quell_crds::v1alpha1::Duration::get).or(traits(&step.kind).timeout)?;
    later(record.started_at?, timeout)
}

/// A receipt that is there is never overwritten: what a second try finds in place is what the first one wrote, not what was there
/// before it.
fn keep(there: &mut Option<Receipt>, new: Option<Receipt>) {
    if there.is_none() {
        *there = new;
    }
}

/// Doubled for each try, bounded, and spread by up to a quarter either way; the same for the same key and try.
fn backoff(retry: &Retry, attempts: i32, key: &str) -> Duration {
    let first = retry.backoff.map_or(FIRST_BACKOFF, quell_crds::v1alpha1::Duration::get);
    let doublings = attempts.clamp(1, 16).unsigned_abs() - 1;
    let wait = first.saturating_mul(1 << doublings).min(LONGEST_BACKOFF.max(first));
    let seed = names::fingerprint([key, &attempts.to_string()]);
    let spread = u32::from_str_radix(&seed[..4], 16).unwrap_or_default();
    wait.mul_f64(0.75 + f64::from(spread) / f64::from(u16::MAX) / 2.0)
}

fn later(at: DateTime<Utc>, wait: Duration) -> Option<DateTime<Utc>> {
    at.checked_add_signed(TimeDelta::from_std(wait).ok()?)
}

fn shorten(message: &str) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message.to_owned();
    }
    let end = (0..=LONGEST_MESSAGE - 4).rev().find(|&i| message.is_char_boundary(i)).unwrap_or_default();
    format!("{}…", &message[..end])
}
