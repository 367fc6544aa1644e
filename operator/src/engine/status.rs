//! Statuses, written only where they have changed.

use std::fmt::Debug;

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use quell_crds::conditions::{ConditionType, Reason, Status, condition, find, is_true};
use quell_crds::names::field_managers;
use quell_crds::v1alpha1::{
    Finding, FindingState, FindingStatus, Phase, Remediation, RemediationStatus, StepKind, StepState,
};
use quell_playbooks::{TargetState, World};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::engine::selection::Selection;
use crate::engine::{Engine, EngineError, held, suppressed, told};
use crate::metrics::ExpiredLabels;

/// How the status of our own objects is patched.
#[must_use]
pub fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(field_managers::RECORD.to_owned()), ..PatchParams::default() }
}

/// Writes a run's record, of which this process is the only writer.
pub async fn write_run(engine: &Engine, run: &Remediation, status: &RemediationStatus) -> Result<(), EngineError> {
    let api: Api<Remediation> = Api::namespaced(engine.client.clone(), &run.namespace().unwrap_or_default());
    let operations = json!([
        { "op": "test", "path": "/metadata/uid", "value": run.uid() },
        { "op": "add", "path": "/status", "value": status },
    ]);
    let _pass = engine.lanes.book_keeping().await;
    // A run that was deleted has no record to keep; what it did carries its own.
    let name = run.name_any();
    patch_status(&api, &name, operations).await.map_err(record(format!("recording the run {name}")))?;
    Ok(())
}

