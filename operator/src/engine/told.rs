//! What people are told as it happens: Events and metrics, with the reasons of the records.

use kube::runtime::events::{Event, EventType};
use kube::{Resource as _, ResourceExt as _};
use quell_crds::conditions::{ConditionType, Reason, find};
use quell_crds::v1alpha1::{
    Finding, FindingStatus, Mode, Phase, Remediation, RemediationStatus, StepRecord, StepState,
};
use quell_playbooks::compile::CompiledStep;

use crate::engine::Engine;
use crate::metrics::{RunLabels, StepLabels};

/// Events hold a note of at most 1 KiB (events.k8s.io/v1).
const LONGEST_NOTE: usize = 1000;

/// Tells of what has changed in a run between two records.
pub async fn changes(
    engine: &Engine,
    run: &Remediation,
    finding: Option<&Finding>,
    steps: &[CompiledStep],
    before: &RemediationStatus,
    after: &RemediationStatus,
) {
    for (step, record) in steps.iter().zip(&after.steps) {
        let old = before.steps.iter().find(|old| old.name == record.name);
        let news = old.is_none_or(|old| {
            (old.state, &old.reason, old.attempts) != (record.state, &record.reason, record.attempts)
        });
        if !news || record.state == StepState::Pending {
            continue;
        }
        let kind = step.step.kind.name();
        let labels = StepLabels { kind, state: record.state.to_string(), reason: record.reason.clone() };
        engine.metrics.steps.get_or_create(&labels).inc();
        tracing::info!(
            namespace = run.namespace(), remediation = run.name_any(), finding = run.spec.finding.name,
            step = record.name, kind, state = %record.state, reason = record.reason, message = record.message, "step"
        );
        if let Some(event) = step_event(record) {
            publish(engine, run, finding, event).await;
        }
    }
    if let Some(event) = contained_event(before, after) {
        publish(engine, run, finding, event).await;
    }
    if before.phase != after.phase {
        let complete = find(&after.conditions, ConditionType::Complete);
        let reason = complete.map(|one| one.reason.clone()).unwrap_or_default();
        let message = complete.map(|one| one.message.clone()).unwrap_or_default();
        tracing::info!(
            namespace = run.namespace(), remediation = run.name_any(), finding = run.spec.finding.name,
            phase = %after.phase, reason, message, "run"
        );
        engine.metrics.runs.get_or_create(&RunLabels { phase: after.phase.to_string(), reason: reason.clone() }).inc();
        // That all went well is in the Finding's own columns; an Event is for what somebody should look at.
        if matches!(after.phase, Phase::Undone | Phase::Failed | Phase::Paused | Phase::Cancelled) {
            let type_ = if after.phase == Phase::Failed { EventType::Warning } else { EventType::Normal };
            publish(engine, run, finding, event(type_, &reason, "Run", &message)).await;
        }
    }
}

/// Tells of what has changed in a Finding between two statuses.
pub async fn finding_changes(engine: &Engine, finding: &Finding, before: &FindingStatus, after: &FindingStatus) {
    for kind in [ConditionType::TargetResolved, ConditionType::Matched] {
        let (old, new) = (find(&before.conditions, kind), find(&after.conditions, kind));
        let Some(new) = new else { continue };
        let is_no_trouble = [Reason::NoPlaybookMatched, Reason::NoLongerReported, Reason::Expired]
            .iter()
            .any(|reason| reason.to_string() == new.reason);
        let troubled = new.status != "True" && !is_no_trouble;
        if troubled && old.is_none_or(|old| old.reason != new.reason) {
            let note = event(EventType::Warning, &new.reason, &kind.to_string(), &new.message);
            publish_of(engine, finding, &note).await;
        }
    }
    if let Some(note) = resolved_event(before, after) {
        tracing::info!(
            namespace = finding.namespace(),
            finding = finding.name_any(),
            reason = note.reason,
            message = note.note,
            "finding"
        );
        publish_of(engine, finding, &note).await;
    }
}

