//! Where a system call happened.

use serde_json::{Map, Value};

use crate::kinds::{is_name, is_uid};
use crate::lenient::{field, first_text, text};
use crate::{About, ImageRef, image};

/// The pod, else the container, else the node of an alert.
///
/// Pod fields may be missing or `<NA>` while the container is new; Docker's name of the container still has them then.
pub(super) fn about(fields: &Map<String, Value>, hostname: Option<String>) -> About {
    let container_name = first_text(fields, &["container.name"]);
    let docker = container_name.as_deref().and_then(DockerName::parse);
    let container_id = container_id(fields);
    let image = image_of(fields);

    let namespace = name_in(fields, &["k8s.ns.name", "k8smeta.ns.name"]);
    let name = name_in(fields, &["k8s.pod.name", "k8smeta.pod.name"]);
    if let (Some(namespace), Some(name)) = (namespace, name) {
        let docker = docker.filter(|docker| docker.namespace == namespace && docker.pod == name);
        let container = match &docker {
            Some(docker) => docker.container.map(str::to_owned),
            // Of other runtimes it is the name that the container has in its pod.
            None => container_name.clone().filter(|name| is_name(name, 63)),
        };
        let uid = first_text(fields, &["k8s.pod.uid", "k8smeta.pod.uid", "k8s.pod.id"]);
        let uid = uid.filter(|uid| is_uid(uid)).or_else(|| docker.and_then(|docker| docker.uid.map(str::to_owned)));
        return About::Pod { namespace, name, uid, container, container_id, image };
    }
    if let Some(docker) = docker {
        return About::Pod {
            namespace: docker.namespace.to_owned(),
            name: docker.pod.to_owned(),
            uid: docker.uid.map(str::to_owned),
            container: docker.container.map(str::to_owned),
            container_id,
            image,
        };
    }
    match container_id {
        Some(id) => About::Container { id, node: hostname, image },
        None => About::Node { name: hostname.unwrap_or_else(|| "unknown".to_owned()) },
    }
}

/// What the kubelet called a container of Docker: `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`. The names of
/// Kubernetes have no underscore.
struct DockerName<'a> {
    container: Option<&'a str>,
    pod: &'a str,
    namespace: &'a str,
    uid: Option<&'a str>,
}

impl<'a> DockerName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.strip_prefix('/').unwrap_or(name).split('_');
        let mut next = || parts.next();
        let ("k8s", container, pod, namespace, uid) = (next()?, next()?, next()?, next()?, next()?) else {
            return None;
        };
        (is_name(pod, 253) && is_name(namespace, 63)).then(|| Self {
            // The sandbox that holds the pod's network is none of the pod's containers.
            container: Some(container).filter(|container| *container != "POD" && is_name(container, 63)),
            pod,
            namespace,
            uid: Some(uid).filter(|uid| is_uid(uid)),
        })
    }
}

/// The runtime's id of the container, all of it where Falco tells; nothing for `host`.
fn container_id(fields: &Map<String, Value>) -> Option<String> {
    let id = |name: &str| {
        let id = first_text(fields, &[name])?;
        let id = id.rsplit_once("://").map_or(id.as_str(), |(_, id)| id);
        let fits =
            (12..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        fits.then(|| id.to_owned())
    };
    let short = id("container.id");
    match (short, id("container.full_id")) {
        (Some(short), Some(full)) if !full.starts_with(&short) => Some(short),
        (short, full) => full.or(short),
    }
}

fn image_of(fields: &Map<String, Value>) -> Option<ImageRef> {
    let said = first_text(fields, &["container.image"]).unwrap_or_default();
    let (name, with_digest) = image::split_digest(&said);
    let digest = match field(fields, "container.image.digest") {
        Some(Value::Array(digests)) => digests.iter().filter_map(text).find_map(|text| image::digest(&text)),
        other => other.and_then(text).and_then(|text| image::digest(&text)),
    };
    let reference = match first_text(fields, &["container.image.repository"]) {
        Some(repository) => match first_text(fields, &["container.image.tag"]) {
            Some(tag) => format!("{repository}:{tag}"),
            None => repository,
        },
        None => name.to_owned(),
    };
    let image = ImageRef { reference, digest: digest.or_else(|| with_digest.and_then(image::digest)), image_id: None };
    (!image.reference.is_empty() || image.digest.is_some()).then_some(image)
}

/// The first of these fields that is a name in Kubernetes; what isn't one names no object.
fn name_in(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| first_text(fields, &[name]).filter(|name| is_name(name, 253)))
}
