//! Tries, waits and time.

use quell_crds::v1alpha1::{Phase, StepState};
use quell_playbooks::Outcome;
use serde_json::json;

use crate::support::{Game, at, changed, done, failed, left_alone, pending, receipt, try_again};

fn flaky(retry: &serde_json::Value) -> Game {
    Game::new(json!([{"name": "a", "timeout": "24h", "retry": retry, "quarantine": {}}])).on("a", [failed(true)])
}

/// Seconds between the tries of a step that never goes well.
fn waits(game: &mut Game) -> Vec<f64> {
    let mut waits = Vec::new();
    loop {
        game.turn();
        let Some(next) = game.record("a").next_at else { return waits };
        waits.push((next - game.now).as_seconds_f64());
        game.now = next;
    }
}

#[test]
fn a_try_that_another_may_mend_is_made_again_later() {
    let mut game = Game::new(json!([{"name": "a", "quarantine": {}}])).on("a", [failed(true), changed("web")]);
    game.turn();
    assert_eq!(game.record("a").state, StepState::Retrying);
    assert_eq!(game.says(), [""; 0], "not before its time");
    assert_eq!(game.plan().wake_at, game.record("a").next_at);
    game.play();
    assert_eq!(game.end().0, Phase::Succeeded);
    assert_eq!(game.record("a").attempts, 2);
}

#[test]
fn a_failure_that_another_try_cannot_mend_is_final() {
    let mut game = flaky(&json!({"limit": 5})).on("a", [failed(false)]);
    game.play();
    assert_eq!(game.record("a").attempts, 1);
    assert_eq!(game.end().0, Phase::Failed);
}

#[test]
fn the_limit_counts_the_tries_after_the_first() {
    for (limit, tries) in [(0, 1), (3, 4)] {
        let mut game = flaky(&json!({"limit": limit}));
        game.play();
        assert_eq!(game.record("a").attempts, tries);
        assert_eq!(game.record("a").reason, "Invalid", "the last failure's own");
    }
}

#[test]
fn a_step_that_says_nothing_is_tried_six_times() {
    let mut game = Game::new(json!([{"name": "a", "rollback": {}}])).on("a", [failed(true)]);
    game.play();
    assert_eq!(game.record("a").attempts, 6);
}

#[test]
fn waits_double_are_spread_by_a_quarter_and_end_at_five_minutes() {
    let found = waits(&mut flaky(&json!({"limit": 9, "backoff": "10s"})));
    let bases = [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0];
    assert_eq!(found.len(), bases.len());
    for (wait, base) in found.iter().zip(bases) {
        assert!((base * 0.75..=base * 1.25).contains(wait), "{wait} for {base}");
    }
    let spread: std::collections::BTreeSet<u64> = found[5..].iter().map(|wait| wait.to_bits()).collect();
    assert!(spread.len() > 1, "{found:?}");
}

#[test]
fn a_backoff_longer_than_the_cap_is_kept() {
    let found = waits(&mut flaky(&json!({"limit": 2, "backoff": "10m"})));
    assert!(found.iter().all(|wait| (450.0..=750.0).contains(wait)), "{found:?}");
}

#[test]
fn the_same_run_waits_the_same_each_time() {
    let retry = json!({"limit": 5});
    assert_eq!(waits(&mut flaky(&retry)), waits(&mut flaky(&retry)));
}

#[test]
fn what_is_waited_for_is_looked_at_when_it_asks_for_it() {
    let mut game = Game::new(json!([{"name": "a", "rollback": {}}])).on("a", [pending(Some(5), None), done()]);
    game.turn();
    assert_eq!(game.plan().wake_at, Some(at(5)));
    game.pass(4);
    assert_eq!(game.says(), [""; 0]);
    game.pass(1);
    assert_eq!(game.says(), ["perform a"]);
    game.play();
    assert_eq!(game.record("a").attempts, 1, "a look is not a try");
}

#[test]
fn a_step_that_does_not_end_in_its_time_fails() {
    let mut game = Game::new(json!([{"name": "a", "timeout": "30s", "rollback": {}}, {"name": "b", "quarantine": {}}]))
        .on("a", [pending(None, None)]);
    game.play();
    assert_eq!(game.now, at(30));
    assert_eq!(game.record("a").reason, "TimedOut");
    assert_eq!(game.record("a").message, "did not end in its time; last: not yet");
    assert_eq!(game.end().0, Phase::Failed);
}

