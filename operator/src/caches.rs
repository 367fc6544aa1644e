//! What the operator knows of the cluster without asking: trimmed copies, and the questions that decisions put to them.

mod trim;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, RwLock};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt as _};
use quell_actions::pods::runs_as;
use quell_actions::quarantine::{DenyKind, facts};
use quell_actions::{Cluster, Severing, StandingPolicies};
use quell_crds::names;
use quell_crds::v1alpha1::{
    Channel, ChannelKind, ClusterChannel, ClusterPlaybook, Finding, ImageBlock, Playbook, PlaybookKind, Remediation,
    Source, Target, Workload,
};
use quell_ingest::normalize_image;
use quell_playbooks::contained::Network;
use quell_playbooks::images::Affected;
use quell_playbooks::{TargetState, World};
use tokio::sync::mpsc::UnboundedSender;

use crate::caches::trim::{trim_namespace, trim_owner, trim_pod, trim_policy};
use crate::containment::Containment;
use crate::engine::Queue;
use crate::mirror::{Change, Mirrors};
use crate::settings::Settings;

/// Where it is told that something has changed. Findings and runs go straight to their queues.
#[derive(Clone)]
pub struct Notices {
    /// Findings.
    pub findings: Queue<Finding>,
    /// Runs, or something that they have marked.
    pub runs: Queue<Remediation>,
    /// Namespaces where quarantines begin or end, or a quarantine's policy is being deleted.
    pub namespaces: Queue<Namespace>,
    /// What people declare.
    pub declared: UnboundedSender<Notice>,
}

/// Something that people declare has changed.
#[derive(Clone, Copy, Debug)]
pub enum Notice {
    /// A playbook or channel.
    Library,
    /// A Source, or a Secret in Quell's namespace.
    Sources,
    /// DaemonSets, by which the network plugin is told.
    Network,
    /// An ImageBlock.
    Blocks,
}

/// The copies.
pub struct Caches {
    own_namespace: String,
    severing: Option<Severing>,
    /// Every pod.
    pub pods: Store<Pod>,
    replica_sets: Store<PartialObjectMeta<ReplicaSet>>,
    jobs: Store<PartialObjectMeta<Job>>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Every Finding.
    pub findings: Store<Finding>,
    /// Every run.
    pub remediations: Store<Remediation>,
    /// Playbooks.
    pub playbooks: Store<Playbook>,
    /// ClusterPlaybooks.
    pub cluster_playbooks: Store<ClusterPlaybook>,
    /// Channels.
    pub channels: Store<Channel>,
    /// ClusterChannels.
    pub cluster_channels: Store<ClusterChannel>,
    /// Sources.
    pub sources: Store<Source>,
    /// ImageBlocks. A cluster may lack the kind still; nothing waits for them.
    pub image_blocks: Store<ImageBlock>,
    /// Secrets of Quell's own namespace.
    pub secrets: Store<Secret>,
    _marked: Marked,
    daemon_sets: Store<PartialObjectMeta<DaemonSet>>,
    network_policies: Store<NetworkPolicy>,
    policies: Arc<StandingPolicies>,
    /// The quarantines that stand.
    pub containment: Arc<Containment>,
    runs_of: Arc<RwLock<RunsByFinding>>,
}

/// Names of runs, by namespace and name of their Finding.
type RunsByFinding = HashMap<(String, String), BTreeSet<String>>;

/// Watches on what runs have marked: kept alive by being held.
struct Marked {
    _deployments: Store<PartialObjectMeta<Deployment>>,
    _stateful_sets: Store<PartialObjectMeta<StatefulSet>>,
}

