//! Undo: by a person, or by a failed step.

use quell_crds::v1alpha1::{Intent, Phase, StepState};
use serde_json::json;

use crate::support::{Game, changed, failed, left_alone, pending, try_again, undone};

fn three() -> Game {
    Game::new(json!([
        {"name": "a", "quarantine": {}}, {"name": "b", "setImage": {"image": "x"}}, {"name": "c", "rollback": {}},
    ]))
    .on("a", [changed("a")])
    .on("b", [changed("b")])
    .on("c", [changed("c")])
}

/// What happens once undo is asked for.
fn undo(game: &mut Game) -> Vec<String> {
    game.log.clear();
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(game.plan(), quell_playbooks::Plan::default(), "it stays as it is");
    game.log.clone()
}

#[test]
fn what_was_done_last_is_undone_first_one_at_a_time() {
    let mut game = three();
    game.play();
    game.intent = Intent::Undo;
    game.turn();
    assert_eq!(game.status.phase, Phase::Undoing);
    assert_eq!(game.says(), ["undo c"]);
    assert_eq!(undo(&mut game), ["undo c", "undo b", "undo a", "enter Undone Undone"]);
    assert_eq!(game.end().2, "undone: a, b, c");
}

#[test]
fn an_undo_that_waits_for_a_further_try_holds_up_the_ones_before() {
    let mut game = three().on_undo("c", [try_again(), undone()]);
    game.play();
    game.intent = Intent::Undo;
    game.turn();
    game.turn();
    assert_eq!(game.record("c").state, StepState::Undoing);
    assert_eq!(game.status.current_step, "c");
    assert_eq!(game.says(), [""; 0]);
    assert_eq!(game.plan().wake_at, game.record("c").next_at);
    assert_eq!(undo(&mut game), ["undo c", "undo b", "undo a", "enter Undone Undone"]);
}

#[test]
fn an_undo_that_never_goes_well_ends_after_twelve_tries() {
    let mut game = three().on_undo("c", [try_again()]);
    game.play();
    let log = undo(&mut game);
    assert_eq!(log.iter().filter(|words| *words == "undo c").count(), 13);
    assert_eq!(game.record("c").state, StepState::NotUndone);
    assert_eq!(game.record("a").state, StepState::Undone);
}

#[test]
fn a_run_under_way_is_stopped_and_undone() {
    let mut game = three().on("b", [pending(None, None)]);
    game.turn();
    game.turn();
    assert_eq!(
        undo(&mut game),
        [
            "enter Undoing InProgress",
            "recover c",
            "recover b",
            "skip c Aborted",
            "skip b Aborted",
            "undo a",
            "enter Undone Undone"
        ]
    );
    assert_eq!(game.states(), [StepState::Undone, StepState::Skipped, StepState::Skipped]);
}

#[test]
fn a_step_under_way_that_has_changed_something_is_undone() {
    let mut game = three().on("b", [pending(None, Some(crate::support::receipt("b")))]);
    game.turn();
    game.turn();
    assert_eq!(
        undo(&mut game),
        ["enter Undoing InProgress", "recover c", "skip c Aborted", "undo b", "undo a", "enter Undone Undone"]
    );
}

#[test]
fn a_run_that_has_not_begun_has_nothing_to_undo() {
    let mut game = three();
    undo(&mut game);
    assert_eq!(game.end(), (Phase::Undone, "Undone".into(), "there was nothing to undo".into()));
}

#[test]
fn kinds_that_leave_nothing_to_undo_are_left_alone() {
    let mut game = Game::new(json!([
        {"name": "a", "quarantine": {}},
        {"name": "tell", "notify": {"channels": [{"name": "security"}]}},
        {"name": "build", "rebuild": {"job": {"spec": {}}}},
        {"name": "w", "wait": {"for": "1s"}},
    ]))
    .on("a", [changed("a")])
    .on("build", [changed("job")]);
    game.play();
    assert_eq!(undo(&mut game), ["enter Undoing InProgress", "undo a", "enter Undone Undone"]);
    assert_eq!(game.states()[1..], [StepState::Succeeded; 3]);
}

