//! When a Finding expires: its Source has not reported it for as long as it says, and there is nothing that is yet to be done about it.
//!
//! When each is to be looked at again is in the queue that gives out passes. A leader that begins looks at all of them, so nothing is lost
//! with a process.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use kube::runtime::reflector::ObjectRef;
use quell_crds::v1alpha1::{Duration, Finding, FindingState, FindingStatus, Remediation};

use crate::engine::Engine;
use crate::engine::queue::Look;
use crate::history::{finding_done, stands};

/// What its age makes of a Finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// It stays as it is, unless something changes.
    Never,
    /// It expires then, unless something changes before.
    At(DateTime<Utc>),
    /// It expires now.
    Due,
}

impl Expiry {
    pub fn is_due(self) -> bool {
        self == Self::Due
    }

    /// When the Finding is to be looked at again. That it has expired is a change.
    pub fn look(self, now: DateTime<Utc>) -> Look {
        match self {
            Self::At(at) => Look::In((at - now).to_std().unwrap_or_default()),
            Self::Never | Self::Due => Look::OnChange,
        }
    }
}

/// As the copies have it now.
pub(super) fn of(engine: &Engine, finding: &Finding, runs: &[Arc<Remediation>], now: DateTime<Utc>) -> Expiry {
    let source = engine.caches.sources.get(&ObjectRef::new(&finding.spec.source));
    let after = source.and_then(|source| source.spec.expire_after);
    after.map_or(Expiry::Never, |after| judge(finding, runs, |run| stands(run, &engine.caches), after, now))
}

/// The time runs from the last report, or from the end of the last run where that is later: what has just become of a Finding is there to
/// be seen. What failed waits for a person, however long.
fn judge(
    finding: &Finding,
    runs: &[Arc<Remediation>],
    stands: impl Fn(&Remediation) -> bool,
    after: Duration,
    now: DateTime<Utc>,
) -> Expiry {
    let Some(status) = finding.status.as_ref().filter(|status| !is_kept(status)) else { return Expiry::Never };
    // Before its first status it is looked at anyway.
    let since = status.state.and_then(|_| finding_done(finding, runs, stands));
    let at =
        since.zip(TimeDelta::from_std(after.get()).ok()).and_then(|(since, after)| since.checked_add_signed(after));
    match at {
        None => Expiry::Never,
        Some(at) if at <= now => Expiry::Due,
        Some(at) => Expiry::At(at),
    }
}

fn is_kept(status: &FindingStatus) -> bool {
    status.is_over() || status.state == Some(FindingState::Failed)
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{Phase, RemediationStatus};

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    fn finding(state: FindingState) -> Finding {
        let status = FindingStatus { state: Some(state), last_seen: Some(at(10)), ..FindingStatus::default() };
        Finding { status: Some(status), ..Finding::default() }
    }

    fn run(phase: Phase, ended: Option<i64>) -> Arc<Remediation> {
        let run = serde_json::json!({
            "apiVersion": "quell.dev/v1alpha1", "kind": "Remediation", "metadata": { "name": "run" },
            "spec": {
                "finding": { "name": "finding", "uid": "" }, "steps": [], "target": { "kind": "Pod", "name": "web" },
                "playbook": { "kind": "Playbook", "name": "contain", "uid": "", "generation": 1 },
            },
        });
        let mut run: Remediation = serde_json::from_value(run).expect("a Remediation");
        run.status = Some(RemediationStatus { phase, finished_at: ended.map(at), ..RemediationStatus::default() });
        Arc::new(run)
    }

    fn judged(finding: &Finding, runs: &[Arc<Remediation>], stands: bool, now: i64) -> Expiry {
        judge(finding, runs, |_| stands, Duration::from(std::time::Duration::from_hours(1)), at(now))
    }

    #[test]
    fn a_finding_expires_so_long_after_it_was_last_reported_and_not_before() {
        let open = finding(FindingState::Open);
        assert_eq!(judged(&open, &[], false, 69), Expiry::At(at(70)));
        assert_eq!(judged(&open, &[], false, 70), Expiry::Due);
        assert_eq!(judged(&open, &[], false, 7000), Expiry::Due, "nobody looked for long");
        assert_eq!(Expiry::At(at(70)).look(at(69)), Look::In(std::time::Duration::from_mins(1)));
    }

    #[test]
    fn the_end_of_its_last_run_counts_where_that_is_later() {
        let done = finding(FindingState::Remediated);
        let runs = [run(Phase::Succeeded, Some(30)), run(Phase::Undone, Some(20))];
        assert_eq!(judged(&done, &runs, false, 89), Expiry::At(at(90)));
        assert_eq!(judged(&done, &runs, false, 90), Expiry::Due);
        assert_eq!(judged(&done, &[run(Phase::Succeeded, Some(5))], false, 70), Expiry::Due);
    }

    #[test]
    fn what_is_under_quarantine_has_a_run_under_way_or_gated_or_failed_does_not_expire() {
        assert_eq!(
            judged(&finding(FindingState::Remediated), &[run(Phase::Succeeded, Some(5))], true, 7000),
            Expiry::Never
        );
        for phase in [Phase::Running, Phase::AwaitingApproval, Phase::Paused, Phase::Finishing, Phase::Undoing] {
            assert_eq!(
                judged(&finding(FindingState::Open), &[run(phase, None)], false, 7000),
                Expiry::Never,
                "{phase}"
            );
        }
        for state in [FindingState::Failed, FindingState::Quarantined, FindingState::Remediating] {
            assert_eq!(judged(&finding(state), &[], false, 7000), Expiry::Never, "{state}");
        }
    }

    #[test]
    fn what_is_over_or_was_not_looked_at_yet_does_not_expire() {
        let mut resolved = finding(FindingState::Resolved);
        resolved.status.get_or_insert_default().resolve(at(11));
        let mut expired = finding(FindingState::Open);
        expired.status.get_or_insert_default().expired_at = Some(at(11));
        for finding in [resolved, expired, Finding::default()] {
            assert_eq!(judged(&finding, &[], false, 7000), Expiry::Never, "{:?}", finding.status);
        }
    }
}
