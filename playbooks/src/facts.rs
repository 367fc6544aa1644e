//! What is known of the cluster when a decision is made.

use std::collections::BTreeMap;

use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{Finding, RemediationStatus, Vulnerability, Workload};
use serde_json::{Value, json};

use crate::cel::Scope;
use crate::related::Related;

/// The facts of one pod, trimmed to what decisions and actions need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations that start with `quell.dev/`; `None` where the pod has no annotations at all.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Node that it runs on.
    pub node: String,
    /// Whether it shares its node's network, which no policy covers.
    pub host_network: bool,
    /// ServiceAccount that it runs as.
    pub service_account: String,
    /// Its addresses: one, or one of IPv4 and one of IPv6.
    pub addresses: Vec<String>,
    /// What controls it, such as a ReplicaSet.
    pub controller: Option<Controller>,
}

/// The object that controls a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// API version; with it the kind is told from another project's of the same name.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// What is known of a Finding's target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly always the largest one")]
pub enum TargetState {
    /// The pod that the Finding means.
    Pod(PodFacts),
    /// No pod of that name is there, or no longer.
    #[default]
    Gone,
    /// Another pod has that name now.
    Replaced {
        /// Its UID.
        uid: String,
    },
    /// The target isn't a pod.
    NotAPod,
}

impl TargetState {
    /// The pod, where it is there.
    #[must_use]
    pub fn pod(&self) -> Option<&PodFacts> {
        match self {
            Self::Pod(pod) => Some(pod),
            _ => None,
        }
    }
}

/// What a target opens to others by its own settings and by Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, and expressions see it as such")]
pub struct Exposure {
    /// Services that choose it, those that are open to the outside first; at most 20.
    pub services: Vec<ServiceFacts>,
    /// What leads requests from outside of the cluster to them, Ingresses first; at most 20.
    pub ingresses: Vec<RouteFacts>,
    /// It is on its node's network.
    pub host_network: bool,
    /// It sees its node's processes.
    pub host_pid: bool,
    /// It shares its node's memory between processes.
    pub host_ipc: bool,
    /// Ports of its node that are its own.
    pub host_ports: Vec<i32>,
    /// A container of it is privileged.
    pub privileged: bool,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: String,
    /// Whether it is open to the outside: by a port of each node, a load balancer, or an external address.
    pub external: bool,
}

/// What leads requests from outside of the cluster to a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteFacts {
    /// `Ingress` or `HTTPRoute`.
    pub kind: String,
    /// Namespace; of an `HTTPRoute` it may be another than that of the Service.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Hosts for which it does; `*` for any. At most 20.
    pub hosts: Vec<String>,
}

impl Exposure {
    /// Whether it can be reached from outside of the cluster by a Service, or by what leads to one.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.services.iter().any(|one| one.external) || !self.ingresses.is_empty()
    }
}

/// Everything that one decision may look at.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The Finding.
    pub finding: Finding,
    /// Its target.
    pub target: TargetState,
    /// The topmost owner of the target.
    pub workload: Option<Workload>,
    /// Labels of the Finding's namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// The Finding is in a namespace that has no say over its target: whoever may write Findings in one namespace could else have a
    /// ClusterPlaybook act in another.
    pub foreign: bool,
    /// Other open Findings on the same workload or object, the newest first; none where nobody asks for them.
    pub related: Vec<Related>,
    /// What the target opens to others; nothing where nobody asks for it.
    pub exposure: Exposure,
}

/// Variables of a playbook's `match.when`.
pub const MATCH_VARIABLES: &[&str] = &["finding", "target", "workload", "namespace", "exposure"];
/// Variables of a step's expressions.
pub const STEP_VARIABLES: &[&str] = &["finding", "target", "workload", "namespace", "exposure", "remediation", "steps"];

