//! What a signal is about: from what a tool says to the object in the cluster, its owner, image and node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use quell_crds::time;
use quell_crds::v1alpha1::{Target, Workload};
use quell_ingest::{About, ImageRef, Place, Signal, normalize_image, place_without_cluster};

use crate::caches::{Caches, addresses, given_image, ids, statuses};

/// An image that a thousand workloads run is one Finding each, and no more than this.
const MOST_PLACES: usize = 200;
/// A pod that the copies don't have is asked for no longer than this: its sender waits. The Finding then names it without its UID.
const LOOK_UP: Duration = Duration::from_secs(1);

/// The places that a signal is about; at least one.
pub async fn locate(signal: &Signal, caches: &Caches, client: &Client) -> Vec<Place> {
    let pod = match &signal.about {
        About::Pod { namespace, name, .. } => find_pod(caches, client, namespace, name).await,
        _ => None,
    };
    place(signal, caches, pod)
}

/// The same, as far as the copies tell.
pub fn locate_in_copies(signal: &Signal, caches: &Caches) -> Vec<Place> {
    let pod = match &signal.about {
        About::Pod { namespace, name, .. } => caches.pod(namespace, name),
        _ => None,
    };
    place(signal, caches, pod)
}

fn place(signal: &Signal, caches: &Caches, pod: Option<Arc<Pod>>) -> Vec<Place> {
    let unplaced = place_without_cluster(signal);
    match &signal.about {
        About::Pod { namespace, name, uid, container, container_id, .. } => {
            let meant = |pod: &Arc<Pod>| uid.as_deref().is_none_or(|uid| pod.uid().as_deref() == Some(uid));
            let is_there = |pod: &Arc<Pod>| meant(pod) && !came_later(pod, signal);
            let gone = || caches.pod_index.gone(namespace, name).filter(is_there);
            let Some(pod) = pod.filter(is_there).or_else(gone) else {
                return vec![of_unknown_pod(unplaced, signal, caches)];
            };
            let status = container_of(&pod, container.as_deref(), container_id.as_deref());
            vec![in_pod(unplaced, &pod, status, caches)]
        }
        About::Container { id, .. } => {
            let live = caches.pods_of(&caches.pod_index.with_container(id));
            let all = live.into_iter().chain(caches.pod_index.gone_with_container(id));
            let found = all.into_iter().find_map(|pod| {
                let name = container_of(&pod, None, Some(id))?.name.clone();
                Some((pod, name))
            });
            let Some((pod, container)) = found else { return vec![unplaced] };
            let mut place = on_pod(unplaced, &pod);
            place.target.container.clone_from(&container);
            let status = statuses(&pod).find(|status| status.name == container);
            vec![in_pod(place, &pod, status, caches)]
        }
        About::Workload { api_version, kind, namespace, name, .. }
            if !api_version.is_empty() && !namespace.is_empty() =>
        {
            let mut place = unplaced;
            place.workload = Some(caches.owner_of(namespace, owner(api_version, kind, name, "")));
            vec![place]
        }
        About::Image { image } => {
            let places = running(image, &unplaced, caches);
            if places.is_empty() { vec![unplaced] } else { places }
        }
        About::Node { name } => {
            // Falco says the name of its own pod where it isn't told the node's.
            let mut place = unplaced;
            let pods = caches.pods_of(&caches.pod_index.named(name));
            let node = pods.iter().find_map(|pod| pod.spec.as_ref()?.node_name.clone());
            if let Some(node) = node {
                place.target.name.clone_from(&node);
                place.target.node = node;
            }
            vec![place]
        }
        About::Address { ip } => {
            let pods = caches.pods_of(&caches.pod_index.with_address(ip));
            let Some(pod) = pods.iter().find(|pod| addresses(pod).any(|own| own == ip)) else { return vec![unplaced] };
            vec![in_pod(on_pod(unplaced, pod), pod, None, caches)]
        }
        About::Workload { .. } => vec![unplaced],
    }
}

fn on_pod(mut place: Place, pod: &Pod) -> Place {
    "Pod".clone_into(&mut place.target.kind);
    "v1".clone_into(&mut place.target.api_version);
    place.target.namespace = pod.namespace().unwrap_or_default();
    place.target.name = pod.name_any();
    place
}

