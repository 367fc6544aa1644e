//! A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and kwok's nodes.
//!
//! Several can run at once. Each has its ports, its certificate authority and its folder, and ends with its owner, see
//! [`crate::lifeline`]. The nodes run no containers, but pods on them look as if they did; see `control_plane/kwok.yaml`
//! for what tests can steer:
//!
//! - an image whose reference contains `broken` never becomes ready; nor does a pod while it has the annotation
//!   [`NOT_READY`] with value `"true"`
//! - pods of Jobs complete; [`RESULT`] is what they leave as termination message, [`EXIT_CODE`] makes them fail
//! - `imageID` is the repository and the digest that the reference names, else
//!   [`crate::fixtures::digest_of`] the reference
//! - logs of every container are those of `control_plane/container.log`
//!
//! With [`Options::real_node`] there is no kwok: the control plane waits for a node that runs containers, see [`crate::node`].

mod boot;
mod certificates;
mod components;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::OnceCell;

use crate::binaries::{Binaries, Tool};
use crate::lifeline::Lifeline;

/// Annotation of a pod: while it is `"true"`, the pod is not ready.
pub const NOT_READY: &str = "quell.dev/test-not-ready";
/// Annotation of a Job's pod template: the termination message of its containers.
pub const RESULT: &str = "quell.dev/test-result";
/// Annotation of a Job's pod template: the exit code of its containers.
pub const EXIT_CODE: &str = "quell.dev/test-exit-code";
/// Environment variable: the kubeconfig of a cluster to use in place of a control plane of one's own.
pub const KUBECONFIG_VARIABLE: &str = "QUELL_TEST_KUBECONFIG";

/// The user of [`Options::real_node`]'s kubelet, in the control plane's folder.
pub(crate) const KUBELET_KUBECONFIG: &str = "kubelet.kubeconfig";
pub(crate) const KUBE_PROXY_KUBECONFIG: &str = "kube-proxy.kubeconfig";
pub(crate) const AUTHORITY: &str = "ca.crt";
const ADMIN_KUBECONFIG: &str = "kubeconfig";
const AUDIT_LOG: &str = "audit.log";
const ATTEMPTS: usize = 3;

/// How a control plane shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of kwok's nodes, up to 2,000.
    pub nodes: u32,
    /// A node that runs containers, in place of those of kwok.
    pub real_node: Option<RealNode>,
    /// Keep an audit log, see [`ControlPlane::audit_log`].
    pub audit: bool,
    /// More flags for the API server.
    pub api_server_flags: Vec<String>,
    /// More programs to have at hand, for example [`Tool::Helm`].
    pub tools: Vec<Tool>,
    /// Use this cluster; boot nothing.
    pub kubeconfig: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            real_node: None,
            audit: false,
            api_server_flags: Vec::new(),
            tools: Vec::new(),
            kubeconfig: None,
        }
    }
}

/// What the control plane has to know of a node that joins it later.
#[derive(Clone, Debug)]
pub struct RealNode {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The control plane's own address, by which the node and its pods reach the API server.
    pub control_plane: Ipv4Addr,
    /// The addresses of its pods, such as `10.244.0.0/24`.
    pub pods: String,
}

impl Options {
    /// The defaults, with the cluster that [`KUBECONFIG_VARIABLE`] names if it is set.
    #[must_use]
    pub fn from_environment() -> Self {
        let kubeconfig = std::env::var_os(KUBECONFIG_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { kubeconfig, ..Self::default() }
    }
}

/// A running control plane; it ends when this value is dropped or its process is gone.
#[derive(Debug)]
pub struct ControlPlane {
    folder: PathBuf,
    kubeconfig_path: PathBuf,
    kubeconfig: Kubeconfig,
    binaries: Binaries,
    components: Vec<components::Component>,
    // Of a cluster that was there before, it holds the folder only.
    lifeline: Lifeline,
}

impl ControlPlane {
    /// Boots a control plane, or attaches to the cluster that `options` name.
    pub async fn start(options: Options) -> Result<Self> {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Some(path) = &options.kubeconfig {
            return Self::attach(path, &options).await;
        }
        if options.nodes > 2000 {
            bail!("{} nodes are too many: ask for at most 2000", options.nodes);
        }
        let kwok = options.real_node.is_none();
        let tools = Tool::CONTROL_PLANE.iter().chain(&options.tools).copied();
        let tools: Vec<Tool> = tools.filter(|tool| kwok || *tool != Tool::Kwok).collect();
        let binaries = Binaries::ensure(&tools).await?;
        let mut attempt = 1;
        loop {
            let folder = new_folder()?.keep();
            match boot::boot(&folder, &binaries, &options).await {
                Ok(booted) => {
                    return Ok(Self {
                        kubeconfig_path: folder.join(ADMIN_KUBECONFIG),
                        folder,
                        kubeconfig: booted.kubeconfig,
                        binaries,
                        components: booted.components,
                        lifeline: booted.lifeline,
                    });
                }
                // Another process took a port between our look and the component's.
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {
                    attempt += 1;
                }
                Err(error) => return Err(error.context("can't start a control plane")),
            }
        }
    }

