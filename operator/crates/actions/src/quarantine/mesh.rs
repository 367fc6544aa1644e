//! Service meshes: what their proxies deny to a quarantined pod, beside the network's policies and after them.
//!
//! A proxy decides on what is opened to its pod, and on TCP alone. Whoever has root in the pod may go past it, so nothing of this counts as
//! containment. It refuses connections where the network enforces no policies, and in the seconds until it does.
//!
//! Istio has policies that deny: one a profile and namespace, written once a pod is cut off. Linkerd has none, and its policy controller
//! looks away from a pod that has lost its labels: `docs/containment.md` says more.

mod istio;

use std::time::{Duration, Instant};

use kube::CustomResource;
use kube::api::Api;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::{Method, Quarantine};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::deny;
use super::profile::Profile;
use crate::{ActionError, Context, Mesh};

/// API group, kind and plural of Istio's policies.
pub const ISTIO: (&str, &str, &str) = ("security.istio.io", "AuthorizationPolicy", "authorizationpolicies");
/// Where a receipt says that a mesh has a policy.
const MESH: &str = "meshPolicy";
/// The pod is cut off by then. Istio asks a webhook of its own, which may be what doesn't answer; the step's record waits for this.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a try that failed, other quarantines of the same profile and namespace do without for this long.
const AGAIN: Duration = Duration::from_secs(10);

/// `spec` of a policy of another project's kind, as its API has it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced,
    schema = "disabled"
)]
pub struct IstioSpec(Map<String, Value>);

/// What became of a mesh's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meshed {
    /// None is wanted: none of the kind is served, or it would have nothing to deny.
    Unwanted,
    /// It stands; whether something had to be done for it.
    Stands(bool),
    /// There is none, and why, for people.
    Lacking(String),
}

impl Meshed {
    /// What there is to say of it after a pod was cut off.
    pub fn said(&self) -> String {
        match self {
            Self::Unwanted | Self::Stands(_) => String::new(),
            Self::Lacking(why) => {
                format!("; no policy of Istio's was written, which changes nothing about the rest: {why}")
            }
        }
    }

    /// Notes in a receipt that it stands.
    pub fn note(&self, receipt: &mut Receipt) {
        if matches!(self, Self::Stands(_)) {
            note(receipt);
        }
    }
}

fn note(receipt: &mut Receipt) {
    receipt.after.insert(MESH.to_owned(), json!("Istio"));
}

/// Notes in the receipt of another pod of the same quarantine what the first one's says.
pub(super) fn note_like(first: &Receipt, other: &mut Receipt) {
    if has_policy(first) {
        note(other);
    }
}

fn has_policy(receipt: &Receipt) -> bool {
    receipt.after.contains_key(MESH)
}

/// The AuthorizationPolicy that stands beside a quarantine, by its name, and its `spec`. `None`: there is none.
#[must_use]
pub fn mesh_policy(receipt: &Receipt, parameters: &Quarantine) -> Option<(String, Value)> {
    let profile = Profile::of(parameters);
    let spec = istio::spec(&profile, parameters).ok().flatten().filter(|_| has_policy(receipt))?;
    Some((profile.policy_name(), Value::Object(spec)))
}

/// Writes what is wanted beside a quarantine whose pods are cut off. It never fails: the quarantine stands without it.
pub(super) async fn ensure(parameters: &Quarantine, namespace: &str, cx: &Context<'_>) -> Meshed {
    if parameters.method == Method::Labels || !cx.cluster.serves_istio() {
        return Meshed::Unwanted;
    }
    let profile = Profile::of(parameters);
    let spec = match istio::spec(&profile, parameters) {
        Ok(Some(spec)) => spec,
        Ok(None) => return Meshed::Unwanted,
        Err(why) => return Meshed::Lacking(why.to_owned()),
    };
    let standing = cx.cluster.policies().mesh_of(namespace, &profile);
    let mut known = standing.lock().await;
    match &*known {
        Mesh::Stands => return Meshed::Stands(false),
        // Whoever waited here for another's try has waited enough.
        Mesh::Failed { at, why } if at.elapsed() < AGAIN => return Meshed::Lacking(why.clone()),
        Mesh::Unknown | Mesh::Failed { .. } => {}
    }
    let (stands, became) = match stand(cx, namespace, &profile, spec).await {
        Ok(changed) => (Mesh::Stands, Meshed::Stands(changed)),
        Err(error) => {
            let why = error.to_string();
            (Mesh::Failed { at: Instant::now(), why: why.clone() }, Meshed::Lacking(why))
        }
    };
    if !cx.writer.is_rehearsal() {
        *known = stands;
    }
    became
}

/// Puts back what stood beside a quarantine, without believing that it still does.
pub(super) async fn ensure_afresh(parameters: &Quarantine, receipt: &Receipt, cx: &Context<'_>) -> Meshed {
    if !has_policy(receipt) {
        return Meshed::Unwanted;
    }
    *cx.cluster.policies().mesh_of(&receipt.namespace, &Profile::of(parameters)).lock().await = Mesh::Unknown;
    ensure(parameters, &receipt.namespace, cx).await
}

async fn stand(
    cx: &Context<'_>,
    namespace: &str,
    profile: &Profile,
    spec: Map<String, Value>,
) -> Result<bool, ActionError> {
    let wanted = deny::in_namespace(AuthorizationPolicy::new(&profile.policy_name(), IstioSpec(spec)), namespace);
    let api = Api::namespaced(cx.writer.client(), namespace);
    match tokio::time::timeout(PATIENCE, deny::stand(cx, &api, wanted, profile)).await {
        Ok(answer) => answer,
        Err(_) => Err(ActionError::Timeout {
            doing: format!("creating AuthorizationPolicy {namespace}/{}", profile.policy_name()),
        }),
    }
}
