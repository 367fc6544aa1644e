//! `pause`, `resume`, `cancel`: what runs that are under way are asked for.

use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use quell_crds::v1alpha1::{Intent, Phase, Remediation};
use serde_json::json;

use crate::client::{Connection, ask};
use crate::find::Named;
use crate::flags::{Connect, Steer};
use crate::{CliError, Exit, Io, find, objects};

/// Who asked for it, in the object's managed fields.
pub const FIELD_MANAGER: &str = "quell/kubectl";

pub async fn run(of: &Steer, intent: Intent, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let runs = match find::parse(&of.what)? {
        Named::Remediation(name) => vec![find::remediation(&connection, &name).await?],
        Named::Finding(name) => {
            let finding = find::finding(&connection, &name).await?;
            find::runs(&connection, &finding).await?
        }
    };
    let (mut asked, mut exit) = (0, Exit::Ok);
    for run in &runs {
        let name = format!("remediation/{}", run.name_any());
        if let Some(why) = refusal(run, intent) {
            writeln!(io.out, "{name}: {why}")?;
            exit = Exit::Failed;
            continue;
        }
        ask_for(&connection, run, intent).await?;
        writeln!(io.out, "{name}: {}", told(run, intent))?;
        asked += 1;
    }
    if runs.is_empty() {
        writeln!(io.out, "there is no run for {}", of.what)?;
        return Ok(Exit::Failed);
    }
    // Of several runs, those that are over already are none that was meant.
    Ok(if asked > 0 { Exit::Ok } else { exit })
}

/// Why it makes no sense to ask the run for that.
fn refusal(run: &Remediation, intent: Intent) -> Option<String> {
    let phase = objects::status(run).phase;
    match (phase, run.spec.intent, intent) {
        (phase, _, _) if phase.is_final() => Some(format!("is over already: {phase}")),
        (Phase::Undoing, _, _) | (_, Intent::Undo, _) => Some("is being undone, which goes on to its end".to_owned()),
        (Phase::Finishing, _, _) => Some("is over but for the steps of finally, which are done in any case".to_owned()),
        (_, Intent::Cancel, Intent::Pause | Intent::Run) => Some("was cancelled".to_owned()),
        (_, before, now) if before == now && now == Intent::Run => Some("is not paused".to_owned()),
        (_, before, now) if before == now => Some("was asked for that already".to_owned()),
        _ => None,
    }
}

fn told(run: &Remediation, intent: Intent) -> String {
    let status = objects::status(run);
    let under_way = match status.current_step.as_str() {
        "" => String::new(),
        steps => format!(" once {steps} is over"),
    };
    match intent {
        Intent::Pause => format!("pauses{under_way}; kubectl quell resume goes on with it"),
        Intent::Run => "goes on".to_owned(),
        Intent::Cancel => "stops; what was done stays, and kubectl quell undo takes it back".to_owned(),
        Intent::Undo => "undo was asked for".to_owned(),
    }
}

/// Sets the intent of a run.
pub async fn ask_for(connection: &Connection, run: &Remediation, intent: Intent) -> Result<Remediation, CliError> {
    patch(
        connection,
        run,
        json!({ "spec": { "intent": intent } }),
        &format!("asking {} for {intent:?}", run.name_any()),
    )
    .await
}

/// Changes what a run is asked for.
pub async fn patch(
    connection: &Connection,
    run: &Remediation,
    patch: serde_json::Value,
    doing: &str,
) -> Result<Remediation, CliError> {
    let api: Api<Remediation> = Api::namespaced(connection.client.clone(), &run.namespace().unwrap_or_default());
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    ask(doing.to_owned(), api.patch(&run.name_any(), &parameters, &Patch::Merge(patch))).await
}
