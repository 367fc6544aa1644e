//! A real node that runs containers: containerd, kubelet, kube-proxy and a network plugin, beside a control plane of its own.
//!
//! All of the node is in namespaces of its own, see [`enclosure`]: on the machine there is but one network card and one route more. It needs root on
//! Linux; [`Missing`](crate::Missing) says what else, and what can be had from Debian is installed. The control plane is outside, at the
//! other end of the cable, so that the API server is no process of the node.
//!
//! Pods run [`PROBE_IMAGE`], and Quell's Jobs [`QUELL_IMAGE`]: there is no registry, and the images are made here.

mod calico;
mod cilium;
pub mod enclosure;
mod image;
mod join;
mod requirements;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::Api;

pub use self::enclosure::{Enclosure, NAME};
pub use self::join::PROBE_IMAGE;
use self::join::Starter;
use crate::binaries::{Binaries, Tool};
use crate::control_plane::{Options as ControlPlaneOptions, RealNode};
use crate::lifeline::Lifeline;
use crate::{ControlPlane, wait};

/// The image of Quell.
pub const QUELL_IMAGE: &str = "quell.test/quell:1";
/// Where pods look names up.
pub const DNS_ADDRESS: &str = "10.96.0.10";

/// What connects the pods, and enforces policies or doesn't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Plugin {
    /// A bridge; no policy is enforced.
    None,
    /// Calico, with iptables.
    #[default]
    Calico,
    /// Cilium, with eBPF.
    Cilium,
}

impl Plugin {
    fn tools(self) -> &'static [Tool] {
        match self {
            Self::None => &[],
            Self::Calico => Tool::CALICO,
            Self::Cilium => Tool::CILIUM,
        }
    }

    /// Programs that it needs, and Debian's packages for them.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::None | Self::Calico => &[],
            Self::Cilium => cilium::PROGRAMS,
        }
    }
}

/// How a node shall be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The network.
    pub plugin: Plugin,
}

/// A running node and its control plane; both end when this value is dropped or its process is gone.
#[derive(Debug)]
pub struct Node {
    // In the order in which they end.
    lifeline: Lifeline,
    control_plane: ControlPlane,
    enclosure: Enclosure,
    binaries: Binaries,
    plugin: Plugin,
    booted: Duration,
}

impl Node {
    /// Builds and installs what is missing, which takes minutes the first time; fails with [`Missing`](crate::Missing) where a node can't
    /// run.
    pub async fn prepare(options: &Options) -> Result<Binaries> {
        let plugin = options.plugin;
        tokio::task::spawn_blocking(move || requirements::ensure(plugin)).await??;
        let control_plane = Tool::CONTROL_PLANE.iter().filter(|tool| **tool != Tool::Kwok);
        let tools: Vec<Tool> = control_plane.chain(Tool::NODE).chain(plugin.tools()).copied().collect();
        Binaries::ensure(&tools).await
    }

    /// Boots a control plane and a node, and waits until pods can run; [prepares](Self::prepare) first.
    pub async fn start(options: Options) -> Result<Self> {
        let plugin = options.plugin;
        let binaries = Self::prepare(&options).await?;
        let began = Instant::now();
        let enclosure = Enclosure::create().await.context("can't make the node's namespaces")?;
        let lifeline = Lifeline::new(None)?;
        let starter = Starter { enclosure: &enclosure, binaries: &binaries, lifeline: &lifeline };
        let real_node = RealNode {
            name: NAME.to_owned(),
            address: enclosure.inside(),
            control_plane: enclosure.outside(),
            pods: enclosure.pods(),
        };
        let control_plane =
            ControlPlane::start(ControlPlaneOptions { real_node: Some(real_node), ..ControlPlaneOptions::default() });
        let (control_plane, containerd) = tokio::join!(control_plane, starter.containerd());
        let control_plane = control_plane?;
        containerd.context("can't start containerd")?;
        join(&starter, &control_plane, plugin).await.with_context(|| logs(&lifeline, &enclosure))?;
        Ok(Self { lifeline, control_plane, enclosure, binaries, plugin, booted: began.elapsed() })
    }

    /// Its control plane: clients, kubectl, folder.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Its namespaces: addresses, and commands that run in them.
    #[must_use]
    pub fn enclosure(&self) -> &Enclosure {
        &self.enclosure
    }

    /// What its network is.
    #[must_use]
    pub fn plugin(&self) -> Plugin {
        self.plugin
    }

    /// How long it took from nothing to a ready node, binaries and packages apart.
    #[must_use]
    pub fn booted(&self) -> Duration {
        self.booted
    }

