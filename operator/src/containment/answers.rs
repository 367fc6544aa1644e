//! What is asked of the quarantines that stand: whether they hold, and what there is to do.

use std::sync::PoisonError;

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_actions::quarantine::Profile;
use quell_crds::conditions::{Reason, Status};
use quell_isolation::{Exposure, Pod as Modelled, PodRef};
use quell_playbooks::contained::{Observed, judge};
use quell_playbooks::probe::weigh;
use serde_json::Value;

use crate::containment::standing::{asked_for, given, own_deny_policy, own_policy, said_by};
use crate::containment::{Containment, Held, LAG, Standing};

/// How long it counts that a quarantine was put back.
const MEMORY: chrono::Duration = chrono::Duration::minutes(10);

/// What there is to do about a quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// It is as it was made.
    None,
    /// It was changed; `open`: something gets through that didn't.
    Changed {
        /// See there.
        open: bool,
    },
}

impl Containment {
    /// The `Contained` condition of a quarantine, and the paths that are open, for people.
    #[must_use]
    pub fn judge(&self, quarantine: &Standing) -> (Status, Reason, String, Vec<String>) {
        let network = self.network.read().unwrap_or_else(PoisonError::into_inner).clone();
        let pod = quarantine.pod();
        let weighed = |computed| match &quarantine.probed {
            Some(probed) => weigh(computed, probed),
            None => computed,
        };
        let leaks = self.leaks(&pod, quarantine);
        let unread = self.unread();
        if leaks.is_some() && !unread.is_empty() {
            let message = format!("what gets through to pod {pod} can't be told: {unread} could not be read yet");
            let (status, reason, message) = weighed((Status::Unknown, Reason::PathsUnknown, message));
            return (status, reason, message, Vec::new());
        }
        let observed = Observed {
            pod: &pod.to_string(),
            leaks: leaks.as_ref(),
            network: &network,
            severed: quarantine.severed,
            after: quarantine.after,
        };
        let (status, reason, message) = weighed(judge(&observed));
        let paths = leaks.map(|leaks| leaks.lines().first).unwrap_or_default();
        (status, reason, message, paths)
    }

    /// Kinds of policies that are served and weren't read, for people.
    fn unread(&self) -> String {
        let inner = self.inner();
        let unread =
            inner.kinds.iter().filter(|(_, read)| !**read).map(|((group, kind), _)| format!("{kind} of {group}"));
        unread.collect::<Vec<_>>().join(", ")
    }

    /// What gets through beyond what the profile leaves open; `None`: the pod is gone.
    fn leaks(&self, pod: &PodRef, quarantine: &Standing) -> Option<Exposure> {
        let there = self.pods.get(&ObjectRef::new(&pod.name).within(&pod.namespace))?;
        if there.uid().as_deref() != Some(&quarantine.receipt.uid) {
            return None;
        }
        let mut inner = self.inner();
        if inner.model.pod(pod).is_none() {
            // A record that was just made, and not read back by the watch on runs yet.
            inner.model.upsert_pod(Modelled::of(&there));
        }
        let (labels, policy) = (given(&quarantine.receipt), own_policy(quarantine));
        let settled = inner.quarantines.get(pod).is_some_and(Held::is_settled);
        let exposure = if settled {
            inner.model.exposure(pod)?
        } else {
            inner.model.exposure_with(pod, &labels, std::slice::from_ref(&policy))?
        };
        Some(exposure.beyond(&asked_for(pod, labels, policy)))
    }

    /// Whether the pod of a quarantine is still there.
    #[must_use]
    pub fn is_there(&self, quarantine: &Standing) -> bool {
        let there = self.pods.get(&ObjectRef::new(&quarantine.receipt.name).within(&quarantine.receipt.namespace));
        there.is_some_and(|pod| pod.uid().as_deref() == Some(&quarantine.receipt.uid))
    }

    /// When what the copies show of a quarantine counts, whatever it is; `None`: now.
    #[must_use]
    pub fn settles_at(&self, quarantine: &Standing) -> Option<DateTime<Utc>> {
        let inner = self.inner();
        let held = inner.quarantines.get(&quarantine.pod()).filter(|held| !held.is_settled())?;
        held.quarantine.since.map(|since| since + LAG)
    }

    /// What there is to do about a quarantine, as the copies show it. Nothing, until they have shown it as it was made.
    #[must_use]
    pub fn deviation(&self, quarantine: &Standing) -> Deviation {
        let pod = quarantine.pod();
        if !self.inner().quarantines.get(&pod).is_some_and(Held::is_settled) {
            return Deviation::None;
        }
        let Some(there) = self.pods.get(&ObjectRef::new(&pod.name).within(&pod.namespace)) else {
            return Deviation::None;
        };
        if there.uid().as_deref() != Some(&quarantine.receipt.uid) {
            return Deviation::None;
        }
        let open = self.leaks(&pod, quarantine).is_some_and(|leaks| leaks != Exposure::default());
        let given = given(&quarantine.receipt);
        let labels = there.labels();
        let lost = given.iter().any(|(key, value)| labels.get(key) != Some(value));
        let own = quarantine.receipt.before.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
        let back = labels.keys().any(|key| own.contains_key(key) && !given.contains_key(key));
        let added = labels.keys().any(|key| !given.contains_key(key));
        let inner = self.inner();
        let stand_on = [Some(own_policy(quarantine)), own_deny_policy(quarantine)];
        let policy = stand_on.iter().flatten().any(|own| inner.model.policy(own.reference()) != Some(own));
        let mesh = inner.mesh.as_ref().is_some_and(|mesh| !mesh.has(quarantine));
        drop(inner);
        if lost || back || policy || mesh || (open && added) { Deviation::Changed { open } } else { Deviation::None }
    }

    /// Whether a pod of the namespace is under the quarantine of that profile.
    #[must_use]
    pub fn is_needed(&self, namespace: &str, profile: &str) -> bool {
        let inner = self.inner();
        let from = inner.labelled.range(PodRef::new(namespace, "")..);
        from.take_while(|(pod, _)| pod.namespace == namespace).any(|(_, of)| of == profile)
    }

    /// Whether the policy of a profile says what it should.
    #[must_use]
    pub fn policy_is_intact(&self, namespace: &str, profile: &Profile) -> bool {
        let wanted = said_by(namespace, profile);
        self.inner().model.policy(wanted.reference()) == Some(&wanted)
    }

    /// How often a quarantine was put back in the time before `now`.
    #[must_use]
    pub fn restored(&self, pod: &PodRef, since: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let inner = self.inner();
        let restored = inner.quarantines.get(pod).map(|held| held.restored.as_slice()).unwrap_or_default();
        restored.iter().copied().filter(|at| *at >= since).collect()
    }

    /// A quarantine was put back now.
    pub fn was_restored(&self, pod: &PodRef, now: DateTime<Utc>) {
        if let Some(held) = self.inner().quarantines.get_mut(pod) {
            held.restored.retain(|at| now - *at < MEMORY);
            held.restored.push(now);
        }
    }
}
