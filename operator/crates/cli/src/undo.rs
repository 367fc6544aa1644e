//! `undo`: asks for the undo of runs, and tells how it goes.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use quell_crds::conditions::{ConditionType, find as condition};
use quell_crds::v1alpha1::{Intent, Phase, Remediation, StepRecord, StepState};
use quell_playbooks::kind::traits;
use serde_json::json;
use tokio::time::Instant;

use crate::client::Connection;
use crate::find::Named;
use crate::flags::{Connect, Undo};
use crate::text::one_line;
use crate::{CliError, Exit, Io, find, objects, steer};

pub async fn run(of: &Undo, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    if !of.step.is_empty() {
        return steps(of, &connection, io).await;
    }
    let runs = match find::parse(&of.what)? {
        Named::Remediation(name) => vec![find::remediation(&connection, &name).await?],
        Named::Finding(name) => {
            let finding = find::finding(&connection, &name).await?;
            let mut runs = find::runs(&connection, &finding).await?;
            if runs.is_empty() {
                writeln!(io.out, "nothing was done about {}: there is no run to undo", finding.name_any())?;
                return Ok(Exit::Ok);
            }
            // What was done last is undone first.
            runs.reverse();
            runs
        }
    };
    // Asked for together: a run that waits doesn't keep the others from beginning.
    let mut asked = Vec::new();
    for run in runs {
        let asked_before = run.spec.intent == Intent::Undo;
        if asked_before && is_over(&run, run.metadata.generation) {
            asked.push((run, true));
            continue;
        }
        let name = format!("remediation/{}", run.name_any());
        let run = if asked_before { run } else { steer::ask_for(&connection, &run, Intent::Undo).await? };
        let told = if asked_before { "is being undone already" } else { "undo was asked for" };
        writeln!(io.out, "{name}: {told}")?;
        asked.push((run, false));
    }
    let deadline = Instant::now() + of.timeout;
    let mut exit = Exit::Ok;
    for (run, over) in asked {
        if over {
            exit = worse(exit, ended(&run, true, io)?);
        } else if !of.no_wait {
            exit = worse(exit, follow(&connection, &run, deadline, of.timeout, io).await?);
        }
    }
    io.out.flush()?;
    Ok(exit)
}

/// Undoes single steps of one run.
async fn steps(of: &Undo, connection: &Connection, io: &mut Io) -> Result<Exit, CliError> {
    let Named::Remediation(name) = find::parse(&of.what)? else {
        let message =
            format!("--step is for one run: remediation/NAME; kubectl quell explain {} names the runs", of.what);
        return Err(CliError::Usage(message));
    };
    let run = find::remediation(connection, &name).await?;
    let names: Vec<&str> = run.spec.steps.iter().map(|step| step.name.as_str()).collect();
    if let Some(unknown) = of.step.iter().find(|step| !names.contains(&step.as_str())) {
        let message = format!("remediation/{name} has no step {unknown}; it has {}", names.join(", "));
        return Err(CliError::NotFound(message));
    }
    let mut wanted = run.spec.undo_steps.clone();
    wanted.extend(of.step.iter().filter(|step| !run.spec.undo_steps.contains(step)).cloned());
    wanted.dedup();
    let doing = format!("asking for the undo of {} of {name}", of.step.join(", "));
    let patch = json!({ "metadata": { "resourceVersion": run.resource_version() }, "spec": { "undoSteps": wanted } });
    let run = steer::patch(connection, &run, patch, &doing).await?;
    writeln!(io.out, "remediation/{name}: undo of {} was asked for", of.step.join(", "))?;
    if of.no_wait {
        return Ok(Exit::Ok);
    }
    let deadline = Instant::now() + of.timeout;
    let mut stream = std::pin::pin!(watcher::watch_object(api(connection, &run), &name).default_backoff());
    loop {
        let Ok(seen) = tokio::time::timeout_at(deadline, stream.next()).await else {
            let told = format!(
                "remediation/{name}: {} is not undone within {} s; follow it with kubectl quell watch",
                of.step.join(", "),
                of.timeout.as_secs()
            );
            return Err(CliError::Refused(told));
        };
        let seen = match seen {
            Some(Ok(Some(seen))) => seen,
            Some(Ok(None)) | None => return Err(CliError::Refused(format!("remediation/{name} was deleted"))),
            Some(Err(_)) => continue,
        };
        let status = objects::status(&seen);
        if status.observed_generation < run.metadata.generation {
            continue;
        }
        let meant: Vec<_> = status.steps.iter().filter(|record| of.step.contains(&record.name)).collect();
        // What changed nothing, or never began, has nothing to be undone.
        let over = |record: &&StepRecord| record.state.is_final() && !has_to_be_undone(&run, record);
        if meant.iter().all(over) {
            for record in &meant {
                let told = match record.state {
                    StepState::Undone | StepState::NotUndone => became(record),
                    _ => format!("{}: left as it is: it changed nothing that could be undone", record.name),
                };
                writeln!(io.out, "  {told}")?;
            }
            let left = meant.iter().any(|record| record.state == StepState::NotUndone);
            return Ok(if left { Exit::Failed } else { Exit::Ok });
        }
    }
}

