use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::Duration;

mod credential;
mod limits;
mod mapping;
mod tool;

pub use credential::{
    Basic, BearerToken, CertificateAuthority, ClientCertificate, ConfigMapKey, Hmac, HmacAlgorithm, HmacEncoding,
    HmacTimestamp, ServiceAccountName, ServiceAccountToken, SnsTopic, SourceWebhook,
};
pub use limits::{SourceLimits, SourceNamespaces};
pub use mapping::{MappingTarget, SourceMapping};
pub use tool::{ClairNotifier, HarborApi, PreSharedKey};

/// How the reports of one tool become Findings.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Source",
    plural = "sources",
    shortname = "src",
    category = "quell",
    doc = "How the reports of one tool become Findings: what it posts, or which of its objects are watched.",
    derive = "PartialEq",
    status = "SourceStatus",
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.webhook) != has(self.watch)").message("give one of webhook and watch"))]
#[x_kube(validation = Rule::new("has(self.format) != has(self.mapping)").message("give one of format and mapping"))]
#[x_kube(validation = Rule::new("!has(self.watch) || has(self.mapping) || (has(self.format) && self.format in ['gatekeeper', 'k8s-events', 'kubescape', 'openreports', 'policyreport', 'trivy-operator'])").message("of the formats gatekeeper, k8s-events, kubescape, openreports, policyreport and trivy-operator are watched; the others are posted to a webhook"))]
#[x_kube(validation = Rule::new("!has(self.watch) || has(self.mapping) == (has(self.watch.resources) && size(self.watch.resources) > 0)").message("a mapping that watches names the kinds in watch.resources; a format knows its own"))]
#[x_kube(validation = Rule::new("!has(self.watch) || !has(self.watch.reasons) || size(self.watch.reasons) == 0 || (has(self.format) && self.format == 'k8s-events')").message("watch.reasons chooses Events: it is for the format k8s-events"))]
#[x_kube(validation = Rule::new("!has(self.dataFormat) || (has(self.format) && self.format == 'cloudevents')").message("dataFormat says what CloudEvents carry: it is for the format cloudevents"))]
#[x_kube(validation = Rule::new("!has(self.dataFormat) || self.dataFormat != 'cloudevents'").message("dataFormat is another format than cloudevents"))]
#[x_kube(validation = Rule::new("!has(self.clair) || (has(self.webhook) && has(self.format) && self.format == 'clair')").message("clair says where Clair's notifications are fetched: it is for a webhook of the format clair"))]
#[x_kube(validation = Rule::new("!has(self.harbor) || (has(self.webhook) && has(self.format) && self.format in ['harbor', 'cloudevents'])").message("harbor says where vulnerabilities are fetched that Harbor's webhook only counts: it is for a webhook of the format harbor, or of cloudevents"))]
#[x_kube(validation = Rule::new("!has(self.namespaces) || (has(self.namespaces.include) && size(self.namespaces.include) > 0) || has(self.namespaces.selector)").message("namespaces must name some: give include, selector, or both"))]
#[x_kube(validation = Rule::new("!has(self.expireAfter) || has(self.webhook) || (has(self.format) && self.format == 'k8s-events')").message("expireAfter is for what is posted, and for Events: what else is watched is over when no object reports it any more"))]
pub struct SourceSpec {
    /// What the tool writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// In place of `format`, for what Quell doesn't know: how any JSON becomes Findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<SourceMapping>,
    /// For CloudEvents: what is in those whose type doesn't tell. Without it they are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_format: Option<Format>,
    /// The tool posts to `/v1/sources/<name of this Source>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SourceWebhook>,
    /// Quell watches the tool's objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<SourceWatch>,
    /// What the Source may ask of Quell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<SourceLimits>,
    /// The namespaces that the Source may speak for. Default: all, and what is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<SourceNamespaces>,
    /// How long after it was last reported, or after the end of its last run where that is later, a Finding of this Source counts as open. Then
    /// it is `Expired`, and playbooks begin nothing for it any more; what was done stands. What is under quarantine, has a run under way or
    /// waiting for an approval, or whose run failed doesn't expire. For tools that never say that something is over, as Falco; for one that
    /// repeats what is still there, longer than it takes to repeat it. From 10s; default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) >= duration('10s') && duration(self) <= duration('8784h')", "message": "must be from 10s, for repeats are counted every 5s, to 8784h, such as 24h"}]))]
    pub expire_after: Option<Duration>,
    /// Where the notifications of Clair's notifier are fetched. Without it they are not, and an Event says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clair: Option<ClairNotifier>,
    /// Where the vulnerabilities are fetched that Harbor's webhook only counts. Without it a Finding has the counts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harbor: Option<HarborApi>,
}

