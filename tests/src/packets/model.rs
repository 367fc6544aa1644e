//! What the isolation model says of each pair, from the objects that are in the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{ResourceExt as _, discovery};
use quell_isolation::{Endpoint, Model, Pod as Modelled, PodRef, Policy, PolicyKind, Protocol, Verdict};
use serde_json::json;

use super::attempts::Place;
use super::matrix::{Matrix, Pair, Source, Target};
use crate::Node;

/// Groups of the plugins' own policies.
const GROUPS: [&str; 3] = ["cilium.io", "crd.projectcalico.org", "policy.networking.k8s.io"];

/// The model of a cluster, and where its Services send to.
pub struct Said {
    model: Model,
    services: BTreeMap<(IpAddr, u16, Protocol), Vec<(IpAddr, u16)>>,
    node: IpAddr,
    outside: IpAddr,
}

impl Said {
    /// Of the cluster as it is now.
    pub async fn read(node: &Node) -> Result<Self> {
        let client = node.control_plane().client().await?;
        let all = ListParams::default();
        let mut model = Model::new();
        for namespace in Api::<Namespace>::all(client.clone()).list(&all).await? {
            model.upsert_namespace(&namespace.name_any(), namespace.labels());
        }
        for pod in Api::<Pod>::all(client.clone()).list(&all).await? {
            model.upsert_pod(Modelled::of(&pod));
        }
        for policy in Api::<NetworkPolicy>::all(client.clone()).list(&all).await? {
            model.upsert_policy(&policy);
        }
        for group in GROUPS {
            let Ok(group) = discovery::group(&client, group).await else { continue };
            for (resource, _) in group.recommended_resources() {
                if PolicyKind::of(&resource.group, &resource.kind).is_none() {
                    continue;
                }
                for object in Api::<DynamicObject>::all_with(client.clone(), &resource).list(&all).await? {
                    let mut value = json!(object);
                    value["apiVersion"] = json!(resource.api_version);
                    value["kind"] = json!(resource.kind);
                    model.upsert_policy(Policy::read(&value)?);
                }
            }
        }
        let enclosure = node.enclosure();
        Ok(Self {
            model,
            services: services(&client).await?,
            node: enclosure.inside().to_string().parse()?,
            outside: enclosure.outside().to_string().parse()?,
        })
    }

    /// Whether a pair should be reached; `None`: the model can't tell.
    pub fn of(&self, matrix: &Matrix, pair: &Pair) -> Result<Option<bool>> {
        let source = matrix.sources.iter().find(|source| source.name == pair.from).context("no such source")?;
        let target = matrix.targets.iter().find(|target| target.name == pair.to && target.kind == pair.kind);
        self.reaches(source, target.context("no such target")?)
    }

    /// All attempts must be answered, so all pods behind a Service must be in reach.
    fn reaches(&self, source: &Source, target: &Target) -> Result<Option<bool>> {
        let from = match &source.place {
            Place::Pod { namespace, name } => Endpoint::Pod(PodRef::new(namespace, name)),
            Place::Node => Endpoint::Address(self.node),
            Place::Outside => Endpoint::Address(self.outside),
        };
        let (address, port) = target.address.rsplit_once(':').context("an address without a port")?;
        let (address, port): (IpAddr, u16) = (address.parse()?, port.parse()?);
        let protocol = if target.kind == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let behind = self.services.get(&(address, port, protocol)).cloned().unwrap_or_else(|| vec![(address, port)]);
        let mut all = Some(true);
        for (address, port) in behind {
            match self.model.verdict(&from, &Endpoint::Address(address), protocol, port) {
                Verdict::Allowed { .. } => {}
                Verdict::Denied { .. } => return Ok(Some(false)),
                Verdict::Unknown { .. } => all = None,
            }
        }
        Ok(all)
    }
}

async fn services(client: &kube::Client) -> Result<BTreeMap<(IpAddr, u16, Protocol), Vec<(IpAddr, u16)>>> {
    let slices = Api::<EndpointSlice>::all(client.clone()).list(&ListParams::default()).await?.items;
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for service in Api::<Service>::all(client.clone()).list(&ListParams::default()).await? {
        let spec = service.spec.clone().unwrap_or_default();
        let Some(address) = spec.cluster_ip.and_then(|address| address.parse::<IpAddr>().ok()) else { continue };
        let of = |slice: &&EndpointSlice| {
            slice.namespace() == service.namespace()
                && slice.labels().get("kubernetes.io/service-name") == Some(&service.name_any())
        };
        for slice in slices.iter().filter(of) {
            for port in spec.ports.iter().flatten() {
                let protocol = Protocol::named(port.protocol.as_deref().unwrap_or("TCP")).context("a protocol")?;
                let named = |one: &&k8s_openapi::api::discovery::v1::EndpointPort| {
                    one.name.clone().unwrap_or_default() == port.name.clone().unwrap_or_default()
                };
                let Some(number) = slice.ports.iter().flatten().find(named).and_then(|one| one.port) else { continue };
                let ready = slice
                    .endpoints
                    .iter()
                    .flatten()
                    .filter(|one| one.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)));
                let key = (address, u16::try_from(port.port)?, protocol);
                let behind = found.entry(key).or_default();
                for endpoint in ready {
                    for address in &endpoint.addresses {
                        behind.push((address.parse()?, u16::try_from(number)?));
                    }
                }
            }
        }
    }
    Ok(found)
}
