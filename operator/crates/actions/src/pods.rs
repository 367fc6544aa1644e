//! What pods say of themselves.

use std::collections::BTreeSet;
use std::ops::Deref;

use k8s_openapi::api::core::v1::Pod;
use quell_playbooks::PodFacts;

/// Whether the pod, which has not ended, runs as that ServiceAccount.
#[must_use]
pub fn runs_as(pod: &Pod, namespace: &str, service_account: &str) -> bool {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    pod.metadata.namespace.as_deref() == Some(namespace) && account == service_account && !is_over(pod)
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Digests of the images that the pod's containers run, or ran; of one container, where it is named.
#[must_use]
pub fn digests(pod: &Pod, container: &str) -> BTreeSet<String> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let meant = statuses.filter(|status| container.is_empty() || status.name == container);
    meant.filter_map(|status| Some(status.image_id.split_once('@')?.1.to_owned())).collect()
}

/// Those of `pods` that are in the namespace of `pod`, haven't ended, and run an image with the same digest; see
/// [`Cluster::same_digest`](crate::Cluster::same_digest).
#[must_use]
pub fn with_same_digest<P: Deref<Target = Pod>>(
    pods: impl IntoIterator<Item = P>,
    pod: &PodFacts,
    container: &str,
    digest: &str,
) -> Option<Vec<P>> {
    let here = |other: &P| other.metadata.namespace.as_deref() == Some(&pod.namespace) && !is_over(other);
    let here: Vec<P> = pods.into_iter().filter(here).collect();
    let known = if digest.is_empty() {
        let own = here.iter().find(|other| other.metadata.uid.as_deref() == Some(&pod.uid));
        own.map(|own| digests(own, container)).unwrap_or_default()
    } else {
        BTreeSet::from([digest.to_owned()])
    };
    let same = |other: &P| !digests(other, "").is_disjoint(&known);
    (!known.is_empty()).then(|| here.into_iter().filter(same).collect())
}
