//! `kubectl quell doctor` on a real network, to its end and interrupted.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::process::Command;

use super::expected::doctor_says;
use super::probed::Claim;
use crate::node::QUELL_IMAGE;
use crate::{Node, wait};

/// The first argument by which a binary of the tests is kubectl's plugin.
pub const PLUGIN: &str = "kubectl-quell";
const LABEL: &str = "quell.dev/doctor";

/// Asks it, and looks whether it leaves anything.
pub async fn ask(node: &Node, binary: &Path) -> Result<Vec<Claim>> {
    println!("kubectl quell doctor");
    let output = command(node, binary).output().await.context("can't run the doctor")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in said.lines() {
        println!("  {line}");
    }
    let (parts, well) = doctor_says(node.plugin());
    let mut claims: Vec<Claim> = parts
        .iter()
        .map(|part| Claim { what: format!("the doctor says: {part}"), holds: said.contains(part) })
        .collect();
    let ended = output.status.code();
    claims.push(Claim { what: format!("the doctor ends with {ended:?}"), holds: ended == Some(i32::from(!well)) });
    claims.push(leaves_nothing(node, "the doctor").await?);

    let mut interrupted = command(node, binary).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let client = node.control_plane().client().await?;
    wait::eventually(wait::DEADLINE, "the doctor's pods are there", async || {
        let pods: Api<Pod> = Api::all(client.clone());
        Ok((pods.list(&ListParams::default().labels(LABEL)).await?.items.len() == 2).then_some(()))
    })
    .await?;
    let id = interrupted.id().context("the doctor has ended")?;
    let killed = Command::new("kill").args(["-INT", &id.to_string()]).status().await?;
    ensure!(killed.success(), "can't interrupt the doctor");
    let status = interrupted.wait().await?;
    claims.push(Claim { what: format!("interrupted, it ends in order: {status}"), holds: status.code() == Some(1) });
    claims.push(leaves_nothing(node, "the doctor that was interrupted").await?);
    Ok(claims)
}

fn command(node: &Node, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .args([PLUGIN, "doctor", "--image", QUELL_IMAGE, "--kubeconfig"])
        .arg(node.control_plane().kubeconfig_path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn leaves_nothing(node: &Node, who: &str) -> Result<Claim> {
    let client: Client = node.control_plane().client().await?;
    let all: Api<Namespace> = Api::all(client);
    let gone = wait::eventually(wait::DEADLINE, "the doctor's namespace is gone", async || {
        Ok(all.list(&ListParams::default().labels(LABEL)).await?.items.is_empty().then_some(()))
    });
    Ok(Claim { what: format!("{who} leaves no namespace"), holds: gone.await.is_ok() })
}
