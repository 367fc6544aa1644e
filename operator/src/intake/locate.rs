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

use crate::caches::Caches;

/// An image that a thousand workloads run is one Finding each, and no more than this.
const MOST_PLACES: usize = 200;
/// A pod that the copies don't have is asked for no longer than this: its sender waits. The Finding then names it without its UID.
const LOOK_UP: Duration = Duration::from_secs(1);

/// The places that a signal is about; at least one.
pub async fn locate(signal: &Signal, caches: &Caches, client: &Client) -> Vec<Place> {
    let unplaced = place_without_cluster(signal);
    match &signal.about {
        About::Pod { namespace, name, uid, container, container_id, .. } => {
            let Some(pod) = find_pod(caches, client, namespace, name).await else { return vec![unplaced] };
            let meant = uid.as_deref().is_none_or(|uid| pod.uid().as_deref() == Some(uid));
            if !meant || came_later(&pod, signal) {
                return vec![unplaced];
            }
            let status = container_of(&pod, container.as_deref(), container_id.as_deref());
            vec![in_pod(unplaced, &pod, status, caches)]
        }
        About::Container { id, .. } => {
            let pods = caches.pods.state();
            let found = pods.iter().find_map(|pod| container_of(pod, None, Some(id)).map(|status| (pod, status)));
            let Some((pod, status)) = found else { return vec![unplaced] };
            let mut place = unplaced;
            "Pod".clone_into(&mut place.target.kind);
            "v1".clone_into(&mut place.target.api_version);
            place.target.namespace = pod.namespace().unwrap_or_default();
            place.target.name = pod.name_any();
            place.target.container.clone_from(&status.name);
            vec![in_pod(place, pod, Some(status), caches)]
        }
        About::Workload { api_version, kind, namespace, name, .. }
            if !api_version.is_empty() && !namespace.is_empty() =>
        {
            let owner = OwnerReference {
                api_version: api_version.clone(),
                kind: kind.clone(),
                name: name.clone(),
                ..OwnerReference::default()
            };
            let mut place = unplaced;
            place.workload = Some(caches.owner_of(namespace, owner));
            vec![place]
        }
        About::Image { image } => {
            let places = running(image, &unplaced, caches);
            if places.is_empty() { vec![unplaced] } else { places }
        }
        About::Node { name } => {
            // Falco says the name of its own pod where it isn't told the node's.
            let mut place = unplaced;
            let node =
                caches.pods.find(|pod| pod.name_any() == *name).and_then(|pod| pod.spec.as_ref()?.node_name.clone());
            if let Some(node) = node {
                place.target.name.clone_from(&node);
                place.target.node = node;
            }
            vec![place]
        }
        About::Address { ip } => {
            let pods = caches.pods.state();
            // A pod on its node's network has the node's address, as others there.
            let owns = |pod: &&Arc<Pod>| {
                let status = pod.status.as_ref();
                let on_node = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
                let ips = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
                !on_node
                    && (status.and_then(|status| status.pod_ip.as_deref()) == Some(ip)
                        || ips.iter().any(|one| one.ip == *ip))
            };
            let Some(pod) = pods.iter().find(owns) else { return vec![unplaced] };
            let mut place = unplaced;
            "Pod".clone_into(&mut place.target.kind);
            "v1".clone_into(&mut place.target.api_version);
            place.target.namespace = pod.namespace().unwrap_or_default();
            place.target.name = pod.name_any();
            vec![in_pod(place, pod, None, caches)]
        }
        About::Workload { .. } => vec![unplaced],
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
    let statuses = pod.status.as_ref()?.container_statuses.as_deref().unwrap_or_default();
    let named = |status: &&ContainerStatus| name.is_some_and(|name| status.name == name);
    let identified = |status: &&ContainerStatus| {
        let known = status.container_id.as_deref().and_then(|known| known.split_once("://"));
        known.zip(id).is_some_and(|((_, known), id)| !id.is_empty() && known.starts_with(id))
    };
    let only = || match statuses {
        // A pod with one container leaves no doubt; where a container id is all that is known, it must be the right one.
        [one] if name.is_some() || id.is_none() => Some(one),
        _ => None,
    };
    statuses.iter().find(identified).or_else(|| statuses.iter().find(named)).or_else(only)
}

fn in_pod(mut place: Place, pod: &Pod, status: Option<&ContainerStatus>, caches: &Caches) -> Place {
    let target = &mut place.target;
    target.uid = pod.uid().unwrap_or_default();
    target.node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let only = pod.status.as_ref().and_then(|status| match status.container_statuses.as_deref() {
        Some([one]) => Some(one),
        _ => None,
    });
    if let Some(status) = status.or(only) {
        fill_image(target, pod, status);
    }
    place.workload = Some(caches.top_owner(pod));
    place
}

/// The reference is the one that the workload was given, the digest the one that the node pulled.
fn fill_image(target: &mut Target, pod: &Pod, status: &ContainerStatus) {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let given = containers.iter().find(|container| container.name == status.name).and_then(|one| one.image.clone());
    target.image = given.unwrap_or_else(|| status.image.clone());
    if let Some(digest) = digest_of(&status.image_id) {
        digest.clone_into(&mut target.digest);
    }
}

/// Whether a pod runs an image, by its digest where that is given, else by its reference.
pub fn runs_image(pod: &Pod, reference: &str, digest: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let image = ImageRef {
        reference: normalize_image(reference),
        digest: Some(digest.to_owned()).filter(|digest| !digest.is_empty()),
        image_id: None,
    };
    statuses.iter().any(|status| {
        let known = image.digest.is_none() || digest_of(&status.image_id).is_some();
        known && runs(&image, pod, status)
    })
}

fn digest_of(image_id: &str) -> Option<&str> {
    image_id.split_once('@').map(|(_, digest)| digest).filter(|digest| digest.contains(':'))
}

/// One place for each workload that runs the image now.
fn running(image: &ImageRef, unplaced: &Place, caches: &Caches) -> Vec<Place> {
    let mut places: BTreeMap<(String, String, String, String), Place> = BTreeMap::new();
    for pod in caches.pods.state() {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let Some(status) = statuses.iter().find(|status| runs(image, &pod, status)) else { continue };
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
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let given = containers.iter().find(|container| container.name == status.name).and_then(|one| one.image.as_deref());
    given.into_iter().chain([status.image.as_str()]).any(|name| normalize_image(name) == image.reference)
}
