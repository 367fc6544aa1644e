//! What of an object the copies keep.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateTerminated, ContainerStatus, EphemeralContainer, Namespace,
    Node, Pod, PodCondition, PodSpec, PodStatus, SecurityContext, Service, ServiceSpec,
};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    NetworkPolicy,
};
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
            host_pid: spec.host_pid,
            host_ipc: spec.host_ipc,
            service_account_name: spec.service_account_name,
            containers: spec.containers.into_iter().map(trim_container).collect(),
            init_containers: spec.init_containers.map(|all| all.into_iter().map(trim_container).collect()),
            ephemeral_containers: spec.ephemeral_containers.map(|all| all.into_iter().map(trim_ephemeral).collect()),
            ..Default::default()
        };
        pod.spec = Some(kept);
    }
    if let Some(status) = pod.status.take() {
        let statuses = |all: Option<Vec<ContainerStatus>>| -> Option<Vec<ContainerStatus>> {
            all.map(|all| all.into_iter().map(trim_status).collect())
        };
        let ready = |one: PodCondition| PodCondition { type_: one.type_, status: one.status, ..Default::default() };
        let conditions = status.conditions.into_iter().flatten().filter(|one| one.type_ == "Ready").map(ready);
        pod.status = Some(PodStatus {
            conditions: Some(conditions.collect()),
            container_statuses: statuses(status.container_statuses),
            init_container_statuses: statuses(status.init_container_statuses),
            ephemeral_container_statuses: statuses(status.ephemeral_container_statuses),
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            ..Default::default()
        });
    }
}

fn trim_container(container: Container) -> Container {
    // Policies name ports; those of the node are open to others.
    let is_kept = |port: &ContainerPort| port.name.is_some() || port.host_port.is_some();
    let kept = |ports: Vec<ContainerPort>| -> Vec<_> { ports.into_iter().filter(is_kept).collect() };
    let privileged = container.security_context.and_then(|context| context.privileged).filter(|privileged| *privileged);
    Container {
        name: container.name,
        image: container.image,
        ports: container.ports.map(kept),
        security_context: privileged.map(|_| SecurityContext { privileged, ..Default::default() }),
        ..Default::default()
    }
}

fn trim_ephemeral(container: EphemeralContainer) -> EphemeralContainer {
    EphemeralContainer { name: container.name, image: container.image, ..Default::default() }
}

/// Which container it is and was, and what it runs.
fn trim_status(status: ContainerStatus) -> ContainerStatus {
    let before = status.last_state.and_then(|state| state.terminated?.container_id);
    let ended = |id| ContainerStateTerminated { container_id: Some(id), ..Default::default() };
    ContainerStatus {
        name: status.name,
        image: status.image,
        image_id: status.image_id,
        container_id: status.container_id,
        last_state: before.map(|id| ContainerState { terminated: Some(ended(id)), ..Default::default() }),
        ..Default::default()
    }
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

/// Which pods a Service chooses, and whether it is open to the outside.
pub fn trim_service(service: &mut Service) {
    service.metadata.annotations = None;
    service.metadata.labels = None;
    service.status = None;
    service.spec = service.spec.take().map(|spec| ServiceSpec {
        selector: spec.selector,
        type_: spec.type_,
        external_ips: spec.external_ips,
        ..Default::default()
    });
}

/// Which Services an Ingress leads to, for which hosts.
pub fn trim_ingress(ingress: &mut Ingress) {
    ingress.metadata.annotations = None;
    ingress.metadata.labels = None;
    ingress.status = None;
    ingress.spec = ingress.spec.take().map(|spec| IngressSpec {
        default_backend: spec.default_backend.map(trim_backend),
        rules: spec.rules.map(|rules| rules.into_iter().map(trim_rule).collect()),
        ..Default::default()
    });
}

fn trim_rule(rule: IngressRule) -> IngressRule {
    let trim = |path: HTTPIngressPath| HTTPIngressPath { backend: trim_backend(path.backend), ..Default::default() };
    // Many paths lead to few Services.
    let http = rule.http.map(|http| {
        let mut paths: Vec<HTTPIngressPath> = http.paths.into_iter().map(trim).collect();
        paths.dedup();
        HTTPIngressRuleValue { paths }
    });
    IngressRule { host: rule.host, http }
}

fn trim_backend(backend: IngressBackend) -> IngressBackend {
    let service = backend.service.map(|service| IngressServiceBackend { name: service.name, port: None });
    IngressBackend { service, resource: None }
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
