//! The Jobs of Quell's probes, and what is played to come of them: on the test bed no container runs.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names;
use serde_json::{Value, json};

use crate::wait::{DEADLINE, eventually};

/// An image that never gets ready: what a Job's container says is for each test to say.
pub const IMAGE: &str = "registry.example/broken:1";

/// Where a pod is probed from, or the pod that each probe must reach.
pub struct Station {
    jobs: Api<Job>,
    pods: Api<Pod>,
    of: String,
}

impl Station {
    /// The one at that place (`peer`, `outside`, `beside`), whose Job is in this namespace.
    #[must_use]
    pub fn new(client: &Client, namespace: &str, place: &str) -> Self {
        Self {
            jobs: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            of: format!("{}={place}", names::PROBE),
        }
    }

    /// Of several there, the one for runs of that namespace.
    #[must_use]
    pub fn of_runs_in(mut self, namespace: &str) -> Self {
        self.of = format!("{},{}={namespace}", self.of, names::REMEDIATION_NAMESPACE);
        self
    }

    /// Its only Job.
    pub async fn job(&self) -> Result<Job> {
        eventually(DEADLINE, &format!("a Job with {}", self.of), async || {
            let mut all = self.jobs.list(&ListParams::default().labels(&self.of)).await?.items;
            ensure!(all.len() < 2, "{all:#?}");
            Ok(all.pop())
        })
        .await
    }

    /// The pod of its Job, once the kubelet that is played here has had its say.
    pub async fn pod(&self) -> Result<Pod> {
        let job = self.job().await?.name_any();
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        eventually(DEADLINE, &format!("the pod of Job {job} was started"), async || {
            let pod = self.pods.list(&of_job).await?.items.pop();
            let started = pod.as_ref().and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref()).is_some();
            Ok(pod.filter(|_| started))
        })
        .await
    }

    /// Its pod ends like this, and its Job with it.
    pub async fn ends(&self, status: Value) -> Result<()> {
        let pod = self.pod().await?;
        let patch = Patch::Merge(json!({ "status": status }));
        self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
        let job = self.job().await?.name_any();
        eventually(DEADLINE, &format!("Job {job} has ended"), async || {
            let conditions = self.jobs.get(&job).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|one| ["Complete", "Failed"].contains(&one.type_.as_str())).then_some(()))
        })
        .await
    }

    /// The address of its pod, once that runs.
    pub async fn address(&self) -> Result<String> {
        eventually(DEADLINE, "it runs and has an address", async || {
            let status = self.pod().await?.status.context("no status")?;
            match status.phase.as_deref() {
                Some("Running") => Ok(status.pod_ip),
                phase => bail!("it is {phase:?}"),
            }
        })
        .await
    }
}

/// The status of a pod that has ended in that phase, and whose container said this.
#[must_use]
pub fn ended(phase: &str, said: &str) -> Value {
    let now = "2026-01-01T00:00:00Z";
    let code = i32::from(phase == "Failed");
    let ended = json!({"exitCode": code, "message": said, "startedAt": now, "finishedAt": now});
    json!({
        "phase": phase, "podIP": "10.9.9.8", "podIPs": [{"ip": "10.9.9.8"}],
        "containerStatuses": [{"name": "probe", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": ended}}],
    })
}

/// The status of the pod of a probe that could reach what it must, and to whose tries of `10.0.0.1:80` this came (`Connected`, `Silent`).
#[must_use]
pub fn told(outcome: &str) -> Value {
    let report = json!({
        "peer": ["Connected", "Connected"],
        "targets": [{"address": "10.0.0.1:80", "outcome": outcome, "tries": 3}],
    });
    ended("Succeeded", &report.to_string())
}
