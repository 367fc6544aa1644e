//! Somebody has a shell in a pod of the storefront.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use quell_crds::names;

use super::{Beat, Plot, common};
use crate::demo::news::Seen;
use crate::demo::shop::{CLEAN_IMAGE, STOREFRONT, Shop, image_of, ready_pods};
use crate::fixtures::APP;
use crate::wait::{Rollout as _, is_ready};

/// Quarantine, notification, rollback.
pub struct Breach {
    finding: String,
    victim: String,
    /// Pods of the storefront that are none of the clean ones.
    before: BTreeSet<String>,
    /// The pods that each slice of the Service lists.
    slices: BTreeMap<String, Vec<String>>,
}

impl Breach {
    /// The incident of that Finding.
    #[must_use]
    pub fn new(finding: &str, shop: &Shop) -> Self {
        Self {
            finding: finding.to_owned(),
            victim: shop.victim.name_any(),
            before: shop.storefront.iter().map(ResourceExt::name_any).collect(),
            slices: BTreeMap::new(),
        }
    }

    fn pod(&self, pod: &Pod) -> Option<(Beat, String)> {
        let name = pod.name_any();
        if name == self.victim {
            let labels = pod.labels();
            let quarantined = labels.contains_key(names::QUARANTINE) && !labels.contains_key(APP);
            let text = format!("pod {name} has lost its labels: its owner lets it go, and it is kept for forensics");
            return quarantined.then_some((Beat::Quarantined, text));
        }
        let clean =
            pod.labels().get(APP).is_some_and(|app| app == STOREFRONT) && !self.before.contains(&name) && is_ready(pod);
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref()).unwrap_or_default();
        let tag = image.rsplit(':').next().unwrap_or_default();
        clean.then(|| (Beat::Replaced, format!("pod {name} ({tag}) is Ready in its place")))
    }

    fn deployment(deployment: &Deployment) -> Vec<(Beat, String)> {
        if deployment.name_any() != STOREFRONT || image_of(deployment) != CLEAN_IMAGE {
            return Vec::new();
        }
        let mut beats = vec![(Beat::Changed, format!("Deployment {STOREFRONT} goes back to {CLEAN_IMAGE}"))];
        if deployment.is_rolled_out() {
            let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default();
            beats.push((Beat::RolledOut, format!("all {available} replicas run 1.4.0 and are available")));
        }
        beats
    }
}

impl Plot for Breach {
    fn beats(&self) -> &'static [Beat] {
        &[
            Beat::Found,
            Beat::Denied,
            Beat::Quarantined,
            Beat::OutOfService,
            Beat::Replaced,
            Beat::Notified,
            Beat::Changed,
            Beat::RolledOut,
            Beat::Remediated,
        ]
    }

    fn read(&mut self, seen: &Seen) -> Vec<(Beat, String)> {
        let mut beats = Vec::new();
        match seen {
            Seen::Finding(finding) if finding.name_any() == self.finding => {
                let spec = &finding.spec;
                let text = format!(
                    "{} \"{}\" in pod {}: Finding {} is stored",
                    spec.severity, spec.rule, spec.target.name, self.finding
                );
                beats.push((Beat::Found, text));
            }
            Seen::Policy(policy) if policy.labels().contains_key(names::QUARANTINE_POLICY) => {
                let text =
                    format!("NetworkPolicy {} denies quarantined pods all traffic, in and out", policy.name_any());
                beats.push((Beat::Denied, text));
            }
            Seen::Pod(pod) => beats.extend(self.pod(pod)),
            Seen::Endpoints(slice) => {
                self.slices.insert(slice.name_any(), ready_pods(slice));
                let mut listed = self.slices.values().flatten();
                if !listed.any(|name| *name == self.victim) {
                    beats.push((Beat::OutOfService, format!("the Service {STOREFRONT} sends nothing to it any more")));
                }
            }
            Seen::Deployment(deployment) => beats.extend(Self::deployment(deployment)),
            _ => {}
        }
        beats.extend(common(seen, &self.finding));
        beats
    }
}
