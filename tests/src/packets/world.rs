//! The pods, Services and machines between which connections are tried.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, Probe, Service, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use serde_json::json;

use super::attempts::Place;
use super::matrix::{Matrix, Source, Target};
use crate::fixtures::{PodCarrier, Scaled as _, deployment, pod, service};
use crate::lifeline::Lifeline;
use crate::node::{DNS_ADDRESS, PROBE_IMAGE};
use crate::{Node, TestNamespace, wait};

/// The pod that is quarantined; one of [`WEB`].
pub const VICTIM: &str = "victim";
/// The Deployment behind a Service.
pub const WEB: &str = "web";
/// The other pod of [`WEB`].
pub const SIBLING: &str = "sibling";
/// A pod of the same namespace.
pub const CLIENT: &str = "client";
/// A pod of another namespace.
pub const PEER: &str = "peer";
/// A pod with the network of its node.
pub const HOST: &str = "hostNetwork pod";
/// The node itself.
pub const NODE: &str = "node";
/// A machine that is no node.
pub const OUTSIDE: &str = "outside";

/// Where pods of the probe listen, on TCP and UDP.
pub const PORT: u16 = 8080;
/// Where the others do: their ports are those of a machine.
const HOST_PORT: u16 = 18_080;

/// All of it, up and running.
pub struct World {
    /// The namespace of the web.
    pub shop: TestNamespace,
    /// Another one.
    pub other: TestNamespace,
    /// The pod to quarantine.
    pub victim: Pod,
    host_address: String,
    // The server outside.
    _outside: Lifeline,
    outside_address: String,
}

/// A pod, Deployment, … of the probe, as a server that is ready when it listens.
pub fn server<K: PodCarrier>(object: K, addresses: &[String]) -> K {
    let arguments: Vec<String> = [vec!["serve".to_owned()], addresses.to_vec()].concat();
    let port = addresses.first().and_then(|address| address.rsplit(':').next()?.parse().ok()).unwrap_or(PORT);
    object.image(PROBE_IMAGE).with_pod(|spec| {
        spec.termination_grace_period_seconds = Some(5);
        if let Some(container) = spec.containers.first_mut() {
            listen(container, port);
            container.args = Some(arguments);
        }
    })
}

fn listen(container: &mut Container, port: u16) {
    let port = i32::from(port);
    container.ports = Some(vec![ContainerPort { container_port: port, ..ContainerPort::default() }]);
    container.readiness_probe = Some(Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(port), host: None }),
        period_seconds: Some(1),
        ..Probe::default()
    });
}

/// A pod alone, once it is ready, and its address.
pub async fn lonely(namespace: &TestNamespace, name: &str) -> Result<String> {
    namespace.create_object(&server(pod(name), &[format!(":{PORT}")])).await?;
    let pod = wait::pod_ready(&namespace.api(), name, wait::DEADLINE).await?;
    address(&pod)
}

impl World {
    /// Creates it, and waits until all of it is ready.
    pub async fn create(node: &Node) -> Result<Self> {
        let control_plane = node.control_plane();
        let shop = TestNamespace::create(control_plane, "shop").await?;
        let other = TestNamespace::create(control_plane, "other").await?;
        let here = [format!(":{PORT}")];
        for (namespace, name, replicas) in [(&shop, WEB, 2), (&shop, CLIENT, 1), (&other, PEER, 1)] {
            namespace.create_object(&server(deployment(name).replicas(replicas), &here)).await?;
            namespace.create_object(&service(name)).await?;
        }
        // This address alone: a datagram to it must not be answered from another one.
        let host_address = format!("{}:{HOST_PORT}", node.enclosure().inside());
        shop.create_object(&server(pod("host").host_network(), std::slice::from_ref(&host_address))).await?;
        create_dns(shop.client()).await?;
        for (namespace, name) in [(&shop, WEB), (&shop, CLIENT), (&other, PEER)] {
            wait::rolled_out(&namespace.api::<Deployment>(), name, wait::DEADLINE).await?;
        }
        wait::pod_ready(&shop.api(), "host", wait::DEADLINE).await?;
        let system: Api<Pod> = Api::namespaced(shop.client().clone(), "kube-system");
        wait::pod_ready(&system, "dns", wait::DEADLINE).await?;

        let outside_address = format!("{}:{HOST_PORT}", node.enclosure().outside());
        let outside = Lifeline::new(None)?;
        let mut command = std::process::Command::new(node.probe());
        command.args(["serve", &outside_address]).stdin(std::process::Stdio::null());
        outside.spawn("probe", &mut command)?;
        let victim = pods_of(&shop, WEB).await?.into_iter().next().context("the web has no pod")?;
        keep(&shop, &victim).await?;
        Ok(Self { shop, other, victim, host_address, _outside: outside, outside_address })
    }

    /// The place that is the victim.
    #[must_use]
    pub fn victim(&self) -> Place {
        Place::pod(self.shop.name(), &self.victim.name_any())
    }

