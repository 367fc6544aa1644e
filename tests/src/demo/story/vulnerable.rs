//! The image of payments has a critical vulnerability that a newer package fixes.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use quell_crds::names;

use super::{Beat, Plot, common};
use crate::demo::news::Seen;
use crate::demo::shop::{PAYMENTS, VULNERABLE_IMAGE, image_of};
use crate::wait::Rollout as _;

/// Rebuild, new image, notification.
pub struct Vulnerable {
    finding: String,
}

impl Vulnerable {
    /// The incident of that Finding.
    #[must_use]
    pub fn new(finding: &str) -> Self {
        Self { finding: finding.to_owned() }
    }
}

impl Plot for Vulnerable {
    fn beats(&self) -> &'static [Beat] {
        &[Beat::Found, Beat::Building, Beat::Built, Beat::Changed, Beat::RolledOut, Beat::Notified, Beat::Remediated]
    }

    fn read(&mut self, seen: &Seen) -> Vec<(Beat, String)> {
        let mut beats = Vec::new();
        match seen {
            Seen::Finding(finding) if finding.name_any() == self.finding => {
                let spec = &finding.spec;
                let worst = spec
                    .vulnerabilities
                    .first()
                    .map(|one| format!("{} in {} {}", one.id, one.package, one.installed_version));
                let text = format!(
                    "{} {}, which {} {} runs: Finding {} is stored",
                    spec.severity,
                    worst.unwrap_or_default(),
                    spec.target.kind,
                    spec.target.name,
                    self.finding
                );
                beats.push((Beat::Found, text));
            }
            Seen::Job(job) if job.labels().contains_key(names::REMEDIATION) => {
                beats.push((Beat::Building, format!("Job {} builds the image anew", job.name_any())));
            }
            Seen::Pod(pod) if pod.labels().contains_key(names::REMEDIATION) => {
                if let Some(message) = termination_message(pod) {
                    let said = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
                    let digest: String = said("digest=").chars().take("sha256:".len() + 12).collect();
                    beats.push((Beat::Built, format!("the Job has made {}, digest {digest}…", said("image="))));
                }
            }
            Seen::Deployment(deployment)
                if deployment.name_any() == PAYMENTS && image_of(deployment) != VULNERABLE_IMAGE =>
            {
                let image = image_of(deployment);
                let (reference, _) = image.split_once('@').unwrap_or((image, ""));
                beats.push((
                    Beat::Changed,
                    format!("Deployment {PAYMENTS} has the image {reference}, pinned by its digest"),
                ));
                if deployment.is_rolled_out() {
                    let available = deployment.status.as_ref().and_then(|status| status.available_replicas);
                    beats.push((
                        Beat::RolledOut,
                        format!("all {} replicas run it and are available", available.unwrap_or_default()),
                    ));
                }
            }
            _ => {}
        }
        beats.extend(common(seen, &self.finding));
        beats
    }
}

/// What the first container wrote to `/dev/termination-log`, once it has ended well.
fn termination_message(pod: &Pod) -> Option<&str> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended = statuses.first()?.state.as_ref()?.terminated.as_ref()?;
    ended.message.as_deref().filter(|_| ended.exit_code == 0)
}
