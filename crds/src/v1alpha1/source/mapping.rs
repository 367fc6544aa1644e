use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How any JSON becomes Findings: each field is a CEL expression.
///
/// Variables: `body` is what was posted, or the object that is watched; `item` the one that the Finding is made of; `headers` are those of the
/// request, with names in lower case and without credentials. A field that may be missing is written `item.?field`: where it is missing it is
/// unknown, or what `.orValue(…)` says. Text that is always the same stands in quotes: `'acme'`. An expression that fails refuses the whole
/// body, with the item, the field and the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceMapping {
    /// A list; each of it is an `item`, at most 5000 in a body. Default: the body is the one item. Example: `body.alerts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub for_each: Option<String>,
    /// Which items are read, true or false. Default: all. Example: `item.type == 'violation'`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// Whether the item says that the problem is no longer there, true or false: it ends the Finding with the same rule, target and
    /// fingerprint. Default: false; with `vulnerabilities`, whether there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub resolved: Option<String>,
    /// What is wrong, in the tool's words: the name of its rule, check or policy. Example: `item.check.id`.
    #[schemars(length(min = 1, max = 4096))]
    pub rule: String,
    /// How bad it is: a word as tools write them (`critical`, `HIGH`, `warning`, `P2`, …) or a number from 0 to 10, read as a CVSS score. Any
    /// other word or number is an error. Default: the worst of `vulnerabilities`, else Medium. Example: `item.?level.orValue('low')`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub severity: Option<String>,
    /// Runtime, Vulnerability, Misconfiguration, Secret, Policy, Compliance, Audit or Other, in any case. Default: Other; with
    /// `vulnerabilities`, Vulnerability. Example: `'Policy'`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub category: Option<String>,
    /// What happened, for people. Default: the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub message: Option<String>,
    /// The tool that found it. Default: the name of the Source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub tool: Option<String>,
    /// What it is about. Default: the cluster as a whole.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: MappingTarget,
    /// What, beside the rule and the target, makes it the same problem as one reported before: numbers and texts. What changes from one
    /// report to the next, as a time, has no place here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 4096)))]
    pub fingerprint: Vec<String>,
    /// When the tool saw it: RFC 3339, or a number of seconds, milli-, micro- or nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub detected_at: Option<String>,
    /// What else the tool says, a map, of which 16 KiB are kept: playbooks read it as `finding.details`. Default: nothing. Example: `item`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub details: Option<String>,
    /// Vulnerabilities of the target's image: a list of maps with the keys that `vulnerabilities` of a Finding has, of which `id` is needed.
    /// Example: `item.cves.map(c, {'id': c.name, 'severity': c.level, 'package': c.component})`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub vulnerabilities: Option<String>,
}

/// What an item is about. What is known decides: with `name` an object of `kind`; else with `containerId` the pod of that container; else with
/// `image` or `digest` each workload that runs the image; else with `address` the pod that has it; else the node; else the namespace; else the
/// cluster as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MappingTarget {
    /// Kind of the object. Default: Pod, where there are a name and a namespace. Example: `'Deployment'`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub kind: Option<String>,
    /// API version of the object. Default: for Kubernetes' own kinds the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub api_version: Option<String>,
    /// Namespace of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub namespace: Option<String>,
    /// Name of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub name: Option<String>,
    /// UID of the object: an object of the same name that came later isn't meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub uid: Option<String>,
    /// Name of the container in the pod, or in the pods of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub container: Option<String>,
    /// The container runtime's id of the container: 12 characters or all, with or without the runtime's scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub container_id: Option<String>,
    /// Reference of the image, which may have a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub image: Option<String>,
    /// Digest of the image, such as `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub digest: Option<String>,
    /// The node: the one that the container is on, or what it is about where nothing else is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub node: Option<String>,
    /// An IP address in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub address: Option<String>,
}

fn is_default(target: &MappingTarget) -> bool {
    *target == MappingTarget::default()
}
