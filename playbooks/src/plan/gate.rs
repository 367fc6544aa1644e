//! What must be approved before it is done, and whether it is. A gate is open as long as the decisions say so: one that is taken back before
//! anything has come of it closes it again.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{ApprovalGate, GateRecord, OnExpiry, StepKind};
use serde_json::{Map, Value};

use crate::cel::{Names, Scope};
use crate::template;

/// How long a gate waits that doesn't say so.
const WAITS: TimeDelta = TimeDelta::hours(24);

/// A person's decision on a gate of this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The step; `None` for the gate of the whole run.
    pub step: Option<String>,
    /// Digest of what was decided on.
    pub digest: String,
    /// Yes or no.
    pub approves: bool,
    /// Who, as the API server has checked.
    pub user: String,
    /// Why.
    pub reason: String,
    /// When it was made, by the API server's clock.
    pub at: DateTime<Utc>,
}

/// Who decides, and whose approval doesn't count where two persons are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Votes<'a> {
    /// The decisions.
    pub all: &'a [Vote],
    /// Who wrote the playbook, and the Finding.
    pub authors: &'a [String],
}

/// How a gate stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// What was asked may be done.
    Open(GateRecord),
    /// It is waited for.
    Waits(GateRecord),
    /// It must not be done.
    Closed(Reason, String),
}

/// The digest of a step with its parameters filled in: what an approval binds to, beside the UID of the run, which says on what it acts.
#[must_use]
pub fn digest(step: &str, kind: &StepKind) -> String {
    names::fingerprint([step, &serde_json::to_string(kind).unwrap_or_default()])
}

/// What a gate is asked about.
pub(super) struct Asked<'a> {
    pub step: Option<&'a str>,
    pub digest: String,
    pub parameters: Map<String, Value>,
}

/// Judges a gate. `known` is what it has asked already.
pub(super) fn judge(
    gate: &ApprovalGate,
    asked: Asked<'_>,
    known: Option<&GateRecord>,
    votes: Votes<'_>,
    (scope, names): (&Scope, &Names),
    now: DateTime<Utc>,
) -> Standing {
    let same = known.filter(|known| known.digest == asked.digest);
    let mut record = match same.cloned() {
        Some(known) => known,
        None => match template::render(&gate.reason, scope, names) {
            Err(error) => return Standing::Closed(Reason::ExpressionFailed, format!("approval.reason: {error}")),
            Ok(reason) => GateRecord {
                digest: asked.digest,
                reason: crate::progress::shorten(&reason, LONGEST_REASON),
                parameters: asked.parameters,
                asked_at: Some(now),
                expires_at: now.checked_add_signed(waits(gate)),
                quorum: gate.quorum,
                ..GateRecord::default()
            },
        },
    };
    let standing = count(gate, &record, asked.step, votes, now);
    let Count { approved, excluded, denied } = standing;
    if let Some(vote) = denied {
        let why = if vote.reason.is_empty() { String::new() } else { format!(": {}", vote.reason) };
        return Standing::Closed(Reason::ApprovalDenied, format!("denied by {}{why}", vote.user));
    }
    let enough = approved.len() >= usize::try_from(gate.quorum).unwrap_or(1);
    let expired = record.expires_at.is_some_and(|end| end <= now);
    let by = approved.join(", ");
    record.approved_by = approved;
    record.excluded = excluded;
    record.open = enough || (expired && gate.on_expiry == OnExpiry::Allow);
    if record.open {
        return Standing::Open(record);
    }
    if expired {
        let by = if by.is_empty() { "nobody".to_owned() } else { format!("only {by}") };
        return Standing::Closed(
            Reason::ApprovalExpired,
            format!("{by} approved it in time, and {} had to: {}", gate.quorum, record.reason),
        );
    }
    Standing::Waits(record)
}

/// Longest question that a record holds, in bytes.
const LONGEST_REASON: usize = 4096;
/// Most users that a record names.
const MOST_USERS: usize = 64;

struct Count<'a> {
    approved: Vec<String>,
    excluded: Vec<String>,
    denied: Option<&'a Vote>,
}

/// Each user counts once; whoever denies counts whatever else they said.
fn count<'a>(
    gate: &ApprovalGate,
    record: &GateRecord,
    step: Option<&str>,
    votes: Votes<'a>,
    now: DateTime<Utc>,
) -> Count<'a> {
    let end = record.expires_at.unwrap_or(now);
    let about =
        votes.all.iter().filter(|vote| vote.step.as_deref() == step && vote.digest == record.digest && vote.at < end);
    let approvals: BTreeSet<&String> = about.clone().filter(|vote| vote.approves).map(|vote| &vote.user).collect();
    let author = |user: &&&String| gate.separate && votes.authors.contains(user);
    let take = |all: Vec<&&String>, most: usize| all.into_iter().take(most).map(|user| (**user).clone()).collect();
    Count {
        approved: take(approvals.iter().filter(|user| !author(user)).collect(), MOST_USERS),
        excluded: take(approvals.iter().filter(author).collect(), 8),
        denied: about.filter(|vote| !vote.approves).min_by(|a, b| (a.at, &a.user).cmp(&(b.at, &b.user))),
    }
}

/// Whether a step may still be done: asked once more at the moment of its effect, of what is about to be done and the decisions as they are
/// known then.
#[must_use]
pub fn is_open(
    gate: &ApprovalGate,
    step: &str,
    kind: &StepKind,
    record: Option<&GateRecord>,
    votes: Votes<'_>,
    now: DateTime<Utc>,
) -> bool {
    let Some(record) = record.filter(|record| record.open && record.digest == digest(step, kind)) else { return false };
    let Count { approved, denied, .. } = count(gate, record, Some(step), votes, now);
    let expired = record.expires_at.is_some_and(|end| end <= now) && gate.on_expiry == OnExpiry::Allow;
    denied.is_none() && (expired || approved.len() >= usize::try_from(gate.quorum).unwrap_or(1))
}

fn waits(gate: &ApprovalGate) -> TimeDelta {
    gate.expires_after.and_then(|time| TimeDelta::from_std(time.get()).ok()).unwrap_or(WAITS)
}

/// What is told of a gate that waits.
pub(super) fn told(record: &GateRecord) -> String {
    let by =
        if record.approved_by.is_empty() { String::new() } else { format!(" ({})", record.approved_by.join(", ")) };
    let not = match record.excluded.as_slice() {
        [] => String::new(),
        some => format!("; not counted, for they wrote the playbook or the Finding: {}", some.join(", ")),
    };
    format!(
        "{} of {} approvals{by}{not}: {}; kubectl quell approve or deny",
        record.approved_by.len(),
        record.quorum,
        record.reason
    )
}
