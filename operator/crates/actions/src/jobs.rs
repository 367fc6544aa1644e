//! Jobs that steps create: how they ended.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::api::Api;
use quell_crds::v1alpha1::{Effect, Receipt};
use serde_json::{Map, Value};

use crate::raw::Raw;
use crate::{ActionError, Context};

/// Label that the Job controller puts on a Job's pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Longest text of a container that a message repeats, in characters.
const LONGEST_SAID: usize = 300;

/// The Job's condition of that type, where it is true.
pub(crate) fn condition<'a>(job: &'a Raw<Job>, kind: &str) -> Option<&'a Value> {
    let mut conditions = job.status["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// A receipt for a Job that was created.
pub(crate) fn receipt(job: &Raw<Job>) -> Receipt {
    let metadata = &job.metadata;
    Effect {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        before: Map::new(),
        after: Map::new(),
    }
    .into()
}

/// The Job's pods, by name.
pub(crate) async fn pods(job: &Raw<Job>, cx: &Context<'_>) -> Result<Vec<Pod>, ActionError> {
    let metadata = &job.metadata;
    let (namespace, name) =
        (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), namespace);
    let mut pods = cx.writer.list(&api, namespace, &format!("{JOB_NAME}={name}")).await?;
    pods.retain(|pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        owners.any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    });
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(pods)
}

/// How the containers of the Job's pods of that phase ended.
pub(crate) async fn ended(
    job: &Raw<Job>,
    phase: &str,
    cx: &Context<'_>,
) -> Result<Vec<ContainerStateTerminated>, ActionError> {
    let statuses = pods(job, cx).await?.into_iter().filter_map(|pod| pod.status);
    let of_phase = statuses.filter(|status| status.phase.as_deref() == Some(phase));
    let containers = of_phase.flat_map(|status| status.container_statuses.unwrap_or_default());
    Ok(containers.filter_map(|container| container.state?.terminated).collect())
}

/// What failed containers said, shortened. That they can't be asked is no reason not to tell the failure.
pub(crate) async fn failures(job: &Raw<Job>, cx: &Context<'_>) -> String {
    let ended = ended(job, "Failed", cx).await.unwrap_or_default();
    let failed = ended.iter().filter(|end| end.exit_code != 0);
    let said: Vec<&str> = failed.filter_map(|end| end.message.as_deref()).filter(|said| !said.is_empty()).collect();
    shortened(&said.join(" / "))
}

/// What a container says, fit for a condition: one line, and short.
pub(crate) fn shortened(said: &str) -> String {
    let line: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= LONGEST_SAID {
        return line;
    }
    line.chars().take(LONGEST_SAID - 1).chain(['…']).collect()
}
