//! What happens in the shop, as the API server tells it: one watch for each kind, and no polling.

use std::fmt::Debug;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use quell_crds::v1alpha1::{Finding, Remediation};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::receiver::Delivery;

/// Something that was seen.
#[derive(Clone, Debug)]
pub struct News {
    /// When it was seen.
    pub at: Instant,
    /// What.
    pub seen: Seen,
}

/// An object as it is now, or a notification that came in.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A Finding.
    Finding(Box<Finding>),
    /// A Remediation.
    Run(Box<Remediation>),
    /// A NetworkPolicy.
    Policy(Box<NetworkPolicy>),
    /// A pod.
    Pod(Box<Pod>),
    /// The addresses behind a Service.
    Endpoints(Box<EndpointSlice>),
    /// A Deployment.
    Deployment(Box<Deployment>),
    /// A Job.
    Job(Box<Job>),
    /// A notification, at the receiver.
    Delivery(Box<Delivery>),
}

/// The watches; they end with this value.
pub struct Watches {
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Opens a watch for each kind, and returns when all have told what was there before.
    pub async fn open(client: &Client, namespace: &str, news: &mpsc::UnboundedSender<News>) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let mut complete = Vec::new();
        macro_rules! watch {
            ($($kind:ident),*) => {$({
                let (ready, is_ready) = oneshot::channel();
                complete.push(is_ready);
                let api = Api::namespaced(client.clone(), namespace);
                tasks.spawn(follow(api, |object| Seen::$kind(Box::new(object)), news.clone(), ready));
            })*};
        }
        watch!(Finding, Run, Policy, Pod, Endpoints, Deployment, Job);
        for ready in complete {
            ready.await.context("a watch ended before it had begun")?;
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn follow<K>(api: Api<K>, wrap: impl Fn(K) -> Seen, news: mpsc::UnboundedSender<News>, ready: oneshot::Sender<()>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut ready = Some(ready);
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = stream.next().await {
        let at = Instant::now();
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                if news.send(News { at, seen: wrap(object) }).is_err() {
                    return;
                }
            }
            Ok(Event::InitDone) => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(());
                }
            }
            // An interrupted watch is opened anew by the stream itself.
            Ok(Event::Init | Event::Delete(_)) | Err(_) => {}
        }
    }
}
