//! What the steps of a playbook do to a cluster: one file for each kind, with its effect, its least rights and its inverse.
//!
//! An action is idempotent: done again for the same run and step it finds its own mark and changes nothing. Its effect carries, in the
//! same request, which run made it and what was there before. Waiting is a value, not an error.

pub mod cluster;
pub mod context;
mod deny_image;
pub mod error;
pub mod exposure;
mod jobs;
pub mod mark;
mod notify;
pub mod pods;
pub mod quarantine;
mod raw;
mod rebuild;
pub mod rehearse;
mod revoke_access;
pub mod rights;
mod rollback;
mod secrets;
mod set_image;
mod sever_connections;
mod wait;
mod workloads;
pub mod write;

pub use cluster::{Cluster, Mesh, Probing, Severing, StandingPolicies, Stands};
pub use context::Context;
pub use error::ActionError;
pub use mark::Mark;
pub use rights::Right;
pub use write::{Gate, Write, Writer};

use std::collections::BTreeMap;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Receipt, StepKind, step};
use quell_playbooks::{Outcome, Recovery, UndoOutcome};

/// How far an action has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Whether it is done, or waits; see [`Outcome::Pending`] for what the duration means.
    pub state: State,
    /// What was done or is waited for, for people.
    pub message: String,
    /// What it hands to later steps.
    pub outputs: BTreeMap<String, String>,
    /// What was changed, and what was there before.
    pub receipt: Option<Receipt>,
}

/// Whether an action is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Done,
    /// Something that it has marked will change, and wakes it.
    UntilChange,
    /// It wants to look again after this time.
    Again(std::time::Duration),
}

impl Progress {
    /// Done, with nothing to hand on.
    #[must_use]
    pub fn done(message: impl Into<String>, receipt: Option<Receipt>) -> Self {
        Self { state: State::Done, message: message.into(), outputs: BTreeMap::new(), receipt }
    }

    /// Waits.
    #[must_use]
    pub fn pending(state: State, message: impl Into<String>, receipt: Option<Receipt>) -> Self {
        Self { state, message: message.into(), outputs: BTreeMap::new(), receipt }
    }

    /// The same, with outputs.
    #[must_use]
    pub fn with_outputs(mut self, outputs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.outputs.extend(outputs);
        self
    }
}

impl From<Progress> for Outcome {
    fn from(progress: Progress) -> Self {
        let Progress { state, message, outputs, receipt } = progress;
        match state {
            State::Done => Self::Done { message, outputs, receipt },
            State::UntilChange => Self::Pending { message, outputs, receipt, look_again: None },
            State::Again(wait) => Self::Pending { message, outputs, receipt, look_again: Some(wait) },
        }
    }
}

/// Does a step, or looks how it stands. `kind` has its parameters filled in.
pub async fn perform(kind: &StepKind, cx: &Context<'_>) -> Outcome {
    let done = match kind {
        StepKind::Quarantine(parameters) => quarantine::perform(parameters, cx).await,
        StepKind::DenyImage(parameters) => deny_image::perform(parameters, cx).await,
        StepKind::Rollback(parameters) => rollback::perform(parameters, cx).await,
        StepKind::Rebuild(parameters) => rebuild::perform(parameters, cx).await,
        StepKind::SetImage(parameters) => set_image::perform(parameters, cx).await,
        StepKind::SeverConnections(parameters) => Box::pin(sever_connections::perform(parameters, cx)).await,
        StepKind::RevokeAccess(parameters) => Box::pin(revoke_access::perform(parameters, cx)).await,
        StepKind::Notify(parameters) => notify::perform(parameters, cx).await,
        StepKind::Wait(parameters) => Ok(wait::perform(parameters, cx)),
    };
    match done {
        Ok(progress) => progress.into(),
        Err(error) => {
            let (reason, message, transient) = (error.reason(), error.to_string(), error.is_transient());
            let (outputs, receipt) = error.into_remains();
            Outcome::Failed { reason, message, transient, outputs, receipt }
        }
    }
}

/// Looks for an effect of this very run and step that was made and not recorded, by the mark that it carries. Reads only.
pub async fn recover(kind: &StepKind, cx: &Context<'_>) -> Recovery {
    let found = match kind {
        StepKind::Quarantine(parameters) => quarantine::recover(parameters, cx).await,
        StepKind::DenyImage(_) => deny_image::recover(cx).await,
        StepKind::Rollback(_) => rollback::recover(cx).await,
        StepKind::SetImage(_) => set_image::recover(cx).await,
        StepKind::SeverConnections(step::SeverConnections { by: step::SeverBy::Pause }) => {
            sever_connections::recover(cx).await
        }
        // What they intend is recorded first, or there is nothing to put back.
        StepKind::SeverConnections(_)
        | StepKind::RevokeAccess(_)
        | StepKind::Rebuild(_)
        | StepKind::Notify(_)
        | StepKind::Wait(_) => Ok(None),
    };
    match found {
        Ok(Some(receipt)) => Recovery::Found(receipt),
        Ok(None) => Recovery::Nothing,
        Err(error) => match error.reason() {
            // What isn't there, or can't be acted on, carries no mark.
            Reason::TargetNotFound | Reason::TargetReplaced | Reason::TargetUnsupported => Recovery::Nothing,
            reason if error.is_transient() => Recovery::TryAgain { reason, message: error.to_string() },
            reason => Recovery::Unknown { reason, message: error.to_string() },
        },
    }
}

/// Undoes a step, from the record's receipt.
pub async fn undo(kind: &StepKind, receipt: &Receipt, cx: &Context<'_>) -> UndoOutcome {
    let undone = match kind {
        StepKind::Quarantine(_) => quarantine::undo(receipt, cx).await,
        StepKind::DenyImage(_) => deny_image::undo(receipt, cx).await,
        StepKind::Rollback(_) => rollback::undo(receipt, cx).await,
        StepKind::SetImage(_) => set_image::undo(receipt, cx).await,
        StepKind::SeverConnections(step::SeverConnections { by: step::SeverBy::Pause }) => {
            Box::pin(sever_connections::undo(receipt, cx)).await
        }
        StepKind::SeverConnections(_) => {
            return UndoOutcome::LeftAlone {
                reason: Reason::NothingToUndo,
                message: "what was severed stays so: connections are made anew by their ends once nothing forbids them"
                    .into(),
            };
        }
        StepKind::RevokeAccess(_) => Box::pin(revoke_access::undo(receipt, cx)).await,
        StepKind::Rebuild(_) | StepKind::Notify(_) | StepKind::Wait(_) => {
            return UndoOutcome::LeftAlone {
                reason: Reason::NothingToUndo,
                message: format!("{} has nothing that could be undone", kind.name()),
            };
        }
    };
    match undone {
        Ok(message) => UndoOutcome::Undone { message },
        Err(error) if error.is_transient() => {
            UndoOutcome::TryAgain { reason: error.reason(), message: error.to_string() }
        }
        Err(error) => UndoOutcome::LeftAlone { reason: error.reason(), message: error.to_string() },
    }
}
