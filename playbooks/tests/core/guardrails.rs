//! Guardrails: what they hold, with which numbers, and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Guardrail, Intent, RemediationStatus, RunSettings, StepKind, StepState};
use quell_playbooks::compile::CompiledStep;
use quell_playbooks::guardrails::{
    Group, Guardrails, Hold, Impact, Key, Ledger, Place, Purpose, Subject, Totals, Verdict, compile, reach,
};
use quell_playbooks::plan::{self, Asked as AskedOfRun, Run};
use quell_playbooks::{Decision, Outcome, Recovery, TargetState, World, progress};
use serde_json::{Value, json};

use crate::support::{compiled, finding};

static SETTINGS: RunSettings =
    RunSettings { priority: 0, group: None, timeout: None, approval: None, undo: None, finally: Vec::new() };

fn run<'a>(steps: &'a [CompiledStep], status: &'a RemediationStatus, intent: Intent) -> Run<'a> {
    Run { steps, status, settings: &SETTINGS, asked: AskedOfRun { intent, ..AskedOfRun::default() } }
}

struct Pods(usize);

impl Totals for Pods {
    fn pods(&self, _: &Group, _: &[String]) -> usize {
        self.0
    }
}

fn guardrails(specs: &[Value]) -> Guardrails {
    let all = specs.iter().enumerate().map(|(i, spec)| {
        let guardrail = Guardrail::new(&format!("rail-{i}"), serde_json::from_value(spec.clone()).unwrap());
        Arc::new(compile(&guardrail).unwrap())
    });
    Guardrails { readable: all.collect(), unreadable: Vec::new() }
}

