//! An operator for all tests of this binary, and what they say to it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, FindingState, Phase, Remediation, Source};
use quell_tests::fixtures::{PodCarrier as _, Scaled as _, deployment};
use quell_tests::operator::{self, source_spec};
use quell_tests::{ControlPlane, Operator, TestNamespace, guards, probe_jobs, wait};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub const DEADLINE: Duration = Duration::from_mins(1);

static OPERATOR: OnceCell<Operator> = OnceCell::const_new();

/// One test's place: a namespace, the shared operator, and a cluster playbook that is for this namespace alone.
pub struct Bed {
    pub operator: &'static Operator,
    pub namespace: TestNamespace,
}

impl Bed {
    pub async fn new(prefix: &str) -> Result<Self> {
        let control_plane = ControlPlane::shared().await?;
        let operator = OPERATOR
            .get_or_try_init(|| async {
                operator::prepare(control_plane).await?;
                guards::in_force(control_plane, &guards::Guards::default()).await?;
                let sources: Api<Source> = Api::all(control_plane.client().await?);
                for format in ["alertmanager", "falco", "falcosidekick", "trivy"] {
                    apply(&sources, "Source", format, &source_spec(format)).await?;
                }
                let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
                let probing = ["--probe-image", probe_jobs::IMAGE, "--probe-namespace", operator::NAMESPACE];
                let flags = [["--log", "info"], ["--network-plugin", "cilium"]].concat();
                Operator::start(binary, control_plane, &[flags.as_slice(), &probing].concat()).await
            })
            .await?;
        Ok(Self { operator, namespace: TestNamespace::create(control_plane, prefix).await? })
    }

    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// A ClusterPlaybook for this namespace, once it is Ready.
    pub async fn playbook(&self, matching: Value, steps: Value) -> Result<()> {
        self.playbook_with(self.name(), matching, steps, json!({})).await
    }

    /// The same under a name of its own, with settings of its runs. Who gives another name deletes it.
    pub async fn playbook_with(&self, name: &str, matching: Value, steps: Value, settings: Value) -> Result<()> {
        let mut spec = json!({ "match": matching, "namespaces": { "include": [self.name()] }, "steps": steps });
        if let (Some(spec), Some(settings)) = (spec.as_object_mut(), settings.as_object()) {
            spec.extend(settings.clone());
        }
        apply(&self.playbooks(), "ClusterPlaybook", name, &spec).await?;
        wait::until_present(&self.playbooks(), name, "Ready", DEADLINE, |playbook| ready(playbook) == Some(true))
            .await?;
        Ok(())
    }

    pub fn playbooks(&self) -> Api<ClusterPlaybook> {
        Api::all(self.namespace.client().clone())
    }

    /// A Deployment that is rolled out, and one of its pods.
    pub async fn shop(&self, image: &str) -> Result<Pod> {
        self.namespace.create_object(&deployment("shop").image(image).replicas(2)).await?;
        wait::rolled_out(&self.namespace.api::<Deployment>(), "shop", DEADLINE).await?;
        self.a_pod().await
    }

