//! What a pod's own settings, the Services that choose it, and what leads to these, open to others.

mod route;

pub use route::{Lead, Route, RouteKind};

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use quell_playbooks::facts::{Exposure, RouteFacts, ServiceFacts};

/// Most Services that are told.
const MOST_SERVICES: usize = 20;
/// Most Ingresses and routes that are told.
const MOST_ROUTES: usize = 20;
/// Most hosts of each that are told.
const MOST_HOSTS: usize = 20;

/// The exposure of pods taken together; `services` may be those of any namespace, and `routes` finds what may lead to one of a namespace and
/// name. Whether a policy, a firewall or a cloud lets anything through is another question.
#[must_use]
pub fn of<P, S, R>(pods: &[P], services: impl IntoIterator<Item = S>, routes: impl Fn(&str, &str) -> Vec<R>) -> Exposure
where
    P: Deref<Target = Pod>,
    S: Deref<Target = Service>,
    R: Deref<Target = Route>,
{
    let specs = || pods.iter().filter_map(|pod| pod.spec.as_ref());
    let containers = || specs().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let chosen: Vec<S> = services.into_iter().filter(|service| pods.iter().any(|pod| chooses(service, pod))).collect();
    let ingresses = led_by(chosen.iter().map(Deref::deref), routes);
    let mut services: Vec<ServiceFacts> = chosen.iter().map(|service| facts(service)).collect();
    // What is open to the outside first.
    services.sort_by(|a, b| (!a.external, &a.name).cmp(&(!b.external, &b.name)));
    services.truncate(MOST_SERVICES);
    let host_ports = containers().flat_map(|container| container.ports.iter().flatten());
    Exposure {
        services,
        ingresses,
        host_network: specs().any(|spec| spec.host_network == Some(true)),
        host_pid: specs().any(|spec| spec.host_pid == Some(true)),
        host_ipc: specs().any(|spec| spec.host_ipc == Some(true)),
        host_ports: host_ports.filter_map(|port| port.host_port).collect::<BTreeSet<_>>().into_iter().collect(),
        privileged: containers().any(is_privileged),
    }
}

/// What leads to any of the Services, each once, with the hosts for which it does.
fn led_by<'a, R: Deref<Target = Route>>(
    services: impl Iterator<Item = &'a Service>,
    routes: impl Fn(&str, &str) -> Vec<R>,
) -> Vec<RouteFacts> {
    let mut found: BTreeMap<(RouteKind, String, String), BTreeSet<String>> = BTreeMap::new();
    for service in services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        for route in routes(namespace, name) {
            let to_it =
                route.leads.iter().filter(|lead| (lead.namespace.as_str(), lead.service.as_str()) == (namespace, name));
            let hosts: Vec<String> = to_it.map(|lead| lead.host.clone()).collect();
            if !hosts.is_empty() {
                let key = (route.kind, route.namespace.clone(), route.name.clone());
                found.entry(key).or_default().extend(hosts);
            }
        }
    }
    let facts = found.into_iter().map(|((kind, namespace, name), hosts)| RouteFacts {
        kind: kind.name().to_owned(),
        namespace,
        name,
        hosts: hosts.into_iter().take(MOST_HOSTS).collect(),
    });
    facts.take(MOST_ROUTES).collect()
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

    fn no_routes(_: &str, _: &str) -> Vec<&'static Route> {
        Vec::new()
    }

    #[test]
    fn an_ingress_counts_that_leads_to_a_service_of_the_pod_with_the_hosts_that_do() {
        let pods = [pod(&json!({ "app": "web" }), &json!({ "containers": [] }))];
        let services = ["web", "metrics"].map(|name| service(name, "shop", &json!({ "selector": { "app": "web" } })));
        let other = service("db", "shop", &json!({ "selector": { "app": "db" } }));
        let lead = |service: &str, host: &str| Lead {
            namespace: "shop".to_owned(),
            service: service.to_owned(),
            host: host.to_owned(),
        };
        let route = |kind, namespace: &str, leads: Vec<Lead>| Route {
            kind,
            namespace: namespace.to_owned(),
            name: "edge".to_owned(),
            leads: leads.into_iter().collect(),
        };
        let all = [
            route(RouteKind::HttpRoute, "gateways", vec![lead("web", "*")]),
            route(
                RouteKind::Ingress,
                "shop",
                vec![lead("web", "shop.example"), lead("metrics", "ops.example"), lead("db", "db.example")],
            ),
            route(RouteKind::Ingress, "other", vec![lead("db", "db.example")]),
        ];
        // Whoever finds them may find more than was asked for.
        let routes = |_: &str, _: &str| all.iter().collect::<Vec<_>>();
        let exposure = of(&pods, services.into_iter().chain([other]), routes);
        let told: Vec<_> = exposure
            .ingresses
            .iter()
            .map(|one| (one.kind.as_str(), one.namespace.as_str(), one.name.as_str(), one.hosts.join(" ")))
            .collect();
        assert_eq!(
            told,
            [
                ("Ingress", "shop", "edge", "ops.example shop.example".to_owned()),
                ("HTTPRoute", "gateways", "edge", "*".to_owned())
            ]
        );
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
            no_routes,
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
        let quiet = of(
            &[pod(&json!({}), &json!({ "containers": [{ "name": "app" }] }))],
            Vec::<Box<Service>>::new(),
            no_routes,
        );
        assert_eq!(quiet, Exposure::default());
        let spec = json!({
            "hostNetwork": true, "hostPID": true, "hostIPC": true,
            "containers": [{ "name": "app", "ports": [{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 81 }] }],
            "initContainers": [{ "name": "init", "securityContext": { "privileged": true } }],
        });
        let open = of(&[pod(&json!({}), &spec)], Vec::<Box<Service>>::new(), no_routes);
        assert!(open.host_network && open.host_pid && open.host_ipc && open.privileged);
        assert_eq!(open.host_ports, [8080]);
    }
}
