//! `severConnections`: what was established before the pod was cut off is ended, by a Job on the pod's node.
//!
//! The policy stands first: entries of connection tracking that are deleted before are made anew by the next packet, as established.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{SeverBy, SeverConnections};
use quell_crds::v1alpha1::{Effect, Receipt};
use quell_playbooks::{PodFacts, TargetState};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::Severing;
use crate::jobs;
use crate::quarantine::facts;
use crate::raw::Raw;
use crate::rights::Place;
use crate::{ActionError, Context, Progress, Right, State};

/// The pod is read as it is now: the copy may not know yet that it is under quarantine. The Job is created and looked at; its pod says what
/// it did.
pub const RIGHTS: &[Right] = &[
    Right::new("", "pods", "get"),
    Right::new("batch", "jobs", "create").at(Place::Severing),
    Right::new("batch", "jobs", "get").at(Place::Severing),
    Right::new("", "pods", "list").at(Place::Severing),
];

/// The Job gives up after this time: a node that does not answer would keep it for ever.
const JOB_TIME: Duration = Duration::from_mins(2);
/// The Job is there this long after its end, so that its result is read even when Quell was away.
const JOB_KEPT: Duration = Duration::from_hours(1);

/// What the Job is to do to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Cut,
    Pause,
    Restart,
    Continue,
}

/// What the Job says it did; see `quell_sever::Report`.
#[derive(Debug, Default, Deserialize)]
struct Report {
    #[serde(default)]
    deleted: Option<usize>,
    #[serde(default)]
    signalled: Option<usize>,
    remaining: usize,
}

/// Severs, or looks how it stands.
pub async fn perform(parameters: &SeverConnections, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let work = match parameters.by {
        SeverBy::Conntrack => Work::Cut,
        SeverBy::Pause => Work::Pause,
        SeverBy::Restart => Work::Restart,
    };
    let severing = enabled(cx)?;
    let name = job_name(cx, &cx.mark.step);
    let api: Api<Raw<Job>> = Api::namespaced(cx.writer.client(), &severing.namespace);
    let known = match &cx.record.receipt {
        Some(_) => cx.writer.get(&api, &severing.namespace, &name).await?,
        None => None,
    };
    if let Some(job) = known.filter(|job| cx.mark.is_on(job.metadata.annotations.as_ref())) {
        return judge(&job, work, cx).await;
    }
    if work == Work::Restart && cx.record.receipt.is_some() {
        return Err(vanished(severing, &name));
    }
    let pod = live(cx).await?;
    let facts = facts(&pod);
    refuse_unfit(&facts)?;
    let job = job(&name, work, &pod, &facts, severing, cx)?;
    match cx.writer.create(&api, &job).await? {
        Some(_) if cx.writer.is_rehearsal() => Ok(Progress::done(begun(work, &facts), None)),
        Some(job) => Ok(Progress::pending(State::UntilChange, begun(work, &facts), Some(receipt(&job, &facts)))),
        None => match cx.writer.get(&api, &severing.namespace, &name).await? {
            Some(job) if cx.mark.is_on(job.metadata.annotations.as_ref()) => judge(&job, work, cx).await,
            Some(_) => Err(somebody_elses(severing, &name)),
            None => Err(ActionError::for_now(
                Reason::SeverFailed,
                format!("Job {}/{name} is being deleted", severing.namespace),
            )),
        },
    }
}

/// The Job that paused the pod, where this step has made it.
pub async fn recover(cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    // Where it isn't switched on, nothing was made.
    let Some(severing) = cx.cluster.severing() else { return Ok(None) };
    let api: Api<Raw<Job>> = Api::namespaced(cx.writer.client(), &severing.namespace);
    let there = cx.writer.get(&api, &severing.namespace, &job_name(cx, &cx.mark.step)).await?;
    let target = &cx.world.finding.spec.target;
    let pod = PodFacts {
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        uid: target.uid.clone(),
        ..PodFacts::default()
    };
    let pod = if let TargetState::Pod(known) = &cx.world.target { known } else { &pod };
    Ok(there.filter(|job| cx.mark.is_on(job.metadata.annotations.as_ref())).map(|job| receipt(&job, pod)))
}