fn problem(spec: Value) -> String {
    compile(&Guardrail::new("rail", serde_json::from_value(spec).unwrap())).unwrap_err().to_string()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn key(name: &str) -> Key {
    Key { namespace: "shop".into(), remediation: name.into(), step: "contain".into() }
}

/// One thing that is asked for.
struct Asked {
    kind: StepKind,
    purpose: Purpose,
    namespace: String,
    namespace_labels: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    kinds: BTreeSet<String>,
    workload: String,
    node: BTreeMap<String, String>,
    pods: usize,
    last_ready: bool,
    allow_last_replica: bool,
}

fn quarantine() -> Asked {
    Asked {
        kind: serde_json::from_value(json!({ "quarantine": {} })).unwrap(),
        purpose: Purpose::Effect,
        namespace: "shop".into(),
        namespace_labels: BTreeMap::new(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        kinds: ["Pod".to_owned(), "Deployment".to_owned()].into(),
        workload: "Deployment shop/web".into(),
        node: BTreeMap::from([("pool".to_owned(), "blue".to_owned())]),
        pods: 1,
        last_ready: false,
        allow_last_replica: false,
    }
}

impl Asked {
    fn ask(&self, rails: &Guardrails, run: &str, ledger: &mut Ledger, total: usize, now: DateTime<Utc>) -> Verdict {
        let world = World { finding: finding(), target: TargetState::Gone, ..World::default() };
        let scope = world.step_scope(run, "playbook", &RemediationStatus::default());
        let impact = reach(&self.kind).disrupts.map(|disruption| Impact {
            disruption,
            namespace: self.namespace.clone(),
            pods: (0..self.pods)
                .map(|_| Place { workload: self.workload.clone(), node: Arc::new(self.node.clone()) })
                .collect(),
        });
        let subject = Subject {
            purpose: self.purpose,
            step: "contain",
            kind: &self.kind,
            allow_last_replica: self.allow_last_replica,
            scope: &scope,
            about: "Pod shop/web-1",
            namespace: &self.namespace,
            namespace_labels: &self.namespace_labels,
            pod_labels: Some(&self.labels),
            kinds: &self.kinds,
            impact: impact.as_ref(),
            last_ready_of: self.last_ready.then_some(self.workload.as_str()),
        };
        rails.decide(&subject, &key(run), ledger, &Pods(total), now)
    }

    fn hold(&self, rails: &Guardrails) -> Option<Hold> {
        match self.ask(rails, "run", &mut Ledger::default(), 100, at("2026-06-01T12:00:00Z")) {
            Verdict::Go => None,
            Verdict::Held(hold) => Some(hold),
        }
    }
}

fn reason(verdict: &Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Go => None,
        Verdict::Held(hold) => Some(hold.reason),
    }
}

#[test]
fn the_stop_switch_holds_every_effect_but_the_undo_of_a_person_and_what_tells_people() {
    let rails = guardrails(&[json!({ "stop": true, "stopReason": "ana looks" })]);
    let hold = quarantine().hold(&rails).unwrap();
    assert_eq!((hold.reason, hold.guardrail.as_str(), hold.until), (Reason::Stopped, "rail-0", None));
    assert!(hold.message.contains("ana looks") && hold.message.contains("kubectl quell go"), "{}", hold.message);
    assert!(Asked { purpose: Purpose::Upkeep, ..quarantine() }.hold(&rails).is_some());
    assert_eq!(Asked { purpose: Purpose::UndoOfAPerson, ..quarantine() }.hold(&rails), None);
    let notify = serde_json::from_value(json!({ "notify": { "channels": [{ "name": "security" }] } })).unwrap();
    assert_eq!(Asked { kind: notify, ..quarantine() }.hold(&rails), None);
}

#[test]
fn a_guardrail_that_cannot_be_read_holds_everything_whatever_the_others_say() {
    let mut rails = guardrails(&[json!({})]);
    rails.unreadable.push(("broken".into(), "unknown field `protekt`".into()));
    let hold = quarantine().hold(&rails).unwrap();
    assert_eq!(hold.reason, Reason::GuardrailUnreadable);
    assert!(hold.message.contains("broken") && hold.message.contains("protekt"), "{}", hold.message);
    assert_eq!(Asked { purpose: Purpose::UndoOfAPerson, ..quarantine() }.hold(&rails), None);
}

#[test]
fn what_is_protected_is_told_by_namespace_label_kind_and_expression_and_all_of_a_rule_must_hold() {
    let of = |rule: Value| {
        let mut rule = rule;
        rule["name"] = json!("rule");
        quarantine().hold(&guardrails(&[json!({ "protect": [rule] })])).map(|hold| hold.reason)
    };
    assert_eq!(of(json!({ "namespaces": ["shop"] })), Some(Reason::Protected));
    assert_eq!(of(json!({ "namespaces": ["other"] })), None);
    assert_eq!(of(json!({ "labels": { "matchLabels": { "app": "web" } } })), Some(Reason::Protected));
    assert_eq!(of(json!({ "namespaceSelector": { "matchLabels": { "tier": "core" } } })), None);
    assert_eq!(of(json!({ "kinds": ["StatefulSet"] })), None);
    assert_eq!(of(json!({ "kinds": ["Deployment"] })), Some(Reason::Protected));
    assert_eq!(of(json!({ "namespaces": ["shop"], "kinds": ["StatefulSet"] })), None);
    assert_eq!(
        of(json!({ "when": "step.kind == 'quarantine' && finding.source == 'falco'" })),
        Some(Reason::Protected)
    );
    assert_eq!(of(json!({ "when": "step.kind == 'rollback'" })), None);
}

#[test]
fn an_expression_that_fails_holds_and_never_counts_as_false() {
    let rails = guardrails(&[json!({ "protect": [{ "name": "tier", "when": "finding.details.tier == 'core'" }] })]);
    assert_eq!(quarantine().hold(&rails).unwrap().reason, Reason::GuardrailUnreadable);
    let rails = guardrails(&[json!({ "freezes": [{
        "name": "always", "once": { "from": "2026-01-01T00:00", "until": "2027-01-01T00:00" }, "when": "finding.details.tier == 'core'",
    }] })]);
    assert_eq!(quarantine().hold(&rails).unwrap().reason, Reason::GuardrailUnreadable);
}

#[test]
fn a_mistake_is_named_by_its_place() {
    assert!(problem(json!({ "protect": [{ "name": "a", "when": "nope.x" }] })).starts_with("spec.protect[0].when: "));
    let zone = json!({ "freezes": [{ "name": "a", "timeZone": "Europe/Atlantis", "weekly": { "days": ["Monday"] } }] });
    assert!(problem(zone).starts_with("spec.freezes[0].timeZone: `Europe/Atlantis`"));
    let backwards =
        json!({ "freezes": [{ "name": "a", "once": { "from": "2026-02-02T00:00", "until": "2026-02-01T00:00" } }] });
    assert!(problem(backwards).starts_with("spec.freezes[0].once.until: "));
    let no_day =
        json!({ "freezes": [{ "name": "a", "once": { "from": "2026-02-30T00:00", "until": "2026-03-01T00:00" } }] });
    assert!(problem(no_day).starts_with("spec.freezes[0].once.from: `2026-02-30T00:00`"));
}

#[test]
fn of_a_thousand_at_once_no_more_get_through_than_the_limit_says() {
    let rails = guardrails(&[json!({ "limits": [{ "name": "few", "per": "Cluster", "max": 10, "window": "1h" }] })]);
    let (mut ledger, now) = (Ledger::default(), at("2026-06-01T12:00:00Z"));
    let verdicts: Vec<_> =
        (0..1000).map(|i| quarantine().ask(&rails, &format!("run-{i}"), &mut ledger, 5000, now)).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Go).count(), 10);
    // They go on ten an hour: whoever asked first, first.
    let until = |i: usize| match &verdicts[i] {
        Verdict::Held(hold) => hold.until.unwrap(),
        Verdict::Go => panic!("let through"),
    };
    assert_eq!(
        (until(10), until(19), until(20)),
        (now + TimeDelta::hours(1), now + TimeDelta::hours(1), now + TimeDelta::hours(2))
    );
    assert_eq!(until(999), now + TimeDelta::hours(99));
    let Verdict::Held(hold) = &verdicts[10] else { panic!("let through") };
    assert!(
        hold.message.contains("at most 10 pods of the cluster") && hold.message.contains("10 were"),
        "{}",
        hold.message
    );
    // Asked again, what was let through is counted once.
    assert_eq!(quarantine().ask(&rails, "run-3", &mut ledger, 5000, now), Verdict::Go);
    assert_eq!(ledger.len(), 10);
}

