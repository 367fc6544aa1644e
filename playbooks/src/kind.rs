//! What the planner must know of each kind of step.

use std::time::Duration;

use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::SeverBy;

/// What the planner must know of a kind of step.
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each read by name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// How long it may take where the step says nothing; `None`: it ends by itself.
    pub timeout: Option<Duration>,
    /// Its effect leaves the cluster, so it can't carry its record: the intent is recorded first, in a request of its own.
    pub intent_first: bool,
    /// What it changed is put back when it fails.
    pub put_back_on_failure: bool,
    /// It contains the threat: it goes before everything that can wait, its own record included, for its effect carries that.
    pub contains: bool,
    /// `undo` has something to do for it.
    pub can_be_undone: bool,
    /// It makes its effect before anything of it is recorded. The effect carries a mark, by which undo finds one whose record was lost.
    pub carries_mark: bool,
}

const SECONDS: fn(u64) -> Option<Duration> = |seconds| Some(Duration::from_secs(seconds));

/// The traits of a kind.
#[must_use]
pub fn traits(kind: &StepKind) -> Traits {
    let ordinary = Traits {
        timeout: SECONDS(600),
        intent_first: false,
        put_back_on_failure: false,
        contains: false,
        can_be_undone: true,
        carries_mark: true,
    };
    let stays = Traits { can_be_undone: false, carries_mark: false, ..ordinary };
    match kind {
        StepKind::Quarantine(_) => Traits { timeout: SECONDS(3600), contains: true, ..ordinary },
        StepKind::DenyImage(_) => Traits { contains: true, ..ordinary },
        StepKind::Rollback(_) | StepKind::SetImage(_) => Traits { put_back_on_failure: true, ..ordinary },
        StepKind::SeverConnections(sever) => {
            let pauses = sever.by == SeverBy::Pause;
            Traits { can_be_undone: pauses, carries_mark: pauses, ..ordinary }
        }
        // What it takes away, and what it deletes, is recorded by a first try that changes nothing.
        StepKind::RevokeAccess(_) => Traits { carries_mark: false, ..ordinary },
        StepKind::Rebuild(_) => Traits { timeout: SECONDS(3600), intent_first: true, ..stays },
        StepKind::Notify(_) => Traits { timeout: SECONDS(60), intent_first: true, ..stays },
        StepKind::Wait(_) => Traits { timeout: None, ..stays },
    }
}
