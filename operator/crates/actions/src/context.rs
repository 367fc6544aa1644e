//! What an action is given.

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{PlaybookKind, StepRecord};
use quell_notify::Courier;
use quell_playbooks::World;
use quell_playbooks::cel::{Names, Scope};

use crate::cluster::Cluster;
use crate::mark::Mark;
use crate::write::Writer;

/// What an action is given: who it is, what is known, and the means.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Which run and step; goes into everything that is written.
    pub mark: &'a Mark,
    /// Playbook or ClusterPlaybook: says where Channels and their Secrets are.
    pub playbook: PlaybookKind,
    /// The Finding and its target, as the caches know them.
    pub world: &'a World,
    /// What the step's expressions see.
    pub scope: &'a Scope,
    /// What the step's expressions may name.
    pub names: &'a Names,
    /// What the step did so far.
    pub record: &'a StepRecord,
    /// The records of all steps of the run.
    pub steps: &'a [StepRecord],
    /// What is known of the cluster beside the target.
    pub cluster: &'a dyn Cluster,
    /// Reads and writes as the run's own identity.
    pub writer: &'a Writer,
    /// For calls to the outside that aren't notifications. Follows no redirects.
    pub http: &'a reqwest::Client,
    /// Carries notifications.
    pub courier: &'a Courier,
    /// The time.
    pub now: DateTime<Utc>,
}

impl Context<'_> {
    /// The key that is the same for each try of this step in this run, and no other.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.mark.namespace, self.mark.remediation, self.mark.step)
    }
}