#[test]
fn a_slot_that_gets_free_goes_to_who_waits_longest_and_still_waits() {
    let rails = guardrails(&[json!({ "limits": [{ "name": "one", "per": "Namespace", "max": 1 }] })]);
    let (mut ledger, now) = (Ledger::default(), at("2026-06-01T12:00:00Z"));
    for run in ["a", "b", "c", "d"] {
        let verdict = quarantine().ask(&rails, run, &mut ledger, 10, now);
        assert_eq!(verdict == Verdict::Go, run == "a");
    }
    let elsewhere = Asked { namespace: "other".into(), ..quarantine() };
    assert_eq!(elsewhere.ask(&rails, "e", &mut ledger, 10, now), Verdict::Go, "each namespace by itself");
    assert_eq!(ledger.release(&key("a"), |waiting| *waiting != key("b")), [key("c")]);
    assert_eq!(quarantine().ask(&rails, "c", &mut ledger, 10, now), Verdict::Go);
    assert_eq!(reason(&quarantine().ask(&rails, "d", &mut ledger, 10, now)), Some(Reason::LimitReached));
}

#[test]
fn what_is_longer_ago_than_the_window_counts_no_more() {
    let rails = guardrails(&[json!({ "limits": [{ "name": "one", "per": "Workload", "max": 1, "window": "30m" }] })]);
    let (mut ledger, now) = (Ledger::default(), at("2026-06-01T12:00:00Z"));
    assert_eq!(quarantine().ask(&rails, "a", &mut ledger, 10, now), Verdict::Go);
    let Verdict::Held(hold) = quarantine().ask(&rails, "b", &mut ledger, 10, now + TimeDelta::minutes(29)) else {
        panic!("let through")
    };
    assert_eq!(hold.until, Some(now + TimeDelta::minutes(30)));
    assert_eq!(quarantine().ask(&rails, "b", &mut ledger, 10, now + TimeDelta::minutes(30)), Verdict::Go);
}

