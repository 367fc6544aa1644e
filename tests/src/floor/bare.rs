//! The bare client.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, CustomResource, CustomResourceExt as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::seen::{Seen, light};
use crate::{ControlPlane, TestNamespace, crds};

/// What the floor creates and watches.
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[kube(group = "floor.quell.dev", version = "v1", kind = "Mark", namespaced)]
pub struct MarkSpec {
    /// The pod that is meant.
    pub pod: String,
}

/// As many requests at a time as keep a small API server busy.
pub const AT_ONCE: usize = 32;

/// A bare client at work in one namespace: for each Mark that its watch shows, it creates a NetworkPolicy.
pub struct Bare {
    marks: Api<Mark>,
    seen: Seen,
    task: tokio::task::JoinHandle<()>,
}

impl Bare {
    /// Installs its CRD, and begins to watch.
    pub async fn start(control_plane: &ControlPlane, namespace: &TestNamespace) -> Result<Self> {
        crds::install_these(control_plane, vec![Mark::crd()]).await?;
        let client = control_plane.client().await?;
        let marks: Api<Mark> = Api::namespaced(client.clone(), namespace.name());
        let policies = light::<NetworkPolicy>(control_plane.client().await?, namespace.name());
        let seen = Seen::by_watch(policies, watcher::Config::default(), |policy| Some(policy.name_any()));
        let task = tokio::spawn(act(client, marks.clone(), namespace.name().to_owned()));
        Ok(Self { marks, seen, task })
    }

    /// One alone: from the request to the NetworkPolicy in a watch.
    pub async fn once(&mut self, name: &str) -> Result<Duration> {
        let began = Instant::now();
        self.create(name).await?;
        let end = self.seen.all(&[name.to_owned()], Duration::from_mins(1)).await?;
        Ok(end - began)
    }

    /// Many at once.
    pub async fn burst(&mut self, names: &[String]) -> Result<Duration> {
        let began = Instant::now();
        stream::iter(names).map(|name| self.create(name)).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let end = self.seen.all(names, Duration::from_mins(5)).await?;
        Ok(end - began)
    }

    async fn create(&self, name: &str) -> Result<()> {
        let mark = Mark::new(name, MarkSpec { pod: name.to_owned() });
        self.marks.create(&PostParams::default(), &mark).await?;
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn act(client: Client, marks: Api<Mark>, namespace: String) {
    let policies: Api<NetworkPolicy> = Api::namespaced(client, &namespace);
    let touched = watcher(marks, watcher::Config::default()).default_backoff().touched_objects();
    let created = touched.try_for_each_concurrent(AT_ONCE, |mark| {
        let policies = policies.clone();
        async move {
            let policy = serde_json::from_value(json!({
                "metadata": { "name": mark.name_any() },
                "spec": {
                    "podSelector": { "matchLabels": { "floor.quell.dev/pod": mark.spec.pod } },
                    "policyTypes": ["Ingress", "Egress"],
                },
            }));
            if let Ok(policy) = policy {
                // A Mark that is shown again has its policy already.
                let _ = policies.create(&PostParams::default(), &policy).await;
            }
            Ok(())
        }
    });
    let _ = created.await;
}
