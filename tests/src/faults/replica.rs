//! A replica of Quell: a real process behind a proxy of its own, that can be killed, frozen and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::trouble::Troubles;
use crate::lifeline::Lifeline;
use crate::operator::{NAMESPACE, TOKEN};
use crate::{ControlPlane, Proxy, wait};

/// How long a sender waits for its answer before it sends again.
const SENDERS_PATIENCE: Duration = Duration::from_secs(35);

/// One replica.
pub struct Replica {
    /// Its name in the Lease.
    pub identity: String,
    /// What it says to the API server.
    pub proxy: Proxy,
    /// What is wrong with the API server for it.
    pub troubles: Arc<Troubles>,
    binary: PathBuf,
    folder: PathBuf,
    intake: SocketAddr,
    metrics: SocketAddr,
    http: reqwest::Client,
    lifeline: Lifeline,
    process: Mutex<Option<u32>>,
    frozen: AtomicBool,
}

impl Replica {
    /// Starts replica `number`, and waits until it takes signals in.
    pub async fn start(binary: &Path, control_plane: &ControlPlane, number: usize, troubles: Troubles) -> Result<Self> {
        let troubles = Arc::new(troubles);
        let proxy = Proxy::start(control_plane, troubles.clone()).await?;
        let folder = control_plane.dir().join(format!("quell-{number}"));
        std::fs::create_dir_all(&folder).context("no folder for a replica")?;
        proxy.write_kubeconfig(&folder.join("kubeconfig"))?;
        let replica = Self {
            identity: format!("quell-{number}"),
            proxy,
            troubles,
            binary: binary.to_owned(),
            folder,
            intake: free_address()?,
            metrics: free_address()?,
            http: reqwest::Client::builder().timeout(SENDERS_PATIENCE).build()?,
            lifeline: Lifeline::new(None)?,
            process: Mutex::default(),
            frozen: AtomicBool::new(false),
        };
        replica.run()?;
        replica.ready().await?;
        Ok(replica)
    }

    /// Starts the process, or starts it again, with the disk that it had.
    pub fn run(&self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&self.binary);
        command
            .arg("operator")
            .args(["--ingest-listen", &self.intake.to_string(), "--ingest-plaintext"])
            .args(["--metrics-listen", &self.metrics.to_string()])
            .args(["--namespace", NAMESPACE, "--log-format", "text"])
            .args(["--network-plugin", "cilium", "--identity", &self.identity])
            .arg("--spool")
            .arg(self.folder.join("spool"))
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = self.lifeline.spawn("quell", &mut command)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    async fn ready(&self) -> Result<()> {
        let url = format!("http://{}/readyz", self.metrics);
        wait::eventually(wait::DEADLINE, "a replica is ready", async || {
            if let Some((_, status)) = self.lifeline.exited() {
                bail!("{} ended by itself ({status}):\n{}", self.identity, self.log_tail());
            }
            Ok(self.http.get(&url).send().await?.status().is_success().then_some(()))
        })
        .await
    }

    /// A process that ended by itself, as one that lost its Lease does, is started again, as a cluster does it.
    pub fn keep_running(&self) -> Result<bool> {
        let Some((_, status)) = self.lifeline.exited() else { return Ok(false) };
        println!("  {} ended ({status}) and is started again: {}", self.identity, self.last_words());
        self.kill()?;
        self.run()?;
        Ok(true)
    }

    /// Kills the process (SIGKILL).
    pub fn kill(&self) -> Result<()> {
        match self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(process) => self.lifeline.kill(process),
            None => Ok(()),
        }
    }

    /// Tells the process to end in order (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        match *self.process.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(process) => self.lifeline.terminate(process),
            None => Ok(()),
        }
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&self) -> Result<ExitStatus> {
        wait::eventually(wait::DEADLINE, &format!("{} has ended", self.identity), async || {
            Ok(self.lifeline.exited().map(|(_, status)| status))
        })
        .await
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Freezes the process (SIGSTOP), or lets it go on (SIGCONT).
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.frozen.store(frozen, Ordering::Relaxed);
        match *self.process.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(process) if frozen => self.lifeline.freeze(process),
            Some(process) => self.lifeline.thaw(process),
            None => Ok(()),
        }
    }

    /// Whether it says that it leads.
    pub async fn leads(&self) -> bool {
        let asked = self.http.get(format!("http://{}/metrics", self.metrics)).timeout(Duration::from_secs(1)).send();
        let text = match asked.await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => return false,
        };
        text.lines().any(|line| line == "quell_leader 1")
    }

    /// Posts a signal once. `Ok(true)`: answered with success.
    pub async fn post(&self, source: &str, signal: &Value) -> Result<bool> {
        let url = format!("http://{}/v1/sources/{source}", self.intake);
        let answer = self.http.post(url).bearer_auth(TOKEN).body(signal.to_string()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if status.is_success() {
            return Ok(true);
        }
        // What is no use to send again is a mistake of Quell or of this test.
        anyhow::ensure!(status.is_server_error() || status.as_u16() == 429, "{status} {text}");
        Ok(false)
    }

    /// Resident memory in KiB; none while it doesn't run.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        let process = (*self.process.lock().unwrap_or_else(PoisonError::into_inner))?;
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Why it ended.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        log.lines().next_back().unwrap_or("its log is empty").to_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
