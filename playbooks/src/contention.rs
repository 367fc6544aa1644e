//! Who goes first where two runs want to change the same object.
//!
//! A step holds the one object that it changes from when it begins until it is over, and takes it before it begins. While it waits for it,
//! it holds nothing; while it holds it, it waits for no other object. So no circle of runs can wait for each other, whatever they want: each
//! holder ends by itself, in the time that its step is given. Who waits is let in by priority, then by age, then by name.
//!
//! What contains a threat never waits: it finds by itself what another has contained already.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::StepKind;

use crate::facts::World;
use crate::kind::traits;

/// An object that a step changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The object that a step of this kind changes, where it must be alone at it.
#[must_use]
pub fn object(kind: &StepKind, world: &World) -> Option<Object> {
    if traits(kind).contains {
        return None;
    }
    let of = |kind: &str, namespace: &str, name: &str| {
        let (kind, namespace, name) = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        (!name.is_empty()).then_some(Object { kind, namespace, name })
    };
    let pod = world.target.pod();
    match kind {
        StepKind::Rollback(_) | StepKind::SetImage(_) => {
            let workload = world.workload.as_ref()?;
            of(&workload.kind, &workload.namespace, &workload.name)
        }
        StepKind::SeverConnections(_) => of("Pod", &pod?.namespace, &pod?.name),
        StepKind::RevokeAccess(_) => of("ServiceAccount", &pod?.namespace, &pod?.service_account),
        StepKind::Quarantine(_)
        | StepKind::DenyImage(_)
        | StepKind::Rebuild(_)
        | StepKind::Notify(_)
        | StepKind::Wait(_) => None,
    }
}

/// Whether steps of this kind may have to wait for their turn.
#[must_use]
pub fn may_wait(kind: &StepKind) -> bool {
    matches!(
        kind,
        StepKind::Rollback(_) | StepKind::SetImage(_) | StepKind::SeverConnections(_) | StepKind::RevokeAccess(_)
    )
}

/// A run, by namespace and name.
pub type RunName = (String, String);

/// A step of a run, and what its place in the queue goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The run.
    pub run: RunName,
    /// Name of the step.
    pub step: String,
    /// The playbook's priority.
    pub priority: i32,
    /// When the run was created.
    pub since: DateTime<Utc>,
}

impl Claimant {
    fn rank(&self) -> (Reverse<i32>, DateTime<Utc>, &RunName, &str) {
        (Reverse(self.priority), self.since, &self.run, &self.step)
    }

    fn is(&self, other: &Self) -> bool {
        self.run == other.run && self.step == other.step
    }
}

/// Who has which object, and who waits for it.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    objects: BTreeMap<Object, Claim>,
}

#[derive(Clone, Debug, Default)]
struct Claim {
    holder: Option<Claimant>,
    waiting: Vec<Claimant>,
}

impl Claim {
    fn next(&self) -> Option<&Claimant> {
        self.waiting.iter().min_by_key(|one| one.rank())
    }
}

impl Claims {
    /// Takes the object, or a place in its queue. The error is who goes first.
    pub fn take(&mut self, object: &Object, claimant: &Claimant) -> Result<(), Claimant> {
        let claim = self.objects.entry(object.clone()).or_default();
        let first = match &claim.holder {
            Some(holder) if holder.is(claimant) => return Ok(()),
            Some(holder) => Some(holder.clone()),
            None => claim.next().filter(|next| !next.is(claimant) && next.rank() < claimant.rank()).cloned(),
        };
        if let Some(first) = first {
            if !claim.waiting.iter().any(|one| one.is(claimant)) {
                claim.waiting.push(claimant.clone());
            }
            return Err(first);
        }
        claim.waiting.retain(|one| !one.is(claimant));
        claim.holder = Some(claimant.clone());
        Ok(())
    }

    /// What a run holds and waits for, as its record has it. What it held or waited for beside that, it gives up. The answer is which runs
    /// may have their turn now.
    pub fn settle(
        &mut self,
        run: &RunName,
        holds: &[(Object, Claimant)],
        waits: &[(Object, Claimant)],
    ) -> BTreeSet<RunName> {
        let has = |all: &[(Object, Claimant)], object: &Object, one: &Claimant| {
            all.iter().any(|(wanted, claimant)| wanted == object && claimant.is(one))
        };
        let mut turns = BTreeSet::new();
        for (object, claim) in &mut self.objects {
            let first = claim.next().map(|next| next.run.clone());
            claim.waiting.retain(|one| one.run != *run || has(waits, object, one));
            let left = claim.holder.take_if(|holder| holder.run == *run && !has(holds, object, holder)).is_some();
            let next = claim.next().map(|next| next.run.clone());
            if claim.holder.is_none() && (left || next != first) {
                turns.extend(next);
            }
        }
        for (object, claimant) in holds {
            // Taken up from a record, as after a restart.
            self.objects.entry(object.clone()).or_default().holder.get_or_insert_with(|| claimant.clone());
        }
        self.objects.retain(|_, claim| claim.holder.is_some() || !claim.waiting.is_empty());
        turns
    }

    /// Who holds the object.
    #[must_use]
    pub fn holder(&self, object: &Object) -> Option<&Claimant> {
        self.objects.get(object)?.holder.as_ref()
    }
}
