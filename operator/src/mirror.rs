//! Copies of what is in the cluster, kept by watches, trimmed to what is needed.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::Api;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What happened to an object; the store shows it already.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It is there, new or changed.
    There(Arc<K>),
    /// It is gone.
    Gone(Arc<K>),
    /// The whole list was read anew, and every object of it was told.
    Listed,
}

/// Runs watches until the end.
#[derive(Clone)]
pub struct Mirrors {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Mirrors {
    /// Watches run as tasks of `tasks`, until `end`.
    #[must_use]
    pub fn new(tasks: TaskTracker, end: CancellationToken) -> Self {
        Self { tasks, end }
    }

    /// Keeps a copy of what `api` lists. `trim` takes off what nobody needs before the copy is kept; `notice` is told of each change,
    /// after the store shows it, and must not block.
    pub fn keep<K>(
        &self,
        api: Api<K>,
        selection: watcher::Config,
        trim: impl Fn(&mut K) + Send + 'static,
        mut notice: impl FnMut(Change<K>) + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType: Default + Eq + Hash + Clone + Send + Sync + Unpin>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = reflector::store::<K>();
        let copy = store.clone();
        let end = self.end.clone();
        self.tasks.spawn(async move {
            let kind = K::kind(&K::DynamicType::default()).into_owned();
            let stream = watch(api, selection)
                .modify(move |object| {
                    object.managed_fields_mut().clear();
                    trim(object);
                })
                .default_backoff()
                .reflect(writer)
                .take_until(end.cancelled_owned());
            let mut stream = std::pin::pin!(stream);
            let mut before = Vec::new();
            loop {
                match stream.try_next().await {
                    Ok(None) => break,
                    Ok(Some(Event::Apply(object))) => {
                        if let Some(object) = copy.get(&ObjectRef::from_obj(&object)) {
                            notice(Change::There(object));
                        }
                    }
                    Ok(Some(Event::Delete(object))) => notice(Change::Gone(Arc::new(object))),
                    Ok(Some(Event::Init)) => before = copy.state(),
                    Ok(Some(Event::InitApply(_))) => {}
                    Ok(Some(Event::InitDone)) => {
                        // Whatever happened while nobody watched is in the list, or missing from it.
                        for object in
                            before.drain(..).filter(|object| copy.get(&ObjectRef::from_obj(&**object)).is_none())
                        {
                            notice(Change::Gone(object));
                        }
                        for object in copy.state() {
                            notice(Change::There(object));
                        }
                        notice(Change::Listed);
                    }
                    Err(error) => tracing::warn!(kind, %error, "a watch was interrupted; it is opened anew"),
                }
            }
        });
        store
    }
}
