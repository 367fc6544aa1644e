//! Quell, from the POST of an alert on.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use quell_crds::names;
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, FindingState, Remediation, Source};
use serde_json::{Value, json};

use super::bare::AT_ONCE;
use super::seen::{Seen, light};
use crate::fixtures::{Described as _, PodCarrier as _, pod};
use crate::operator::source_spec;
use crate::{ControlPlane, Operator, Options, TestNamespace, wait};

/// Name of the Source that alerts are posted to.
pub const SOURCE: &str = "falco";

/// An operator at work on the pods of one namespace.
pub struct Quell<'a> {
    operator: &'a Operator,
    namespace: TestNamespace,
    seen: Seen,
    recorded: Seen,
    /// How long the sender waited for its answer, which says that the Finding is durable; one for each alert alone.
    pub answered: Vec<Duration>,
}

/// A control plane with so many nodes, with all that Quell needs there, [declared](declare).
pub async fn control_plane(nodes: u32) -> Result<ControlPlane> {
    let control_plane = ControlPlane::start(Options { nodes, ..Options::default() }).await?;
    crate::operator::prepare(&control_plane).await?;
    declare(&control_plane).await?;
    Ok(control_plane)
}

/// Quell at work there, as a process of this binary ([`crate::operator::run_as_quell`]), by its usual way to the API server or by another.
pub async fn start(control_plane: &ControlPlane, kubeconfig: Option<&Path>, flags: &[&str]) -> Result<Operator> {
    let kubeconfig = kubeconfig.unwrap_or(control_plane.kubeconfig_path());
    let operator = Operator::start_by(&std::env::current_exe()?, control_plane, kubeconfig, flags).await?;
    playbook_is_ready(control_plane).await?;
    Ok(operator)
}

/// A Source for Falco, and a playbook that quarantines.
pub async fn declare(control_plane: &ControlPlane) -> Result<()> {
    let client = control_plane.client().await?;
    let apply = PatchParams::apply("quell-floor").force();
    let source = json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": "Source", "metadata": { "name": SOURCE }, "spec": source_spec("falco"),
    });
    Api::<Source>::all(client.clone()).patch(SOURCE, &apply, &Patch::Apply(&source)).await?;
    let playbook = json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": "ClusterPlaybook", "metadata": { "name": "contain" },
        "spec": {
            "match": { "sources": [SOURCE], "minSeverity": "High", "when": "finding.rule.matches('(?i)reverse shell|terminal shell')" },
            "steps": [{ "name": "contain", "quarantine": { "detach": true } }],
        },
    });
    let playbooks: Api<ClusterPlaybook> = Api::all(client);
    playbooks.patch("contain", &apply, &Patch::Apply(&playbook)).await?;
    Ok(())
}

/// Waits until the operator has taken the playbook in.
pub async fn playbook_is_ready(control_plane: &ControlPlane) -> Result<()> {
    let playbooks: Api<ClusterPlaybook> = Api::all(control_plane.client().await?);
    let ready = |playbook: &ClusterPlaybook| {
        let conditions = playbook.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        quell_crds::conditions::is_true(conditions, quell_crds::conditions::ConditionType::Ready)
    };
    wait::until_present(&playbooks, "contain", "Ready", wait::DEADLINE, ready).await?;
    Ok(())
}

/// An alert as Falco's `http_output` sends it.
#[must_use]
pub fn alert(namespace: &str, pod: &str) -> Value {
    json!({
        "hostname": "node-1", "priority": "Critical", "rule": "Terminal shell in container", "source": "syscall",
        "output": format!("A shell was spawned in a container with an attached terminal (k8s_ns={namespace} k8s_pod_name={pod})"),
        "tags": ["container", "mitre_execution", "shell"], "time": chrono::Utc::now().to_rfc3339(),
        "output_fields": {
            "container.id": "ee97d9c4186f", "container.image.repository": "registry.example/app", "evt.time": 1_685_022_245_478_445_995_i64,
            "k8s.ns.name": namespace, "k8s.pod.name": pod, "proc.cmdline": "sh -i", "proc.name": "sh", "proc.pname": "nginx",
            "proc.tty": 34_816, "user.loginuid": -1, "user.name": "root",
        },
    })
}

