use std::fmt;

use chrono::{DateTime, SubsecRound as _, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::Phase;

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
    /// Which time it is that it is there, beginning with 1: what is reported again after it was resolved or has expired is a new episode, for
    /// which playbooks run anew.
    #[serde(default = "once")]
    #[schemars(range(min = 1))]
    pub episode: i64,
    /// When it was reported again after it was over, the last time; not set in the first episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopened_at: Option<DateTime<Utc>>,
    /// When its source said that it is over; not set while it is there. Set it by hand to end a Finding that no source ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<DateTime<Utc>>,
    /// When it expired: by then it had not been reported for as long as its Source's `expireAfter` says. Nobody said that it is over. Not set
    /// while it counts as open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<DateTime<Utc>>,
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
            expired_at: None,
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

    /// Whether it counts as over: that was said, or it has expired.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_resolved() || self.expired_at.is_some()
    }

    /// Whether it was ended after that was said. Kubernetes dates what it writes in whole seconds: what was said within the same one may have
    /// been said after.
    #[must_use]
    pub fn was_ended_after(&self, said: DateTime<Utc>) -> bool {
        self.is_over() && self.resolved_at.or(self.expired_at).is_some_and(|ended| said < ended.trunc_subsecs(0))
    }

    /// It was reported so many times more, the last time at `at`. What was resolved before that is a new episode; what was resolved after
    /// stays so. What has expired since it was seen before is one in any case: had the report been counted earlier, it would not have.
    pub fn report(&mut self, times: i64, at: DateTime<Utc>) {
        let is_back = if self.is_resolved() {
            self.resolved_at.is_none_or(|resolved| resolved < at)
        } else {
            self.expired_at.is_some() && self.last_seen.is_none_or(|seen| seen < at)
        };
        self.count = self.count.saturating_add(times);
        self.last_seen = self.last_seen.max(Some(at));
        if is_back {
            self.reopen(at);
        }
    }

    /// It is there again.
    pub fn reopen(&mut self, at: DateTime<Utc>) {
        self.episode = self.episode.saturating_add(1);
        self.reopened_at = Some(at);
        self.resolved_at = None;
        self.expired_at = None;
        self.state = Some(FindingState::Open);
    }

    /// Its source says that it is over, also of what has expired before. The answer is whether that is news.
    pub fn resolve(&mut self, at: DateTime<Utc>) -> bool {
        let news = self.resolved_at.is_none();
        self.expired_at = None;
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
    /// It was not reported for as long as its Source's `expireAfter` says, and counts as over. Nobody said that it is.
    Expired,
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
    pub phase: Phase,
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
    fn what_is_reported_after_it_expired_is_a_new_episode_also_where_that_is_only_counted_afterwards() {
        let expired = FindingStatus { last_seen: Some(at(5)), expired_at: Some(at(20)), ..FindingStatus::default() };
        for reported in [at(21), at(19)] {
            let mut status = expired.clone();
            status.report(1, reported);
            assert_eq!((status.episode, status.expired_at, status.is_over()), (2, None, false), "{reported}");
            assert_eq!((status.reopened_at, status.last_seen), (Some(reported), Some(reported)));
        }
        let mut counted_before = expired.clone();
        counted_before.report(1, at(5));
        assert_eq!((counted_before.episode, counted_before.is_over()), (1, true));
        let mut resolved = expired;
        assert!(!resolved.is_resolved() && resolved.resolve(at(30)));
        assert_eq!((resolved.resolved_at, resolved.expired_at), (Some(at(30)), None), "its source said so after all");
    }

    #[test]
    fn what_was_said_before_the_end_is_no_reason_to_begin_anew() {
        let mut status = FindingStatus::default();
        assert!(!status.was_ended_after(at(1)), "it isn't over");
        status.resolve(at(10) + chrono::Duration::milliseconds(500));
        assert_eq!([at(9), at(10), at(11)].map(|said| status.was_ended_after(said)), [true, false, false]);
        let expired = FindingStatus { expired_at: Some(at(10)), ..FindingStatus::default() };
        assert!(expired.was_ended_after(at(9)) && !expired.was_ended_after(at(10)));
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