/// A pod that nobody knows any more: its owner is the one that the tool names, or the one that its name tells of.
fn of_unknown_pod(mut place: Place, signal: &Signal, caches: &Caches) -> Place {
    let About::Pod { namespace, name, .. } = &signal.about else { return place };
    place.workload = match &signal.owner {
        Some(named) => {
            Some(caches.owner_of(namespace, owner(&named.api_version, &named.kind, &named.name, &named.uid)))
        }
        None => caches.owner_by_name(namespace, name),
    };
    place
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

/// The copy may be a moment behind: an alert about a pod that began just now is worth a request.
async fn find_pod(caches: &Caches, client: &Client, namespace: &str, name: &str) -> Option<Arc<Pod>> {
    if let Some(pod) = caches.pod(namespace, name) {
        return Some(pod);
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match tokio::time::timeout(LOOK_UP, api.get_opt(name)).await {
        Ok(Ok(pod)) => pod.map(Arc::new),
        Ok(Err(error)) => {
            tracing::warn!(namespace, pod = name, %error, "the pod of a signal could not be looked up");
            None
        }
        Err(_) => {
            tracing::warn!(
                namespace,
                pod = name,
                "the pod of a signal could not be looked up: the API server doesn't answer"
            );
            None
        }
    }
}

/// A StatefulSet gives a new pod the old one's name, so a tool that doesn't say the UID may mean the one before: the time tells.
/// Other controllers never use a name twice.
fn came_later(pod: &Pod, signal: &Signal) -> bool {
    let About::Pod { uid: None, .. } = &signal.about else { return false };
    let reused =
        pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind == "StatefulSet");
    let created = pod.metadata.creation_timestamp.as_ref().map(time::from_kubernetes);
    reused && created.zip(signal.detected_at).is_some_and(|(created, detected)| detected < created)
}

fn container_of<'a>(pod: &'a Pod, name: Option<&str>, id: Option<&str>) -> Option<&'a ContainerStatus> {
    let named = |status: &&ContainerStatus| name.is_some_and(|name| status.name == name);
    let identified = |status: &&ContainerStatus| {
        id.filter(|id| !id.is_empty()).is_some_and(|id| ids(status).any(|known| known.starts_with(id)))
    };
    // A pod with one container leaves no doubt; where a container id is all that is known, it must be the right one.
    let only = || only_container(pod).filter(|_| name.is_some() || id.is_none());
    statuses(pod).find(identified).or_else(|| statuses(pod).find(named)).or_else(only)
}

fn only_container(pod: &Pod) -> Option<&ContainerStatus> {
    match pod.status.as_ref()?.container_statuses.as_deref() {
        Some([one]) => Some(one),
        _ => None,
    }
}

fn in_pod(mut place: Place, pod: &Pod, status: Option<&ContainerStatus>, caches: &Caches) -> Place {
    let target = &mut place.target;
    target.uid = pod.uid().unwrap_or_default();
    target.node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    if let Some(status) = status.or_else(|| only_container(pod)) {
        fill_image(target, pod, status);
    }
    place.workload = Some(caches.top_owner(pod));
    place
}

/// The reference is the one that the workload was given, the digest the one that the node pulled.
fn fill_image(target: &mut Target, pod: &Pod, status: &ContainerStatus) {
    given_image(pod, &status.name).unwrap_or(&status.image).clone_into(&mut target.image);
    if let Some(digest) = digest_of(&status.image_id) {
        digest.clone_into(&mut target.digest);
    }
}

/// Whether a pod of the target's namespace runs the target's image: by its digest where that is given, else by its reference.
pub fn runs_in(caches: &Caches, target: &Target) -> bool {
    let image = ImageRef {
        reference: normalize_image(&target.image),
        digest: Some(target.digest.clone()).filter(|digest| !digest.is_empty()),
        image_id: None,
    };
    let keys = caches.pod_index.with_image(&image);
    let pods = caches.pods_of(keys.iter().filter(|key| key.0 == target.namespace));
    pods.iter().any(|pod| {
        statuses(pod).any(|status| {
            let known = image.digest.is_none() || digest_of(&status.image_id).is_some();
            known && runs(&image, pod, status)
        })
    })
}

fn digest_of(image_id: &str) -> Option<&str> {
    image_id.split_once('@').map(|(_, digest)| digest).filter(|digest| digest.contains(':'))
}

/// One place for each workload that runs the image now.
fn running(image: &ImageRef, unplaced: &Place, caches: &Caches) -> Vec<Place> {
    let mut places: BTreeMap<(String, String, String, String), Place> = BTreeMap::new();
    for pod in caches.pods_of(&caches.pod_index.with_image(image)) {
        let Some(status) = statuses(&pod).find(|status| runs(image, &pod, status)) else { continue };
        let workload = caches.top_owner(&pod);
        let key = (workload.namespace.clone(), workload.kind.clone(), workload.name.clone(), status.name.clone());
        if places.len() >= MOST_PLACES && !places.contains_key(&key) {
            continue;
        }
        places.entry(key).or_insert_with(|| {
            let mut place = on_workload(unplaced, &workload, &status.name);
            fill_image(&mut place.target, &pod, status);
            place
        });
    }
    places.into_values().collect()
}

fn on_workload(unplaced: &Place, workload: &Workload, container: &str) -> Place {
    let mut target = unplaced.target.clone();
    target.kind.clone_from(&workload.kind);
    target.api_version.clone_from(&workload.api_version);
    target.namespace.clone_from(&workload.namespace);
    target.name.clone_from(&workload.name);
    target.uid.clone_from(&workload.uid);
    container.clone_into(&mut target.container);
    Place { target, workload: Some(workload.clone()) }
}

/// Digests decide where both are known; else the reference, as the workload was given it or as the node has it.
fn runs(image: &ImageRef, pod: &Pod, status: &ContainerStatus) -> bool {
    let running = digest_of(&status.image_id);
    if let (Some(wanted), Some(running)) = (image.digest.as_deref(), running) {
        return wanted == running;
    }
    if image.image_id.as_deref().is_some_and(|id| !id.is_empty() && status.image_id.ends_with(id)) {
        return true;
    }
    if image.reference.is_empty() {
        return false;
    }
    let names = given_image(pod, &status.name).into_iter().chain([status.image.as_str()]);
    names.map(normalize_image).any(|name| name == image.reference)
}
