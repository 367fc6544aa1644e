//! Which Findings a signal ends that says that a problem is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_crds::v1alpha1::{Finding, FindingStatus};
use quell_ingest::{About, Place, Signal};

use crate::caches::FindingKey;
use crate::intake::{Intake, Report, locate};

/// Of no more signals in one body the API server is asked where the copies have no Finding: a tool that lists whatever is well would else
/// cost a request for each.
const MOST_ASKED: usize = 32;

impl Intake {
    /// What is over, and may be there. A problem is known by its fingerprint at the place where it was found, however the signal would be
    /// placed now; of an image that is every place.
    pub(super) fn over(&self, source: &str, signals: &[&Signal]) -> Vec<Report> {
        let waits = self.backlog.as_ref().is_some_and(|backlog| backlog.must_wait(source));
        let asks = signals.len() <= MOST_ASKED;
        let mut reports: BTreeMap<FindingKey, Report> = BTreeMap::new();
        for signal in signals {
            let known = self.known(source, signal);
            let mut open = known.into_iter().filter(|finding| waits || !is_resolved(finding)).peekable();
            if open.peek().is_some() {
                for finding in open {
                    let report = Report::is_over(self.ended(source, signal, &finding));
                    reports.insert(report.key(), report);
                }
                continue;
            }
            for place in locate::locate_in_copies(signal, &self.caches) {
                let report = Report::is_over(quell_ingest::finding(source, signal, &place, &self.own_namespace));
                let key = report.key();
                let shown = self.caches.findings.get(&ObjectRef::from_obj(&report.finding)).is_some();
                if waits || (!shown && (asks || self.recent.contains(&key))) {
                    reports.insert(key, report);
                }
            }
        }
        reports.into_values().collect()
    }

    /// The Findings that the copies have of the problem, ended or not.
    fn known(&self, source: &str, signal: &Signal) -> Vec<Arc<Finding>> {
        let caches = &self.caches;
        let mut known = match &signal.about {
            About::Image { .. } => caches.findings_of_rule(source, &signal.tool, &signal.rule),
            About::Pod { namespace, name, .. } | About::Workload { namespace, name, .. } => {
                caches.findings_about(namespace, name)
            }
            About::Container { id: name, .. } | About::Node { name } | About::Address { ip: name } => {
                caches.findings_about("", name)
            }
        };
        known.retain(|finding| finding.spec.source == source && quell_ingest::is_same_problem(source, signal, finding));
        known
    }

    /// What the signal would have made of a Finding that is there.
    fn ended(&self, source: &str, signal: &Signal, known: &Finding) -> Finding {
        let place = Place { target: known.spec.target.clone(), workload: known.spec.workload.clone() };
        let mut finding = quell_ingest::finding(source, signal, &place, &self.own_namespace);
        finding.metadata.namespace = known.namespace();
        finding
    }
}

fn is_resolved(finding: &Finding) -> bool {
    finding.status.as_ref().is_some_and(FindingStatus::is_resolved)
}