/// Lets the processes of a paused pod go on.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let severing = enabled(cx)?;
    let meant = |field: &str| receipt.before.get(field).and_then(Value::as_str).unwrap_or_default();
    let (namespace, pod_name, uid) = (meant("podNamespace"), meant("podName"), meant("podUid"));
    let name = job_name(cx, &format!("{}-undo", cx.mark.step));
    let api: Api<Raw<Job>> = Api::namespaced(cx.writer.client(), &severing.namespace);
    let pods: Api<Pod> = Api::namespaced(cx.writer.client(), namespace);
    let pod = cx.writer.get(&pods, namespace, pod_name).await?.filter(|pod| pod.uid().as_deref() == Some(uid));
    let Some(pod) = pod else {
        let message = format!("pod {namespace}/{pod_name} is gone, and its processes with it");
        return Err(ActionError::refused(Reason::TargetNotFound, message));
    };
    let facts = facts(&pod);
    let wanted = job(&name, Work::Continue, &pod, &facts, severing, cx)?;
    cx.writer.create(&api, &wanted).await?;
    match cx.writer.get(&api, &severing.namespace, &name).await? {
        Some(job) if cx.mark.is_on(job.metadata.annotations.as_ref()) => {
            let progress = judge(&job, Work::Continue, cx).await?;
            match progress.state {
                State::Done => Ok(progress.message),
                _ => Err(ActionError::for_now(Reason::InProgress, progress.message)),
            }
        }
        Some(_) => Err(somebody_elses(severing, &name)),
        None => Err(ActionError::for_now(
            Reason::SeverFailed,
            format!("Job {}/{name} is being deleted", severing.namespace),
        )),
    }
}

/// Runs of the same name in two namespaces have their Jobs in one.
fn job_name(cx: &Context<'_>, step: &str) -> String {
    names::created_by(&format!("{}/{}", cx.mark.namespace, cx.mark.remediation), step)
}

fn enabled<'a>(cx: &'a Context<'_>) -> Result<&'a Severing, ActionError> {
    cx.cluster.severing().ok_or_else(|| {
        ActionError::refused(
            Reason::NotEnabled,
            "severConnections runs a Job with rights on the pod's node, and that was not switched on: set sever.enabled=true in the chart, \
             or give the operator --sever-image and --sever-namespace",
        )
    })
}

/// The pod that the Finding means, as it is now.
async fn live(cx: &Context<'_>) -> Result<Pod, ActionError> {
    let target = &cx.world.finding.spec.target;
    let known = match &cx.world.target {
        TargetState::Pod(pod) => pod,
        TargetState::NotAPod => {
            let message =
                format!("severConnections acts on a pod; this Finding is about {} {}", target.kind, target.name);
            return Err(ActionError::refused(Reason::TargetUnsupported, message));
        }
        TargetState::Gone | TargetState::Replaced { .. } => return Err(gone(&target.namespace, &target.name)),
    };
    let api: Api<Pod> = Api::namespaced(cx.writer.client(), &known.namespace);
    let pod = cx.writer.get(&api, &known.namespace, &known.name).await?;
    pod.filter(|pod| pod.uid().as_ref() == Some(&known.uid)).ok_or_else(|| gone(&known.namespace, &known.name))
}

fn gone(namespace: &str, name: &str) -> ActionError {
    ActionError::refused(
        Reason::TargetNotFound,
        format!("pod {namespace}/{name} is gone, or another one by now, and its connections with it"),
    )
}

fn refuse_unfit(pod: &PodFacts) -> Result<(), ActionError> {
    let title = format!("pod {}/{}", pod.namespace, pod.name);
    if pod.host_network {
        let message = format!(
            "{title} has the addresses of its node {}: severing them would cut off the node; cordon it and end the pod by hand",
            pod.node
        );
        return Err(ActionError::refused(Reason::TargetUnsupported, message));
    }
    if !pod.labels.contains_key(names::QUARANTINE) {
        let message = format!(
            "{title} is not under quarantine: what is severed would be connected again at once. Put a quarantine step before this one"
        );
        return Err(ActionError::refused(Reason::NotQuarantined, message));
    }
    if pod.node.is_empty() || pod.addresses.is_empty() {
        let message = format!("{title} has no node or no address: it has no connections");
        return Err(ActionError::refused(Reason::TargetUnsupported, message));
    }
    Ok(())
}