#[test]
fn a_step_that_ended_well_while_nobody_looked_has_ended_well() {
    let mut game = Game::new(json!([{"name": "a", "rollback": {}}])).on("a", [pending(None, None), changed("web")]);
    game.turn();
    game.pass(86_400).play();
    assert_eq!(game.end().0, Phase::Succeeded);
}

#[test]
fn a_wait_for_a_further_try_is_cut_short_by_the_end_of_the_steps_time() {
    let mut game =
        Game::new(json!([{"name": "a", "timeout": "30s", "retry": {"limit": 9, "backoff": "5m"}, "quarantine": {}}]))
            .on("a", [failed(true)]);
    game.play();
    assert_eq!((game.now, game.record("a").attempts), (at(30), 2), "one last try");
    assert_eq!(game.record("a").message, "did not end in its time; last: no");
}

#[test]
fn containment_that_says_nothing_of_retries_is_tried_until_its_time_is_over() {
    let step = json!([{"name": "a", "quarantine": {}}]);
    let mut game = Game::new(step).on("a", std::iter::repeat_n(failed(true), 50).collect::<Vec<_>>());
    game.play();
    let record = game.record("a");
    assert!(record.attempts > 10, "{} tries in an hour", record.attempts);
    assert_eq!(game.now, at(3600));
}

#[test]
fn each_kind_has_a_time_of_its_own_and_a_wait_has_none() {
    for (kind, seconds) in [
        (json!({"quarantine": {}}), Some(3600)),
        (json!({"denyImage": {}}), Some(600)),
        (json!({"rollback": {}}), Some(600)),
        (json!({"setImage": {"image": "a"}}), Some(600)),
        (json!({"rebuild": {"job": {"spec": {}}}}), Some(3600)),
        (json!({"notify": {"channels": [{"name": "security"}]}}), Some(60)),
        (json!({"wait": {"for": "1000h"}}), None),
    ] {
        let mut step = json!({"name": "a"});
        step.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        let mut game = Game::new(json!([step])).on("a", [pending(None, None)]);
        game.turn();
        game.turn();
        assert_eq!(game.plan().wake_at, seconds.map(at), "{kind}");
    }
}

#[test]
fn what_a_step_had_changed_is_put_back_when_its_time_is_over() {
    let mut game = Game::new(json!([{"name": "a", "rollback": {}}])).on("a", [pending(None, Some(receipt("web")))]);
    game.play();
    assert_eq!(game.log.last_chunk().unwrap(), &["revert a", "enter Failed StepFailed"]);
    let record = game.record("a");
    assert_eq!((record.state, record.reason.as_str()), (StepState::Failed, "TimedOut"));
    assert_eq!(record.message, "did not end in its time; last: not yet; put back");
    assert_eq!(record.receipt, None, "nothing is left to undo");
}

#[test]
fn putting_back_has_its_own_tries_however_many_the_step_had() {
    let mut game = Game::new(json!([{"name": "a", "timeout": "24h", "retry": {"limit": 50}, "rollback": {}}]))
        .on("a", [pending(None, Some(receipt("web"))), failed(true)])
        .on_undo("a", [try_again(), try_again(), crate::support::undone()]);
    game.play();
    assert_eq!(game.log.iter().filter(|words| *words == "revert a").count(), 3);
    assert_eq!(game.record("a").receipt, None);
}

#[test]
fn what_could_not_be_put_back_says_so_and_keeps_its_receipt() {
    for (outcome, told) in
        [(left_alone(), "no; someone changed it"), (try_again(), "no; it could not be put back: too busy")]
    {
        let mut game = Game::new(json!([{"name": "a", "setImage": {"image": "b"}}]))
            .on(
                "a",
                [Outcome::Failed {
                    reason: quell_crds::conditions::Reason::Invalid,
                    message: "no".into(),
                    transient: false,
                    outputs: [].into(),
                    receipt: Some(receipt("web")),
                }],
            )
            .on_undo("a", [outcome]);
        game.play();
        assert_eq!(game.record("a").message, told);
        assert_eq!(game.record("a").receipt, Some(receipt("web")));
        assert_eq!(game.end().0, Phase::Failed);
    }
}

#[test]
fn a_receipt_is_never_overwritten_by_a_later_try() {
    let first = Outcome::Failed {
        reason: quell_crds::conditions::Reason::ApiUnavailable,
        message: "no answer".into(),
        transient: true,
        outputs: [].into(),
        receipt: Some(receipt("before")),
    };
    let mut game = Game::new(json!([{"name": "a", "quarantine": {}}])).on("a", [first, changed("after")]);
    game.play();
    assert_eq!(game.record("a").receipt, Some(receipt("before")));
}
