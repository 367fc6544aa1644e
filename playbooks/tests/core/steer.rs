//! What people ask of a run, its deadline, what is done finally, and when it is undone by itself.

use quell_crds::v1alpha1::{Intent, Phase, StepState};
use quell_playbooks::Plan;
use serde_json::{Value, json};

use crate::support::{Game, changed, done, failed, pending, receipt, undone};

fn steps() -> Value {
    json!([
        {"name": "a", "quarantine": {}}, {"name": "b", "setImage": {"image": "x"}}, {"name": "c", "rollback": {}},
    ])
}

fn tell(when: &str) -> Value {
    let mut step = json!({"name": "tell", "notify": {"channels": [{"name": "security"}],
        "message": "${remediation.outcome}: ${remediation.message}"}});
    if !when.is_empty() {
        step["when"] = json!(when);
    }
    step
}

fn with_finally() -> Game {
    Game::with(steps(), json!({"finally": [tell("")]})).on("a", [changed("a")])
}

/// What was told finally.
fn told(game: &Game) -> Vec<String> {
    let messages = game.given.iter().filter(|(name, _)| name == "tell");
    messages
        .map(|(_, kind)| serde_json::to_value(kind).unwrap()["notify"]["message"].as_str().unwrap().into())
        .collect()
}

#[test]
fn finally_is_done_after_success_and_sees_the_outcome() {
    let mut game = with_finally();
    game.play();
    assert_eq!(
        game.log,
        [
            "perform a",
            "perform b",
            "perform c",
            "finish Succeeded Succeeded",
            "begin tell",
            "perform tell",
            "close Succeeded"
        ]
    );
    assert_eq!(told(&game), ["Succeeded: done: a, b, c"]);
    assert_eq!(game.end(), (Phase::Succeeded, "Succeeded".into(), "done: a, b, c".into()));
    assert_eq!(game.plan(), Plan::default());
}

#[test]
fn finally_is_done_after_a_failure() {
    let mut game = with_finally().on("b", [failed(false)]);
    game.play();
    assert_eq!(told(&game), ["Failed: b failed (Invalid): no; skipped: c"]);
    assert_eq!(game.end().0, Phase::Failed);
}

#[test]
fn finally_is_done_after_an_undo_on_failure_and_only_once() {
    let steps = json!([{"name": "a", "quarantine": {}}, {"name": "b", "onFailure": "Undo", "rollback": {}}]);
    let mut game = Game::with(steps, json!({"finally": [tell("")]})).on("a", [changed("a")]).on("b", [failed(false)]);
    game.play();
    assert_eq!(told(&game), ["Failed: b failed (Invalid): no; undone: a"]);
    assert_eq!(game.end(), (Phase::Failed, "StepFailed".into(), "b failed (Invalid): no; undone: a".into()));
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(told(&game).len(), 1);
}

#[test]
fn finally_is_done_after_a_cancel() {
    let mut game = with_finally().on("b", [pending(None, None)]);
    game.turn();
    game.turn();
    game.intent = Intent::Cancel;
    game.play();
    assert_eq!(told(&game), ["Cancelled: done: a; let go of: b; skipped: c"]);
    assert_eq!(game.end().0, Phase::Cancelled);
}

#[test]
fn finally_is_done_after_a_persons_undo_of_a_run_under_way() {
    let mut game = with_finally().on("b", [pending(None, None)]);
    game.turn();
    game.turn();
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(told(&game), ["Undone: undone: a"]);
    assert_eq!(game.end().0, Phase::Undone);
}

#[test]
fn finally_decides_by_the_outcome() {
    let mut game = Game::with(steps(), json!({"finally": [tell("remediation.outcome == 'Failed'")]}));
    game.play();
    assert_eq!(game.record("tell").reason, "ConditionNotMet");
    assert_eq!(game.end().0, Phase::Succeeded);
}

#[test]
fn a_step_of_finally_that_fails_spoils_a_good_run_and_keeps_no_other_from_being_done() {
    let mut other = tell("");
    other["name"] = json!("other");
    let mut game = Game::with(steps(), json!({"finally": [other, tell("")]})).on("other", [failed(false)]);
    game.play();
    assert_eq!(told(&game).len(), 1);
    let (phase, reason, message) = game.end();
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "StepFailed"));
    assert_eq!(message, "done: a, b, c; finally: other failed (Invalid): no");
}

#[test]
fn a_pause_sees_through_what_has_begun_and_begins_nothing() {
    let mut game = Game::with(steps(), json!({})).on("b", [pending(None, None), done()]);
    game.turn();
    game.turn();
    game.intent = Intent::Pause;
    assert_eq!(game.says(), ["perform b"]);
    game.play();
    assert_eq!(game.states(), [StepState::Succeeded, StepState::Succeeded, StepState::Pending]);
    assert_eq!(game.end(), (Phase::Paused, "Paused".into(), "paused before c; kubectl quell resume goes on".into()));
    game.intent = Intent::Run;
    game.play();
    assert_eq!(game.end().0, Phase::Succeeded);
}

