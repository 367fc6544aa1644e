//! What has been started ends with its owner, even with one that is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quell_tests::wait::eventually;
use quell_tests::{ControlPlane, Options};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

#[tokio::test]
async fn a_killed_owner_leaves_nothing_behind() -> Result<()> {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(owner.stdout.take().context("no output")?).lines();
    let kubeconfig = PathBuf::from(lines.next_line().await?.context("the control plane did not start")?);
    let folder = kubeconfig.parent().context("no folder")?.to_owned();
    ensure!(folder.join("etcd").is_dir(), "{} is not the folder of a control plane", folder.display());

    owner.start_kill()?;
    owner.wait().await?;
    gone(&folder).await
}

#[tokio::test]
async fn two_control_planes_run_at_once_and_stop_without_a_trace() -> Result<()> {
    let options = || Options { nodes: 1, audit: true, ..Options::default() };
    let (one, two) = tokio::try_join!(ControlPlane::start(options()), ControlPlane::start(options()))?;
    let folders = [one.dir().to_owned(), two.dir().to_owned()];
    assert_ne!(folders[0], folders[1]);
    for cluster in [&one, &two] {
        cluster.check()?;
        assert_eq!(cluster.processes().len(), 5);
        assert!(std::fs::metadata(cluster.audit_log())?.len() > 0);
    }
    one.stop().await?;
    // Its neighbour does not notice.
    two.client().await?.apiserver_version().await?;
    drop(two);
    for folder in &folders {
        ensure!(!folder.exists(), "{} is still there", folder.display());
        gone(folder).await?;
    }
    Ok(())
}

/// The components name the folder in their flags, so no process that still runs may.
async fn gone(folder: &Path) -> Result<()> {
    eventually(Duration::from_secs(20), "the folder and its processes are gone", async || {
        let processes = Command::new("ps").args(["-A", "-o", "pid=,stat=,args="]).output().await?;
        let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
        let name = folder.display().to_string();
        let left: Vec<_> = processes.lines().filter(|line| line.contains(&name)).collect();
        ensure!(left.is_empty(), "still running: {left:#?}");
        ensure!(!folder.exists(), "{name} is still there");
        Ok(Some(()))
    })
    .await
}
