//! Policies of a service mesh that stand beside quarantines: no part of what gets through, and put back all the same.

use std::collections::BTreeMap;

use quell_actions::quarantine::mesh_policy;
use quell_isolation::PodRef;
use serde_json::Value;

use crate::containment::{Containment, Inner, Standing};

/// Namespace and name of such a policy.
pub type MeshPolicy = (String, String);

/// What is known of the policies that quarantines have.
#[derive(Default)]
pub(super) struct Mesh {
    /// `None`: they weren't read yet.
    policies: Option<BTreeMap<MeshPolicy, Value>>,
}

impl Mesh {
    /// Whether the policy beside a quarantine stands as it should, where it has one, and as far as is known.
    pub(super) fn has(&self, quarantine: &Standing) -> bool {
        let (Some(policies), Some((name, spec))) =
            (&self.policies, mesh_policy(&quarantine.receipt, &quarantine.parameters))
        else {
            return true;
        };
        policies.get(&(quarantine.receipt.namespace.clone(), name)) == Some(&spec)
    }
}

impl Containment {
    /// Whether Istio's kind is served.
    #[must_use]
    pub fn serves_istio(&self) -> bool {
        self.inner().mesh.is_some()
    }

    /// Istio's kind is served.
    pub fn istio_is_served(&self) {
        self.inner().mesh.get_or_insert_default();
    }

    /// Istio's kind isn't served any more.
    pub fn istio_is_served_no_more(&self) {
        self.inner().mesh = None;
    }

    /// Every policy that a quarantine has was read.
    pub fn mesh_policies_are(&self, all: BTreeMap<MeshPolicy, Value>) {
        let mut inner = self.inner();
        inner.mesh.get_or_insert_default().policies = Some(all);
        let pods: Vec<_> = inner.quarantines.keys().cloned().collect();
        self.look(&mut inner, &pods);
    }

    /// One of them has changed, or is gone.
    pub fn mesh_policy_is(&self, policy: MeshPolicy, spec: Option<Value>) {
        let mut inner = self.inner();
        let Some(policies) = inner.mesh.as_mut().and_then(|mesh| mesh.policies.as_mut()) else { return };
        let namespace = policy.0.clone();
        match spec {
            Some(spec) => policies.insert(policy, spec),
            None => policies.remove(&policy),
        };
        let pods: Vec<_> = inner.quarantines.keys().filter(|pod| pod.namespace == namespace).cloned().collect();
        self.look(&mut inner, &pods);
    }

    fn look(&self, inner: &mut Inner, pods: &[PodRef]) {
        for pod in pods {
            inner.settle(pod);
            self.wake_one(inner, pod);
        }
    }
}
