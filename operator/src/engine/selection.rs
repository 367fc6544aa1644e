//! Which playbooks a Finding is for, and which runs there are.

use std::sync::Arc;

use kube::ResourceExt as _;
use quell_crds::v1alpha1::{Finding, Mode, Remediation, RunReference};
use quell_playbooks::Compiled;
use quell_playbooks::suppress::Judgement;

use crate::engine::episode::{episode, last_episode};

/// Which playbooks a Finding is for.
#[derive(Default)]
pub struct Selection {
    /// Runs that are there, those of the present episode first, and of the others the latest.
    pub runs: Vec<Arc<Remediation>>,
    /// For each run the last episode that it is for.
    episodes: Vec<i64>,
    /// The episode that the Finding is in.
    episode: i64,
    /// Playbooks whose run is to begin.
    pub new: Vec<Arc<Compiled>>,
    /// Playbooks whose `when` failed, and why.
    pub failed: Vec<(String, String)>,
    /// What of it is accepted risk.
    pub suppressed: Judgement,
}

impl Selection {
    /// The runs that are there, and nothing chosen yet.
    pub(super) fn of(finding: &Finding, runs: Vec<Arc<Remediation>>, suppressed: Judgement) -> Self {
        let mut of: Vec<(i64, Arc<Remediation>)> =
            runs.into_iter().map(|run| (last_episode(&run, finding), run)).collect();
        of.sort_by_key(|(episode, _)| std::cmp::Reverse(*episode));
        let (episodes, runs) = of.into_iter().unzip();
        Self { runs, episodes, episode: episode(finding), suppressed, ..Self::default() }
    }

    /// Runs of the present episode.
    pub(super) fn current(&self) -> impl Iterator<Item = &Arc<Remediation>> {
        self.with_episodes().filter(|(_, episode)| *episode >= self.episode).map(|(run, _)| run)
    }

    /// Runs of earlier episodes.
    pub(super) fn earlier(&self) -> impl Iterator<Item = &Arc<Remediation>> {
        self.with_episodes().filter(|(_, episode)| *episode < self.episode).map(|(run, _)| run)
    }

    fn with_episodes(&self) -> impl Iterator<Item = (&Arc<Remediation>, i64)> {
        self.runs.iter().zip(self.episodes.iter().copied())
    }

    /// Runs that act. A dry run says nothing about where the Finding stands.
    pub(super) fn enforced(&self) -> impl Iterator<Item = &Arc<Remediation>> {
        self.runs.iter().filter(|run| run.spec.mode == Mode::Enforce)
    }

    /// Those of the present episode that act.
    pub(super) fn enforced_now(&self) -> impl Iterator<Item = &Arc<Remediation>> {
        self.current().filter(|run| run.spec.mode == Mode::Enforce)
    }

    /// The runs, as the Finding lists them.
    pub(super) fn references(&self) -> Vec<RunReference> {
        let all = self.with_episodes().map(|(run, episode)| RunReference {
            name: run.name_any(),
            playbook: run.spec.playbook.name.clone(),
            phase: run.status.as_ref().map(|status| status.phase).unwrap_or_default(),
            episode,
        });
        all.take(MOST_RUNS).collect()
    }
}

/// As many as the schema takes.
const MOST_RUNS: usize = 32;
