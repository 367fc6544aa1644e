//! What is said of Findings that are there. Repeats are folded before they reach the API server, so that a storm of one alert is a few writes;
//! that one is over, or begins anew, is written at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names::{self, field_managers};
use quell_crds::v1alpha1::{Counted, Finding};
use quell_ingest::{News, news};
use quell_spool::Sequence;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::caches::FindingKey;
use crate::engine::is_failed_test;
use crate::identity::process_name;
use crate::intake::backlog::{Backlog, Waiting, key};
use crate::intake::deliver::may_be_taken_later;
use crate::intake::{IntakeError, LONGEST_STORE};
use crate::lanes::Lanes;

/// The first repeat is written at once; what comes within this time after a write is one further write.
const WINDOW: Duration = Duration::from_secs(5);
/// A count that can't be written is tried this often, each time from what is there.
const TRIES: usize = 8;

/// What became of a Finding that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is ended by this.
    Now,
    /// It was ended before.
    Before,
    /// It isn't there, or another one has its name.
    NotThere,
}

/// Counts repeats, and ends what is over.
#[derive(Clone)]
pub struct Folder {
    client: Client,
    lanes: Lanes,
    tasks: TaskTracker,
    end: CancellationToken,
    /// Where repeats are kept until they are counted.
    backlog: Option<Arc<Backlog>>,
    open: Arc<Mutex<HashMap<FindingKey, Arc<Batch>>>>,
    /// A name for the batches of this process.
    process: Arc<str>,
    batches: Arc<AtomicI64>,
}

/// Repeats that are written as one, however often that is tried.
struct Batch {
    number: i64,
    /// Of those that are about to be counted in it.
    coming: TaskTracker,
    repeats: Mutex<Repeats>,
    keeping: Mutex<Keeping>,
}

/// Repeats on their way to the disk: those that come while others are written there are written together, after these.
#[derive(Default)]
struct Keeping {
    /// Somebody writes, and will write what comes.
    goes_on: bool,
    next: Option<Group>,
}

/// Repeats of one Finding that become one entry on disk.
struct Group {
    number: i64,
    /// What the worst of them says, the latest of these; rather what may say something new.
    finding: Finding,
    says_more: bool,
    answers: Vec<oneshot::Sender<()>>,
}

impl Group {
    fn new(finding: Finding, says_more: bool, answer: oneshot::Sender<()>) -> Self {
        Self { number: 1, finding, says_more, answers: vec![answer] }
    }

    fn join(&mut self, other: Self) {
        self.number += other.number;
        self.answers.extend(other.answers);
        if (other.says_more, other.finding.spec.severity) >= (self.says_more, self.finding.spec.severity) {
            (self.finding, self.says_more) = (other.finding, other.says_more);
        }
    }
}

impl Batch {
    /// Whether nobody writes, so that whoever asks must.
    fn join(&self, group: Group) -> bool {
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut keeping.next {
            Some(next) => next.join(group),
            next => *next = Some(group),
        }
        !std::mem::replace(&mut keeping.goes_on, true)
    }

    /// What has come; with nothing, nobody writes any more.
    fn next_group(&self) -> Option<Group> {
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let next = keeping.next.take();
        keeping.goes_on = next.is_some();
        next
    }
}

#[derive(Clone, Debug, Default)]
struct Repeats {
    number: i64,
    last: Option<DateTime<Utc>>,
    /// What the worst of them says, the latest of these, where it may say something new.
    says: Option<Arc<Finding>>,
    /// Those of them that are on disk until they are counted.
    kept: Vec<Sequence>,
}

/// A place in a batch, which is not written before the place is taken or given up.
struct Place {
    batch: Arc<Batch>,
    _coming: TaskTrackerToken,
}

impl Place {
    fn take(&self, number: i64, kept: Option<Sequence>, says: Option<&Finding>) {
        let Ok(mut repeats) = self.batch.repeats.lock() else { return };
        repeats.number += number;
        repeats.last = Some(Utc::now());
        repeats.kept.extend(kept);
        let worst = repeats.says.as_ref().map(|known| known.spec.severity);
        if let Some(says) = says.filter(|says| worst.is_none_or(|worst| worst <= says.spec.severity)) {
            repeats.says = Some(Arc::new(says.clone()));
        }
    }
}

