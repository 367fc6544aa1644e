//! Policies of every kind, read into one form.
//!
//! A policy chooses pods, and has rules for a direction. Rules stand in tiers, tiers in an order; the first rule that matches decides. What
//! no rule of a tier decides is denied there where one of its policies isolates the pod, and goes on to the next tier else. This one form
//! holds NetworkPolicy, ClusterNetworkPolicy with its forerunners, Cilium (deny before allow) and Calico (ordered tiers).

mod admin_network_policy;
mod calico;
mod cilium;
mod cluster_network_policy;
mod network_policy;
mod tiered;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Deserialize as _;
use serde_json::Value;
use thiserror::Error;

use crate::labels::Labels;
use crate::pod::{Direction, Seen};
use crate::ports::Ports;
use crate::region::Cube;

/// Kinds of objects that have a say over a pod's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`
    BaselineAdminNetworkPolicy,
    /// `cilium.io/v2`
    CiliumNetworkPolicy,
    /// `cilium.io/v2`
    CiliumClusterwideNetworkPolicy,
    /// `NetworkPolicy` of `projectcalico.org/v3` or `crd.projectcalico.org/v1`
    CalicoNetworkPolicy,
    /// `GlobalNetworkPolicy` of `projectcalico.org/v3` or `crd.projectcalico.org/v1`
    CalicoGlobalNetworkPolicy,
    /// `Tier` of `projectcalico.org/v3` or `crd.projectcalico.org/v1`: no policy itself, but it says when policies are asked.
    CalicoTier,
}

impl PolicyKind {
    /// The name in messages: the API's kind, with the project's name before it where another kind is called the same.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::CalicoNetworkPolicy => "Calico NetworkPolicy",
            Self::CalicoGlobalNetworkPolicy => "Calico GlobalNetworkPolicy",
            Self::CalicoTier => "Calico Tier",
        }
    }

    /// The kind of that name in that API group; `None` where such objects have no say over a pod's traffic, as far as is known here.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            ("networking.k8s.io", "NetworkPolicy") => Some(Self::NetworkPolicy),
            ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Some(Self::ClusterNetworkPolicy),
            ("policy.networking.k8s.io", "AdminNetworkPolicy") => Some(Self::AdminNetworkPolicy),
            ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy") => Some(Self::BaselineAdminNetworkPolicy),
            ("cilium.io", "CiliumNetworkPolicy") => Some(Self::CiliumNetworkPolicy),
            ("cilium.io", "CiliumClusterwideNetworkPolicy") => Some(Self::CiliumClusterwideNetworkPolicy),
            ("projectcalico.org" | "crd.projectcalico.org", "NetworkPolicy") => Some(Self::CalicoNetworkPolicy),
            ("projectcalico.org" | "crd.projectcalico.org", "GlobalNetworkPolicy") => {
                Some(Self::CalicoGlobalNetworkPolicy)
            }
            ("projectcalico.org" | "crd.projectcalico.org", "Tier") => Some(Self::CalicoTier),
            _ => None,
        }
    }
}

/// Why an object is no policy.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Objects of its kind have no say over a pod's traffic, as far as is known here.
    #[error("{kind} of {api_version} is no kind of policy that is known")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// It has no name.
    #[error("a {0} without a name")]
    NoName(&'static str),
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
    /// Where it is a tier of Calico's.
    pub(crate) tier: Option<CalicoTier>,
}

/// When the policies of a tier are asked, and what becomes of what they don't decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CalicoTier {
    pub(crate) order: f64,
    pub(crate) passes: bool,
}

impl Policy {
    /// Which one it is.
    #[must_use]
    pub fn reference(&self) -> &PolicyRef {
        &self.reference
    }

    /// Whether it, or what it changes the order of, has a say in this direction.
    pub(crate) fn speaks_of(&self, direction: Direction) -> bool {
        self.tier.is_some() || self.sections.iter().any(|section| section.direction == direction)
    }

