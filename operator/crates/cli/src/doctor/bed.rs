//! Where it is tried: a namespace of its own, a pod that listens, and one that connects to it.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names;
use serde_json::{Value, json};

use crate::CliError;
use crate::client::{ask, list};

/// Label of what doctors make.
const DOCTOR: &str = "quell.dev/doctor";
/// The label by which a policy selects the pod that listens once it gets it.
const CUT: &str = "quell.dev/doctor-cut";
const LISTENER: &str = "listener";
/// The pod that connects.
pub(super) const CLIENT: &str = "client";
const PORT: u16 = 8080;
/// Nothing of a doctor lasts longer, also where it was killed.
const LIFE: Duration = Duration::from_mins(10);
/// Between two looks at a pod that starts: no watch is worth it for one pod and a minute.
const LOOK: Duration = Duration::from_millis(250);

/// A namespace that is there for this doctor.
pub(super) struct Bed {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl Bed {
    /// Makes the namespace. What an earlier doctor left that was killed is removed.
    pub(super) async fn make(client: Client) -> Result<Self, CliError> {
        let all: Api<Namespace> = Api::all(client.clone());
        let old = Utc::now() - TimeDelta::from_std(2 * LIFE).unwrap_or_default();
        let left = list(&all, &ListParams::default().labels(DOCTOR)).await?;
        for one in left.iter().filter(|one| created(one).is_some_and(|at| at < old)) {
            let name = one.name_any();
            ask(format!("deleting Namespace {name}"), all.delete(&name, &DeleteParams::default())).await?;
        }
        let wanted = object(json!({
            "metadata": {
                "generateName": "quell-doctor-",
                "labels": {
                    DOCTOR: "yes", names::MANAGED_BY: "kubectl-quell",
                    "pod-security.kubernetes.io/enforce": "restricted", "istio-injection": "disabled",
                },
                "annotations": {"linkerd.io/inject": "disabled"},
            },
        }))?;
        let made =
            ask("creating a Namespace to try the network in", all.create(&PostParams::default(), &wanted)).await?;
        Ok(Self { client, namespace: made.name_any() })
    }

    /// Deletes the namespace, with all that is in it.
    pub(super) async fn remove(&self) -> Result<(), CliError> {
        let all: Api<Namespace> = Api::all(self.client.clone());
        let doing = format!("deleting Namespace {}", self.namespace);
        ask(doing, all.delete(&self.namespace, &DeleteParams::default())).await.map(drop)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Starts the pod that listens; its address and port.
    pub(super) async fn listen(&self, image: &str, within: Duration) -> Result<String, CliError> {
        let lasts = LIFE.as_secs().to_string();
        let port = PORT.to_string();
        self.start(LISTENER, image, &["probe", "listen", "--port", &port, "--for", &lasts]).await?;
        let address = self.running(LISTENER, within).await?;
        Ok(if address.contains(':') { format!("[{address}]:{PORT}") } else { format!("{address}:{PORT}") })
    }

    /// Starts the pod that connects to it.
    pub(super) async fn connect(&self, image: &str, target: &str, within: Duration) -> Result<(), CliError> {
        let lasts = LIFE.as_secs().to_string();
        self.start(CLIENT, image, &["probe", "watch", "--target", target, "--for", &lasts]).await?;
        self.running(CLIENT, within).await.map(drop)
    }

    async fn start(&self, name: &str, image: &str, arguments: &[&str]) -> Result<(), CliError> {
        let pod = object(json!({
            "metadata": {"name": name, "labels": {DOCTOR: name, "sidecar.istio.io/inject": "false"}},
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": LIFE.as_secs(),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "probe", "image": image, "args": arguments,
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        }))?;
        let api = self.pods();
        let started = tokio::time::Instant::now();
        loop {
            // Its ServiceAccount is there a moment after the namespace.
            match ask(format!("creating Pod {}/{name}", self.namespace), api.create(&PostParams::default(), &pod)).await
            {
                Err(error) if error.is_forbidden() && started.elapsed() < Duration::from_secs(5) => {
                    tokio::time::sleep(LOOK).await;
                }
                other => return other.map(drop),
            }
        }
    }

    /// Waits until the pod runs; its address.
    async fn running(&self, name: &str, within: Duration) -> Result<String, CliError> {
        let api = self.pods();
        let started = tokio::time::Instant::now();
        loop {
            let pod = ask(format!("reading Pod {}/{name}", self.namespace), api.get(name)).await?;
            let status = pod.status.unwrap_or_default();
            let phase = status.phase.unwrap_or_default();
            if phase == "Running"
                && let Some(address) = status.pod_ip.filter(|address| !address.is_empty())
            {
                return Ok(address);
            }
            let waits = status.container_statuses.into_iter().flatten().find_map(|one| one.state?.waiting);
            let why = waits.map(|waits| {
                let message = waits.message.map(|message| format!(": {message}")).unwrap_or_default();
                format!("{}{message}", waits.reason.unwrap_or_default())
            });
            let ended = matches!(phase.as_str(), "Failed" | "Succeeded");
            if ended || started.elapsed() > within {
                let unscheduled = status.conditions.into_iter().flatten().find(|one| one.status == "False");
                let why = why.or(unscheduled.and_then(|one| one.message)).unwrap_or_else(|| format!("it is {phase}"));
                let message = format!(
                    "pod {name} did not start within {} s ({why}); its image must be one that holds `quell`, which nodes can pull without \
                     a Secret: --image",
                    within.as_secs()
                );
                return Err(CliError::Refused(message));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A policy that denies everything to the pod that listens; to what has the label, where it doesn't have it yet.
    pub(super) async fn deny(&self, once_labelled: bool) -> Result<(), CliError> {
        let (name, labels) =
            if once_labelled { ("labelled", json!({CUT: "yes"})) } else { ("deny", json!({DOCTOR: LISTENER})) };
        let policy = object(json!({
            "metadata": {"name": name},
            "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"]},
        }))?;
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), &self.namespace);
        ask("creating a NetworkPolicy", api.create(&PostParams::default(), &policy)).await.map(drop)
    }

    /// Takes that policy away again.
    pub(super) async fn allow(&self) -> Result<(), CliError> {
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), &self.namespace);
        ask("deleting a NetworkPolicy", api.delete("deny", &DeleteParams::default())).await.map(drop)
    }

    /// Gives the pod that listens the label.
    pub(super) async fn label(&self) -> Result<(), CliError> {
        let patch = Patch::Merge(json!({"metadata": {"labels": {CUT: "yes"}}}));
        ask("labelling a pod", self.pods().patch(LISTENER, &PatchParams::default(), &patch)).await.map(drop)
    }
}

fn created(namespace: &Namespace) -> Option<chrono::DateTime<Utc>> {
    namespace.metadata.creation_timestamp.as_ref().map(quell_crds::time::from_kubernetes)
}

fn object<K: serde::de::DeserializeOwned>(object: Value) -> Result<K, CliError> {
    serde_json::from_value(object).map_err(|error| CliError::Refused(format!("an object of the doctor's own: {error}")))
}
