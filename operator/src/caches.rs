//! What the operator knows of the cluster without asking: trimmed copies, and the questions that decisions put to them.

mod cluster;
mod index;
mod lookup;
mod notices;
mod pod_index;
mod pods;
mod routes;
mod trim;
mod world;

pub use index::{FindingIndex, FindingKey};
pub use notices::{Notice, Notices};
pub use pod_index::{PodIndex, addresses, given_image, ids, statuses};
pub use routes::{Ingresses, Routes};

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, RwLock};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use quell_actions::{Probing, Severing, StandingPolicies};
use quell_crds::names;
use quell_crds::v1alpha1::{
    Approval, Channel, ClusterChannel, ClusterPlaybook, ClusterSuppression, Finding, ImageBlock, Playbook, Remediation,
    Source, Suppression,
};
use quell_playbooks::contained::Network;

use crate::caches::notices::{
    RunsByFinding, approval_changed, finding_changed, namespace_changed, pod_changed, policy_changed,
    remediation_changed, tell, tell_run,
};
use crate::caches::trim::{trim_namespace, trim_node, trim_owner, trim_pod, trim_policy, trim_service};
use crate::containment::Containment;
use crate::finalizers;
use crate::mirror::{Change, Mirrors};
use crate::settings::Settings;

/// The copies.
pub struct Caches {
    own_namespace: String,
    severing: Option<Severing>,
    probing: Option<Probing>,
    /// Every pod.
    pub pods: Store<Pod>,
    /// Pods by what signals name them by.
    pub pod_index: Arc<PodIndex>,
    replica_sets: Store<PartialObjectMeta<ReplicaSet>>,
    jobs: Store<PartialObjectMeta<Job>>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    nodes: Store<PartialObjectMeta<Node>>,
    services: Store<Service>,
    /// Ingresses, and routes of Gateways where they are served, by the Services that they lead to.
    pub ingresses: Ingresses,
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
    /// Suppressions.
    pub suppressions: Store<Suppression>,
    /// ClusterSuppressions.
    pub cluster_suppressions: Store<ClusterSuppression>,
    /// ImageBlocks. A cluster may lack the kind still; nothing waits for them.
    pub image_blocks: Store<ImageBlock>,
    /// Approvals.
    pub approvals: Store<Approval>,
    /// Secrets of Quell's own namespace.
    pub secrets: Store<Secret>,
    /// ConfigMaps of Quell's own namespace, which hold certificates of authorities.
    pub config_maps: Store<ConfigMap>,
    _marked: Marked,
    daemon_sets: Store<PartialObjectMeta<DaemonSet>>,
    network_policies: Store<NetworkPolicy>,
    policies: Arc<StandingPolicies>,
    /// The quarantines that stand.
    pub containment: Arc<Containment>,
    runs_of: Arc<RwLock<RunsByFinding>>,
    /// Findings by what they are about.
    pub finding_index: Arc<FindingIndex>,
}

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
        let maps = Api::namespaced(client.clone(), own_namespace);
        let (runs_of, finding_index): (Arc<RwLock<RunsByFinding>>, Arc<FindingIndex>) = Default::default();
        let policies = Arc::new(StandingPolicies::default());
        let (all, library) = (watcher::Config::default(), Notice::Library);
        let marked = watcher::Config::default().labels(names::REMEDIATION);
        let (contained, pod_index): (Arc<OnceLock<Arc<Containment>>>, Arc<PodIndex>) = Default::default();
        let pods = mirrors.keep(Api::<Pod>::all(client.clone()), all.clone(), trim_pod, {
            let (contained, held, index) = (contained.clone(), notices.held.clone(), pod_index.clone());
            move |change| pod_changed(&contained, &held, &index, &change)
        });
        let containment = contained
            .get_or_init(|| Arc::new(Containment::new(pods.clone(), notices.runs.clone(), notices.namespaces.clone())))
            .clone();
        Self {
            own_namespace: own_namespace.to_owned(),
            pods,
            pod_index,
            severing: settings.severing(),
            probing: settings.probing(),
            replica_sets: mirrors.keep(Api::all(client.clone()), all.clone(), trim_owner, |_| {}),
            jobs: mirrors.keep(Api::all(client.clone()), all.clone(), trim_owner, {
                let notices = notices.clone();
                move |change| tell_run(&notices, &change)
            }),
            namespaces: mirrors.keep(Api::all(client.clone()), all.clone(), trim_namespace, {
                let (containment, held) = (containment.clone(), notices.held.clone());
                move |change| namespace_changed(&containment, &held, &change)
            }),
            nodes: mirrors.keep(Api::all(client.clone()), all.clone(), trim_node, |_| {}),
            services: mirrors.keep(Api::<Service>::all(client.clone()), all.clone(), trim_service, |_| {}),
            ingresses: Ingresses::keep(client, mirrors),
            findings: mirrors.keep_own::<Finding>(client, {
                let (notices, runs_of, index) = (notices.clone(), runs_of.clone(), finding_index.clone());
                move |change| finding_changed(&notices, &runs_of, &index, &change)
            }),
            remediations: mirrors.keep_own::<Remediation>(client, {
                let (notices, runs_of, containment) = (notices.clone(), runs_of.clone(), containment.clone());
                move |change| remediation_changed(&notices, &runs_of, &containment, &change)
            }),
            playbooks: mirrors.keep_own(client, tell(notices, library)),
            cluster_playbooks: mirrors.keep_own(client, tell(notices, library)),
            channels: mirrors.keep_own(client, tell(notices, library)),
            cluster_channels: mirrors.keep_own(client, tell(notices, library)),
            sources: mirrors.keep_own(client, tell(notices, Notice::Sources)),
            suppressions: mirrors.keep_own(client, tell(notices, Notice::Suppressions)),
            cluster_suppressions: mirrors.keep_own(client, tell(notices, Notice::Suppressions)),
            image_blocks: mirrors.keep_own(client, tell(notices, Notice::Blocks)),
            approvals: mirrors.keep_own(client, {
                let notices = notices.clone();
                move |change| approval_changed(&notices, &change)
            }),
            config_maps: mirrors.keep(maps, all.clone(), |_| {}, tell(notices, Notice::Sources)),
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
                        // A pod may have come under quarantine while this change was on its way.
                        if let Change::There(policy) = &change
                            && (policy.metadata.deletion_timestamp.is_some()
                                || finalizers::is_missing(policy, &written))
                        {
                            namespaces.send(ObjectRef::new(&policy.namespace().unwrap_or_default()));
                        }
                    },
                )
            },
            policies,
            containment,
            runs_of,
            finding_index,
        }
    }

    /// Waits until every copy is complete: before that no decision may count on what isn't there.
    pub async fn wait_until_ready(&self) -> Result<(), kube::runtime::reflector::store::WriterDropped> {
        tokio::try_join!(
            self.pods.wait_until_ready(),
            self.replica_sets.wait_until_ready(),
            self.jobs.wait_until_ready(),
            self.namespaces.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.services.wait_until_ready(),
            self.ingresses.copy.wait_until_ready(),
            self.findings.wait_until_ready(),
            self.remediations.wait_until_ready(),
            self.playbooks.wait_until_ready(),
            self.cluster_playbooks.wait_until_ready(),
            self.channels.wait_until_ready(),
            self.cluster_channels.wait_until_ready(),
            self.sources.wait_until_ready(),
            self.suppressions.wait_until_ready(),
            self.cluster_suppressions.wait_until_ready(),
            self.secrets.wait_until_ready(),
            self.approvals.wait_until_ready(),
            self.config_maps.wait_until_ready(),
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

    /// The pods of these names that are there.
    #[must_use]
    pub fn pods_of<'a>(&self, keys: impl IntoIterator<Item = &'a Arc<(String, String)>>) -> Vec<Arc<Pod>> {
        keys.into_iter().filter_map(|key| self.pod(&key.0, &key.1)).collect()
    }

    /// The run of that name.
    #[must_use]
    pub fn remediation(&self, namespace: &str, name: &str) -> Option<Arc<Remediation>> {
        self.remediations.get(&ObjectRef::new(name).within(namespace))
    }

    /// The Findings that may be about the object, as their target or workload.
    #[must_use]
    pub fn findings_about(&self, namespace: &str, name: &str) -> Vec<Arc<Finding>> {
        self.findings_of(&self.finding_index.about(namespace, name))
    }

    /// The Findings that may have that rule of that tool, reported by that Source.
    #[must_use]
    pub fn findings_of_rule(&self, source: &str, tool: &str, rule: &str) -> Vec<Arc<Finding>> {
        self.findings_of(&self.finding_index.of_rule(source, tool, rule))
    }

    fn findings_of(&self, keys: &[Arc<FindingKey>]) -> Vec<Arc<Finding>> {
        let there = |key: &Arc<FindingKey>| self.findings.get(&ObjectRef::new(&key.1).within(&key.0));
        keys.iter().filter_map(there).collect()
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
}