fn has_to_be_undone(run: &Remediation, record: &StepRecord) -> bool {
    let kind = run.spec.steps.iter().find(|step| step.name == record.name).map(|step| &step.kind);
    let can_be = kind.is_some_and(|kind| traits(kind).can_be_undone);
    let ended = matches!(record.state, StepState::Succeeded | StepState::Failed | StepState::Cancelled);
    can_be && ended && record.receipt.is_some()
}

fn worse(a: Exit, b: Exit) -> Exit {
    if a == Exit::Ok { b } else { a }
}

fn api(connection: &Connection, run: &Remediation) -> Api<Remediation> {
    Api::namespaced(connection.client.clone(), &run.namespace().unwrap_or_default())
}

/// Whether the run, as asked for by that generation, has come to its end: a phase from before says nothing.
fn is_over(run: &Remediation, generation: Option<i64>) -> bool {
    let status = objects::status(run);
    let seen = status.observed_generation >= generation && run.spec.intent == Intent::Undo;
    seen && matches!(status.phase, Phase::Undone | Phase::Failed)
}

/// Tells what becomes of each step, until the run is undone.
async fn follow(
    connection: &Connection,
    run: &Remediation,
    deadline: Instant,
    timeout: Duration,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let name = run.name_any();
    let mut told: HashMap<String, StepState> =
        objects::status(run).steps.into_iter().map(|record| (record.name, record.state)).collect();
    let mut last = run.clone();
    let mut stream = std::pin::pin!(watcher::watch_object(api(connection, run), &name).default_backoff());
    loop {
        let Ok(seen) = tokio::time::timeout_at(deadline, stream.next()).await else {
            let status = objects::status(&last);
            let waits = if status.observed_generation >= run.metadata.generation && !status.current_step.is_empty() {
                format!("still undoes {}; follow it with kubectl quell watch", status.current_step)
            } else {
                "Quell has not taken it up; is it running? It will do so when it is".to_owned()
            };
            return Err(CliError::Refused(format!(
                "remediation/{name} is not undone within {} s: {waits}",
                timeout.as_secs()
            )));
        };
        match seen {
            Some(Ok(Some(seen))) => last = seen,
            Some(Ok(None)) => {
                return Err(CliError::Refused(format!("remediation/{name} was deleted while it was undone")));
            }
            // The watch begins anew by itself; the deadline bounds it.
            Some(Err(_)) => continue,
            None => return Err(CliError::Refused(format!("remediation/{name} can't be watched any more"))),
        }
        for record in objects::status(&last).steps {
            let news = told.insert(record.name.clone(), record.state) != Some(record.state);
            if news && matches!(record.state, StepState::Undoing | StepState::Undone | StepState::NotUndone) {
                writeln!(io.out, "  {}", became(&record))?;
                io.out.flush()?;
            }
        }
        if is_over(&last, run.metadata.generation) {
            return ended(&last, false, io);
        }
    }
}

/// `contain: undone: pod shop/web-1 has its labels back`.
fn became(record: &StepRecord) -> String {
    let message = one_line(&record.message);
    match record.state {
        StepState::NotUndone => format!("{}: left alone, {}: {message}", record.name, record.reason),
        state => format!("{}: {}: {message}", record.name, objects::spoken(state)),
    }
}

/// What was undone, and what was left alone and why.
fn ended(run: &Remediation, before: bool, io: &mut Io) -> Result<Exit, CliError> {
    let status = objects::status(run);
    let complete = condition(&status.conditions, ConditionType::Complete);
    let message = complete.map_or_else(String::new, |complete| format!(": {}", one_line(&complete.message)));
    let left: Vec<_> = status.steps.iter().filter(|record| record.state == StepState::NotUndone).collect();
    let name = format!("remediation/{}", run.name_any());
    match (before, left.is_empty()) {
        (true, true) => writeln!(io.out, "{name} was undone already{message}")?,
        (true, false) => writeln!(io.out, "{name} was undone already, as far as it could be{message}")?,
        (false, true) => writeln!(io.out, "{name} is undone{message}")?,
        (false, false) => writeln!(io.out, "{name} is undone only in part{message}")?,
    }
    for record in &status.steps {
        let kind = objects::kind_of(run, record);
        match record.state {
            // Told as it happened, where it happened now.
            StepState::Undone | StepState::NotUndone if before => writeln!(io.out, "  {}", became(record))?,
            StepState::Succeeded => {
                writeln!(io.out, "  {} ({kind}): left as it is: it changed nothing that could be undone", record.name)?;
            }
            _ => {}
        }
    }
    Ok(if left.is_empty() { Exit::Ok } else { Exit::Failed })
}
