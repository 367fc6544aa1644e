//! Attempts to connect, made by the probe from a pod, from the node, or from a machine that is no node.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::now;
use crate::{Node, wait};

/// Where an attempt begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// On the node itself.
    Node,
    /// On a machine that is no node.
    Outside,
}

impl Place {
    /// In a pod.
    #[must_use]
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn probe(&self, node: &Node, arguments: &[&str]) -> Result<Command> {
        Ok(match self {
            Self::Pod { namespace, name } => {
                let arguments: Vec<&str> = ["/probe"].iter().chain(arguments).copied().collect();
                node.exec(namespace, name, &arguments)?
            }
            Self::Node => {
                let mut command = node.enclosure().command(node.probe());
                command.args(arguments);
                command.into()
            }
            Self::Outside => {
                let mut command = Command::new(node.probe());
                command.args(arguments);
                command
            }
        })
    }
}

/// What became of one attempt; times as of [`now`].
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// What was tried: `KIND/ADDRESS`, see `binaries/probe/main.go`.
    pub target: String,
    /// When it began, or, within a flow, when it was last answered before.
    pub began: i64,
    /// When it was answered or given up.
    pub ended: i64,
    /// Whether it was answered.
    pub ok: bool,
    /// The name of the pod that answered.
    #[serde(default)]
    pub by: String,
    /// Why it was not, such as `timeout` or `refused`.
    #[serde(default)]
    pub why: String,
}

/// Tries each target once, all at a time.
pub async fn try_each(node: &Node, place: &Place, targets: &[String], timeout: Duration) -> Result<Vec<Attempt>> {
    let timeout = format!("{}ms", timeout.as_millis());
    let arguments: Vec<&str> = ["try", &timeout].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let output = place.probe(node, &arguments)?.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "the probe failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let lines = String::from_utf8(output.stdout)?;
    let attempts = lines.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Attempt>>>()?;
    ensure!(attempts.len() == targets.len(), "{} targets, {} answers", targets.len(), attempts.len());
    Ok(attempts)
}

/// Attempts that go on until this value is dropped.
#[derive(Debug)]
pub struct Flow {
    target: String,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    reader: tokio::task::JoinHandle<()>,
    // Its standard input is held open: when that closes the probe ends, also in a container.
    _probe: Child,
}

impl Flow {
    /// Follows `target` from `place`, and waits for the first answer.
    pub async fn start(node: &Node, place: &Place, target: String, every: Duration) -> Result<Self> {
        let every = format!("{}ms", every.as_millis());
        // Less than the second after which TCP sends its first packet again: an attempt is one packet.
        let mut command = place.probe(node, &["follow", &target, &every, "400ms"])?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut probe = command.spawn().context("can't start the probe")?;
        let output = probe.stdout.take().context("the probe has no output")?;
        let attempts: Arc<Mutex<Vec<Attempt>>> = Arc::default();
        let kept = attempts.clone();
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(attempt) = serde_json::from_str(&line) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                }
            }
        });
        let flow = Self { target, attempts, reader, _probe: probe };
        wait::eventually(wait::DEADLINE, &format!("an answer from {}", flow.target), async || {
            if flow.last_answer().is_none() {
                bail!("{:?}", flow.lock().last());
            }
            Ok(Some(()))
        })
        .await?;
        Ok(flow)
    }

    /// What is followed.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// All attempts so far.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.lock().clone()
    }

    /// When the last answer came.
    #[must_use]
    pub fn last_answer(&self) -> Option<i64> {
        self.lock().iter().filter(|attempt| attempt.ok).map(|attempt| attempt.ended).max()
    }

    /// Whether an answer came within that time until now.
    #[must_use]
    pub fn answered_within(&self, time: Duration) -> bool {
        self.last_answer().is_some_and(|last| super::between(last, now()) < time)
    }

    /// Waits until no answer has come for that time, and says when the last one did.
    pub async fn silent_for(&self, time: Duration, deadline: Duration) -> Result<i64> {
        wait::eventually(deadline, &format!("no answer from {} for {time:?}", self.target), async || {
            let last = self.last_answer().context("no answer at all")?;
            Ok((super::between(last, now()) >= time).then_some(last))
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
