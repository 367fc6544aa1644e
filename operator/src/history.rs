//! Findings and Remediations that are done with are deleted: after their time, and the oldest where there are too many.
//!
//! What stands is never deleted: a run that is under way, a quarantine whose pod is there. A Finding goes before its runs: while it is there,
//! they are what keeps its playbooks from beginning anew; and no run goes while a Finding of that name is there, reported anew, for runs are
//! named by how many there were before.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt as _};
use quell_crds::names;
use quell_crds::time::from_kubernetes;
use quell_crds::v1alpha1::{Finding, FindingState, Remediation, StepKind, StepState};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// How often it is looked whether something is done with.
const LOOK: Duration = Duration::from_secs(30);
/// Deleted at one look, so that a cluster with a long past isn't busy with it.
const AT_ONCE: usize = 500;

/// How long records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// After they are done with; `None`: for ever.
    pub time: Option<chrono::Duration>,
    /// How many Findings that are done with.
    pub most: usize,
}

impl History {
    /// As the settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let time = (!settings.history_ttl.is_zero()).then_some(settings.history_ttl);
        Self { time: time.and_then(|time| chrono::Duration::from_std(time).ok()), most: settings.history_limit }
    }

    /// Which of those that are done with, each with when that was, are to go: the oldest first.
    fn choose<K>(self, mut done: Vec<(DateTime<Utc>, K)>, now: DateTime<Utc>) -> Vec<K> {
        done.sort_by_key(|(since, _)| *since);
        let surplus = done.len().saturating_sub(self.most);
        let over = |since: DateTime<Utc>| self.time.is_some_and(|time| now - since > time);
        let chosen = done.into_iter().enumerate().filter(|(at, (since, _))| *at < surplus || over(*since));
        chosen.map(|(_, (_, one))| one).collect()
    }
}

/// Deletes what is done with, until `end`.
pub async fn keep(
    client: Client,
    caches: Arc<Caches>,
    lanes: Lanes,
    metrics: Metrics,
    history: History,
    end: CancellationToken,
) {
    let look = history.time.and_then(|time| time.to_std().ok()).map_or(LOOK, |time| time.clamp(LOOK / 30, LOOK));
    loop {
        tokio::select! {
            () = tokio::time::sleep(look) => {}
            () = end.cancelled() => return,
        }
        let (findings, runs) = over(&caches, history, Utc::now());
        let mut deleted = 0;
        for finding in findings.iter().take(AT_ONCE) {
            deleted += u64::from(delete(&client, &lanes, &**finding).await);
        }
        for run in runs.iter().take(AT_ONCE) {
            deleted += u64::from(delete(&client, &lanes, &**run).await);
        }
        if deleted > 0 {
            metrics.history_deleted.inc_by(deleted);
            tracing::info!(deleted, "records whose time is over are deleted");
        }
    }
}

/// Findings that may go, and runs without a Finding that may.
fn over(caches: &Caches, history: History, now: DateTime<Utc>) -> (Vec<Arc<Finding>>, Vec<Arc<Remediation>>) {
    let mut runs_of: BTreeMap<(String, String), Vec<Arc<Remediation>>> = BTreeMap::new();
    for run in caches.remediations.state() {
        let key = (run.namespace().unwrap_or_default(), run.spec.finding.name.clone());
        runs_of.entry(key).or_default().push(run);
    }
    let mut findings = Vec::new();
    for finding in caches.findings.state() {
        let key = (finding.namespace().unwrap_or_default(), finding.name_any());
        // Runs of a Finding of that name that was deleted before are waited for as well.
        let runs = runs_of.remove(&key).unwrap_or_default();
        if let Some(since) = finding_done(&finding, &runs, |run| stands(run, caches)) {
            findings.push((since, finding));
        }
    }
    let mut runs = Vec::new();
    for run in runs_of.into_values().flatten() {
        if let Some(since) = run_done(&run).filter(|_| !stands(&run, caches)) {
            runs.push((since, run));
        }
    }
    // A run goes soon after its Finding, with which it was kept so long; one whose Finding somebody deleted has its own time.
    (history.choose(findings, now), history.choose(runs, now))
}

