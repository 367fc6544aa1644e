//! A control plane with the guards, and those who come to them.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use quell_crds::names;
use quell_tests::fixtures::pod;
use quell_tests::guards::{self, Guards};
use quell_tests::{ControlPlane, TestNamespace, crds, wait};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Quell, as the chart names it.
pub const QUELL: &str = "system:serviceaccount:quell:quell";

/// One test's place. All have every right that RBAC can give.
pub struct Bed {
    pub namespace: TestNamespace,
    /// A cluster admin.
    pub stranger: Client,
    pub quell: Client,
    pub break_glass: Client,
}

impl Bed {
    pub async fn new(prefix: &str) -> Result<Self> {
        static IN_FORCE: OnceCell<()> = OnceCell::const_new();
        let cluster = ControlPlane::shared().await?;
        IN_FORCE
            .get_or_try_init(async || {
                crds::install(cluster).await?;
                let guards = Guards::of(QUELL);
                guards::install(cluster, &guards).await?;
                guards::in_force(cluster, &guards).await
            })
            .await?;
        let everything = ["system:masters", "system:authenticated"];
        Ok(Self {
            namespace: TestNamespace::create(cluster, prefix).await?,
            stranger: cluster.client_as("somebody", &everything).await?,
            quell: cluster.client_as(QUELL, &everything).await?,
            break_glass: cluster.client_as("jo", &[guards::BREAK_GLASS, everything[0], everything[1]]).await?,
        })
    }

    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    pub fn pods(&self, of: &Client) -> Api<Pod> {
        Api::namespaced(of.clone(), self.name())
    }

    /// A ServiceAccount of a namespace with every right, by itself or because Quell acts as it.
    pub async fn service_account(&self, namespace: &str, by_quell: bool) -> Result<Client> {
        let mut config = ControlPlane::shared().await?.config().await?;
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:responder"));
        config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
        if by_quell {
            let header = format!("impersonate-extra-{}", names::ACTING.replace('/', "%2f"));
            config.headers.push((header.parse()?, "true".parse()?));
        }
        Ok(Client::try_from(config)?)
    }

    /// A pod that runs, and is under a quarantine that Quell has written.
    pub async fn quarantined(&self, name: &str) -> Result<Pod> {
        self.namespace.create_object(&pod(name)).await?;
        wait::pod_ready(&self.namespace.api(), name, wait::DEADLINE).await?;
        self.quarantine(&self.quell, name).await
    }

    /// Puts a pod under quarantine, or tries to.
    pub async fn quarantine(&self, of: &Client, name: &str) -> Result<Pod> {
        let there = self.pods(of).patch(name, &PatchParams::default(), &Patch::Merge(quarantine())).await?;
        // What guards the ways into a pod sees it in a copy.
        let copied = async || {
            let answer = guards::connect(&self.stranger, self.name(), name, "exec?command=true").await?;
            if answer.contains("quell-quarantined-sessions") { Ok(Some(())) } else { bail!("{answer}") }
        };
        wait::eventually(wait::DEADLINE, "nobody enters the pod", copied).await?;
        Ok(there)
    }
}

/// What a quarantine writes on a pod.
pub fn quarantine() -> Value {
    json!({ "metadata": {
        "labels": { names::QUARANTINE: "full", names::REMEDIATION: "run-1", "app": null },
        "annotations": { names::REMEDIATION: "run-1", names::BEFORE: "{}" },
    }})
}

/// Refused by that guard, with a message that says what to do.
#[track_caller]
pub fn refused<T>(answer: Result<T, kube::Error>, guard: &str, says: &str) {
    let error = answer.err();
    let told = error.as_ref().is_some_and(|error| guards::by(guard, error) && error.to_string().contains(says));
    assert!(told, "not by {guard} with {says:?}: {error:?}");
}
