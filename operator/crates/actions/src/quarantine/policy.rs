//! The policy of a profile stands before a pod is cut off, and as long as one is.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::conditions::Reason;
use serde_json::{Map, json};

use super::LOOKS;
use super::profile::Profile;
use crate::mark::{annotate, label};
use crate::write::Patched;
use crate::{ActionError, Context};

/// The policy stands when this returns. It is left standing by undo: it selects nothing but quarantined pods, and taking it away could
/// race with a quarantine that counts on it. The answer is whether something had to be done for it.
pub(super) async fn ensure(cx: &Context<'_>, namespace: &str, profile: &Profile) -> Result<bool, ActionError> {
    let standing = cx.cluster.policies().of(namespace, profile);
    let mut stands = standing.lock().await;
    if *stands { Ok(false) } else { make(cx, namespace, profile, &mut stands).await }
}

/// The same, without believing that it stands.
pub(super) async fn ensure_afresh(cx: &Context<'_>, namespace: &str, profile: &Profile) -> Result<bool, ActionError> {
    let standing = cx.cluster.policies().of(namespace, profile);
    let mut stands = standing.lock().await;
    *stands = false;
    make(cx, namespace, profile, &mut stands).await
}

async fn make(cx: &Context<'_>, namespace: &str, profile: &Profile, stands: &mut bool) -> Result<bool, ActionError> {
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
        *stands = !cx.writer.is_rehearsal();
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
