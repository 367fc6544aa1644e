use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Take the rights of the pod's ServiceAccount away: it is taken out of the role bindings that name it.
///
/// Every pod that runs as the same ServiceAccount loses the same rights; the step says how many there are. What the account is given as a
/// member of a group, and a token's own validity, remain; the step says so. For a ClusterPlaybook it must be switched on in the chart
/// (`revokeAccess.enabled`).
///
/// Outputs: `bindings`, `tokens`, `otherPods`, `remaining`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevokeAccess {
    /// Which bindings. Default: `Namespace`.
    #[serde(default)]
    pub scope: RevokeScope,
    /// Also delete the ServiceAccount's legacy tokens: Secrets of the type kubernetes.io/service-account-token, which never expire. Undo
    /// can't bring them back. Default: false.
    #[serde(default)]
    pub delete_tokens: bool,
}

/// Which bindings a ServiceAccount is taken out of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RevokeScope {
    /// RoleBindings of the ServiceAccount's own namespace.
    #[default]
    Namespace,
    /// RoleBindings of every namespace, and ClusterRoleBindings.
    Cluster,
}
