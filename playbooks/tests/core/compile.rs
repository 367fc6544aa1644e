//! Every mistake in a playbook is named by its place, when the playbook is written.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::ClusterPlaybook;
use quell_playbooks::compile::{Draft, compile_steps};
use quell_playbooks::{Compiled, Problem, compile};
use serde_json::{Value, json};

use crate::support::at;

fn draft(spec: Value) -> Draft {
    let written = json!({"apiVersion": "quell.dev/v1alpha1", "kind": "ClusterPlaybook",
        "metadata": {"name": "p"}, "spec": spec});
    let playbook: ClusterPlaybook = serde_json::from_value(written).unwrap();
    Draft::of_cluster_playbook(&playbook, at(0))
}

fn compiled(spec: Value) -> Result<Compiled, Problem> {
    compile(&draft(spec), &BTreeSet::from(["security".to_owned()]))
}

/// The category, place and message of what is wrong.
fn problem(spec: Value) -> (Reason, String, String) {
    let problem = compiled(spec).unwrap_err();
    (problem.reason, problem.at, problem.message)
}

/// The same, for a step that comes after a `quarantine` named `first`.
fn step(step: Value) -> (Reason, String, String) {
    problem(json!({"steps": [{"name": "first", "quarantine": {}}, step]}))
}

fn assert_place(found: &(Reason, String, String), reason: Reason, at: &str, message: &str) {
    assert_eq!((found.0, found.1.as_str()), (reason, at), "{found:?}");
    assert!(found.2.contains(message), "{found:?}");
}

#[test]
fn a_playbook_has_a_step() {
    assert_place(&problem(json!({"steps": []})), Reason::ParameterInvalid, "spec.steps", "has no step");
}

#[test]
fn the_condition_of_the_match_compiles_and_sees_no_steps() {
    let with = |when: &str| problem(json!({"match": {"when": when}, "steps": [{"name": "a", "quarantine": {}}]}));
    assert_place(&with("finding.rule =="), Reason::ExpressionInvalid, "spec.match.when", "is not CEL");
    assert_place(&with("steps.a.state == 'x'"), Reason::ExpressionInvalid, "spec.match.when", "names `steps`");
}

#[test]
fn a_label_selector_is_one_that_kubernetes_takes() {
    for field in ["labels", "targetLabels"] {
        for (operator, values, message) in [
            ("In", json!([]), "In of `app` needs values"),
            ("NotIn", json!([]), "NotIn of `app` needs values"),
            ("Exists", json!(["x"]), "Exists of `app` takes no values"),
            ("DoesNotExist", json!(["x"]), "DoesNotExist of `app` takes no values"),
        ] {
            let selector = json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]});
            let spec = json!({"match": {field: selector}, "steps": [{"name": "a", "quarantine": {}}]});
            let place = format!("spec.match.{field}.matchExpressions[0]");
            assert_place(&problem(spec), Reason::ParameterInvalid, &place, message);
        }
    }
}

#[test]
fn a_name_is_given_once() {
    let found = step(json!({"name": "first", "rollback": {}}));
    assert_place(&found, Reason::StepOrderInvalid, "spec.steps[1].name", "`first` is the name of an earlier step");
}

#[test]
fn after_names_steps_further_up() {
    for after in ["second", "third", "nowhere"] {
        let found = problem(json!({"steps": [
            {"name": "first", "quarantine": {}},
            {"name": "second", "after": ["first", after], "rollback": {}},
            {"name": "third", "rollback": {}},
        ]}));
        assert_place(&found, Reason::StepOrderInvalid, "spec.steps[1].after", after);
    }
}

#[test]
fn the_condition_of_a_step_compiles() {
    let found = step(json!({"name": "b", "when": "workload.kind = 'x'", "rollback": {}}));
    assert_place(&found, Reason::ExpressionInvalid, "spec.steps[1].when", "is not CEL");
}