    /// The program that servers and clients in [`PROBE_IMAGE`] are, for use on the node and outside.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.enclosure.folder().join(Tool::Probe.name())
    }

    /// A command that runs `arguments` in the first container of a pod, with its standard streams connected.
    pub fn exec(&self, namespace: &str, pod: &str, arguments: &[&str]) -> Result<tokio::process::Command> {
        let mut command = self.control_plane.kubectl()?;
        command.args(["exec", "--stdin", "--quiet", "--namespace", namespace, pod, "--"]).args(arguments);
        Ok(command)
    }

    /// Drops what the node knows of flows from and to a pod's address, so that packets of established connections meet the policies
    /// again. Returns how many flows it knew. Cilium keeps flows in maps of its own, of which the whole node's are dropped.
    pub fn forget_flows(&self, address: &str) -> Result<usize> {
        if self.plugin == Plugin::Cilium {
            return cilium::forget_flows(&self.enclosure, &self.binaries);
        }
        let mut forgotten = 0;
        for side in ["--src", "--dst", "--reply-src", "--reply-dst"] {
            let mut command = self.enclosure.command("conntrack");
            let output = command.args(["--delete", side, address]).output().context("can't run conntrack")?;
            // It fails where there is nothing to delete.
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let count = said.split_once("): ").and_then(|(_, rest)| rest.split(' ').next());
            forgotten += count.with_context(|| format!("conntrack says {said:?}"))?.parse::<usize>()?;
        }
        Ok(forgotten)
    }

    /// Gives the node the image [`QUELL_IMAGE`], whose program is `binary`: one that does what `quell` does.
    pub fn add_quell(&self, binary: &Path) -> Result<()> {
        let archive = self.enclosure.folder().join("quell.tar");
        image::write_linked(&archive, QUELL_IMAGE, binary)?;
        self.enclosure.import(&archive)
    }

    /// Paths that are there as long as the node is: folders, network card, cgroups.
    #[must_use]
    pub fn leaves(&self) -> Vec<PathBuf> {
        let mut paths = self.enclosure.leaves();
        paths.push(self.control_plane.dir().to_owned());
        paths
    }

    /// An error that names what has ended by itself, if something has.
    pub fn check(&self) -> Result<()> {
        check(&self.lifeline, &self.enclosure)?;
        self.control_plane.check()
    }

    /// Ends it, and returns when all of it is gone.
    pub async fn stop(self) -> Result<()> {
        tokio::task::spawn_blocking(move || drop(self)).await.context("interrupted while the node ended")
    }
}

async fn join(starter: &Starter<'_>, control_plane: &ControlPlane, plugin: Plugin) -> Result<()> {
    let probe = starter.file(Tool::Probe.name());
    std::fs::copy(starter.binaries.path(Tool::Probe)?, probe).context("can't copy the probe")?;
    starter.kubelet(control_plane)?;
    starter.kube_proxy(control_plane)?;
    match plugin {
        Plugin::None => starter.bridge()?,
        Plugin::Calico => {
            calico::prepare(starter, control_plane).await?;
            calico::network(starter, control_plane)?;
        }
        Plugin::Cilium => cilium::start(starter, control_plane).await?,
    }
    let nodes: Api<KubeNode> = Api::all(control_plane.client().await?);
    wait::eventually(wait::DEADLINE, "the node is ready", async || {
        starter.check()?;
        let node = nodes.get(NAME).await?;
        ensure!(is_ready(&node), "{:?}", node.status.and_then(|status| status.conditions?.pop()));
        Ok(Some(()))
    })
    .await?;
    if plugin == Plugin::Calico {
        calico::felix(starter, control_plane).await?;
    }
    Ok(())
}

fn is_ready(node: &KubeNode) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True") && taints.count() == 0
}

fn check(lifeline: &Lifeline, enclosure: &Enclosure) -> Result<()> {
    match lifeline.exited() {
        Some((name, status)) => {
            bail!("{name} ended by itself ({status}); its log ends with:\n{}", log(enclosure, &name))
        }
        None => Ok(()),
    }
}

fn logs(lifeline: &Lifeline, enclosure: &Enclosure) -> String {
    let all = lifeline.children().into_iter().map(|(name, _)| format!("--- {name}\n{}", log(enclosure, &name)));
    format!("can't start a node\n{}", all.collect::<Vec<_>>().join("\n"))
}

fn log(enclosure: &Enclosure, name: &str) -> String {
    crate::control_plane::log_tail(enclosure.folder(), name)
}
