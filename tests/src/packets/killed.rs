//! What is left of a node whose owner was killed: nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::wait;

/// What the line with the paths begins with.
pub const LEAVES: &str = "there while it runs: ";

/// Has `binary` boot a node, kills it, and waits until all that the node was is gone.
pub async fn leaves_nothing(binary: &Path) -> Result<()> {
    let mut owner = Command::new(binary)
        .args(["--stay", "--plugin", "none"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("can't start a node's owner")?;
    let mut lines = BufReader::new(owner.stdout.take().context("it has no output")?).lines();
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(list) = line.strip_prefix(LEAVES) {
            paths = serde_json::from_str(list).context("it says no list")?;
        }
        if line.starts_with("export ") {
            break;
        }
    }
    ensure!(!paths.is_empty() && paths.iter().all(|path| path.exists()), "a node wasn't as it said: {paths:?}");
    owner.start_kill()?;
    let began = Instant::now();
    wait::eventually(Duration::from_secs(10), "a killed node is gone", async || {
        let left: Vec<_> = paths.iter().filter(|path| path.exists()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await?;
    println!("a node whose owner is killed is gone after {:.1?}: {} paths", began.elapsed(), paths.len());
    Ok(())
}