#[test]
fn every_template_of_every_kind_is_checked_in_its_place() {
    let poll = json!({"url": "u", "succeeded": "true", "failed": "false"});
    let http = |field: &str, value: Value| {
        let mut http = json!({"url": "u", "poll": poll});
        http[field] = value;
        json!({"rebuild": {"http": http}})
    };
    let polled = |field: &str, value: Value| {
        let mut poll = poll.clone();
        poll[field] = value;
        http("poll", poll)
    };
    for (kind, place) in [
        (json!({"setImage": {"image": "${nope}"}}), "setImage.image"),
        (json!({"setImage": {"image": "a", "container": "${nope}"}}), "setImage.container"),
        (json!({"notify": {"channels": [{"name": "security"}], "message": "${nope}"}}), "notify.message"),
        (json!({"rebuild": {"job": {"spec": {"a": {"b": ["x", "${nope}"]}}}}}), "rebuild.job.spec.a.b[1]"),
        (http("url", json!("${nope}")), "rebuild.http.url"),
        (http("body", json!({"ref": "${nope}"})), "rebuild.http.body.ref"),
        (http("headers", json!({"X-A": "${nope}"})), "rebuild.http.headers.X-A"),
        (polled("url", json!("${response.id}")), "rebuild.http.poll.url"),
        (polled("succeeded", json!("nope")), "rebuild.http.poll.succeeded"),
        (polled("failed", json!("nope")), "rebuild.http.poll.failed"),
        (polled("outputs", json!({"image": "${nope}"})), "rebuild.http.poll.outputs.image"),
    ] {
        let mut written = json!({"name": "b"});
        written.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        assert_place(&step(written), Reason::ExpressionInvalid, &format!("spec.steps[1].{place}"), "names `");
    }
}

#[test]
fn the_answer_of_a_build_may_be_read_where_it_is_known() {
    let http = json!({"url": "u", "poll": {"url": "${started.id}", "succeeded": "started.id == response.id",
        "failed": "response.failed", "outputs": {"image": "${response.image}"}}});
    assert!(compiled(json!({"steps": [{"name": "a", "rebuild": {"http": http}}]})).is_ok());
}

#[test]
fn a_channel_is_one_that_is_there() {
    let found = step(json!({"name": "b", "notify": {"channels": [{"name": "security"}, {"name": "slack"}]}}));
    let message = "there is no ClusterChannel named `slack`";
    assert_place(&found, Reason::ChannelUnknown, "spec.steps[1].notify.channels[1]", message);
}

#[test]
fn only_the_outputs_of_steps_that_surely_came_before_may_be_read() {
    let reads = |expression: &str| {
        problem(json!({"steps": [
            {"name": "first", "quarantine": {}},
            {"name": "side", "after": ["first"], "rollback": {}},
            {"name": "b", "after": ["first"], "when": expression, "rollback": {}},
        ]}))
    };
    for expression in ["steps.side.outputs.image == 'x'", "steps['side'].state == 'x'", "steps.b.state == 'x'"] {
        assert_place(&reads(expression), Reason::ExpressionInvalid, "spec.steps[2].when", "does not come before");
    }
}

#[test]
fn a_step_may_read_those_that_come_before_the_ones_it_names() {
    let steps = json!([
        {"name": "first", "quarantine": {}},
        {"name": "roll-back", "rollback": {}},
        {"name": "side", "after": ["first"], "wait": {"for": "1s"}},
        {"name": "last", "after": ["roll-back"], "when": "steps.first.state == steps['roll-back'].state", "rollback": {}},
    ]);
    let compiled = compile_steps(&serde_json::from_value::<Vec<_>>(steps).unwrap(), &[]).unwrap();
    let after: Vec<&[usize]> = compiled.iter().map(|step| step.after.as_slice()).collect();
    assert_eq!(after, [&[] as &[usize], &[0], &[0], &[1]]);
    assert_eq!(compiled[3].names.steps, BTreeSet::from(["first".to_owned(), "roll-back".to_owned()]));
}

fn since(generation: Option<i64>, status: Option<Value>) -> DateTime<Utc> {
    let mut written = json!({"apiVersion": "quell.dev/v1alpha1", "kind": "ClusterPlaybook",
        "metadata": {"name": "p", "creationTimestamp": at(0).to_rfc3339()},
        "spec": {"steps": [{"name": "a", "quarantine": {}}]}});
    if let Some(generation) = generation {
        written["metadata"]["generation"] = json!(generation);
    }
    if let Some(status) = status {
        written["status"] = status;
    }
    let playbook: ClusterPlaybook = serde_json::from_value(written).unwrap();
    Draft::of_cluster_playbook(&playbook, at(100)).effective_since
}

#[test]
fn a_new_playbook_counts_from_its_creation_and_a_changed_one_from_when_it_is_seen() {
    assert_eq!(since(Some(1), None), at(0));
    assert_eq!(since(Some(2), None), at(100));
    let seen = |generation: i64| Some(json!({"observedGeneration": generation, "effectiveSince": at(50).to_rfc3339()}));
    assert_eq!(since(Some(2), seen(2)), at(50), "seen before: a restart doesn't move it");
    assert_eq!(since(Some(3), seen(2)), at(100), "changed since");
}
