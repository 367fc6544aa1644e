//! What decisions look at, asked for live where the operator has its caches.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use quell_actions::exposure::{self, Route};
use quell_actions::quarantine::facts;
use quell_crds::v1alpha1::{
    Channel, ClusterChannel, ClusterPlaybook, Finding, Playbook, PlaybookKind, PlaybookReference, Target, Workload,
};
use quell_playbooks::compile::Draft;
use quell_playbooks::facts::Exposure;
use quell_playbooks::related::related;
use quell_playbooks::{Compiled, Mentions, Problem, TargetState, World, compile};

use crate::CliError;
use crate::client::{ask, list};

/// The facts that decisions about a Finding look at, as they are now.
pub async fn world(
    client: &Client,
    finding: &Finding,
    target: &Target,
    workload: Option<&Workload>,
    wanted: Mentions,
) -> Result<World, CliError> {
    let others = if wanted.related { Box::pin(others(client, finding)).await? } else { Vec::new() };
    world_among(client, finding, target, workload, wanted, &others).await
}

/// The same where the other Findings are known already.
pub async fn world_among(
    client: &Client,
    finding: &Finding,
    target: &Target,
    workload: Option<&Workload>,
    wanted: Mentions,
    others: &[Finding],
) -> Result<World, CliError> {
    let pod = if target.kind == "Pod" { pod(client, target).await? } else { None };
    let state = match (target.kind == "Pod", pod.as_ref().map(facts)) {
        (false, _) => TargetState::NotAPod,
        (true, None) => TargetState::Gone,
        (true, Some(pod)) if !target.uid.is_empty() && pod.uid != target.uid => TargetState::Replaced { uid: pod.uid },
        (true, Some(pod)) => TargetState::Pod(pod),
    };
    let workload = match (workload, &pod) {
        (Some(workload), _) => Some(workload.clone()),
        (None, Some(pod)) => Some(top_owner(client, pod).await?),
        (None, None) => own_workload(target),
    };
    let name = finding.namespace().unwrap_or_default();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // Who may not read namespaces sees one without labels.
    let labels = match ask(format!("reading Namespace {name}"), namespaces.get_opt(&name)).await {
        Ok(namespace) => namespace.and_then(|namespace| namespace.metadata.labels).unwrap_or_default(),
        Err(error) if error.is_forbidden() => std::collections::BTreeMap::default(),
        Err(error) => return Err(error),
    };
    let own = finding.metadata.namespace.as_deref().unwrap_or_default();
    let foreign = !target.namespace.is_empty() && target.namespace != own && own != OWN_NAMESPACE;
    let related = related(finding, others);
    let exposure = if wanted.exposure {
        Box::pin(exposure_of(client, target, workload.as_ref())).await?
    } else {
        Exposure::default()
    };
    Ok(World {
        finding: finding.clone(),
        target: state,
        workload,
        namespace_labels: labels,
        foreign,
        related,
        exposure,
    })
}

/// Findings that may have to do with one, as far as its namespace tells; those that Quell keeps in its own about this namespace count for
/// the operator alone.
pub async fn others(client: &Client, finding: &Finding) -> Result<Vec<Finding>, CliError> {
    let namespace = finding.namespace().unwrap_or_default();
    let mut others = list(&Api::<Finding>::namespaced(client.clone(), &namespace), &ListParams::default()).await?;
    others.retain(|other| {
        let target = &other.spec.target.namespace;
        target.is_empty() || *target == namespace || namespace == OWN_NAMESPACE
    });
    Ok(others)
}

/// Who may not list Services or Ingresses sees a target without any. Of the routes of Gateways those of other namespaces are left to the operator.
async fn exposure_of(client: &Client, target: &Target, workload: Option<&Workload>) -> Result<Exposure, CliError> {
    let namespace = if target.namespace.is_empty() { workload.map(|one| &one.namespace) } else { None };
    let namespace = namespace.unwrap_or(&target.namespace);
    if namespace.is_empty() {
        return Ok(Exposure::default());
    }
    let pods: Vec<Pod> = if target.kind == "Pod" {
        let pod = pod(client, target).await?;
        pod.into_iter().filter(|pod| target.uid.is_empty() || pod.uid().as_ref() == Some(&target.uid)).collect()
    } else {
        let mut of = Vec::new();
        let all = list(&Api::<Pod>::namespaced(client.clone(), namespace), &ListParams::default()).await?;
        for pod in all {
            let owner = top_owner(client, &pod).await?;
            if workload.is_some_and(|workload| (&owner.kind, &owner.name) == (&workload.kind, &workload.name)) {
                of.push(pod);
            }
        }
        of
    };
    let services = list(&Api::<Service>::namespaced(client.clone(), namespace), &ListParams::default()).await;
    let services = match services {
        Err(error) if error.is_forbidden() => Vec::new(),
        other => other?,
    };
    let routes = routes(client, namespace).await?;
    Ok(exposure::of(&pods.iter().collect::<Vec<_>>(), services.iter(), |_, _| routes.iter().collect()))
}

