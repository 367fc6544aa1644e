//! Ingresses and routes of Gateways, by the Services that they lead to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::networking::v1::Ingress;
use kube::api::Api;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use quell_actions::exposure::{Route, RouteKind};

use crate::caches::trim::trim_ingress;
use crate::mirror::{Change, Mirrors};

/// Namespace and name of a route of a kind.
type RouteKey = (RouteKind, String, String);
/// Namespace and name of a Service.
type ServiceKey = (String, String);

/// Ingresses, and beside them whatever else leads to Services.
pub struct Ingresses {
    pub(super) copy: Store<Ingress>,
    /// Ingresses, and routes of Gateways where they are served.
    pub routes: Arc<Routes>,
}

impl Ingresses {
    pub(super) fn keep(client: &Client, mirrors: &Mirrors) -> Self {
        let routes: Arc<Routes> = Arc::default();
        let all = Api::<Ingress>::all(client.clone());
        let copy = mirrors.keep(all, watcher::Config::default(), trim_ingress, {
            let routes = routes.clone();
            move |change| ingress_changed(&routes, &change)
        });
        Self { copy, routes }
    }
}

fn ingress_changed(routes: &Routes, change: &Change<Ingress>) {
    match change {
        Change::There(ingress) => routes.put(Route::of_ingress(ingress)),
        Change::Gone(ingress) => {
            routes.remove(RouteKind::Ingress, &ingress.namespace().unwrap_or_default(), &ingress.name_any());
        }
        Change::Listed => {}
    }
}

/// What leads to which Service.
#[derive(Default)]
pub struct Routes(RwLock<Known>);

#[derive(Default)]
struct Known {
    routes: HashMap<RouteKey, Arc<Route>>,
    to: HashMap<ServiceKey, BTreeSet<RouteKey>>,
}

impl Routes {
    /// Takes a route up, new or changed.
    pub fn put(&self, route: Route) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (route.kind, route.namespace.clone(), route.name.clone());
        known.forget(&key);
        for service in services(&route) {
            known.to.entry(service).or_default().insert(key.clone());
        }
        known.routes.insert(key, Arc::new(route));
    }

    /// Forgets a route that is gone.
    pub fn remove(&self, kind: RouteKind, namespace: &str, name: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.forget(&(kind, namespace.to_owned(), name.to_owned()));
    }

    /// Of this kind there are these, and no others.
    pub fn are(&self, kind: RouteKind, routes: Vec<Route>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before: Vec<RouteKey> = known.routes.keys().filter(|key| key.0 == kind).cloned().collect();
        for key in &before {
            known.forget(key);
        }
        drop(known);
        for route in routes {
            self.put(route);
        }
    }

    /// What leads to the Service.
    #[must_use]
    pub fn to(&self, namespace: &str, service: &str) -> Vec<Arc<Route>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let keys = known.to.get(&(namespace.to_owned(), service.to_owned()));
        keys.into_iter().flatten().filter_map(|key| known.routes.get(key).cloned()).collect()
    }
}

impl Known {
    fn forget(&mut self, key: &RouteKey) {
        let Some(route) = self.routes.remove(key) else { return };
        for service in services(&route) {
            if let Some(keys) = self.to.get_mut(&service) {
                keys.remove(key);
                if keys.is_empty() {
                    self.to.remove(&service);
                }
            }
        }
    }
}

fn services(route: &Route) -> BTreeSet<ServiceKey> {
    route.leads.iter().map(|lead| (lead.namespace.clone(), lead.service.clone())).collect()
}

#[cfg(test)]
mod tests {
    use quell_actions::exposure::Lead;

    use super::*;

    fn route(kind: RouteKind, name: &str, services: &[&str]) -> Route {
        let lead = |service: &&str| Lead {
            namespace: "shop".to_owned(),
            service: (*service).to_owned(),
            host: "shop.example".to_owned(),
        };
        let leads = services.iter().map(lead).collect();
        Route { kind, namespace: "shop".to_owned(), name: name.to_owned(), leads }
    }

    fn names(routes: &Routes, service: &str) -> Vec<String> {
        routes.to("shop", service).iter().map(|one| format!("{} {}", one.kind.name(), one.name)).collect()
    }

    #[test]
    fn routes_are_found_by_the_services_that_they_lead_to_now() {
        let routes = Routes::default();
        routes.put(route(RouteKind::Ingress, "edge", &["web", "api"]));
        routes.put(route(RouteKind::HttpRoute, "edge", &["web"]));
        assert_eq!(names(&routes, "web"), ["Ingress edge", "HTTPRoute edge"]);
        routes.put(route(RouteKind::Ingress, "edge", &["api"]));
        assert_eq!(
            (names(&routes, "web"), names(&routes, "api")),
            (vec!["HTTPRoute edge".to_owned()], vec!["Ingress edge".to_owned()])
        );
        assert!(routes.to("other", "api").is_empty());
        routes.remove(RouteKind::Ingress, "shop", "edge");
        routes.are(RouteKind::HttpRoute, vec![route(RouteKind::HttpRoute, "other", &["api"])]);
        assert_eq!((names(&routes, "web"), names(&routes, "api")), (Vec::new(), vec!["HTTPRoute other".to_owned()]));
        routes.are(RouteKind::HttpRoute, Vec::new());
        let known = routes.0.read().unwrap();
        assert!(known.routes.is_empty() && known.to.is_empty(), "nothing is left of what is gone");
    }
}
