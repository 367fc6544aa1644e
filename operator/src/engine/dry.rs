//! A dry run: the whole run at once, as the playbook's own identity, with every write as a server-side dry run. Its record is all that stays.

use chrono::Utc;
use kube::ResourceExt as _;
use quell_actions::Write;
use quell_actions::rehearse::{End, Rehearsal, Told, difference};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Phase, RehearsedWrite, Remediation, RemediationStatus, StepState};
use quell_playbooks::plan::Decision;
use quell_playbooks::{apply, progress};

use crate::engine::{Engine, EngineError, Live, run};

/// As many as the schema takes.
const MOST_WRITES: usize = 32;
/// Longest difference of one write, and of all writes of a run together, in bytes: an object holds at most 1.5 MiB.
const LONGEST: usize = 4000;
const LONGEST_TOGETHER: usize = 300_000;

/// Rehearses the run, and gives back its record.
pub(super) async fn rehearse(
    engine: &Engine,
    live: &mut Live,
    run: &Remediation,
    mut status: RemediationStatus,
) -> Result<RemediationStatus, EngineError> {
    let world = run::observe(engine, live, run);
    let client = engine.client_of(run)?;
    let steps = live.steps.clone();
    let name = run.name_any();
    let rehearsal = Rehearsal {
        playbook: &run.spec.playbook,
        steps: &steps,
        settings: &run.spec.settings,
        world: &world,
        cluster: &*engine.caches,
        client: &client,
        borrowed: false,
        courier: &engine.courier,
        run: &name,
        now: Utc::now(),
    };
    let told = {
        let _pass = engine.lanes.effect().await;
        rehearsal.run().await
    };
    let mut room = LONGEST_TOGETHER;
    let (mut writes, mut failed) = (0, Vec::new());
    for one in told {
        writes += one.writes.len();
        if let End::Failed(reason, message) = &one.end {
            failed.push(format!("{} would fail ({reason}): {message}", steps[one.step].step.name));
        }
        record(&mut status, one, &mut room);
    }
    let (phase, reason, message) = if failed.is_empty() {
        let message = format!("dry run: {writes} writes and messages; nothing was changed");
        (Phase::Succeeded, Reason::DryRun, message)
    } else {
        (Phase::Failed, Reason::DryRun, format!("dry run: {}; nothing was changed", failed.join("; ")))
    };
    apply(&mut status, &steps, &Decision::Enter { phase, reason, message }, Utc::now());
    Ok(status)
}

fn record(status: &mut RemediationStatus, told: Told, room: &mut usize) {
    let Some(record) = status.steps.get_mut(told.step) else { return };
    let now = Utc::now();
    record.started_at.get_or_insert(now);
    let (state, reason, message) = match told.end {
        End::Done(message) | End::Unknown(message) | End::NotRehearsed(message) => {
            (StepState::Succeeded, Reason::DryRun, format!("would be done: {message}"))
        }
        End::Skipped(reason, message) => (StepState::Skipped, reason, message),
        End::Failed(reason, message) => (StepState::Failed, reason, message),
        End::Undone => {
            (StepState::Skipped, Reason::DryRun, "would be undone again: a later step would fail".to_owned())
        }
    };
    progress::end(record, state, reason, &message, now);
    for write in told.writes {
        if record.writes.len() < MOST_WRITES {
            let write = kept(&write, (*room).min(LONGEST));
            *room -= write.difference.len().min(*room);
            record.writes.push(write);
        }
    }
}

fn kept(write: &Write, room: usize) -> RehearsedWrite {
    RehearsedWrite {
        verb: write.verb.to_owned(),
        object: cut(&write.object, 599),
        difference: cut(&difference(write), room),
    }
}

fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let end = (0..=longest).rev().find(|&i| text.is_char_boundary(i)).unwrap_or_default();
    format!("{}…", &text[..end])
}
