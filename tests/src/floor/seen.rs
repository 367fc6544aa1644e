//! When an object was first seen to be as it should, by a watch of its own.

use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// The names of the objects that were seen, and when.
pub struct Seen {
    names: watch::Receiver<Arc<HashMap<String, Instant>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Seen {
    /// Watches `api` for objects that are as `wanted`.
    pub fn by_watch<K>(api: Api<K>, config: watcher::Config, wanted: impl Fn(&K) -> bool + Send + 'static) -> Self
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (sender, names) = watch::channel(Arc::default());
        let task = tokio::spawn(async move {
            let mut stream = pin!(watcher(api, config).default_backoff().touched_objects());
            while let Ok(Some(object)) = stream.try_next().await {
                if wanted(&object) {
                    let now = Instant::now();
                    sender.send_modify(|names: &mut Arc<HashMap<String, Instant>>| {
                        Arc::make_mut(names).entry(object.name_any()).or_insert(now);
                    });
                }
            }
        });
        Self { names, task }
    }

    /// Waits until all of them were seen, and says when the last one was.
    pub async fn all(&mut self, wanted: &[String], deadline: Duration) -> Result<Instant> {
        let complete = self.names.wait_for(|names| wanted.iter().all(|name| names.contains_key(name)));
        let names = tokio::time::timeout(deadline, complete)
            .await
            .with_context(|| format!("not all {} were seen within {deadline:?}", wanted.len()))??
            .clone();
        wanted.iter().filter_map(|name| names.get(name)).max().copied().context("nothing was waited for")
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}