    /// The victim's address, without a port.
    pub fn victim_address(&self) -> Result<String> {
        address(&self.victim)
    }

    /// The place that is the only pod of a Deployment.
    pub async fn place(namespace: &TestNamespace, deployment: &str) -> Result<Place> {
        let pod = pods_of(namespace, deployment).await?.into_iter().next().context("it has no pod")?;
        Ok(Place::pod(namespace.name(), &pod.name_any()))
    }

    /// Address and port of a Service of the shop.
    pub async fn service(&self, name: &str) -> Result<String> {
        service_address(&self.shop.api().get(name).await?)
    }

    /// As it is now: the web's other pod may be another by now.
    pub async fn matrix(&self) -> Result<Matrix> {
        let (shop, other) = (&self.shop, &self.other);
        let sibling = pods_of(shop, WEB).await?.into_iter().find(|pod| pod.name_any() != self.victim.name_any());
        let sibling = sibling.context("the victim is the only pod of the web")?;
        let [client, peer] = [first(shop, CLIENT).await?, first(other, PEER).await?];
        let mut sources = Vec::new();
        let mut targets = Vec::new();
        for (name, namespace, pod) in
            [(VICTIM, shop, &self.victim), (SIBLING, shop, &sibling), (CLIENT, shop, &client), (PEER, other, &peer)]
        {
            sources.push(Source { name: name.into(), place: Place::pod(namespace.name(), &pod.name_any()) });
            let address = format!("{}:{PORT}", address(pod)?);
            targets.extend(["tcp", "udp"].map(|kind| direct(name, kind, &address)));
        }
        sources.push(Source { name: HOST.into(), place: Place::pod(shop.name(), "host") });
        sources.push(Source { name: NODE.into(), place: Place::Node });
        sources.push(Source { name: OUTSIDE.into(), place: Place::Outside });
        targets.extend(["tcp", "udp"].map(|kind| direct(HOST, kind, &self.host_address)));
        targets.extend(["tcp", "udp"].map(|kind| direct(OUTSIDE, kind, &self.outside_address)));
        for (namespace, name) in [(shop, WEB), (other, PEER)] {
            let address = service_address(&namespace.api().get(name).await?)?;
            targets.push(behind(&format!("{name} (Service)"), "tcp", address));
        }
        targets.push(behind("API server (Service)", "connect", "10.96.0.1:443".to_owned()));
        let dns = |kind| behind("DNS (Service)", kind, format!("{DNS_ADDRESS}:53"));
        targets.extend([dns("tcp"), dns("udp")]);
        Ok(Matrix { sources, targets })
    }
}

fn direct(name: &str, kind: &'static str, address: &str) -> Target {
    Target { name: name.into(), of: Some(name.into()), kind, address: address.into(), virtual_address: false }
}

fn behind(name: &str, kind: &'static str, address: String) -> Target {
    Target { name: name.into(), of: None, kind, address, virtual_address: true }
}

/// A server with the label by which policies mean DNS; it answers, though not in that protocol.
async fn create_dns(client: &kube::Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let mut dns = server(pod("dns"), &[":53".to_owned()]);
    let labels = std::collections::BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]);
    dns.meta_mut().labels = Some(labels);
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "kube-dns" },
        "spec": {
            "clusterIP": DNS_ADDRESS, "selector": { "k8s-app": "kube-dns" },
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    }))?;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
    wait::until(&accounts, "default", "exists", wait::DEADLINE, |account| account.is_some()).await?;
    pods.create(&PostParams::default(), &dns).await?;
    Api::namespaced(client.clone(), "kube-system").create(&PostParams::default(), &service).await?;
    Ok(())
}

/// After the undo its owner has one pod too many, and picks which one to delete: it shall be the clone.
async fn keep(namespace: &TestNamespace, pod: &Pod) -> Result<()> {
    let cost = json!({ "metadata": { "annotations": { "controller.kubernetes.io/pod-deletion-cost": "100" } } });
    namespace.api::<Pod>().patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(cost)).await?;
    Ok(())
}

async fn pods_of(namespace: &TestNamespace, deployment: &str) -> Result<Vec<Pod>> {
    let all = namespace.api::<Pod>().list(&ListParams::default().labels(&format!("app={deployment}"))).await?;
    Ok(all.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && wait::is_ready(pod)).collect())
}

async fn first(namespace: &TestNamespace, deployment: &str) -> Result<Pod> {
    let pods = pods_of(namespace, deployment).await?;
    pods.into_iter().next().with_context(|| format!("{deployment} has no pod that is ready"))
}

fn address(pod: &Pod) -> Result<String> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    address.with_context(|| format!("pod {} has no address", pod.name_any()))
}

fn service_address(service: &Service) -> Result<String> {
    let spec = service.spec.as_ref();
    let address = spec.and_then(|spec| spec.cluster_ip.clone()).context("the Service has no address")?;
    Ok(format!("{address}:80"))
}
