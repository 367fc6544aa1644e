//! What came of each alert: the cluster, the records, the proxies and the receiver are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names::{self, field_managers};
use quell_crds::v1alpha1::{Finding, Phase, Remediation};

use super::receiver::Told;
use crate::proxy::Record;

/// What a sender knows of its alert.
#[derive(Clone, Debug, Default)]
pub struct Alert {
    /// How often it was posted.
    pub posted: i64,
    /// How often it was answered with success.
    pub answered: i64,
}

/// What is wrong.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Alerts that were answered with success, and that not everything came of.
    pub lost: Vec<String>,
    /// What took place more than once.
    pub doubled: Vec<String>,
    /// What nobody asked for.
    pub beyond: Vec<String>,
}

/// What there is at the end.
pub struct Found {
    pods: BTreeMap<String, Pod>,
    findings: HashMap<String, Vec<Finding>>,
    runs: HashMap<String, Vec<Remediation>>,
}

impl Found {
    /// Reads a namespace.
    pub async fn read(client: &Client, namespace: &str) -> Result<Self> {
        let all = ListParams::default();
        let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&all).await?.items;
        let mut found = Self {
            pods: pods.into_iter().map(|pod| (pod.name_any(), pod)).collect(),
            findings: HashMap::new(),
            runs: HashMap::new(),
        };
        for finding in Api::<Finding>::namespaced(client.clone(), namespace).list(&all).await?.items {
            found.findings.entry(finding.spec.target.name.clone()).or_default().push(finding);
        }
        for run in Api::<Remediation>::namespaced(client.clone(), namespace).list(&all).await?.items {
            found.runs.entry(run.spec.target.name.clone()).or_default().push(run);
        }
        Ok(found)
    }

    /// What is missing of an alert that was answered with success; none if nothing is.
    #[must_use]
    pub fn missing(&self, pod: &str, alert: &Alert) -> Option<String> {
        let Some(finding) = self.findings.get(pod).and_then(|all| all.first()) else {
            return Some(format!("{pod}: answered {} times, and there is no Finding", alert.answered));
        };
        let count = finding.status.as_ref().map_or(1, |status| status.count);
        if count < alert.answered || count > alert.posted {
            return Some(format!(
                "{pod}: counted {count} times, posted {} times, answered with success {} times",
                alert.posted, alert.answered
            ));
        }
        let Some(run) = self.runs.get(pod).and_then(|all| all.first()) else {
            let status = finding.status.iter().flat_map(|status| &status.conditions);
            let conditions: Vec<String> =
                status.map(|one| format!("{}={} {}: {}", one.type_, one.status, one.reason, one.message)).collect();
            return Some(format!(
                "{pod}: there is no run for the Finding {}, which says: {}",
                finding.name_any(),
                conditions.join("; ")
            ));
        };
        let status = run.status.clone().unwrap_or_default();
        if status.phase != Phase::Succeeded {
            let steps: Vec<String> = status
                .steps
                .iter()
                .map(|step| format!("{} {} {}: {}", step.name, step.state, step.reason, step.message))
                .collect();
            return Some(format!("{pod}: the run {} is {}: {}", run.name_any(), status.phase, steps.join("; ")));
        }
        let told = finding.status.as_ref().and_then(|status| status.remediations.first().map(|run| run.phase));
        if told != Some(Phase::Succeeded) {
            return Some(format!("{pod}: the run is over, and its Finding says {told:?}"));
        }
        let cut_off = self.pods.get(pod).is_some_and(|pod| pod.labels().contains_key(names::QUARANTINE));
        (!cut_off).then(|| format!("{pod}: the run succeeded, and the pod is not under quarantine"))
    }
}

