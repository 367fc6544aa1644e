//! The finalizer of quarantine policies: on them while a pod is under their quarantine, and no longer.
//!
//! A namespace that is deleted loses its objects in no order, so a policy could go before the pods that it cuts off (CVE-2024-7598). The
//! finalizer keeps it until the last of them is gone. It is taken off when nothing needs it, so that a namespace can go without Quell.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use quell_crds::names::{self, field_managers};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::containment::Containment;
use crate::engine::Queue;
use crate::lanes::Lanes;

/// After a request that failed. What changes meanwhile doesn't wait for it.
const AGAIN: Duration = Duration::from_secs(5);

/// Looks at the policies of each namespace that is named, until `end`.
pub async fn keep(
    client: Client,
    caches: Arc<Caches>,
    lanes: Lanes,
    (again, mut namespaces): (Queue<Namespace>, UnboundedReceiver<ObjectRef<Namespace>>),
    end: CancellationToken,
) {
    loop {
        let namespace = tokio::select! {
            Some(namespace) = namespaces.recv() => namespace,
            () = end.cancelled() => return,
        };
        for policy in caches.quarantine_policies(&namespace.name) {
            let Some(finalizers) = wanted(&policy, &caches.containment) else { continue };
            if let Err(error) = write(&client, &lanes, &policy, &finalizers).await {
                let policy = policy.name_any();
                tracing::warn!(namespace = namespace.name, policy, %error, "the finalizer of a quarantine policy is late");
                let (again, namespace) = (again.clone(), namespace.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(AGAIN).await;
                    again.send(namespace);
                });
            }
        }
    }
}

/// The finalizers that a policy should have; `None`: those that it has.
fn wanted(policy: &NetworkPolicy, containment: &Containment) -> Option<Vec<String>> {
    let profile = policy.labels().get(names::QUARANTINE_POLICY)?;
    let needed = containment.is_needed(&policy.namespace().unwrap_or_default(), profile);
    let there = policy.finalizers();
    let has = there.iter().any(|one| one == names::QUARANTINE);
    match (needed, has) {
        // Nothing can be added to what is being deleted.
        (true, false) if policy.metadata.deletion_timestamp.is_none() => {
            Some(there.iter().cloned().chain([names::QUARANTINE.to_owned()]).collect())
        }
        (false, true) => Some(there.iter().filter(|one| *one != names::QUARANTINE).cloned().collect()),
        _ => None,
    }
}

/// Whether the finalizer must be put on. One that is there too early is not news: a policy is made with it, before there is a pod that
/// needs it.
#[must_use]
pub fn is_missing(policy: &NetworkPolicy, containment: &Containment) -> bool {
    !policy.finalizers().iter().any(|one| one == names::QUARANTINE) && wanted(policy, containment).is_some()
}

async fn write(
    client: &Client,
    lanes: &Lanes,
    policy: &NetworkPolicy,
    finalizers: &[String],
) -> Result<(), kube::Error> {
    let api: Api<NetworkPolicy> = Api::namespaced(client.clone(), &policy.namespace().unwrap_or_default());
    let patch =
        json!({ "metadata": { "resourceVersion": policy.metadata.resource_version, "finalizers": finalizers } });
    let parameters = PatchParams { field_manager: Some(field_managers::RECORD.to_owned()), ..PatchParams::default() };
    let _pass = lanes.book_keeping().await;
    match api.patch_metadata(&policy.name_any(), &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // It is gone; or it has changed, and that change brings its namespace back here.
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}
