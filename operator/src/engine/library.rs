//! The playbooks, compiled as they change, and what their status says.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use chrono::Utc;
use kube::ResourceExt as _;
use quell_playbooks::compile::Draft;
use quell_playbooks::{Compiled, Mentions, Problem, compile};

use crate::caches::Caches;
use crate::reviews::Reviews;

/// The playbooks that can be matched, and the problems of the others.
#[derive(Default)]
pub struct Library {
    current: ArcSwap<Vec<Entry>>,
    mentions: ArcSwap<Mentions>,
    reviews: OnceLock<Arc<Reviews>>,
}

/// One playbook: what it compiled to.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it was written.
    pub draft: Arc<Draft>,
    /// What it compiled to, or why it can't be used.
    pub compiled: Result<Arc<Compiled>, Problem>,
}

impl Library {
    /// Playbooks whose rights are missing, as these know them, are not ready from now on.
    pub fn heed(&self, reviews: Arc<Reviews>) {
        // Once in the life of the process.
        let _ = self.reviews.set(reviews);
    }

    /// Every playbook, ready or not, in the order of their names.
    #[must_use]
    pub fn entries(&self) -> Arc<Vec<Entry>> {
        self.current.load_full()
    }

    /// The facts that any playbook asks for.
    #[must_use]
    pub fn mentions(&self) -> Mentions {
        self.mentions.load().as_ref().to_owned()
    }

    /// Compiles what the caches hold, and says whether anything is other than before.
    pub fn refresh(&self, caches: &Caches) -> bool {
        let now = Utc::now();
        let cluster_channels: BTreeSet<String> =
            caches.cluster_channels.state().iter().map(|channel| channel.name_any()).collect();
        let channels = caches.channels.state();
        let before = self.current.load();
        let since = |draft: &mut Draft| {
            // The status that says since when may not have been written yet: what this process saw first holds.
            let known = before.iter().find(|entry| {
                entry.draft.reference.uid == draft.reference.uid
                    && entry.draft.reference.generation == draft.reference.generation
            });
            if let Some(known) = known {
                draft.effective_since = known.draft.effective_since;
            }
        };
        let mut entries = Vec::new();
        for playbook in caches.cluster_playbooks.state() {
            let mut draft = Draft::of_cluster_playbook(&playbook, now);
            since(&mut draft);
            entries.push(self.entry(draft, &cluster_channels));
        }
        for playbook in caches.playbooks.state() {
            let mut draft = Draft::of_playbook(&playbook, now);
            since(&mut draft);
            let of_namespace =
                channels.iter().filter(|channel| channel.namespace().as_deref() == Some(&draft.namespace));
            let known = of_namespace.map(|channel| channel.name_any()).collect();
            entries.push(self.entry(draft, &known));
        }
        entries.sort_by(|a, b| a.draft.reference.cmp(&b.draft.reference));
        let same = |(a, b): (&Entry, &Entry)| {
            a.draft.reference == b.draft.reference && a.compiled.as_ref().err() == b.compiled.as_ref().err()
        };
        let changed = entries.len() != before.len() || !entries.iter().zip(before.iter()).all(same);
        let usable = entries.iter().filter_map(|entry| entry.compiled.as_ref().ok());
        let mentions = usable.fold(Mentions::default(), |all, compiled| all | compiled.mentions());
        self.mentions.store(Arc::new(mentions));
        self.current.store(Arc::new(entries));
        changed
    }
}

impl Library {
    fn entry(&self, draft: Draft, channels: &BTreeSet<String>) -> Entry {
        let lacks = self.reviews.get().and_then(|reviews| reviews.problem(&draft.reference));
        let compiled = compile(&draft, channels).and_then(|compiled| lacks.map_or(Ok(compiled), Err)).map(Arc::new);
        Entry { draft: Arc::new(draft), compiled }
    }
}
