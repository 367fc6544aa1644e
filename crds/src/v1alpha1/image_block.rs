use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Selector;

/// Images that may not start.
///
/// The API server itself refuses pods with such an image, also while Quell is down, by the admission policy that the chart installs.
/// It goes by what the pod asks for: a tag can't be looked up there, so a pod that asks for a tag is refused for its tag or repository, and
/// one that asks for a digest also for its digest. Pods that run already go on. Quell's own namespace and those that the policy leaves out,
/// such as `kube-system`, are never affected.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "ImageBlock",
    plural = "imageblocks",
    shortname = "ib",
    category = "quell",
    doc = "Images that may not start: the API server itself refuses pods with one, also while Quell is down.",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.digest",
    // The first of them that there is.
    printcolumn(name = "Image", type_ = "string", json_path = ".spec['tag','repository','digest']"),
    // As text: a time to come is no age.
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.namespaces", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".spec.digest", priority = 1),
    printcolumn(name = "Finding", type_ = "string", json_path = ".spec.finding.name", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.digest) || has(self.tag) || has(self.repository)").message("give at least one of digest, tag and repository"))]
pub struct ImageBlockSpec {
    /// Digest of an image, such as `sha256:…`, in whatever repository it is. A pod that asks for a tag alone isn't refused for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 135), regex(pattern = r"^sha(256|384|512):[0-9a-f]{32,128}$"))]
    pub digest: Option<String>,
    /// Repository and tag, such as `registry.example/shop:1.4`. `nginx:1.27` is `docker.io/library/nginx:1.27`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^[^\s@*]+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"))]
    pub tag: Option<String>,
    /// Repository with whatever tag or digest, such as `registry.example/shop`; all below it with `/*` at the end, such as
    /// `registry.example/team/*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384), regex(pattern = r"^[^\s@*/]+(/[^\s@*:/]+)*(/\*)?$"))]
    #[x_kube(validation = Rule::new("!self.split('/')[self.split('/').size() - 1].contains(':')").message("a repository has no tag; with one, it is `tag`"))]
    pub repository: Option<String>,
    /// Namespaces in which it holds. Default: every namespace, as far as `namespaceSelector` doesn't say otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Labels of the namespaces in which it holds; where `namespaces` are given, too, both must be met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Why, for whoever is refused.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// The Finding on account of which it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<BlockedFor>,
    /// Until when it holds, by the API server's clock; Quell deletes it then. A pod that is changed is refused until it is deleted. Default:
    /// it holds until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// The Finding of an ImageBlock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedFor {
    /// Namespace of the Finding.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the Finding.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
