use std::fmt;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Severity;

/// One thing that is wrong with one target, as a tool or a person reported it.
///
/// Sources write Findings; you can write one by hand, too. The same problem reported again is the same Finding with a
/// higher count.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quell.dev",
    version = "v1alpha1",
    kind = "Finding",
    plural = "findings",
    shortname = "fnd",
    category = "quell",
    namespaced,
    doc = "One thing that is wrong with one target, as a tool or a person reported it.",
    derive = "PartialEq",
    derive = "Default",
    status = "FindingStatus",
    selectable = ".spec.severity",
    selectable = ".spec.source",
    printcolumn(name = "Severity", type_ = "string", json_path = ".spec.severity"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source"),
    printcolumn(name = "Rule", type_ = "string", json_path = ".spec.rule"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.name"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Playbook", type_ = "string", json_path = ".status.playbook"),
    printcolumn(name = "Count", type_ = "integer", json_path = ".status.count"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.target.kind", priority = 1),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workload.name", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.target.image", priority = 1),
    printcolumn(name = "Suppressed-By", type_ = "string", json_path = ".status.suppressed.by", priority = 1),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.suppressed.until", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct FindingSpec {
    /// Name of the Source that reported it; for a Finding written by hand, who you are, such as `manual`.
    #[schemars(length(min = 1, max = 63))]
    pub source: String,
    /// The tool that found it, such as `falco` or `trivy`. Empty where it is the same as the source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub tool: String,
    /// The tool's name for what is wrong: Falco's rule, or for a scanner what it scanned.
    #[schemars(length(min = 1, max = 253))]
    pub rule: String,
    /// What kind of problem it is.
    #[serde(default)]
    pub category: Category,
    /// How bad it is.
    pub severity: Severity,
    /// What happened, in the tool's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub message: String,
    /// What it happened to.
    // Atomic, as `workload` and `details`: nobody owns a part of what was reported, and the server need not track each field's owner.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub target: Target,
    /// The workload that the target belongs to: the topmost owner of the pod, such as the Deployment. A Source fills it in
    /// from the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub workload: Option<Workload>,
    /// Vulnerabilities of the target's image, the worst and fixable ones first; at most 50, see `vulnerabilityCounts` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub vulnerabilities: Vec<Vulnerability>,
    /// How many vulnerabilities there are in all, by severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerability_counts: Option<VulnerabilityCounts>,
    /// Everything else that the tool said, as it said it. Expressions read it as `finding.details`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::free_form")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub details: Map<String, Value>,
    /// What makes this problem the same as the one reported before: SHA-256 over the parts that identify it, in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// When the tool first saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_at: Option<DateTime<Utc>>,
}

/// What kind of problem a Finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Category {
    /// Something that a running process does.
    Runtime,
    /// A known vulnerability in an image.
    Vulnerability,
    /// A setting that is unsafe.
    Misconfiguration,
    /// A secret where it should not be.
    Secret,
    /// A rule of a policy engine that is not met.
    Policy,
    /// A control of a standard that is not met.
    Compliance,
    /// Something that somebody did through the API server.
    Audit,
    /// Anything else.
    #[default]
    Other,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The object, and the part of it, that a Finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Kind of the object: `Pod`, `Deployment`, `Node`, …; or `Image` for an image that nothing in the cluster runs, `Container` and
    /// `Address` for what no pod is known of, `Cluster` for the cluster as a whole, and words such as `External`, `Repository`, `Filesystem`,
    /// `Host` for what is not in it.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// API version of the object, such as `apps/v1`. Empty for `Image`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub api_version: String,
    /// Namespace of the object; empty for an object of the whole cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the object; for `Image` the image's reference.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// UID of the object. A step acts on the object with this UID and no other, so that a new pod of the same name isn't
    /// quarantined for what the old one did. Empty where neither the tool nor the cluster could tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub uid: String,
    /// Name of the container in the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub container: String,
    /// Reference of the image, such as `registry.example/shop:1.4`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub image: String,
    /// Digest of the image that ran, such as `sha256:…`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 135))]
    pub digest: String,
    /// Node that the pod ran on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub node: String,
}

/// The topmost owner of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// API version of the workload, such as `apps/v1`.
    #[schemars(length(max = 253))]
    pub api_version: String,
    /// Kind of the workload, such as `Deployment`; `Pod` for a pod that nothing owns.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace of the workload.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the workload, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub uid: String,
}

