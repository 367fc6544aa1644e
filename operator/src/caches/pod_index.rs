//! Pods by what signals name them by: a container's id, an address, an image, a name; and those that are gone since a short while.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use quell_ingest::{ImageRef, normalize_image};

use crate::caches::lookup::{Key, Lookup, number};

/// Pods that are gone and still known. A signal is late by seconds; in a cluster that ends a pod each second this is half an hour.
const MOST_GONE: usize = 2048;
/// Characters of a container's id that every tool says.
const SHORT_ID: usize = 12;

/// Which pods may have something. Whoever asks compares.
#[derive(Default)]
pub struct PodIndex {
    live: RwLock<Lookup>,
    gone: RwLock<Gone>,
}

/// The latest pods that are gone.
#[derive(Default)]
struct Gone {
    order: VecDeque<Arc<Pod>>,
    pods: HashMap<Key, Arc<Pod>>,
    lookup: Lookup,
}

impl PodIndex {
    /// Takes a pod up, new or changed.
    pub fn put(&self, pod: &Pod) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.put(key(pod), numbers(pod));
    }

    /// The pod is gone.
    pub fn remove(&self, pod: &Arc<Pod>) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).remove(&key(pod));
        self.gone.write().unwrap_or_else(PoisonError::into_inner).put(pod);
    }

    /// Pods that may have a container with that id, of which the first 12 characters are enough.
    #[must_use]
    pub fn with_container(&self, id: &str) -> Vec<Arc<Key>> {
        short(id).map(|id| self.get(number(CONTAINER, &[id]))).unwrap_or_default()
    }

    /// Pods that may have the address.
    #[must_use]
    pub fn with_address(&self, ip: &str) -> Vec<Arc<Key>> {
        self.get(number(ADDRESS, &[ip]))
    }

    /// Pods of a namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Key>> {
        self.get(number(NAMESPACE, &[namespace]))
    }

    /// Pods of that name, in any namespace.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Arc<Key>> {
        self.get(number(NAME, &[name]))
    }

    /// Pods that may run the image.
    #[must_use]
    pub fn with_image(&self, image: &ImageRef) -> BTreeSet<Arc<Key>> {
        let names = [Some(&image.reference), image.digest.as_ref(), image.image_id.as_ref()];
        let names = names.into_iter().flatten().filter(|name| !name.is_empty());
        names.flat_map(|name| self.get(number(IMAGE, &[name]))).collect()
    }

    /// The latest pod of that name that is gone.
    #[must_use]
    pub fn gone(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        gone.pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Pods that are gone, and may have had a container with that id.
    #[must_use]
    pub fn gone_with_container(&self, id: &str) -> Vec<Arc<Pod>> {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        let keys = short(id).map(|id| gone.lookup.get(number(CONTAINER, &[id]))).unwrap_or_default();
        keys.iter().filter_map(|key| gone.pods.get(&**key).cloned()).collect()
    }

    fn get(&self, number: u64) -> Vec<Arc<Key>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(number)
    }
}

impl Gone {
    fn put(&mut self, pod: &Arc<Pod>) {
        self.order.push_back(pod.clone());
        self.pods.insert(key(pod), pod.clone());
        self.lookup.put(key(pod), containers(pod).collect());
        if self.order.len() > MOST_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            let key = key(&oldest);
            // A later one of the same name stays.
            if self.pods.get(&key).is_some_and(|known| known.uid() == oldest.uid()) {
                self.pods.remove(&key);
                self.lookup.remove(&key);
            }
        }
    }
}

const ADDRESS: &str = "address";
const CONTAINER: &str = "container";
const IMAGE: &str = "image";
const NAME: &str = "name";
const NAMESPACE: &str = "namespace";

