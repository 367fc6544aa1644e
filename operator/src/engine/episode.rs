//! Which runs are for which episode of a Finding.
//!
//! What is reported again after it was resolved is a new episode, and each playbook has one run for each. A run that still goes on when an
//! episode begins is for that one, too: a second beside it would do everything twice.

use kube::ResourceExt as _;
use quell_crds::v1alpha1::{Finding, Intent, Phase, Remediation};

/// The episode that the Finding is in.
pub(super) fn episode(finding: &Finding) -> i64 {
    finding.status.as_ref().map_or(1, |status| status.episode)
}

/// Whether the run is undone, or is about to be.
pub(super) fn goes_back(run: &Remediation) -> bool {
    let Some(status) = &run.status else { return run.spec.intent == Intent::Undo };
    let asked = run.spec.intent == Intent::Undo && !status.phase.is_final();
    asked
        || status.phase == Phase::Undoing
        || (status.phase == Phase::Finishing && status.outcome == Some(Phase::Undone))
}

/// The last episode of the Finding that the run is for. That it went on when the episode began is known by the Finding's status once it is
/// over.
pub(super) fn last_episode(run: &Remediation, finding: &Finding) -> i64 {
    let begun_for = run.spec.finding.episode;
    let goes_on = !run.status.as_ref().is_some_and(|status| status.phase.is_final()) && !goes_back(run);
    if goes_on {
        return begun_for.max(episode(finding));
    }
    let known = finding.status.iter().flat_map(|status| &status.remediations);
    let known = known.filter(|known| known.name == run.name_any() && !is_undone(run)).map(|known| known.episode);
    known.fold(begun_for, i64::max)
}

/// One that went on into an episode, and was undone in it, has done nothing for it that is left.
fn is_undone(run: &Remediation) -> bool {
    goes_back(run) || run.status.as_ref().is_some_and(|status| status.phase == Phase::Undone)
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{FindingStatus, RemediationStatus, RunReference};

    use super::*;
    use crate::fixtures;

    fn run(phase: Phase) -> Remediation {
        fixtures::run(RemediationStatus { phase, ..RemediationStatus::default() })
    }

    fn finding(episode: i64, recorded: i64) -> Finding {
        let reference = RunReference { name: "run".to_owned(), episode: recorded, ..RunReference::default() };
        let status = FindingStatus { episode, remediations: vec![reference], ..FindingStatus::default() };
        Finding { status: Some(status), ..Finding::default() }
    }

    #[test]
    fn a_run_that_goes_on_is_for_the_episode_that_begins_and_stays_so_when_it_is_over() {
        assert_eq!(last_episode(&run(Phase::Running), &finding(2, 1)), 2);
        assert_eq!(last_episode(&run(Phase::AwaitingApproval), &finding(2, 1)), 2);
        assert_eq!(last_episode(&run(Phase::Succeeded), &finding(2, 2)), 2);
        assert_eq!(last_episode(&run(Phase::Failed), &finding(3, 2)), 2);
    }

    #[test]
    fn a_run_that_was_over_before_or_is_undone_is_not_for_the_episode_that_begins() {
        assert_eq!(last_episode(&run(Phase::Succeeded), &finding(2, 1)), 1);
        assert_eq!(last_episode(&run(Phase::Undoing), &finding(2, 2)), 1);
        assert_eq!(last_episode(&run(Phase::Undone), &finding(2, 2)), 1);
        let mut asked = run(Phase::Running);
        asked.spec.intent = Intent::Undo;
        assert_eq!(last_episode(&asked, &finding(2, 1)), 1);
    }
}
