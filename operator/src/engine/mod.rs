//! The engine: Findings are matched, runs go on, statuses tell of it. Only the leader has one.

mod claims;
mod dry;
mod episode;
mod expiry;
mod finding;
mod gates;
mod held;
mod kept;
mod library;
mod out;
mod permit;
mod probed;
mod queue;
mod run;
mod selection;
mod status;
mod suppressed;
mod told;

pub use claims::Turns;
pub use finding::{contain_at_once, pass as finding_pass};
pub use held::Bell;
pub use kept::Tellings;
pub use library::Library;
pub(crate) use permit::marked;
pub use permit::{HeldRuns, Permits};
pub use queue::{Queue, drive};
pub use run::pass as run_pass;
pub use status::{is_failed_test, parameters as status_parameters};

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use chrono::Utc;
use kube::Client;
use kube::runtime::events::Recorder;
use quell_actions::{Context, Mark, Writer};
use quell_crds::v1alpha1::{Finding, Mode, Remediation, RemediationStatus, StepRecord};
use quell_notify::Courier;
use quell_playbooks::cel::Scope;
use quell_playbooks::compile::CompiledStep;
use quell_playbooks::{Mentions, World};
use thiserror::Error;

use crate::audit::Audit;
use crate::caches::Caches;
use crate::fence::Fence;
use crate::identity::Identities;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::suppressions::Suppressions;

/// What the engine works with.
pub struct Engine {
    /// Writes records, as Quell itself.
    pub client: Client,
    /// Writes effects, as the playbook's own identity.
    pub identities: Arc<Identities>,
    /// What is known of the cluster.
    pub caches: Arc<Caches>,
    /// The playbooks, compiled.
    pub library: Arc<Library>,
    /// Containment before book-keeping.
    pub lanes: Lanes,
    /// Counts.
    pub metrics: Metrics,
    /// Writes Events.
    pub recorder: Recorder,
    /// Calls to the outside that aren't notifications.
    pub http: reqwest::Client,
    /// Carries notifications.
    pub courier: Arc<Courier>,
    /// Open while this replica leads.
    pub fence: Fence,
    /// Runs that are under way.
    pub runs: Runs,
    /// Messages about quarantines that stand.
    pub tellings: Tellings,
    /// Which run has its turn at which object.
    pub turns: Turns,
    /// Lets effects through, or holds them.
    pub permits: Arc<Permits>,
    /// Accepted risk.
    pub suppressions: Arc<Suppressions>,
    /// Runs that are held.
    pub held: Arc<HeldRuns>,
    /// Tells the channels of guardrails.
    pub bell: Arc<Bell>,
    /// Tells of what is done.
    pub audit: Arc<Audit>,
}

impl Engine {
    /// Acts with the rights of the run's playbook.
    fn client_of(&self, run: &Remediation) -> Result<Client, EngineError> {
        let namespace = run.metadata.namespace.as_deref().unwrap_or_default();
        self.identities.of(&run.spec.playbook, namespace).map_err(|error| EngineError::Identity(Box::new(error)))
    }

    /// Writes with those rights.
    fn writer_of(&self, run: &Remediation) -> Result<Writer, EngineError> {
        self.client_of(run).map(Writer::new)
    }
}

/// Why a pass could not come to its end; it is made again.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The API server did not take a record.
    #[error("{doing}: {source}")]
    Record {
        /// What was attempted.
        doing: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// This replica may lead no longer.
    #[error("nothing is done: this replica's Lease is over, and another may lead by now")]
    NotLeading,
    /// No client for the playbook's identity.
    #[error("no client for the service account of the playbook: {0}")]
    Identity(Box<kube::Error>),
    /// A task panicked: a bug, and no reason to stop what others do.
    #[error("a pass broke off: {0}")]
    BrokeOff(#[from] tokio::task::JoinError),
}

impl EngineError {
    fn record(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Record { doing, source: Box::new(source) }
    }
}

/// Runs that are under way, as this process knows them. It is their only writer, so what it wrote last is newer than what a watch shows.
#[derive(Default)]
pub struct Runs {
    all: Mutex<HashMap<(String, String), Shared>>,
}

/// A run that passes take turns with.
pub type Shared = Arc<tokio::sync::Mutex<Live>>;

/// One run that is under way.
#[derive(Debug, Default)]
pub struct Live {
    /// Its steps, compiled once.
    pub steps: Arc<Vec<CompiledStep>>,
    /// What each did; what is durable may be a write behind.
    pub status: Option<RemediationStatus>,
    /// The status as it was last written.
    pub written: Option<RemediationStatus>,
    /// The status as it was last told to the audit trail.
    pub audited: Option<RemediationStatus>,
    /// The last write failed: what is known here is not durable.
    pub behind: bool,
    /// Whether it acts, once that is settled.
    pub mode: Option<Mode>,
    /// The facts that its steps ask for, once that is looked at.
    pub mentions: Option<Mentions>,
    /// The Finding as it was last seen: a run goes on when its Finding is deleted.
    pub finding: Option<Finding>,
}

impl Runs {
    /// The run of that name; whoever holds it is the only one that moves it.
    #[must_use]
    pub fn of(&self, namespace: &str, name: &str) -> Shared {
        match self.all.lock() {
            Ok(mut all) => all.entry((namespace.to_owned(), name.to_owned())).or_default().clone(),
            Err(_) => Arc::default(),
        }
    }

    /// The run of that name, where a pass has looked at it.
    #[must_use]
    pub fn known(&self, namespace: &str, name: &str) -> Option<Shared> {
        self.all.lock().ok()?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Forgets a run that is gone, or has ended and is recorded.
    pub fn forget(&self, namespace: &str, name: &str) {
        if let Ok(mut all) = self.all.lock() {
            all.remove(&(namespace.to_owned(), name.to_owned()));
        }
    }
}

/// What one step is done with; borrowed by its [`Context`].
pub(crate) struct Stage<'a> {
    pub engine: &'a Engine,
    pub run: &'a Remediation,
    pub world: &'a World,
    pub scope: &'a Scope,
    pub writer: &'a Writer,
    pub steps: &'a [CompiledStep],
    pub records: &'a [StepRecord],
}

impl Stage<'_> {
    pub fn mark(&self, step: usize) -> Mark {
        use kube::ResourceExt as _;
        Mark {
            namespace: self.run.namespace().unwrap_or_default(),
            remediation: self.run.name_any(),
            finding: self.run.spec.finding.name.clone(),
            step: self.steps[step].step.name.clone(),
        }
    }

    pub fn context<'a>(&'a self, mark: &'a Mark, step: usize) -> Context<'a> {
        Context {
            mark,
            playbook: self.run.spec.playbook.kind,
            world: self.world,
            scope: self.scope,
            names: &self.steps[step].names,
            record: &self.records[step],
            steps: self.records,
            cluster: &*self.engine.caches,
            writer: self.writer,
            http: &self.engine.http,
            courier: &self.engine.courier,
            now: Utc::now(),
        }
    }
}
