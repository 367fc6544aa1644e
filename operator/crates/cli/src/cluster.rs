//! What actions ask of the operator's caches, asked of the cluster once, before a rehearsal.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _, discovery};
use quell_actions::pods::{runs_as, with_same_digest};
use quell_actions::quarantine::{DenyKind, ISTIO, Profile, facts as pod_facts};
use quell_actions::{Cluster, Probing, Severing, StandingPolicies};
use quell_crds::v1alpha1::step::Others;
use quell_crds::v1alpha1::{Channel, ChannelKind, ClusterChannel, Finding, PlaybookKind, StepKind, Workload};
use quell_ingest::normalize_image;
use quell_playbooks::images::Affected;
use quell_playbooks::{Compiled, PodFacts};

use crate::CliError;
use crate::client::{ask, list};
use crate::facts::{self, controller};
use crate::told::Told;

/// The channels that a playbook may name, by its kind and their names.
pub type Channels = BTreeMap<(PlaybookKind, String), ChannelKind>;

/// What is known of the cluster; it only reads.
pub struct Live {
    policies: StandingPolicies,
    deny_kinds: BTreeSet<DenyKind>,
    serves_istio: bool,
    channels: Channels,
    affected: Affected,
    /// Image references that containers run, and their digests.
    running: Vec<(String, String)>,
    own_namespace: String,
    severing: Option<Severing>,
    probing: Option<Probing>,
    /// Pods of the Finding's namespace, where they are asked for.
    pods: Option<Vec<Pod>>,
    /// ReplicaSets of the namespace, where other pods are asked for.
    replica_sets: Vec<ReplicaSet>,
}

impl Live {
    /// Asks for what steps of these kinds need; `channels` are those that don't have to be in the cluster yet.
    pub async fn read(
        client: &Client,
        playbook: &Compiled,
        namespace: &str,
        own_namespace: &str,
        mut channels: Channels,
    ) -> Result<Self, CliError> {
        let has = |wanted: fn(&StepKind) -> bool| playbook.steps.iter().any(|step| wanted(&step.step.kind));
        let policies = StandingPolicies::default();
        for step in &playbook.steps {
            let StepKind::Quarantine(parameters) = &step.step.kind else { continue };
            let profile = Profile::of(parameters);
            let name = profile.policy_name();
            let api: Api<NetworkPolicy> = Api::namespaced(client.clone(), namespace);
            let policy = ask(format!("reading NetworkPolicy {namespace}/{name}"), api.get_opt(&name)).await?;
            policies.seen(namespace, &profile, || policy.is_some_and(|policy| profile.is_said_by(&policy))).await;
        }
        let quarantines = has(|kind| matches!(kind, StepKind::Quarantine(_)));
        let (deny_kinds, serves_istio) = if quarantines { served(client).await } else { (BTreeSet::new(), false) };
        if has(|kind| matches!(kind, StepKind::Notify(_))) {
            read_channels(client, playbook.reference.kind, namespace, &mut channels).await?;
        }
        let (mut affected, mut running) = (Affected::default(), Vec::new());
        if has(|kind| matches!(kind, StepKind::Rollback(_))) {
            affected = affected_images(client, namespace).await?;
            running = running_images(client, namespace).await?;
        }
        let mut severing = None;
        if has(|kind| matches!(kind, StepKind::SeverConnections(_))) {
            severing = severing_of(&Told::read(client, own_namespace).await?);
        }
        let mut probing = None;
        if has(|kind| matches!(kind, StepKind::Quarantine(parameters) if parameters.probe.is_some())) {
            probing = probing_of(&Told::read(client, own_namespace).await?);
        }
        let mut pods = None;
        let others = |kind: &StepKind| matches!(kind, StepKind::Quarantine(one) if one.others != Others::None);
        if has(|kind| matches!(kind, StepKind::RevokeAccess(_))) || has(others) {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            pods = Some(list(&api, &ListParams::default()).await?);
        }
        let mut replica_sets = Vec::new();
        if has(others) {
            let api: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
            replica_sets = list(&api, &ListParams::default()).await?;
        }
        let own_namespace = own_namespace.to_owned();
        Ok(Self {
            policies,
            deny_kinds,
            serves_istio,
            channels,
            affected,
            running,
            own_namespace,
            severing,
            probing,
            pods,
            replica_sets,
        })
    }
}

/// What can't be asked counts as not served.
async fn served(client: &Client) -> (BTreeSet<DenyKind>, bool) {
    let groups = ["cilium.io", "crd.projectcalico.org", "policy.networking.k8s.io", ISTIO.0];
    let found = join_all(groups.map(|group| discovery::group(client, group))).await;
    let resources: Vec<_> = found.iter().flatten().flat_map(discovery::ApiGroup::recommended_resources).collect();
    let deny = resources.iter().filter_map(|(resource, _)| DenyKind::of(&resource.group, &resource.kind)).collect();
    let istio =
        resources.iter().any(|(resource, _)| (resource.group.as_str(), resource.kind.as_str()) == (ISTIO.0, ISTIO.1));
    (deny, istio)
}

