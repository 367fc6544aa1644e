//! The text: what happened, to what, what was done, what was not and why, and what to do now.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use quell_crds::conditions::{ConditionType, Reason, find};
use quell_crds::names;
use quell_crds::v1alpha1::{Finding, PlaybookKind, Remediation, StepRecord, StepState};
use quell_playbooks::TargetState;
use quell_playbooks::facts::Exposure;
use quell_playbooks::related::Related;

use super::{Case, Why, advice, title};
use crate::objects;
use crate::text::{count, one_line};
use crate::time::{created, length, moment};

/// Indentation, and width of the names in front of values.
const NAMES: usize = 12;
/// More outputs than that are for `kubectl get remediation -o yaml`.
const LONGEST_OUTPUT: usize = 200;

pub(super) fn text(case: &Case, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    let finding = &case.finding;
    let _ = writeln!(text, "Finding {}/{}", finding.namespace().unwrap_or_default(), finding.name_any());
    section(&mut text, "What happened", &happened(finding, now));
    section(&mut text, "To what", &to_what(case));
    section(&mut text, "What else is open there", &beside(case));
    section(&mut text, "What Quell did", &done(case, now));
    section(&mut text, "Whether it holds", &contained(case));
    section(&mut text, "What it did not do", &not_done(case));
    section(&mut text, "Playbooks that were not run", &others(case));
    section(&mut text, "What to do now", &advice::lines(case));
    text
}

