//! A real `quell operator` process beside a control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use serde_json::{Value, json};

use crate::lifeline::Lifeline;
use crate::{ControlPlane, wait};

/// Quell's own namespace in tests.
pub const NAMESPACE: &str = "quell";
/// The token of every Source in tests.
pub const TOKEN: &str = "token-of-the-tests";
/// The Secret that holds it.
pub const TOKEN_SECRET: &str = "source-tokens";

/// A running operator; ends with its owner.
pub struct Operator {
    lifeline: Lifeline,
    process: u32,
    intake: SocketAddr,
    metrics: SocketAddr,
    log: PathBuf,
    http: reqwest::Client,
}

impl Operator {
    /// Starts the operator that `binary` is (`env!("CARGO_BIN_EXE_quell")`), and waits until it leads or stands by. `flags` are added to
    /// those that a test needs.
    pub async fn start(binary: &Path, control_plane: &ControlPlane, flags: &[&str]) -> Result<Self> {
        Self::start_by(binary, control_plane, control_plane.kubeconfig_path(), flags).await
    }

    /// The same with more in its environment.
    pub async fn start_in(
        binary: &Path,
        control_plane: &ControlPlane,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_with(binary, control_plane, control_plane.kubeconfig_path(), flags, environment).await
    }

    /// The same by another way to the API server, such as that of a [`crate::Gate`].
    pub async fn start_by(
        binary: &Path,
        control_plane: &ControlPlane,
        kubeconfig: &Path,
        flags: &[&str],
    ) -> Result<Self> {
        Self::start_with(binary, control_plane, kubeconfig, flags, &[]).await
    }

    async fn start_with(
        binary: &Path,
        control_plane: &ControlPlane,
        kubeconfig: &Path,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        prepare(control_plane).await?;
        let (intake, metrics) = (free_address()?, free_address()?);
        let log = control_plane.dir().join(format!("quell-{}.log", intake.port()));
        let file = std::fs::File::create(&log)?;
        let lifeline = Lifeline::new(None)?;
        let mut command = Command::new(binary);
        command
            .arg("operator")
            .args(["--ingest-listen", &intake.to_string(), "--ingest-plaintext"])
            .args(["--metrics-listen", &metrics.to_string()])
            .args(["--namespace", NAMESPACE, "--log-format", "text"])
            .args(flags)
            .env("KUBECONFIG", kubeconfig)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = lifeline.spawn("quell", &mut command)?;
        // Tests share an operator, and each has a runtime of its own, with which its connections end.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
        let operator = Self { lifeline, process, intake, metrics, log, http };
        operator.wait_until_ready().await?;
        Ok(operator)
    }

    /// Its process id.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// What `/readyz` says, and with which status.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        let answer = self.http.get(format!("http://{}/readyz", self.metrics)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Waits until it has ended, and says how.
    pub async fn ended(&self) -> Result<std::process::ExitStatus> {
        wait::eventually(Duration::from_secs(40), "the operator has ended", async || {
            Ok(self.lifeline.exited().map(|(_, status)| status))
        })
        .await
    }

    /// The address of the intake.
    #[must_use]
    pub fn intake(&self) -> SocketAddr {
        self.intake
    }

    /// Where signals are taken in, such as `http://127.0.0.1:18443`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.intake)
    }

    /// Posts a body to a Source, with the tests' token.
    pub async fn post(&self, source: &str, body: &Value) -> Result<Answer> {
        self.post_text(source, &body.to_string(), Some(TOKEN)).await
    }

    /// Posts any text, with any token.
    pub async fn post_text(&self, source: &str, body: &str, token: Option<&str>) -> Result<Answer> {
        let mut request = self.http.post(format!("{}/v1/sources/{source}", self.url())).body(body.to_owned());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let text = response.text().await?;
        Ok(Answer { status, retry_after, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    /// The metrics, as text.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.http.get(format!("http://{}/metrics", self.metrics)).send().await?.text().await?)
    }

    /// The log so far.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("the operator's log")
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let url = format!("http://{}/readyz", self.metrics);
        wait::eventually(Duration::from_secs(30), "the operator is ready", async || {
            if let Some((_, status)) = self.lifeline.exited() {
                bail!("the operator ended ({status}):\n{}", self.log()?);
            }
            let answer = self.http.get(&url).send().await?;
            Ok(answer.status().is_success().then_some(()))
        })
        .await
    }
}

/// What the intake answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The JSON, or the text that wasn't.
    pub body: Value,
}

impl Answer {
    /// Namespace and name of the first Finding.
    pub fn finding(&self) -> Result<(String, String)> {
        let text = |field: &str| self.body["findings"][0][field].as_str().map(str::to_owned);
        text("namespace")
            .zip(text("name"))
            .with_context(|| format!("no Finding in the answer {} {}", self.status, self.body))
    }
}

/// Is Quell until it ends, where this process was started as `… operator`. Binaries of the test bed start themselves so: theirs is the one
/// binary that is sure to be there.
#[must_use]
pub fn run_as_quell() -> Option<ExitCode> {
    std::env::args_os().nth(1).is_some_and(|first| first == "operator").then(quell_operator::start)
}

/// The same, or what the binary is for.
pub fn run_as_quell_or(rest: impl FnOnce() -> Result<()>) -> Result<ExitCode> {
    run_as_quell().map_or_else(|| rest().map(|()| ExitCode::SUCCESS), Ok)
}

/// CRDs, guards, Quell's namespace, and a Secret with the token of the Sources. Safe to call from many tests at once.
pub async fn prepare(control_plane: &ControlPlane) -> Result<()> {
    crate::crds::install(control_plane).await?;
    crate::guards::install(control_plane, &crate::guards::Guards::default()).await?;
    let client = control_plane.client().await?;
    let apply = PatchParams::apply("quell-tests").force();
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::<Namespace>::all(client.clone()).patch(NAMESPACE, &apply, &Patch::Apply(&namespace)).await?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(TOKEN_SECRET.to_owned()), ..ObjectMeta::default() },
        string_data: Some([("token".to_owned(), TOKEN.to_owned())].into()),
        ..Secret::default()
    };
    Api::<Secret>::namespaced(client, NAMESPACE).patch(TOKEN_SECRET, &apply, &Patch::Apply(&secret)).await?;
    Ok(())
}

/// The `spec` of a Source of that format that takes POSTs with the tests' token.
#[must_use]
pub fn source_spec(format: &str) -> Value {
    json!({ "format": format, "webhook": { "bearerToken": { "secret": { "name": TOKEN_SECRET, "key": "token" } } } })
}

fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
