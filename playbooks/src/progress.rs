//! How a step's record changes: what a step reported, written into its record. Pure; the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{GateRecord, Receipt, Retry, Step, StepRecord, StepState};

use crate::guardrails::Hold;
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
        /// What came of it all the same, for the next try: a channel that was told isn't told again.
        outputs: BTreeMap<String, String>,
        /// What was changed all the same.
        receipt: Option<Receipt>,
    },
    /// A guardrail holds it.
    Held(Hold),
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
    /// A guardrail holds it.
    Held(Hold),
}

/// What became of looking for an effect that was made and not recorded.
#[allow(clippy::large_enum_variant, reason = "moved once")]
#[derive(Clone, Debug, PartialEq)]
pub enum Recovery {
    /// It is there, and carries the mark of this very run and step.
    Found(Receipt),
    /// There is none.
    Nothing,
    /// It could not be told, and another look may.
    TryAgain {
        /// The category.
        reason: Reason,
        /// What stands in the way.
        message: String,
    },
    /// It can't be told.
    Unknown {
        /// The category.
        reason: Reason,
        /// What stands in the way, and what to do.
        message: String,
    },
}

/// The longest wait between two tries.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
/// How often an undo is tried before a person must look: enough for an API server that restarts.
const UNDO_TRIES: i32 = 12;
/// Most outputs that a record holds.
const MOST_OUTPUTS: usize = 40;
/// Longest message that a record holds, in bytes.
const LONGEST_MESSAGE: usize = 2048;

/// The record of a step that begins, or begins a further try. A try that is under way goes on as the same one.
pub fn begin(record: &mut StepRecord, now: DateTime<Utc>) {
    let waited = matches!(record.state, StepState::Pending | StepState::AwaitingApproval | StepState::Waiting);
    if !waited && !matches!(record.state, StepState::Retrying | StepState::Held) {
        return;
    }
    record.state = StepState::Running;
    record.attempts += 1;
    record.started_at.get_or_insert(now);
    record.next_at = None;
    record.nothing_found = false;
}

/// The step waits for an approval, or one was given: `open` in what was asked says which.
pub fn ask(record: &mut StepRecord, gate: GateRecord, message: &str) {
    record.state = StepState::AwaitingApproval;
    record.reason = if gate.open { Reason::Approved } else { Reason::ApprovalAsked }.to_string();
    record.message = shorten(message, LONGEST_MESSAGE);
    record.next_at = None;
    record.approval = Some(gate);
}

/// The approval is no longer what it was when the step was about to be done: it waits again, and nothing was done.
pub fn not_approved(record: &mut StepRecord) {
    record.attempts = (record.attempts - 1).max(0);
    record.state = StepState::AwaitingApproval;
    record.reason = Reason::ApprovalAsked.to_string();
    "the approval was taken back, or is for something else, and nothing was done; waits for another"
        .clone_into(&mut record.message);
    record.next_at = None;
    if let Some(gate) = &mut record.approval {
        gate.open = false;
    }
}

/// Another run goes first at the object that the step would change: it waits for its turn, and holds nothing while it does.
pub fn wait(record: &mut StepRecord, message: &str) {
    record.state = StepState::Waiting;
    record.reason = Reason::ObjectBusy.to_string();
    record.message = shorten(message, LONGEST_MESSAGE);
    record.next_at = None;
}

/// Writes what became of a try into the record. `key` identifies run and step; it spreads the waits of many runs.
pub fn settle(record: &mut StepRecord, step: &Step, outcome: Outcome, key: &str, now: DateTime<Utc>) {
    begin(record, now);
    let too_late = deadline(record, step).is_some_and(|deadline| deadline <= now);
    match outcome {
        Outcome::Done { message, outputs, receipt } => {
            keep(record, outputs, receipt);
            end(record, StepState::Succeeded, Reason::Succeeded, &message, now);
        }
        Outcome::Pending { message, outputs, receipt, .. }
        | Outcome::Failed { message, transient: true, outputs, receipt, .. }
            if too_late =>
        {
            keep(record, outputs, receipt);
            time_out(record, step, &message, now);
        }
        Outcome::Pending { message, outputs, receipt, look_again } => {
            keep(record, outputs, receipt);
            record.reason = Reason::InProgress.to_string();
            record.message = shorten(&message, LONGEST_MESSAGE);
            record.next_at = look_again.and_then(|wait| later(now, wait));
        }
        Outcome::Held(held) => hold(record, &held),
        Outcome::Failed { reason, message, transient, outputs, receipt } => {
            keep(record, outputs, receipt);
            let retry = step.retry.clone().unwrap_or_else(|| default_retry(step));
            if transient && record.attempts <= retry.limit {
                let wait = backoff(&retry, record.attempts, key);
                record.state = StepState::Retrying;
                record.reason = reason.to_string();
                record.message = shorten(&message, LONGEST_MESSAGE);
                record.next_at = later(now, wait);
            } else {
                fail(record, step, reason, &message, now);
            }
        }
    }
}

/// A guardrail holds the step: the try that was about to be made is none, and the step's time begins when it goes on.
pub fn hold(record: &mut StepRecord, hold: &Hold) {
    if record.state == StepState::Running {
        record.attempts = record.attempts.saturating_sub(1);
    }
    record.state = StepState::Held;
    record.started_at = None;
    record.reason = hold.reason.to_string();
    record.message = shorten(&hold.message, LONGEST_MESSAGE);
    record.next_at = hold.until;
}