/// One known vulnerability of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vulnerability {
    /// Identifier, such as `CVE-2019-20367`.
    #[schemars(length(max = 128))]
    pub id: String,
    /// The package that has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub package: String,
    /// The version that is installed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub installed_version: String,
    /// The version that fixes it; empty where there is none yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub fixed_version: String,
    /// How bad it is.
    #[serde(default)]
    pub severity: Severity,
    /// CVSS base score, from 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub score: Option<f64>,
    /// Whether there is a version that fixes it, as the tool says; not set where the tool doesn't know. Where `fixedVersion` is set, this is
    /// true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix_available: Option<bool>,
    /// EPSS: how probable it is that somebody exploits it within 30 days, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub epss: Option<f64>,
    /// Whether it is known to be exploited, as the catalogue of CISA (KEV) says. Not set where the tool doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_exploited: Option<bool>,
    /// Whether an exploit is publicly available, as the tool says. Not set where the tool doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exploit_available: Option<bool>,
    /// What it is, in a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub title: String,
}

/// How many vulnerabilities there are of each severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VulnerabilityCounts {
    /// Critical ones.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub critical: i32,
    /// High ones.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub high: i32,
    /// Medium ones.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub medium: i32,
    /// Low ones.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub low: i32,
    /// Those of no or unknown severity.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub info: i32,
    /// Those, of any severity, that a newer version fixes.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub fixable: i32,
}

/// What Quell knows and did about a Finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FindingState>,
    /// How often it was reported.
    // A default of the schema, so that whoever writes the status first needn't know whether a repeat was counted meanwhile.
    #[serde(default = "once")]
    #[schemars(range(min = 1))]
    pub count: i64,
    /// When it was last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<DateTime<Utc>>,
    /// Which time it is that it is there, beginning with 1: what is reported again after it was resolved is a new episode, for which
    /// playbooks run anew.
    #[serde(default = "once")]
    #[schemars(range(min = 1))]
    pub episode: i64,
    /// When it was reported again after it was resolved, the last time; not set in the first episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopened_at: Option<DateTime<Utc>>,
    /// When its source said that it is over; not set while it is there. Set it by hand to end a Finding that no source ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<DateTime<Utc>>,
    /// Up to where each replica's reports are in `count`, so that none is counted twice when it is delivered again; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub counted: Vec<Counted>,
    /// The Playbook that acts on it; where there are several, the first by name and how many more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 300))]
    pub playbook: String,
    /// The runs for this Finding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub remediations: Vec<RunReference>,
    /// What still gets to the quarantined pod, or from it, beyond what was asked to stay open: who, on which ports, and the policy that
    /// allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 2048)))]
    pub open_paths: Vec<String>,
    /// What of it is accepted risk, why, by whom and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<Suppressed>,
    /// Conditions: `TargetResolved`, `Matched`, `Quarantined`, `Contained`, `Held`, `Suppressed`, `Remediated`, `Resolved`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

impl Default for FindingStatus {
    fn default() -> Self {
        Self {
            observed_generation: None,
            state: None,
            count: once(),
            last_seen: None,
            episode: once(),
            reopened_at: None,
            resolved_at: None,
            counted: Vec::new(),
            playbook: String::new(),
            remediations: Vec::new(),
            open_paths: Vec::new(),
            suppressed: None,
            conditions: Vec::new(),
        }
    }
}

fn once() -> i64 {
    1
}

/// Most replicas, counted anew at each start, that are remembered in `counted`.
pub const MOST_COUNTED: usize = 8;

/// How far one process's reports are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// The process that took them in.
    #[schemars(length(max = 63))]
    pub by: String,
    /// The last of its reports that is counted.
    #[schemars(range(min = 0))]
    pub through: i64,
}

