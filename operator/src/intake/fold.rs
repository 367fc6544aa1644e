//! Repeats of a signal: folded before they reach the API server, so that a storm of one alert is a few writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use quell_crds::names::field_managers;
use quell_crds::v1alpha1::Finding;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
}

#[derive(Clone, Copy, Debug)]
struct Repeats {
    number: i64,
    last: DateTime<Utc>,
}

impl Folder {
    /// Writes counts by `client`, in tasks of `tasks`, so that an orderly `end` waits for the last.
    #[must_use]
    pub fn new(client: Client, lanes: Lanes, tasks: TaskTracker, end: CancellationToken) -> Self {
        Self { client, lanes, tasks, end, open: Arc::default() }
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
        open.insert(key.clone(), Repeats { number: 1, last: now });
        let folder = self.clone();
        self.tasks.spawn(async move { folder.write_out(key).await });
    }

    /// Lives as long as repeats keep coming, one writer for each Finding.
    async fn write_out(&self, key: Key) {
        loop {
            let Some(repeats) = self.take(&key) else { return };
            if let Err(error) = self.write(&key, repeats).await {
                tracing::warn!(namespace = key.0, finding = key.1, %error, "repeats could not be counted");
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
        let taken = *repeats;
        if taken.number == 0 {
            open.remove(key);
            return None;
        }
        repeats.number = 0;
        Some(taken)
    }

    /// Another replica may count the same Finding: the version that was read is the precondition.
    async fn write(&self, (namespace, name): &Key, repeats: Repeats) -> Result<(), kube::Error> {
        let api: Api<Finding> = Api::namespaced(self.client.clone(), namespace);
        let parameters =
            PatchParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PatchParams::default() };
        let mut last = None;
        for _ in 0..TRIES {
            let _pass = self.lanes.book_keeping().await;
            let Some(finding) = api.get_opt(name).await? else { return Ok(()) };
            let status = finding.status.unwrap_or_default();
            let patch = json!({
                "metadata": { "resourceVersion": finding.metadata.resource_version },
                "status": {
                    "count": status.count.saturating_add(repeats.number),
                    "lastSeen": status.last_seen.max(Some(repeats.last)),
                },
            });
            match api.patch_status(name, &parameters, &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.is_conflict() => last = Some(kube::Error::Api(status)),
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(()), Err)
    }
}