fn time_out(record: &mut StepRecord, step: &Step, last: &str, now: DateTime<Utc>) {
    let last = if last.is_empty() { String::new() } else { format!("; last: {last}") };
    fail(record, step, Reason::TimedOut, &format!("did not end in its time{last}"), now);
}

/// The step failed for good; what it had changed is put back first where its kind asks for that.
pub fn fail(record: &mut StepRecord, step: &Step, reason: Reason, message: &str, now: DateTime<Utc>) {
    if traits(&step.kind).put_back_on_failure && record.receipt.is_some() {
        record.state = StepState::Reverting;
        record.reason = reason.to_string();
        record.message = shorten(message, LONGEST_MESSAGE);
        // From here on it counts the tries to put back, however many the step itself has had.
        record.attempts = 0;
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
            record.message = shorten(&format!("{failure}; {message}"), LONGEST_MESSAGE);
            record.receipt = None;
        }
        UndoOutcome::LeftAlone { message, .. } => {
            record.message = shorten(&format!("{failure}; {message}"), LONGEST_MESSAGE);
        }
        UndoOutcome::TryAgain { message, .. } => {
            record.attempts += 1;
            if record.attempts <= UNDO_TRIES {
                record.state = StepState::Reverting;
                record.next_at = later(now, backoff(&Retry::default(), record.attempts, key));
                return;
            }
            record.message = shorten(&format!("{failure}; it could not be put back: {message}"), LONGEST_MESSAGE);
        }
        UndoOutcome::Held(_) => {
            // The failure is what people must know; what holds is told by the condition.
            record.state = StepState::Reverting;
            record.next_at = None;
            return;
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
        UndoOutcome::Held(held) => {
            record.state = StepState::Undoing;
            record.reason = held.reason.to_string();
            record.message = shorten(&held.message, LONGEST_MESSAGE);
            record.next_at = held.until;
        }
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
            record.message = shorten(&message, LONGEST_MESSAGE);
            record.next_at = later(now, backoff(&Retry::default(), record.attempts, key));
        }
    }
}

/// Writes what became of looking for an effect that was made and not recorded. What was found is undone as if it had been recorded; a step
/// of which nothing was found stands as before.
pub fn settle_recovery(record: &mut StepRecord, found: Recovery, key: &str, now: DateTime<Utc>) {
    match found {
        Recovery::Found(receipt) => {
            record.state = StepState::Undoing;
            record.reason = Reason::InProgress.to_string();
            "its change was made and not recorded; it was found by its mark, and is undone"
                .clone_into(&mut record.message);
            // From here on it counts the tries to undo.
            record.attempts = 0;
            record.next_at = None;
            record.receipt = Some(receipt);
        }
        Recovery::Nothing => record.nothing_found = true,
        Recovery::TryAgain { reason, message } => {
            let message = format!("whether it has changed anything isn't known yet: {message}");
            settle_undo(record, UndoOutcome::TryAgain { reason, message }, key, now);
        }
        Recovery::Unknown { reason, message } => {
            let message = format!("whether it has changed anything isn't known: {message}");
            settle_undo(record, UndoOutcome::LeftAlone { reason, message }, key, now);
        }
    }
}

/// Ends a record.
pub fn end(record: &mut StepRecord, state: StepState, reason: Reason, message: &str, now: DateTime<Utc>) {
    record.state = state;
    record.reason = reason.to_string();
    record.message = shorten(message, LONGEST_MESSAGE);
    record.next_at = None;
    record.finished_at = Some(now);
}

/// A step that says nothing is tried again as long as an API server or receiver takes to restart; containment until its time is up.
fn default_retry(step: &Step) -> Retry {
    let limit = if traits(&step.kind).contains { i32::MAX } else { Retry::default().limit };
    Retry { limit, ..Retry::default() }
}

/// When a step that began must have ended.
#[must_use]
pub fn deadline(record: &StepRecord, step: &Step) -> Option<DateTime<Utc>> {
    let timeout = step.timeout.map(quell_crds::v1alpha1::Duration::get).or(traits(&step.kind).timeout)?;
    later(record.started_at?, timeout)
}

/// A receipt that is there is never overwritten: what a second try finds in place is what the first one wrote, not what was there
/// before it. What the step has changed beside that since is added to it. Of outputs, as many are taken as a record holds: one that holds more could not be written down at all.
fn keep(record: &mut StepRecord, outputs: BTreeMap<String, String>, receipt: Option<Receipt>) {
    match (&mut record.receipt, receipt) {
        (none @ None, receipt) => *none = receipt,
        (Some(there), Some(receipt)) if there.is_on_the_same(&receipt) => {
            for effect in receipt.also {
                if !there.also.iter().any(|known| known.is_on_the_same(&effect)) {
                    there.also.push(effect);
                }
            }
        }
        _ => {}
    }
    for (key, value) in outputs {
        if record.outputs.len() < MOST_OUTPUTS || record.outputs.contains_key(&key) {
            record.outputs.insert(key, value);
        }
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

/// The message, cut to at most `longest` bytes.
pub(crate) fn shorten(message: &str, longest: usize) -> String {
    if message.len() <= longest {
        return message.to_owned();
    }
    let room = longest.saturating_sub('…'.len_utf8());
    let end = (0..=room).rev().find(|&i| message.is_char_boundary(i)).unwrap_or_default();
    format!("{}…", &message[..end])
}
