//! What an action may ask of the caches, and what it shares with others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use quell_crds::v1alpha1::{ChannelKind, PlaybookKind};
use quell_playbooks::images::Affected;

/// What is known of the cluster without a request.
pub trait Cluster: Send + Sync {
    /// The quarantine policies that are known to stand.
    fn policies(&self) -> &StandingPolicies;
    /// Images that open Findings name.
    fn affected(&self) -> Affected;
    /// Digests that containers with one of these image references run, or ran, as far as pods tell.
    fn digests_of(&self, images: &BTreeSet<String>) -> BTreeSet<String>;
    /// The Channel of the namespace, or the ClusterChannel.
    fn channel(&self, kind: PlaybookKind, namespace: &str, name: &str) -> Option<ChannelKind>;
    /// The namespace where the Secrets of ClusterChannels are: Quell's own.
    fn own_namespace(&self) -> &str;
    /// How connections may be severed; `None` where that was not switched on.
    fn severing(&self) -> Option<&Severing>;
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

/// Which namespaces have a quarantine policy that stands. A watch tells it; it keeps a thousand pods of one namespace from each asking
/// for the same policy.
#[derive(Debug, Default)]
pub struct StandingPolicies {
    namespaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<bool>>>>,
}

impl StandingPolicies {
    /// Whether the policy of the namespace stands; held, it keeps others waiting until it does.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<bool>> {
        match self.namespaces.lock() {
            Ok(mut all) => all.entry(namespace.to_owned()).or_default().clone(),
            // A panic elsewhere costs a request here, no more.
            Err(_) => Arc::default(),
        }
    }

    /// The policy was seen to stand, as it should be.
    pub async fn stands(&self, namespace: &str) {
        *self.of(namespace).lock().await = true;
    }

    /// The policy was seen to be gone, or changed.
    pub async fn gone(&self, namespace: &str) {
        *self.of(namespace).lock().await = false;
    }
}
