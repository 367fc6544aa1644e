//! As whom effects are made: a namespaced Playbook acts as a ServiceAccount of its namespace, never with Quell's own rights.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Mutex;

use axum::http::{HeaderName, HeaderValue};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use quell_crds::v1alpha1::{PlaybookKind, PlaybookReference};

use crate::fence::{Fence, FenceLayer, FencedConnections};

/// Clients, one for each identity.
pub struct Identities {
    config: Config,
    own: Client,
    fence: Fence,
    others: Mutex<HashMap<String, Client>>,
}

impl Identities {
    /// `config` is what Quell itself connects with, `own` its client. Both go through the fence.
    #[must_use]
    pub fn new(config: Config, own: Client, fence: Fence) -> Self {
        Self { config, own, fence, others: Mutex::default() }
    }

    /// The client of a playbook whose runs are in `namespace`.
    pub fn of(&self, playbook: &PlaybookReference, namespace: &str) -> Result<Client, kube::Error> {
        let Some(user) = user(playbook, namespace) else { return Ok(self.own.clone()) };
        if let Some(client) = self.others.lock().ok().and_then(|all| all.get(&user).cloned()) {
            return Ok(client);
        }
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.clone());
        config.headers.push(acting());
        // Without groups of its own the API server gives the request those of every service account of that namespace.
        let client = fenced(config, &self.fence)?;
        if let Ok(mut all) = self.others.lock() {
            all.insert(user, client.clone());
        }
        Ok(client)
    }
}

/// A client whose requests pass the fence, and whose connections last no longer than it is open.
pub fn fenced(config: Config, fence: &Fence) -> Result<Client, kube::Error> {
    let builder = ClientBuilder::try_from((config, FencedConnections(fence.clone())))?;
    Ok(builder.with_layer(&FenceLayer(fence.clone())).build())
}

/// A name that no other process has had: the standard library seeds its hashes with 128 random bits.
#[must_use]
pub fn process_name() -> String {
    let mut hash = RandomState::new().build_hasher();
    hash.write_u32(std::process::id());
    format!("{:016x}", hash.finish())
}

/// The user that a playbook acts as; `None`: Quell itself.
#[must_use]
pub fn user(playbook: &PlaybookReference, namespace: &str) -> Option<String> {
    let namespace = match playbook.kind {
        PlaybookKind::ClusterPlaybook if playbook.service_account_name.is_empty() => return None,
        PlaybookKind::ClusterPlaybook => &playbook.service_account_namespace,
        PlaybookKind::Playbook => namespace,
    };
    Some(format!("system:serviceaccount:{namespace}:{}", playbook.service_account_name))
}

/// Says of the user that Quell is who acts, in each request, so that guards and audit logs tell it from what the user does.
fn acting() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("impersonate-extra-quell.dev%2facting"), HeaderValue::from_static("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_key_that_the_guards_know() {
        let key = quell_crds::names::ACTING.replace('/', "%2f");
        assert_eq!(acting().0.as_str(), format!("impersonate-extra-{key}"));
    }
}
