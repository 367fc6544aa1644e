//! Copies of what is in the cluster, kept by watches, trimmed to what is needed.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, Resource, ResourceExt as _};
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

    /// Keeps a copy of all objects of one of Quell's own kinds; see [`Self::keep`]. One that can't be read, such as one that another version of
    /// Quell has written, is left out and said, and is in the way of no other.
    pub fn keep_own<K>(&self, client: &Client, notice: impl FnMut(Change<K>) + Send + 'static) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store::<K>();
        let copy = store.clone();
        let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
        let stream = watch(api, watcher::Config::default())
            .filter_map(move |event| futures::future::ready(event.map(|event| readable(event, &copy)).transpose()));
        self.follow(store.clone(), writer, stream, |_| {}, notice);
        store
    }

    /// Keeps a copy of what `api` lists. `trim` takes off what nobody needs before the copy is kept; `notice` is told of each change,
    /// after the store shows it, and must not block.
    pub fn keep<K>(
        &self,
        api: Api<K>,
        selection: watcher::Config,
        trim: impl Fn(&mut K) + Send + 'static,
        notice: impl FnMut(Change<K>) + Send + 'static,
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
        self.follow(store.clone(), writer, watch(api, selection), trim, notice);
        store
    }

    fn follow<K>(
        &self,
        copy: Store<K>,
        writer: Writer<K>,
        events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
        trim: impl Fn(&mut K) + Send + 'static,
        mut notice: impl FnMut(Change<K>) + Send + 'static,
    ) where
        K: Resource<DynamicType: Default + Eq + Hash + Clone + Send + Sync + Unpin>
            + Clone
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let end = self.end.clone();
        self.tasks.spawn(async move {
            let kind = K::kind(&K::DynamicType::default()).into_owned();
            let stream = events
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
    }
}

/// The event, where its object can be read. An object that can't any more is gone for whoever looks at the copy, for the copy would be of
/// what it was.
fn readable<K>(event: Event<DeserializeGuard<K>>, copy: &Store<K>) -> Option<Event<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    let (event, object): (fn(K) -> Event<K>, _) = match event {
        Event::Init => return Some(Event::Init),
        Event::InitDone => return Some(Event::InitDone),
        Event::InitApply(object) => (Event::InitApply, object),
        Event::Apply(object) => (Event::Apply, object),
        Event::Delete(object) => (Event::Delete, object),
    };
    let invalid = match object.0 {
        Ok(object) => return Some(event(object)),
        Err(invalid) => invalid,
    };
    let (name, namespace) = (invalid.metadata.name.unwrap_or_default(), invalid.metadata.namespace);
    tracing::warn!(
        kind = %K::kind(&()), namespace, name, error = invalid.error,
        "can't be read and is left out: another version of Quell may have written it, or its CRD isn't that of this version"
    );
    let reference = ObjectRef::<K>::new(&name);
    let reference = match &namespace {
        Some(namespace) => reference.within(namespace),
        None => reference,
    };
    copy.get(&reference).map(|known| Event::Delete((*known).clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use quell_crds::v1alpha1::ImageBlock;
    use serde_json::{Value, json};

    use super::*;

    fn block(name: &str, spec: &Value) -> DeserializeGuard<ImageBlock> {
        let metadata = json!({"name": name, "resourceVersion": "1"});
        let object =
            json!({"apiVersion": "quell.dev/v1alpha1", "kind": "ImageBlock", "metadata": metadata, "spec": spec});
        serde_json::from_value(object).expect("the guard takes everything that has metadata")
    }

    fn good(name: &str) -> DeserializeGuard<ImageBlock> {
        block(name, &json!({"tag": "registry.example/app:1", "reason": "tests"}))
    }

    fn bad(name: &str) -> DeserializeGuard<ImageBlock> {
        block(name, &json!({"tag": ["of", "a", "later", "version"]}))
    }

    #[tokio::test]
    async fn objects_that_can_not_be_read_are_in_the_way_of_no_other() {
        let mut events = vec![Event::Init];
        for number in 0..10_000 {
            events.push(Event::InitApply(bad(&format!("bad-{number}"))));
            if number % 1000 == 0 {
                events.push(Event::InitApply(good(&format!("good-{number}"))));
            }
        }
        events.extend([Event::InitDone, Event::Apply(good("late")), Event::Apply(bad("good-0"))]);
        let (store, writer) = reflector::store::<ImageBlock>();
        let copy = store.clone();
        let stream = futures::stream::iter(events).map(Ok).chain(futures::stream::pending());
        let stream = stream.filter_map(move |event: Result<_, watcher::Error>| {
            futures::future::ready(event.map(|event| readable(event, &copy)).transpose())
        });
        let (end, gone) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (ended, counted) = (end.clone(), gone.clone());
        let tasks = TaskTracker::new();
        Mirrors::new(tasks.clone(), end).follow(
            store.clone(),
            writer,
            stream,
            |_| {},
            move |change| {
                if matches!(change, Change::Gone(_)) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    ended.cancel();
                }
            },
        );
        tasks.close();
        tasks.wait().await;
        let mut names: Vec<String> = store.state().iter().map(|block| block.name_any()).collect();
        names.sort();
        let expected: Vec<String> =
            (1..10).map(|number| format!("good-{number}000")).chain(["late".to_owned()]).collect();
        assert_eq!(names, expected, "one that was good and is not any more is gone");
        assert_eq!(gone.load(Ordering::Relaxed), 1);
    }
}
