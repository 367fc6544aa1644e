//! What pods say of themselves.

use k8s_openapi::api::core::v1::Pod;

/// Whether the pod, which has not ended, runs as that ServiceAccount.
#[must_use]
pub fn runs_as(pod: &Pod, namespace: &str, service_account: &str) -> bool {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    pod.metadata.namespace.as_deref() == Some(namespace) && account == service_account && !over
}
