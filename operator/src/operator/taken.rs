//! What people declare, taken over by every replica as it changes.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use quell_crds::v1alpha1::Finding;
use quell_playbooks::contained::Network;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::caches::{Caches, Notice};
use crate::engine::{Library, Queue};
use crate::intake::Sources;
use crate::suppressions::Suppressions;

/// What people declare, as it was taken over.
pub struct Taken {
    pub library: Arc<Library>,
    pub suppressions: Arc<Suppressions>,
    pub sources: Sources,
}

/// Takes over what people declare. Every replica does this.
pub async fn keep_up(
    mut noticed: UnboundedReceiver<Notice>,
    findings: Queue<Finding>,
    caches: Arc<Caches>,
    taken: Taken,
    changed: Arc<Changed>,
    plugin: Option<String>,
) {
    let Taken { library, suppressions, sources } = taken;
    while let Some(notice) = noticed.recv().await {
        match notice {
            Notice::Library => {
                let changed_playbooks = library.refresh(&caches);
                heed(&caches, &library, &suppressions);
                if changed_playbooks {
                    // A Finding that was reported when its playbook wasn't ready is looked at again.
                    for finding in caches.findings.state().iter().filter(|finding| is_unmatched(finding)) {
                        findings.send(ObjectRef::from_obj(&**finding));
                    }
                }
                changed.library.notify_one();
            }
            Notice::Network => {
                let told = plugin.as_deref().and_then(Network::named);
                caches.containment.network_is(told.unwrap_or_else(|| caches.network()));
            }
            Notice::Sources => {
                let others = sources.refresh(&caches);
                if !others.is_empty() {
                    for finding in caches.findings.state().iter().filter(|one| others.contains(&one.spec.source)) {
                        findings.send(ObjectRef::from_obj(&**finding));
                    }
                }
                changed.sources.notify_one();
            }
            Notice::Blocks => changed.image_blocks.notify_one(),
            Notice::Suppressions => {
                suppressions.refresh(&caches);
                heed(&caches, &library, &suppressions);
                changed.suppressions.notify_one();
            }
        }
    }
}

/// Findings are judged again on account of others only where anything asks for those.
pub fn heed(caches: &Caches, library: &Library, suppressions: &Suppressions) {
    caches.finding_index.heed_others((library.mentions() | suppressions.mentions()).related);
}

fn is_unmatched(finding: &Finding) -> bool {
    finding.status.as_ref().is_none_or(|status| status.remediations.is_empty())
}

/// What has changed among the things that people declare.
#[derive(Default)]
pub struct Changed {
    pub library: Notify,
    pub sources: Notify,
    pub image_blocks: Notify,
    pub guardrails: Notify,
    pub suppressions: Notify,
}
