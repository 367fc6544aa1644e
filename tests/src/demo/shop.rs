//! A small shop: what an incident happens to, and what it must leave alone.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::fixtures::{APP, Described as _, PodCarrier as _, Scaled as _, cron_job, deployment, service, stateful_set};
use crate::wait;

/// Where it is.
pub const NAMESPACE: &str = "shop";
/// The Deployment that is broken into, and its Service.
pub const STOREFRONT: &str = "storefront";
/// How many replicas that has.
pub const REPLICAS: i32 = 3;
/// Its image before the incident, in which nothing is wrong.
pub const CLEAN_IMAGE: &str = "registry.example/shop/storefront:1.4.0";
/// Its image at the time of the incident.
pub const BAD_IMAGE: &str = "registry.example/shop/storefront:1.5.0";
/// The Deployment whose image has a critical vulnerability.
pub const PAYMENTS: &str = "payments";
/// That image.
pub const VULNERABLE_IMAGE: &str = "registry.example/shop/payments:2.3.0";
/// The StatefulSet that has nothing to do with any of this.
pub const DATABASE: &str = "db";
/// The CronJob that hasn't, either.
pub const REPORT: &str = "nightly-report";

const MANAGER: &str = "shop-team";

/// The shop, open: everything is rolled out, and the storefront has run 1.4.0 and runs 1.5.0.
pub struct Shop {
    /// The pod that will be broken into.
    pub victim: Pod,
    /// All pods of the storefront.
    pub storefront: Vec<Pod>,
}

impl Shop {
    /// Deploys all of it, as a team would that knows nothing of Quell.
    pub async fn open(client: &Client) -> Result<Self> {
        create_namespace(client).await.context("can't create the namespace of the shop")?;
        tokio::try_join!(open_storefront(client), open_payments(client), open_the_rest(client))?;
        let storefront = serving_pods(client).await?;
        let victim = storefront.first().cloned().context("the storefront has no pod")?;
        Ok(Self { victim, storefront })
    }
}

async fn create_namespace(client: &Client) -> Result<()> {
    let metadata = ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let accounts: Api<ServiceAccount> = api(client);
    wait::until_present(&accounts, "default", "exists", wait::DEADLINE, |_| true).await?;
    Ok(())
}

async fn open_storefront(client: &Client) -> Result<()> {
    let deployments: Api<Deployment> = api(client);
    let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    api::<Service>(client).create(&post, &service(STOREFRONT)).await?;
    deployments.create(&post, &deployment(STOREFRONT).image(CLEAN_IMAGE).replicas(REPLICAS)).await?;
    wait::rolled_out(&deployments, STOREFRONT, wait::DEADLINE).await?;
    let release = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": BAD_IMAGE}]}}}});
    let manager = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    deployments.patch(STOREFRONT, &manager, &Patch::Strategic(release)).await?;
    wait::rolled_out(&deployments, STOREFRONT, wait::DEADLINE).await?;
    Ok(())
}

async fn open_payments(client: &Client) -> Result<()> {
    let deployments: Api<Deployment> = api(client);
    let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    deployments.create(&post, &deployment(PAYMENTS).image(VULNERABLE_IMAGE).replicas(2)).await?;
    wait::rolled_out(&deployments, PAYMENTS, wait::DEADLINE).await?;
    Ok(())
}

async fn open_the_rest(client: &Client) -> Result<()> {
    let sets: Api<StatefulSet> = api(client);
    let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    sets.create(&post, &stateful_set(DATABASE).image("registry.example/shop/postgres:17.2")).await?;
    let report = cron_job(REPORT).image("registry.example/shop/report:3.1").annotation("owner", MANAGER);
    api::<CronJob>(client).create(&post, &report).await?;
    wait::rolled_out(&sets, DATABASE, wait::DEADLINE).await?;
    Ok(())
}

/// The pods of the storefront, by name, once the Service sends to exactly them.
async fn serving_pods(client: &Client) -> Result<Vec<Pod>> {
    wait::eventually(wait::DEADLINE, "the Service sends to every pod of 1.5.0 and to no other", async || {
        let mut pods =
            api::<Pod>(client).list(&ListParams::default().labels(&format!("{APP}={STOREFRONT}"))).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && wait::is_ready(pod));
        pods.sort_by_key(ResourceExt::name_any);
        let mut behind = endpoints(client).await?;
        behind.sort();
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        if names.len() != usize::try_from(REPLICAS)? || names != behind {
            bail!("pods {names:?}, endpoints {behind:?}");
        }
        Ok(Some(pods))
    })
    .await
}

/// Names of the pods that the storefront's Service sends to.
pub async fn endpoints(client: &Client) -> Result<Vec<String>> {
    let selector = format!("kubernetes.io/service-name={STOREFRONT}");
    let slices = api::<EndpointSlice>(client).list(&ListParams::default().labels(&selector)).await?;
    Ok(slices.items.iter().flat_map(ready_pods).collect())
}

/// Names of the pods in a slice that are ready.
#[must_use]
pub fn ready_pods(slice: &EndpointSlice) -> Vec<String> {
    let endpoints = slice.endpoints.iter().flatten();
    let ready =
        endpoints.filter(|one| one.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)));
    ready.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone()).collect()
}

/// The image of the first container.
#[must_use]
pub fn image_of(deployment: &Deployment) -> &str {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.and_then(|pod| pod.containers.first()?.image.as_deref()).unwrap_or_default()
}

/// The shop's objects of a kind.
#[must_use]
pub fn api<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType: Default>,
{
    Api::namespaced(client.clone(), NAMESPACE)
}