#[test]
fn what_cannot_be_undone_is_said_and_not_tried_for_ever() {
    let mut game = three().on_undo("b", [left_alone()]);
    game.play();
    let log = undo(&mut game);
    assert_eq!(log, ["enter Undoing InProgress", "undo c", "undo b", "undo a", "enter Failed UndoIncomplete"]);
    assert_eq!(game.end().2, "undone: a, c; not undone: b");
    let record = game.record("b");
    assert_eq!((record.state, record.reason.as_str()), (StepState::NotUndone, "ChangedSince"));
}

#[test]
fn a_failed_step_that_says_undo_undoes_what_was_done_and_the_run_fails() {
    let mut game = Game::new(json!([
        {"name": "a", "quarantine": {}},
        {"name": "b", "onFailure": "Undo", "rollback": {}},
        {"name": "c", "wait": {"for": "1s"}},
    ]))
    .on("a", [changed("a")])
    .on("b", [failed(false)]);
    game.play();
    assert_eq!(
        game.log,
        [
            "perform a",
            "perform b",
            "enter Undoing StepFailed",
            "recover b",
            "skip c Aborted",
            "undo a",
            "enter Failed StepFailed"
        ]
    );
    assert_eq!(game.end().2, "b failed (Invalid): no; undone: a");
}

#[test]
fn the_failure_is_still_told_when_the_failed_step_itself_is_undone() {
    let failed = quell_playbooks::Outcome::Failed {
        reason: quell_crds::conditions::Reason::Invalid,
        message: "half done".into(),
        transient: false,
        outputs: [].into(),
        receipt: Some(crate::support::receipt("a")),
    };
    let mut game = Game::new(json!([{"name": "a", "onFailure": "Undo", "quarantine": {}}])).on("a", [failed]);
    game.play();
    assert_eq!(game.end(), (Phase::Failed, "StepFailed".into(), "a failed (Invalid): half done; undone: a".into()));
}

#[test]
fn an_undo_by_failure_that_leaves_something_says_both_and_does_not_loop() {
    let mut game =
        Game::new(json!([{"name": "a", "quarantine": {}}, {"name": "b", "onFailure": "Undo", "rollback": {}}]))
            .on("a", [changed("a")])
            .on("b", [failed(false)])
            .on_undo("a", [left_alone()]);
    game.play();
    assert_eq!(game.end().2, "b failed (Invalid): no; not undone: a");
    assert_eq!(game.plan(), quell_playbooks::Plan::default());
    assert_eq!(undo(&mut game), [""; 0], "a person's undo finds nothing left to try");
}

#[test]
fn a_failed_run_can_be_undone_by_a_person() {
    let mut game = three().on("c", [failed(false)]);
    game.play();
    assert_eq!(game.end().0, Phase::Failed);
    assert!(game.status.finished_at.is_some());
    assert_eq!(undo(&mut game), ["enter Undoing InProgress", "recover c", "undo b", "undo a", "enter Undone Undone"]);
    assert_eq!(game.record("c").state, StepState::Failed);
}

#[test]
fn a_run_that_a_failure_has_undone_already_is_undone_for_a_person_too() {
    let mut game =
        Game::new(json!([{"name": "a", "quarantine": {}}, {"name": "b", "onFailure": "Undo", "rollback": {}}]))
            .on("a", [changed("a")])
            .on("b", [failed(false)]);
    game.play();
    assert_eq!(undo(&mut game), ["enter Undoing InProgress", "enter Undone Undone"]);
}

#[test]
fn a_person_who_changes_their_mind_does_not_stop_an_undo_half_way() {
    let mut game = three();
    game.play();
    game.intent = Intent::Undo;
    game.turn();
    game.turn();
    game.intent = Intent::Run;
    game.play();
    assert_eq!(game.end(), (Phase::Undone, "Undone".into(), "undone: a, b, c".into()));
}

#[test]
fn a_step_that_is_being_put_back_is_undone_and_not_put_back_twice() {
    let mut game = Game::new(json!([{"name": "a", "rollback": {}}]))
        .on("a", [pending(None, Some(crate::support::receipt("a"))), failed(false)])
        .on_undo("a", [try_again(), undone()]);
    game.turn();
    game.turn();
    game.turn();
    assert_eq!(game.record("a").state, StepState::Reverting);
    assert_eq!(undo(&mut game), ["enter Undoing InProgress", "undo a", "enter Undone Undone"]);
}
