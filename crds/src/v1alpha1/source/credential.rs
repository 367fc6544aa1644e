use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use kube::KubeSchema;

use crate::v1alpha1::{Duration, SecretKey};

/// What a tool must show to be listened to: exactly one kind of credential, which no other Source should share.
///
/// Secrets are read from Quell's own namespace. For rotation a key of a Secret may hold up to four values, one a line, and each of them is
/// good: add the new one, move the senders, take the old one away. A change counts at once, without a restart.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.bearerToken) ? 1 : 0) + (has(self.hmac) ? 1 : 0) + (has(self.basic) ? 1 : 0) + (has(self.clientCertificate) ? 1 : 0) + (has(self.serviceAccount) ? 1 : 0) + (has(self.sns) ? 1 : 0) == 1").message("give exactly one of bearerToken, hmac, basic, clientCertificate, serviceAccount and sns"))]
pub struct SourceWebhook {
    /// The token of the header `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<BearerToken>,
    /// A signature of the body with a key that both sides know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac: Option<Hmac>,
    /// User and password of the header `Authorization: Basic …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// A certificate that the sender shows in the TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// The token of a ServiceAccount of this cluster, in the header `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountToken>,
    /// What AWS SNS sends of one topic, by SNS' own signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sns: Option<SnsTopic>,
}

/// Where a bearer token is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BearerToken {
    /// The Secret, in Quell's own namespace, and the key in it. Up to four tokens, one a line.
    pub secret: SecretKey,
    /// Also take the token as `?token=…`, for a tool that can't send headers, as Falco's `http_output`. An address may end up in
    /// the logs of what stands between; prefer the header where you can.
    #[serde(default)]
    pub in_query: bool,
}

/// A signature of the body: HMAC with SHA-256 over its bytes as they were sent, compressed where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hmac {
    /// The Secret, in Quell's own namespace, and the key in it. Up to four keys, one a line.
    pub secret: SecretKey,
    /// The header that holds the signature, such as `X-Hub-Signature-256`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"))]
    pub header: String,
    /// What stands before the signature in the header, such as `sha256=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub prefix: String,
    /// The hash function.
    #[serde(default)]
    pub algorithm: HmacAlgorithm,
    /// How the signature is written.
    #[serde(default)]
    pub encoding: HmacEncoding,
    /// The time of sending, signed together with the body: without it, whoever once saw a request can send it again, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<HmacTimestamp>,
}

/// The hash function of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HmacAlgorithm {
    /// SHA-256.
    #[default]
    #[serde(rename = "sha256")]
    Sha256,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HmacEncoding {
    /// Hexadecimal digits, in either case.
    #[default]
    Hex,
    /// Base64 with padding.
    Base64,
}

/// The time of sending, in a header of its own. What is signed is `<time><separator><body>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HmacTimestamp {
    /// The header that holds the time in seconds since 1970, such as `X-Timestamp`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"))]
    pub header: String,
    /// How far the sender's clock may be from Quell's. A request that was taken is not taken again by the same replica within this time; after
    /// it, by none. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Duration>,
    /// What stands between time and body in what is signed. Default: `.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub separator: Option<String>,
}

/// Where user and password are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Basic {
    /// The Secret, in Quell's own namespace, and the key in it: `user:password`, up to four of them, one a line.
    pub secret: SecretKey,
}

/// A certificate that the sender shows. Quell asks every sender for one and refuses none for it; only this Source minds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    /// The authorities (PEM) that may have signed it; several after one another are all good.
    pub ca: CertificateAuthority,
    /// Common names of the subjects that are let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub common_names: Vec<String>,
    /// Alternative names (DNS, URI such as a SPIFFE id, mail or IP) that are let in. With neither these nor `commonNames`, every certificate
    /// that the authority has signed for clients is let in: give an authority that signs for nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub subject_alternative_names: Vec<String>,
}

/// Where certificates of authorities are kept, in Quell's own namespace. Exactly one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secret) != has(self.configMap)").message("give one of secret and configMap"))]
pub struct CertificateAuthority {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKey>,
}

/// A key in a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKey {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// The token of a ServiceAccount, as a pod gets it with a projected volume. The API server is asked whether it is good (TokenReview), and what
/// it says counts for at most a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountToken {
    /// Whom the token must be made for: the `audience` of the projected volume. A token for the API server is not let in.
    #[schemars(length(min = 1, max = 253))]
    pub audience: String,
    /// The ServiceAccounts that are let in.
    #[schemars(length(min = 1, max = 64))]
    pub accounts: Vec<ServiceAccountName>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountName {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A topic of AWS SNS. SNS shows no credential that you could give it; it signs what it sends. Every body must be a message of this topic, with
/// a signature by a key whose certificate AWS shows at its own address; what is in the message is read in the Source's format. A subscription
/// of this topic is confirmed, one of another is not. Raw message delivery must be off: what is sent raw isn't signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnsTopic {
    /// The topic, such as `arn:aws:sns:eu-central-1:123456789012:findings`.
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^arn:aws(-cn|-us-gov)?:sns:[a-z0-9-]+:[0-9]+:[A-Za-z0-9_-]+(\.fifo)?$")
    )]
    pub topic_arn: String,
}
