//! Sources that are watched: the objects of another tool, read as they come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, ResourceExt as _};
use quell_crds::v1alpha1::Format;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::intake::server::outcome;
use crate::intake::{Again, Intake};
use crate::metrics::Metrics;

/// A report that could not be stored is tried again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps one watch for each Source that asks for one; `changed` says that Sources have changed. Only the leader does this: a report has one
/// reader.
pub async fn watch_sources(
    client: Client,
    caches: Arc<Caches>,
    intake: Arc<Intake>,
    metrics: Metrics,
    changed: Arc<Notify>,
    end: CancellationToken,
) {
    let mut open: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let wanted: Vec<(String, Format)> = caches
            .sources
            .state()
            .iter()
            .filter(|source| source.spec.watch.is_some())
            .filter_map(|source| Some((source.name_any(), source.spec.format?)))
            .collect();
        open.retain(|name, task| {
            let keep = wanted.iter().any(|(wanted, _)| wanted == name);
            if !keep {
                task.abort();
            }
            keep
        });
        for (name, format) in wanted {
            let (client, intake, metrics) = (client.clone(), intake.clone(), metrics.clone());
            open.entry(name.clone()).or_insert_with(|| {
                tokio::spawn(async move { follow(client, &name, format, &intake, &metrics).await }).abort_handle()
            });
        }
        tokio::select! {
            () = changed.notified() => {}
            () = end.cancelled() => break,
        }
    }
    for task in open.into_values() {
        task.abort();
    }
}

/// The resource of a format that is watched.
#[must_use]
pub fn resource(format: Format) -> Option<ApiResource> {
    match format {
        Format::TrivyOperator => Some(ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("aquasecurity.github.io", "v1alpha1", "VulnerabilityReport"),
            "vulnerabilityreports",
        )),
        _ => None,
    }
}

async fn follow(client: Client, source: &str, format: Format, intake: &Intake, metrics: &Metrics) {
    let Some(resource) = resource(format) else { return };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    // Where the kind isn't served yet, the watch fails and is tried again; the tool may be installed after Quell.
    let stream = watch(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => read(&object, source, format, intake, metrics).await,
            Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(source, %error, "a watch was interrupted; it is opened anew"),
        }
    }
}

/// One report, until it is stored: a watch has nobody who would send it again.
async fn read(object: &DynamicObject, source: &str, format: Format, intake: &Intake, metrics: &Metrics) {
    let name = object.name_any();
    let signals = match serde_json::to_vec(object).map(|body| quell_ingest::read(format, &body)) {
        Ok(Ok(signals)) => signals,
        Ok(Err(unreadable)) => {
            metrics.signal(source, "refused");
            tracing::warn!(source, object = name, %unreadable, "a report was not understood");
            return;
        }
        Err(error) => {
            tracing::warn!(source, object = name, %error, "a report was not understood");
            return;
        }
    };
    loop {
        match intake.submit(source, &signals, Again::IsTheSame).await {
            Ok(accepted) => {
                for one in accepted {
                    metrics.signal(source, outcome(&one));
                }
                return;
            }
            Err(error) => {
                metrics.signal(source, "failed");
                tracing::warn!(source, object = name, %error, "a report could not be stored");
                if !error.is_transient() {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Whether the cluster serves what a format is watched by.
pub async fn is_served(client: &Client, format: Format) -> Result<bool, kube::Error> {
    let Some(resource) = resource(format) else { return Ok(true) };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    match api.list_metadata(&kube::api::ListParams::default().limit(1)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
