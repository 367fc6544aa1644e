//! The flags of each component.
//!
//! What a test can notice is as in a cluster that kubeadm sets up; what only costs time is not.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::Options;
use super::certificates::Files;
use crate::binaries::{Binaries, Tool};
use crate::lifeline::Lifeline;

/// Ports that were free a moment ago.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    pub(super) api_server: u16,
    pub(super) kubelet: u16,
}

impl Ports {
    /// Below the range from which systems give ports to outgoing connections, which would otherwise take one away
    /// before its component listens.
    pub(super) fn pick(address: Ipv4Addr) -> Result<Self> {
        let mut seed = std::hash::RandomState::new();
        let mut next = || {
            for _ in 0..1000 {
                let random = std::hash::BuildHasher::hash_one(&seed, 0);
                seed = std::hash::RandomState::new();
                let port = 20_000 + u16::try_from(random % 12_000)?;
                let free = |address| std::net::TcpListener::bind((address, port)).is_ok();
                if free(Ipv4Addr::LOCALHOST) && free(address) {
                    return Ok(port);
                }
            }
            anyhow::bail!("no free port on 127.0.0.1 and {address} between 20000 and 32000")
        };
        Ok(Self { etcd: next()?, api_server: next()?, kubelet: next()? })
    }
}

/// Starts components, each with its log in the folder.
pub(super) struct Starter<'a> {
    pub(super) folder: &'a Path,
    pub(super) binaries: &'a Binaries,
    pub(super) lifeline: &'a Lifeline,
    pub(super) files: &'a Files,
    pub(super) ports: Ports,
    pub(super) started: Mutex<Vec<Component>>,
}

/// A component that was started, and how.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) tool: Tool,
    flags: Vec<String>,
}

impl Component {
    /// Starts it, or starts it again; its log goes on where it ended.
    pub(super) fn spawn(&self, folder: &Path, binaries: &Binaries, lifeline: &Lifeline) -> Result<()> {
        let path = folder.join(format!("{}.log", self.tool.name()));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("can't create {}", path.display()))?;
        lifeline.spawn(
            self.tool.name(),
            Command::new(binaries.path(self.tool)?)
                .args(&self.flags)
                .current_dir(folder)
                // Everything is on loopback.
                .env_remove("HTTP_PROXY")
                .env_remove("HTTPS_PROXY")
                .env_remove("http_proxy")
                .env_remove("https_proxy")
                .env_remove("KUBECONFIG")
                .stdin(Stdio::null())
                .stdout(log.try_clone().context("can't share a log")?)
                .stderr(log),
        )?;
        Ok(())
    }
}

