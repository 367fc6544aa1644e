//! Turns at objects that several runs want to change. Only the leader makes effects, so what it knows is all there is; a new leader takes it
//! up from the records.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_crds::time;
use quell_crds::v1alpha1::{Remediation, RemediationStatus, StepRecord, StepState};
use quell_playbooks::compile::CompiledStep;
use quell_playbooks::contention::{Claimant, Claims, Object, RunName, object};
use quell_playbooks::{Mentions, World};

use crate::caches::Caches;
use crate::engine::Queue;

/// Which run has its turn at which object, and whom to tell when it is another's.
pub struct Turns {
    claims: Mutex<Claims>,
    runs: Queue<Remediation>,
}

impl Turns {
    /// Nobody holds anything. `runs` is told whose turn it is.
    #[must_use]
    pub fn new(runs: Queue<Remediation>) -> Self {
        Self { claims: Mutex::default(), runs }
    }

    /// Takes up what runs hold by their records: whoever leads from now on makes no effect before.
    pub fn take_up(&self, caches: &Caches) {
        for run in caches.remediations.state() {
            let Some(status) = run.status.as_ref().filter(|status| !status.current_step.is_empty()) else { continue };
            let Ok(steps) = quell_playbooks::compile::compile_steps(&run.spec.steps, &run.spec.settings.finally) else {
                continue;
            };
            let key = ObjectRef::new(&run.spec.finding.name).within(&run.namespace().unwrap_or_default());
            let finding = caches.findings.get(&key).map(|found| (*found).clone()).unwrap_or_default();
            let world = caches.world(&finding, &run.spec.target, run.spec.workload.as_ref(), Mentions::default());
            self.settle(&run, &steps, status, &world);
        }
    }

    /// Whether the step may change its object now; else why not.
    pub fn may_go(&self, run: &Remediation, step: &CompiledStep, world: &World, caches: &Caches) -> Result<(), String> {
        let Some(object) = object(&step.step.kind, world) else { return Ok(()) };
        let claimant = claimant(run, &step.step.name);
        loop {
            let taken = self.claims().take(&object, &claimant);
            let Err(first) = taken else { return Ok(()) };
            let (namespace, name) = &first.run;
            if caches.remediation(namespace, name).is_none() {
                // Deleted: it is no longer looked at, so it gives nothing up by itself.
                self.set(&first.run, &[], &[]);
                continue;
            }
            let why = if first.priority > claimant.priority { "has the higher priority" } else { "came first" };
            return Err(format!(
                "waits for step {} of remediation {namespace}/{name}, which {why} and changes {object} as well; goes on by itself",
                first.step
            ));
        }
    }

    /// Gives up what the run neither changes nor waits for any more, and wakes those whose turn it is.
    pub fn settle(&self, run: &Remediation, steps: &[CompiledStep], status: &RemediationStatus, world: &World) {
        let (mut holds, mut waits) = (Vec::new(), Vec::new());
        for (step, record) in steps.iter().zip(&status.steps) {
            let list = match record.state {
                StepState::Waiting => &mut waits,
                _ if is_at_it(record) => &mut holds,
                _ => continue,
            };
            let claim = object(&step.step.kind, world).map(|object| (object, claimant(run, &record.name)));
            list.extend(claim);
        }
        self.set(&name_of(run), &holds, &waits);
    }

    fn set(&self, run: &RunName, holds: &[(Object, Claimant)], waits: &[(Object, Claimant)]) {
        let turns = self.claims().settle(run, holds, waits);
        for (namespace, name) in turns {
            self.runs.send(ObjectRef::new(&name).within(&namespace));
        }
    }

    /// What a panic elsewhere left is whole: each change is made in one go.
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the step is changing its object: between two tries it is only where something was changed already.
fn is_at_it(record: &StepRecord) -> bool {
    match record.state {
        StepState::Running | StepState::Reverting | StepState::Undoing => true,
        StepState::Retrying | StepState::Held => record.receipt.is_some(),
        _ => false,
    }
}

fn claimant(run: &Remediation, step: &str) -> Claimant {
    Claimant {
        run: name_of(run),
        step: step.to_owned(),
        priority: run.spec.settings.priority,
        since: run.metadata.creation_timestamp.as_ref().map(time::from_kubernetes).unwrap_or_default(),
    }
}

fn name_of(run: &Remediation) -> RunName {
    (run.namespace().unwrap_or_default(), run.name_any())
}
