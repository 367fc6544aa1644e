//! Version `v1alpha1` of the API: one file for each kind, and one for each kind of step in [`step`].

mod approval;
mod channel;
mod duration;
mod finding;
mod guardrail;
mod image_block;
mod playbook;
mod remediation;
mod settings;
mod severity;
mod source;
pub mod step;
mod suppression;

pub use approval::{Approval, ApprovalDecision, ApprovalGate, ApprovalSpec, ApprovedRun, GateRecord, OnExpiry};
pub use channel::{
    Channel, ChannelKind, ChannelSpec, ChannelStatus, ClusterChannel, ClusterChannelSpec, Encryption, SecretKey, Slack,
    Smtp, Webhook,
};
pub use duration::Duration;
pub use finding::{
    Category, Counted, Finding, FindingSpec, FindingState, FindingStatus, MOST_COUNTED, RunReference, Suppressed,
    Target, Vulnerability, VulnerabilityCounts, Workload,
};
pub use guardrail::{
    Day, Disruption, Freeze, Guardrail, GuardrailSpec, GuardrailStatus, LastReadyReplica, Limit, LimitPer, Once,
    Protection, Weekly,
};
pub use image_block::{BlockedFor, ImageBlock, ImageBlockSpec};
pub use playbook::{
    ClusterPlaybook, ClusterPlaybookSpec, Match, Mode, NamespaceNames, Playbook, PlaybookSpec, PlaybookStatus,
    Selector, SelectorOperator, SelectorRequirement, ServiceAccountReference,
};
pub use remediation::{
    Effect, FindingReference, Intent, Phase, PlaybookKind, PlaybookReference, QuarantineNews, Receipt, RehearsedWrite,
    Remediation, RemediationSpec, RemediationStatus, StepRecord, StepState, Told,
};
pub use settings::{RunSettings, UndoPolicy};
pub use severity::Severity;
pub use source::{
    Basic, BearerToken, CertificateAuthority, ClairNotifier, ClientCertificate, ConfigMapKey, Format, HarborApi, Hmac,
    HmacAlgorithm, HmacEncoding, HmacTimestamp, MappingTarget, PreSharedKey, ServiceAccountName, ServiceAccountToken,
    SnsTopic, Source, SourceLimits, SourceMapping, SourceNamespaces, SourceSpec, SourceStatus, SourceWatch,
    SourceWebhook, WatchedKind,
};
pub use step::{OnFailure, Retry, Step, StepKind};
pub use suppression::{
    ClusterSuppression, ClusterSuppressionSpec, SuppressedTarget, Suppression, SuppressionMatch, SuppressionSpec,
    SuppressionStatus, VexStatement, VexStatus,
};