    /// The policy that an object of any known kind is. What can't be read of it is no error: it is doubted where it may matter.
    pub fn read(object: &Value) -> Result<Self, PolicyError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind_name) = (text(&object["apiVersion"]), text(&object["kind"]));
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(kind) = PolicyKind::of(group, &kind_name) else {
            return Err(PolicyError::UnknownKind { api_version, kind: kind_name });
        };
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().ok_or(PolicyError::NoName(kind.as_str()))?;
        let spec = &object["spec"];
        let namespace = metadata["namespace"].as_str().map(str::to_owned);
        let reference = PolicyRef { kind, namespace, name: name.to_owned() };
        let policy = match kind {
            PolicyKind::NetworkPolicy => {
                NetworkPolicy::deserialize(object).map(|policy| Self::from(&policy)).map_err(|error| error.to_string())
            }
            PolicyKind::ClusterNetworkPolicy => cluster_network_policy::read(name, spec),
            PolicyKind::AdminNetworkPolicy | PolicyKind::BaselineAdminNetworkPolicy => {
                admin_network_policy::read(kind, name, spec)
            }
            PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
                cilium::read(&reference, object)
            }
            PolicyKind::CalicoNetworkPolicy | PolicyKind::CalicoGlobalNetworkPolicy => calico::read(&reference, spec),
            PolicyKind::CalicoTier => calico::read_tier(&reference, spec),
        };
        Ok(policy.unwrap_or_else(|reason| Self::unreadable(reference, &reason)))
    }

    /// It may choose any pod in its reach, and allow anything before any other policy denies it.
    fn unreadable(reference: PolicyRef, reason: &str) -> Self {
        let reason: Arc<str> = Arc::from(format!("it can't be read: {reason}"));
        let rules = vec![Rule {
            action: Action::Accept,
            peers: vec![Cube::anyone()],
            ports: Ports::all(),
            doubt: Some(reason.clone()),
        }];
        let section = |direction| Section {
            direction,
            tier: Tier::Unreadable,
            order: 0.0,
            isolates: false,
            rules: rules.clone(),
        };
        let namespaces = vec![reference.namespace.as_deref().map_or_else(Labels::any, Labels::namespace)];
        Self {
            subject: Subject { namespaces, doubt: Some(reason.clone()), ..Subject::everyone() },
            sections: Direction::BOTH.map(section).into(),
            reference,
            tier: None,
        }
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
    /// Chosen by any of them.
    pub(crate) namespaces: Vec<Labels>,
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
    pub(crate) fn everyone() -> Self {
        Self { namespaces: vec![Labels::any()], pods: vec![Labels::any()], doubt: None }
    }

    pub(crate) fn chooses(&self, pod: &Seen<'_>) -> Told {
        if !self.pods.iter().any(|labels| labels.matches(|key| pod.label(key))) {
            return Told::No;
        }
        let mut told = Told::No;
        for namespace in &self.namespaces {
            match (pod.is_in(namespace), &self.doubt) {
                (Told::Yes, None) => return Told::Yes,
                (Told::Yes, Some(reason)) => return Told::Maybe(reason.clone()),
                (Told::Maybe(reason), _) => told = Told::Maybe(reason),
                (Told::No, _) => {}
            }
        }
        told
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

/// Rules that are asked together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// What can't be read may stand anywhere: first, nothing is denied before it.
    Unreadable,
    /// Cilium denies before it allows.
    CiliumDeny,
    /// The cluster's administrators, before everybody else.
    Admin,
    /// One of Calico's own, by its name.
    Calico(Arc<str>),
    /// NetworkPolicy, what Cilium allows, and Calico's tier `default`. NetworkPolicies and Cilium together allow what one of them allows.
    NetworkPolicy,
    /// The cluster's administrators, for what nobody else has decided.
    Baseline,
}

impl Tier {
    /// Its place: the smaller one is asked first. Calico gives its own tiers a number, and these to those that it shares with
    /// Kubernetes: <https://docs.tigera.io/calico/latest/network-policy/policy-tiers/tiered-policy>. `None`: it isn't known.
    pub(crate) fn order(&self, calico: &BTreeMap<String, CalicoTier>) -> Option<f64> {
        match self {
            Self::Unreadable | Self::CiliumDeny => Some(f64::NEG_INFINITY),
            Self::Admin => Some(1_000.0),
            Self::Calico(name) => calico.get(&**name).map(|tier| tier.order),
            Self::NetworkPolicy => Some(1_000_000.0),
            Self::Baseline => Some(10_000_000.0),
        }
    }

    pub(crate) fn passes(&self, calico: &BTreeMap<String, CalicoTier>) -> bool {
        matches!(self, Self::Calico(name) if calico.get(&**name).is_some_and(|tier| tier.passes))
    }

    /// Whether it is up to the network plugin which of two policies of the same order is asked first.
    pub(crate) fn leaves_order_open(&self) -> bool {
        matches!(self, Self::Admin | Self::Baseline)
    }
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