#[test]
fn a_paused_run_tries_nothing_again() {
    let mut game = Game::with(steps(), json!({})).on("b", [failed(true), done()]);
    game.turn();
    game.turn();
    assert_eq!(game.record("b").state, StepState::Retrying);
    game.intent = Intent::Pause;
    game.play();
    game.pass(100_000);
    assert_eq!((game.plan(), game.status.phase), (Plan::default(), Phase::Paused));
}

#[test]
fn a_pause_does_not_count_towards_the_timeout_of_the_run() {
    let mut game = Game::with(steps(), json!({"timeout": "1m"})).on("b", [pending(None, None), done()]);
    game.turn();
    game.turn();
    game.intent = Intent::Pause;
    game.play();
    game.pass(3600);
    game.intent = Intent::Run;
    game.play();
    assert_eq!(game.end().0, Phase::Succeeded);
    assert_eq!(game.status.paused_seconds, 3600);
}

#[test]
fn a_run_that_has_no_time_left_fails_begins_nothing_and_puts_back_what_was_half_done() {
    let mut game = Game::with(steps(), json!({"timeout": "1m", "finally": [tell("")]}))
        .on("a", [changed("a")])
        .on("b", [pending(None, Some(receipt("b")))])
        .on_undo("b", [undone()]);
    game.play();
    let (phase, reason, message) = game.end();
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "StepFailed"));
    assert_eq!(message, "b failed (TimedOut): the time of the whole run was over; last: not yet; put back; skipped: c");
    assert_eq!(told(&game).len(), 1);
}

#[test]
fn a_cancel_leaves_what_was_done_and_an_undo_takes_it_back_afterwards() {
    let mut game = Game::with(steps(), json!({})).on("a", [changed("a")]).on("b", [pending(None, Some(receipt("b")))]);
    game.turn();
    game.turn();
    game.intent = Intent::Cancel;
    game.play();
    assert_eq!(game.states(), [StepState::Succeeded, StepState::Cancelled, StepState::Skipped]);
    assert_eq!(game.end().0, Phase::Cancelled);
    game.log.clear();
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(game.log, ["enter Undoing InProgress", "recover c", "undo b", "undo a", "enter Undone Undone"]);
}

#[test]
fn a_cancel_of_a_run_that_is_over_changes_nothing() {
    let mut game = Game::with(steps(), json!({}));
    game.play();
    game.intent = Intent::Cancel;
    assert_eq!(game.plan(), Plan::default());
}

#[test]
fn who_waits_for_its_turn_begins_when_it_comes_and_has_lost_no_try() {
    let mut game = Game::with(steps(), json!({})).busy("b", 2);
    game.turn();
    game.turn();
    assert_eq!((game.record("b").state, game.status.current_step.as_str()), (StepState::Waiting, "b (Waiting)"));
    game.turn();
    game.play();
    assert_eq!(game.record("b").attempts, 1);
    assert_eq!(game.end().0, Phase::Succeeded);
}

#[test]
fn one_step_is_undone_by_itself_and_the_run_stays_what_it_is() {
    let mut game = Game::with(steps(), json!({})).on("a", [changed("a")]).on("b", [changed("b")]);
    game.play();
    game.undo_steps = vec!["a".into()];
    game.log.clear();
    game.play();
    assert_eq!(game.log, ["undo a"]);
    assert_eq!(game.states(), [StepState::Undone, StepState::Succeeded, StepState::Succeeded]);
    assert_eq!(game.end().0, Phase::Succeeded);
    game.undo_steps.push("b".into());
    game.play();
    assert_eq!(game.record("b").state, StepState::Undone);
    assert_eq!(game.plan(), Plan::default());
}

#[test]
fn a_step_whose_undo_is_asked_for_before_its_turn_is_not_done() {
    let mut game = Game::with(steps(), json!({}));
    game.undo_steps = vec!["b".into()];
    game.play();
    assert_eq!(game.states(), [StepState::Succeeded, StepState::Skipped, StepState::Skipped]);
}

#[test]
fn a_run_is_undone_by_itself_when_the_time_is_over_and_not_before() {
    let mut game = Game::with(steps(), json!({"undo": {"after": "24h"}})).on("a", [changed("a")]);
    for _ in 0..8 {
        game.turn();
    }
    let due = game.plan().wake_at.unwrap();
    assert_eq!((game.status.phase, due - game.now), (Phase::Succeeded, chrono::TimeDelta::hours(24)));
    game.now = due;
    game.log.clear();
    game.play();
    assert_eq!(game.log, ["enter Undoing UndoDue", "undo a", "enter Undone Undone"]);
    assert_eq!(game.plan(), Plan::default());
}

#[test]
fn a_run_is_undone_when_its_finding_is_resolved_where_the_playbook_says_so() {
    let mut game = Game::with(steps(), json!({"undo": {"onResolved": true}})).on("a", [changed("a")]);
    game.play();
    assert_eq!(game.end().0, Phase::Succeeded);
    game.resolved = true;
    game.play();
    assert_eq!(game.end().0, Phase::Undone);

    let mut game = Game::with(steps(), json!({})).on("a", [changed("a")]);
    game.resolved = true;
    game.play();
    assert_eq!(game.end().0, Phase::Succeeded);
}