/// Since when nothing is left to be done about a Finding. One that no playbook matched is done with when it was last reported, or when its
/// source said that it is over, or it expired.
pub fn finding_done(
    finding: &Finding,
    runs: &[Arc<Remediation>],
    stands: impl Fn(&Remediation) -> bool,
) -> Option<DateTime<Utc>> {
    let status = finding.status.as_ref()?;
    let seen = status.last_seen.or(finding.metadata.creation_timestamp.as_ref().map(from_kubernetes))?;
    let begun = matches!(status.state?, FindingState::Remediating | FindingState::Quarantined);
    if begun || finding.metadata.deletion_timestamp.is_some() || runs.iter().any(|run| stands(run)) {
        return None;
    }
    let ended: Option<Vec<DateTime<Utc>>> = runs.iter().map(|run| run_done(run)).collect();
    Some(ended?.into_iter().chain(status.resolved_at).chain(status.expired_at).fold(seen, DateTime::max))
}

/// Since when a run has ended.
fn run_done(run: &Remediation) -> Option<DateTime<Utc>> {
    let status = run.status.as_ref().filter(|status| status.phase.is_final())?;
    // Something is to be undone yet, at its time.
    if status.steps.iter().any(|step| step.next_at.is_some()) || run.metadata.deletion_timestamp.is_some() {
        return None;
    }
    status.finished_at
}

/// Whether a quarantine that the run made stands: its record is what an undo works from.
pub fn stands(run: &Remediation, caches: &Caches) -> bool {
    let records = run.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
    run.spec.steps.iter().zip(records).any(|(step, record)| {
        let quarantine = matches!(step.kind, StepKind::Quarantine(_));
        let lifted = matches!(record.state, StepState::Undone | StepState::Skipped | StepState::Pending);
        let Some(receipt) = record.receipt.as_ref().filter(|_| quarantine && !lifted) else { return false };
        let pod = caches.pods.get(&ObjectRef::new(&receipt.name).within(&receipt.namespace));
        pod.is_some_and(|pod| {
            pod.uid().as_deref() == Some(&receipt.uid) || pod.labels().contains_key(names::QUARANTINE)
        })
    })
}

/// Whether it is deleted, as it was seen: one that has changed meanwhile is left to the next look.
async fn delete<K>(client: &Client, lanes: &Lanes, object: &K) -> bool
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: object.resource_version() }),
        ..DeleteParams::default()
    };
    let _pass = lanes.book_keeping().await;
    match api.delete(&object.name_any(), &parameters).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => false,
        Err(error) => {
            let name = object.name_any();
            tracing::warn!(namespace, name, %error, "a record whose time is over could not be deleted; it is tried again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{FindingStatus, Phase, RemediationStatus};

    use super::*;
    use crate::fixtures;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::hours(hour)
    }

    fn run(phase: Phase, ended: i64) -> Arc<Remediation> {
        let status = RemediationStatus { phase, finished_at: Some(at(ended)), ..RemediationStatus::default() };
        Arc::new(fixtures::run(status))
    }

    fn finding(state: FindingState, seen: i64) -> Finding {
        let status = FindingStatus { state: Some(state), last_seen: Some(at(seen)), ..FindingStatus::default() };
        Finding { status: Some(status), ..Finding::default() }
    }

    #[test]
    fn what_is_over_goes_after_its_time_and_the_oldest_where_there_are_too_many() {
        let done = || vec![(at(5), "five"), (at(1), "one"), (at(3), "three")];
        let history = History { time: Some(chrono::Duration::hours(4)), most: 10 };
        assert_eq!(history.choose(done(), at(8)), ["one", "three"]);
        assert_eq!(History { time: None, most: 1 }.choose(done(), at(800)), ["one", "three"]);
        assert!(History { time: None, most: 3 }.choose(done(), at(800)).is_empty());
    }

    #[test]
    fn a_finding_is_done_with_when_the_last_of_its_runs_has_ended_and_nothing_stands() {
        let over = |state, runs: &[Arc<Remediation>], stands| finding_done(&finding(state, 2), runs, |_| stands);
        assert_eq!(
            over(FindingState::Remediated, &[run(Phase::Succeeded, 1), run(Phase::Undone, 7)], false),
            Some(at(7))
        );
        assert_eq!(over(FindingState::Open, &[], false), Some(at(2)));
        let mut resolved = finding(FindingState::Resolved, 2);
        resolved.status.get_or_insert_default().resolve(at(6));
        assert_eq!(finding_done(&resolved, &[], |_| false), Some(at(6)));
        assert_eq!(over(FindingState::Remediated, &[run(Phase::Succeeded, 1)], true), None, "a quarantine stands");
        assert_eq!(over(FindingState::Remediated, &[run(Phase::Running, 1)], false), None);
        assert_eq!(over(FindingState::Quarantined, &[], false), None);
    }
}
