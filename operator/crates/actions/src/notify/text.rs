//! What people are told.

use quell_crds::v1alpha1::step::Notify;
use quell_crds::v1alpha1::{StepRecord, StepState};
use quell_notify::Message;

use crate::Context;

/// The message for one channel: the playbook's own words, or what was found, where, and what each step did.
pub(super) fn message(parameters: &Notify, cx: &Context<'_>, channel: &str) -> Message {
    let finding = &cx.world.finding.spec;
    Message {
        key: format!("{}/{channel}", cx.key()),
        // Severity comes before it wherever a channel shows it.
        title: format!("{} on {}", finding.rule, place(cx)),
        text: parameters.message.clone().unwrap_or_else(|| ours(cx)),
        severity: finding.severity,
        fields: fields(cx),
        // The same for each try.
        at: finding.detected_at.or(cx.record.started_at).unwrap_or(cx.now),
    }
}

fn place(cx: &Context<'_>) -> String {
    let target = &cx.world.finding.spec.target;
    if target.namespace.is_empty() {
        format!("{} {}", target.kind, target.name)
    } else {
        format!("{} {}/{}", target.kind, target.namespace, target.name)
    }
}

fn ours(cx: &Context<'_>) -> String {
    let finding = &cx.world.finding.spec;
    let mut text = String::new();
    if !finding.message.is_empty() {
        text.push_str(&finding.message);
        text.push_str("\n\n");
    }
    let others: Vec<String> = cx.steps.iter().filter(|record| record.name != cx.mark.step).map(line).collect();
    if others.is_empty() {
        text.push_str("Nothing else was done about it.\n");
    } else {
        text.push_str("What was done:\n");
        text.push_str(&others.join("\n"));
        text.push('\n');
    }
    text.push_str("\nLook further: kubectl quell explain -n ");
    text.push_str(&cx.mark.namespace);
    text.push(' ');
    text.push_str(&cx.mark.finding);
    text
}

fn line(record: &StepRecord) -> String {
    let state = match record.state {
        StepState::Pending => "not yet".to_owned(),
        state => state.to_string(),
    };
    if record.message.is_empty() {
        return format!("- {}: {state}", record.name);
    }
    format!("- {}: {state}: {}", record.name, record.message)
}

fn fields(cx: &Context<'_>) -> Vec<(String, String)> {
    let finding = &cx.world.finding.spec;
    let target = &finding.target;
    let workload = cx.world.workload.as_ref().map(|workload| format!("{} {}", workload.kind, workload.name));
    let image = match (target.image.as_str(), target.digest.as_str()) {
        ("", digest) => digest.to_owned(),
        (image, digest) if digest.is_empty() || image.contains('@') => image.to_owned(),
        (image, digest) => format!("{image}@{digest}"),
    };
    let container = target.container.clone();
    let namespace = if target.namespace.is_empty() { cx.mark.namespace.clone() } else { target.namespace.clone() };
    let all = [
        ("Namespace", namespace),
        (target.kind.as_str(), target.name.clone()),
        ("Workload", workload.unwrap_or_default()),
        ("Container", container),
        ("Image", image),
        ("Node", target.node.clone()),
        ("Source", finding.source.clone()),
        ("Finding", format!("{}/{}", cx.mark.namespace, cx.mark.finding)),
        ("Remediation", format!("{}/{}", cx.mark.namespace, cx.mark.remediation)),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)).collect()
}