/// What a tool writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The webhook of Prometheus' Alertmanager, version 4 and the ones before.
    Alertmanager,
    /// Clair: vulnerability reports, and what its notifier says.
    Clair,
    /// CloudEvents, around what one of the other formats describes.
    Cloudevents,
    /// Falco's `http_output` with `json_output: true`.
    Falco,
    /// The webhook output of Falcosidekick.
    Falcosidekick,
    /// OPA Gatekeeper: constraints with their violations, and exported violations.
    Gatekeeper,
    /// The JSON report of `grype`.
    Grype,
    /// Findings of AWS GuardDuty, through EventBridge or SNS.
    Guardduty,
    /// Harbor's webhook, and its vulnerability reports.
    Harbor,
    /// Flows of Cilium Hubble.
    Hubble,
    /// Findings of AWS Inspector and image scans of ECR, through EventBridge or SNS.
    Inspector,
    /// The audit log of a Kubernetes API server, by its webhook or by lines of its log.
    K8sAudit,
    /// Kubernetes Events.
    K8sEvents,
    /// The JSON report of `kube-bench`.
    KubeBench,
    /// Alerts of KubeArmor.
    Kubearmor,
    /// Kubescape: reports of its command, its objects in the cluster, and alerts of its node agent.
    Kubescape,
    /// Findings in the Open Cybersecurity Schema Framework, as of Prowler and AWS Security Hub.
    Ocsf,
    /// Reports of openreports.io.
    Openreports,
    /// What sigstore's policy-controller denied, seen in the audit log, in Events or as text.
    PolicyController,
    /// PolicyReports and ClusterPolicyReports of wgpolicyk8s.io, as of Kyverno.
    Policyreport,
    /// SARIF 2.1.0, which many scanners write.
    Sarif,
    /// Tencent Cloud Workload Protection: messages of its robot webhook.
    TencentCwp,
    /// The webhook of Tencent Container Registry.
    TencentTcr,
    /// Events of Tencent Container Security Service.
    TencentTcss,
    /// Events of Tetragon.
    Tetragon,
    /// The JSON report of Trivy: of an image, a file system, a configuration or a cluster.
    Trivy,
    /// The reports of trivy-operator, watched or sent by its webhook.
    TrivyOperator,
}

impl Format {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 27] = [
        Self::Alertmanager,
        Self::Clair,
        Self::Cloudevents,
        Self::Falco,
        Self::Falcosidekick,
        Self::Gatekeeper,
        Self::Grype,
        Self::Guardduty,
        Self::Harbor,
        Self::Hubble,
        Self::Inspector,
        Self::K8sAudit,
        Self::K8sEvents,
        Self::KubeBench,
        Self::Kubearmor,
        Self::Kubescape,
        Self::Ocsf,
        Self::Openreports,
        Self::PolicyController,
        Self::Policyreport,
        Self::Sarif,
        Self::TencentCwp,
        Self::TencentTcr,
        Self::TencentTcss,
        Self::Tetragon,
        Self::Trivy,
        Self::TrivyOperator,
    ];
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Which objects are watched, in every namespace: those of the format, or of the kinds that are named. A kind may come and go; what it has is read
/// once it is served. A Finding is over when no object reports it any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceWatch {
    /// With a mapping: the kinds whose objects it reads. Quell needs the right to get, list and watch them: by a ClusterRole with the label
    /// `quell.dev/aggregate-to-sources: "true"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub resources: Vec<WatchedKind>,
    /// For k8s-events: the reasons of the Events that become Findings, such as `FailedCreate`. Default: what admission turned away, Pod
    /// Security's violations among it, and what policy engines tell by Events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub reasons: Vec<String>,
}

/// A kind of another tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WatchedKind {
    /// API group, such as `acme.example`; empty for Kubernetes' core.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Version. Default: the one that the API server prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub version: Option<String>,
    /// Kind, such as `Violation`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
}

/// Whether a Source can be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