impl FindingStatus {
    /// Whether its source, or a person, said that it is over.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.resolved_at.is_some() || self.state == Some(FindingState::Resolved)
    }

    /// It was reported so many times more, the last time at `at`. What was resolved before that is a new episode; what was resolved after
    /// stays so.
    pub fn report(&mut self, times: i64, at: DateTime<Utc>) {
        self.count = self.count.saturating_add(times);
        self.last_seen = self.last_seen.max(Some(at));
        if self.is_resolved() && self.resolved_at.is_none_or(|resolved| resolved < at) {
            self.reopen(at);
        }
    }

    /// It is there again.
    pub fn reopen(&mut self, at: DateTime<Utc>) {
        self.episode = self.episode.saturating_add(1);
        self.reopened_at = Some(at);
        self.resolved_at = None;
        self.state = Some(FindingState::Open);
    }

    /// Its source says that it is over. The answer is whether that is news.
    pub fn resolve(&mut self, at: DateTime<Utc>) -> bool {
        let news = self.resolved_at.is_none();
        self.resolved_at.get_or_insert(at);
        news
    }

    /// Whether that report of a process is in the count already.
    #[must_use]
    pub fn has_counted(&self, by: &str, report: i64) -> bool {
        self.counted.iter().any(|counted| counted.by == by && counted.through >= report)
    }

    /// Remembers that a process's reports are counted up to this one. The process that was heard of least lately is forgotten where there
    /// is no room.
    pub fn mark_counted(&mut self, by: &str, through: i64) {
        let before = self.counted.iter().position(|counted| counted.by == by).map(|at| self.counted.remove(at));
        let through = before.map_or(through, |before| before.through.max(through));
        self.counted.push(Counted { by: by.to_owned(), through });
        let surplus = self.counted.len().saturating_sub(MOST_COUNTED);
        self.counted.drain(..surplus);
    }
}

/// What of a Finding is accepted risk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Suppressed {
    /// The Suppression or ClusterSuppression, as `Kind/name`; where there are several, the first and how many more.
    #[schemars(length(max = 300))]
    pub by: String,
    /// Who answers for it.
    #[schemars(length(max = 253))]
    pub owner: String,
    /// Why.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Until when; of several, the first that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// All of it is accepted.
    pub whole: bool,
    /// How many of the vulnerabilities that the Finding names are accepted.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub vulnerabilities: i32,
}

/// Where a Finding stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FindingState {
    /// Nothing was done about it: no Playbook matched.
    #[default]
    Open,
    /// The risk is accepted by a Suppression: nothing is done about it until that ends.
    Suppressed,
    /// A run is under way.
    Remediating,
    /// A guardrail holds a run; what it was to do isn't done yet.
    Held,
    /// The pod is quarantined, and a run is still under way.
    Quarantined,
    /// Every run has ended well.
    Remediated,
    /// A run failed, and a person should look.
    Failed,
    /// Somebody stopped what was done about it.
    Cancelled,
    /// What was done was undone.
    Undone,
    /// It is over: its source no longer reports it.
    Resolved,
}

impl fmt::Display for FindingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A run for a Finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunReference {
    /// Name of the Remediation, in the Finding's namespace.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Name of the Playbook or ClusterPlaybook that it runs.
    #[schemars(length(max = 253))]
    pub playbook: String,
    /// Where the run stands.
    pub phase: super::Phase,
    /// The last episode of the Finding that it is for: the one that it was begun for, or a later one that began while it went on.
    #[serde(default = "once")]
    #[schemars(range(min = 1))]
    pub episode: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::seconds(second)
    }

    #[test]
    fn what_is_reported_after_it_was_resolved_is_a_new_episode_and_what_was_reported_before_is_not() {
        let mut status = FindingStatus { state: Some(FindingState::Remediated), ..FindingStatus::default() };
        assert!(status.resolve(at(10)) && !status.resolve(at(20)));
        assert_eq!(status.resolved_at, Some(at(10)));
        status.report(2, at(9));
        assert_eq!((status.count, status.episode, status.is_resolved()), (3, 1, true), "counted late");
        status.report(1, at(11));
        assert_eq!((status.count, status.episode, status.is_resolved()), (4, 2, false));
        assert_eq!((status.reopened_at, status.last_seen), (Some(at(11)), Some(at(11))));
        status.report(1, at(12));
        assert_eq!((status.episode, status.reopened_at), (2, Some(at(11))));
    }

    #[test]
    fn what_is_counted_stays_counted_until_eight_others_were_heard_of() {
        let mut status = FindingStatus::default();
        status.mark_counted("a", 7);
        status.mark_counted("a", 3);
        assert!(status.has_counted("a", 7) && !status.has_counted("a", 8) && !status.has_counted("b", 1));
        for other in 0..MOST_COUNTED - 1 {
            status.mark_counted(&other.to_string(), 1);
        }
        assert!(status.has_counted("a", 7));
        status.mark_counted("one more", 1);
        assert!(!status.has_counted("a", 7));
        assert_eq!(status.counted.len(), MOST_COUNTED);
    }
}