impl Caches {
    /// Begins to watch. `notices` is told what has changed.
    #[must_use]
    pub fn keep(client: &Client, settings: &Settings, mirrors: &Mirrors, notices: &Notices) -> Self {
        let own_namespace = settings.namespace.as_str();
        let runs_of: Arc<RwLock<RunsByFinding>> = Arc::default();
        let policies = Arc::new(StandingPolicies::default());
        let (all, library) = (watcher::Config::default(), Notice::Library);
        let marked = watcher::Config::default().labels(names::REMEDIATION);
        let contained: Arc<OnceLock<Arc<Containment>>> = Arc::default();
        let pods = mirrors.keep(Api::<Pod>::all(client.clone()), all.clone(), trim_pod, {
            let contained = contained.clone();
            move |change| {
                if let Some(containment) = contained.get() {
                    containment.pod_changed(&change);
                }
            }
        });
        let containment = contained
            .get_or_init(|| Arc::new(Containment::new(pods.clone(), notices.runs.clone(), notices.namespaces.clone())))
            .clone();
        Self {
            own_namespace: own_namespace.to_owned(),
            pods,
            severing: settings.severing(),
            replica_sets: mirrors.keep(Api::all(client.clone()), all.clone(), trim_owner, |_| {}),
            jobs: mirrors.keep(Api::all(client.clone()), all.clone(), trim_owner, {
                let notices = notices.clone();
                move |change| tell_run(&notices, &change)
            }),
            namespaces: mirrors.keep(Api::all(client.clone()), all.clone(), trim_namespace, {
                let containment = containment.clone();
                move |change| containment.namespace_changed(&change)
            }),
            findings: mirrors.keep(Api::<Finding>::all(client.clone()), all.clone(), |_| {}, {
                let notices = notices.clone();
                move |change| {
                    if let Change::There(finding) = change {
                        notices.findings.send(ObjectRef::from_obj(&*finding));
                    }
                }
            }),
            remediations: mirrors.keep(Api::<Remediation>::all(client.clone()), all.clone(), |_| {}, {
                let (notices, runs_of, containment) = (notices.clone(), runs_of.clone(), containment.clone());
                move |change| remediation_changed(&notices, &runs_of, &containment, &change)
            }),
            playbooks: mirrors.keep(Api::all(client.clone()), all.clone(), |_| {}, tell(notices, library)),
            cluster_playbooks: mirrors.keep(Api::all(client.clone()), all.clone(), |_| {}, tell(notices, library)),
            channels: mirrors.keep(Api::all(client.clone()), all.clone(), |_| {}, tell(notices, library)),
            cluster_channels: mirrors.keep(Api::all(client.clone()), all.clone(), |_| {}, tell(notices, library)),
            sources: mirrors.keep(Api::all(client.clone()), all.clone(), |_| {}, tell(notices, Notice::Sources)),
            image_blocks: mirrors.keep(Api::all(client.clone()), all.clone(), |_| {}, tell(notices, Notice::Blocks)),
            secrets: mirrors.keep(Api::namespaced(client.clone(), own_namespace), all.clone(), |_| {}, {
                let (notices, mut library) = (notices.clone(), tell(notices, Notice::Library));
                move |change: Change<Secret>| {
                    let _ = notices.declared.send(Notice::Sources);
                    library(change);
                }
            }),
            _marked: Marked {
                _deployments: mirrors.keep(Api::all(client.clone()), marked.clone(), trim_owner, {
                    let notices = notices.clone();
                    move |change| tell_run(&notices, &change)
                }),
                _stateful_sets: mirrors.keep(Api::all(client.clone()), marked, trim_owner, {
                    let notices = notices.clone();
                    move |change| tell_run(&notices, &change)
                }),
            },
            daemon_sets: mirrors.keep(Api::all(client.clone()), all, trim_owner, {
                let (notices, daemon_sets) = (notices.clone(), notices.declared.clone());
                move |change| {
                    tell_run(&notices, &change);
                    let _ = daemon_sets.send(Notice::Network);
                }
            }),
            network_policies: {
                let (there, written, namespaces) = (policies.clone(), containment.clone(), notices.namespaces.clone());
                mirrors.keep(
                    Api::<NetworkPolicy>::all(client.clone()),
                    watcher::Config::default(),
                    trim_policy,
                    move |change| {
                        written.network_policy_changed(&change);
                        policy_changed(&there, &written, &change);
                        if let Change::There(policy) = &change
                            && policy.metadata.deletion_timestamp.is_some()
                        {
                            namespaces.send(ObjectRef::new(&policy.namespace().unwrap_or_default()));
                        }
                    },
                )
            },
            policies,
            containment,
            runs_of,
        }
    }

    /// Waits until every copy is complete: before that no decision may count on what isn't there.
    pub async fn wait_until_ready(&self) -> Result<(), kube::runtime::reflector::store::WriterDropped> {
        tokio::try_join!(
            self.pods.wait_until_ready(),
            self.replica_sets.wait_until_ready(),
            self.jobs.wait_until_ready(),
            self.namespaces.wait_until_ready(),
            self.findings.wait_until_ready(),
            self.remediations.wait_until_ready(),
            self.playbooks.wait_until_ready(),
            self.cluster_playbooks.wait_until_ready(),
            self.channels.wait_until_ready(),
            self.cluster_channels.wait_until_ready(),
            self.sources.wait_until_ready(),
            self.secrets.wait_until_ready(),
            self.network_policies.wait_until_ready(),
        )?;
        Ok(())
    }

    /// The network, as far as the DaemonSets that are there tell.
    #[must_use]
    pub fn network(&self) -> Network {
        let names: Vec<String> = self.daemon_sets.state().iter().map(|one| one.name_any()).collect();
        Network::of_daemon_sets(names.iter().map(String::as_str))
    }