async fn publish_of(engine: &Engine, finding: &Finding, note: &Event) {
    if let Err(error) = engine.recorder.publish(note, &finding.object_ref(&())).await {
        tracing::warn!(%error, "an Event could not be written");
    }
}

/// The Event of a Finding that is over, has expired, or begins anew.
fn resolved_event(before: &FindingStatus, after: &FindingStatus) -> Option<Event> {
    let now = find(&after.conditions, ConditionType::Resolved)?;
    let old = find(&before.conditions, ConditionType::Resolved);
    let news = old.is_none_or(|old| (&old.status, &old.message) != (&now.status, &now.message));
    let (type_, action) = match now.status.as_str() {
        "True" => (EventType::Normal, "Resolve"),
        "Unknown" => (EventType::Normal, "Expire"),
        _ => (EventType::Warning, "Reopen"),
    };
    news.then(|| event(type_, &now.reason, action, &now.message))
}

/// The Event of a step: every refusal, wait, retry and failure, and what was undone.
fn step_event(record: &StepRecord) -> Option<Event> {
    let message = format!("{}: {}", record.name, record.message);
    let (type_, action) = match record.state {
        StepState::Failed => (EventType::Warning, "StepFailed"),
        StepState::Retrying => (EventType::Warning, "StepRetrying"),
        StepState::Held => (EventType::Warning, "StepHeld"),
        StepState::Reverting => (EventType::Warning, "StepReverting"),
        StepState::NotUndone => (EventType::Warning, "StepNotUndone"),
        StepState::Undoing if !record.reason.is_empty() && record.attempts > 0 => (EventType::Warning, "UndoRetrying"),
        StepState::Undone => (EventType::Normal, "StepUndone"),
        StepState::Waiting => (EventType::Normal, "StepWaiting"),
        StepState::AwaitingApproval => (EventType::Normal, "StepAwaitingApproval"),
        StepState::Cancelled => (EventType::Normal, "StepCancelled"),
        StepState::Skipped if record.reason != Reason::ConditionNotMet.to_string() => {
            (EventType::Normal, "StepSkipped")
        }
        _ => return None,
    };
    Some(event(type_, &record.reason, action, &message))
}

/// The Event of a path that has opened, or is closed again. What only can't be told is in the condition.
fn contained_event(before: &RemediationStatus, after: &RemediationStatus) -> Option<Event> {
    let open = |status: &RemediationStatus| {
        find(&status.conditions, ConditionType::Contained).is_some_and(|condition| condition.status == "False")
    };
    let now = find(&after.conditions, ConditionType::Contained)?;
    match (open(before), open(after)) {
        (false, true) => Some(event(EventType::Warning, &now.reason, "NotContained", &now.message)),
        (true, false) => Some(event(EventType::Normal, &now.reason, "Contained", &now.message)),
        _ => None,
    }
}

pub(super) fn event(type_: EventType, reason: &str, action: &str, message: &str) -> Event {
    let end = (0..=LONGEST_NOTE.min(message.len())).rev().find(|&i| message.is_char_boundary(i)).unwrap_or_default();
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(message[..end].to_owned()),
        action: action.to_owned(),
        secondary: None,
    }
}

/// An Event stands at the Finding, where people look; the run is what it is related to. A dry run leaves none: its record is all there is of it.
pub(super) async fn publish(engine: &Engine, run: &Remediation, finding: Option<&Finding>, mut event: Event) {
    if run.spec.mode == Mode::DryRun {
        return;
    }
    event.secondary = Some(run.object_ref(&()));
    let about = finding.map_or_else(|| run.object_ref(&()), |finding| finding.object_ref(&()));
    if let Err(error) = engine.recorder.publish(&event, &about).await {
        tracing::warn!(%error, reason = event.reason, "an Event could not be written");
    }
}
