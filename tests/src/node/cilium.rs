//! Cilium as policy engine and CNI plugin: the agent alone, which compiles its programs for the kernel here, with native routing and
//! beside kube-proxy. There is no operator: CRDs are applied, and pods get addresses of the node's own range.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;

use super::enclosure::{Enclosure, NAME};
use super::join::Starter;
use crate::binaries::{Binaries, Tool};
use crate::{ControlPlane, crds, wait};

/// The compiler, under the names by which Debian has it.
pub(super) const PROGRAMS: &[(&str, &str)] = &[("clang-19", "clang-19"), ("llc-19", "llvm-19")];
const SOCKET: &str = "/run/cilium/cilium.sock";

/// Starts the agent once the node is registered, and puts the network in force that it configures when it is ready.
pub(super) async fn start(starter: &Starter<'_>, control_plane: &ControlPlane) -> Result<()> {
    let mut definitions = Vec::new();
    read_definitions(starter.binaries.path(Tool::CiliumCrds)?, &mut definitions)?;
    crds::install_these(control_plane, definitions).await?;

    let tools = starter.file("tools");
    std::fs::create_dir_all(&tools).context("can't create a folder for the compiler")?;
    for name in ["clang", "llc"] {
        symlink(format!("/usr/bin/{name}-19"), tools.join(name)).context("can't link the compiler")?;
    }
    symlink(starter.binaries.path(Tool::CiliumCni)?, starter.cni_programs().join("cilium-cni"))
        .context("can't link Cilium's plugin")?;
    // The agent looks for the sources in `bpf` of the folder that it is told.
    let library = starter.file("cilium");
    std::fs::create_dir_all(&library).context("can't create a folder for Cilium")?;
    symlink(starter.binaries.path(Tool::CiliumBpf)?, library.join("bpf")).context("can't link Cilium's sources")?;

    let nodes: Api<Node> = Api::all(control_plane.client().await?);
    wait::eventually(wait::DEADLINE, "the node has addresses for its pods", async || {
        starter.check()?;
        let node = nodes.get(NAME).await?;
        Ok(node.spec.and_then(|spec| spec.pod_cidr).map(drop))
    })
    .await?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([tools.clone()].into_iter().chain(std::env::split_paths(&path)))?;
    // Not to where containerd looks: it misses what is renamed into its folder.
    let configuration = starter.file("cilium.conflist");
    starter.start(
        "cilium-agent",
        starter
            .enclosure
            .command(starter.binaries.path(Tool::CiliumAgent)?)
            .env("PATH", path)
            .env("K8S_NODE_NAME", NAME)
            .arg(format!("--k8s-kubeconfig-path={}", control_plane.kubeconfig_path().display()))
            .arg(format!("--ipv4-native-routing-cidr={}", starter.enclosure.pods()))
            .arg(format!("--lib-dir={}", library.display()))
            .arg(format!("--write-cni-conf-when-ready={}", configuration.display()))
            .arg(format!("--cni-log-file={}", starter.file("cilium-cni.log").display()))
            .arg(format!("--socket-path={SOCKET}"))
            .args([
                "--enable-ipv4=true",
                "--enable-ipv6=false",
                "--ipam=kubernetes",
                "--identity-allocation-mode=crd",
                "--routing-mode=native",
                "--enable-ipv4-masquerade=false",
                "--kube-proxy-replacement=false",
                "--devices=eth0",
                "--bpf-root=/sys/fs/bpf",
                "--cgroup-root=/run/cilium/cgroupv2",
                "--state-dir=/run/cilium",
                "--enable-hubble=false",
                "--enable-health-checking=false",
                "--enable-endpoint-health-checking=false",
                "--enable-l7-proxy=false",
                "--preallocate-bpf-maps=false",
            ]),
    )?;
    wait::eventually(wait::DEADLINE, "Cilium's agent is ready", async || {
        starter.check()?;
        Ok(configuration.exists().then_some(()))
    })
    .await?;
    let content = std::fs::read(&configuration).context("can't read Cilium's configuration")?;
    std::fs::write(starter.cni_configuration().join("10-cilium.conflist"), content)
        .context("can't put Cilium's network in force")
}

fn read_definitions(folder: &Path, definitions: &mut Vec<CustomResourceDefinition>) -> Result<()> {
    for entry in std::fs::read_dir(folder).context("can't read Cilium's CRDs")? {
        let path = entry?.path();
        if path.is_dir() {
            read_definitions(&path, definitions)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
            let definition = serde_saphyr::from_str(&text);
            definitions.push(definition.with_context(|| format!("{} is no CRD", path.display()))?);
        }
    }
    Ok(())
}

/// Empties the agent's maps of flows; says how many there were.
pub(super) fn forget_flows(enclosure: &Enclosure, binaries: &Binaries) -> Result<usize> {
    let tool = binaries.path(Tool::CiliumDbg)?.display().to_string();
    let flushed = enclosure.run(&tool, &["bpf", "ct", "flush"])?;
    let said = String::from_utf8_lossy(&flushed.stdout).into_owned();
    let counts: Vec<usize> =
        said.lines().filter_map(|line| line.strip_prefix("Flushed ")?.split(' ').next()?.parse().ok()).collect();
    ensure!(!counts.is_empty(), "it says {said:?}");
    Ok(counts.into_iter().sum())
}
