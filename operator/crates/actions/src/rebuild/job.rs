//! A build that is a Kubernetes Job.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::JobBuild;
use serde_json::{Map, Value, json};

use super::result;
use crate::jobs::{condition, ended, failures, receipt, shortened};
use crate::mark::Mark;
use crate::raw::Raw;
use crate::{ActionError, Context, Progress, State};

pub(super) async fn perform(parameters: &JobBuild, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let namespace = &cx.mark.namespace;
    let api: Api<Raw<Job>> = Api::namespaced(cx.writer.client(), namespace);
    let name = names::created_by(&cx.mark.remediation, &cx.mark.step);
    if let Some(receipt) = &cx.record.receipt {
        return match cx.writer.get(&api, namespace, &name).await? {
            Some(job) if job.metadata.uid.as_deref() == Some(&receipt.uid) => judge(&job, cx).await,
            // It is never created a second time: the build may have had its effect.
            _ => Err(vanished(namespace, &name)),
        };
    }
    stays_here(parameters, namespace)?;
    let job = build(&name, parameters, cx.mark);
    if let Some(job) = cx.writer.create(&api, &job).await? {
        let receipt = receipt(&job);
        let message = format!("Job {namespace}/{name} builds the image");
        return Ok(if cx.writer.is_rehearsal() {
            Progress::done(message, None)
        } else {
            Progress::pending(State::UntilChange, message, Some(receipt))
        });
    }
    match cx.writer.get(&api, namespace, &name).await? {
        Some(job) if cx.mark.is_on(job.metadata.annotations.as_ref()) => judge(&job, cx).await,
        Some(_) => Err(ActionError::refused(
            Reason::Invalid,
            format!(
                "Job {namespace}/{name} is there already and does not carry the mark of this step, so it was left alone; see who made it, \
                 delete it, and run the playbook again"
            ),
        )),
        None => Err(vanished(namespace, &name)),
    }
}

fn build(name: &str, parameters: &JobBuild, mark: &Mark) -> Raw<Job> {
    let mut spec = parameters.spec.clone();
    spec.entry("backoffLimit").or_insert_with(|| json!(0));
    if let Some(template) = spec.get_mut("template").and_then(Value::as_object_mut)
        && let Some(metadata) = object(template, "metadata")
        && let Some(labels) = object(metadata, "labels")
    {
        labels.extend(mark.labels().into_iter().map(|(key, value)| (key, json!(value))));
    }
    let mut labels = mark.labels();
    labels.insert(names::MANAGED_BY.to_owned(), names::QUELL.to_owned());
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(mark.namespace.clone()),
        labels: Some(labels),
        annotations: Some(mark.annotations()),
        ..ObjectMeta::default()
    };
    Raw::new(metadata, Value::Object(spec))
}

/// The API server would ignore another namespace in the template, and the build would run where nobody thinks.
fn stays_here(parameters: &JobBuild, namespace: &str) -> Result<(), ActionError> {
    let named = parameters.spec.get("template").and_then(|template| template.pointer("/metadata/namespace"));
    match named.and_then(Value::as_str) {
        Some(other) if other != namespace => Err(ActionError::refused(
            Reason::ParameterInvalid,
            format!(
                "template.metadata.namespace is {other}, but a build runs in the Finding's namespace, {namespace}: leave it out"
            ),
        )),
        _ => Ok(()),
    }
}

/// The object in that field, made where nothing is there. What isn't an object is left for the API server to refuse.
fn object<'a>(of: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    let there = of.entry(field).or_insert(Value::Null);
    if there.is_null() {
        *there = json!({});
    }
    there.as_object_mut()
}

fn vanished(namespace: &str, name: &str) -> ActionError {
    ActionError::refused(
        Reason::BuildFailed,
        format!(
            "Job {namespace}/{name} was deleted before its result was read, by somebody or by its ttlSecondsAfterFinished; it is not made \
             a second time"
        ),
    )
}

async fn judge(job: &Raw<Job>, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let receipt = receipt(job);
    let name = format!("{}/{}", receipt.namespace, receipt.name);
    if condition(job, "Complete").is_some() {
        let outputs = outputs(job, &name, cx).await?;
        let made = outputs.get("image").map_or_else(String::new, |image| format!(" {image}"));
        return Ok(Progress::done(format!("Job {name} has built{made}"), Some(receipt)).with_outputs(outputs));
    }
    if let Some(condition) = condition(job, "Failed") {
        let [reason, message] = ["reason", "message"].map(|field| condition[field].as_str().unwrap_or_default());
        let said = failures(job, cx).await;
        let said = if said.is_empty() { String::new() } else { format!("; its container said: {said}") };
        let logs = format!("kubectl logs -n {} job/{}", receipt.namespace, receipt.name);
        let message = format!("Job {name} failed ({reason}: {message}){said}; see {logs}");
        return Err(ActionError::refused(Reason::BuildFailed, message).after_change(receipt));
    }
    let message = format!("waits for Job {name}; see kubectl describe -n {} job/{}", receipt.namespace, receipt.name);
    Ok(Progress::pending(State::UntilChange, message, Some(receipt)))
}

async fn outputs(job: &Raw<Job>, name: &str, cx: &Context<'_>) -> Result<BTreeMap<String, String>, ActionError> {
    let unreadable = |problem: &str| {
        let message = format!("Job {name} is complete, but what it made is not known: {problem}");
        ActionError::refused(Reason::ResultUnreadable, message)
    };
    let ended = ended(job, "Succeeded", cx).await?;
    if ended.is_empty() && job.status["succeeded"].as_i64().unwrap_or_default() > 0 {
        return Err(unreadable("its pod was deleted before its termination message was read"));
    }
    let mut outputs = BTreeMap::new();
    for message in ended.iter().filter_map(|end| end.message.as_deref()) {
        let read = result::read(message).map_err(|problem| {
            let said = shortened(message);
            unreadable(&format!("its termination message can't be read, {problem}; it is: {said}"))
        })?;
        outputs.extend(read);
    }
    if outputs.len() > result::MOST_OUTPUTS {
        return Err(unreadable("its containers name more things than are kept"));
    }
    Ok(outputs)
}