impl Starter<'_> {
    fn start(&self, tool: Tool, flags: impl IntoIterator<Item = String>) -> Result<()> {
        let component = Component { tool, flags: flags.into_iter().collect() };
        component.spawn(self.folder, self.binaries, self.lifeline)?;
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(component);
        Ok(())
    }

    fn in_folder(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(super) fn etcd(&self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.ports.etcd);
        self.start(
            Tool::Etcd,
            [
                format!("--data-dir={}", self.in_folder("etcd")),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                // A single member has no peers; any port does.
                "--listen-peer-urls=http://127.0.0.1:0".into(),
                "--log-level=warn".into(),
                // The data dies with the control plane.
                "--unsafe-no-fsync=true".into(),
                "--quota-backend-bytes=8589934592".into(),
            ],
        )
    }

    pub(super) fn api_server(&self, options: &Options) -> Result<()> {
        let files = self.files;
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
            format!("--secure-port={}", self.ports.api_server),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            format!("--tls-cert-file={}", files.serving.display()),
            format!("--tls-private-key-file={}", files.serving_key.display()),
            format!("--client-ca-file={}", files.authority.display()),
            format!("--kubelet-certificate-authority={}", files.authority.display()),
            format!("--kubelet-client-certificate={}", files.kubelet_client.display()),
            format!("--kubelet-client-key={}", files.kubelet_client_key.display()),
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--service-account-key-file={}", files.service_account_public_key.display()),
            format!("--service-account-signing-key-file={}", files.service_account_key.display()),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            "--profiling=false".into(),
        ];
        match &options.real_node {
            Some(node) => {
                flags.push(format!("--bind-address={}", node.control_plane));
                flags.push(format!("--advertise-address={}", node.control_plane));
            }
            None => flags.extend([
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".into(),
                // The loopback address is refused as an endpoint of the `kubernetes` Service.
                "--endpoint-reconciler-type=none".into(),
            ]),
        }
        if options.audit {
            let policy = self.in_folder("audit-policy.yaml");
            std::fs::write(&policy, AUDIT_POLICY).context("can't write the audit policy")?;
            flags.push(format!("--audit-policy-file={policy}"));
            flags.push(format!("--audit-log-path={}", self.in_folder(super::AUDIT_LOG)));
        }
        flags.extend(options.api_server_flags.iter().cloned());
        self.start(Tool::KubeApiserver, flags)
    }

    pub(super) fn controller_manager(&self, options: &Options) -> Result<()> {
        let files = self.files;
        let more_workers = [
            "deployment",
            "replicaset",
            "statefulset",
            "daemonset",
            "job",
            "namespace",
            "endpoint",
            "service-endpoint",
            "serviceaccount-token",
        ];
        let flags = [
            format!("--kubeconfig={}", self.in_folder("kube-controller-manager.kubeconfig")),
            // One identity a controller, as in a real cluster, so that what they may do is what RBAC says.
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", files.service_account_key.display()),
            format!("--root-ca-file={}", files.authority.display()),
            format!("--cluster-signing-cert-file={}", files.authority.display()),
            format!("--cluster-signing-key-file={}", files.authority_key.display()),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            "--kube-api-qps=2000".into(),
            "--kube-api-burst=4000".into(),
            // A laptop that slept must not wake up to evictions.
            "--node-monitor-grace-period=5m".into(),
        ];
        let workers = more_workers.map(|what| format!("--concurrent-{what}-syncs=20"));
        let pods = options
            .real_node
            .iter()
            .flat_map(|node| ["--allocate-node-cidrs=true".to_owned(), format!("--cluster-cidr={}", node.pods)]);
        self.start(Tool::KubeControllerManager, flags.into_iter().chain(workers).chain(pods))
    }

    pub(super) fn scheduler(&self) -> Result<()> {
        self.start(
            Tool::KubeScheduler,
            [
                format!("--kubeconfig={}", self.in_folder("kube-scheduler.kubeconfig")),
                "--leader-elect=false".into(),
                "--secure-port=0".into(),
                "--kube-api-qps=2000".into(),
                "--kube-api-burst=4000".into(),
            ],
        )
    }

    pub(super) fn kwok(&self) -> Result<()> {
        let config = include_str!("kwok.yaml").replace("@FOLDER@", &self.folder.display().to_string());
        std::fs::write(self.folder.join("kwok.yaml"), config)
            .and_then(|()| std::fs::write(self.folder.join("container.log"), include_str!("container.log")))
            .context("can't write the configuration of kwok")?;
        self.start(
            Tool::Kwok,
            [
                format!("--config={}", self.in_folder("kwok.yaml")),
                format!("--kubeconfig={}", self.in_folder("kwok.kubeconfig")),
                "--manage-all-nodes=true".into(),
                // The one server that answers for the kubelets of all nodes; the API server asks it for logs.
                "--node-ip=127.0.0.1".into(),
                format!("--node-port={}", self.ports.kubelet),
                format!("--server-address=127.0.0.1:{}", self.ports.kubelet),
                format!("--tls-cert-file={}", self.files.serving.display()),
                format!("--tls-private-key-file={}", self.files.serving_key.display()),
            ],
        )
    }
}

const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
";
