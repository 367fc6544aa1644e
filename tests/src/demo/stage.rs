//! The stage: a control plane, Quell, the shop, and what a platform team declares.

use std::time::Instant;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterChannel, ClusterPlaybook, Source};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;

use super::news::News;
use super::receiver::{KEY, Receiver};
use super::screen::Screen;
use super::shop::{REPLICAS, STOREFRONT, Shop};
use crate::operator::{self, Operator, source_spec};
use crate::{Binaries, ControlPlane, Options, Tool, crds, wait};

/// The playbooks, as a security team would write them.
pub const PLAYBOOKS: [&str; 2] = [include_str!("contain-reverse-shell.yaml"), include_str!("rebuild-critical.yaml")];
/// The channel that the playbooks name.
const CHANNEL: &str = "security";
/// The Secret of that channel, in Quell's namespace.
const CHANNEL_SECRET: &str = "security-hook";
/// Each Source, which has the name of its format.
const SOURCES: [&str; 2] = ["falco", "trivy"];

/// What [`declare`] declares.
const DECLARED: &str = "Sources falco and trivy, ClusterChannel security, ClusterPlaybooks contain-reverse-shell and rebuild-critical: all Ready";

/// Everything that runs; what is dropped first stands first.
pub struct Stage {
    /// Quell, a process of its own.
    pub operator: Operator,
    /// Takes notifications.
    pub receiver: Receiver,
    /// The workloads.
    pub shop: Shop,
    /// An admin's client.
    pub client: Client,
    /// The cluster.
    pub control_plane: ControlPlane,
    /// When all programs were at hand, and the boot began.
    pub begun: Instant,
}

impl Stage {
    /// Sets it, and says what stands.
    pub async fn set(screen: Screen, news: &UnboundedSender<News>) -> Result<Self> {
        // Where they must be built first, this takes minutes and shows its own progress.
        Binaries::ensure(Tool::CONTROL_PLANE).await?;
        screen.heading("Setting the stage");
        let begun = Instant::now();
        let options = Options::default();
        let nodes = options.nodes;
        let control_plane = ControlPlane::start(options).await?;
        let client = control_plane.client().await?;
        let version = client.apiserver_version().await?.git_version;
        screen.standing(
            "Kubernetes",
            &format!("{version}, a real control plane, {nodes} nodes without containers"),
            begun.elapsed(),
        );

        let receiver = Receiver::listen(news.clone()).await?;
        let ready = async {
            let operator = start_quell(screen, &control_plane).await?;
            let now = Instant::now();
            // The API server keeps whoever creates an object of a kind that is younger than two seconds waiting for as long.
            declare(&client, &receiver).await?;
            screen.standing("declared", DECLARED, now.elapsed());
            Ok(operator)
        };
        let (operator, shop) = tokio::try_join!(ready, open_shop(screen, &client))?;
        Ok(Self { operator, receiver, shop, client, control_plane, begun })
    }

    /// Ends all of it, and returns when it is gone.
    pub async fn strike(self) -> Result<()> {
        let Self { operator, control_plane, .. } = self;
        tokio::task::spawn_blocking(move || drop(operator)).await.context("interrupted while Quell ended")?;
        control_plane.stop().await
    }
}

async fn start_quell(screen: Screen, control_plane: &ControlPlane) -> Result<Operator> {
    let now = Instant::now();
    crds::install(control_plane).await.context("can't install the CRDs of Quell")?;
    let installed = now.elapsed();
    screen.standing("CRDs", &format!("{} kinds of quell.dev/v1alpha1", quell_crds::all().len()), installed);
    let now = Instant::now();
    let this = std::env::current_exe().context("this program has no path")?;
    let operator = Operator::start(&this, control_plane, &[]).await?;
    screen.standing(
        "Quell",
        &format!("runs as a process of its own, takes signals at {}", operator.url()),
        now.elapsed(),
    );
    Ok(operator)
}

async fn open_shop(screen: Screen, client: &Client) -> Result<Shop> {
    let now = Instant::now();
    let shop = Box::pin(Shop::open(client)).await?;
    let what =
        format!("{STOREFRONT} 1.5.0 (before it 1.4.0) × {REPLICAS} behind a Service, payments × 2, db, nightly-report");
    screen.standing("shop", &what, now.elapsed());
    Ok(shop)
}

/// What a platform team and a security team apply. Returns when Quell has said that all of it is Ready.
async fn declare(client: &Client, receiver: &Receiver) -> Result<()> {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(CHANNEL_SECRET.to_owned()), ..ObjectMeta::default() },
        string_data: Some([("hmac".to_owned(), KEY.to_owned())].into()),
        ..Secret::default()
    };
    Api::<Secret>::namespaced(client.clone(), operator::NAMESPACE).create(&PostParams::default(), &secret).await?;
    let channel = json!({
        "apiVersion": "quell.dev/v1alpha1",
        "kind": "ClusterChannel",
        "metadata": {"name": CHANNEL},
        "spec": {"webhook": {"url": receiver.url(), "hmacKey": {"name": CHANNEL_SECRET, "key": "hmac"}}},
    });
    apply::<ClusterChannel>(client, serde_json::from_value(channel)?).await?;
    for playbook in PLAYBOOKS {
        apply::<ClusterPlaybook>(client, serde_saphyr::from_str(playbook)?).await?;
    }
    for format in SOURCES {
        let source = json!({
            "apiVersion": "quell.dev/v1alpha1",
            "kind": "Source",
            "metadata": {"name": format},
            "spec": source_spec(format),
        });
        apply::<Source>(client, serde_json::from_value(source)?).await?;
    }
    let patience = wait::DEADLINE;
    let is_ready = |conditions: &[Condition]| conditions::is_true(conditions, ConditionType::Ready);
    let ready = "is Ready";
    let channels: Api<ClusterChannel> = Api::all(client.clone());
    let condition =
        |channel: &ClusterChannel| channel.status.as_ref().is_some_and(|status| is_ready(&status.conditions));
    wait::until_present(&channels, CHANNEL, ready, patience, condition).await?;
    let playbooks: Api<ClusterPlaybook> = Api::all(client.clone());
    for name in ["contain-reverse-shell", "rebuild-critical"] {
        let condition = |one: &ClusterPlaybook| one.status.as_ref().is_some_and(|status| is_ready(&status.conditions));
        wait::until_present(&playbooks, name, ready, patience, condition).await?;
    }
    let sources: Api<Source> = Api::all(client.clone());
    for name in SOURCES {
        let condition = |source: &Source| source.status.as_ref().is_some_and(|status| is_ready(&status.conditions));
        wait::until_present(&sources, name, ready, patience, condition).await?;
    }
    Ok(())
}

async fn apply<K>(client: &Client, object: K) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let created = Api::<K>::all(client.clone()).create(&PostParams::default(), &object).await;
    created.with_context(|| format!("can't create {} {name}", K::kind(&())))?;
    Ok(())
}
