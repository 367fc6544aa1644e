//! containerd, kubelet and kube-proxy inside the enclosure.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::enclosure::{Enclosure, NAME};
use super::image;
use crate::binaries::{Binaries, Tool};
use crate::control_plane::{AUTHORITY, KUBE_PROXY_KUBECONFIG, KUBELET_KUBECONFIG};
use crate::lifeline::Lifeline;
use crate::{ControlPlane, wait};

/// The image of the probe.
pub const PROBE_IMAGE: &str = "quell.test/probe:1";
const PAUSE_IMAGE: &str = "quell.test/pause:1";
const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";

/// Starts what a node consists of.
pub(super) struct Starter<'a> {
    pub(super) enclosure: &'a Enclosure,
    pub(super) binaries: &'a Binaries,
    pub(super) lifeline: &'a Lifeline,
}

impl Starter<'_> {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.enclosure.folder().join(name)
    }

    /// Starts a program inside, with its log in the folder.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<()> {
        let path = self.file(&format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone().context("can't share a log")?).stderr(log);
        self.lifeline.spawn(name, command).map(drop)
    }

    pub(super) fn write(&self, name: &str, content: &Value) -> Result<PathBuf> {
        let path = self.file(name);
        std::fs::write(&path, content.to_string()).with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }

    /// containerd with the images of the test bed; no network plugin is configured yet.
    pub(super) async fn containerd(&self) -> Result<()> {
        let (programs, configuration) = (self.cni_programs(), self.cni_configuration());
        for folder in [&programs, &configuration] {
            std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
        }
        for entry in std::fs::read_dir("/usr/lib/cni").context("can't read /usr/lib/cni")?.flatten() {
            symlink(entry.path(), programs.join(entry.file_name())).context("can't link a CNI plugin")?;
        }
        // Version 2 is what 1.6 and 1.7 speak, and 2.x reads.
        let config = format!(
            r#"version = 2
root = "{root}"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}"
    conf_dir = "{configuration}"
"#,
            root = self.file("containerd").display(),
            programs = programs.display(),
            configuration = configuration.display(),
        );
        let path = self.file("containerd.toml");
        std::fs::write(&path, config).context("can't write containerd's configuration")?;
        self.start("containerd", self.enclosure.command("containerd").arg("--config").arg(path))?;
        wait::eventually(wait::DEADLINE, "containerd answers", async || {
            self.check()?;
            self.enclosure.run("ctr", &["version"]).map(Some)
        })
        .await?;
        let probe = self.binaries.path(Tool::Probe)?;
        for (name, arguments) in [(PAUSE_IMAGE, ["pause"].as_slice()), (PROBE_IMAGE, &[])] {
            let archive = self.file("image.tar");
            image::write(&archive, name, probe, arguments)?;
            self.enclosure.import(&archive)?;
        }
        Ok(())
    }

    pub(super) fn kubelet(&self, control_plane: &ControlPlane) -> Result<()> {
        let folder = control_plane.dir();
        let address = self.enclosure.inside().to_string();
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupRoot": "/", "enforceNodeAllocatable": [],
            "failSwapOn": false, "address": address, "healthzPort": 0,
            "authentication": {
                "anonymous": { "enabled": false }, "webhook": { "enabled": false },
                "x509": { "clientCAFile": folder.join(AUTHORITY) },
            },
            "authorization": { "mode": "AlwaysAllow" },
            "tlsCertFile": folder.join("kubelet.crt"), "tlsPrivateKeyFile": folder.join("kubelet.key"),
            "containerRuntimeEndpoint": CONTAINERD,
            "clusterDNS": [super::DNS_ADDRESS], "clusterDomain": "cluster.local", "resolvConf": "",
            // The machine may be fuller than a node would let itself be.
            "evictionHard": { "memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%" },
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "volumePluginDir": self.file("volume-plugins"),
            "nodeStatusUpdateFrequency": "5s", "serializeImagePulls": false,
        });
        let config = self.write("kubelet.json", &config)?;
        self.start(
            "kubelet",
            self.enclosure
                .command(self.binaries.path(Tool::Kubelet)?)
                .arg(flag("config", &config))
                .arg(flag("kubeconfig", &folder.join(KUBELET_KUBECONFIG)))
                .args([format!("--hostname-override={NAME}"), format!("--node-ip={address}")]),
        )
    }

    pub(super) fn kube_proxy(&self, control_plane: &ControlPlane) -> Result<()> {
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": "nftables", "clusterCIDR": self.enclosure.pods(), "hostnameOverride": NAME,
            "clientConnection": { "kubeconfig": control_plane.dir().join(KUBE_PROXY_KUBECONFIG) },
            // These limits are the whole machine's.
            "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        });
        let config = self.write("kube-proxy.json", &config)?;
        let mut command = self.enclosure.command(self.binaries.path(Tool::KubeProxy)?);
        self.start("kube-proxy", command.arg(flag("config", &config)))
    }

    /// An error if a program of the node has ended by itself.
    pub(super) fn check(&self) -> Result<()> {
        super::check(self.lifeline, self.enclosure)
    }

    /// Where CNI plugins lie.
    pub(super) fn cni_programs(&self) -> PathBuf {
        self.file("cni")
    }

    /// Where the network's configuration is looked for.
    pub(super) fn cni_configuration(&self) -> PathBuf {
        self.file("cni-configuration")
    }

    /// Puts the network in force; until then the node isn't ready.
    pub(super) fn network(&self, plugins: &Value) -> Result<()> {
        let list = json!({ "cniVersion": "0.4.0", "name": "quell", "plugins": plugins });
        self.write("cni-configuration/10-quell.conflist", &list).map(drop)
    }

    /// A network that enforces nothing.
    pub(super) fn bridge(&self) -> Result<()> {
        self.network(&json!([{
            "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{ "subnet": self.enclosure.pods() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }]))
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