fn key(pod: &Pod) -> Key {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

fn short(id: &str) -> Option<&str> {
    id.get(..SHORT_ID)
}

fn numbers(pod: &Pod) -> BTreeSet<u64> {
    let mut numbers: BTreeSet<u64> = containers(pod).collect();
    numbers.insert(number(NAME, &[&pod.name_any()]));
    numbers.insert(number(NAMESPACE, &[&pod.namespace().unwrap_or_default()]));
    numbers.extend(addresses(pod).map(|ip| number(ADDRESS, &[ip])));
    numbers.extend(statuses(pod).flat_map(|status| images(pod, status)).map(|name| number(IMAGE, &[&name])));
    numbers
}

fn containers(pod: &Pod) -> impl Iterator<Item = u64> {
    let ids = statuses(pod).flat_map(ids);
    ids.filter_map(short).map(|id| number(CONTAINER, &[id]))
}

/// By what signals know the image that a container runs.
fn images(pod: &Pod, status: &ContainerStatus) -> Vec<String> {
    let id = status.image_id.rsplit(['@', '/']).next().unwrap_or_default().to_owned();
    let names = given_image(pod, &status.name).into_iter().chain([status.image.as_str()]).map(normalize_image);
    names.chain([id]).filter(|name| !name.is_empty()).collect()
}

/// The pod's own addresses. One on its node's network has the node's address, as others there.
pub fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let on_node = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let status = pod.status.as_ref().filter(|_| !on_node);
    let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    status.and_then(|status| status.pod_ip.as_deref()).into_iter().chain(all.iter().map(|one| one.ip.as_str()))
}

/// All containers of a pod: its own, those that ran before them, and those that somebody added to look at it.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let lists = status.map(|status| {
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
    });
    lists.into_iter().flatten().flatten().flatten()
}

/// The ids, without the runtime's scheme, of a container and of what it was before it was last started anew.
pub fn ids(status: &ContainerStatus) -> impl Iterator<Item = &str> {
    let before = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let all = [status.container_id.as_deref(), before.and_then(|ended| ended.container_id.as_deref())];
    all.into_iter().flatten().filter_map(|id| id.split_once("://").map(|(_, id)| id))
}