/// Judges everything.
#[must_use]
pub fn judge(
    found: &Found,
    alerts: &BTreeMap<String, Alert>,
    replicas: &[(String, Vec<Record>)],
    told: &BTreeMap<String, Told>,
    namespace: &str,
) -> Verdict {
    let mut verdict = Verdict::default();
    for (pod, alert) in alerts.iter().filter(|(_, alert)| alert.answered > 0) {
        verdict.lost.extend(found.missing(pod, alert));
    }
    for (pod, findings) in found.findings.iter().filter(|(_, all)| all.len() > 1) {
        verdict.doubled.push(format!("{pod}: {} Findings", findings.len()));
    }
    for (pod, runs) in found.runs.iter().filter(|(_, all)| all.len() > 1) {
        verdict.doubled.push(format!("{pod}: {} runs", runs.len()));
    }
    effects(&mut verdict, replicas, namespace);
    // One key for one run: whoever tells by the key is told once.
    let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, told) in told.iter().filter(|(_, told)| told.body.contains(namespace)) {
        let run = key.split('/').nth(1).unwrap_or_default();
        keys.entry(run).or_default().push(key);
        if told.differs {
            verdict.doubled.push(format!("the key {key} came with two texts"));
        }
    }
    for (run, keys) in keys.iter().filter(|(_, keys)| keys.len() > 1) {
        verdict.doubled.push(format!("the run {run} was told with the keys {keys:?}"));
    }
    for run in found.runs.values().flatten() {
        let ended = run.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded);
        if ended && !keys.contains_key(run.name_any().as_str()) {
            verdict.lost.push(format!("the run {} succeeded, and nobody was told", run.name_any()));
        }
    }
    for (name, pod) in &found.pods {
        let marked = pod.labels().contains_key(names::QUARANTINE) || pod.annotations().contains_key(names::REMEDIATION);
        if marked && alerts.get(name).is_none_or(|alert| alert.posted == 0) {
            verdict.beyond.push(format!("{name}: under quarantine, and no alert named it"));
        }
    }
    verdict
}

/// Whether it is a write that a leader alone makes, about what is in that namespace.
#[must_use]
pub fn is_of_the_leader(record: &Record, namespace: &str) -> bool {
    let request = &record.request;
    // Signals are taken in and counted by every replica, and each tells of what it sees.
    let of_all =
        request.field_manager() == field_managers::INTAKE || ["events", "leases"].contains(&request.resource.as_str());
    record.is_effect() && request.namespace == namespace && !of_all
}

/// Each pod is changed once, and nothing is written by a replica while another holds the Lease. A write counts as made when it comes to the
/// proxy: the way from there is the network's.
fn effects(verdict: &mut Verdict, replicas: &[(String, Vec<Record>)], namespace: &str) {
    // A write that finds everything as it is to be is answered with the version that was there.
    let mut changed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut taken: Vec<(Instant, &str)> = Vec::new();
    for (identity, records) in replicas {
        for record in records.iter().filter(|record| record.is_effect()) {
            if record.is_lease_of(identity) {
                taken.push((record.request.at, identity));
            }
            if record.request.resource == "pods" && record.request.namespace == namespace {
                let version = record.object.as_ref().map_or("", |object| object.version.as_str());
                changed.entry(record.name()).or_default().insert(version);
            }
        }
    }
    for (pod, versions) in changed.into_iter().filter(|(_, versions)| versions.len() > 1) {
        verdict.doubled.push(format!("{pod}: changed {} times", versions.len()));
    }
    taken.sort();
    for (identity, records) in replicas {
        for record in records.iter().filter(|record| is_of_the_leader(record, namespace)) {
            let before = taken.iter().rev().find(|(at, _)| *at <= record.request.at);
            if let Some((since, holder)) = before.filter(|(_, holder)| holder != identity) {
                verdict.beyond.push(format!(
                    "{} {}: by {identity}, {:.3} s after {holder} took or renewed the Lease",
                    record.request.method,
                    record.request.path,
                    (record.request.at - *since).as_secs_f64()
                ));
            }
        }
    }
}
