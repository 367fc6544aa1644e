//! Policies of every kind, read into one form.
//!
//! A policy chooses pods, and has rules for a direction. Rules stand in tiers, tiers in an order; the first rule that matches decides. What
//! no rule of a tier decides is denied there where one of its policies isolates the pod, and goes on to the next tier else. This one form
//! holds NetworkPolicy, ClusterNetworkPolicy with its forerunners, Cilium (deny before allow) and Calico (ordered tiers).

mod network_policy;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;

use crate::labels::Labels;
use crate::pod::{Direction, Seen};
use crate::ports::Ports;
use crate::region::Cube;

/// Kinds of objects that have a say over a pod's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`
    NetworkPolicy,
}

impl PolicyKind {
    /// The name in messages: the API's kind, with the project's name before it where another kind is called the same.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }
}

/// Which policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Kind.
    pub kind: PolicyKind,
    /// Namespace; `None` where it is of the whole cluster.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// `NetworkPolicy shop/allow-web`
impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match &self.namespace {
            Some(namespace) => write!(f, " {namespace}/{}", self.name),
            None => write!(f, " {}", self.name),
        }
    }
}

/// A policy, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(crate) reference: PolicyRef,
    pub(crate) subject: Subject,
    pub(crate) sections: Vec<Section>,
}

impl Policy {
    /// Which one it is.
    #[must_use]
    pub fn reference(&self) -> &PolicyRef {
        &self.reference
    }
}

impl From<&NetworkPolicy> for Policy {
    fn from(policy: &NetworkPolicy) -> Self {
        network_policy::read(policy)
    }
}

/// The pods that a policy is for. Pods on their node's network never are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    pub(crate) namespace: Labels,
    /// Chosen by any of them.
    pub(crate) pods: Vec<Labels>,
    /// Why it may choose fewer than these.
    pub(crate) doubt: Option<Arc<str>>,
}

/// Whether something is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Yes,
    No,
    Maybe(Arc<str>),
}

impl Subject {
    pub(crate) fn chooses(&self, pod: &Seen<'_>) -> Told {
        if !self.pods.iter().any(|labels| labels.matches(|key| pod.label(key))) {
            return Told::No;
        }
        match (pod.is_in(&self.namespace), &self.doubt) {
            (Told::Yes, Some(reason)) => Told::Maybe(reason.clone()),
            (told, _) => told,
        }
    }
}

/// The rules of a policy for one direction, at their place in the order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Section {
    pub(crate) direction: Direction,
    pub(crate) tier: Tier,
    /// Within the tier: the smaller one is asked first.
    pub(crate) order: f64,
    /// Whether a pod that it chooses is denied what no rule of the tier decides.
    pub(crate) isolates: bool,
    pub(crate) rules: Vec<Rule>,
}

/// In the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// NetworkPolicy. All of them together allow what one of them allows.
    NetworkPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Deny,
    /// The next tier decides.
    Pass,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    /// Matches any of them; each is told as one.
    pub(crate) peers: Vec<Vec<Cube>>,
    pub(crate) ports: Ports,
    /// Why it may match less than that. It never matches more.
    pub(crate) doubt: Option<Arc<str>>,
}