/// The Job that does it. It has one capability, no token, no volume, and a name that is the same for each try.
fn job(
    name: &str,
    work: Work,
    pod: &Pod,
    facts: &PodFacts,
    severing: &Severing,
    cx: &Context<'_>,
) -> Result<Raw<Job>, ActionError> {
    let mut labels = cx.mark.labels();
    labels.insert(names::REMEDIATION_NAMESPACE.to_owned(), cx.mark.namespace.clone());
    labels.insert(names::MANAGED_BY.to_owned(), names::QUELL.to_owned());
    let (arguments, capability) = match work {
        Work::Cut => (facts.addresses.iter().flat_map(|one| ["--address", one]).collect::<Vec<_>>(), "NET_ADMIN"),
        Work::Pause => (vec!["--pod-uid", &facts.uid, "--signal", "Stop"], "KILL"),
        Work::Restart => (vec!["--pod-uid", &facts.uid, "--signal", "Kill"], "KILL"),
        Work::Continue => (vec!["--pod-uid", &facts.uid, "--signal", "Continue"], "KILL"),
    };
    let mut arguments: Vec<String> = ["sever"].into_iter().chain(arguments).map(str::to_owned).collect();
    if work != Work::Cut {
        let containers = containers(pod);
        if containers.is_empty() {
            let message = format!("no container of pod {}/{} runs: it has no processes", facts.namespace, facts.name);
            return Err(ActionError::refused(Reason::TargetUnsupported, message));
        }
        arguments.extend(containers.into_iter().flat_map(|id| ["--container".to_owned(), id]));
    }
    let mut pod_spec = json!({
        "nodeName": facts.node,
        "tolerations": [{"operator": "Exists"}],
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "sever",
            "image": severing.image,
            "args": arguments,
            "terminationMessagePolicy": "File",
            "resources": {"limits": {"memory": "128Mi"}},
            "securityContext": {
                "runAsUser": 0,
                "runAsNonRoot": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": [capability]},
            },
        }],
    });
    // Connection tracking is a matter of the network namespace, processes of the namespace of processes.
    pod_spec[if work == Work::Cut { "hostNetwork" } else { "hostPID" }] = json!(true);
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(severing.namespace.clone()),
        labels: Some(labels.clone()),
        annotations: Some(cx.mark.annotations()),
        ..ObjectMeta::default()
    };
    let spec = json!({
        "backoffLimit": 0,
        "activeDeadlineSeconds": JOB_TIME.as_secs(),
        "ttlSecondsAfterFinished": JOB_KEPT.as_secs(),
        "template": {"metadata": {"labels": labels}, "spec": pod_spec},
    });
    Ok(Raw::new(metadata, spec))
}

/// IDs of the pod's containers that run, those that were added to it and sidecars included; its sandbox is none of them.
fn containers(pod: &Pod) -> BTreeSet<String> {
    let Some(status) = &pod.status else { return BTreeSet::new() };
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let runs = |one: &&ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = |one: &ContainerStatus| one.container_id.as_ref()?.split_once("://").map(|(_, id)| id.to_owned());
    lists.into_iter().flatten().flatten().filter(runs).filter_map(id).collect()
}

fn receipt(job: &Raw<Job>, pod: &PodFacts) -> Receipt {
    let before = [("podNamespace", &pod.namespace), ("podName", &pod.name), ("podUid", &pod.uid)];
    let before = before.into_iter().map(|(key, value)| (key.to_owned(), json!(value)));
    Effect { before: before.collect(), ..jobs::receipt(job).effect }.into()
}

