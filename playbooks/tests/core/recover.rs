//! Undo finds what was done and not recorded.

use proptest::prelude::*;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Intent, Phase, StepState};
use quell_playbooks::{Outcome, Recovery};
use serde_json::{Value, json};

use crate::support::{Game, changed, failed, pending, receipt};

fn two() -> Game {
    Game::new(json!([{"name": "a", "quarantine": {}}, {"name": "b", "setImage": {"image": "x"}}]))
        .on("a", [changed("a")])
        .on("b", [pending(None, Some(receipt("b"))), changed("b")])
}

fn try_again() -> Recovery {
    Recovery::TryAgain { reason: Reason::ApiUnavailable, message: "too busy".into() }
}

/// Both steps had their effect, and the process ended before the first record.
fn lost(mut game: Game) -> Game {
    let recorded = game.status.clone();
    game.play();
    game.crash(recorded);
    game.log.clear();
    game
}

#[test]
fn what_was_done_and_never_recorded_is_undone_the_last_first() {
    let mut game = lost(two());
    assert_eq!(game.states(), [StepState::Pending; 2]);
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(
        game.log,
        ["enter Undoing InProgress", "recover b", "recover a", "undo b", "undo a", "enter Undone Undone"]
    );
    assert_eq!(game.end().2, "undone: a, b");
    assert!(game.stands.is_empty());
}

#[test]
fn a_single_step_is_found_and_undone_before_the_run_goes_on() {
    let mut game = lost(two());
    game.undo_steps = vec!["a".into()];
    game.play();
    assert_eq!(game.log[..2], ["recover a", "undo a"]);
    assert_eq!(game.states()[0], StepState::Undone);
    assert!(!game.stands.contains_key("a"));
}

#[test]
fn a_look_that_fails_is_tried_again_and_nothing_is_undone_before() {
    let mut game = lost(two()).on_recovery("b", [try_again(), try_again()]);
    game.intent = Intent::Undo;
    game.play();
    let looks: Vec<_> = game.log.iter().filter(|words| *words != "enter Undoing InProgress").cloned().collect();
    assert_eq!(looks[..4], ["recover b", "recover a", "recover b", "recover b"]);
    assert_eq!(looks[4..], ["undo b", "undo a", "enter Undone Undone"]);
}

#[test]
fn what_can_not_be_told_is_said_and_is_no_success() {
    let unknown = Recovery::Unknown { reason: Reason::Forbidden, message: "no right to read it".into() };
    let mut game = lost(two()).on_recovery("b", [unknown]);
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(game.end(), (Phase::Failed, "UndoIncomplete".into(), "undone: a; not undone: b".into()));
    assert_eq!(game.record("b").message, "whether it has changed anything isn't known: no right to read it");
}

#[test]
fn a_look_that_never_goes_well_ends_after_twelve_tries() {
    let mut game = lost(two()).on_recovery("b", vec![try_again(); 20]);
    game.intent = Intent::Undo;
    game.play();
    assert_eq!(game.log.iter().filter(|words| *words == "recover b").count(), 13);
    assert_eq!(game.states(), [StepState::Undone, StepState::NotUndone]);
}

#[test]
fn a_step_whose_last_try_got_no_answer_is_looked_for_when_the_run_is_undone_by_itself() {
    let unanswered = Outcome::Failed {
        reason: Reason::ApiUnavailable,
        message: "no answer in time".into(),
        transient: false,
        outputs: [].into(),
        receipt: None,
    };
    let mut game = Game::with(json!([{"name": "a", "setImage": {"image": "x"}}]), json!({"undo": {"after": "1h"}}))
        .on("a", [unanswered]);
    game.stands.insert("a".into(), receipt("a"));
    game.play();
    assert_eq!(game.end(), (Phase::Undone, "Undone".into(), "undone: a".into()));
    assert!(game.stands.is_empty());
}

#[test]
fn a_failure_that_undoes_the_run_finds_what_was_lost() {
    let mut game = Game::new(json!([
        {"name": "a", "after": [], "quarantine": {}},
        {"name": "b", "after": [], "onFailure": "Undo", "setImage": {"image": "x"}},
    ]))
    .on("b", [failed(false)]);
    game.stands.insert("b".into(), receipt("b"));
    game.play();
    assert!(game.log.contains(&"undo b".to_owned()), "{:?}", game.log);
    assert_eq!(game.end().0, Phase::Failed);
    assert!(game.stands.is_empty());
}

#[test]
fn kinds_that_carry_no_mark_are_not_looked_for() {
    let mut game = Game::new(json!([
        {"name": "tell", "notify": {"channels": [{"name": "security"}]}},
        {"name": "revoke", "revokeAccess": {}},
        {"name": "cut", "severConnections": {}},
        {"name": "w", "wait": {"for": "1s"}},
    ]));
    game.intent = Intent::Undo;
    game.play();
    assert!(game.log.iter().all(|words| !words.starts_with("recover")), "{:?}", game.log);
}

fn kinds() -> [Value; 5] {
    [
        json!({"quarantine": {}}),
        json!({"rollback": {}}),
        json!({"setImage": {"image": "x"}}),
        json!({"denyImage": {}}),
        json!({"notify": {"channels": [{"name": "security"}]}}),
    ]
}

fn tries(name: &str, what: usize) -> Vec<Outcome> {
    match what {
        0 => vec![changed(name)],
        1 => vec![pending(Some(5), Some(receipt(name))), changed(name)],
        2 => vec![failed(true), changed(name)],
        _ => vec![failed(false)],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// However much of what was done the records have lost, an undo leaves nothing of it standing.
    #[test]
    fn undo_misses_nothing(
        steps in prop::collection::vec((0..5_usize, 0..4_usize, any::<bool>(), any::<bool>()), 1..6),
        recorded in 0..8_usize,
        lost in 1..8_usize,
        further in 0..4_usize,
        stumbles in 0..3_usize,
        intent in prop::sample::select(vec![Intent::Run, Intent::Cancel]),
    ) {
        let names: Vec<String> = (0..steps.len()).map(|i| format!("s{i}")).collect();
        let written = names.iter().zip(&steps).map(|(name, (kind, _, beside, undoes))| {
            let mut step = kinds()[*kind].clone();
            step["name"] = json!(name);
            step["onFailure"] = json!(if *undoes { "Undo" } else { "Continue" });
            if *beside {
                step["after"] = json!([]);
            }
            step
        });
        let mut game = Game::new(Value::Array(written.collect()));
        for (name, (kind, what, ..)) in names.iter().zip(&steps) {
            let tries = if *kind == 4 { vec![crate::support::done()] } else { tries(name, *what) };
            game = game.on(name, tries).on_recovery(name, vec![try_again(); stumbles]);
        }
        for _ in 0..recorded {
            game.turn();
        }
        let status = game.status.clone();
        for _ in 0..lost {
            game.turn();
        }
        game.crash(status);
        game.intent = intent;
        for _ in 0..further {
            game.turn();
        }
        game.intent = Intent::Undo;
        game.play();
        prop_assert!(game.stands.is_empty(), "{:?} stand: {:?}", game.stands.keys(), game.log);
        prop_assert_eq!(game.status.phase, Phase::Undone);
    }
}
