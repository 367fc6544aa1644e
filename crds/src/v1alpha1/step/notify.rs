use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tell people what was found and what was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notify {
    /// Where to: Channels of the playbook's namespace; for a ClusterPlaybook, ClusterChannels. Each is told once; a channel that has taken the
    /// message isn't told again when another needs a further try.
    #[schemars(length(min = 1, max = 16))]
    pub channels: Vec<ChannelReference>,
    /// The message, with `${…}` where something is to be filled in. Default: what was found, where, how bad it is, and what each step did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub message: Option<String>,
}

/// A channel, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelReference {
    /// Name of the Channel or ClusterChannel.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