/// The reference that the workload gave for a container.
pub fn given_image<'a>(pod: &'a Pod, container: &str) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let own = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = own.map(|one| (one.name.as_str(), one.image.as_deref()));
    let added = spec.ephemeral_containers.iter().flatten().map(|one| (one.name.as_str(), one.image.as_deref()));
    own.chain(added).find(|(name, _)| *name == container)?.1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(of: char) -> String {
        of.to_string().repeat(64)
    }

    fn pod(name: &str, container: char, ip: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "namespace": "shop", "name": name, "uid": format!("u-{name}-{container}") },
            "spec": {
                "containers": [{ "name": "app", "image": "shop:1.0" }],
                "initContainers": [{ "name": "init", "image": "setup:2" }],
                "ephemeralContainers": [{ "name": "debug", "image": "busybox" }],
            },
            "status": {
                "podIP": ip, "podIPs": [{ "ip": ip }],
                "containerStatuses": [{
                    "name": "app", "image": "docker.io/library/shop:1.0", "imageID": "docker.io/library/shop@sha256:aa",
                    "containerID": format!("containerd://{}", id(container)), "ready": true, "restartCount": 1,
                    "lastState": { "terminated": { "containerID": format!("containerd://{}", id('f')), "exitCode": 1 } },
                }],
                "initContainerStatuses": [{
                    "name": "init", "image": "docker.io/library/setup:2", "imageID": "sha256:bb", "ready": true, "restartCount": 0,
                    "containerID": format!("containerd://{}", id('d')),
                }],
                "ephemeralContainerStatuses": [{
                    "name": "debug", "image": "docker.io/library/busybox:latest", "imageID": "", "ready": true, "restartCount": 0,
                    "containerID": format!("containerd://{}", id('e')),
                }],
            },
        });
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn image(reference: &str, digest: Option<&str>) -> ImageRef {
        ImageRef { reference: normalize_image(reference), digest: digest.map(str::to_owned), image_id: None }
    }

    fn names<'a>(keys: impl IntoIterator<Item = &'a Arc<Key>>) -> Vec<&'a str> {
        keys.into_iter().map(|key| key.1.as_str()).collect()
    }

    #[test]
    fn a_pod_is_found_by_each_of_its_containers_its_address_its_images_and_its_name() {
        let index = PodIndex::default();
        index.put(&pod("web-1", 'a', "10.0.0.1"));
        index.put(&pod("web-2", 'b', "10.0.0.2"));
        for (of, expected) in [('a', vec!["web-1"]), ('b', vec!["web-2"]), ('d', vec!["web-1", "web-2"]), ('c', vec![])]
        {
            assert_eq!(names(&index.with_container(&id(of)[..12])), expected, "{of}");
            assert_eq!(names(&index.with_container(&id(of))), expected, "{of}");
        }
        assert_eq!(names(&index.with_container(&id('e'))).len(), 2, "one that was added");
        assert_eq!(names(&index.with_container(&id('f'))).len(), 2, "one that has ended");
        assert!(index.with_container("aaaa").is_empty(), "too short to tell");
        assert_eq!(names(&index.with_address("10.0.0.2")), ["web-2"]);
        assert_eq!(names(&index.named("web-1")), ["web-1"]);
        assert_eq!((names(&index.in_namespace("shop")), index.in_namespace("bank").len()), (vec!["web-1", "web-2"], 0));
        for one in
            [image("shop:1.0", None), image("other", Some("sha256:aa")), image("setup:2", None), image("busybox", None)]
        {
            assert_eq!(names(&index.with_image(&one)), ["web-1", "web-2"], "{one:?}");
        }
        assert!(index.with_image(&image("shop:2.0", None)).is_empty());
    }

    #[test]
    fn a_pod_that_has_changed_is_found_by_what_it_is_now() {
        let index = PodIndex::default();
        index.put(&pod("web", 'a', "10.0.0.1"));
        index.put(&pod("web", 'b', "10.0.0.2"));
        assert!(index.with_container(&id('a')).is_empty() && index.with_address("10.0.0.1").is_empty());
        assert_eq!(names(&index.with_container(&id('b'))), ["web"]);
    }

    #[test]
    fn a_pod_on_its_nodes_network_has_no_address_of_its_own() {
        let mut one = (*pod("web", 'a', "10.0.0.1")).clone();
        one.spec.as_mut().unwrap().host_network = Some(true);
        let index = PodIndex::default();
        index.put(&one);
        assert!(index.with_address("10.0.0.1").is_empty());
    }

    #[test]
    fn pods_that_are_gone_are_known_for_a_while_and_no_more_than_fit() {
        let index = PodIndex::default();
        let first = pod("web-0", 'a', "10.0.0.1");
        index.put(&first);
        index.remove(&first);
        assert!(index.with_container(&id('a')).is_empty(), "it isn't there");
        assert_eq!(index.gone("shop", "web-0").and_then(|pod| pod.uid()), first.uid());
        assert_eq!(index.gone_with_container(&id('a')[..12]).len(), 1);
        // One of the same name went later.
        let again = pod("web-0", 'b', "10.0.0.1");
        index.remove(&again);
        assert_eq!(index.gone("shop", "web-0").and_then(|pod| pod.uid()), again.uid());
        for number in 1..MOST_GONE {
            index.remove(&pod(&format!("web-{number}"), 'c', "10.0.0.9"));
        }
        assert!(index.gone("shop", "web-0").is_some(), "only the first of that name is forgotten");
        index.remove(&pod("last", 'c', "10.0.0.9"));
        assert!(index.gone("shop", "web-0").is_none());
        let gone = index.gone.read().unwrap();
        assert_eq!((gone.order.len(), gone.pods.len()), (MOST_GONE, MOST_GONE));
    }
}
