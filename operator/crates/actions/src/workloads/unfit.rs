//! Workloads that a change would do nothing for: they roll nothing out, or another tool would put them back.

use quell_crds::conditions::Reason;

use super::Live;
use crate::ActionError;

/// Argo CD's ways to track what it manages: <https://argo-cd.readthedocs.io/en/stable/user-guide/resource_tracking/>
const ARGO_CD: &[&str] = &["argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"];
const FLUX_KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io/name";
const FLUX_HELM: &str = "helm.toolkit.fluxcd.io/name";
/// With the value `disabled`, Flux leaves the object alone: <https://fluxcd.io/flux/components/kustomize/kustomizations/>
const FLUX_RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";

/// Refuses a workload on which the change would not take effect, or not last.
pub(crate) fn refuse_unfit(live: &Live, step: &str) -> Result<(), ActionError> {
    refuse_still(live, step)?;
    refuse_managed(live, step)
}

/// Refuses a workload that would keep its old pods.
fn refuse_still(live: &Live, step: &str) -> Result<(), ActionError> {
    let title = live.title();
    let message = if live.spec["paused"] == true {
        let resume = format!("kubectl rollout resume {}", live.kubectl_name());
        format!(
            "{step} was not done: {title} is paused, so nothing would be rolled out; {resume}, then run the playbook again"
        )
    } else if live.spec["updateStrategy"]["type"] == "OnDelete" {
        format!(
            "{step} was not done: {title} has the updateStrategy OnDelete, so its pods would stay as they are until somebody deletes \
             them; change the strategy to RollingUpdate, or do it by hand"
        )
    } else {
        return Ok(());
    };
    Err(ActionError::refused(Reason::TargetUnsupported, message))
}

/// Refuses a workload whose template a GitOps tool owns: it would undo the step, and nobody would see it.
fn refuse_managed(live: &Live, step: &str) -> Result<(), ActionError> {
    let has = |key: &str| live.label(key).or_else(|| live.annotation(key));
    let title = live.title();
    let advice = if let Some(by) = ARGO_CD.iter().find_map(|key| has(key)) {
        format!("Argo CD ({by}), which would put it back. Change it in Git, or take it out of Argo CD's hands first")
    } else if let Some(by) = has(FLUX_KUSTOMIZE) {
        if has(FLUX_RECONCILE) == Some("disabled") {
            return Ok(());
        }
        let annotate = format!("kubectl annotate {} {FLUX_RECONCILE}=disabled", live.kubectl_name());
        format!(
            "Flux (Kustomization {by}), which would put it back. Change it in Git, or tell Flux to leave it alone: {annotate}"
        )
    } else if let Some(by) = has(FLUX_HELM) {
        format!(
            "Flux (HelmRelease {by}), which would put it back. Change the release, or suspend it: flux suspend helmrelease {by}"
        )
    } else {
        return Ok(());
    };
    Err(ActionError::refused(Reason::TargetUnsupported, format!("{step} was not done: {title} is managed by {advice}")))
}
