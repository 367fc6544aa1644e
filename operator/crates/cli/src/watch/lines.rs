//! What has happened between two looks at an object, in words. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use quell_crds::conditions::{ConditionType, find};
use quell_crds::v1alpha1::{
    Finding, FindingStatus, Intent, Phase, Remediation, RemediationStatus, StepRecord, StepState,
};

use crate::{objects, time};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub at: DateTime<Utc>,
    pub namespace: String,
    pub finding: String,
    pub what: String,
    pub tone: Tone,
}

/// How good or bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    pub fn colour(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\u{1b}[32m",
            Self::Doubtful => "\u{1b}[33m",
            Self::Bad => "\u{1b}[31m",
        }
    }
}

impl Line {
    pub fn new(finding: &Finding, at: DateTime<Utc>, what: String) -> Self {
        let namespace = finding.namespace().unwrap_or_default();
        Self { at, namespace, finding: finding.name_any(), what, tone: Tone::Plain }
    }

    fn of_run(run: &Remediation, at: DateTime<Utc>, what: String, tone: Tone) -> Self {
        let namespace = run.namespace().unwrap_or_default();
        Self { at, namespace, finding: run.spec.finding.name.clone(), what, tone }
    }
}

/// That a Finding is there.
pub(super) fn found(finding: &Finding) -> Line {
    let spec = &finding.spec;
    let what = format!("{} {} on {}", spec.severity, spec.rule, objects::target(&spec.target));
    let at = time::created(&finding.metadata).unwrap_or_default();
    Line { tone: Tone::Bad, ..Line::new(finding, at, what) }
}

/// What has happened to a Finding.
pub(super) fn of_finding(before: Option<&Finding>, after: &Finding, now: DateTime<Utc>) -> Vec<Line> {
    let mut lines = Vec::new();
    if before.is_none() {
        let mut line = found(after);
        line.what = format!("found: {}", line.what);
        lines.push(line);
    }
    let status = after.status.clone().unwrap_or_default();
    let old = before.and_then(|before| before.status.clone()).unwrap_or_default();
    if status.count > old.count {
        let at = status.last_seen.unwrap_or(now);
        lines.push(Line::new(after, at, format!("reported again, {} times by now", status.count)));
    }
    for kind in [ConditionType::TargetResolved, ConditionType::Matched] {
        let (was, is) = (find(&old.conditions, kind), find(&status.conditions, kind));
        let Some(is) = is.filter(|is| is.status != "True" && !status.is_over()) else { continue };
        if was.is_none_or(|was| was.reason != is.reason) {
            let at = quell_crds::time::from_kubernetes(&is.last_transition_time);
            lines.push(Line { tone: Tone::Doubtful, ..Line::new(after, at, is.message.clone()) });
        }
    }
    lines.extend(resolved(after, &old, &status));
    lines
}

/// That it is over, has expired or is back, where that has changed.
fn resolved(finding: &Finding, old: &FindingStatus, status: &FindingStatus) -> Option<Line> {
    let told = |status: &FindingStatus| find(&status.conditions, ConditionType::Resolved).cloned();
    let (was, is) = (told(old), told(status)?);
    if was.is_some_and(|was| (was.status, was.message) == (is.status.clone(), is.message.clone())) {
        return None;
    }
    let (word, tone) = match is.status.as_str() {
        "True" => ("over", Tone::Good),
        "False" => ("back", Tone::Bad),
        _ => ("expired", Tone::Plain),
    };
    let at = quell_crds::time::from_kubernetes(&is.last_transition_time);
    Some(Line { tone, ..Line::new(finding, at, format!("{word}: {}", is.message)) })
}

/// Whether the quarantine of a run holds, where that has changed.
fn contained(run: &Remediation, old: &RemediationStatus, status: &RemediationStatus) -> Option<Line> {
    let told = |status: &RemediationStatus| find(&status.conditions, ConditionType::Contained).cloned();
    let (was, is) = (told(old), told(status)?);
    if was.is_some_and(|was| (was.status, was.reason) == (is.status.clone(), is.reason.clone())) {
        return None;
    }
    let (word, tone) = match is.status.as_str() {
        "True" => ("contained", Tone::Good),
        "False" => ("NOT contained", Tone::Bad),
        _ => ("contained? not known", Tone::Doubtful),
    };
    let at = quell_crds::time::from_kubernetes(&is.last_transition_time);
    Some(Line::of_run(run, at, format!("{word}: {}", is.message), tone))
}

