use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{Category, Severity, Vulnerability, VulnerabilityCounts};
use serde_json::{Map, Value};

use crate::ImageRef;

/// One thing a tool reported, before the cluster was asked what it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// The tool that found it: `falco`, `trivy`, `trivy-operator`. Falcosidekick only passes on what Falco found.
    pub tool: String,
    /// The tool's name for what is wrong; for a scanner what it scanned. Never empty.
    pub rule: String,
    /// What kind of problem it is.
    pub category: Category,
    /// How bad it is; of a scanner's report the worst that is in it.
    pub severity: Severity,
    /// What happened, in the tool's words, or a summary of a scanner's report.
    pub message: String,
    /// What it is about.
    pub about: About,
    /// The vulnerabilities, the worst and fixable ones first, each once; at most 50.
    pub vulnerabilities: Vec<Vulnerability>,
    /// How many vulnerabilities there are in all.
    pub vulnerability_counts: Option<VulnerabilityCounts>,
    /// What else the tool said, at most 16 KiB as JSON. What had to be cut is listed under `cut`.
    pub details: Map<String, Value>,
    /// When the tool saw it.
    pub detected_at: Option<DateTime<Utc>>,
    /// What, beside the rule and the target, makes it the same problem as one reported before.
    pub identity: Vec<String>,
}

/// What a signal is about, as far as the tool can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A pod, and maybe a container of it.
    Pod {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
        /// UID of the pod. Not set for a static pod, of which the container runtime knows another UID than the API server.
        uid: Option<String>,
        /// Name of the container in the pod.
        container: Option<String>,
        /// The runtime's id of the container, without the runtime's scheme: 12 characters or all 64.
        container_id: Option<String>,
        /// The image of the container.
        image: Option<ImageRef>,
    },
    /// A container of which only the runtime's id is known.
    Container {
        /// The runtime's id, without the runtime's scheme: 12 characters or all 64.
        id: String,
        /// The host as the tool names it. Falco without `FALCO_HOSTNAME` says the name of its own pod here, not the node's.
        node: Option<String>,
        /// The image of the container.
        image: Option<ImageRef>,
    },
    /// An object other than a pod or node: the owner of pods that a scanner names, what an audited request was for, or,
    /// with an empty API version, what is not in the cluster at all: `Repository`, `Filesystem`, `External`, ….
    Workload {
        /// API version, such as `apps/v1`; empty where it isn't known.
        api_version: String,
        /// Kind, such as `ReplicaSet`; for an audited request for a resource that Kubernetes doesn't have by itself, the
        /// resource's plural name.
        kind: String,
        /// Namespace; empty for an object of the whole cluster.
        namespace: String,
        /// Name; `*` for an audited request that was for all objects of the kind.
        name: String,
        /// Name of the container in its pods.
        container: Option<String>,
        /// The image of that container.
        image: Option<ImageRef>,
    },
    /// An image, wherever it runs.
    Image {
        /// The image.
        image: ImageRef,
    },
    /// A node.
    Node {
        /// The host as the tool names it, see [`About::Container`]'s `node`; `unknown` where the tool didn't say.
        name: String,
    },
}