#[test]
fn a_share_is_rounded_up_and_node_groups_are_counted_by_their_label() {
    let share = guardrails(&[json!({ "limits": [{ "name": "third", "per": "Workload", "maxPercent": 30 }] })]);
    let (mut ledger, now) = (Ledger::default(), at("2026-06-01T12:00:00Z"));
    let verdicts: Vec<_> =
        ["a", "b", "c"].iter().map(|run| quarantine().ask(&share, run, &mut ledger, 4, now)).collect();
    assert_eq!(verdicts.iter().filter(|one| **one == Verdict::Go).count(), 2, "30 % of 4 pods are 1.2");

    let pools =
        guardrails(&[json!({ "limits": [{ "name": "pool", "per": "NodeGroup", "nodeLabel": "pool", "max": 1 }] })]);
    let mut ledger = Ledger::default();
    let green = Asked { node: BTreeMap::from([("pool".to_owned(), "green".to_owned())]), ..quarantine() };
    assert_eq!(quarantine().ask(&pools, "a", &mut ledger, 4, now), Verdict::Go);
    assert_eq!(green.ask(&pools, "b", &mut ledger, 4, now), Verdict::Go);
    let Verdict::Held(hold) = green.ask(&pools, "c", &mut ledger, 4, now) else { panic!("let through") };
    assert!(hold.message.contains("nodes with pool=green"), "{}", hold.message);
}

#[test]
fn a_step_that_alone_is_more_than_the_limit_is_told_that_it_never_may() {
    let rails =
        guardrails(&[json!({ "limits": [{ "name": "few", "of": ["Restarted"], "per": "Cluster", "max": 5 }] })]);
    let rollback = serde_json::from_value(json!({ "rollback": { "to": "Previous" } })).unwrap();
    let big = Asked { kind: rollback, pods: 20, ..quarantine() };
    let hold = big.hold(&rails).unwrap();
    assert_eq!(hold.until, None);
    assert!(hold.message.contains("20 more") && hold.message.contains("can't go on by itself"), "{}", hold.message);
    assert_eq!(quarantine().hold(&rails), None, "contained pods aren't counted by it");
}

#[test]
fn the_last_ready_replica_is_kept_unless_the_step_or_the_guardrail_says_otherwise() {
    let last = || Asked { last_ready: true, ..quarantine() };
    let rails = guardrails(&[json!({})]);
    assert_eq!(last().hold(&rails).unwrap().reason, Reason::LastReadyReplica);
    assert_eq!(quarantine().hold(&rails), None);
    assert_eq!(Asked { allow_last_replica: true, ..last() }.hold(&rails), None);
    assert_eq!(last().hold(&guardrails(&[json!({ "lastReadyReplica": "Allow" })])), None);
}

fn frozen(freeze: Value, now: &str) -> Option<DateTime<Utc>> {
    let mut freeze = freeze;
    freeze["name"] = json!("freeze");
    let rails = guardrails(&[json!({ "freezes": [freeze] })]);
    match quarantine().ask(&rails, "run", &mut Ledger::default(), 10, at(now)) {
        Verdict::Go => None,
        Verdict::Held(hold) => {
            assert_eq!(hold.reason, Reason::Frozen);
            Some(hold.until.unwrap())
        }
    }
}

#[test]
fn a_weekly_freeze_goes_by_the_clocks_of_its_zone_across_midnight_and_summer_time() {
    let nights =
        || json!({ "timeZone": "Europe/Berlin", "weekly": { "days": ["Friday"], "from": "18:00", "until": "06:00" } });
    // In June Berlin is two hours ahead. 2026-06-05 is a Friday.
    assert_eq!(frozen(nights(), "2026-06-05T15:59:59Z"), None);
    assert_eq!(frozen(nights(), "2026-06-05T16:00:00Z"), Some(at("2026-06-06T04:00:00Z")));
    assert_eq!(frozen(nights(), "2026-06-06T03:59:59Z"), Some(at("2026-06-06T04:00:00Z")));
    assert_eq!(frozen(nights(), "2026-06-06T04:00:00Z"), None);
    // In January one hour.
    assert_eq!(frozen(nights(), "2026-01-09T17:00:00Z"), Some(at("2026-01-10T05:00:00Z")));
    // Clocks go forward in the night to 2026-03-29, a Sunday: 02:30 doesn't come, the freeze begins when they do.
    let spring =
        || json!({ "timeZone": "Europe/Berlin", "weekly": { "days": ["Sunday"], "from": "02:30", "until": "05:00" } });
    assert_eq!(frozen(spring(), "2026-03-29T00:59:59Z"), None);
    assert_eq!(frozen(spring(), "2026-03-29T01:00:00Z"), Some(at("2026-03-29T03:00:00Z")));
    // They go back in the night to 2026-10-25: 02:30 comes twice, the freeze lasts over both.
    let autumn =
        || json!({ "timeZone": "Europe/Berlin", "weekly": { "days": ["Sunday"], "from": "01:00", "until": "02:30" } });
    assert_eq!(frozen(autumn(), "2026-10-25T01:29:59Z"), Some(at("2026-10-25T01:30:00Z")));
    // Without times, the whole day; without a zone, UTC.
    let days = || json!({ "weekly": { "days": ["Saturday", "Sunday"] } });
    assert_eq!(frozen(days(), "2026-06-06T00:00:00Z"), Some(at("2026-06-07T00:00:00Z")));
    assert_eq!(frozen(days(), "2026-06-08T00:00:00Z"), None);
}

