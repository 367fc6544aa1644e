//! Condition types and reasons: the one vocabulary of conditions, Events, metrics, logs and tests.

use std::fmt;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::time;

/// What a condition speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// A Playbook, Channel or Source can do its work.
    Ready,
    /// The Finding's target was found in the cluster, and is the one that the signal meant.
    TargetResolved,
    /// A Playbook matched the Finding.
    Matched,
    /// The pod is under a quarantine that Quell wrote.
    Quarantined,
    /// Nothing gets to the quarantined pod or from it, but what was asked to stay open.
    Contained,
    /// Every run for the Finding has ended well.
    Remediated,
    /// The run has ended, well or not.
    Complete,
    /// Somebody must approve before the run goes on.
    AwaitingApproval,
    /// A guardrail holds a step of the run.
    Held,
    /// The risk is accepted, in whole or in part.
    Suppressed,
    /// The Finding's source said that it is over; `Unknown` of one that has expired.
    Resolved,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why something is as it is. Bounded: it labels metrics, Events and conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    // Playbooks, Channels and Sources.
    /// Everything the object names was found and compiles.
    Accepted,
    /// An expression doesn't compile, or names something that doesn't exist.
    ExpressionInvalid,
    /// A step's `after` names a step that doesn't come before it.
    StepOrderInvalid,
    /// A `notify` step names a channel that doesn't exist.
    ChannelUnknown,
    /// A parameter of a step can't be used as it is.
    ParameterInvalid,
    /// The service account that the playbook acts as lacks rights that its steps need.
    RightsMissing,
    /// A Secret, or the key in it, doesn't exist.
    SecretMissing,
    /// No kind that a Source watches is served by this cluster.
    KindNotServed,
    /// What a Source watches is read as it comes.
    Watching,
    /// What a tool asks to be fetched or confirmed was not.
    NotFetched,
    /// The subscription of a Source's SNS topic was confirmed.
    SubscriptionConfirmed,
    /// The subscription of a Source's SNS topic was ended.
    SubscriptionEnded,

    // Findings.
    /// The target is in the cluster.
    TargetFound,
    /// The target isn't in the cluster, or no longer.
    TargetNotFound,
    /// Another object has the target's name now.
    TargetReplaced,
    /// A Playbook matched.
    PlaybookMatched,
    /// No Playbook matched.
    NoPlaybookMatched,
    /// The source no longer reports it, or says that it is over.
    NoLongerReported,
    /// It was reported again after it was over.
    ReportedAgain,
    /// Runs are under way.
    InProgress,
    /// The pod's quarantine stands.
    QuarantineApplied,
    /// The quarantine was lifted by undo.
    QuarantineLifted,
    /// No policy lets anything through to the quarantined pod or from it, and the network enforces policies.
    NothingGetsThrough,
    /// Policies still let something through.
    PathsOpen,
    /// What a policy lets through can't be told.
    PathsUnknown,
    /// The quarantined pod is gone.
    TargetGone,
    /// Whether this cluster's network enforces policies isn't known.
    EnforcementUnknown,
    /// This cluster's network enforces no policies.
    NotEnforced,
    /// The network keeps connections that were open before the quarantine.
    ConnectionsKept,
    /// Probes try the quarantined pod, and have not answered yet.
    ProbeUnderWay,
    /// A probe connected to the quarantined pod.
    ProbeGotThrough,
    /// The quarantined pod could not be probed.
    ProbeFailed,
    /// Somebody changed the quarantine, and it was put back.
    QuarantineRestored,
    /// Somebody changes the quarantine again and again.
    QuarantineContested,

    // Runs and steps.
    /// All steps ended well.
    Succeeded,
    /// A step failed.
    StepFailed,
    /// The run is paused.
    Paused,
    /// Somebody stopped the run.
    Cancelled,
    /// Somebody must approve first.
    ApprovalAsked,
    /// What was asked has been approved.
    Approved,
    /// Somebody has denied it.
    ApprovalDenied,
    /// It was not approved in time.
    ApprovalExpired,
    /// Another run changes the same object, and goes first.
    ObjectBusy,
    /// The playbook has what was done undone after a time, and that is over.
    UndoDue,
    /// The playbook has what was done undone once the Finding is resolved, and it is.
    FindingResolved,
    /// Every step that can be undone was undone.
    Undone,
    /// Something could not be undone.
    UndoIncomplete,
    /// The step's `when` said no.
    ConditionNotMet,
    /// A step that this one comes after did not succeed.
    DependencyNotMet,
    /// The run was ended by a failed step before this one's turn.
    Aborted,
    /// An expression could not be evaluated.
    ExpressionFailed,
    /// The step did not end in its time.
    TimedOut,
    /// The step can't act on a target of this kind.
    TargetUnsupported,
    /// The workload has no revision to go back to.
    NoEarlierRevision,
    /// No revision of the workload is free of open findings.
    NoUnaffectedRevision,
    /// The workload did not become healthy.
    RolloutUnhealthy,
    /// Someone else has changed the object since.
    ChangedSince,
    /// The pod is under the quarantine of another run.
    QuarantinedByAnother,
    /// The pod is not under quarantine, which must come first.
    NotQuarantined,
    /// What is needed was not switched on: for a step when Quell was installed, or in the Source for what its tool asks for.
    NotEnabled,
    /// Connections could not be severed.
    SeverFailed,
    /// The step would change more objects than it may at once.
    TooMany,
    /// The step has nothing that could be undone.
    NothingToUndo,
    /// The channel did not take the message.
    ChannelUnreachable,
    /// What was called outside the cluster gave no answer, or one that another try may better.
    ReceiverUnreachable,
    /// The receiver answered that it won't.
    ReceiverRefused,
    /// The build ended without success.
    BuildFailed,
    /// The build's result could not be understood.
    ResultUnreadable,
    /// The service account that the run acts as may not do this.
    Forbidden,
    /// The API server refused the object.
    Invalid,
    /// The API server could not be reached, or was too busy.
    ApiUnavailable,
    /// The step waits to be tried again.
    Retrying,

    // Suppressions; of the last, Findings and ImageBlocks, too.
    /// The risk is accepted: nothing is done about it.
    AcceptedRisk,
    /// Some of the vulnerabilities are accepted.
    PartlyAccepted,
    /// Its time is over.
    Expired,

    /// It was a dry run: nothing was changed.
    DryRun,

    // Guardrails.
    /// The stop switch is on.
    Stopped,
    /// A Guardrail has all playbooks learn: what was to act doesn't.
    Learning,
    /// The object is protected.
    Protected,
    /// As much was done in this time as may be.
    LimitReached,
    /// It is the last ready pod of its workload.
    LastReadyReplica,
    /// Nothing is done at this time.
    Frozen,
    /// A Guardrail can't be read, so nobody can tell what may be done.
    GuardrailUnreadable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The three states of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is so.
    True,
    /// It isn't so.
    False,
    /// It can't be told.
    Unknown,
}

/// A condition whose `lastTransitionTime` is kept where its status has not changed since `previous`.
#[must_use]
pub fn condition(
    previous: &[Condition],
    kind: ConditionType,
    status: Status,
    reason: Reason,
    message: impl Into<String>,
    observed_generation: Option<i64>,
    now: DateTime<Utc>,
) -> Condition {
    let (type_, status) = (kind.to_string(), format!("{status:?}"));
    let since = previous.iter().find(|old| old.type_ == type_ && old.status == status);
    Condition {
        last_transition_time: since.map_or_else(|| time::to_kubernetes(now), |old| old.last_transition_time.clone()),
        message: message.into(),
        observed_generation,
        reason: reason.to_string(),
        status,
        type_,
    }
}

/// The condition of that type, if there is one.
#[must_use]
pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    let type_ = kind.to_string();
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of that type is there and `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}
