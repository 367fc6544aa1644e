//! `severConnections`, by the step's own Job on a real kubelet.

use anyhow::{Result, bail, ensure};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::v1alpha1::{Finding, Phase, Remediation};
use serde_json::json;

use super::now;
use super::world::World;
use crate::wait;

/// What the step did.
#[derive(Clone, Debug)]
pub struct Severed {
    /// When its Finding was created.
    pub asked: i64,
    /// When its run was seen to have succeeded.
    pub done: i64,
    /// What it says.
    pub message: String,
    /// Entries of connection tracking that its Job deleted.
    pub deleted: usize,
}

/// Reports the quarantined pod to the playbook that severs, and waits until that is done.
pub async fn sever(world: &World) -> Result<Severed> {
    let pod = &world.victim;
    let spec = serde_json::from_value(json!({
        "source": "packets", "rule": "Sever", "severity": "High", "category": "Runtime", "message": "sever",
        "fingerprint": "packets-sever",
        "target": {"kind": "Pod", "apiVersion": "v1", "namespace": world.shop.name(), "name": pod.name_any(), "uid": pod.uid()},
    }))?;
    let asked = now();
    world.shop.create_object(&Finding::new("packets-sever", spec)).await?;
    let runs: Api<Remediation> = world.shop.api();
    let of_finding = ListParams::default().fields("spec.finding.name=packets-sever");
    let run = wait::eventually(wait::DEADLINE, "connections are severed", async || {
        let run = runs.list(&of_finding).await?.items.pop();
        let phase = run.as_ref().and_then(|run| run.status.as_ref()).map(|status| status.phase);
        match phase {
            Some(Phase::Succeeded | Phase::Failed) => Ok(run),
            _ => bail!("{:?}", run.and_then(|run| run.status)),
        }
    })
    .await?;
    let done = now();
    let step = run.status.and_then(|status| status.steps.into_iter().next()).unwrap_or_default();
    ensure!(step.state.to_string() == "Succeeded", "severConnections failed: {}: {}", step.reason, step.message);
    let deleted = step.outputs.get("deleted").and_then(|count| count.parse().ok()).unwrap_or_default();
    Ok(Severed { asked, done, message: step.message, deleted })
}
