//! What the steps ask of the copies.

use std::collections::BTreeSet;

use kube::runtime::reflector::ObjectRef;
use quell_actions::pods::{runs_as, with_same_digest};
use quell_actions::quarantine::{DenyKind, facts};
use quell_actions::{Cluster, Probing, Severing, StandingPolicies};
use quell_crds::v1alpha1::{ChannelKind, FindingState, FindingStatus, PlaybookKind, Workload};
use quell_ingest::normalize_image;
use quell_playbooks::PodFacts;
use quell_playbooks::images::Affected;

use crate::caches::Caches;

impl Cluster for Caches {
    fn policies(&self) -> &StandingPolicies {
        &self.policies
    }

    fn deny_kinds(&self) -> BTreeSet<DenyKind> {
        self.containment.deny_kinds()
    }

    fn serves_istio(&self) -> bool {
        self.containment.serves_istio()
    }

    fn affected(&self) -> Affected {
        let mut affected = Affected::default();
        for finding in self.findings.state() {
            let over = |status: &FindingStatus| status.is_over() || status.state == Some(FindingState::Suppressed);
            if finding.status.as_ref().is_some_and(over) {
                continue;
            }
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

    fn same_digest(&self, pod: &PodFacts, container: &str, digest: &str) -> Option<Vec<(PodFacts, Workload)>> {
        let found = with_same_digest(self.pods.state(), pod, container, digest)?;
        Some(found.iter().map(|one| (facts(one), self.top_owner(one))).collect())
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

    fn probing(&self) -> Option<&Probing> {
        self.probing.as_ref()
    }

    fn pods_of_account(&self, namespace: &str, service_account: &str) -> Option<usize> {
        let pods = self.pods.state();
        Some(pods.iter().filter(|pod| runs_as(pod, namespace, service_account)).count())
    }
}