    /// Namespaces that have, or had, a quarantine.
    #[must_use]
    pub fn namespaces_with_quarantines(&self) -> BTreeSet<String> {
        let all = self.network_policies.state().into_iter();
        let own = all.filter(|policy| policy.labels().contains_key(names::QUARANTINE_POLICY));
        own.filter_map(|policy| policy.namespace()).collect()
    }

    /// The NetworkPolicies that quarantines of a namespace stand on.
    #[must_use]
    pub fn quarantine_policies(&self, namespace: &str) -> Vec<Arc<NetworkPolicy>> {
        let all = self.network_policies.state().into_iter();
        let own = |policy: &Arc<NetworkPolicy>| {
            policy.namespace().as_deref() == Some(namespace) && policy.labels().contains_key(names::QUARANTINE_POLICY)
        };
        all.filter(own).collect()
    }

    /// The pod of that name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(&ObjectRef::new(name).within(namespace))
    }

    /// The run of that name.
    #[must_use]
    pub fn remediation(&self, namespace: &str, name: &str) -> Option<Arc<Remediation>> {
        self.remediations.get(&ObjectRef::new(name).within(namespace))
    }

    /// The runs for a Finding, by name.
    #[must_use]
    pub fn runs_of(&self, finding: &Finding) -> Vec<Arc<Remediation>> {
        let uid = finding.uid().unwrap_or_default();
        self.runs_of_name(finding).into_iter().filter(|run| run.spec.finding.uid == uid).collect()
    }

    /// The runs for Findings of that name, this one and those that were deleted before it.
    #[must_use]
    pub fn runs_of_name(&self, finding: &Finding) -> Vec<Arc<Remediation>> {
        let namespace = finding.namespace().unwrap_or_default();
        let key = (namespace, finding.name_any());
        let names = self.runs_of.read().ok().and_then(|all| all.get(&key).cloned()).unwrap_or_default();
        names.iter().filter_map(|name| self.remediation(&key.0, name)).collect()
    }

    /// The facts that decisions about a Finding look at. `target` and `workload` are what a run keeps; a Finding without a run gives its own.
    #[must_use]
    pub fn world(&self, finding: &Finding, target: &Target, workload: Option<&Workload>) -> World {
        let state = self.target_state(target);
        let workload = workload.cloned().or_else(|| self.workload_of(target));
        let namespace = finding.namespace().unwrap_or_default();
        let labels = self.namespaces.get(&ObjectRef::new(&namespace)).map(|found| found.labels().clone());
        let foreign = !target.namespace.is_empty() && target.namespace != namespace && namespace != self.own_namespace;
        let namespace_labels = labels.unwrap_or_default();
        World { finding: finding.clone(), target: state, workload, namespace_labels, foreign }
    }

    fn target_state(&self, target: &Target) -> TargetState {
        if target.kind != "Pod" {
            return TargetState::NotAPod;
        }
        match self.pod(&target.namespace, &target.name).map(|pod| facts(&pod)) {
            None => TargetState::Gone,
            Some(pod) if !target.uid.is_empty() && pod.uid != target.uid => TargetState::Replaced { uid: pod.uid },
            Some(pod) => TargetState::Pod(pod),
        }
    }

    fn workload_of(&self, target: &Target) -> Option<Workload> {
        if target.kind == "Pod" {
            return self.pod(&target.namespace, &target.name).map(|pod| self.top_owner(&pod));
        }
        matches!(target.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet" | "CronJob" | "Job" | "ReplicaSet")
            .then(|| Workload {
                api_version: target.api_version.clone(),
                kind: target.kind.clone(),
                namespace: target.namespace.clone(),
                name: target.name.clone(),
                uid: target.uid.clone(),
            })
    }

    /// The topmost owner of a pod; a pod that nothing owns is its own.
    #[must_use]
    pub fn top_owner(&self, pod: &Pod) -> Workload {
        let namespace = pod.namespace().unwrap_or_default();
        match controller(pod.metadata.owner_references.as_ref()) {
            Some(owner) => self.owner_of(&namespace, owner.clone()),
            None => Workload {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                namespace,
                name: pod.name_any(),
                uid: pod.uid().unwrap_or_default(),
            },
        }
    }

    /// Follows owners upwards, over the two kinds that others own.
    #[must_use]
    pub fn owner_of(&self, namespace: &str, owner: OwnerReference) -> Workload {
        let above = match owner.kind.as_str() {
            "ReplicaSet" => {
                let found = self.replica_sets.get(&ObjectRef::new(&owner.name).within(namespace));
                found.and_then(|found| controller(found.metadata.owner_references.as_ref()).cloned())
            }
            "Job" => {
                let found = self.jobs.get(&ObjectRef::new(&owner.name).within(namespace));
                found.and_then(|found| controller(found.metadata.owner_references.as_ref()).cloned())
            }
            _ => None,
        };
        let top = above.unwrap_or(owner);
        Workload {
            api_version: top.api_version,
            kind: top.kind,
            namespace: namespace.to_owned(),
            name: top.name,
            uid: top.uid,
        }
    }
}

