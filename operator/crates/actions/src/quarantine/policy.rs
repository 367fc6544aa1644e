//! The policies of a profile stand before a pod is cut off, and as long as one is.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::{Method, Quarantine};
use serde_json::{Map, json};

use super::LOOKS;
use super::deny::{self, DenyKind};
use super::profile::Profile;
use crate::cluster::Stands;
use crate::mark::{annotate, label};
use crate::write::Patched;
use crate::{ActionError, Context};

/// What a quarantine stands on.
pub(super) struct Wanted<'a> {
    pub parameters: &'a Quarantine,
    pub profile: Profile,
    pub deny: Option<DenyKind>,
}

impl<'a> Wanted<'a> {
    pub fn of(parameters: &'a Quarantine, cx: &Context<'_>) -> Result<Self, ActionError> {
        Ok(Self { parameters, profile: Profile::of(parameters), deny: deny::choose(parameters, cx)? })
    }
}

/// What came of it.
pub(super) struct Ensured {
    /// Something had to be done.
    pub changed: bool,
    /// The kind of policy that denies whatever others allow, where one stands.
    pub deny: Option<DenyKind>,
}

/// The policies stand when this returns. They are left standing by undo: they select nothing but quarantined pods, and taking them away
/// could race with a quarantine that counts on them.
pub(super) async fn ensure(cx: &Context<'_>, namespace: &str, wanted: &Wanted<'_>) -> Result<Ensured, ActionError> {
    let standing = cx.cluster.policies().of(namespace, &wanted.profile);
    let mut stands = standing.lock().await;
    if stands.policy && (stands.deny.is_some() || wanted.parameters.method != Method::DenyPolicy) {
        return Ok(Ensured { changed: false, deny: stands.deny });
    }
    make(cx, namespace, wanted, &mut stands).await
}

/// The same, without believing that they stand.
pub(super) async fn ensure_afresh(
    cx: &Context<'_>,
    namespace: &str,
    wanted: &Wanted<'_>,
) -> Result<Ensured, ActionError> {
    let standing = cx.cluster.policies().of(namespace, &wanted.profile);
    let mut stands = standing.lock().await;
    *stands = Stands::default();
    make(cx, namespace, wanted, &mut stands).await
}

async fn make(
    cx: &Context<'_>,
    namespace: &str,
    wanted: &Wanted<'_>,
    stands: &mut Stands,
) -> Result<Ensured, ActionError> {
    // Side by side: neither needs the other.
    let (policy, deny) =
        tokio::join!(network_policy(cx, namespace, &wanted.profile), deny_policy(cx, namespace, wanted));
    let (changed, (deny_changed, deny)) = (policy?, deny?);
    if !cx.writer.is_rehearsal() {
        *stands = Stands { policy: true, deny };
    }
    Ok(Ensured { changed: changed || deny_changed, deny })
}

/// With `method: Auto` it is a second line: where it can't be had, what others allow is told by `Contained`.
async fn deny_policy(
    cx: &Context<'_>,
    namespace: &str,
    wanted: &Wanted<'_>,
) -> Result<(bool, Option<DenyKind>), ActionError> {
    let Some(kind) = wanted.deny else { return Ok((false, None)) };
    match deny::ensure(kind, cx, namespace, &wanted.profile, wanted.parameters).await {
        Ok(changed) => Ok((changed, Some(kind))),
        Err(_) if wanted.parameters.method == Method::Auto => Ok((false, None)),
        Err(error) => Err(error),
    }
}

async fn network_policy(cx: &Context<'_>, namespace: &str, profile: &Profile) -> Result<bool, ActionError> {
    let api: Api<NetworkPolicy> = Api::namespaced(cx.writer.client(), namespace);
    let (name, wanted) = (profile.policy_name(), profile.policy(namespace, cx.mark));
    for _ in 0..LOOKS {
        let mut changed = true;
        if cx.writer.create(&api, &wanted).await?.is_none() {
            // Gone again already: create it again.
            let Some(there) = cx.writer.get(&api, namespace, &name).await? else { continue };
            changed = !profile.is_said_by(&there);
            if changed && !mend(cx, &api, &there, profile).await? {
                continue;
            }
        }
        return Ok(changed);
    }
    Err(ActionError::for_now(
        Reason::ChangedSince,
        format!("NetworkPolicy {namespace}/{name} changes faster than it can be read"),
    ))
}

/// Makes the policy deny again what it should, and keeps on it what was there instead. `false`: it isn't any more as it was read.
async fn mend(
    cx: &Context<'_>,
    api: &Api<NetworkPolicy>,
    there: &NetworkPolicy,
    profile: &Profile,
) -> Result<bool, ActionError> {
    let metadata = &there.metadata;
    let before = Map::from_iter([("spec".to_owned(), json!(there.spec))]);
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": metadata.uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version}),
        json!({"op": "add", "path": "/spec", "value": profile.spec()}),
    ];
    operations.extend(label(metadata.labels.as_ref(), &profile.labels(cx.mark)));
    operations.extend(annotate(metadata.annotations.as_ref(), &cx.mark.annotations_with(&before)));
    let namespace = there.namespace().unwrap_or_default();
    match cx.writer.patch_unread(api, &namespace, &profile.policy_name(), operations).await {
        Ok(Patched::Changed(_)) => Ok(true),
        Ok(Patched::Precondition) => Ok(false),
        Err(error) if error.reason() == Reason::TargetNotFound => Ok(false),
        Err(error) => Err(error),
    }
}
