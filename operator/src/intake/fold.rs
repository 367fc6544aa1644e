//! Repeats of a signal: folded before they reach the API server, so that a storm of one alert is a few writes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names::{self, field_managers};
use quell_crds::v1alpha1::Finding;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::process_name;
use crate::intake::backlog::Waiting;
use crate::intake::deliver::may_be_taken_later;
use crate::intake::{IntakeError, LONGEST_STORE};
use crate::lanes::Lanes;

/// The first repeat is written at once; what comes within this time after a write is one further write.
const WINDOW: Duration = Duration::from_secs(5);
/// A count that can't be written is tried this often, each time from what is there.
const TRIES: usize = 8;

type Key = (String, String);

/// Counts repeats.
#[derive(Clone)]
pub struct Folder {
    client: Client,
    lanes: Lanes,
    tasks: TaskTracker,
    end: CancellationToken,
    open: Arc<Mutex<HashMap<Key, Repeats>>>,
    /// A name for the batches of this process.
    process: Arc<str>,
    batches: Arc<AtomicI64>,
}

#[derive(Clone, Copy, Debug)]
struct Repeats {
    number: i64,
    last: DateTime<Utc>,
    /// Written as one, however often that is tried.
    batch: i64,
}

impl Folder {
    /// Writes counts by `client`, in tasks of `tasks`, so that an orderly `end` waits for the last.
    #[must_use]
    pub fn new(client: Client, lanes: Lanes, tasks: TaskTracker, end: CancellationToken) -> Self {
        let process = format!("{}.repeats", process_name()).into();
        Self { client, lanes, tasks, end, open: Arc::default(), process, batches: Arc::default() }
    }

    /// Counts one repeat of the Finding.
    pub fn count(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let now = Utc::now();
        let Ok(mut open) = self.open.lock() else { return };
        if let Some(repeats) = open.get_mut(&key) {
            repeats.number += 1;
            repeats.last = now;
            return;
        }
        open.insert(key.clone(), Repeats { number: 1, last: now, batch: 0 });
        let folder = self.clone();
        self.tasks.spawn(async move { folder.write_out(key).await });
    }

    /// Lives as long as repeats keep coming, one writer for each Finding. What could not be written is tried again; whether the API server
    /// took it all the same is in the Finding.
    async fn write_out(&self, key: Key) {
        let mut behind = None;
        loop {
            let Some(repeats) = behind.take().or_else(|| self.take(&key)) else { return };
            if let Err(error) = self.write(&key, repeats).await {
                tracing::warn!(namespace = key.0, finding = key.1, %error, "repeats could not be counted");
                behind = Some(repeats).filter(|_| may_be_taken_later(&error) && !self.end.is_cancelled());
            }
            tokio::select! {
                () = tokio::time::sleep(WINDOW) => {}
                // At the end what has come in is written out without delay.
                () = self.end.cancelled() => {}
            }
        }
    }

    /// What has come since the last time; with nothing, the Finding is no longer followed.
    fn take(&self, key: &Key) -> Option<Repeats> {
        let mut open = self.open.lock().ok()?;
        let repeats = open.get_mut(key)?;
        let taken = Repeats { batch: self.batches.fetch_add(1, Ordering::Relaxed), ..*repeats };
        if taken.number == 0 {
            open.remove(key);
            return None;
        }
        repeats.number = 0;
        Some(taken)
    }

    async fn write(&self, (namespace, name): &Key, repeats: Repeats) -> Result<(), kube::Error> {
        let counted = self.change(namespace, name, |finding| {
            let status = finding.status.get_or_insert_default();
            if status.has_counted(&self.process, repeats.batch) {
                return None;
            }
            status.mark_counted(&self.process, repeats.batch);
            status.count = status.count.saturating_add(repeats.number);
            status.last_seen = status.last_seen.max(Some(repeats.last));
            Some(())
        });
        // Nothing is left to be counted where the Finding is gone.
        counted.await.map(drop)
    }

    /// Counts those of the reports, which waited on disk and are all of this Finding, that aren't counted yet, and says how many that were;
    /// `None` where the Finding is gone.
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
                !made && !status.has_counted(&one.record.process, one.number())
            };
            let fresh: Vec<_> = reports.iter().filter(fresh).copied().collect();
            repeats = fresh.len();
            if collides || fresh.is_empty() {
                return None;
            }
            for one in fresh {
                status.mark_counted(&one.record.process, one.number());
                status.count = status.count.saturating_add(1);
                status.last_seen = status.last_seen.max(Some(one.since.into()));
            }
            Some(())
        });
        match tokio::time::timeout(LONGEST_STORE, counted).await {
            Ok(Ok(_)) if collides => Err(IntakeError::Collision { name }),
            Ok(Ok(there)) => Ok(there.then_some(repeats)),
            Ok(Err(source)) => Err(IntakeError::Store { name, source: Box::new(source) }),
            Err(_) => Err(IntakeError::NoAnswer { name }),
        }
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
        let parameters =
            PatchParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PatchParams::default() };
        let mut last = None;
        for _ in 0..TRIES {
            let _pass = self.lanes.book_keeping().await;
            let Some(mut finding) = api.get_opt(name).await? else { return Ok(false) };
            if change(&mut finding).is_none() {
                return Ok(true);
            }
            let status = finding.status.unwrap_or_default();
            let patch = json!({
                "metadata": { "resourceVersion": finding.metadata.resource_version },
                "status": { "count": status.count, "lastSeen": status.last_seen, "counted": status.counted },
            });
            match api.patch_status(name, &parameters, &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.is_conflict() => last = Some(kube::Error::Api(status)),
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(true), Err)
    }
}
