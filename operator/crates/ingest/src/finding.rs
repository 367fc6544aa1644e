//! From a signal and what the cluster knows to a Finding.

use quell_crds::names;
use quell_crds::v1alpha1::{Category, Finding, FindingSpec, Target, Vulnerability, Workload};
use serde::Serialize;

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

/// Most bytes of a Finding, as JSON.
pub const LARGEST_FINDING: usize = 64 << 10;
/// Of these, what vulnerabilities may take: as many as fit are listed.
const VULNERABILITIES: usize = 28 << 10;

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
        About::Workload { api_version, kind, namespace, name, uid, container, image } => {
            set(&mut target, kind, api_version, namespace, name);
            target.uid = uid.clone().unwrap_or_default();
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
        About::Address { ip } => {
            set(&mut target, "Address", "", "", ip);
            None
        }
    };
    if let Some(ImageRef { reference, digest, .. }) = image {
        target.image.clone_from(reference);
        target.digest = digest.clone().unwrap_or_default();
    }
    Place { target, workload: signal.owner.clone() }
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
            vulnerabilities: vulnerabilities(&signal.vulnerabilities),
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
    if let Some(object) = &signal.reported_by {
        finding.metadata.annotations.get_or_insert_default().insert(names::REPORTED_BY.to_owned(), object.clone());
    }
    fit(&mut finding);
    finding
}

/// What a further report says that a Finding doesn't say yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Nothing: that it is there, and maybe other words, processes or times.
    Nothing,
    /// It isn't as bad any more, or the vulnerabilities are others.
    Other,
    /// It is worse.
    Worse,
}

/// Compares what is known with what is reported now.
#[must_use]
pub fn news(known: &FindingSpec, reported: &FindingSpec) -> News {
    let listed = |spec: &FindingSpec| (spec.vulnerabilities.clone(), spec.vulnerability_counts);
    if reported.severity > known.severity {
        News::Worse
    } else if reported.severity < known.severity || listed(known) != listed(reported) {
        News::Other
    } else {
        News::Nothing
    }
}

/// Whether the signal is about the very problem that the Finding is of, at the place where that was found: by now the pod may be gone, or the
/// image run by nobody, and the signal can't be placed as the first one was.
#[must_use]
pub fn is_same_problem(source: &str, signal: &Signal, finding: &Finding) -> bool {
    let spec = &finding.spec;
    may_be_about(&signal.about, &spec.target, spec.workload.as_ref()) && {
        let place = Place { target: spec.target.clone(), workload: spec.workload.clone() };
        fingerprint(source, signal, &place) == spec.fingerprint
    }
}

/// Whether what a signal is about may be this target. Of an image, the identity that is in the fingerprint tells.
fn may_be_about(about: &About, target: &Target, owner: Option<&Workload>) -> bool {
    let is = |kind: &str, namespace: &str, name: &str| {
        (target.kind.as_str(), target.namespace.as_str(), target.name.as_str()) == (kind, namespace, name)
    };
    let contains = |container: &Option<String>| container.as_ref().is_none_or(|name| *name == target.container);
    match about {
        About::Pod { namespace, name, uid, container, .. } => {
            let meant = uid.as_ref().is_none_or(|uid| *uid == target.uid);
            is("Pod", namespace, name) && meant && contains(container)
        }
        About::Container { id, .. } => is("Container", "", &id.chars().take(SHORT_ID).collect::<String>()),
        About::Workload { kind, namespace, name, container, .. } => {
            let owns = |owner: &Workload| (&owner.kind, &owner.namespace, &owner.name) == (kind, namespace, name);
            (is(kind, namespace, name) || owner.is_some_and(owns)) && contains(container)
        }
        About::Image { .. } => true,
        About::Node { name } => is("Node", "", name),
        About::Address { ip } => is("Address", "", ip),
    }
}

/// As many as fit, the worst first.
fn vulnerabilities(all: &[Vulnerability]) -> Vec<Vulnerability> {
    let mut room = VULNERABILITIES;
    let fits = |one: &Vulnerability| {
        let size = size(one);
        let fits = size < room;
        room = room.saturating_sub(size + 1);
        fits
    };
    all.iter().take(50).map(vulnerability).take_while(fits).collect()
}

/// What texts of other alphabets, and the escapes of control characters, may take beyond what the bounds of characters allow for.
fn fit(finding: &mut Finding) {
    let spec = &finding.spec;
    let Target { name, image, container, .. } = &spec.target;
    // Most Findings are far from the bound: their texts alone tell.
    let texts = spec.message.len() + spec.rule.len() + name.len() + image.len() + container.len();
    if texts <= 1024 && spec.vulnerabilities.is_empty() || size(&*finding) <= LARGEST_FINDING {
        return;
    }
    finding.spec.message = cut(&finding.spec.message, 256);
    while size(&*finding) > LARGEST_FINDING && !finding.spec.vulnerabilities.is_empty() {
        let half = finding.spec.vulnerabilities.len() / 2;
        finding.spec.vulnerabilities.truncate(half);
    }
    if size(&*finding) > LARGEST_FINDING {
        finding.spec.details.clear();
    }
}

/// Bytes of a value as JSON.
fn size(value: &impl Serialize) -> usize {
    // What can't be written has no size; none of these types can't.
    serde_json::to_vec(value).map_or(0, |text| text.len())
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
pub(crate) fn fingerprint(source: &str, signal: &Signal, place: &Place) -> String {
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
        fix_available: one.fix_available,
        epss: one.epss.filter(|epss| (0.0..=1.0).contains(epss)),
        known_exploited: one.known_exploited,
        exploit_available: one.exploit_available,
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
