//! From a signal and what the cluster knows to a Finding.

use quell_crds::names;
use quell_crds::v1alpha1::{Category, Finding, FindingSpec, Target, Vulnerability, Workload};

use crate::bound::cut;
use crate::{About, ImageRef, Signal, kinds};

/// What the cluster knows about what a signal is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The object that the Finding is about.
    pub target: Target,
    /// The topmost owner of the target, or of the pods that run the image.
    pub workload: Option<Workload>,
}

/// Characters of a container's id that every tool knows; some know all 64.
const SHORT_ID: usize = 12;

/// The target as far as the signal alone can tell.
///
/// A container whose pod isn't known is of kind `Container`, with the first 12 characters of its id as name.
#[must_use]
pub fn place_without_cluster(signal: &Signal) -> Place {
    let mut target = Target::default();
    let image = match &signal.about {
        About::Pod { namespace, name, uid, container, container_id: _, image } => {
            set(&mut target, "Pod", "v1", namespace, name);
            target.uid = uid.clone().unwrap_or_default();
            target.container = container.clone().unwrap_or_default();
            image.as_ref()
        }
        About::Container { id, node, image } => {
            set(&mut target, "Container", "", "", &id.chars().take(SHORT_ID).collect::<String>());
            target.node = node.clone().unwrap_or_default();
            image.as_ref()
        }
        About::Workload { api_version, kind, namespace, name, container, image } => {
            set(&mut target, kind, api_version, namespace, name);
            target.container = container.clone().unwrap_or_default();
            image.as_ref()
        }
        About::Image { image } => {
            let id = || image.digest.as_ref().or(image.image_id.as_ref()).cloned().unwrap_or_default();
            let name = if image.reference.is_empty() { id() } else { image.reference.clone() };
            set(&mut target, "Image", "", "", &name);
            Some(image)
        }
        About::Node { name } => {
            set(&mut target, "Node", &kinds::api_version("Node"), "", name);
            target.node.clone_from(name);
            None
        }
    };
    if let Some(ImageRef { reference, digest, .. }) = image {
        target.image.clone_from(reference);
        target.digest = digest.clone().unwrap_or_default();
    }
    Place { target, workload: None }
}

fn set(target: &mut Target, kind: &str, api_version: &str, namespace: &str, name: &str) {
    kind.clone_into(&mut target.kind);
    api_version.clone_into(&mut target.api_version);
    namespace.clone_into(&mut target.namespace);
    name.clone_into(&mut target.name);
}

/// The Finding that a signal makes at a place: in the target's namespace, or in `fallback_namespace` for what is in none.
/// Its name comes from its fingerprint; every text is within the schema's bounds.
#[must_use]
pub fn finding(source: &str, signal: &Signal, place: &Place, fallback_namespace: &str) -> Finding {
    let fingerprint = fingerprint(source, signal, place);
    let mut finding = Finding::new(
        &names::finding(&signal.tool, &fingerprint),
        FindingSpec {
            source: required(source, 63),
            tool: if signal.tool == source { String::new() } else { cut(&signal.tool, 63) },
            rule: required(&signal.rule, 253),
            category: signal.category,
            severity: signal.severity,
            message: cut(&signal.message, 2048),
            target: target(&place.target),
            workload: place.workload.as_ref().map(workload),
            vulnerabilities: signal.vulnerabilities.iter().take(50).map(vulnerability).collect(),
            vulnerability_counts: signal.vulnerability_counts,
            details: signal.details.clone(),
            fingerprint,
            detected_at: signal.detected_at,
        },
    );
    let namespace = &finding.spec.target.namespace;
    // A name that no namespace can have would make a Finding that can't be stored, and so is lost.
    let namespace = if is_namespace(namespace) { namespace } else { fallback_namespace };
    finding.metadata.namespace = Some(namespace.to_owned());
    finding
}

/// What makes a problem the same as one reported before: the source, tool and rule, what it is about, and what the format
/// adds to that ([`Signal::identity`]).
///
/// What it is about is the UID, or kind, namespace and name where there is no UID, and the container's name. Of a scanner's
/// report it is the workload instead of the target, so that the report on the next ReplicaSet of a Deployment is the same
/// problem as long as the image is; the image is in the identity.
///
/// Time, text, process, node and the container's id have no part in it: they differ from one report of a problem to the
/// next. So an alert that is placed before the cluster's index knows the pod, and whose tool doesn't say the UID, is another
/// Finding than a later one with the UID, and that is the only way in which knowing more makes another Finding of a pod.
fn fingerprint(source: &str, signal: &Signal, place: &Place) -> String {
    let scanned =
        matches!(signal.about, About::Image { .. } | About::Workload { .. }) && signal.category != Category::Audit;
    let target = &place.target;
    let mut parts = vec![source, &signal.tool, &signal.rule];
    let (uid, kind, namespace, name) = match &place.workload {
        Some(workload) if scanned => (&workload.uid, &workload.kind, &workload.namespace, &workload.name),
        _ => (&target.uid, &target.kind, &target.namespace, &target.name),
    };
    if uid.is_empty() {
        parts.extend([kind.as_str(), namespace.as_str(), name.as_str()]);
    } else {
        parts.push(uid);
    }
    parts.push(&target.container);
    parts.extend(signal.identity.iter().map(String::as_str));
    names::fingerprint(parts)
}

fn target(target: &Target) -> Target {
    let mut target = target.clone();
    if target.kind == "Node" {
        target.namespace.clear();
    }
    Target {
        kind: required(&target.kind, 63),
        api_version: cut(&target.api_version, 253),
        namespace: cut(&target.namespace, 63),
        name: required(&target.name, 512),
        uid: cut(&target.uid, 63),
        container: cut(&target.container, 253),
        image: cut(&target.image, 512),
        digest: cut(&target.digest, 135),
        node: cut(&target.node, 253),
    }
}

fn workload(workload: &Workload) -> Workload {
    Workload {
        api_version: cut(&workload.api_version, 253),
        kind: required(&workload.kind, 63),
        namespace: cut(&workload.namespace, 63),
        name: required(&workload.name, 253),
        uid: cut(&workload.uid, 63),
    }
}

fn vulnerability(one: &Vulnerability) -> Vulnerability {
    Vulnerability {
        id: cut(&one.id, 128),
        package: cut(&one.package, 253),
        installed_version: cut(&one.installed_version, 128),
        fixed_version: cut(&one.fixed_version, 253),
        severity: one.severity,
        score: one.score.filter(|score| (0.0..=10.0).contains(score)),
        title: cut(&one.title, 253),
    }
}

/// A text that the schema doesn't allow to be empty.
fn required(text: &str, characters: usize) -> String {
    if text.is_empty() { "unknown".to_owned() } else { cut(text, characters) }
}

/// Whether it can be the name of a namespace: an RFC 1123 label.
fn is_namespace(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
