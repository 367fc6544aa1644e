//! `stop` and `go`: the stop switch.

use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use quell_crds::v1alpha1::{Guardrail, GuardrailSpec, LastReadyReplica};
use serde_json::json;

use crate::client::{Connection, ask, list};
use crate::flags::{Connect, Stop};
use crate::{CliError, Exit, Io};

/// The Guardrail that `stop` turns.
const NAME: &str = "stop";
const FIELD_MANAGER: &str = "quell/kubectl";

/// Turns the stop switch on.
pub async fn stop(of: &Stop, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let api: Api<Guardrail> = Api::all(connection.client.clone());
    let spec = GuardrailSpec {
        stop: true,
        stop_reason: of.reason.clone(),
        // It is a switch, and no more.
        last_ready_replica: LastReadyReplica::Allow,
        ..GuardrailSpec::default()
    };
    let create = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = api.create(&create, &Guardrail::new(NAME, spec)).await;
    match created {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let patch = json!({ "spec": { "stop": true, "stopReason": of.reason } });
            ask("turning the stop switch on", api.patch(NAME, &parameters(), &Patch::Merge(patch))).await?;
        }
        other => {
            ask("turning the stop switch on", async { other }).await?;
        }
    }
    writeln!(io.out, "guardrail/{NAME}: stop is on: Quell makes no effect anywhere until `kubectl quell go`")?;
    writeln!(
        io.out,
        "signals are taken in and people are told still; what was done can be undone with `kubectl quell undo`"
    )?;
    Ok(Exit::Ok)
}

/// Turns every stop switch off.
pub async fn go(connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let api: Api<Guardrail> = Api::all(connection.client.clone());
    let on: Vec<Guardrail> =
        list(&api, &ListParams::default()).await?.into_iter().filter(|guardrail| guardrail.spec.stop).collect();
    if on.is_empty() {
        writeln!(io.out, "no stop switch is on")?;
    }
    for guardrail in on {
        let name = guardrail.name_any();
        let patch = json!({ "spec": { "stop": false, "stopReason": null } });
        ask(
            format!("turning the stop switch of Guardrail {name} off"),
            api.patch(&name, &parameters(), &Patch::Merge(patch)),
        )
        .await?;
        writeln!(io.out, "guardrail/{name}: stop is off: runs that it held go on")?;
    }
    Ok(Exit::Ok)
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
