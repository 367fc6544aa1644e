//! What a pod's own settings, and the Services that choose it, open to others.

use std::collections::BTreeSet;
use std::ops::Deref;

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use quell_playbooks::facts::{Exposure, ServiceFacts};

/// Most Services that are told.
const MOST_SERVICES: usize = 20;

/// The exposure of pods taken together; `services` may be those of any namespace. Whether a policy, a firewall or a cloud lets anything through
/// is another question, and an Ingress or Gateway is not looked at: the Service behind it is.
#[must_use]
pub fn of<P, S>(pods: &[P], services: impl IntoIterator<Item = S>) -> Exposure
where
    P: Deref<Target = Pod>,
    S: Deref<Target = Service>,
{
    let specs = || pods.iter().filter_map(|pod| pod.spec.as_ref());
    let containers = || specs().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let chosen = services.into_iter().filter(|service| pods.iter().any(|pod| chooses(service, pod)));
    let mut services: Vec<ServiceFacts> = chosen.map(|service| facts(&service)).collect();
    // What is open to the outside first.
    services.sort_by(|a, b| (!a.external, &a.name).cmp(&(!b.external, &b.name)));
    services.truncate(MOST_SERVICES);
    let host_ports = containers().flat_map(|container| container.ports.iter().flatten());
    Exposure {
        services,
        host_network: specs().any(|spec| spec.host_network == Some(true)),
        host_pid: specs().any(|spec| spec.host_pid == Some(true)),
        host_ipc: specs().any(|spec| spec.host_ipc == Some(true)),
        host_ports: host_ports.filter_map(|port| port.host_port).collect::<BTreeSet<_>>().into_iter().collect(),
        privileged: containers().any(is_privileged),
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// Whether the Service sends traffic to the pod. One without a selector has its endpoints from elsewhere.
fn chooses(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|wanted| !wanted.is_empty());
    let has = |(key, value): (&String, &String)| {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
    };
    service.metadata.namespace == pod.metadata.namespace && selector.is_some_and(|wanted| wanted.iter().all(has))
}

fn facts(service: &Service) -> ServiceFacts {
    let spec = service.spec.as_ref();
    let kind = spec.and_then(|spec| spec.type_.clone()).unwrap_or_else(|| "ClusterIP".to_owned());
    let addresses = spec.and_then(|spec| spec.external_ips.as_ref()).is_some_and(|all| !all.is_empty());
    ServiceFacts {
        name: service.metadata.name.clone().unwrap_or_default(),
        external: addresses || matches!(kind.as_str(), "NodePort" | "LoadBalancer"),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(labels: &Value, spec: &Value) -> Box<Pod> {
        let metadata = json!({ "name": "web-1", "namespace": "shop", "labels": labels });
        Box::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("a Pod"))
    }

    fn service(name: &str, namespace: &str, spec: &Value) -> Box<Service> {
        let metadata = json!({ "name": name, "namespace": namespace });
        Box::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("a Service"))
    }

    #[test]
    fn services_count_whose_selector_chooses_the_pod_and_those_open_to_the_outside_come_first() {
        let web = json!({ "app": "web" });
        let pods = [pod(&json!({ "app": "web", "tier": "front" }), &json!({ "containers": [] }))];
        let exposure = of(
            &pods,
            [
                service("inner", "shop", &json!({ "selector": web })),
                service("outer", "shop", &json!({ "selector": web, "type": "LoadBalancer" })),
                service("routed", "shop", &json!({ "selector": web, "externalIPs": ["192.0.2.1"] })),
                service("elsewhere", "bank", &json!({ "selector": web, "type": "NodePort" })),
                service("other", "shop", &json!({ "selector": { "app": "db" }, "type": "NodePort" })),
                service("everything", "shop", &json!({ "type": "NodePort" })),
            ],
        );
        let told: Vec<_> =
            exposure.services.iter().map(|one| (one.name.as_str(), one.kind.as_str(), one.external)).collect();
        assert_eq!(
            told,
            [("outer", "LoadBalancer", true), ("routed", "ClusterIP", true), ("inner", "ClusterIP", false)]
        );
    }

    #[test]
    fn a_pod_is_exposed_by_what_it_shares_with_its_node_and_by_a_privileged_container_also_an_init_one() {
        let quiet = of(&[pod(&json!({}), &json!({ "containers": [{ "name": "app" }] }))], Vec::<Box<Service>>::new());
        assert_eq!(quiet, Exposure::default());
        let spec = json!({
            "hostNetwork": true, "hostPID": true, "hostIPC": true,
            "containers": [{ "name": "app", "ports": [{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 81 }] }],
            "initContainers": [{ "name": "init", "securityContext": { "privileged": true } }],
        });
        let open = of(&[pod(&json!({}), &spec)], Vec::<Box<Service>>::new());
        assert!(open.host_network && open.host_pid && open.host_ipc && open.privileged);
        assert_eq!(open.host_ports, [8080]);
    }
}