/// What has happened to a run.
pub(super) fn of_run(before: Option<&Remediation>, after: &Remediation, now: DateTime<Utc>) -> Vec<Line> {
    let (status, old) = (objects::status(after), before.map(objects::status).unwrap_or_default());
    let playbook = &after.spec.playbook.name;
    let mut lines = Vec::new();
    if before.is_none() {
        let at = status.started_at.or_else(|| time::created(&after.metadata)).unwrap_or(now);
        lines.push(Line::of_run(
            after,
            at,
            format!("matched by {playbook}: remediation/{} begins", after.name_any()),
            Tone::Plain,
        ));
    }
    // For a run that is seen for the first time nobody can tell when it was.
    if let Some(before) = before {
        lines.extend(asked(before, after, now));
    }
    for record in &status.steps {
        let was = old.steps.iter().find(|was| was.name == record.name);
        let news = was.is_none_or(|was| (was.state, was.attempts) != (record.state, record.attempts));
        if news && record.state != StepState::Pending {
            lines.push(step(after, record, now));
        }
    }
    if status.phase != old.phase && status.phase == Phase::Paused {
        let told = find(&status.conditions, ConditionType::Complete).map(|one| one.message.clone()).unwrap_or_default();
        lines.push(Line::of_run(
            after,
            status.paused_at.unwrap_or(now),
            format!("{playbook} is {told}"),
            Tone::Doubtful,
        ));
    }
    lines.extend(contained(after, &old, &status));
    if status.phase != old.phase && status.phase.is_final() {
        let message =
            find(&status.conditions, ConditionType::Complete).map(|one| one.message.clone()).unwrap_or_default();
        let at = status.finished_at.unwrap_or(now);
        let (word, tone) = match status.phase {
            Phase::Succeeded => ("ended well", Tone::Good),
            Phase::Undone => ("is undone", Tone::Good),
            Phase::Cancelled => ("is cancelled", Tone::Doubtful),
            _ => ("failed", Tone::Bad),
        };
        lines.push(Line::of_run(after, at, format!("{playbook} {word}: {message}"), tone));
    }
    lines
}

/// What somebody has asked of a run.
fn asked(before: &Remediation, after: &Remediation, now: DateTime<Utc>) -> Vec<Line> {
    let playbook = &after.spec.playbook.name;
    let mut asked = Vec::new();
    if before.spec.intent != after.spec.intent {
        asked.push(match after.spec.intent {
            Intent::Run => format!("{playbook} was asked to go on"),
            Intent::Pause => format!("a pause of {playbook} was asked for"),
            Intent::Cancel => format!("{playbook} was cancelled"),
            Intent::Undo => format!("undo of {playbook} was asked for"),
        });
    }
    let steps = after.spec.undo_steps.iter().filter(|step| !before.spec.undo_steps.contains(step));
    asked.extend(steps.map(|step| format!("undo of {step} of {playbook} was asked for")));
    asked.into_iter().map(|what| Line::of_run(after, now, what, Tone::Plain)).collect()
}

fn step(run: &Remediation, record: &StepRecord, now: DateTime<Utc>) -> Line {
    let contains = objects::contains(run, record) && record.state == StepState::Succeeded;
    let what = if contains {
        format!("contained by {}", record.name)
    } else {
        format!("{} {}", record.name, objects::spoken(record.state))
    };
    let reason = match record.state {
        StepState::Succeeded | StepState::Undone | StepState::Running => String::new(),
        _ if record.reason.is_empty() => String::new(),
        _ => format!(" ({})", record.reason),
    };
    let message = if record.message.is_empty() { String::new() } else { format!(": {}", record.message) };
    let at = match record.state {
        StepState::Running => record.started_at,
        state if state.is_final() => record.finished_at,
        _ => None,
    };
    let tone = match record.state {
        StepState::Succeeded | StepState::Undone => Tone::Good,
        StepState::Failed | StepState::NotUndone => Tone::Bad,
        StepState::Retrying
        | StepState::Held
        | StepState::Reverting
        | StepState::Waiting
        | StepState::AwaitingApproval
        | StepState::Cancelled => Tone::Doubtful,
        _ => Tone::Plain,
    };
    Line::of_run(run, at.unwrap_or(now), format!("{what}{reason}{message}"), tone)
}