impl Repeats {
    fn is_empty(&self) -> bool {
        self.number == 0 && self.says.is_none()
    }
}

impl Folder {
    /// Writes counts by `client`, in tasks of `tasks`, so that an orderly `end` waits for the last.
    #[must_use]
    pub fn new(
        client: Client,
        lanes: Lanes,
        backlog: Option<Arc<Backlog>>,
        tasks: TaskTracker,
        end: CancellationToken,
    ) -> Self {
        let process = format!("{}.repeats", process_name()).into();
        Self { client, lanes, tasks, end, backlog, open: Arc::default(), process, batches: Arc::default() }
    }

    /// Counts one repeat of the Finding, which no disk keeps until it is written. Where it may say something new, that is written with it.
    pub fn count(&self, finding: &Finding, says_more: bool) {
        if let Some(place) = self.place(finding) {
            place.take(1, None, Some(finding).filter(|_| says_more));
        }
    }

    /// Writes what the Finding says now, where that is news; it is no repeat.
    pub fn refresh(&self, finding: &Finding) {
        if let Some(place) = self.place(finding) {
            place.take(0, None, Some(finding));
        }
    }

    /// Counts one repeat of the Finding, whether whoever asks waits for that or not. When this returns, it is on disk, unless the disk fails:
    /// what is wrong with it is told of, and the repeat is counted from memory.
    pub async fn keep_and_count(&self, finding: Finding, says_more: bool, backlog: &Arc<Backlog>) {
        let Some(place) = self.place(&finding) else { return };
        let (answer, kept) = oneshot::channel();
        if place.batch.join(Group::new(finding, says_more, answer)) {
            self.tasks.spawn(keep_groups(self.process.clone(), place, backlog.clone()));
        }
        if kept.await.is_err() {
            tracing::error!("counting a repeat broke off");
        }
    }

    fn place(&self, finding: &Finding) -> Option<Place> {
        let key = key(finding);
        let mut open = self.open.lock().ok()?;
        let batch = open.entry(key.clone()).or_insert_with(|| {
            let folder = self.clone();
            self.tasks.spawn(async move { folder.write_out(key).await });
            self.batch()
        });
        Some(Place { batch: batch.clone(), _coming: batch.coming.token() })
    }

    fn batch(&self) -> Arc<Batch> {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        Arc::new(Batch { number, coming: TaskTracker::new(), repeats: Mutex::default(), keeping: Mutex::default() })
    }

