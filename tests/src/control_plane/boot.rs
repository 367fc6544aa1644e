//! From nothing to a cluster that runs pods.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Node, NodeSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use tokio::net::TcpStream;

use super::certificates::Authority;
use super::components::{Component, Ports, Starter};
use super::{Options, client_of};
use crate::binaries::Binaries;
use crate::lifeline::Lifeline;

const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(25);
const KWOK_USER: &str = "system:kwok";

/// What has been started.
pub(super) struct Booted {
    pub(super) lifeline: Lifeline,
    pub(super) kubeconfig: Kubeconfig,
    pub(super) components: Vec<Component>,
}

/// Boots into `folder`, which is removed when the control plane ends.
pub(super) async fn boot(folder: &Path, binaries: &Binaries, options: &Options) -> Result<Booted> {
    let lifeline = Lifeline::new(Some(folder))?;
    let address = options.real_node.as_ref().map_or(Ipv4Addr::LOCALHOST, |node| node.control_plane);
    let ports = Ports::pick(address)?;
    let (authority, files) = Authority::create(folder, address).context("can't create certificates")?;
    let server = format!("https://{address}:{}", ports.api_server);
    let kubelet = options.real_node.as_ref().map(|node| format!("system:node:{}", node.name));
    for (name, user, groups) in [
        (super::ADMIN_KUBECONFIG, "quell-admin", ["system:masters"].as_slice()),
        ("kube-controller-manager.kubeconfig", "system:kube-controller-manager", &[]),
        ("kube-scheduler.kubeconfig", "system:kube-scheduler", &[]),
        ("kwok.kubeconfig", KWOK_USER, &[]),
    ]
    .into_iter()
    .chain(kubelet.iter().flat_map(|user| {
        [
            (super::KUBELET_KUBECONFIG, user.as_str(), ["system:nodes"].as_slice()),
            (super::KUBE_PROXY_KUBECONFIG, "system:kube-proxy", &[]),
        ]
    })) {
        let path = folder.join(name);
        std::fs::write(&path, authority.kubeconfig(&server, user, groups)?)
            // People copy it elsewhere, and its mode with it.
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .with_context(|| format!("can't write {name}"))?;
    }
    if let Some(node) = &options.real_node {
        authority.write_server(folder, "kubelet", node.address)?;
    }
    let kubeconfig = Kubeconfig::read_from(folder.join(super::ADMIN_KUBECONFIG))?;

    let starter = Starter { folder, binaries, lifeline: &lifeline, files: &files, ports, started: Mutex::default() };
    let watch = Watch { folder, lifeline: &lifeline, deadline: Instant::now() + PATIENCE };
    starter.etcd()?;
    // A connection refused costs the API server a second of backoff, more than this wait.
    watch.until("etcd listens", async || Ok(TcpStream::connect(("127.0.0.1", ports.etcd)).await.is_ok())).await?;
    starter.api_server(options)?;
    // Not kube's own retries, whose pauses grow: this loop polls, and looks after the processes meanwhile.
    let client = client_of(&kubeconfig, |config| config.default_retry = false).await?;
    watch.until("the API server is ready", async || is_ready(&client).await).await?;

    starter.controller_manager(options)?;
    starter.scheduler()?;
    if options.real_node.is_none() {
        fake_nodes(&client, &starter, &watch, options.nodes).await?;
    }
    watch.until("pods can be created", async || Ok(has_service_account(&client).await?)).await?;
    let components = starter.started.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Booted { lifeline, kubeconfig, components })
}

async fn fake_nodes(client: &Client, starter: &Starter<'_>, watch: &Watch<'_>, count: u32) -> Result<()> {
    let (rights, nodes) = tokio::join!(allow_kwok(client), create_nodes(client, count));
    rights.context("can't give kwok its rights")?;
    nodes.context("can't create nodes")?;
    // Only now: it backs off for a second when it lacks its rights.
    starter.kwok()?;
    watch.until("all nodes are ready", async || nodes_are_ready(client, count).await).await
}

struct Watch<'a> {
    folder: &'a Path,
    lifeline: &'a Lifeline,
    deadline: Instant,
}

impl Watch<'_> {
    async fn until(&self, what: &str, probe: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let mut last = anyhow!("not yet");
        while Instant::now() < self.deadline {
            if let Some((name, status)) = self.lifeline.exited() {
                bail!("{name} ended by itself ({status}); its log ends with:\n{}", super::log_tail(self.folder, &name));
            }
            match probe().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => last = error,
            }
            tokio::time::sleep(POLL).await;
        }
        let logs: Vec<_> = self
            .lifeline
            .children()
            .into_iter()
            .map(|(name, _)| format!("--- {name}\n{}", super::log_tail(self.folder, &name)))
            .collect();
        Err(last.context(format!("gave up waiting until {what} after {} s\n{}", PATIENCE.as_secs(), logs.join("\n"))))
    }
}

async fn is_ready(client: &Client) -> Result<bool> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await??;
    Ok(answer == "ok")
}

async fn nodes_are_ready(client: &Client, wanted: u32) -> Result<bool> {
    let nodes = Api::<Node>::all(client.clone()).list(&kube::api::ListParams::default()).await?;
    let ready = nodes.items.iter().filter(|node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
            && taints.count() == 0
    });
    Ok(u32::try_from(ready.count())? >= wanted)
}

async fn has_service_account(client: &Client) -> kube::Result<bool> {
    Ok(Api::<ServiceAccount>::namespaced(client.clone(), "default").get_opt("default").await?.is_some())
}

/// What kwok's own manifests grant.
async fn allow_kwok(client: &Client) -> kube::Result<()> {
    let grant = |group: &str, resources: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources.iter().map(ToString::to_string).collect()),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    };
    let metadata = ObjectMeta { name: Some(KWOK_USER.to_owned()), ..ObjectMeta::default() };
    let role = ClusterRole {
        metadata: metadata.clone(),
        rules: Some(vec![
            grant("", &["events"], &["create", "patch", "update"]),
            grant("", &["nodes"], &["get", "list", "watch"]),
            grant("", &["nodes/status", "pods/status"], &["patch", "update"]),
            grant("", &["pods"], &["delete", "get", "list", "patch", "update", "watch"]),
            grant("coordination.k8s.io", &["leases"], &["create", "get", "list", "patch", "update", "watch"]),
        ]),
        ..ClusterRole::default()
    };
    let binding = ClusterRoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: KWOK_USER.to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "User".to_owned(),
            name: KWOK_USER.to_owned(),
            namespace: None,
        }]),
    };
    let parameters = PostParams::default();
    let (roles, bindings) = (Api::all(client.clone()), Api::all(client.clone()));
    tokio::try_join!(roles.create(&parameters, &role), bindings.create(&parameters, &binding))?;
    Ok(())
}

async fn create_nodes(client: &Client, count: u32) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    for index in 0..count {
        let name = format!("node-{}", index + 1);
        let labels = [
            ("kubernetes.io/hostname", name.clone()),
            ("kubernetes.io/os", "linux".to_owned()),
            ("kubernetes.io/arch", crate::binaries::goarch().to_owned()),
            ("topology.kubernetes.io/zone", format!("zone-{}", index % 3 + 1)),
        ];
        let pods = format!("10.{}.{}.0/20", 128 + index / 16, index % 16 * 16);
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name),
                labels: Some(BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value)))),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                // Else all nodes would give out the same addresses.
                pod_cidr: Some(pods.clone()),
                pod_cidrs: Some(vec![pods]),
                ..NodeSpec::default()
            }),
            ..Node::default()
        };
        nodes.create(&PostParams::default(), &node).await?;
    }
    Ok(())
}
