//! Metrics, in the names and with the reasons that conditions and Events have, too.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of what a Source sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabels {
    /// Name of the Source; `unknown` for one that isn't there.
    pub source: String,
    /// `accepted`, `repeated`, `refused`, `unauthorized`, `failed`, `spooled`, `ignored`, `foreign`, `limited`.
    pub outcome: &'static str,
}

/// Labels of what a tool asked to be fetched or confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FollowUpLabels {
    /// Name of the Source.
    pub source: String,
    /// `clair`, `harbor`, `sns`.
    pub kind: &'static str,
    /// `done`, `failed`, `refused`, `unset`.
    pub outcome: &'static str,
}

/// Labels of Findings that expired.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ExpiredLabels {
    /// Name of the Source.
    pub source: String,
}

/// Labels of what became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepLabels {
    /// Kind of the step.
    pub kind: &'static str,
    /// State that it came to.
    pub state: String,
    /// Reason, as its record has it.
    pub reason: String,
}

/// Labels of what became of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunLabels {
    /// Phase that it came to.
    pub phase: String,
    /// Reason, as its condition has it.
    pub reason: String,
}

/// Labels of what the spool didn't keep.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FaultLabels {
    /// `limit`, `full`, `read-only`, `forbidden`, `corrupt`, `too-large`, `unreadable`, `closed`, `other`.
    pub fault: &'static str,
}

/// What waits on disk.
#[derive(Clone, Default)]
pub struct SpoolMetrics {
    /// How many Findings.
    pub entries: Gauge,
    /// Their bytes.
    pub bytes: Gauge,
    /// For how many seconds the oldest has waited.
    pub oldest: Gauge<f64, AtomicU64>,
    /// What could not be kept, or not be read again.
    pub failures: Family<FaultLabels, Counter>,
}

impl SpoolMetrics {
    fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("spool_entries", "Findings that wait on disk for the API server", all.entries.clone());
        registry.register("spool_bytes", "Bytes of the Findings that wait on disk", all.bytes.clone());
        let oldest = "For how many seconds the oldest Finding on disk has waited";
        registry.register("spool_oldest_seconds", oldest, all.oldest.clone());
        let failures = "What the spool could not keep or read, by what is wrong; limit: as much waits as may";
        registry.register("spool_failures", failures, all.failures.clone());
        all
    }
}

/// All metrics of the operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Signals that came in.
    pub signals: Family<SourceLabels, Counter>,
    /// What tools asked to be fetched or confirmed.
    pub follow_ups: Family<FollowUpLabels, Counter>,
    /// Findings that expired.
    pub findings_expired: Family<ExpiredLabels, Counter>,
    /// Steps that came to a state.
    pub steps: Family<StepLabels, Counter>,
    /// Runs that came to a phase.
    pub runs: Family<RunLabels, Counter>,
    /// From the moment that a Finding was seen to the answer to its containment write.
    pub containment: Histogram,
    /// What it took to compute whether a quarantine holds.
    pub verification: Histogram,
    /// Whether this replica leads.
    pub leads: Gauge,
    /// What waits on disk.
    pub spool: SpoolMetrics,
    /// Lines of the audit trail that were taken.
    pub audit_lines: Counter,
    /// How often they were not.
    pub audit_failures: Counter,
    /// Lines that are lost.
    pub audit_lost: Counter,
    /// Records that were deleted, as their time was over.
    pub history_deleted: Counter,
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quell");
        let signals = Family::default();
        registry.register("signals", "Signals that came in, by Source and outcome", signals.clone());
        let follow_ups = Family::default();
        let help = "What tools asked to be fetched or confirmed, by Source, kind and outcome";
        registry.register("follow_ups", help, follow_ups.clone());
        let findings_expired = Family::default();
        let help = "Findings that expired: their Source did not report them for as long as it says";
        registry.register("findings_expired", help, findings_expired.clone());
        let steps = Family::default();
        registry.register("steps", "Steps that came to a state, by kind, state and reason", steps.clone());
        let runs = Family::default();
        registry.register("runs", "Runs that came to a phase, by phase and reason", runs.clone());
        let buckets = [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0];
        let containment = Histogram::new(buckets);
        registry.register(
            "containment_seconds",
            "From the moment that a Finding was seen to the answer to its containment write",
            containment.clone(),
        );
        let verification = Histogram::new([0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1]);
        registry.register(
            "verification_seconds",
            "What it took to compute whether a quarantine holds, from what is watched",
            verification.clone(),
        );
        let leads = Gauge::default();
        registry.register("leader", "1 on the replica that leads, 0 on the others", leads.clone());
        let audit_lines = counter(&mut registry, "audit_lines", "Lines of the audit trail that were taken");
        let audit_failures = counter(&mut registry, "audit_failures", "How often the audit trail was not taken");
        let audit_lost = counter(&mut registry, "audit_lost", "Lines of the audit trail that are lost");
        let history_deleted = counter(
            &mut registry,
            "history_deleted",
            "Findings and Remediations that were deleted as their time was over",
        );
        Self {
            audit_lines,
            audit_failures,
            audit_lost,
            history_deleted,
            spool: SpoolMetrics::register(&mut registry),
            registry: Arc::new(registry),
            signals,
            follow_ups,
            findings_expired,
            steps,
            runs,
            containment,
            verification,
            leads,
        }
    }
}

impl Metrics {
    /// One signal of a Source.
    pub fn signal(&self, source: &str, outcome: &'static str) {
        self.signals.get_or_create(&SourceLabels { source: source.to_owned(), outcome }).inc();
    }

    /// What became of one thing that a tool asked for.
    pub fn follow_up(&self, source: &str, kind: &'static str, outcome: &'static str) {
        self.follow_ups.get_or_create(&FollowUpLabels { source: source.to_owned(), kind, outcome }).inc();
    }

    /// The metrics as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