    /// Lives as long as repeats keep coming, one writer for each Finding. What could not be written is tried again; whether the API server
    /// took it all the same is in the Finding.
    async fn write_out(&self, key: FindingKey) {
        let mut behind = None;
        loop {
            let next = match behind.take() {
                Some(batch) => batch,
                None => match self.take(&key) {
                    Some(batch) => batch,
                    None => return,
                },
            };
            next.coming.close();
            next.coming.wait().await;
            let repeats = next.repeats.lock().map(|repeats| repeats.clone()).unwrap_or_default();
            match self.write(&key, next.number, &repeats).await {
                Ok(()) => self.counted(&repeats),
                Err(error) if may_be_taken_later(&error) => {
                    tracing::warn!(namespace = key.0, finding = key.1, %error, "repeats could not be counted");
                    // At the end what is on disk stays there, for the next process.
                    behind = Some(next).filter(|_| !self.end.is_cancelled());
                }
                Err(error) => {
                    tracing::error!(namespace = key.0, finding = key.1, repeats = repeats.number, %error, "repeats are not taken by the API server; they are dropped");
                    self.counted(&repeats);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(WINDOW) => {}
                // At the end what has come in is written out without delay.
                () = self.end.cancelled() => {}
            }
        }
    }

    fn counted(&self, repeats: &Repeats) {
        if let Some(backlog) = &self.backlog {
            backlog.counted(&repeats.kept);
        }
    }

    /// What has come since the last time, and what is about to; with nothing, the Finding is no longer followed.
    fn take(&self, key: &FindingKey) -> Option<Arc<Batch>> {
        let mut open = self.open.lock().ok()?;
        let batch = open.get(key)?.clone();
        let empty = batch.coming.is_empty() && batch.repeats.lock().is_ok_and(|repeats| repeats.is_empty());
        if empty {
            open.remove(key);
            return None;
        }
        open.insert(key.clone(), self.batch());
        Some(batch)
    }

    async fn write(&self, (namespace, name): &FindingKey, batch: i64, repeats: &Repeats) -> Result<(), kube::Error> {
        let Some(last) = repeats.last.filter(|_| !repeats.is_empty()) else { return Ok(()) };
        if let Some(says) = &repeats.says {
            self.change_spec(namespace, name, says, News::Other).await?;
        }
        let counted = self.change(namespace, name, |finding| {
            let status = finding.status.get_or_insert_default();
            if status.has_counted(&self.process, batch) {
                return None;
            }
            status.mark_counted(&self.process, batch);
            // What came in before the Finding was resolved, and is only counted now, is no reason to begin anew.
            status.report(repeats.number, last);
            Some(())
        });
        // Nothing is left to be counted where the Finding is gone.
        counted.await.map(drop)
    }

    /// Counts one repeat of a Finding that is over, at once: it begins anew. `false` where the Finding is gone.
    pub(super) async fn reopen(&self, finding: &Finding, now: DateTime<Utc>) -> Result<bool, IntakeError> {
        let (namespace, name) = (finding.namespace().unwrap_or_default(), finding.name_any());
        let mut collides = false;
        let counted = self.change(&namespace, &name, |there| {
            collides = there.spec.fingerprint != finding.spec.fingerprint;
            let status = there.status.get_or_insert_default();
            // It was over when this was reported, whatever the clock of the replica says that was told so.
            if status.is_over() {
                status.reopen(now);
            }
            status.report(1, now);
            (!collides).then_some(())
        });
        match answer(&name, counted).await? {
            _ if collides => Err(IntakeError::Collision { name }),
            there => Ok(there),
        }
    }

    /// Writes at once what the Finding says now, where that is such news or worse. `false` where the Finding is gone.
    pub(super) async fn rewrite(&self, finding: &Finding, from: News) -> Result<bool, IntakeError> {
        let (namespace, name) = (finding.namespace().unwrap_or_default(), finding.name_any());
        answer(&name, self.change_spec(&namespace, &name, finding, from)).await
    }

    /// Ends a Finding, where it is the one that is meant.
    pub(super) async fn resolve(
        &self,
        (namespace, name): &FindingKey,
        now: DateTime<Utc>,
        is_meant: impl Fn(&Finding) -> bool,
    ) -> Result<Ended, IntakeError> {
        let mut ended = Ended::NotThere;
        let changed = self.change(namespace, name, |there| {
            ended = Ended::NotThere;
            if !is_meant(there) {
                return None;
            }
            ended = Ended::Before;
            there.status.get_or_insert_default().resolve(now).then(|| ended = Ended::Now)
        });
        let there = answer(name, changed).await?;
        Ok(if there { ended } else { Ended::NotThere })
    }

    /// Counts those of the reports, which waited on disk and are all of this Finding, that aren't counted yet, and says how many that were;
    /// `None` where the Finding is gone. What says that it is over ends it, in its turn.
    pub(super) async fn count_kept(
        &self,
        finding: &Finding,
        reports: &[&Waiting],
    ) -> Result<Option<usize>, IntakeError> {
        let (namespace, name) = (finding.namespace().unwrap_or_default(), finding.name_any());
        let mut repeats = 0;
        let mut collides = false;
        let counted = self.change(&namespace, &name, |there| {
            collides = there.spec.fingerprint != finding.spec.fingerprint;
            let made_by = there.annotations().get(names::REPORT).cloned();
            let status = there.status.get_or_insert_default();
            let fresh = |one: &&&Waiting| {
                let made = made_by.is_some() && one.record.finding.annotations().get(names::REPORT) == made_by.as_ref();
                !made && !one.is_counted(status)
            };
            let fresh: Vec<_> = reports.iter().filter(fresh).copied().collect();
            repeats = fresh.len();
            if collides || fresh.is_empty() {
                return None;
            }
            for one in fresh {
                one.mark_counted(status);
                if one.record.is_over {
                    status.resolve(one.since.into());
                } else {
                    status.report(one.record.repeats, one.since.into());
                }
            }
            Some(())
        });
        match answer(&name, counted).await? {
            _ if collides => Err(IntakeError::Collision { name }),
            there => Ok(there.then_some(repeats)),
        }
    }

    /// Writes what a report says into the Finding of the same problem, where that is such news or worse; whether that is there. What the
    /// problem is, and what it is about, stays.
    async fn change_spec(&self, namespace: &str, name: &str, says: &Finding, from: News) -> Result<bool, kube::Error> {
        let api: Api<Finding> = Api::namespaced(self.client.clone(), namespace);
        let mut last = None;
        for _ in 0..TRIES {
            let _pass = self.lanes.book_keeping().await;
            let Some(there) = api.get_opt(name).await? else { return Ok(false) };
            let is_same = there.spec.fingerprint == says.spec.fingerprint;
            if !is_same || news(&there.spec, &says.spec) < from {
                return Ok(true);
            }
            let spec = &says.spec;
            // Of free-form details a merge would keep what is there no longer.
            let operations = json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": there.metadata.resource_version },
                { "op": "add", "path": "/spec/severity", "value": spec.severity },
                { "op": "add", "path": "/spec/message", "value": spec.message },
                { "op": "add", "path": "/spec/vulnerabilities", "value": spec.vulnerabilities },
                { "op": "add", "path": "/spec/vulnerabilityCounts", "value": spec.vulnerability_counts },
                { "op": "add", "path": "/spec/details", "value": spec.details },
            ]);
            let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
            match api.patch(name, &parameters(), &Patch::Json::<()>(patch)).await {
                Ok(_) => return Ok(true),
                // A failed `test`, which is a conflict by another name.
                Err(kube::Error::Api(status)) if status.is_conflict() || is_failed_test(&status) => {
                    last = Some(kube::Error::Api(status));
                }
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(true), Err)
    }

