//! Sources that are watched: the objects of other tools, read as they come, whether their kinds are served now or later.

mod catalog;
mod follower;
mod kinds;
mod ledger;
mod state;

pub use follower::Shared;
pub use state::Watching;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, PartialObjectMeta};
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Resource, ResourceExt as _};
use quell_crds::v1alpha1::Source;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::intake::reads::Reads;
use crate::intake::watch::catalog::Catalog;
use crate::intake::watch::follower::Follower;
use crate::intake::watch::kinds::{Manner, Wanted, wanted};
use crate::intake::watch::ledger::Book;
use crate::intake::watch::state::State;

/// Discovery is asked again after this for what is defined and not served yet.
const SOON: Duration = Duration::from_secs(1);

/// Keeps a watch for each kind of each Source that asks for one, from the moment that it is served to the moment that it isn't any more;
/// `changed` says that Sources have changed. Only the leader does this: a report has one reader.
pub async fn watch_sources(shared: Shared, changed: Arc<Notify>, end: CancellationToken) {
    let mut definitions = metadata::<CustomResourceDefinition>(&shared);
    let mut services = metadata::<APIService>(&shared);
    let mut watches = Watches { shared, catalog: Catalog::default(), open: HashMap::new(), books: HashMap::new() };
    let mut listed: HashSet<String> = HashSet::new();
    // Before they are listed, a definition that isn't known yet would look like one that is gone.
    let mut known = false;
    let mut again: Option<Instant> = None;
    loop {
        let at = again.unwrap_or_else(Instant::now);
        tokio::select! {
            () = changed.notified() => {}
            event = definitions.next() => match event {
                None => return,
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(one))) => {
                    watches.catalog.is_defined(&one.name_any());
                    listed.insert(one.name_any());
                }
                Some(Ok(Event::InitDone)) => {
                    watches.catalog.are_defined(&listed);
                    known = true;
                }
                Some(Ok(Event::Apply(one))) => watches.catalog.is_defined(&one.name_any()),
                Some(Ok(Event::Delete(one))) => watches.catalog.is_defined_no_more(&one.name_any()),
                Some(Err(error)) => tracing::warn!(%error, "CustomResourceDefinitions can't be followed; tried again"),
            },
            event = services.next() => match event {
                None => return,
                Some(Ok(Event::InitApply(one) | Event::Apply(one) | Event::Delete(one))) => {
                    // `<version>.<group>`
                    if let Some((_, group)) = one.name_any().split_once('.') {
                        watches.catalog.look_again(group);
                    }
                }
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(%error, "APIServices can't be followed; tried again"),
            },
            () = tokio::time::sleep_until(at), if again.is_some() => {}
            () = end.cancelled() => break,
        }
        if known {
            again = watches.refresh().await.then(|| Instant::now() + SOON);
        }
    }
    watches.open.into_values().for_each(|open| open.task.abort());
}

type Changes<K> = BoxStream<'static, Result<Event<PartialObjectMeta<K>>, watcher::Error>>;

fn metadata<K>(shared: &Shared) -> Changes<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(shared.client.clone());
    watch(api, watcher::Config::default()).default_backoff().boxed()
}

/// A Source as it is written, and a kind in a version.
type Watch = (String, Option<i64>, String, String);

struct Open {
    task: JoinHandle<()>,
    withdrawn: CancellationToken,
}

struct Watches {
    shared: Shared,
    catalog: Catalog,
    open: HashMap<Watch, Open>,
    /// What the objects of each Source report.
    books: HashMap<String, Arc<Book>>,
}

impl Watches {
    /// Opens and closes watches, as Sources and the cluster have it now. The answer is whether to look again soon.
    async fn refresh(&mut self) -> bool {
        let sources: Vec<(Arc<Source>, Vec<Wanted>, Reads)> = self
            .shared
            .caches
            .sources
            .state()
            .into_iter()
            .filter_map(|source| {
                let wanted = wanted(&source.spec);
                let reads = Reads::compile(&source).ok()?;
                (!wanted.is_empty()).then_some((source, wanted, reads))
            })
            .collect();
        let asked = sources.iter().flat_map(|(_, wanted, _)| wanted).filter(|one| !one.is_events());
        let groups: HashSet<&str> = asked.map(Wanted::group).collect();
        self.catalog.wants(&groups);
        let again = self.catalog.refresh(&self.shared.client).await;

        let mut stays: HashSet<Watch> = HashSet::new();
        for (source, wanted, reads) in &sources {
            let mut kinds: BTreeMap<String, State> = BTreeMap::new();
            for one in wanted {
                let served = self.served(one);
                if served.is_empty() && self.catalog.is_known(one.group()) {
                    kinds.insert(one.to_string(), State::NotServed);
                }
                for resource in served {
                    kinds.insert(kinds::label(&resource), State::Begins);
                    stays.insert(self.watch(source, reads, resource));
                }
            }
            self.shared.watching.wants(&source.name_any(), kinds);
        }
        let names: HashSet<String> = sources.iter().map(|(source, ..)| source.name_any()).collect();
        for gone in self.shared.watching.sources().into_iter().filter(|name| !names.contains(name)) {
            self.shared.watching.wants(&gone, BTreeMap::new());
        }
        self.books.retain(|name, _| names.contains(name));
        let written: HashSet<(String, Option<i64>)> =
            sources.iter().map(|(source, ..)| (source.name_any(), source.metadata.generation)).collect();
        self.open.retain(|watch, open| {
            if stays.contains(watch) {
                return true;
            }
            if written.contains(&(watch.0.clone(), watch.1)) {
                // The Source is as it was, so it is the kind that is gone: what its objects reported is over.
                open.withdrawn.cancel();
            } else {
                open.task.abort();
            }
            false
        });
        again
    }

    fn served(&self, wanted: &Wanted) -> Vec<ApiResource> {
        if wanted.is_events() {
            return vec![kinds::events()];
        }
        wanted.of(self.catalog.served(wanted.group())).into_iter().cloned().collect()
    }

    /// The watch of a kind, which is opened where it isn't.
    fn watch(&mut self, source: &Arc<Source>, reads: &Reads, kind: ApiResource) -> Watch {
        let name = source.name_any();
        let watch = (name.clone(), source.metadata.generation, kinds::label(&kind), kind.version.clone());
        if self.open.get(&watch).is_none_or(|open| open.task.is_finished()) {
            let withdrawn = CancellationToken::new();
            let follower = Follower {
                shared: self.shared.clone(),
                source: source.clone(),
                kind,
                reads: reads.clone(),
                manner: Manner::of(source.spec.format),
                book: self.books.entry(name).or_default().clone(),
                withdrawn: withdrawn.clone(),
            };
            self.open.insert(watch.clone(), Open { task: tokio::spawn(follower.follow()), withdrawn });
        }
        watch
    }
}
