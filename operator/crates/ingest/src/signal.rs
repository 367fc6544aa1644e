use std::collections::HashSet;

use chrono::{DateTime, Utc};
use quell_crds::v1alpha1::{Category, Severity, Vulnerability, VulnerabilityCounts, Workload};
use serde_json::{Map, Value};

use crate::finding::{fingerprint, place_without_cluster};
use crate::vulnerabilities::Summary;
use crate::{ImageRef, kinds};

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
    /// Whether the tool says that the problem is no longer there. Such a signal makes no Finding; it has the fingerprint of the one that it
    /// ends.
    pub resolved: bool,
    /// What it is about.
    pub about: About,
    /// The workload that the tool names beside the pod: still true when the pod is gone.
    pub owner: Option<Workload>,
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
    /// The watched object that it comes from, as `Kind.group/namespace/name`; whoever watches says it.
    pub reported_by: Option<String>,
}

impl Signal {
    /// A signal that says no more than this: an open problem of no known severity, its rule also its message.
    pub(crate) fn new(tool: &str, category: Category, rule: impl Into<String>, about: About) -> Self {
        let rule = rule.into();
        Self {
            tool: tool.to_owned(),
            message: rule.clone(),
            rule,
            category,
            severity: Severity::Info,
            resolved: false,
            about,
            owner: None,
            vulnerabilities: Vec::new(),
            vulnerability_counts: None,
            details: Map::new(),
            detected_at: None,
            identity: Vec::new(),
            reported_by: None,
        }
    }

    /// The same with a list of vulnerabilities; without any it says that there are none any more.
    pub(crate) fn with_vulnerabilities(self, found: Option<Summary>) -> Self {
        match found {
            Some(found) => Self {
                severity: found.worst,
                message: found.message,
                vulnerabilities: found.listed,
                vulnerability_counts: Some(found.counts),
                ..self
            },
            None => Self { resolved: true, message: "no vulnerabilities".to_owned(), ..self },
        }
    }
}

/// Leaves out what says that a problem is gone where the same body says that it is there: a report may list a rule for an object twice.
pub(crate) fn open_wins(signals: Vec<Signal>) -> Vec<Signal> {
    let key = |signal: &Signal| fingerprint("", signal, &place_without_cluster(signal));
    let open: HashSet<String> = signals.iter().filter(|signal| !signal.resolved).map(key).collect();
    if open.is_empty() || open.len() == signals.len() {
        return signals;
    }
    signals.into_iter().filter(|signal| !signal.resolved || !open.contains(&key(signal))).collect()
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
        /// UID, where the tool says it.
        uid: Option<String>,
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
    /// An address of the network, of which only the cluster knows whose it is.
    Address {
        /// IPv4 or IPv6, as the tool writes it.
        ip: String,
    },
}

impl About {
    /// An object of the cluster: a pod or a node as such, everything else as a workload.
    pub(crate) fn object(
        api_version: String,
        kind: &str,
        namespace: String,
        name: String,
        uid: Option<String>,
    ) -> Self {
        match kind {
            "Pod" if !namespace.is_empty() => {
                Self::Pod { namespace, name, uid, container: None, container_id: None, image: None }
            }
            "Node" => Self::Node { name },
            _ => {
                let api_version = if api_version.is_empty() { kinds::api_version(kind) } else { api_version };
                let kind = kind.to_owned();
                Self::Workload { api_version, kind, namespace, name, uid, container: None, image: None }
            }
        }
    }

    /// What is not in the cluster, or no object of it: a cloud's account, a folder, a host, the cluster as a whole.
    pub(crate) fn outside(kind: &str, name: &str) -> Self {
        Self::Workload {
            api_version: String::new(),
            kind: kind.to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
            uid: None,
            container: None,
            image: None,
        }
    }

    /// What is the same in every report on the same image, however it is called: its digest, else its id, else its reference.
    pub(crate) fn image_identity(&self) -> String {
        match self {
            Self::Image { image }
            | Self::Pod { image: Some(image), .. }
            | Self::Container { image: Some(image), .. }
            | Self::Workload { image: Some(image), .. } => image.identity(),
            _ => String::new(),
        }
    }

    /// The same, and a name where it has none.
    pub(crate) fn or_unknown(mut self) -> Self {
        if let Self::Workload { name, .. } = &mut self
            && name.is_empty()
        {
            "unknown".clone_into(name);
        }
        self
    }

    /// The same, with the container and its image where it has room for them.
    pub(crate) fn with_container(mut self, name: Option<String>, of: Option<ImageRef>) -> Self {
        if let Self::Pod { container, image, .. } | Self::Workload { container, image, .. } = &mut self {
            *container = name.or(container.take());
            *image = of.or(image.take());
        }
        self
    }
}
