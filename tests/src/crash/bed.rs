//! A control plane, the proxy, the receivers, and Quell as a real process that can be killed and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterChannel, ClusterPlaybook, Source};
use serde_json::{Value, json};

use super::receivers::{HMAC_KEY, Receivers};
use super::trap::Trap;
use crate::lifeline::Lifeline;
use crate::operator::{self, NAMESPACE, TOKEN, source_spec};
use crate::{ControlPlane, Options, Proxy, guards, wait};

/// The Sources, each with the name of its format.
const SOURCES: [&str; 2] = ["falco", "trivy"];
/// The channel that the library's playbooks name.
const CHANNEL: &str = "security";
/// Longer than any scenario, so that no renewal of the Lease comes in between. The next process has the identity of the one that was
/// killed, as a container that is started again in its pod: the Lease is its own.
const LEASE: &str = "300";

/// Everything that a scenario plays on.
pub struct Bed {
    /// An admin's client, past the proxy.
    pub client: Client,
    /// The proxy that Quell speaks through.
    pub proxy: Proxy,
    /// What kills.
    pub trap: Arc<Trap>,
    /// What takes notifications and builds.
    pub receivers: Receivers,
    binary: PathBuf,
    kubeconfig: PathBuf,
    intake: SocketAddr,
    metrics: SocketAddr,
    log: PathBuf,
    http: reqwest::Client,
    lifeline: Arc<Lifeline>,
    control_plane: ControlPlane,
}

impl Bed {
    /// Boots everything but Quell, which is `binary`.
    pub async fn start(binary: &Path) -> Result<Self> {
        let control_plane = ControlPlane::start(Options { nodes: 1, ..Options::default() }).await?;
        operator::prepare(&control_plane).await?;
        guards::in_force(&control_plane, &guards::Guards::default()).await?;
        let client = control_plane.client().await?;
        let trap = Arc::new(Trap::default());
        let receivers = Receivers::listen(trap.clone()).await?;
        let proxy = Proxy::start(&control_plane, trap.clone()).await?;
        let kubeconfig = control_plane.dir().join("proxy.kubeconfig");
        proxy.write_kubeconfig(&kubeconfig)?;
        let bed = Self {
            client,
            proxy,
            trap,
            receivers,
            binary: binary.to_owned(),
            kubeconfig,
            intake: free_address()?,
            metrics: free_address()?,
            log: control_plane.dir().join("quell.log"),
            http: reqwest::Client::new(),
            lifeline: Arc::new(Lifeline::new(None)?),
            control_plane,
        };
        bed.declare().await?;
        Ok(bed)
    }

