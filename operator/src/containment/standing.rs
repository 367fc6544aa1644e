//! A quarantine that stands, as its run's record has it, and the policies that it stands on.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use quell_actions::Mark;
use quell_actions::quarantine::{Profile, cut_off, denied_by, deny_policy};
use quell_crds::v1alpha1::step::Quarantine;
use quell_crds::v1alpha1::{Receipt, Remediation, RemediationStatus, StepKind, StepState};
use quell_isolation::{Allowances, Model, Pod as Modelled, PodRef, Policy};
use quell_playbooks::probe::Probed;
use serde_json::Value;

/// A quarantine, as its run's record has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Index of the step.
    pub step: usize,
    /// Its parameters.
    pub parameters: Quarantine,
    /// What was changed.
    pub receipt: Receipt,
    /// Since when.
    pub(super) since: Option<DateTime<Utc>>,
    /// Open connections were cut after it.
    pub(super) severed: bool,
    /// From the alert to the quarantine.
    pub(super) after: Option<Duration>,
    /// What its probes told, where they were asked for.
    pub probed: Option<Probed>,
}

impl Standing {
    pub(super) fn pod(&self) -> PodRef {
        PodRef::new(&self.receipt.namespace, &self.receipt.name)
    }
}

/// The quarantines that a run has made and not undone.
#[must_use]
pub fn standing(run: &Remediation, status: &RemediationStatus) -> Vec<Standing> {
    let severed = |since: Option<DateTime<Utc>>| {
        run.spec.steps.iter().zip(&status.steps).any(|(step, record)| {
            step.kind.name() == "severConnections"
                && record.state == StepState::Succeeded
                && record.finished_at >= since
        })
    };
    let steps = run.spec.steps.iter().zip(&status.steps).enumerate();
    steps
        .flat_map(|(index, (step, record))| {
            let StepKind::Quarantine(parameters) = &step.kind else { return Vec::new() };
            // A step that goes on to other pods and owners, or fails there, has cut off what its receipt tells.
            let there = matches!(
                record.state,
                StepState::Succeeded | StepState::Running | StepState::Retrying | StepState::Failed
            );
            let since = record.finished_at.or(record.started_at);
            let stands = |receipt: Receipt| {
                // Of several pods the one that the Finding names is probed.
                let own = record.receipt.as_ref().is_some_and(|first| first.uid == receipt.uid);
                Standing {
                    step: index,
                    parameters: parameters.clone(),
                    receipt,
                    since,
                    severed: severed(record.finished_at),
                    after: record
                        .finished_at
                        .zip(status.started_at)
                        .and_then(|(end, start)| (end - start).to_std().ok()),
                    probed: parameters.probe.as_ref().filter(|_| own).map(|_| Probed::of(&record.outputs)),
                }
            };
            record.receipt.iter().filter(|_| there).flat_map(cut_off).map(stands).collect()
        })
        .collect()
}

/// The labels that the quarantine gave the pod.
pub(super) fn given(receipt: &Receipt) -> BTreeMap<String, String> {
    let labels = receipt.after.get("labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

/// The policy of the quarantine's profile, as it should be.
pub(super) fn own_policy(quarantine: &Standing) -> Policy {
    said_by(&quarantine.receipt.namespace, &Profile::of(&quarantine.parameters))
}

/// The policy beside it that denies whatever others allow.
pub(super) fn own_deny_policy(quarantine: &Standing) -> Option<Policy> {
    let kind = denied_by(&quarantine.receipt)?;
    Policy::read(&deny_policy(kind, &quarantine.receipt.namespace, &quarantine.parameters, &no_mark())).ok()
}

/// The mark has no part in what a policy lets through.
fn no_mark() -> Mark {
    Mark { namespace: String::new(), remediation: String::new(), finding: String::new(), step: String::new() }
}

pub(super) fn said_by(namespace: &str, profile: &Profile) -> Policy {
    Policy::from(&profile.policy(namespace, &no_mark()))
}

/// What the profile leaves open on purpose: all that its policy, alone in the cluster, lets through.
pub(super) fn asked_for(pod: &PodRef, labels: BTreeMap<String, String>, policy: Policy) -> Allowances {
    let mut alone = Model::new();
    alone.upsert_namespace(&pod.namespace, &BTreeMap::new());
    alone.upsert_pod(Modelled {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels,
        ..Modelled::default()
    });
    alone.upsert_policy(policy);
    alone.exposure(pod).map_or_else(Allowances::none, |exposure| Allowances::of(&exposure))
}
