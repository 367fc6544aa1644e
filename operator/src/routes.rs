//! Routes of Gateways: followed while the cluster serves them, for what they lead to pods.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, ResourceExt as _, discovery};
use quell_actions::exposure::{Route, RouteKind};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::caches::Routes;

const GROUP: &str = "gateway.networking.k8s.io";
const KIND: &str = "HTTPRoute";
const DEFINITION: &str = "httproutes.gateway.networking.k8s.io";
/// An API server that doesn't say which version it prefers is asked again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// Tells, once, that what is there has been read, or that nothing can be read for now.
type Told = Option<oneshot::Sender<()>>;

/// Follows HTTPRoutes from the moment that they are served to the moment that they aren't any more, until `end`. `told` is told once those
/// that are there have been read, where there are any.
pub async fn follow(client: Client, routes: Arc<Routes>, told: oneshot::Sender<()>, end: CancellationToken) {
    let mut told = Some(told);
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let stream = watcher::watch_object(definitions, DEFINITION).default_backoff().take_until(end.cancelled_owned());
    let mut stream = std::pin::pin!(stream);
    let mut open: Option<AbortHandle> = None;
    while let Some(definition) = stream.next().await {
        match definition {
            // A definition that was just created isn't served at once, and changes again when it is.
            Ok(Some(_)) => {
                if open.as_ref().is_none_or(AbortHandle::is_finished) {
                    let task = tokio::spawn(served(client.clone(), routes.clone(), told.take()));
                    open = Some(task.abort_handle());
                }
            }
            Ok(None) => {
                if let Some(task) = open.take() {
                    task.abort();
                }
                routes.are(RouteKind::HttpRoute, Vec::new());
                tell(&mut told);
            }
            Err(error) => {
                tracing::warn!(kind = KIND, %error, "whether the kind is served can't be told; tried again");
                tell(&mut told);
            }
        }
    }
    if let Some(task) = open {
        task.abort();
    }
}

fn tell(told: &mut Told) {
    if let Some(told) = told.take() {
        // Nobody waits any more when the operator ends.
        let _ = told.send(());
    }
}

async fn served(client: Client, routes: Arc<Routes>, mut told: Told) {
    let Some(resource) = resource(&client, &mut told).await else { return };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let stream =
        watch(api, watcher::Config::default()).modify(|object| object.managed_fields_mut().clear()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: Vec<Route> = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(Route::of_http_route(&object)),
            Ok(Event::InitDone) => {
                routes.are(RouteKind::HttpRoute, std::mem::take(&mut listed));
                tell(&mut told);
            }
            Ok(Event::Apply(object)) => match Route::of_http_route(&object) {
                Some(route) => routes.put(route),
                None => gone(&routes, &object),
            },
            Ok(Event::Delete(object)) => gone(&routes, &object),
            Err(error) => {
                tracing::warn!(kind = KIND, %error, "routes can't be followed; tried again");
                tell(&mut told);
            }
        }
    }
}

fn gone(routes: &Routes, object: &DynamicObject) {
    routes.remove(RouteKind::HttpRoute, &object.namespace().unwrap_or_default(), &object.name_any());
}

/// The kind in the version that the API server prefers; nothing where it isn't served yet.
async fn resource(client: &Client, told: &mut Told) -> Option<ApiResource> {
    loop {
        match discovery::group(client, GROUP).await {
            Ok(group) => return group.recommended_kind(KIND).map(|(resource, _)| resource),
            Err(kube::Error::Discovery(_)) => return None,
            Err(kube::Error::Api(status)) if status.is_not_found() => return None,
            Err(error) => {
                tracing::warn!(kind = KIND, %error, "the version that is served can't be told; tried again");
                tell(told);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
