//! Quell, from an alert to the quarantine, and back.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, FindingState, Phase, Remediation};
use serde_json::{Value, json};

use super::now;
use crate::floor::quell::{SOURCE, alert};
use crate::node::{Plugin, QUELL_IMAGE};
use crate::{ControlPlane, Operator, TestNamespace, wait};

/// What an alert led to.
#[derive(Clone, Debug)]
pub struct Contained {
    /// When its POST began; as of [`now`].
    pub posted: i64,
    /// When it was answered: the Finding is durable.
    pub answered: i64,
    /// Name of the Finding.
    pub finding: String,
}

/// Posts Falco's alert about a pod.
pub async fn report(operator: &Operator, namespace: &TestNamespace, pod: &str) -> Result<Contained> {
    let body = alert(namespace.name(), pod);
    let posted = now();
    let answer = operator.post(SOURCE, &body).await?;
    let answered = now();
    let (_, finding) = answer.finding()?;
    Ok(Contained { posted, answered, finding })
}

impl Contained {
    /// Waits until Quell says that it is done, and gives the run that did it.
    pub async fn remediated(&self, namespace: &TestNamespace) -> Result<Remediation> {
        let done = |finding: &Finding| finding.status.as_ref().and_then(|s| s.state) == Some(FindingState::Remediated);
        wait::until_present(&namespace.api(), &self.finding, "remediated", wait::DEADLINE, done).await?;
        let runs: Api<Remediation> = namespace.api();
        let all = runs.list(&ListParams::default().fields(&format!("spec.finding.name={}", self.finding))).await?;
        all.items.into_iter().next().context("the Finding is remediated, and there is no Remediation")
    }
}

/// What the operator must be told for its Jobs to run on a node of the test bed.
pub const FLAGS: &[&str] = &["--sever-image", QUELL_IMAGE, "--probe-image", QUELL_IMAGE];

/// The namespaces of its Jobs, as the chart makes them, and a playbook that severs.
pub async fn prepare(control_plane: &ControlPlane) -> Result<()> {
    let client = control_plane.client().await?;
    let apply = PatchParams::apply("quell-packets").force();
    for (name, level) in [("quell-sever", "privileged"), ("quell-probe", "restricted")] {
        let namespace: Namespace = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": level } },
        }))?;
        Api::<Namespace>::all(client.clone()).patch(name, &apply, &Patch::Apply(&namespace)).await?;
    }
    let playbook = json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": "ClusterPlaybook", "metadata": { "name": "sever" },
        "spec": { "match": { "sources": ["packets"] }, "steps": [{ "name": "sever", "severConnections": {} }] },
    });
    Api::<ClusterPlaybook>::all(client).patch("sever", &apply, &Patch::Apply(&playbook)).await?;
    ready(control_plane, "sever").await
}

/// Has quarantines probed from now on, or not.
pub async fn probes(control_plane: &ControlPlane, plugin: Option<Plugin>) -> Result<()> {
    let within = match plugin {
        // Where nothing is enforced the time is always over.
        Some(Plugin::None) => json!({ "within": "3s" }),
        Some(Plugin::Calico) => json!({}),
        // A random delay of up to 30 s and 5 s more until a pod with new labels is closed.
        Some(Plugin::Cilium) => json!({ "within": "90s" }),
        None => Value::Null,
    };
    let steps = json!([{ "name": "contain", "quarantine": { "detach": true, "probe": within } }]);
    let playbooks: Api<ClusterPlaybook> = Api::all(control_plane.client().await?);
    let patch = Patch::Merge(json!({ "spec": { "steps": steps } }));
    playbooks.patch("contain", &PatchParams::default(), &patch).await?;
    ready(control_plane, "contain").await
}

/// Waits until the operator has taken the playbook in as it is now.
async fn ready(control_plane: &ControlPlane, name: &str) -> Result<()> {
    let playbooks: Api<ClusterPlaybook> = Api::all(control_plane.client().await?);
    let is_ready = |playbook: &ClusterPlaybook| {
        let conditions = playbook.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready = conditions::find(conditions, ConditionType::Ready);
        ready.is_some_and(|one| one.status == "True" && one.observed_generation == playbook.metadata.generation)
    };
    wait::until_present(&playbooks, name, "Ready", wait::DEADLINE, is_ready).await?;
    Ok(())
}

/// Asks for the undo, and waits until it is done.
pub async fn undo(namespace: &TestNamespace, run: &Remediation) -> Result<()> {
    let runs: Api<Remediation> = namespace.api();
    let intent = Patch::Merge(json!({ "spec": { "intent": "Undo" } }));
    runs.patch(&run.name_any(), &PatchParams::default(), &intent).await?;
    wait::eventually(wait::DEADLINE, "the quarantine is undone", async || {
        match runs.get(&run.name_any()).await?.status {
            Some(status) if status.phase == Phase::Undone => Ok(Some(())),
            status => bail!("the run is {status:?}"),
        }
    })
    .await
}

/// Creates a NetworkPolicy for both directions: `rules` is what it allows in each.
pub async fn policy(namespace: &TestNamespace, name: &str, selector: &Value, rules: &Value) -> Result<()> {
    let policy: NetworkPolicy = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "podSelector": selector, "policyTypes": ["Ingress", "Egress"], "ingress": rules, "egress": rules,
        },
    }))?;
    namespace.api().create(&PostParams::default(), &policy).await?;
    Ok(())
}

/// Deletes such a policy.
pub async fn delete_policy(namespace: &TestNamespace, name: &str) -> Result<()> {
    namespace.api::<NetworkPolicy>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// The rules of a policy that allows everything.
#[must_use]
pub fn everything() -> Value {
    json!([{}])
}

/// The rules of a policy that allows nothing.
#[must_use]
pub fn nothing() -> Value {
    json!([])
}
