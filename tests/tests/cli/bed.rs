use std::ffi::OsString;
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams};
use quell_cli::{Exit, Io, run};
use quell_crds::v1alpha1::{Finding, Playbook, Remediation};
use quell_tests::fixtures::{Described as _, pod};
use quell_tests::wait::{self, DEADLINE};
use quell_tests::{ControlPlane, TestNamespace, crds};
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    pub fn text(&self) -> String {
        self.0.lock().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Both outputs hold what they should, and the command ended so.
    pub fn expect(&self, exit: Exit, parts: &[&str]) -> Result<()> {
        for part in parts {
            ensure!(self.out.contains(part) || self.err.contains(part), "{part:?} is missing in {self}");
        }
        ensure!(self.exit == exit, "not {exit:?}: {self}");
        Ok(())
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n--- out\n{}\n--- err\n{}", self.exit, self.out, self.err)
    }
}

pub fn io(input: &str) -> (Io, Kept, Kept) {
    let (out, err) = (Kept::default(), Kept::default());
    let input = Box::new(Cursor::new(input.to_owned()));
    (Io { out: Box::new(out.clone()), err: Box::new(err.clone()), input, colours: false, terminal: true }, out, err)
}

pub struct Bed {
    pub namespace: TestNamespace,
    pub kubeconfig: String,
}

impl Bed {
    pub async fn new(name: &str) -> Result<Self> {
        let cluster = ControlPlane::shared().await?;
        crds::install(cluster).await?;
        let namespace = TestNamespace::create(cluster, name).await?;
        Ok(Self { namespace, kubeconfig: cluster.kubeconfig_path().display().to_string() })
    }

    pub fn arguments(&self, arguments: &[&str]) -> Vec<OsString> {
        let flags = ["--kubeconfig", self.kubeconfig.as_str(), "-n", self.namespace.name()];
        let all = std::iter::once("kubectl-quell").chain(arguments.iter().copied()).chain(flags);
        all.map(OsString::from).collect()
    }

    /// As another program runs it, or `| less`.
    pub async fn quell_piped(&self, arguments: &[&str]) -> Ran {
        let (io, out, err) = io("");
        let exit = run(self.arguments(arguments), &mut Io { terminal: false, ..io }).await;
        Ran { exit, out: out.text(), err: err.text() }
    }

    pub async fn quell(&self, arguments: &[&str], input: &str) -> Ran {
        let (mut io, out, err) = io(input);
        let exit = run(self.arguments(arguments), &mut io).await;
        Ran { exit, out: out.text(), err: err.text() }
    }

    /// A pod, and a Finding about it.
    pub async fn finding(&self, name: &str) -> Result<(Pod, Finding)> {
        self.namespace.create_object(&pod("web-1").label("tier", "front")).await?;
        let there = wait::pod_ready(&self.namespace.api(), "web-1", DEADLINE).await?;
        let finding = self.finding_about(name, &there.uid().context("no UID")?).await?;
        Ok((there, finding))
    }

    pub async fn finding_about(&self, name: &str, uid: &str) -> Result<Finding> {
        let spec = serde_json::from_value(json!({
            "source": "falco", "rule": "Reverse shell", "severity": "Critical", "category": "Runtime",
            "message": "nc -e /bin/sh", "fingerprint": name,
            "target": {"kind": "Pod", "apiVersion": "v1", "namespace": self.namespace.name(), "name": "web-1", "uid": uid,
                "container": "app", "image": "registry.example/app:1.0"},
        }))?;
        self.namespace.create_object(&Finding::new(name, spec)).await
    }

    /// A run that has contained the pod, and failed after that.
    pub async fn run_for(&self, finding: &Finding) -> Result<Remediation> {
        let spec = serde_json::from_value(json!({
            "finding": {"name": finding.name_any(), "uid": finding.uid()},
            "playbook": {"kind": "ClusterPlaybook", "name": "contain", "uid": "p-1", "generation": 3},
            "steps": [
                {"name": "cut", "quarantine": {}},
                {"name": "back", "rollback": {}},
            ],
            "target": finding.spec.target,
        }))?;
        let name = format!("contain-{}", finding.name_any());
        let run = self.namespace.create_object(&Remediation::new(&name, spec)).await?;
        let uid = finding.spec.target.uid.clone();
        let namespace = self.namespace.name();
        self.status(
            &name,
            &json!({
                "observedGeneration": run.metadata.generation,
                "phase": "Failed",
                "startedAt": "2026-11-21T03:12:45Z",
                "finishedAt": "2026-11-21T03:12:47Z",
                "steps": [
                    {"name": "cut", "state": "Succeeded", "reason": "Succeeded", "message": "pod web-1 is cut off", "attempts": 1,
                        "startedAt": "2026-11-21T03:12:45Z", "finishedAt": "2026-11-21T03:12:46Z",
                        "receipt": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "web-1", "uid": uid}},
                    {"name": "back", "state": "Failed", "reason": "TargetUnsupported", "message": "a pod is no Deployment", "attempts": 1,
                        "startedAt": "2026-11-21T03:12:46Z", "finishedAt": "2026-11-21T03:12:47Z"},
                ],
                "conditions": [condition("Complete", "StepFailed", "back failed (TargetUnsupported): a pod is no Deployment")],
            }),
        )
        .await
    }

    pub async fn status(&self, run: &str, status: &Value) -> Result<Remediation> {
        let api: Api<Remediation> = self.namespace.api();
        Ok(api.patch_status(run, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?)
    }

    /// Resource versions of everything that a plan could touch.
    pub async fn versions(&self) -> Result<Vec<String>> {
        let all = ListParams::default();
        let mut versions = Vec::new();
        let told =
            |kind: &str, metadata: &ObjectMeta| format!("{kind} {:?} {:?}", metadata.name, metadata.resource_version);
        versions.extend(self.namespace.api::<Pod>().list(&all).await?.iter().map(|one| told("Pod", &one.metadata)));
        versions.extend(
            self.namespace.api::<NetworkPolicy>().list(&all).await?.iter().map(|one| told("Policy", &one.metadata)),
        );
        versions
            .extend(self.namespace.api::<Finding>().list(&all).await?.iter().map(|one| told("Finding", &one.metadata)));
        versions
            .extend(self.namespace.api::<Remediation>().list(&all).await?.iter().map(|one| told("Run", &one.metadata)));
        versions.extend(
            self.namespace.api::<Playbook>().list(&all).await?.iter().map(|one| told("Playbook", &one.metadata)),
        );
        Ok(versions)
    }
}

pub fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": "2026-11-21T03:12:47Z"})
}