impl World {
    /// What a playbook's `match.when` sees. Every field of the API is there, empty where nothing is known, so that
    /// `workload.kind == 'Deployment'` is false and no error for a target that has no workload.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::default()
            .with("finding", &self.finding_value())
            .with("target", &self.target_value())
            .with("workload", &self.workload_value())
            .with("exposure", &self.exposure_value())
            .with(
                "namespace",
                &json!({
                    "name": self.finding.metadata.namespace.clone().unwrap_or_default(),
                    "labels": self.namespace_labels,
                }),
            )
    }

    /// What a step's expressions see: the same, the run, and the outputs of the steps so far.
    #[must_use]
    pub fn step_scope(&self, remediation: &str, playbook: &str, status: &RemediationStatus) -> Scope {
        let complete = conditions::find(&status.conditions, ConditionType::Complete);
        let steps = status.steps.iter().map(|record| {
            let value = json!({
                "state": record.state.to_string(),
                "reason": record.reason,
                "message": record.message,
                "outputs": record.outputs,
            });
            (record.name.clone(), value)
        });
        self.scope()
            .with(
                "remediation",
                &json!({
                    "name": remediation,
                    "namespace": self.finding.metadata.namespace.clone().unwrap_or_default(),
                    "playbook": playbook,
                    "outcome": status.outcome.map(|outcome| outcome.to_string()).unwrap_or_default(),
                    "message": status.outcome.and(complete).map(|told| told.message.clone()).unwrap_or_default(),
                }),
            )
            .with("steps", &Value::Object(steps.collect()))
    }

    fn finding_value(&self) -> Value {
        let spec = &self.finding.spec;
        let status = self.finding.status.clone().unwrap_or_default();
        let counts = spec.vulnerability_counts.unwrap_or_default();
        let vulnerabilities: Vec<Value> = spec.vulnerabilities.iter().map(vulnerability).collect();
        let related: Vec<Value> = self.related.iter().map(related).collect();
        json!({
            "name": self.finding.metadata.name.clone().unwrap_or_default(),
            "namespace": self.finding.metadata.namespace.clone().unwrap_or_default(),
            "labels": self.finding.metadata.labels.clone().unwrap_or_default(),
            "source": spec.source,
            "tool": spec.tool,
            "rule": spec.rule,
            "category": spec.category,
            "severity": spec.severity,
            "message": spec.message,
            "target": target_fields(spec),
            "vulnerabilities": vulnerabilities,
            "vulnerabilityCounts": counts,
            "details": spec.details,
            "fingerprint": spec.fingerprint,
            "count": status.count,
            "episode": status.episode,
            "related": related,
        })
    }

    fn target_value(&self) -> Value {
        let mut value = target_fields(&self.finding.spec);
        let pod = self.target.pod().cloned().unwrap_or_default();
        value["found"] = json!(self.target.pod().is_some());
        value["labels"] = json!(pod.labels);
        value["hostNetwork"] = json!(pod.host_network);
        value["serviceAccount"] = json!(pod.service_account);
        if !pod.node.is_empty() {
            value["node"] = json!(pod.node);
        }
        value
    }

    fn exposure_value(&self) -> Value {
        let exposure = &self.exposure;
        let services = exposure.services.iter();
        let services: Vec<Value> =
            services.map(|one| json!({ "name": one.name, "type": one.kind, "external": one.external })).collect();
        let ingresses = exposure.ingresses.iter();
        let ingresses: Vec<Value> = ingresses
            .map(|one| json!({ "kind": one.kind, "namespace": one.namespace, "name": one.name, "hosts": one.hosts }))
            .collect();
        json!({
            "services": services, "ingresses": ingresses, "external": exposure.is_external(),
            "hostNetwork": exposure.host_network, "hostPID": exposure.host_pid, "hostIPC": exposure.host_ipc,
            "hostPorts": exposure.host_ports, "privileged": exposure.privileged,
        })
    }

    fn workload_value(&self) -> Value {
        let workload = self.workload.clone().unwrap_or_default();
        json!({
            "apiVersion": workload.api_version, "kind": workload.kind, "namespace": workload.namespace,
            "name": workload.name, "uid": workload.uid,
        })
    }
}

/// What the tool doesn't say isn't there: an EPSS of 0 would be a statement.
fn vulnerability(one: &Vulnerability) -> Value {
    let mut value = json!({
        "id": one.id, "package": one.package, "installedVersion": one.installed_version,
        "fixedVersion": one.fixed_version, "severity": one.severity, "score": one.score.unwrap_or_default(),
        "title": one.title,
    });
    let told = [
        ("fixAvailable", one.fix_available.map(Value::from)),
        ("epss", one.epss.map(Value::from)),
        ("knownExploited", one.known_exploited.map(Value::from)),
        ("exploitAvailable", one.exploit_available.map(Value::from)),
    ];
    for (field, told) in told.into_iter().filter_map(|(field, told)| Some((field, told?))) {
        value[field] = told;
    }
    value
}

fn related(one: &Related) -> Value {
    json!({
        "name": one.name, "source": one.source, "tool": one.tool, "rule": one.rule, "category": one.category,
        "severity": one.severity, "state": one.state,
    })
}

fn target_fields(spec: &quell_crds::v1alpha1::FindingSpec) -> Value {
    let target = &spec.target;
    json!({
        "kind": target.kind, "apiVersion": target.api_version, "namespace": target.namespace, "name": target.name,
        "uid": target.uid, "container": target.container, "image": target.image, "digest": target.digest, "node": target.node,
    })
}
