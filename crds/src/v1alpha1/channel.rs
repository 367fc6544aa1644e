use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where notifications of this namespace's playbooks go.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Channel",
    plural = "channels",
    shortname = "chan",
    category = "quell",
    namespaced,
    doc = "Where notifications of this namespace's playbooks go. Secrets are named, never written here; they are in this namespace.",
    derive = "PartialEq",
    status = "ChannelStatus",
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
pub struct ChannelSpec {
    /// Where to, and how.
    #[serde(flatten)]
    pub kind: ChannelKind,
}

/// Where notifications of ClusterPlaybooks go.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "ClusterChannel",
    plural = "clusterchannels",
    shortname = "cchan",
    category = "quell",
    doc = "Where notifications of ClusterPlaybooks go. Secrets are named, never written here; they are in Quell's own namespace.",
    derive = "PartialEq",
    status = "ChannelStatus",
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
pub struct ClusterChannelSpec {
    /// Where to, and how.
    #[serde(flatten)]
    pub kind: ChannelKind,
}

/// The ways to tell people. Exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ChannelKind {
    /// POST of a JSON document to an address of yours, signed.
    Webhook(Webhook),
    /// A Slack incoming webhook.
    Slack(Slack),
    /// Mail over SMTP.
    Smtp(Smtp),
}

/// POST of a JSON document, signed with HMAC-SHA256.
///
/// The header `Quell-Signature` is `t=<unix seconds>,v1=<hexadecimal>`, where `v1` is the HMAC of `<t>.<body>`;
/// `Idempotency-Key` is the same for each try of the same message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where to, such as `https://soc.example/hooks/quell`.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: String,
    /// The key of the signature.
    pub hmac_key: SecretKey,
}

/// A Slack incoming webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// The address of the incoming webhook, which is itself the secret.
    pub webhook_url: SecretKey,
}

/// Mail over SMTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Smtp {
    /// Host name of the mail server.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Port of the mail server. Default: 587 for `StartTls`, 465 for `Tls`, 25 for `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// How the connection is encrypted. Default: `StartTls`.
    #[serde(default)]
    pub encryption: Encryption,
    /// The sender, such as `quell@example.com`.
    #[schemars(length(min = 3, max = 320))]
    pub from: String,
    /// The receivers.
    #[schemars(length(min = 1, max = 32), inner(length(min = 3, max = 320)))]
    pub to: Vec<String>,
    /// User name, where the server asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub username: Option<String>,
    /// Password of that user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKey>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encryption {
    /// Plain at first, encrypted before anything is said; refused where the server can't.
    #[default]
    StartTls,
    /// Encrypted from the first byte.
    Tls,
    /// Not encrypted: for a relay on the same host, and no other.
    None,
}

/// A key in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Whether a channel can be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