async fn routes(client: &Client, namespace: &str) -> Result<Vec<Route>, CliError> {
    let ingresses: Api<Ingress> = Api::namespaced(client.clone(), namespace);
    let mut routes = match list(&ingresses, &ListParams::default()).await {
        Err(error) if error.is_forbidden() => Vec::new(),
        all => all?.iter().map(Route::of_ingress).collect(),
    };
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let of_gateways: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    match ask("listing httproutes", of_gateways.list(&ListParams::default())).await {
        Err(error) if error.is_forbidden() || error.is_not_found() => {}
        all => routes.extend(all?.items.iter().filter_map(Route::of_http_route)),
    }
    Ok(routes)
}

/// Where the chart installs Quell: Findings about what is in no namespace are kept there, and speak for every one.
const OWN_NAMESPACE: &str = "quell";

async fn pod(client: &Client, target: &Target) -> Result<Option<Pod>, CliError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    ask(format!("reading Pod {}/{}", target.namespace, target.name), pods.get_opt(&target.name)).await
}

fn own_workload(target: &Target) -> Option<Workload> {
    let is =
        matches!(target.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet" | "CronJob" | "Job" | "ReplicaSet");
    is.then(|| Workload {
        api_version: target.api_version.clone(),
        kind: target.kind.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        uid: target.uid.clone(),
    })
}

/// The topmost owner of a pod, over the two kinds that others own; a pod that nothing owns is its own.
async fn top_owner(client: &Client, pod: &Pod) -> Result<Workload, CliError> {
    let namespace = pod.namespace().unwrap_or_default();
    let Some(owner) = controller(pod.metadata.owner_references.as_ref()) else {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        return Ok(Workload { api_version: "v1".to_owned(), kind: "Pod".to_owned(), namespace, name, uid });
    };
    let doing = format!("reading {} {namespace}/{}", owner.kind, owner.name);
    let above = match owner.kind.as_str() {
        "ReplicaSet" => {
            let api: Api<ReplicaSet> = Api::namespaced(client.clone(), &namespace);
            ask(doing, api.get_opt(&owner.name)).await?.and_then(|found| found.metadata.owner_references)
        }
        "Job" => {
            let api: Api<Job> = Api::namespaced(client.clone(), &namespace);
            ask(doing, api.get_opt(&owner.name)).await?.and_then(|found| found.metadata.owner_references)
        }
        _ => None,
    };
    Ok(workload(&namespace, controller(above.as_ref()).unwrap_or(owner)))
}

/// The workload that a reference names.
pub(crate) fn workload(namespace: &str, owner: &OwnerReference) -> Workload {
    Workload {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        namespace: namespace.to_owned(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    }
}

pub(crate) fn controller(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}

/// A playbook, and what it compiles to.
pub struct Entry {
    pub reference: PlaybookReference,
    pub compiled: Result<Compiled, Problem>,
}

/// Every playbook that could be for a Finding of the namespace: its own, and those of the cluster; and why some can't be seen.
pub async fn library(
    client: &Client,
    namespace: &str,
    now: DateTime<Utc>,
) -> Result<(Vec<Entry>, Vec<String>), CliError> {
    let (mut entries, mut unseen) = (Vec::new(), Vec::new());
    for part in [of_cluster(client, now).await, of_namespace(client, namespace, now).await] {
        match part {
            Ok(part) => entries.extend(part),
            // The rights of one namespace are common.
            Err(error) if error.is_forbidden() => unseen.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    entries.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok((entries, unseen))
}

async fn of_cluster(client: &Client, now: DateTime<Utc>) -> Result<Vec<Entry>, CliError> {
    let playbooks = list(&Api::<ClusterPlaybook>::all(client.clone()), &ListParams::default()).await?;
    let known = channels(client, PlaybookKind::ClusterPlaybook, "").await?;
    Ok(playbooks.iter().map(|playbook| entry(Draft::of_cluster_playbook(playbook, now), &known)).collect())
}

async fn of_namespace(client: &Client, namespace: &str, now: DateTime<Utc>) -> Result<Vec<Entry>, CliError> {
    let playbooks = list(&Api::<Playbook>::namespaced(client.clone(), namespace), &ListParams::default()).await?;
    let known = channels(client, PlaybookKind::Playbook, namespace).await?;
    Ok(playbooks.iter().map(|playbook| entry(Draft::of_playbook(playbook, now), &known)).collect())
}

fn entry(draft: Draft, channels: &BTreeSet<String>) -> Entry {
    let compiled = compile(&draft, channels);
    Entry { reference: draft.reference, compiled }
}

/// Names of the channels that a playbook of that kind can name.
pub async fn channels(client: &Client, kind: PlaybookKind, namespace: &str) -> Result<BTreeSet<String>, CliError> {
    let all = ListParams::default();
    Ok(match kind {
        PlaybookKind::ClusterPlaybook => list(&Api::<ClusterChannel>::all(client.clone()), &all)
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect(),
        PlaybookKind::Playbook => {
            let api: Api<Channel> = Api::namespaced(client.clone(), namespace);
            list(&api, &all).await?.iter().map(kube::ResourceExt::name_any).collect()
        }
    })
}