#[cfg(test)]
mod tests {
    use quell_crds::conditions::{Reason, Status, condition};
    use quell_crds::v1alpha1::step::Quarantine;
    use quell_crds::v1alpha1::{FindingSpec, FindingStatus, RemediationSpec, RemediationStatus, Step, StepKind};
    use serde_json::json;

    use super::*;

    fn run(state: StepState, phase: Phase) -> Remediation {
        let spec: RemediationSpec = serde_json::from_value(json!({
            "finding": {"name": "falco-1", "uid": "f"},
            "playbook": {"kind": "ClusterPlaybook", "name": "contain", "uid": "p", "generation": 1},
            "steps": [],
            "target": {"kind": "Pod", "name": "web-1"},
        }))
        .unwrap();
        let mut run = Remediation::new("contain-1", spec);
        run.metadata.namespace = Some("shop".to_owned());
        run.spec.steps = vec![Step {
            name: "cut".to_owned(),
            when: None,
            after: None,
            timeout: None,
            retry: None,
            approval: None,
            on_failure: quell_crds::v1alpha1::OnFailure::Abort,
            allow_last_replica: false,
            kind: StepKind::Quarantine(Quarantine::default()),
        }];
        let record = StepRecord {
            name: "cut".to_owned(),
            state,
            message: "pod shop/web-1 is cut off".to_owned(),
            ..StepRecord::default()
        };
        run.status = Some(RemediationStatus { phase, steps: vec![record], ..RemediationStatus::default() });
        run
    }

    fn told(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.what.as_str()).collect()
    }

    #[test]
    fn what_is_new_is_told_once() {
        let now = Utc::now();
        let (begun, ended) = (run(StepState::Pending, Phase::Running), run(StepState::Succeeded, Phase::Succeeded));
        assert_eq!(told(&of_run(None, &begun, now)), ["matched by contain: remediation/contain-1 begins"]);
        let lines = of_run(Some(&begun), &ended, now);
        assert_eq!(told(&lines), ["contained by cut: pod shop/web-1 is cut off", "contain ended well: "]);
        assert_eq!(lines[0].tone, Tone::Good);
        assert!(of_run(Some(&ended), &ended, now).is_empty());
    }

    #[test]
    fn an_undo_is_told_from_its_wish_to_its_end() {
        let now = Utc::now();
        let before = run(StepState::Succeeded, Phase::Succeeded);
        let mut after = run(StepState::Undone, Phase::Undone);
        after.spec.intent = Intent::Undo;
        let lines = of_run(Some(&before), &after, now);
        assert_eq!(told(&lines)[..2], ["undo of contain was asked for", "cut undone: pod shop/web-1 is cut off"]);
    }

    #[test]
    fn that_a_finding_has_expired_and_that_it_is_back_is_told_once() {
        let now = Utc::now();
        let finding = |status, reason, message: &str| {
            let mut finding = Finding::new("falco-1", FindingSpec::default());
            let made = condition(&[], ConditionType::Resolved, status, reason, message, None, now);
            finding.status = Some(FindingStatus { conditions: vec![made], ..FindingStatus::default() });
            finding
        };
        let open = Finding::new("falco-1", FindingSpec::default());
        let expired = finding(Status::Unknown, Reason::Expired, "not reported");
        let back = finding(Status::False, Reason::ReportedAgain, "episode 2");
        let lines = of_finding(Some(&open), &expired, now);
        assert_eq!((told(&lines), lines[0].tone), (vec!["expired: not reported"], Tone::Plain));
        assert!(of_finding(Some(&expired), &expired, now).is_empty());
        let lines = of_finding(Some(&expired), &back, now);
        assert_eq!((told(&lines), lines[0].tone), (vec!["back: episode 2"], Tone::Bad));
    }

    #[test]
    fn a_repeat_is_told_with_its_count() {
        let mut finding = Finding::new("falco-1", FindingSpec { rule: "Shell".to_owned(), ..FindingSpec::default() });
        let now = Utc::now();
        assert_eq!(told(&of_finding(None, &finding, now)), ["found: Info Shell on  "]);
        let before = finding.clone();
        finding.status = Some(FindingStatus { count: 4, ..FindingStatus::default() });
        assert_eq!(told(&of_finding(Some(&before), &finding, now)), ["reported again, 4 times by now"]);
    }
}