    /// The control plane that all tests of one test binary share; the first to ask boots it.
    pub async fn shared() -> Result<&'static Self> {
        // The failure is kept, too: else each test would wait for the same time-out.
        static SHARED: OnceCell<Result<ControlPlane, String>> = OnceCell::const_new();
        SHARED
            .get_or_init(async || Self::start(Options::from_environment()).await.map_err(|error| format!("{error:#}")))
            .await
            .as_ref()
            .map_err(|error| anyhow!(error.clone()))
    }

    async fn attach(path: &Path, options: &Options) -> Result<Self> {
        let kubeconfig_path = std::path::absolute(path).with_context(|| format!("{} is not a path", path.display()))?;
        let kubeconfig = Kubeconfig::read_from(&kubeconfig_path)
            .with_context(|| format!("can't use the kubeconfig {}", path.display()))?;
        let tools: Vec<Tool> = [Tool::Kubectl].iter().chain(&options.tools).copied().collect();
        let folder = new_folder()?.keep();
        Ok(Self {
            lifeline: Lifeline::new(Some(&folder))?,
            folder,
            kubeconfig_path,
            kubeconfig,
            binaries: Binaries::ensure(&tools).await?,
            components: Vec::new(),
        })
    }

    /// The file that makes its reader a member of `system:masters`.
    #[must_use]
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig_path
    }

    /// The content of [`Self::kubeconfig_path`].
    #[must_use]
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.kubeconfig
    }

    /// Configuration of an admin's client.
    pub async fn config(&self) -> Result<Config> {
        config_of(&self.kubeconfig).await
    }

    /// A new admin client. Clients belong to the runtime that made them, so each test asks for its own.
    pub async fn client(&self) -> Result<Client> {
        client_of(&self.kubeconfig, |_| ()).await
    }

    /// A client that acts as `user` in `groups`. A service account is
    /// `system:serviceaccount:NAMESPACE:NAME`, in the groups `system:serviceaccounts` and
    /// `system:serviceaccounts:NAMESPACE`; everyone real is in `system:authenticated`.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        client_of(&self.kubeconfig, |config| {
            config.auth_info.impersonate = Some(user.to_owned());
            config.auth_info.impersonate_groups = Some(groups.iter().map(ToString::to_string).collect());
        })
        .await
    }

    /// A client that acts as a service account.
    pub async fn client_as_service_account(&self, namespace: &str, name: &str) -> Result<Client> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let group = format!("system:serviceaccounts:{namespace}");
        self.client_as(&user, &["system:serviceaccounts", &group, "system:authenticated"]).await
    }

    /// kubectl as an admin of this cluster.
    pub fn kubectl(&self) -> Result<tokio::process::Command> {
        self.command(Tool::Kubectl)
    }

    /// A program, with the environment that lets it work on this cluster.
    pub fn command(&self, tool: Tool) -> Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(self.binaries.path(tool)?);
        command
            .env("KUBECONFIG", &self.kubeconfig_path)
            // kubectl remembers what a server offers by its address, and addresses come back.
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .kill_on_drop(true);
        Ok(command)
    }

    /// The programs it runs on.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Its folder, with logs and certificates; removed when it ends.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.folder
    }

    /// The audit log, one JSON object a line; there when [`Options::audit`] asked for it.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join(AUDIT_LOG)
    }

    /// Name and process id of each component; none in a cluster that was there before.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        self.lifeline.children()
    }

    /// Kills a component (SIGKILL). It stays away until [`Self::start_again`].
    pub fn kill(&self, tool: Tool) -> Result<()> {
        let running = self.lifeline.children().into_iter().find(|(name, _)| name == tool.name());
        let (_, process) = running.with_context(|| format!("{} does not run here", tool.name()))?;
        self.lifeline.kill(process)
    }

    /// Starts a component that was killed as it was started before, on what it has left.
    pub fn start_again(&self, tool: Tool) -> Result<()> {
        let component = self.components.iter().find(|component| component.tool == tool);
        let component = component.with_context(|| format!("{} was not started here", tool.name()))?;
        component.spawn(&self.folder, &self.binaries, &self.lifeline)
    }

    /// An error that names the component that has ended by itself, if one has.
    pub fn check(&self) -> Result<()> {
        match self.lifeline.exited() {
            Some((name, status)) => {
                bail!("{name} ended by itself ({status}); its log ends with:\n{}", log_tail(&self.folder, &name))
            }
            None => Ok(()),
        }
    }

    /// Ends it, and returns when all of it is gone.
    pub async fn stop(self) -> Result<()> {
        tokio::task::spawn_blocking(move || drop(self)).await.context("interrupted while the control plane ended")
    }
}

fn new_folder() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("quell-").tempdir().context("can't create a temporary folder")
}

async fn config_of(kubeconfig: &Kubeconfig) -> Result<Config> {
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await.context("can't use the kubeconfig")
}

async fn client_of(kubeconfig: &Kubeconfig, change: impl FnOnce(&mut Config)) -> Result<Client> {
    let mut config = config_of(kubeconfig).await?;
    change(&mut config);
    Client::try_from(config).context("can't make a client")
}

pub(crate) fn log_tail(folder: &Path, component: &str) -> String {
    let log = std::fs::read_to_string(folder.join(format!("{component}.log"))).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
