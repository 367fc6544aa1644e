//! Which step comes when, and what a run comes to.

use quell_crds::v1alpha1::{Phase, StepKind, StepState};
use serde_json::json;

use crate::support::{Game, changed, done, failed};

const ALL_DONE: (Phase, &str) = (Phase::Succeeded, "Succeeded");

fn ended(game: &Game) -> (Phase, String) {
    let (phase, reason, _) = game.end();
    (phase, reason)
}

#[test]
fn steps_run_one_after_the_other_by_default() {
    let mut game = Game::new(json!([
        {"name": "a", "quarantine": {}}, {"name": "b", "wait": {"for": "1s"}}, {"name": "c", "rollback": {}},
    ]));
    game.play();
    assert_eq!(game.log, ["perform a", "perform b", "perform c", "enter Succeeded Succeeded"]);
    assert_eq!(game.end().2, "done: a, b, c");
}

#[test]
fn a_step_waits_while_the_one_before_is_under_way() {
    let mut game = Game::new(json!([{"name": "a", "rollback": {}}, {"name": "b", "quarantine": {}}]))
        .on("a", [crate::support::pending(None, None)]);
    game.turn();
    assert_eq!(game.says(), ["perform a"]);
    assert_eq!(game.status.current_step, "a");
}

#[test]
fn branches_run_side_by_side_and_join() {
    let mut game = Game::new(json!([
        {"name": "a", "quarantine": {}},
        {"name": "b", "after": ["a"], "rollback": {}},
        {"name": "c", "after": ["a"], "wait": {"for": "1s"}},
        {"name": "d", "after": ["b", "c"], "wait": {"for": "1s"}},
    ]));
    game.turn();
    assert_eq!(game.says(), ["perform b", "perform c"]);
    game.turn();
    assert_eq!(game.says(), ["perform d"]);
}

#[test]
fn an_empty_after_begins_at_once() {
    let game = Game::new(json!([{"name": "a", "quarantine": {}}, {"name": "b", "after": [], "rollback": {}}]));
    assert_eq!(game.says(), ["perform a", "perform b"]);
}

#[test]
fn a_false_condition_skips_the_step_and_later_ones_go_on() {
    let mut game = Game::new(json!([
        {"name": "a", "when": "finding.severity == 'Critical'", "quarantine": {}}, {"name": "b", "rollback": {}},
    ]));
    game.play();
    assert_eq!(game.log, ["skip a ConditionNotMet", "perform b", "enter Succeeded Succeeded"]);
    assert_eq!(game.record("a").message, "its condition is false: finding.severity == 'Critical'");
    assert_eq!(game.end().2, "done: b; skipped: a");
}

#[test]
fn a_run_whose_steps_are_all_skipped_succeeds_with_nothing_to_do() {
    let mut game = Game::new(json!([{"name": "a", "when": "false", "quarantine": {}}]));
    game.play();
    assert_eq!(ended(&game), (ALL_DONE.0, ALL_DONE.1.into()));
    assert_eq!(game.end().2, "nothing to do; skipped: a");
}

#[test]
fn a_condition_that_fails_is_never_false_but_fails_the_step_and_the_run() {
    let mut game = Game::new(json!([
        {"name": "a", "when": "finding.nothing == 'x'", "quarantine": {}}, {"name": "b", "rollback": {}},
    ]));
    game.play();
    assert_eq!(game.log, ["fail a ExpressionFailed", "skip b Aborted", "enter Failed StepFailed"]);
    assert!(
        game.end().2.starts_with("a failed (ExpressionFailed): `finding.nothing == 'x'` failed"),
        "{:?}",
        game.end()
    );
    assert!(game.end().2.ends_with("; skipped: b"));
}

#[test]
fn a_template_that_fails_fails_the_step_and_names_the_field() {
    let mut game = Game::new(json!([{"name": "a", "setImage": {"image": "${finding.details.image}"}}]));
    game.play();
    assert_eq!(game.record("a").reason, "ExpressionFailed");
    assert!(game.record("a").message.starts_with("setImage.image: "), "{}", game.record("a").message);
    assert!(game.given.is_empty());
}

