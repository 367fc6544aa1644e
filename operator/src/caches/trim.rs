//! What of an object the copies keep.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerStatus, Namespace, Node, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use quell_crds::names;

/// What decisions need of a pod, and no more: the rest of a pod is ten times as large.
pub fn trim_pod(pod: &mut Pod) {
    trim_annotations(&mut pod.metadata);
    if let Some(spec) = pod.spec.take() {
        let kept = PodSpec {
            node_name: spec.node_name,
            host_network: spec.host_network,
            service_account_name: spec.service_account_name,
            containers: spec.containers.into_iter().map(trim_container).collect(),
            ..Default::default()
        };
        pod.spec = Some(kept);
    }
    if let Some(status) = pod.status.take() {
        let statuses = status.container_statuses.map(|all| {
            all.into_iter()
                .map(|one| ContainerStatus {
                    name: one.name,
                    image: one.image,
                    image_id: one.image_id,
                    container_id: one.container_id,
                    ..Default::default()
                })
                .collect()
        });
        let ready = |one: PodCondition| PodCondition { type_: one.type_, status: one.status, ..Default::default() };
        let conditions = status.conditions.into_iter().flatten().filter(|one| one.type_ == "Ready").map(ready);
        pod.status = Some(PodStatus {
            conditions: Some(conditions.collect()),
            container_statuses: statuses,
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            ..Default::default()
        });
    }
}

fn trim_container(container: Container) -> Container {
    // Policies name ports.
    let named =
        |ports: Vec<ContainerPort>| -> Vec<_> { ports.into_iter().filter(|port| port.name.is_some()).collect() };
    Container { name: container.name, image: container.image, ports: container.ports.map(named), ..Default::default() }
}

/// Quell's own annotations stay. That there were others must stay known: a patch adds to the map where it is there.
fn trim_annotations(metadata: &mut ObjectMeta) {
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key.starts_with("quell.dev/"));
    }
}

/// Who owns an object, and which run has marked it.
pub fn trim_owner<K>(object: &mut PartialObjectMeta<K>) {
    object.metadata.annotations = None;
    if let Some(labels) = &mut object.metadata.labels {
        labels.retain(|key, _| key == names::REMEDIATION || key == names::REMEDIATION_NAMESPACE);
    }
}

/// A namespace's labels.
pub fn trim_namespace(namespace: &mut PartialObjectMeta<Namespace>) {
    namespace.metadata.annotations = None;
}

/// A node's labels.
pub fn trim_node(node: &mut PartialObjectMeta<Node>) {
    node.metadata.annotations = None;
}

/// What a policy says, and whose it is.
pub fn trim_policy(policy: &mut NetworkPolicy) {
    trim_annotations(&mut policy.metadata);
}