    /// Changes what is counted of a Finding; whether that is there. Another replica may count the same one: the version that was read is the
    /// precondition.
    async fn change(
        &self,
        namespace: &str,
        name: &str,
        mut change: impl FnMut(&mut Finding) -> Option<()>,
    ) -> Result<bool, kube::Error> {
        let api: Api<Finding> = Api::namespaced(self.client.clone(), namespace);
        let mut last = None;
        for _ in 0..TRIES {
            let _pass = self.lanes.book_keeping().await;
            let Some(mut finding) = api.get_opt(name).await? else { return Ok(false) };
            let before = finding.status.clone().unwrap_or_default();
            if change(&mut finding).is_none() {
                return Ok(true);
            }
            let status = finding.status.unwrap_or_default();
            let mut fields = json!({ "count": status.count, "lastSeen": status.last_seen, "counted": status.counted });
            if before.resolved_at != status.resolved_at {
                fields["resolvedAt"] = json!(status.resolved_at);
            }
            if before.expired_at != status.expired_at {
                fields["expiredAt"] = json!(status.expired_at);
            }
            if before.episode != status.episode {
                fields["episode"] = json!(status.episode);
                fields["reopenedAt"] = json!(status.reopened_at);
                fields["state"] = json!(status.state);
            }
            let patch =
                json!({ "metadata": { "resourceVersion": finding.metadata.resource_version }, "status": fields });
            match api.patch_status(name, &parameters(), &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.is_conflict() => last = Some(kube::Error::Api(status)),
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(true), Err)
    }
}

/// Keeps and counts the groups of a batch, until none comes.
async fn keep_groups(process: Arc<str>, place: Place, backlog: Arc<Backlog>) {
    while let Some(group) = place.batch.next_group() {
        let batch = Counted { by: process.to_string(), through: place.batch.number };
        let kept = backlog.keep_repeats(&group.finding, group.number, batch).await.ok();
        place.take(group.number, kept, Some(&group.finding).filter(|_| group.says_more));
        for answer in group.answers {
            // Who asked may have gone.
            let _ = answer.send(());
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PatchParams::default() }
}

/// What the API server answered, in its time.
async fn answer(name: &str, asked: impl Future<Output = Result<bool, kube::Error>>) -> Result<bool, IntakeError> {
    match tokio::time::timeout(LONGEST_STORE, asked).await {
        Ok(Ok(there)) => Ok(there),
        Ok(Err(source)) => Err(IntakeError::Store { name: name.to_owned(), source: Box::new(source) }),
        Err(_) => Err(IntakeError::NoAnswer { name: name.to_owned() }),
    }
}