fn section(text: &mut String, name: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{name}");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

fn pair(name: &str, value: &str) -> Option<String> {
    let value = one_line(value);
    (!value.is_empty()).then(|| format!("{name:<NAMES$}{value}"))
}

fn happened(finding: &Finding, now: DateTime<Utc>) -> Vec<String> {
    let spec = &finding.spec;
    let status = finding.status.clone().unwrap_or_default();
    let tool = if spec.tool.is_empty() { String::new() } else { format!(", tool {}", spec.tool) };
    let first = spec.detected_at.or_else(|| created(&finding.metadata));
    let last = status.last_seen.or(first);
    let times = count(usize::try_from(status.count).unwrap_or_default(), "time");
    let mut lines: Vec<String> = [
        pair("Rule", &spec.rule),
        pair("Severity", &format!("{} ({}, source {}{tool})", spec.severity, spec.category, spec.source)),
        pair("Message", &spec.message),
        first.and_then(|at| pair("First", &moment(at, now))),
        last.and_then(|at| pair("Last", &format!("{}, reported {times}", moment(at, now)))),
        status.reopened_at.and_then(|at| pair("Back", &format!("{}, episode {}", moment(at, now), status.episode))),
        status.resolved_at.and_then(|at| pair("Resolved", &moment(at, now))),
        status.expired_at.and_then(|at| pair("Expired", &format!("{}; nobody said that it is over", moment(at, now)))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(counts) = spec.vulnerability_counts {
        lines.extend(pair(
            "Vulns",
            &format!(
                "{} critical, {} high, {} medium, {} low; {} can be fixed",
                counts.critical, counts.high, counts.medium, counts.low, counts.fixable
            ),
        ));
    }
    for one in spec.vulnerabilities.iter().take(5) {
        let fix = if one.fixed_version.is_empty() {
            "no fix yet".to_owned()
        } else {
            format!("fixed in {}", one.fixed_version)
        };
        lines.extend(
            pair("", &format!("{} {} {} ({}): {fix}", one.id, one.package, one.installed_version, one.severity))
                .map(|l| format!("{:NAMES$}{l}", "")),
        );
    }
    lines
}

fn to_what(case: &Case) -> Vec<String> {
    // A run keeps the target with its UID, which a Finding written by hand may lack.
    let target = case.runs.first().map_or(&case.finding.spec.target, |run| &run.spec.target);
    let workload = case.world.as_ref().ok().and_then(|world| world.workload.as_ref());
    let workload = workload.or(case.finding.spec.workload.as_ref()).map(objects::workload);
    let now = match &case.world {
        Err(problem) => format!("not known: {problem}"),
        Ok(world) => match &world.target {
            TargetState::Pod(pod) => match pod.labels.get(names::QUARANTINE) {
                Some(profile) => format!("the pod is there, under quarantine ({profile})"),
                None => "the pod is there, not under quarantine".to_owned(),
            },
            TargetState::Gone => "the pod is gone".to_owned(),
            TargetState::Replaced { uid } => format!("the pod is gone; another one has its name now (UID {uid})"),
            TargetState::NotAPod => String::new(),
        },
    };
    let node = match case.world.as_ref().ok().and_then(|world| world.target.pod()) {
        Some(pod) if !pod.node.is_empty() => &pod.node,
        _ => &target.node,
    };
    let uid = match case.world.as_ref().ok().and_then(|world| world.target.pod()) {
        Some(pod) if target.uid.is_empty() => {
            format!("{} (the finding names none; this is the pod of that name)", pod.uid)
        }
        _ => target.uid.clone(),
    };
    [
        pair("Target", &objects::target(target)),
        pair("Now", &now),
        pair("UID", &uid),
        pair("Container", &target.container),
        pair("Image", &target.image),
        pair("Digest", &target.digest),
        pair("Node", node),
        pair("Workload", &workload.unwrap_or_default()),
        case.world.as_ref().ok().and_then(|world| pair("Exposed", &exposed(&world.exposure))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What it opens to others; nothing where that is nothing.
fn exposed(exposure: &Exposure) -> String {
    let services = exposure.services.iter().map(|one| format!("Service {} ({})", one.name, one.kind));
    let shared = [
        (exposure.host_network, "its node's network"),
        (exposure.host_pid, "its node's processes"),
        (exposure.host_ipc, "its node's IPC"),
        (exposure.privileged, "a privileged container"),
    ];
    let shared = shared.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned());
    let ports = exposure.host_ports.iter().map(|port| format!("port {port} of its node"));
    let routes = exposure.ingresses.iter().map(|one| format!("{} {} ({})", one.kind, one.name, one.hosts.join(" ")));
    services.chain(routes).chain(shared).chain(ports).collect::<Vec<_>>().join(", ")
}

/// What else is open on the same workload or object, the worst first.
fn beside(case: &Case) -> Vec<String> {
    let line = |one: &Related| {
        let tool = if one.tool == one.source { String::new() } else { format!(", tool {}", one.tool) };
        format!("{} {}: {} ({}, source {}{tool})", one.severity, one.name, one_line(&one.rule), one.state, one.source)
    };
    let mut lines: Vec<String> = case.beside.worst.iter().map(line).collect();
    let more = case.beside.all.saturating_sub(lines.len());
    if more > 0 {
        let namespace = case.finding.namespace().unwrap_or_default();
        lines.push(format!("and {more} more, none of them worse: kubectl quell get -n {namespace}"));
    }
    lines
}

/// Whether the quarantine lets anything through, and what.
fn contained(case: &Case) -> Vec<String> {
    let status = case.finding.status.clone().unwrap_or_default();
    let Some(condition) = find(&status.conditions, ConditionType::Contained) else { return Vec::new() };
    let word = match condition.status.as_str() {
        "True" => "yes",
        "False" => "NO",
        _ => "not known",
    };
    let mut lines: Vec<String> = pair("Contained", &format!("{word}: {}", condition.message)).into_iter().collect();
    lines.extend(status.open_paths.iter().filter_map(|path| pair("Open", path)));
    lines
}

fn done(case: &Case, now: DateTime<Utc>) -> Vec<String> {
    if case.runs.is_empty() {
        let told = case.finding.status.as_ref().and_then(|status| find(&status.conditions, ConditionType::Matched));
        return vec![match told {
            // Its message says to ask here.
            Some(matched) if matched.reason == Reason::NoPlaybookMatched.to_string() => {
                "Nothing: no playbook matched.".to_owned()
            }
            Some(matched) => format!("Nothing: {}", one_line(&matched.message)),
            None => "Nothing yet: it has not been looked at. Is Quell running?".to_owned(),
        }];
    }
    let mut lines = Vec::new();
    for run in &case.runs {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(told_run(&case.finding, run, now));
    }
    lines
}

fn told_run(finding: &Finding, run: &Remediation, now: DateTime<Utc>) -> Vec<String> {
    let (playbook, status) = (&run.spec.playbook, objects::status(run));
    let acts_as = match playbook.kind {
        PlaybookKind::Playbook => format!("as service account {}", playbook.service_account_name),
        PlaybookKind::ClusterPlaybook => "as Quell".to_owned(),
    };
    let mut lines =
        vec![format!("{} (generation {}), {acts_as}: {}", title(playbook), playbook.generation, status.phase)];
    let mut add = |line: Option<String>| lines.extend(line.map(|line| format!("  {line}")));
    add(pair("Run", &format!("remediation/{}", run.name_any())));
    if let Some(began) = status.started_at {
        add(pair("Began", &moment(began, now)));
    }
    if let Some(ended) = status.finished_at {
        let took = status.started_at.map_or_else(String::new, |began| format!(", took {}", length(ended - began)));
        add(pair("Ended", &format!("{}{took}", moment(ended, now))));
    }
    add(pair("Cut off", &cut_off(finding, run)));
    if let Some(complete) = find(&status.conditions, ConditionType::Complete) {
        add(pair("Result", &complete.message));
    }
    for record in &status.steps {
        lines.extend(step(run, record, now).into_iter().map(|line| format!("  {line}")));
    }
    lines
}

/// How long it took from the Finding to the containment of its target.
fn cut_off(finding: &Finding, run: &Remediation) -> String {
    let status = objects::status(run);
    let ended = |record: &&StepRecord| {
        objects::contains(run, record) && matches!(record.state, StepState::Succeeded | StepState::NotUndone)
    };
    let Some(at) = status.steps.iter().find(ended).and_then(|record| record.finished_at) else { return String::new() };
    let mut told = Vec::new();
    if let Some(seen) = finding.spec.detected_at.filter(|seen| *seen <= at) {
        told.push(format!("{} after the tool saw it", length(at - seen)));
    }
    // The API server dates objects in whole seconds: what happens within the same one took less.
    if let Some(made) = created(&finding.metadata).filter(|made| *made <= at) {
        told.push(match (at - made).num_seconds() {
            0 => "less than 1s after the finding".to_owned(),
            _ => format!("{} after the finding", length(at - made)),
        });
    }
    told.join(", ")
}

fn step(run: &Remediation, record: &StepRecord, now: DateTime<Utc>) -> Vec<String> {
    let took = match (record.started_at, record.finished_at) {
        (Some(began), Some(ended)) => format!(", took {}", length(ended - began)),
        _ => String::new(),
    };
    let at = record.finished_at.or(record.started_at).map_or_else(String::new, |at| format!("  {}", moment(at, now)));
    let tries = if record.attempts > 1 { format!(", {} tries", record.attempts) } else { String::new() };
    let mut lines = vec![format!(
        "{} {} ({}): {}{at}{took}{tries}",
        sign(record.state),
        record.name,
        objects::kind_of(run, record),
        record.state
    )];
    let reason = if record.reason.is_empty() || record.reason == record.state.to_string() {
        String::new()
    } else {
        format!("{}: ", record.reason)
    };
    let said = format!("{reason}{}", one_line(&record.message));
    if !said.is_empty() {
        lines.push(format!("    {said}"));
    }
    if let Some(next) = record.next_at {
        lines.push(format!("    next try {}", moment(next, now)));
    }
    for (key, value) in &record.outputs {
        lines.push(format!("    {key} = {}", crate::text::cut(&one_line(value), LONGEST_OUTPUT)));
    }
    lines
}

fn sign(state: StepState) -> char {
    match state {
        StepState::Succeeded | StepState::Undone => '✓',
        StepState::Failed | StepState::NotUndone => '✗',
        StepState::Skipped | StepState::Cancelled => '-',
        _ => '…',
    }
}

fn not_done(case: &Case) -> Vec<String> {
    let mut lines = Vec::new();
    for run in &case.runs {
        for record in objects::status(run).steps {
            let told = matches!(
                record.state,
                StepState::Failed
                    | StepState::Held
                    | StepState::Skipped
                    | StepState::NotUndone
                    | StepState::Cancelled
                    | StepState::Waiting
                    | StepState::AwaitingApproval
            );
            if told {
                let (name, state) = (&record.name, objects::spoken(record.state));
                lines.push(format!(
                    "{name} ({}): {state}, {}: {}",
                    run.spec.playbook.name,
                    record.reason,
                    one_line(&record.message)
                ));
            }
        }
    }
    lines
}

fn others(case: &Case) -> Vec<String> {
    let others = match &case.others {
        Ok(others) => others,
        Err(problem) => return vec![format!("They can't be judged: {}", one_line(problem))],
    };
    let unseen = case.unseen.iter().map(|problem| format!("Not seen: {}", one_line(problem)));
    if others.is_empty() && case.runs.is_empty() && case.unseen.is_empty() {
        return vec![
            "There is none, in this namespace or for all: see kubectl get clusterplaybooks,playbooks".to_owned(),
        ];
    }
    let told = |why: &Why| match why {
        Why::NotReady(problem) => format!("not Ready: {problem}"),
        Why::Differs(difference) => difference.clone(),
        Why::Fails(error) => format!("its match.when failed: {error}"),
        Why::StandsBack(other) => format!("it matches; {other}, of the same group, was run in its place"),
        Why::Matches => "it matches, and its run has not begun: is Quell running?".to_owned(),
    };
    let judged = others.iter().map(|other| format!("{}: {}", title(&other.reference), one_line(&told(&other.why))));
    judged.chain(unseen).collect()
}

#[cfg(test)]
mod tests;
