//! Waiting for conditions, with a deadline and an answer to "what was there instead?".

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

/// Long enough for a loaded machine; what works takes a fraction of it.
pub const DEADLINE: Duration = Duration::from_mins(1);

const POLL: Duration = Duration::from_millis(25);

/// Asks `probe` again and again until it answers with a value.
///
/// `Ok(None)` and `Err` both mean "not yet"; the last error is part of the message when time is up, so a probe says what
/// it saw with `bail!`.
pub async fn eventually<T>(deadline: Duration, what: &str, probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    eventually_every(POLL, deadline, what, probe).await
}

/// [`eventually`] with a pause of one's own between one time and the next: for a probe that costs much, or one that is asked to wait.
pub async fn eventually_every<T>(
    pause: Duration,
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = None;
    loop {
        match timeout_at(end, probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = last.or_else(|| Some(anyhow!("the probe itself did not answer"))),
        }
        if Instant::now() + pause >= end {
            let headline = format!("not within {deadline:?}: {what}");
            return Err(last.map_or_else(|| anyhow!(headline.clone()), |error| error.context(headline.clone())));
        }
        sleep(pause).await;
    }
}

/// Watches the object until `condition` holds, and returns it; `None` stands for an object that is not there.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut(Option<&K>) -> bool,
) -> Result<Option<K>>
where
    K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let mut last = None;
    let watch = async {
        // With backoff, else an API server that is gone is asked without pause.
        let mut stream = std::pin::pin!(watcher::watch_object(api.clone(), name).default_backoff());
        loop {
            match stream.try_next().await {
                Ok(Some(object)) if condition(object.as_ref()) => return Ok(object),
                Ok(Some(object)) => last = Some(Ok(object)),
                Ok(None) => bail!("the watch ended"),
                Err(error) => last = Some(Err(error)),
            }
        }
    };
    if let Ok(result) = tokio::time::timeout(deadline, watch).await {
        return result;
    }
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let headline = format!("not within {deadline:?}: {kind} {name} {what}");
    match last {
        None => Err(anyhow!("the API server did not answer").context(headline)),
        Some(Err(error)) => Err(anyhow!(error).context(headline)),
        Some(Ok(None)) => Err(anyhow!("it does not exist").context(headline)),
        Some(Ok(Some(object))) => {
            let mut object = serde_json::to_value(&object).unwrap_or_default();
            if let Some(metadata) = object.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
                metadata.remove("managedFields");
            }
            Err(anyhow!("last seen: {object}").context(headline))
        }
    }
}

/// Watches the object until it exists and `condition` holds.
pub async fn until_present<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut(&K) -> bool,
) -> Result<K>
where
    K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let object = until(api, name, what, deadline, |object| object.is_some_and(&mut condition)).await?;
    object.with_context(|| format!("{name} vanished"))
}

/// Until the object is not there.
pub async fn gone<K>(api: &Api<K>, name: &str, deadline: Duration) -> Result<()>
where
    K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    until(api, name, "is gone", deadline, |object| object.is_none()).await.map(drop)
}

/// A workload whose roll-out has an end.
pub trait Rollout {
    /// Whether the controller has seen the newest generation, all pods are of it, and all are available.
    fn is_rolled_out(&self) -> bool;
}

impl Rollout for Deployment {
    fn is_rolled_out(&self) -> bool {
        let wanted = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        self.status.as_ref().is_some_and(|status| {
            status.observed_generation >= self.meta().generation
                && status.updated_replicas.unwrap_or(0) == wanted
                && status.replicas.unwrap_or(0) == wanted
                && status.available_replicas.unwrap_or(0) == wanted
        })
    }
}

impl Rollout for StatefulSet {
    fn is_rolled_out(&self) -> bool {
        let wanted = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        self.status.as_ref().is_some_and(|status| {
            status.observed_generation >= self.meta().generation
                && status.update_revision == status.current_revision
                && status.replicas == wanted
                && status.available_replicas.unwrap_or(0) == wanted
        })
    }
}

impl Rollout for DaemonSet {
    fn is_rolled_out(&self) -> bool {
        self.status.as_ref().is_some_and(|status| {
            status.observed_generation >= self.meta().generation
                && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled
                && status.number_available.unwrap_or(0) == status.desired_number_scheduled
        })
    }
}

/// Until the workload's newest generation is rolled out.
pub async fn rolled_out<K>(api: &Api<K>, name: &str, deadline: Duration) -> Result<K>
where
    K: Rollout + Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    until_present(api, name, "is rolled out", deadline, K::is_rolled_out).await
}

/// Until the pod is ready.
pub async fn pod_ready(api: &Api<Pod>, name: &str, deadline: Duration) -> Result<Pod> {
    until_present(api, name, "is ready", deadline, is_ready).await
}

/// Until the Job has completed or failed; says which with `true` for completed.
pub async fn job_finished(api: &Api<Job>, name: &str, deadline: Duration) -> Result<bool> {
    let job = until_present(api, name, "has finished", deadline, |job| job_outcome(job).is_some()).await?;
    job_outcome(&job).with_context(|| format!("Job {} has no outcome", job.name_any()))
}

/// Whether the pod's condition `Ready` is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn job_outcome(job: &Job) -> Option<bool> {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .find(|condition| condition.status == "True" && ["Complete", "Failed"].contains(&condition.type_.as_str()))
        .map(|condition| condition.type_ == "Complete")
}