/// Patches a status where the `test` operations hold. A status patch takes no notice of a UID in it, and an object that was deleted and
/// made again has the same name. Where they don't hold, whatever has changed brings the object back by its watch.
///
/// The answer is whether it was written.
async fn patch_status<K>(api: &Api<K>, name: &str, operations: Value) -> Result<bool, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    match api.patch_status(name, &parameters(), &Patch::Json::<()>(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.is_not_found() || is_failed_test(&answer) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The API server answers a failed `test` with 422 and the text of its JSON patch library; a validation error has causes.
#[must_use]
pub fn is_failed_test(answer: &kube::core::Status) -> bool {
    answer.code == 422 && answer.details.as_ref().is_none_or(|details| details.causes.is_empty())
}

fn record(doing: String) -> impl FnOnce(kube::Error) -> EngineError {
    EngineError::record(doing)
}

/// Writes a Finding's status, once every run has written its first record: those come back here by themselves. With `expired` that it expired
/// at that moment, unless something else became of it meanwhile.
pub async fn report_finding(
    engine: &Engine,
    finding: &Finding,
    world: &World,
    selection: &Selection,
    expired: Option<DateTime<Utc>>,
) -> Result<(), EngineError> {
    if selection.runs.iter().any(|run| run.status.is_none()) {
        return Ok(());
    }
    let before = finding.status.clone().unwrap_or_default();
    let known = FindingStatus { expired_at: expired.or(before.expired_at), ..before.clone() };
    let after = finding_status(finding, world, selection, &known);
    if finding.status.is_some() && after == before {
        return Ok(());
    }
    let fields = [
        ("observedGeneration", json!(after.observed_generation)),
        ("state", json!(after.state)),
        ("playbook", json!(after.playbook)),
        ("remediations", json!(after.remediations)),
        ("openPaths", json!(after.open_paths)),
        ("suppressed", json!(after.suppressed)),
        ("conditions", json!(after.conditions)),
    ];
    let mut operations = vec![json!({ "op": "test", "path": "/metadata/uid", "value": finding.uid() })];
    if expired.is_some() {
        // A report that is counted at this very moment keeps it open.
        let version = finding.resource_version();
        operations.push(json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
        operations.push(json!({ "op": "add", "path": "/status/expiredAt", "value": expired }));
    }
    if finding.status.is_some() {
        // What was thought of an episode says nothing of the next.
        operations.push(json!({ "op": "test", "path": "/status/episode", "value": before.episode }));
        // Field by field: repeats are counted by others.
        let add = |(field, value)| json!({ "op": "add", "path": format!("/status/{field}"), "value": value });
        operations.extend(fields.map(add));
    } else {
        operations.push(json!({ "op": "test", "path": "/status", "value": null }));
        // Until it is reported again, it was last seen when it was stored.
        let fields = fields.into_iter().chain([("lastSeen", json!(finding.creation_timestamp()))]);
        operations.push(json!({ "op": "add", "path": "/status", "value": Value::Object(
            fields.map(|(field, value)| (field.to_owned(), value)).collect()
        ) }));
    }
    let api: Api<Finding> = Api::namespaced(engine.client.clone(), &finding.namespace().unwrap_or_default());
    let written = {
        let _pass = engine.lanes.book_keeping().await;
        patch_status(&api, &finding.name_any(), Value::Array(operations))
            .await
            .map_err(record(format!("the status of the Finding {}", finding.name_any())))?
    };
    if written {
        if expired.is_some() {
            let labels = ExpiredLabels { source: finding.spec.source.clone() };
            engine.metrics.findings_expired.get_or_create(&labels).inc();
        }
        told::finding_changes(engine, finding, &before, &after).await;
    }
    Ok(())
}

fn finding_status(finding: &Finding, world: &World, selection: &Selection, before: &FindingStatus) -> FindingStatus {
    let phases: Vec<Phase> = selection.enforced_now().filter_map(|run| run.status.as_ref()).map(|s| s.phase).collect();
    let quarantine = quarantine_stands(selection);
    let held = selection.runs.iter().any(|run| held::condition_of(run).is_some());
    let accepted = selection.suppressed.whole.is_some();
    let state = if before.is_resolved() {
        // Who says that it is over is its source.
        FindingState::Resolved
    } else if before.is_over() {
        FindingState::Expired
    } else {
        state(&phases, quarantine, held)
    };
    let state = match state {
        FindingState::Open | FindingState::Failed | FindingState::Undone if accepted => FindingState::Suppressed,
        other => other,
    };
    let names = playbooks(selection);
    FindingStatus {
        observed_generation: finding.metadata.generation,
        state: Some(state),
        count: before.count,
        last_seen: before.last_seen,
        episode: before.episode,
        reopened_at: before.reopened_at,
        resolved_at: before.resolved_at,
        expired_at: before.expired_at,
        counted: before.counted.clone(),
        playbook: match names.as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first, others @ ..] => format!("{first} +{}", others.len()),
        },
        remediations: selection.references(),
        open_paths: of_runs(selection).flat_map(|status| status.open_paths.iter().cloned()).take(MOST_PATHS).collect(),
        suppressed: suppressed::of(&selection.suppressed),
        conditions: conditions(finding, world, selection, before, &phases, quarantine),
    }
}

/// Names of the playbooks that act on it: in the present episode, or where it is over, or none was run yet, in those before.
fn playbooks(selection: &Selection) -> Vec<&str> {
    let mut names: Vec<&str> = selection.current().map(|run| run.spec.playbook.name.as_str()).collect();
    if names.is_empty() {
        names = selection.runs.iter().map(|run| run.spec.playbook.name.as_str()).collect();
        names.dedup();
    }
    names
}

/// As many as the schema takes.
const MOST_PATHS: usize = 64;

fn of_runs(selection: &Selection) -> impl Iterator<Item = &RemediationStatus> {
    selection.runs.iter().filter_map(|run| run.status.as_ref())
}

/// What the runs say of containment; where several do, the worst of it.
fn contained(selection: &Selection) -> Option<&Condition> {
    let told = of_runs(selection).filter_map(|status| find(&status.conditions, ConditionType::Contained));
    told.max_by_key(|condition| match condition.status.as_str() {
        "False" => 2,
        "Unknown" => 1,
        _ => 0,
    })
}

fn state(phases: &[Phase], quarantine: Option<bool>, held: bool) -> FindingState {
    let any = |wanted: Phase| phases.contains(&wanted);
    let under_way =
        [Phase::Running, Phase::AwaitingApproval, Phase::Paused, Phase::Finishing, Phase::Undoing].into_iter().any(any);
    if phases.is_empty() {
        FindingState::Open
    } else if any(Phase::Failed) {
        FindingState::Failed
    } else if under_way {
        match quarantine {
            Some(true) => FindingState::Quarantined,
            _ if held => FindingState::Held,
            _ => FindingState::Remediating,
        }
    } else if any(Phase::Succeeded) {
        FindingState::Remediated
    } else if any(Phase::Cancelled) {
        FindingState::Cancelled
    } else {
        FindingState::Undone
    }
}

/// Whether a quarantine that a run made stands; `None` where no run made one.
fn quarantine_stands(selection: &Selection) -> Option<bool> {
    let mut found = None;
    for run in selection.enforced() {
        let records = run.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
        for (step, record) in run.spec.steps.iter().zip(records) {
            if matches!(step.kind, StepKind::Quarantine(_)) {
                // What was done about a pod on its node's network is no quarantine.
                let other = record.outputs.contains_key(quell_actions::quarantine::HOST_NETWORK);
                let begun =
                    record.receipt.iter().any(|receipt| quell_actions::quarantine::cut_off(receipt).next().is_some());
                match record.state {
                    _ if other => {}
                    StepState::Succeeded | StepState::NotUndone | StepState::Undoing => found = Some(true),
                    StepState::Running | StepState::Retrying | StepState::Failed if begun => found = Some(true),
                    StepState::Undone => found = found.or(Some(false)),
                    _ => {}
                }
            }
        }
    }
    found
}

fn conditions(
    finding: &Finding,
    world: &World,
    selection: &Selection,
    before: &FindingStatus,
    phases: &[Phase],
    quarantine: Option<bool>,
) -> Vec<Condition> {
    let now = Utc::now();
    let make = |kind, status, reason, message: String| {
        condition(&before.conditions, kind, status, reason, message, finding.metadata.generation, now)
    };
    let mut all = Vec::new();
    // A pod that was found, and is gone later, was found: what is asked here is whether the signal could be placed.
    if is_true(&before.conditions, ConditionType::TargetResolved) {
        all.extend(find(&before.conditions, ConditionType::TargetResolved).cloned());
    } else {
        let (status, reason, message) = target_found(finding, world);
        all.push(make(ConditionType::TargetResolved, status, reason, message));
    }
    all.extend(
        suppressed::told(&selection.suppressed)
            .map(|(status, reason, message)| make(ConditionType::Suppressed, status, reason, message)),
    );
    all.extend(
        resolved(before).map(|(status, reason, message)| make(ConditionType::Resolved, status, reason, message)),
    );
    let names = playbooks(selection);
    all.push(match (names.as_slice(), selection.failed.first()) {
        ([], None) if selection.suppressed.whole.is_some() => {
            let message = "it is suppressed, and no playbook is asked".to_owned();
            make(ConditionType::Matched, Status::False, Reason::AcceptedRisk, message)
        }
        ([], None) if before.is_over() => {
            let message = "it is over, and no playbook is asked".to_owned();
            let reason = if before.is_resolved() { Reason::NoLongerReported } else { Reason::Expired };
            make(ConditionType::Matched, Status::False, reason, message)
        }
        ([], None) => {
            let look = "kubectl quell explain says why each did not";
            make(
                ConditionType::Matched,
                Status::False,
                Reason::NoPlaybookMatched,
                format!("no playbook matched; {look}"),
            )
        }
        (_, Some((playbook, error))) => {
            let message = format!("{playbook} was not run, for its match.when failed: {error}");
            make(ConditionType::Matched, Status::Unknown, Reason::ExpressionFailed, message)
        }
        (names, None) => make(
            ConditionType::Matched,
            Status::True,
            Reason::PlaybookMatched,
            format!("matched by {}", names.join(", ")),
        ),
    });
    if let Some(stands) = quarantine {
        let name = format!("{}/{}", finding.spec.target.namespace, finding.spec.target.name);
        all.push(if stands {
            let message = format!("pod {name} is under quarantine; Contained says whether it holds");
            make(ConditionType::Quarantined, Status::True, Reason::QuarantineApplied, message)
        } else {
            let message = format!("the quarantine of pod {name} was lifted by undo");
            make(ConditionType::Quarantined, Status::False, Reason::QuarantineLifted, message)
        });
    }
    all.extend(contained(selection).cloned());
    all.extend(selection.runs.iter().find_map(|run| held::condition_of(run)).cloned());
    if !phases.is_empty() {
        all.push(remediated(selection, &make));
    }
    all
}

/// Whether it is over, where that was ever said.
fn resolved(status: &FindingStatus) -> Option<(Status, Reason, String)> {
    let second = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    if status.is_resolved() {
        let since = status.resolved_at.map(|at| format!(" since {}", second(at))).unwrap_or_default();
        let message = format!("its source says that it is over{since}");
        return Some((Status::True, Reason::NoLongerReported, message));
    }
    if let Some(at) = status.expired_at {
        let seen = status.last_seen.map(|at| format!(" since {}", second(at))).unwrap_or_default();
        let message = format!(
            "its source has not reported it{seen}, and it counts as over since {}; nobody said that it is over",
            second(at)
        );
        return Some((Status::Unknown, Reason::Expired, message));
    }
    (status.episode > 1).then(|| {
        let since = status.reopened_at.map(|at| format!(" at {}", second(at))).unwrap_or_default();
        let message = format!("it was reported again{since}: episode {}", status.episode);
        (Status::False, Reason::ReportedAgain, message)
    })
}

fn target_found(finding: &Finding, world: &World) -> (Status, Reason, String) {
    let target = &finding.spec.target;
    let name =
        if target.namespace.is_empty() { target.name.clone() } else { format!("{}/{}", target.namespace, target.name) };
    match (&world.target, &world.workload) {
        (TargetState::Pod(pod), _) => {
            (Status::True, Reason::TargetFound, format!("pod {name} (UID {}) on node {}", pod.uid, pod.node))
        }
        (TargetState::Gone, _) => {
            let message = format!("there is no pod {name}, or no longer: nothing can be done to it");
            (Status::False, Reason::TargetNotFound, message)
        }
        (TargetState::Replaced { uid }, _) => {
            let message = format!(
                "the pod that was reported (UID {}) is gone; {name} is another one now (UID {uid})",
                target.uid
            );
            (Status::False, Reason::TargetReplaced, message)
        }
        (TargetState::NotAPod, Some(workload)) => {
            (Status::True, Reason::TargetFound, format!("{} {}/{}", workload.kind, workload.namespace, workload.name))
        }
        (TargetState::NotAPod, None) => {
            let message = format!("{} {name} was not found in this cluster", target.kind);
            (Status::Unknown, Reason::TargetNotFound, message)
        }
    }
}

fn remediated(selection: &Selection, make: &dyn Fn(ConditionType, Status, Reason, String) -> Condition) -> Condition {
    let told = |wanted: Phase| -> Vec<String> {
        let of =
            selection.enforced_now().filter(|run| run.status.as_ref().is_some_and(|status| status.phase == wanted));
        of.map(|run| {
            let conditions = run.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let complete = find(conditions, ConditionType::Complete);
            format!("{}: {}", run.spec.playbook.name, complete.map_or("ended", |one| one.message.as_str()))
        })
        .collect()
    };
    let failed = told(Phase::Failed);
    let under_way = [Phase::Running, Phase::AwaitingApproval, Phase::Paused, Phase::Finishing, Phase::Undoing];
    let running: usize = under_way.into_iter().map(|phase| told(phase).len()).sum();
    let kind = ConditionType::Remediated;
    if !failed.is_empty() {
        make(kind, Status::False, Reason::StepFailed, failed.join("; "))
    } else if running > 0 {
        make(
            kind,
            Status::False,
            Reason::InProgress,
            format!("{running} of {} runs under way", selection.current().count()),
        )
    } else if !told(Phase::Cancelled).is_empty() {
        make(kind, Status::False, Reason::Cancelled, told(Phase::Cancelled).join("; "))
    } else if told(Phase::Succeeded).is_empty() {
        make(kind, Status::False, Reason::Undone, told(Phase::Undone).join("; "))
    } else {
        make(kind, Status::True, Reason::Succeeded, told(Phase::Succeeded).join("; "))
    }
}