    async fn declare(&self) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        for (name, key, value) in [("hook", "hmac", HMAC_KEY), ("rebuild-pipeline", "token", "token-of-the-pipeline")] {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
                string_data: Some([(key.to_owned(), value.to_owned())].into()),
                ..Secret::default()
            };
            secrets.patch(name, &PatchParams::apply("quell-tests").force(), &Patch::Apply(&secret)).await?;
        }
        let webhook =
            json!({ "webhook": { "url": self.receivers.hook(), "hmacKey": { "name": "hook", "key": "hmac" } } });
        apply::<ClusterChannel>(&self.client, "ClusterChannel", CHANNEL, &webhook).await?;
        for format in SOURCES {
            apply::<Source>(&self.client, "Source", format, &source_spec(format)).await?;
        }
        Ok(())
    }

    /// Puts one playbook in the place of any other.
    pub async fn playbook(&self, text: &str) -> Result<()> {
        let playbook: Value = serde_saphyr::from_str(text).context("a playbook that is no YAML")?;
        let name = playbook["metadata"]["name"].as_str().context("a playbook without a name")?;
        let api: Api<ClusterPlaybook> = Api::all(self.client.clone());
        for other in api.list(&ListParams::default()).await?.items {
            api.delete(&other.name_any(), &DeleteParams::default()).await?;
        }
        apply::<ClusterPlaybook>(&self.client, "ClusterPlaybook", name, &playbook["spec"]).await?;
        Ok(())
    }

    /// Waits until Quell has said of everything that is declared that it is ready.
    pub async fn all_ready(&self) -> Result<()> {
        let ready = |conditions: Option<&[Condition]>| {
            conditions.is_some_and(|conditions| conditions::is_true(conditions, ConditionType::Ready))
        };
        let (playbooks, channels, sources): (Api<ClusterPlaybook>, Api<ClusterChannel>, Api<Source>) =
            (Api::all(self.client.clone()), Api::all(self.client.clone()), Api::all(self.client.clone()));
        wait::eventually(wait::DEADLINE, "everything that is declared is ready", async || {
            let all = ListParams::default();
            let playbooks = playbooks.list(&all).await?.items;
            let channels = channels.list(&all).await?.items;
            let sources = sources.list(&all).await?.items;
            let of = |status: Option<Vec<Condition>>| ready(status.as_deref());
            let (mut declared, mut told) = (0, 0);
            for one in playbooks.into_iter().map(|one| one.status.map(|status| status.conditions)) {
                (declared, told) = (declared + 1, told + usize::from(of(one)));
            }
            for one in channels.into_iter().map(|one| one.status.map(|status| status.conditions)) {
                (declared, told) = (declared + 1, told + usize::from(of(one)));
            }
            for one in sources.into_iter().map(|one| one.status.map(|status| status.conditions)) {
                (declared, told) = (declared + 1, told + usize::from(of(one)));
            }
            ensure!(told == declared, "{told} of {declared}");
            Ok(Some(()))
        })
        .await
    }

    /// Starts Quell, or starts it again, and waits until it leads, or is killed.
    pub async fn run_quell(&self) -> Result<()> {
        self.proxy.settled().await;
        self.trap.process_begins();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command
            .arg("operator")
            .args(["--ingest-listen", &self.intake.to_string(), "--ingest-plaintext"])
            .args(["--metrics-listen", &self.metrics.to_string()])
            .args(["--namespace", NAMESPACE, "--log-format", "text", "--log", "info"])
            .args(["--network-plugin", "cilium", "--identity", "quell-0", "--lease-seconds", LEASE])
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut deaths = self.trap.deaths();
        deaths.mark_unchanged();
        let process = self.lifeline.spawn("quell", &mut command)?;
        let lifeline = self.lifeline.clone();
        self.trap.killed_by(Box::new(move || {
            if let Err(error) = lifeline.kill(process) {
                eprintln!("crash: {error:#}");
            }
        }));
        tokio::select! {
            leads = self.leads() => leads,
            // Where it was killed as it began, there is nothing to wait for.
            _ = deaths.changed() => Ok(()),
        }
    }

    async fn leads(&self) -> Result<()> {
        let url = format!("http://{}/metrics", self.metrics);
        wait::eventually(Duration::from_mins(1), "Quell leads", async || {
            if let Some((_, status)) = self.lifeline.exited() {
                bail!("Quell ended by itself ({status}):\n{}", self.log_tail());
            }
            let text = self.http.get(&url).send().await?.text().await?;
            Ok(text.lines().any(|line| line == "quell_leader 1").then_some(()))
        })
        .await
        .map_err(|error| error.context(self.log_tail()))
    }

    /// Kills Quell, wherever it is.
    pub fn kill_quell(&self) {
        self.trap.strike();
    }

    /// Posts a signal as its sender does: again and again, until it is answered with success. The answer is how often it was posted.
    pub async fn send(&self, source: &str, signal: &Value) -> Result<u32> {
        let url = format!("http://{}/v1/sources/{source}", self.intake);
        let mut tries = 0;
        wait::eventually(wait::DEADLINE, "the signal is answered with success", async || {
            tries += 1;
            let answer = self.http.post(&url).bearer_auth(TOKEN).body(signal.to_string()).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "{status} {text}");
            Ok(Some(()))
        })
        .await?;
        Ok(tries)
    }

    /// The end of Quell's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Ends all of it, and returns when it is gone.
    pub async fn stop(self) -> Result<()> {
        let Self { lifeline, control_plane, .. } = self;
        tokio::task::spawn_blocking(move || drop(lifeline)).await.context("interrupted while Quell ended")?;
        control_plane.stop().await
    }
}

async fn apply<K>(client: &Client, kind: &str, name: &str, spec: &Value) -> Result<K>
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>,
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let object =
        json!({ "apiVersion": "quell.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let parameters = PatchParams::apply("quell-tests").force();
    Ok(Api::<K>::all(client.clone()).patch(name, &parameters, &Patch::Apply(&object)).await?)
}

fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
