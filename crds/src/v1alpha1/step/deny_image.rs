use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Have the API server refuse pods with the image that the Finding names, by an ImageBlock.
///
/// Pods that run already go on, but none of them can be started again while it holds, such as when its node is drained. It needs no pod: the image of a Finding about an image is refused before it is deployed anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DenyImage {
    /// What of the image is refused. Default: `Image`.
    #[serde(default)]
    pub by: DenyImageBy,
    /// Where. Default: `Own`. `All` is for ClusterPlaybooks.
    #[serde(default)]
    pub namespaces: DenyImageNamespaces,
    /// For how long. Default: until it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#for: Option<Duration>,
}

/// What of an image is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DenyImageBy {
    /// Its digest and its tag, as far as the Finding names them: however a pod asks for it, it is refused.
    #[default]
    Image,
    /// Its digest alone: a pod that asks for a tag isn't refused, so this is for clusters whose pods all ask for digests.
    Digest,
    /// Its tag alone, whatever image that is by then.
    Tag,
    /// Every image of its repository.
    Repository,
}

/// In which namespaces an image is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DenyImageNamespaces {
    /// In the namespace of the Finding.
    #[default]
    Own,
    /// In every namespace.
    All,
}