impl Cluster for Caches {
    fn policies(&self) -> &StandingPolicies {
        &self.policies
    }

    fn deny_kinds(&self) -> BTreeSet<DenyKind> {
        self.containment.deny_kinds()
    }

    fn affected(&self) -> Affected {
        let mut affected = Affected::default();
        for finding in self.findings.state() {
            let target = &finding.spec.target;
            let image = if target.image.is_empty() { String::new() } else { normalize_image(&target.image) };
            affected.add(&image, &target.digest);
        }
        affected
    }

    fn digests_of(&self, images: &BTreeSet<String>) -> BTreeSet<String> {
        let mut digests = BTreeSet::new();
        for pod in self.pods.state() {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            for status in statuses.into_iter().flatten() {
                if images.contains(&normalize_image(&status.image))
                    && let Some((_, digest)) = status.image_id.split_once('@')
                {
                    digests.insert(digest.to_owned());
                }
            }
        }
        digests
    }

    fn channel(&self, kind: PlaybookKind, namespace: &str, name: &str) -> Option<ChannelKind> {
        match kind {
            PlaybookKind::Playbook => {
                self.channels.get(&ObjectRef::new(name).within(namespace)).map(|channel| channel.spec.kind.clone())
            }
            PlaybookKind::ClusterPlaybook => {
                self.cluster_channels.get(&ObjectRef::new(name)).map(|channel| channel.spec.kind.clone())
            }
        }
    }

    fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    fn severing(&self) -> Option<&Severing> {
        self.severing.as_ref()
    }

    fn pods_of_account(&self, namespace: &str, service_account: &str) -> Option<usize> {
        let pods = self.pods.state();
        Some(pods.iter().filter(|pod| runs_as(pod, namespace, service_account)).count())
    }
}

fn controller(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}

fn tell<K>(notices: &Notices, notice: Notice) -> impl FnMut(Change<K>) + Send + use<K> {
    let declared = notices.declared.clone();
    move |_| {
        let _ = declared.send(notice);
    }
}

/// An object that a run has marked wakes the run.
fn tell_run<K: Resource>(notices: &Notices, change: &Change<K>) {
    let (Change::There(object) | Change::Gone(object)) = change else { return };
    let elsewhere = object.labels().get(names::REMEDIATION_NAMESPACE).cloned();
    if let (Some(name), Some(namespace)) = (object.labels().get(names::REMEDIATION), elsewhere.or(object.namespace())) {
        notices.runs.send(ObjectRef::new(name).within(&namespace));
    }
}

fn remediation_changed(
    notices: &Notices,
    runs_of: &RwLock<RunsByFinding>,
    containment: &Containment,
    change: &Change<Remediation>,
) {
    let (Change::There(run) | Change::Gone(run)) = change else { return };
    let namespace = run.namespace().unwrap_or_default();
    if let Ok(mut index) = runs_of.write() {
        let key = (namespace.clone(), run.spec.finding.name.clone());
        let names = index.entry(key.clone()).or_default();
        if matches!(change, Change::There(_)) {
            names.insert(run.name_any());
        } else {
            names.remove(&run.name_any());
            if names.is_empty() {
                index.remove(&key);
            }
        }
    }
    containment.run_changed(run, matches!(change, Change::There(_)));
    notices.runs.send(ObjectRef::from_obj(&**run));
    notices.findings.send(ObjectRef::new(&run.spec.finding.name).within(&namespace));
}

/// Keeps the note of where quarantine policies stand. The note is made in a task of its own, for it may have to wait for a step that is
/// about to create the policy; what it says is read after that wait.
fn policy_changed(policies: &Arc<StandingPolicies>, containment: &Arc<Containment>, change: &Change<NetworkPolicy>) {
    let (Change::There(policy) | Change::Gone(policy)) = change else { return };
    let Some(name) = policy.labels().get(names::QUARANTINE_POLICY) else { return };
    let namespace = policy.namespace().unwrap_or_default();
    let Some(profile) = policies.profile(&namespace, name).filter(|one| one.policy_name() == policy.name_any()) else {
        return;
    };
    let (policies, containment) = (policies.clone(), containment.clone());
    tokio::spawn(async move {
        policies.seen(&namespace, &profile, || containment.policy_is_intact(&namespace, &profile)).await;
    });
}
