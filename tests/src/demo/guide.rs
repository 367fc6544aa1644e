//! For whoever looks around afterwards.

use anyhow::{Context as _, Result, bail};

use super::Told;
use super::screen::Screen;
use super::shop::NAMESPACE;
use super::stage::Stage;
use crate::Tool;
use crate::operator::TOKEN;

/// What kubectl shows.
pub async fn show(screen: Screen, stage: &Stage) -> Result<()> {
    screen.heading("What kubectl shows");
    for command in ["get findings -A", "get remediations -A"] {
        let output =
            stage.control_plane.kubectl()?.args(command.split(' ')).output().await.context("can't run kubectl")?;
        if !output.status.success() {
            bail!("kubectl {command} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        screen.transcript(&format!("kubectl {command}"), &String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// What to try next.
pub fn invite(screen: Screen, stage: &Stage, told: &Told) -> Result<()> {
    let folder = stage.control_plane.dir();
    let alert = folder.join("falco-alert.json");
    std::fs::write(&alert, told.alert.to_string()).context("can't write the alert to a file")?;
    screen.heading("It stays up until Ctrl-C. Look around, in another terminal");
    screen.line(&format!("  export KUBECONFIG={}", stage.control_plane.kubeconfig_path().display()));
    if !is_in_path("kubectl")
        && let Some(folder) = stage.control_plane.binaries().path(Tool::Kubectl)?.parent()
    {
        screen.line(&format!("  export PATH=\"$PATH:{}\"", folder.display()));
    }
    let Told { breach, vulnerable, .. } = told;
    for line in [
        format!("kubectl describe finding -n {NAMESPACE} {breach}"),
        format!("kubectl get pods,networkpolicies,jobs -n {NAMESPACE} --show-labels"),
        format!("cargo run -q -p quell-cli -- explain -n {NAMESPACE} {breach}"),
        format!("cargo run -q -p quell-cli -- explain -n {NAMESPACE} {vulnerable}"),
        format!("cargo run -q -p quell-cli -- undo -n {NAMESPACE} {breach}"),
    ] {
        screen.line(&format!("  {line}"));
    }
    screen.line("");
    screen.line("  With kubectl-quell in your PATH the last three begin with `kubectl quell`. The same alert once more, which raises a count:");
    screen.line(&format!(
        "  curl -sS -H 'Authorization: Bearer {TOKEN}' --data-binary @{} {}/v1/sources/falco",
        alert.display(),
        stage.operator.url()
    ));
    Ok(())
}

fn is_in_path(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}
