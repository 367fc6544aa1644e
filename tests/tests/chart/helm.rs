//! Helm, run as people run it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use quell_tests::{Binaries, ControlPlane, Options, Tool};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::process::Command;

/// The chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/quell")
}

/// A control plane with Helm at hand, and an audit log. Charts change what a whole cluster shares, so each test has one of its own.
pub async fn cluster() -> Result<ControlPlane> {
    ControlPlane::start(Options { audit: true, tools: vec![Tool::Helm], nodes: 3, ..Options::default() }).await
}

/// What Helm said; an error where it refused.
pub async fn helm(cluster: &ControlPlane, arguments: &[&str]) -> Result<String> {
    // What Helm keeps of repositories and plugins is not the user's.
    let home = cluster.dir().join("helm");
    let mut command = cluster.command(Tool::Helm)?;
    command.env("HELM_CACHE_HOME", &home).env("HELM_CONFIG_HOME", &home).env("HELM_DATA_HOME", &home);
    said(command.args(arguments)).await
}

/// The chart as text, with these settings, without a cluster.
pub async fn template(settings: &[&str]) -> Result<String> {
    let binaries = Binaries::ensure(&[Tool::Helm]).await?;
    let mut command = Command::new(binaries.path(Tool::Helm)?);
    // Helm assumes an old cluster where it has none.
    command.args(["template", "quell", "--namespace", "quell", "--kube-version", "1.36.3"]).arg(chart()).args(settings);
    said(&mut command).await
}

/// kubectl, fed with a text.
pub async fn kubectl(cluster: &ControlPlane, arguments: &[&str], input: &str) -> Result<String> {
    let file = cluster.dir().join("kubectl-input.yaml");
    std::fs::write(&file, input)?;
    let mut command = cluster.kubectl()?;
    command.args(arguments).stdin(std::fs::File::open(&file)?);
    said(&mut command).await
}

async fn said(command: &mut Command) -> Result<String> {
    let output = command.output().await.context("can't start a program")?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{error}{out}");
    }
    Ok(out.into_owned())
}

/// The objects in a text.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in text.split("\n---") {
        let document = document.trim_start_matches("---");
        if document.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        let object: Value = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
        objects.push(Value::deserialize(object)?);
    }
    Ok(objects)
}

/// The object of that kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = objects.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.with_context(|| format!("the chart makes no {kind} {name}"))
}