#[test]
fn a_freeze_that_comes_once_holds_from_its_first_to_its_last_minute_and_only_what_it_is_for() {
    let holidays = |more: Value| {
        let mut freeze = json!({ "timeZone": "America/New_York", "once": { "from": "2026-12-24T12:00", "until": "2027-01-02T06:00" } });
        freeze.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        freeze
    };
    assert_eq!(frozen(holidays(json!({})), "2026-12-24T16:59:59Z"), None);
    assert_eq!(frozen(holidays(json!({})), "2026-12-24T17:00:00Z"), Some(at("2027-01-02T11:00:00Z")));
    assert_eq!(frozen(holidays(json!({ "namespaces": ["other"] })), "2026-12-25T00:00:00Z"), None);
    assert_eq!(frozen(holidays(json!({ "when": "finding.rule == 'other'" })), "2026-12-25T00:00:00Z"), None);
}

#[test]
fn a_step_that_is_held_has_not_begun_and_its_time_does_not_run() {
    let steps = compiled(
        json!([{ "name": "contain", "quarantine": {}, "timeout": "1m" }, { "name": "back", "rollback": { "to": "Previous" } }]),
    );
    let begin = at("2026-06-01T12:00:00Z");
    let mut status = plan::prepare(&steps, None, begin);
    let hold = Hold {
        guardrail: "rail".into(),
        reason: Reason::LimitReached,
        message: "10 of 10".into(),
        until: Some(begin + TimeDelta::hours(1)),
    };
    progress::settle(&mut status.steps[0], &steps[0].step, Outcome::Held(hold.clone()), "key", begin);
    let record = &status.steps[0];
    assert_eq!((record.state, record.attempts, record.started_at), (StepState::Held, 0, None));
    assert_eq!((record.reason.as_str(), record.message.as_str()), ("LimitReached", "10 of 10"));

    // Whatever wakes the run, it asks again; and again at the latest when the guardrail says.
    let late = begin + TimeDelta::minutes(30);
    let scope = World::default().step_scope("run", "playbook", &status);
    let plan = plan::plan(run(&steps, &status, Intent::Run), &scope, late);
    assert!(matches!(plan.decisions.as_slice(), [Decision::Perform { step: 0, .. }]), "{plan:?}");
    assert_eq!(plan.wake_at, hold.until);
    progress::begin(&mut status.steps[0], late);
    assert_eq!(status.steps[0].attempts, 1);
    assert_eq!(progress::deadline(&status.steps[0], &steps[0].step), Some(late + TimeDelta::minutes(1)));

    // A run that is undone while it is held has nothing to put back.
    progress::settle(&mut status.steps[0], &steps[0].step, Outcome::Held(hold), "key", late);
    status.phase = quell_crds::v1alpha1::Phase::Undoing;
    let plan = plan::plan(run(&steps, &status, Intent::Undo), &scope, late);
    assert!(plan.decisions.iter().all(|one| matches!(one, Decision::Recover { .. })), "{plan:?}");
    for record in &mut status.steps {
        progress::settle_recovery(record, Recovery::Nothing, "key", late);
    }
    let plan = plan::plan(run(&steps, &status, Intent::Undo), &scope, late);
    assert!(plan.decisions.iter().all(|one| matches!(one, Decision::Skip { .. })), "{plan:?}");
}