/// How the operator was told to sever connections.
fn severing_of(told: &Told) -> Option<Severing> {
    let image = told.by("--sever-image", "QUELL_SEVER_IMAGE")?;
    let namespace = told.by("--sever-namespace", "QUELL_SEVER_NAMESPACE").unwrap_or_else(|| "quell-sever".to_owned());
    Some(Severing { image, namespace })
}

/// How the operator was told to probe quarantined pods.
fn probing_of(told: &Told) -> Option<Probing> {
    let image = told.by("--probe-image", "QUELL_PROBE_IMAGE")?;
    let namespace = told.by("--probe-namespace", "QUELL_PROBE_NAMESPACE").unwrap_or_else(|| "quell-probe".to_owned());
    Some(Probing { image, namespace })
}

async fn read_channels(
    client: &Client,
    kind: PlaybookKind,
    namespace: &str,
    channels: &mut Channels,
) -> Result<(), CliError> {
    let all = ListParams::default();
    let there: Vec<(String, ChannelKind)> = match kind {
        PlaybookKind::Playbook => {
            let found = list(&Api::<Channel>::namespaced(client.clone(), namespace), &all).await?;
            found.into_iter().map(|channel| (channel.name_any(), channel.spec.kind)).collect()
        }
        PlaybookKind::ClusterPlaybook => {
            let found = list(&Api::<ClusterChannel>::all(client.clone()), &all).await?;
            found.into_iter().map(|channel| (channel.name_any(), channel.spec.kind)).collect()
        }
    };
    for (name, channel) in there {
        channels.entry((kind, name)).or_insert(channel);
    }
    Ok(())
}

/// Of all namespaces where the caller may see them, else of the Finding's.
async fn affected_images(client: &Client, namespace: &str) -> Result<Affected, CliError> {
    let all = ListParams::default();
    let findings = match list(&Api::<Finding>::all(client.clone()), &all).await {
        Err(error) if error.is_forbidden() => {
            list(&Api::<Finding>::namespaced(client.clone(), namespace), &all).await?
        }
        other => other?,
    };
    let mut affected = Affected::default();
    for finding in findings {
        let target = finding.spec.target;
        if !target.digest.is_empty() {
            affected.digests.insert(target.digest);
        }
        if !target.image.is_empty() {
            affected.images.insert(normalize_image(&target.image));
        }
    }
    Ok(affected)
}

async fn running_images(client: &Client, namespace: &str) -> Result<Vec<(String, String)>, CliError> {
    let all = ListParams::default();
    let pods = match list(&Api::<Pod>::all(client.clone()), &all).await {
        Err(error) if error.is_forbidden() => list(&Api::<Pod>::namespaced(client.clone(), namespace), &all).await?,
        other => other?,
    };
    let statuses = pods.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
    let digest = |id: &str| id.split_once('@').map(|(_, digest)| digest.to_owned());
    Ok(statuses.filter_map(|status| Some((normalize_image(&status.image), digest(&status.image_id)?))).collect())
}

impl Cluster for Live {
    fn policies(&self) -> &StandingPolicies {
        &self.policies
    }

    fn deny_kinds(&self) -> BTreeSet<DenyKind> {
        self.deny_kinds.clone()
    }

    fn serves_istio(&self) -> bool {
        self.serves_istio
    }

    fn affected(&self) -> Affected {
        self.affected.clone()
    }

    fn digests_of(&self, images: &BTreeSet<String>) -> BTreeSet<String> {
        self.running.iter().filter(|(image, _)| images.contains(image)).map(|(_, digest)| digest.clone()).collect()
    }

    fn same_digest(&self, pod: &PodFacts, container: &str, digest: &str) -> Option<Vec<(PodFacts, Workload)>> {
        let found = with_same_digest(self.pods.as_ref()?, pod, container, digest)?;
        let above = |owner: &OwnerReference| {
            let own = self.replica_sets.iter().find(|set| set.metadata.uid.as_ref() == Some(&owner.uid))?;
            controller(own.metadata.owner_references.as_ref()).cloned()
        };
        let top = |one: &Pod| match controller(one.metadata.owner_references.as_ref()) {
            Some(owner) => facts::workload(&pod.namespace, &above(owner).unwrap_or_else(|| owner.clone())),
            None => Workload { kind: "Pod".to_owned(), ..Workload::default() },
        };
        Some(found.into_iter().map(|one| (pod_facts(one), top(one))).collect())
    }

    fn channel(&self, kind: PlaybookKind, _namespace: &str, name: &str) -> Option<ChannelKind> {
        self.channels.get(&(kind, name.to_owned())).cloned()
    }

    fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    fn severing(&self) -> Option<&Severing> {
        self.severing.as_ref()
    }

    fn probing(&self) -> Option<&Probing> {
        self.probing.as_ref()
    }

    fn pods_of_account(&self, namespace: &str, service_account: &str) -> Option<usize> {
        Some(self.pods.as_ref()?.iter().filter(|pod| runs_as(pod, namespace, service_account)).count())
    }
}
