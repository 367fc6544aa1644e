use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{Basic, SecretKey};

/// Where Clair's notifications are fetched from. Its notifier sends no more than an address; Quell gets the notifications there, and deletes
/// them at Clair once all of them are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClairNotifier {
    /// Under which address the notifier may be called, such as `http://clair.clair.svc:6060/notifier/`. An address that a body names is called
    /// only where its scheme, host, port and the beginning of its path are these.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[^\s?#@]+$"))]
    pub url: String,
    /// The key of Clair's `auth.psk`. Default: Clair is asked without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_shared_key: Option<PreSharedKey>,
}

/// A key that Clair knows, too: each request carries a token (JWT, HS256) that is signed with it and good for a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreSharedKey {
    /// Who the token says it is from: one of Clair's `auth.psk.iss`.
    #[schemars(length(min = 1, max = 253))]
    pub issuer: String,
    /// The Secret, in Quell's own namespace, and the key in it: Base64, as in Clair's `auth.psk.key`. Of several lines the first counts.
    pub secret: SecretKey,
}

/// Where the vulnerabilities of an artifact that Harbor has scanned are fetched from. Its webhook only counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HarborApi {
    /// Harbor's address, such as `https://harbor.example`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[^\s?#@]+$"))]
    pub url: String,
    /// A robot account that may read artifacts of the projects: `robot$name:secret`. Of several lines the first counts. Default: Harbor is asked
    /// without any, which does for public projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
}
