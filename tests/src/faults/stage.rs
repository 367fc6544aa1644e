//! What stands before the load begins: pods, a channel, a Source and a playbook.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterChannel, ClusterPlaybook, Source};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::receiver::Receiver;
use super::{LOOK_AGAIN, SOURCE};
use crate::fixtures::{Described as _, PodCarrier as _, pod};
use crate::operator::{NAMESPACE, source_spec};
use crate::{TestNamespace, wait};

/// Pods that nothing owns, all of which run.
pub(super) async fn pods(namespace: &TestNamespace, names: &[String]) -> Result<()> {
    let mut creating = JoinSet::new();
    for name in names {
        let (namespace, name) = (namespace.clone(), name.clone());
        let create = async move {
            namespace
                .create_object(&pod(&name).image("registry.example/app:1.0").label("app", "faults"))
                .await
                .map(drop)
        };
        creating.spawn(create);
        if creating.len() >= 32 {
            creating.join_next().await.context("nothing is created")???;
        }
    }
    while let Some(created) = creating.join_next().await {
        created??;
    }
    let api: Api<Pod> = namespace.api();
    wait::eventually_every(LOOK_AGAIN, Duration::from_mins(5), "all pods run", async || {
        let list = api.list(&ListParams::default()).await?;
        let waits = list.items.iter().filter(|pod| !wait::is_ready(pod)).count();
        ensure!(waits == 0, "{waits} are not ready");
        Ok(Some(()))
    })
    .await
}

/// The channel, the Source and the playbook.
pub(super) async fn declare(client: &Client, receiver: &Receiver) -> Result<()> {
    let apply = PatchParams::apply("quell-tests").force();
    let secret = Secret {
        metadata: ObjectMeta { name: Some("hook".to_owned()), ..ObjectMeta::default() },
        string_data: Some([("hmac".to_owned(), "the-key-of-the-faults".to_owned())].into()),
        ..Secret::default()
    };
    Api::<Secret>::namespaced(client.clone(), NAMESPACE).patch("hook", &apply, &Patch::Apply(&secret)).await?;
    let object = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "quell.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let webhook = json!({ "webhook": { "url": receiver.url(), "hmacKey": { "name": "hook", "key": "hmac" } } });
    let channel = object("ClusterChannel", "security", webhook);
    Api::<ClusterChannel>::all(client.clone()).patch("security", &apply, &Patch::Apply(&channel)).await?;
    let source = object("Source", SOURCE, source_spec("falco"));
    Api::<Source>::all(client.clone()).patch(SOURCE, &apply, &Patch::Apply(&source)).await?;
    let playbook = object(
        "ClusterPlaybook",
        "contain",
        json!({
            "match": { "sources": [SOURCE], "minSeverity": "High" },
            "steps": [
                { "name": "contain", "quarantine": {}, "retry": { "limit": 50, "backoff": "200ms" } },
                {
                    "name": "tell", "retry": { "limit": 50, "backoff": "200ms" },
                    "notify": { "channels": [{ "name": "security" }], "message": "${target.namespace}/${target.name} is cut off" },
                },
            ],
        }),
    );
    Api::<ClusterPlaybook>::all(client.clone()).patch("contain", &apply, &Patch::Apply(&playbook)).await?;
    Ok(())
}

/// Waits until Quell has said that the playbook as it is now is ready.
pub(super) async fn playbook_is_ready(client: &Client) -> Result<()> {
    let playbooks: Api<ClusterPlaybook> = Api::all(client.clone());
    let ready = |playbook: &ClusterPlaybook| {
        playbook.status.as_ref().is_some_and(|status| {
            status.observed_generation == playbook.metadata.generation
                && conditions::is_true(&status.conditions, ConditionType::Ready)
        })
    };
    wait::until_present(&playbooks, "contain", "Ready", wait::DEADLINE, ready).await.map(drop)
}