#[test]
fn a_step_after_a_failed_one_that_aborts_is_not_done_on_any_branch() {
    let mut game = Game::new(json!([
        {"name": "a", "quarantine": {}},
        {"name": "b", "after": [], "wait": {"for": "1s"}},
        {"name": "c", "after": ["b"], "rollback": {}},
    ]))
    .on("a", [failed(false)]);
    game.play();
    assert_eq!(game.log, ["perform a", "perform b", "skip c Aborted", "enter Failed StepFailed"]);
}

#[test]
fn no_further_step_begins_while_a_failed_one_is_put_back() {
    let mut game = Game::new(json!([
        {"name": "a", "rollback": {}},
        {"name": "b", "after": [], "wait": {"for": "1s"}},
        {"name": "c", "after": ["b"], "quarantine": {}},
    ]))
    .on("a", [crate::support::pending(None, Some(crate::support::receipt("web"))), failed(false)])
    .on("b", [crate::support::pending(None, None), done()]);
    game.turn();
    game.turn();
    assert_eq!(game.states(), [StepState::Reverting, StepState::Succeeded, StepState::Pending]);
    assert_eq!(game.says(), ["revert a", "skip c Aborted"]);
}

#[test]
fn a_failed_step_that_says_continue_lets_the_rest_go_on_and_the_run_fails_at_its_end() {
    let mut game = Game::new(json!([
        {"name": "a", "onFailure": "Continue", "quarantine": {}}, {"name": "b", "rollback": {}},
    ]))
    .on("a", [failed(false)]);
    game.play();
    assert_eq!(game.log, ["perform a", "perform b", "enter Failed StepFailed"]);
    assert_eq!(game.end().2, "a failed (Invalid): no");
}

#[test]
fn a_step_after_one_that_was_skipped_for_its_dependency_is_skipped_too() {
    let mut game = Game::new(json!([
        {"name": "a", "onFailure": "Continue", "quarantine": {}},
        {"name": "b", "when": "false", "wait": {"for": "1s"}},
        {"name": "c", "rollback": {}},
    ]))
    .on("a", [failed(false)]);
    game.play();
    assert_eq!(game.states(), [StepState::Failed, StepState::Skipped, StepState::Succeeded]);
}

#[test]
fn intent_is_recorded_before_an_effect_that_leaves_the_cluster() {
    let mut game = Game::new(json!([
        {"name": "tell", "notify": {"channels": [{"name": "security"}]}},
        {"name": "build", "rebuild": {"job": {"spec": {}}}},
    ]));
    game.play();
    assert_eq!(game.log, ["begin tell", "perform tell", "begin build", "perform build", "enter Succeeded Succeeded"]);
    assert_eq!(game.record("tell").attempts, 1);
}

#[test]
fn a_condition_is_judged_by_what_earlier_steps_handed_on() {
    let outputs = [("image".to_owned(), "shop:2".to_owned())].into();
    let mut game = Game::new(json!([
        {"name": "build", "rebuild": {"job": {"spec": {"image": "${finding.name}"}}}},
        {"name": "set", "when": "has(steps.build.outputs.image)", "setImage": {"image": "${steps.build.outputs.image}"}},
        {"name": "tell", "when": "steps.set.state != 'Succeeded'",
         "notify": {"channels": [{"name": "security"}], "message": "left as it was"}},
    ]))
    .on("build", [quell_playbooks::Outcome::Done { message: String::new(), outputs, receipt: None }])
    .on("set", [changed("web")]);
    game.play();
    let Some((_, StepKind::SetImage(set))) = game.given.iter().find(|(name, _)| name == "set") else { panic!() };
    assert_eq!(set.image, "shop:2");
    let Some((_, StepKind::Rebuild(build))) = game.given.first() else { panic!() };
    assert_eq!(serde_json::to_value(build).unwrap(), json!({"job": {"spec": {"image": "falco-1"}}}));
    assert_eq!(game.record("tell").reason, "ConditionNotMet");
}

#[test]
fn a_run_that_has_ended_stays_as_it_is() {
    let mut game = Game::new(json!([{"name": "a", "quarantine": {}}]));
    game.play().pass(86_400);
    assert_eq!(game.plan(), quell_playbooks::Plan::default());
}

#[test]
fn the_same_run_gives_the_same_decisions() {
    let game = Game::new(json!([{"name": "a", "quarantine": {}}, {"name": "b", "after": [], "rollback": {}}]));
    assert_eq!(game.plan(), game.plan());
}