    pub async fn a_pod(&self) -> Result<Pod> {
        let pods: Api<Pod> = self.namespace.api();
        let all = pods.list(&ListParams::default().labels("app=shop")).await?;
        all.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none()).context("the shop has no pod")
    }

    /// Posts a Falco alert about a pod of this namespace, and waits for its Finding.
    pub async fn alert(&self, pod: &str) -> Result<Finding> {
        self.alert_with(pod, json!({})).await
    }

    pub async fn alert_with(&self, pod: &str, fields: Value) -> Result<Finding> {
        let answer = self.operator.post("falco", &falco(self.name(), pod, &fields)).await?;
        let (namespace, name) = answer.finding()?;
        anyhow::ensure!(namespace == self.name(), "the Finding is in {namespace}");
        Ok(self.findings().get(&name).await?)
    }

    pub fn findings(&self) -> Api<Finding> {
        self.namespace.api()
    }

    pub async fn finding_in(&self, name: &str, state: FindingState) -> Result<Finding> {
        let what = format!("in state {state}");
        let is = |finding: &Finding| finding.status.as_ref().and_then(|status| status.state) == Some(state);
        wait::until_present(&self.findings(), name, &what, DEADLINE, is).await
    }

    /// The only run for the Finding, once it is in that phase.
    pub async fn run_in(&self, finding: &str, phase: Phase) -> Result<Remediation> {
        let runs: Api<Remediation> = self.namespace.api();
        wait::eventually(DEADLINE, &format!("a run for {finding} in phase {phase}"), async || {
            let all = runs.list(&ListParams::default().fields(&format!("spec.finding.name={finding}"))).await?;
            match all.items.as_slice() {
                [run] if run.status.as_ref().is_some_and(|status| status.phase == phase) => Ok(Some(run.clone())),
                [run] => bail!("the run is {:#?}", run.status),
                others => bail!("there are {} runs", others.len()),
            }
        })
        .await
    }

    pub async fn undo(&self, run: &str) -> Result<()> {
        self.ask(run, json!({ "intent": "Undo" })).await
    }

    /// Changes what a run is asked for.
    pub async fn ask(&self, run: &str, spec: Value) -> Result<()> {
        let runs: Api<Remediation> = self.namespace.api();
        runs.patch(run, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?;
        Ok(())
    }

    /// An Event with that reason at the Finding.
    pub async fn event(&self, finding: &str, reason: &str) -> Result<String> {
        let events: Api<Event> = self.namespace.api();
        wait::eventually(DEADLINE, &format!("an Event {reason} at {finding}"), async || {
            let all = events.list(&ListParams::default()).await?;
            let of = all.items.iter().filter(|event| event.involved_object.name.as_deref() == Some(finding));
            let found = of.clone().find(|event| event.reason.as_deref() == Some(reason));
            if let Some(event) = found {
                return Ok(Some(event.message.clone().unwrap_or_default()));
            }
            bail!("there are {:?}", of.map(|event| (event.reason.clone(), event.message.clone())).collect::<Vec<_>>())
        })
        .await
    }

    /// Ends the test's playbook, which is in no namespace.
    pub async fn finish(self) -> Result<()> {
        let deleted = self.playbooks().delete(self.name(), &kube::api::DeleteParams::default()).await;
        if let Err(error) = deleted
            && !matches!(&error, kube::Error::Api(status) if status.is_not_found())
        {
            return Err(error.into());
        }
        self.namespace.finish().await
    }
}

pub async fn apply<K>(api: &Api<K>, kind: &str, name: &str, spec: &Value) -> Result<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let object =
        json!({ "apiVersion": "quell.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    Ok(api.patch(name, &PatchParams::apply("quell-tests").force(), &Patch::Apply(&object)).await?)
}

pub fn ready(playbook: &ClusterPlaybook) -> Option<bool> {
    let status = playbook.status.as_ref()?;
    if status.observed_generation != playbook.metadata.generation {
        return None;
    }
    conditions::find(&status.conditions, ConditionType::Ready).map(|ready| ready.status == "True")
}

/// The message of a condition of a Finding, with its reason.
pub fn condition(finding: &Finding, kind: ConditionType) -> Option<(String, String, String)> {
    let found = conditions::find(&finding.status.as_ref()?.conditions, kind)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

/// An alert as Falco's `http_output` sends it; `fields` are added to its output fields.
pub fn falco(namespace: &str, pod: &str, fields: &Value) -> Value {
    let mut alert = json!({
        "hostname": "node-1", "priority": "Critical", "rule": "Terminal shell in container", "source": "syscall",
        "output": "A shell was spawned in a container with an attached terminal", "tags": ["container", "shell"],
        "time": chrono::Utc::now().to_rfc3339(),
        "output_fields": { "container.id": "ee97d9c4186f", "k8s.ns.name": namespace, "k8s.pod.name": pod, "proc.cmdline": "sh -i" },
    });
    if let (Some(there), Some(more)) = (alert["output_fields"].as_object_mut(), fields.as_object()) {
        there.extend(more.clone());
    }
    alert
}

pub fn is_quarantined(pod: &Pod) -> bool {
    pod.labels().contains_key(quell_crds::names::QUARANTINE)
}

/// Matches what the tests' alerts are.
pub fn any_falco() -> Value {
    json!({ "sources": ["falco"] })
}

pub fn quarantine() -> Value {
    json!([{ "name": "contain", "quarantine": {} }])
}
