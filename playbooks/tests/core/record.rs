//! What a decision leaves in the status.

use quell_crds::conditions::{ConditionType, Reason, find};
use quell_crds::v1alpha1::{Phase, StepState};
use quell_playbooks::{Decision, Outcome, apply, progress, refresh};
use serde_json::json;

use crate::support::{Game, at, changed};

fn game() -> Game {
    Game::new(json!([
        {"name": "a", "quarantine": {}},
        {"name": "b", "after": [], "notify": {"channels": [{"name": "security"}]}},
        {"name": "c", "rollback": {}},
    ]))
}

#[test]
fn a_step_that_begins_is_counted_dated_and_named_as_current() {
    let mut game = game();
    for step in [0, 1] {
        apply(&mut game.status, &game.steps, &Decision::Begin { step }, at(1));
    }
    assert_eq!(game.status.current_step, "a, b");
    let record = game.record("b");
    assert_eq!((record.state, record.attempts, record.started_at), (StepState::Running, 1, Some(at(1))));
}

#[test]
fn a_try_begins_once_however_often_that_is_said() {
    let mut game = game();
    let plan = game.plan();
    apply(&mut game.status, &game.steps, &plan.decisions[0], at(1));
    apply(&mut game.status, &game.steps, &plan.decisions[0], at(2));
    progress::begin(&mut game.status.steps[0], at(3));
    progress::settle(&mut game.status.steps[0], &game.steps[0].step, changed("a"), "key", at(4));
    assert_eq!((game.record("a").attempts, game.record("a").started_at), (1, Some(at(1))));
}

#[test]
fn skip_and_fail_end_a_record_with_reason_and_message() {
    let mut game = game();
    let skip = Decision::Skip { step: 0, reason: Reason::Aborted, message: "why".into() };
    let fail = Decision::Fail { step: 2, reason: Reason::ExpressionFailed, message: "what".into() };
    for decision in [&skip, &fail] {
        apply(&mut game.status, &game.steps, decision, at(5));
    }
    let (a, c) = (game.record("a"), game.record("c"));
    assert_eq!((a.state, a.reason.as_str(), a.message.as_str()), (StepState::Skipped, "Aborted", "why"));
    assert_eq!((c.state, c.reason.as_str(), c.message.as_str()), (StepState::Failed, "ExpressionFailed", "what"));
    assert_eq!((a.finished_at, c.finished_at), (Some(at(5)), Some(at(5))));
}

#[test]
fn a_run_that_ends_is_complete_and_one_that_is_undone_is_not_until_it_is() {
    let mut game = game();
    let enter = |phase, reason| Decision::Enter { phase, reason, message: "so it is".into() };
    game.status.observed_generation = Some(3);
    apply(&mut game.status, &game.steps, &enter(Phase::Succeeded, Reason::Succeeded), at(1));
    let complete = find(&game.status.conditions, ConditionType::Complete).unwrap();
    assert_eq!((complete.status.as_str(), complete.reason.as_str()), ("True", "Succeeded"));
    assert_eq!((complete.message.as_str(), complete.observed_generation), ("so it is", Some(3)));
    assert_eq!(game.status.finished_at, Some(at(1)));
    apply(&mut game.status, &game.steps, &enter(Phase::Undoing, Reason::InProgress), at(2));
    assert_eq!(find(&game.status.conditions, ConditionType::Complete).unwrap().status, "False");
    assert_eq!((game.status.finished_at, game.status.conditions.len()), (None, 1));
}

#[test]
fn a_decision_about_a_step_that_is_not_there_changes_nothing() {
    let mut game = game();
    let before = game.status.clone();
    apply(&mut game.status, &game.steps, &Decision::Begin { step: 9 }, at(1));
    apply(&mut game.status, &game.steps, &Decision::Undo { step: 0 }, at(1));
    assert_eq!(game.status, before);
}

#[test]
fn messages_are_cut_at_a_character_and_within_what_the_schema_takes() {
    let mut game = game();
    let long = "ß".repeat(5000);
    let outcome = Outcome::Done { message: long.clone(), outputs: [].into(), receipt: None };
    progress::settle(&mut game.status.steps[0], &game.steps[0].step, outcome, "key", at(1));
    assert!(game.record("a").message.len() <= 2048 && game.record("a").message.ends_with("ß…"));
    let enter = Decision::Enter { phase: Phase::Failed, reason: Reason::StepFailed, message: long };
    apply(&mut game.status, &game.steps, &enter, at(1));
    assert!(game.end().2.len() <= 4096);
}

#[test]
fn a_record_holds_forty_outputs_and_no_more() {
    let mut game = game();
    let outputs = (0..50).map(|i| (format!("k{i:02}"), String::new())).collect();
    let outcome = Outcome::Done { message: String::new(), outputs, receipt: None };
    progress::settle(&mut game.status.steps[0], &game.steps[0].step, outcome, "key", at(1));
    refresh(&mut game.status);
    assert_eq!(game.record("a").outputs.len(), 40);
}

#[test]
fn a_record_is_kept_by_its_name_when_a_run_is_taken_up_again() {
    let mut game = game().on("a", [changed("a")]);
    game.turn();
    let mut stored = game.status.clone();
    stored.steps.retain(|record| record.name == "a");
    let status = quell_playbooks::plan::prepare(&game.steps, Some(&stored), at(9));
    assert_eq!(status.steps[0], game.status.steps[0]);
    assert_eq!((status.steps.len(), status.started_at), (3, Some(at(0))));
}

#[test]
fn a_run_whose_steps_do_not_compile_any_more_fails_and_keeps_its_receipts() {
    let mut game = Game::new(json!([{"name": "a", "quarantine": {}}])).on("a", [changed("a")]);
    game.turn();
    game.steps.clear();
    game.status = quell_playbooks::plan::prepare(&game.steps, Some(&game.status), at(9));
    game.play();
    assert_eq!((game.end().0, game.end().1.as_str()), (Phase::Failed, "ExpressionInvalid"));
    assert!(game.record("a").receipt.is_some());
    game.intent = quell_crds::v1alpha1::Intent::Undo;
    assert_eq!(game.says(), [""; 0]);
    game.status.phase = Phase::Succeeded;
    assert_eq!(game.says(), ["enter Failed ExpressionInvalid"], "an undo that can't be done is not silent");
}
