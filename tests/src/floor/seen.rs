//! When an object was first seen to be as it should, by a watch of its own.

use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use kube::core::ApiResource;
use kube::core::object::{NotUsed, Object};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// An object of which only the metadata is read: what is timed must not wait for the reader.
pub type Light = Object<NotUsed, NotUsed>;

/// The API of such objects.
#[must_use]
pub fn light<K: Resource<DynamicType = ()>>(client: Client, namespace: &str) -> Api<Light> {
    Api::namespaced_with(client, namespace, &ApiResource::erase::<K>(&()))
}

/// The names of the objects that were seen, and when.
pub struct Seen {
    names: watch::Receiver<HashMap<String, Instant>>,
    task: tokio::task::JoinHandle<()>,
}

impl Seen {
    /// Watches `api`, and keeps the names that `name` gives; `None` for what isn't as it should be yet.
    pub fn by_watch<K>(
        api: Api<K>,
        config: watcher::Config,
        name: impl Fn(&K) -> Option<String> + Send + 'static,
    ) -> Self
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (sender, names) = watch::channel(HashMap::default());
        let task = tokio::spawn(async move {
            let mut stream = pin!(watcher(api, config).default_backoff().touched_objects());
            while let Ok(Some(object)) = stream.try_next().await {
                if let Some(name) = name(&object) {
                    let now = Instant::now();
                    sender.send_modify(|names| {
                        names.entry(name).or_insert(now);
                    });
                }
            }
        });
        Self { names, task }
    }

    /// Waits until all of them were seen, and says when the last one was.
    pub async fn all(&mut self, wanted: &[String], deadline: Duration) -> Result<Instant> {
        let complete = self
            .names
            .wait_for(|names| names.len() >= wanted.len() && wanted.iter().all(|name| names.contains_key(name)));
        let names = tokio::time::timeout(deadline, complete)
            .await
            .with_context(|| format!("not all {} were seen within {deadline:?}", wanted.len()))??;
        wanted.iter().filter_map(|name| names.get(name)).max().copied().context("nothing was waited for")
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}
