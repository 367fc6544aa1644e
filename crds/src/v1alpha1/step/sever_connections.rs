use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// End the connections that the pod had before it was cut off: many network plugins apply a policy to new connections only.
///
/// It comes after a quarantine that stands on the pod, and is refused where none does: entries that are deleted before the policy stands
/// are made anew by the next packet. A Job on the pod's node does it; that must be switched on in the chart (`sever.enabled`).
///
/// Outputs: `deleted` or `signalled`, and `remaining`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeverConnections {
    /// How. Default: `Conntrack`.
    #[serde(default)]
    pub by: SeverBy,
}

/// How connections are severed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SeverBy {
    /// The entries of the pod's addresses are deleted from connection tracking on its node, so that the policy judges the next packet of
    /// each connection. The pod and its memory stay as they are. For network plugins that count on the kernel's connection tracking, such
    /// as Calico (iptables) and kube-router; Cilium has its own, and cuts by itself.
    #[default]
    Conntrack,
    /// The processes of the pod's containers stand still (SIGSTOP), with their memory; undo lets them go on. A liveness probe that fails
    /// meanwhile has the kubelet start the container anew: its memory is lost then.
    Pause,
    /// The processes of the pod's containers are ended (SIGTERM, 2s later SIGKILL); the kubelet starts them anew as the pod's
    /// restartPolicy says, and the policy judges what they do then. Their memory is lost.
    Restart,
}
