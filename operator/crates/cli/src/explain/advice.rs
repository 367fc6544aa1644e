//! What to do now: commands that can be copied.

use kube::ResourceExt as _;
use quell_crds::v1alpha1::{Phase, StepState};
use quell_playbooks::TargetState;

use super::{Case, Why, resource};
use crate::objects;

pub(super) fn lines(case: &Case) -> Vec<String> {
    let mut all: Vec<(String, &str)> = Vec::new();
    let finding = &case.finding;
    let namespace = finding.namespace().unwrap_or_default();
    let flags = objects::flags(finding);
    let phases: Vec<Phase> = case.runs.iter().map(|run| objects::status(run).phase).collect();

    for (run, phase) in case.runs.iter().zip(&phases) {
        let failed = objects::status(run)
            .steps
            .iter()
            .any(|record| matches!(record.state, StepState::Failed | StepState::NotUndone));
        if failed || *phase == Phase::Failed {
            all.push((
                format!("kubectl describe -n {namespace} remediation/{}", run.name_any()),
                "the failed run in full",
            ));
        }
    }
    for run in case.runs.iter().filter(|run| objects::status(run).phase == Phase::Paused) {
        all.push((
            format!("kubectl quell resume -n {namespace} remediation/{}", run.name_any()),
            "go on with the paused run",
        ));
    }
    if phases.iter().any(|phase| !phase.is_final()) {
        all.push((format!("kubectl quell watch -n {namespace}"), "follow what is under way"));
    }
    let target = case.runs.first().map_or(&finding.spec.target, |run| &run.spec.target);
    if let Ok(TargetState::Pod(pod)) = case.world.as_ref().map(|world| &world.target) {
        let container = if target.container.is_empty() { String::new() } else { format!(" -c {}", target.container) };
        all.push((format!("kubectl describe -n {} pod/{}", pod.namespace, pod.name), "the pod and its events"));
        all.push((format!("kubectl logs -n {} {}{container}", pod.namespace, pod.name), "what it wrote"));
    }
    if let Some(workload) = case.world.as_ref().ok().and_then(|world| world.workload.as_ref())
        && matches!(workload.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet")
    {
        let kind = workload.kind.to_lowercase();
        let command =
            format!("kubectl rollout status -n {} {kind}/{} --timeout 10s", workload.namespace, workload.name);
        all.push((command, "whether its workload is well"));
    }
    for other in case.others.as_deref().unwrap_or_default() {
        let command = format!("kubectl edit {}", resource(&other.reference, &namespace));
        match other.why {
            Why::NotReady(_) => all.push((command, "mend the playbook that isn't Ready")),
            Why::Fails(_) => all.push((command, "mend its match.when")),
            Why::Matches => {
                let look = "kubectl get lease,pods -n quell".to_owned();
                all.push((look, "whether Quell runs, in its namespace (here: quell)"));
            }
            Why::Differs(_) | Why::StandsBack(_) => {}
        }
    }
    if case.runs.is_empty() {
        all.push((
            format!("kubectl quell plan playbook.yaml --finding {} -n {namespace}", finding.name_any()),
            "try a playbook on it; changes nothing",
        ));
    }
    if case.runs.iter().any(objects::can_be_undone) {
        all.push((format!("kubectl quell undo {flags}"), "take back what was done"));
    }
    let width = all.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default().min(80);
    let mut lines: Vec<String> = all.into_iter().map(|(command, why)| format!("{command:<width$}  # {why}")).collect();
    lines.dedup();
    lines
}