/// Creates pods that nothing owns, and waits until they run.
pub async fn pods(namespace: &TestNamespace, names: &[String]) -> Result<()> {
    stream::iter(names)
        .map(|name| async move {
            namespace.create_object(&pod(name).image("registry.example/app:1.0").label("app", "floor")).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    let api: Api<Pod> = namespace.api();
    wait::eventually(Duration::from_mins(5), "all pods run", async || {
        let list = api.list(&ListParams::default()).await?;
        Ok(list.items.iter().all(wait::is_ready).then_some(()))
    })
    .await
}

impl<'a> Quell<'a> {
    /// Begins to watch the pods of the namespace.
    pub async fn start(
        control_plane: &ControlPlane,
        namespace: &TestNamespace,
        operator: &'a Operator,
    ) -> Result<Self> {
        let pods = light::<Pod>(control_plane.client().await?, namespace.name());
        let cut_off = watcher::Config::default().labels(names::QUARANTINE);
        let seen = Seen::by_watch(pods, cut_off, |pod| Some(pod.name_any()));
        let findings: Api<Finding> = Api::namespaced(control_plane.client().await?, namespace.name());
        let recorded = Seen::by_watch(findings, watcher::Config::default(), |finding| {
            let state = finding.status.as_ref().and_then(|status| status.state);
            (state == Some(FindingState::Remediated)).then(|| finding.spec.target.name.clone())
        });
        Ok(Self { operator, namespace: namespace.clone(), seen, recorded, answered: Vec::new() })
    }

    /// One alone: from the POST to the quarantine in a watch.
    pub async fn once(&mut self, pod: &str) -> Result<Duration> {
        let body = alert(self.namespace.name(), pod);
        let began = Instant::now();
        let answer = self.operator.post(SOURCE, &body).await?;
        self.answered.push(began.elapsed());
        ensure!(answer.status == 200, "the alert was refused: {} {}", answer.status, answer.body);
        let end = self.seen.all(&[pod.to_owned()], Duration::from_mins(1)).await?;
        // The records of this one must not be in the way of the next.
        self.recorded.all(&[pod.to_owned()], Duration::from_mins(1)).await?;
        Ok(end - began)
    }

    /// When the pod was seen to be cut off; waits until it is.
    pub async fn contained_at(&mut self, pod: &str) -> Result<Instant> {
        self.seen.all(&[pod.to_owned()], Duration::from_mins(1)).await
    }

    /// Many at once: each from a sender of its own, as from the nodes of a cluster.
    pub async fn burst(&mut self, pods: &[String]) -> Result<Duration> {
        let began = Instant::now();
        stream::iter(pods)
            .map(|pod| async {
                let answer = self.operator.post(SOURCE, &alert(self.namespace.name(), pod)).await?;
                ensure!(answer.status == 200, "an alert was refused: {} {}", answer.status, answer.body);
                Ok(())
            })
            .buffer_unordered(pods.len())
            .try_collect::<Vec<_>>()
            .await?;
        let end = self.seen.all(pods, Duration::from_mins(5)).await?;
        Ok(end - began)
    }

    /// Waits until every pod has one Finding that is remediated, and one run: none lost, none twice.
    pub async fn none_lost_none_twice(&self, pods: &[String]) -> Result<()> {
        let findings: Api<Finding> = self.namespace.api();
        let runs: Api<Remediation> = self.namespace.api();
        wait::eventually(Duration::from_mins(5), "every Finding is remediated", async || {
            let found = findings.list(&ListParams::default()).await?;
            let done = |finding: &&Finding| {
                finding.status.as_ref().and_then(|status| status.state) == Some(FindingState::Remediated)
            };
            let remediated = found.items.iter().filter(done).count();
            ensure!(remediated == found.items.len(), "{remediated} of {} Findings", found.items.len());
            ensure!(found.items.len() >= pods.len(), "{} Findings for {} pods", found.items.len(), pods.len());
            Ok(Some(()))
        })
        .await?;
        let all = runs.list(&ListParams::default()).await?;
        for pod in pods {
            let of_pod: Vec<String> =
                all.items.iter().filter(|run| run.spec.target.name == *pod).map(ResourceExt::name_any).collect();
            ensure!(of_pod.len() == 1, "pod {pod} has the runs {of_pod:?}");
        }
        Ok(())
    }
}
