//! Accepted risk, as it is now, and the moments at which it ends.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::Utc;
use kube::runtime::reflector::ObjectRef;
use quell_crds::conditions::ConditionType;
use quell_crds::conditions::find;
use quell_crds::v1alpha1::{Finding, FindingState};
use quell_playbooks::cel::Scope;
use quell_playbooks::suppress::{self, Compiled, Judgement};
use quell_playbooks::{Mentions, World};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::declared::Declared;
use crate::engine::Queue;

/// No sleep is longer: clocks are set.
const LOOK_ANYWAY: Duration = Duration::from_hours(1);

/// The suppressions that can be used.
#[derive(Default)]
pub struct Suppressions {
    current: ArcSwap<Vec<Arc<Compiled>>>,
    mentions: ArcSwap<Mentions>,
}

impl Suppressions {
    /// What of the Finding is suppressed now.
    #[must_use]
    pub fn judge(&self, world: &World, scope: &Scope) -> Judgement {
        let all = self.current.load();
        if all.is_empty() { Judgement::default() } else { suppress::judge(&all, world, scope, Utc::now()) }
    }

    /// The facts that any of them asks for.
    #[must_use]
    pub fn mentions(&self) -> Mentions {
        self.mentions.load().as_ref().to_owned()
    }

    /// Compiles what the caches hold. One that can't be used suppresses nothing; its status says so.
    pub fn refresh(&self, caches: &Caches) {
        let of_cluster = caches.cluster_suppressions.state();
        let of_namespaces = caches.suppressions.state();
        let all = of_cluster.iter().filter_map(|one| Compiled::of_cluster(one).ok());
        let all = all.chain(of_namespaces.iter().filter_map(|one| Compiled::of(one).ok()));
        let mut all: Vec<Arc<Compiled>> = all.map(Arc::new).collect();
        all.sort_by(|a, b| (a.kind, &a.namespace, &a.name).cmp(&(b.kind, &b.namespace, &b.name)));
        let mentions = all.iter().fold(Mentions::default(), |mentions, one| mentions | one.mentions());
        self.mentions.store(Arc::new(mentions));
        self.current.store(Arc::new(all));
    }

    /// How long until the next one ends.
    fn rest(&self) -> Duration {
        let now = Utc::now();
        let all = self.current.load();
        let ends = all.iter().filter_map(|one| one.expires_at).filter(|end| *end > now);
        ends.min().map_or(LOOK_ANYWAY, |end| (end - now).to_std().unwrap_or_default().min(LOOK_ANYWAY))
    }
}

/// Has Findings looked at again when the suppressions are others, or one has ended, until `end`.
pub async fn keep(
    suppressions: &Suppressions,
    caches: &Caches,
    declared: &Declared,
    findings: &Queue<Finding>,
    changed: &Notify,
    end: CancellationToken,
) {
    loop {
        for finding in caches.findings.state().iter().filter(|finding| hangs(finding)) {
            findings.send(ObjectRef::from_obj(&**finding));
        }
        declared.report_suppressions().await;
        tokio::select! {
            () = tokio::time::sleep(suppressions.rest()) => {}
            () = changed.notified() => {}
            () = end.cancelled() => return,
        }
    }
}

/// Whether what is suppressed makes a difference to the Finding: it is suppressed, or no run for it is under way or was good.
fn hangs(finding: &Finding) -> bool {
    let Some(status) = &finding.status else { return true };
    let suppressed = find(&status.conditions, ConditionType::Suppressed).is_some();
    suppressed
        || status.remediations.is_empty()
        || matches!(status.state, Some(FindingState::Suppressed | FindingState::Failed | FindingState::Undone))
}
