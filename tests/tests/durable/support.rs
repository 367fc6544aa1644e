//! A control plane of its own, and operators that reach it through gates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use quell_crds::v1alpha1::{Finding, Source};
use quell_tests::operator::{Answer, source_spec};
use quell_tests::{ControlPlane, Gate, Operator, Options, TestNamespace, wait};
use serde_json::{Value, json};

pub const DEADLINE: Duration = Duration::from_mins(1);

/// The operator's binary.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_quell"))
}

/// A control plane with a Source, and a namespace.
pub struct Bed {
    pub control_plane: ControlPlane,
    pub namespace: TestNamespace,
    pub client: Client,
}

impl Bed {
    pub async fn new(prefix: &str) -> Result<Self> {
        let control_plane = ControlPlane::start(Options::default()).await?;
        quell_tests::operator::prepare(&control_plane).await?;
        let client = control_plane.client().await?;
        apply(&Api::<Source>::all(client.clone()), "Source", "falco", &source_spec("falco")).await?;
        let namespace = TestNamespace::create(&control_plane, prefix).await?;
        Ok(Self { control_plane, namespace, client })
    }

    /// An operator that keeps in `spool` what it can't store, behind a gate.
    pub async fn operator(&self, gate: &Gate, spool: &Path, flags: &[&str]) -> Result<Operator> {
        let spool = spool.to_str().context("a path that is no text")?;
        let flags = [&["--spool", spool, "--lease-seconds", "3"], flags].concat();
        Operator::start_by(binary(), &self.control_plane, &gate.kubeconfig(&self.control_plane)?, &flags).await
    }

    pub fn spool(&self, name: &str) -> PathBuf {
        self.control_plane.dir().join(name)
    }

    /// Posts an alert about a pod, which must be taken.
    pub async fn alert(&self, operator: &Operator, pod: &str) -> Result<Answer> {
        let answer = operator.post("falco", &alert(self.namespace.name(), pod, &json!({}))).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(answer)
    }

    /// The count of each Finding, by its pod.
    pub async fn counts(&self) -> Result<Vec<(String, i64)>> {
        let findings: Api<Finding> = self.namespace.api();
        let all = findings.list(&kube::api::ListParams::default()).await?;
        let count = |finding: &Finding| finding.status.as_ref().map_or(1, |status| status.count);
        let mut counts: Vec<_> = all.iter().map(|one| (one.spec.target.name.clone(), count(one))).collect();
        counts.sort();
        Ok(counts)
    }

    pub async fn counts_are(&self, expected: &[(String, i64)]) -> Result<()> {
        wait::eventually(DEADLINE, "the counts", async || {
            let counts = self.counts().await?;
            ensure!(counts == expected, "they are {counts:?}");
            Ok(Some(()))
        })
        .await
    }

    pub async fn finish(self) -> Result<()> {
        self.control_plane.stop().await
    }
}

/// Whether the answer came from the disk.
pub fn spooled(answer: &Answer) -> bool {
    answer.body["findings"][0]["spooled"] == json!(true)
}

/// A gauge or counter; none where it isn't there.
pub async fn metric(operator: &Operator, name: &str) -> Result<Option<f64>> {
    let text = operator.metrics().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().context("a number")).transpose()
}

pub async fn metric_is(operator: &Operator, name: &str, expected: f64) -> Result<()> {
    wait::eventually(DEADLINE, &format!("{name} is {expected}"), async || {
        let value = metric(operator, name).await?;
        ensure!(value.is_some_and(|value| (value - expected).abs() < 0.5), "it is {value:?}");
        Ok(Some(()))
    })
    .await
}

pub async fn apply<K>(api: &Api<K>, kind: &str, name: &str, spec: &Value) -> Result<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let object =
        json!({ "apiVersion": "quell.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    Ok(api.patch(name, &PatchParams::apply("quell-tests").force(), &Patch::Apply(&object)).await?)
}

/// An alert as Falco's `http_output` sends it.
pub fn alert(namespace: &str, pod: &str, fields: &Value) -> Value {
    let mut alert = quell_tests::floor::quell::alert(namespace, pod);
    if let (Some(there), Some(more)) = (alert["output_fields"].as_object_mut(), fields.as_object()) {
        there.extend(more.clone());
    }
    alert
}

/// Sends a signal, such as `STOP`, to a process that a test has started.
pub async fn signal(name: &str, process: u32) -> Result<()> {
    let sent = tokio::process::Command::new("kill").args(["-s", name, &process.to_string()]).status().await?;
    ensure!(sent.success(), "kill -s {name} {process}");
    Ok(())
}
