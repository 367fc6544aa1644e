//! What is said of Findings and runs wherever they appear.

use kube::ResourceExt as _;
use quell_crds::v1alpha1::{
    Finding, Phase, Remediation, RemediationStatus, StepKind, StepRecord, StepState, Target, Workload,
};

/// The status of a run; of one that has none yet, the empty one.
pub fn status(run: &Remediation) -> RemediationStatus {
    run.status.clone().unwrap_or_default()
}

/// `Pod shop/web-1`.
pub fn target(target: &Target) -> String {
    if target.namespace.is_empty() {
        format!("{} {}", target.kind, target.name)
    } else {
        format!("{} {}/{}", target.kind, target.namespace, target.name)
    }
}

/// `Deployment shop/web`.
pub fn workload(workload: &Workload) -> String {
    format!("{} {}/{}", workload.kind, workload.namespace, workload.name)
}

/// The image with its digest, as far as both are known.
pub fn image(target: &Target) -> String {
    match (target.image.as_str(), target.digest.as_str()) {
        ("", digest) => digest.to_owned(),
        (image, digest) if digest.is_empty() || image.contains('@') => image.to_owned(),
        (image, digest) => format!("{image}@{digest}"),
    }
}

/// What a step of a run is; `step` where the record is of none that the run has.
pub fn kind_of(run: &Remediation, record: &StepRecord) -> &'static str {
    run.spec.all_steps().find(|step| step.name == record.name).map_or("step", |step| step.kind.name())
}

/// Whether a record is of a step that contains the threat.
pub fn contains(run: &Remediation, record: &StepRecord) -> bool {
    let mut steps = run.spec.steps.iter();
    steps.any(|step| step.name == record.name && matches!(step.kind, StepKind::Quarantine(_)))
}

/// What was done about a Finding, in a few words: steps that ended well, then those that did not.
pub fn done(runs: &[&Remediation]) -> String {
    let mut well = Vec::new();
    let mut otherwise = Vec::new();
    for record in runs.iter().filter_map(|run| run.status.as_ref()).flat_map(|status| &status.steps) {
        match record.state {
            StepState::Succeeded => well.push(record.name.clone()),
            StepState::Pending | StepState::Skipped => {}
            state => otherwise.push(format!("{} {}", record.name, spoken(state))),
        }
    }
    well.extend(otherwise);
    well.join(", ")
}

/// A state in the middle of a sentence.
pub fn spoken(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "not yet begun",
        StepState::Waiting => "waiting",
        StepState::Running => "under way",
        StepState::Retrying => "retrying",
        StepState::Held => "held",
        StepState::Reverting => "being put back",
        StepState::Succeeded => "done",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
        StepState::Cancelled => "let go of",
        StepState::Undoing => "being undone",
        StepState::Undone => "undone",
        StepState::NotUndone => "not undone",
    }
}

/// Whether an undo of the run would find something that was changed.
pub fn can_be_undone(run: &Remediation) -> bool {
    let status = status(run);
    let changed = |record: &StepRecord| {
        record.receipt.is_some() && !matches!(record.state, StepState::Undone | StepState::NotUndone)
    };
    !matches!(status.phase, Phase::Undone | Phase::Undoing) && status.steps.iter().any(changed)
}

/// `-n shop falco-0a1b2c3d4e`, as commands take it.
pub fn flags(finding: &Finding) -> String {
    format!("-n {} {}", finding.namespace().unwrap_or_default(), finding.name_any())
}
