//! What an action may ask of the caches, and what it shares with others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use quell_crds::v1alpha1::{ChannelKind, PlaybookKind, Workload};
use quell_playbooks::PodFacts;
use quell_playbooks::images::Affected;

use crate::quarantine::{DenyKind, Profile};

/// What is known of the cluster without a request.
pub trait Cluster: Send + Sync {
    /// The quarantine policies that are known to stand.
    fn policies(&self) -> &StandingPolicies;
    /// The kinds of policies that deny whatever others allow, and that this cluster serves.
    fn deny_kinds(&self) -> BTreeSet<DenyKind>;
    /// Whether this cluster serves Istio's AuthorizationPolicy.
    fn serves_istio(&self) -> bool;
    /// Images that open Findings name.
    fn affected(&self) -> Affected;
    /// Digests that containers with one of these image references run, or ran, as far as pods tell.
    fn digests_of(&self, images: &BTreeSet<String>) -> BTreeSet<String>;
    /// Pods of the same namespace, this one among them, that have not ended and run the image with the same digest, each with its topmost
    /// owner. It is `digest`, or where that is empty the one that the pod's `container` runs, or where that is empty one of any of its
    /// containers. `None` where none is known.
    fn same_digest(&self, pod: &PodFacts, container: &str, digest: &str) -> Option<Vec<(PodFacts, Workload)>>;
    /// The Channel of the namespace, or the ClusterChannel.
    fn channel(&self, kind: PlaybookKind, namespace: &str, name: &str) -> Option<ChannelKind>;
    /// The namespace where the Secrets of ClusterChannels are: Quell's own.
    fn own_namespace(&self) -> &str;
    /// How connections may be severed; `None` where that was not switched on.
    fn severing(&self) -> Option<&Severing>;
    /// How quarantined pods may be probed; `None` where that was not switched on.
    fn probing(&self) -> Option<&Probing>;
    /// How many pods run as that ServiceAccount; `None` where that isn't known.
    fn pods_of_account(&self, namespace: &str, service_account: &str) -> Option<usize>;
}

/// How connections may be severed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Severing {
    /// Image with `quell sever`.
    pub image: String,
    /// Namespace of the Jobs: one that lets pods use their node's network and processes.
    pub namespace: String,
}

/// How quarantined pods may be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Image with `quell probe`.
    pub image: String,
    /// Namespace of the probes that try as an outsider would, and of the pod that every probe must reach.
    pub namespace: String,
}

/// Which quarantine policies stand. A watch tells it; it keeps a thousand pods of one namespace from each asking for the same policy.
#[derive(Debug, Default)]
pub struct StandingPolicies {
    all: Mutex<HashMap<(String, String), Standing>>,
}

#[derive(Clone, Debug)]
struct Standing {
    profile: Profile,
    stands: Arc<tokio::sync::Mutex<Stands>>,
    mesh: Arc<tokio::sync::Mutex<Mesh>>,
}

/// What stands of a quarantine's policies in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stands {
    /// The NetworkPolicy does, as it should be.
    pub policy: bool,
    /// The policy that denies whatever others allow, where there is one.
    pub deny: Option<DenyKind>,
}

/// What is known of a service mesh's policy beside a quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mesh {
    /// Nothing.
    #[default]
    Unknown,
    /// It stands.
    Stands,
    /// It could not be written.
    Failed {
        /// When.
        at: Instant,
        /// Why, for people.
        why: String,
    },
}

impl StandingPolicies {
    /// Whether the policy of a profile stands in a namespace; held, it keeps others waiting until it does.
    #[must_use]
    pub fn of(&self, namespace: &str, profile: &Profile) -> Arc<tokio::sync::Mutex<Stands>> {
        self.entry(namespace, profile, |standing| standing.stands.clone())
    }

    /// Whether the policy of a service mesh stands beside it. A lock of its own: no pod waits for a mesh before it is cut off.
    #[must_use]
    pub fn mesh_of(&self, namespace: &str, profile: &Profile) -> Arc<tokio::sync::Mutex<Mesh>> {
        self.entry(namespace, profile, |standing| standing.mesh.clone())
    }

    fn entry<T: Default>(&self, namespace: &str, profile: &Profile, of: impl FnOnce(&Standing) -> T) -> T {
        let key = (namespace.to_owned(), profile.name().to_owned());
        match self.all.lock() {
            Ok(mut all) => {
                let new = || Standing { profile: profile.clone(), stands: Arc::default(), mesh: Arc::default() };
                of(all.entry(key).or_insert_with(new))
            }
            // A panic elsewhere costs a request here, no more.
            Err(_) => T::default(),
        }
    }

    /// The profile of that name, where a quarantine of that namespace has it, or its name says all.
    #[must_use]
    pub fn profile(&self, namespace: &str, name: &str) -> Option<Profile> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = self.all.lock().ok().and_then(|all| all.get(&key).map(|standing| standing.profile.clone()));
        known.or_else(|| Profile::named(name))
    }

    /// A policy was seen to stand as it should, or not to. `look` is asked once nobody is about to write it.
    pub async fn seen(&self, namespace: &str, profile: &Profile, look: impl FnOnce() -> bool) {
        let standing = self.of(namespace, profile);
        let mut stands = standing.lock().await;
        stands.policy = look();
    }
}
