//! What leads requests from outside of the cluster to Services: Ingresses, and routes of Gateways.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;

/// Whatever host is asked for.
const ANY_HOST: &str = "*";

/// Kinds of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `networking.k8s.io` Ingress.
    Ingress,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
}

impl RouteKind {
    /// As Kubernetes calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::HttpRoute => "HTTPRoute",
        }
    }
}

/// An Ingress or HTTPRoute, as far as it says where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it is.
    pub kind: RouteKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Services that it leads to, each with a host for which it does.
    pub leads: BTreeSet<Lead>,
}

/// A Service to which requests for a host are led.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lead {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// The host, such as `shop.example` or `*.shop.example`; `*` for any.
    pub host: String,
}

impl Route {
    /// Of an Ingress. Backends that are no Services are left out.
    #[must_use]
    pub fn of_ingress(ingress: &Ingress) -> Self {
        let namespace = ingress.namespace().unwrap_or_default();
        let spec = ingress.spec.as_ref();
        let lead = |host: Option<&String>, backend: &IngressBackend| {
            let service = backend.service.as_ref()?.name.clone();
            let host = host.filter(|host| !host.is_empty()).cloned().unwrap_or_else(|| ANY_HOST.to_owned());
            Some(Lead { namespace: namespace.clone(), service, host })
        };
        let others = spec.and_then(|spec| spec.default_backend.as_ref()).and_then(|backend| lead(None, backend));
        let rules = spec.and_then(|spec| spec.rules.as_ref()).into_iter().flatten();
        let by_rule = rules.flat_map(|rule| {
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            paths.filter_map(|path| lead(rule.host.as_ref(), &path.backend)).collect::<Vec<_>>()
        });
        let leads = by_rule.chain(others).collect();
        Self { kind: RouteKind::Ingress, namespace, name: ingress.name_any(), leads }
    }

    /// Of an HTTPRoute; nothing for one that is of no Gateway, as those of a mesh are.
    #[must_use]
    pub fn of_http_route(object: &DynamicObject) -> Option<Self> {
        let spec = &object.data["spec"];
        let text = |value: &Value, field: &str| value[field].as_str().map(str::to_owned);
        let is =
            |reference: &Value, kind: &str, by_default: &str| reference["kind"].as_str().unwrap_or(by_default) == kind;
        if !items(&spec["parentRefs"]).any(|parent| is(parent, "Gateway", "Gateway")) {
            return None;
        }
        let own = object.namespace().unwrap_or_default();
        let mut hosts: Vec<String> =
            items(&spec["hostnames"]).filter_map(|host| host.as_str().map(str::to_owned)).collect();
        if hosts.is_empty() {
            hosts.push(ANY_HOST.to_owned());
        }
        let backends = items(&spec["rules"]).flat_map(|rule| items(&rule["backendRefs"]));
        // A weight of nought is how a route is prepared, or emptied.
        let weighty =
            backends.filter(|backend| is(backend, "Service", "Service") && backend["weight"].as_i64() != Some(0));
        let services: BTreeSet<(String, String)> = weighty
            .filter_map(|backend| {
                Some((text(backend, "namespace").unwrap_or_else(|| own.clone()), text(backend, "name")?))
            })
            .collect();
        let leads = services.into_iter().flat_map(|(namespace, service)| {
            let lead = move |host: &String| Lead {
                namespace: namespace.clone(),
                service: service.clone(),
                host: host.clone(),
            };
            hosts.iter().map(lead).collect::<Vec<_>>()
        });
        let leads = leads.collect();
        Some(Self { kind: RouteKind::HttpRoute, namespace: own, name: object.name_any(), leads })
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leads(route: &Route) -> Vec<(&str, &str, &str)> {
        route.leads.iter().map(|lead| (lead.namespace.as_str(), lead.service.as_str(), lead.host.as_str())).collect()
    }

    #[test]
    fn an_ingress_leads_to_the_services_of_its_rules_each_for_its_host_and_to_that_of_all_else() {
        let path = |service: &str| json!({ "path": "/", "pathType": "Prefix", "backend": { "service": { "name": service, "port": { "number": 80 } } } });
        let bucket = json!({ "pathType": "Prefix", "backend": { "resource": { "kind": "Bucket", "name": "static" } } });
        let ingress: Ingress = serde_json::from_value(json!({
            "metadata": { "name": "shop", "namespace": "shop" },
            "spec": {
                "defaultBackend": { "service": { "name": "lost", "port": { "number": 80 } } },
                "rules": [
                    { "host": "shop.example", "http": { "paths": [path("web"), path("web"), bucket] } },
                    { "host": "api.shop.example", "http": { "paths": [path("api")] } },
                    { "http": { "paths": [path("web")] } },
                ],
            },
        }))
        .expect("an Ingress");
        let route = Route::of_ingress(&ingress);
        assert_eq!(
            leads(&route),
            [
                ("shop", "api", "api.shop.example"),
                ("shop", "lost", "*"),
                ("shop", "web", "*"),
                ("shop", "web", "shop.example")
            ]
        );
        assert_eq!(Route::of_ingress(&Ingress::default()).leads, BTreeSet::new());
    }

    fn http_route(spec: &Value) -> Option<Route> {
        let object = json!({ "metadata": { "name": "shop", "namespace": "edge" }, "spec": spec });
        Route::of_http_route(&serde_json::from_value(object).expect("an HTTPRoute"))
    }

    #[test]
    fn a_route_of_a_gateway_leads_to_the_services_that_it_gives_any_weight_also_in_another_namespace() {
        let rules = json!([
            { "backendRefs": [{ "name": "web", "namespace": "shop", "port": 80, "weight": 90 }, { "name": "next", "weight": 0 }] },
            { "backendRefs": [{ "name": "web", "kind": "Service" }, { "name": "files", "kind": "Bucket", "group": "x.io" }] },
            { "filters": [{ "type": "RequestRedirect" }] },
        ]);
        let spec = json!({ "parentRefs": [{ "name": "public" }], "hostnames": ["shop.example"], "rules": rules });
        let route = http_route(&spec).expect("a route");
        assert_eq!(leads(&route), [("edge", "web", "shop.example"), ("shop", "web", "shop.example")]);
        let any = http_route(
            &json!({ "parentRefs": [{ "name": "public" }], "rules": [{ "backendRefs": [{ "name": "web" }] }] }),
        );
        assert_eq!(leads(&any.expect("a route")), [("edge", "web", "*")]);
    }

    #[test]
    fn a_route_of_a_mesh_leads_nobody_in_from_the_outside() {
        let rules = json!([{ "backendRefs": [{ "name": "web" }] }]);
        assert_eq!(
            http_route(&json!({ "parentRefs": [{ "kind": "Service", "group": "", "name": "web" }], "rules": rules })),
            None
        );
        assert_eq!(http_route(&json!({ "rules": rules })), None);
    }
}