fn begun(work: Work, pod: &PodFacts) -> String {
    let title = format!("pod {}/{}", pod.namespace, pod.name);
    let node = &pod.node;
    match work {
        Work::Cut => {
            format!("a Job on node {node} deletes the conntrack entries of {title} ({})", pod.addresses.join(", "))
        }
        Work::Pause => format!("a Job on node {node} stops the processes of {title}"),
        Work::Restart => format!("a Job on node {node} ends the processes of {title}"),
        Work::Continue => format!("a Job on node {node} lets the processes of {title} go on"),
    }
}

fn vanished(severing: &Severing, name: &str) -> ActionError {
    let message = format!(
        "Job {}/{name} was deleted before its result was read; it is not made a second time, for that would restart the pod's containers \
         again",
        severing.namespace
    );
    ActionError::refused(Reason::SeverFailed, message)
}

fn somebody_elses(severing: &Severing, name: &str) -> ActionError {
    let message = format!(
        "Job {}/{name} is there already and does not carry the mark of this step, so it was left alone; see who made it, delete it, and \
         run the playbook again",
        severing.namespace
    );
    ActionError::refused(Reason::Invalid, message)
}

async fn judge(job: &Raw<Job>, work: Work, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let receipt = match &cx.record.receipt {
        Some(receipt) => receipt.clone(),
        None => match &cx.world.target {
            TargetState::Pod(pod) => receipt(job, pod),
            _ => jobs::receipt(job),
        },
    };
    let title = format!("{}/{}", job.metadata.namespace.clone().unwrap_or_default(), job.name_any());
    if jobs::condition(job, "Complete").is_some() {
        let ended = jobs::ended(job, "Succeeded", cx).await?;
        let said = ended.iter().find_map(|end| end.message.as_deref()).unwrap_or_default();
        let report: Report = serde_json::from_str(said).map_err(|error| {
            let said = jobs::shortened(said);
            let message = format!("Job {title} is complete, but what it did can't be read ({error}); it said: {said}");
            ActionError::refused(Reason::ResultUnreadable, message).after_change(receipt.clone())
        })?;
        return Ok(Progress::done(told(work, &report), Some(receipt)).with_outputs(outputs(&report)));
    }
    if let Some(condition) = jobs::condition(job, "Failed") {
        let [reason, message] = ["reason", "message"].map(|field| condition[field].as_str().unwrap_or_default());
        let said = jobs::failures(job, cx).await;
        let said = if said.is_empty() { String::new() } else { format!("; its container said: {said}") };
        let message = format!("Job {title} failed ({reason}: {message}){said}");
        return Err(ActionError::refused(Reason::SeverFailed, message).after_change(receipt));
    }
    let (namespace, name) = title.split_once('/').unwrap_or_default();
    let message = format!("waits for Job {title}; see kubectl describe -n {namespace} job/{name}");
    Ok(Progress::pending(State::UntilChange, message, Some(receipt)))
}

fn told(work: Work, report: &Report) -> String {
    let left = report.remaining;
    match work {
        Work::Cut => {
            let cut = format!("{} conntrack entries of the pod were deleted", report.deleted.unwrap_or_default());
            if left == 0 {
                return format!("{cut}, and none came back; what its own node sends to it was never cut off");
            }
            format!(
                "{cut}, and {left} came back: traffic that is still let through, such as that of the pod's own node"
            )
        }
        Work::Pause | Work::Restart | Work::Continue => {
            let met = report.signalled.unwrap_or_default();
            let what = match work {
                Work::Pause => format!(
                    "{met} processes of the pod's containers stand still; a liveness probe that fails would have the kubelet start its \
                     container anew"
                ),
                Work::Restart => format!(
                    "{met} processes of the pod's containers were ended; the kubelet starts them anew as the pod's restartPolicy says"
                ),
                _ => format!("{met} processes of the pod's containers go on"),
            };
            if left == 0 { what } else { format!("{what}; {left} did not obey in time") }
        }
    }
}

fn outputs(report: &Report) -> Vec<(String, String)> {
    let counted = [("deleted", report.deleted), ("signalled", report.signalled), ("remaining", Some(report.remaining))];
    counted.into_iter().filter_map(|(key, count)| Some((key.to_owned(), count?.to_string()))).collect()
}
