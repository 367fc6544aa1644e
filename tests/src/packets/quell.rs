//! Quell, from an alert to the quarantine, and back.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use quell_crds::v1alpha1::{Finding, FindingState, Phase, Remediation};
use serde_json::{Value, json};

use super::now;
use crate::floor::quell::{SOURCE, alert};
use crate::{Operator, TestNamespace, wait};

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
