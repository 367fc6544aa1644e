//! Nothing is done without the approval that was asked for.

use quell_crds::v1alpha1::{Intent, Phase, StepKind, StepState};
use quell_playbooks::plan::gate::{Votes, digest, is_open};
use serde_json::{Value, json};

use crate::support::{Game, changed, done, failed};

/// A containment that waits for nobody, then a step with a gate.
fn gated(settings: Value) -> Game {
    let mut approval = json!({"reason": "Sets ${workload.name} back"});
    approval.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let steps =
        json!([{"name": "a", "quarantine": {}}, {"name": "b", "setImage": {"image": "x"}, "approval": approval}]);
    let mut game = Game::with(steps, json!({})).on("a", [changed("a")]);
    while game.record("b").approval.is_none() {
        game.turn();
    }
    game
}

#[test]
fn a_step_waits_for_its_approval_and_containment_before_it_does_not() {
    let mut game = gated(json!({}));
    assert_eq!(game.states(), [StepState::Succeeded, StepState::AwaitingApproval]);
    assert_eq!(
        (game.status.phase, game.status.current_step.as_str()),
        (Phase::AwaitingApproval, "b (AwaitingApproval)")
    );
    let asked = game.record("b").approval.clone().unwrap();
    assert_eq!((asked.reason.as_str(), asked.quorum, asked.open), ("Sets  back", 1, false));
    assert_eq!(asked.parameters["setImage"]["image"], "x");
    assert_eq!(game.says(), [""; 0]);
    game.vote(Some("b"), "jo", true).play();
    assert_eq!(game.end().0, Phase::Succeeded);
    assert_eq!(game.record("b").approval.as_ref().unwrap().approved_by, ["jo"]);
}

#[test]
fn one_denial_is_enough_and_the_step_fails() {
    let mut game = gated(json!({}));
    game.vote(Some("b"), "jo", true).vote(Some("b"), "kim", false).play();
    assert_eq!(game.record("b").reason, "ApprovalDenied");
    assert_eq!(game.record("b").message, "denied by kim");
    assert_eq!(game.end().0, Phase::Failed);
    assert!(game.given.iter().all(|(step, _)| step != "b"));
}

#[test]
fn a_quorum_counts_each_user_once() {
    let mut game = gated(json!({"quorum": 2}));
    game.vote(Some("b"), "jo", true).vote(Some("b"), "jo", true).turn();
    assert_eq!(game.record("b").message, "1 of 2 approvals (jo): Sets  back; kubectl quell approve or deny");
    assert_eq!(game.says(), [""; 0]);
    game.vote(Some("b"), "kim", true).play();
    assert_eq!(game.end().0, Phase::Succeeded);
}

#[test]
fn who_wrote_it_does_not_count_where_two_persons_are_asked_for() {
    for (separate, phase) in [(true, Phase::AwaitingApproval), (false, Phase::Succeeded)] {
        let mut game = gated(json!({"separate": separate}));
        game.authors = vec!["jo".into()];
        game.vote(Some("b"), "jo", true);
        for _ in 0..5 {
            game.turn();
        }
        assert_eq!(game.status.phase, phase);
        if separate {
            assert_eq!(game.record("b").approval.as_ref().unwrap().excluded, ["jo"]);
            game.vote(Some("b"), "kim", true).play();
            assert_eq!(game.end().0, Phase::Succeeded);
        }
    }
}

#[test]
fn who_wrote_it_may_deny_it() {
    let mut game = gated(json!({"separate": true}));
    game.authors = vec!["jo".into()];
    game.vote(Some("b"), "jo", false).play();
    assert_eq!(game.record("b").reason, "ApprovalDenied");
}

#[test]
fn the_end_of_its_time_is_a_no_unless_it_says_otherwise() {
    let mut game = gated(json!({"expiresAfter": "1h", "quorum": 2}));
    game.vote(Some("b"), "jo", true).turn();
    assert_eq!(game.plan().wake_at, game.record("b").approval.as_ref().unwrap().expires_at);
    game.play();
    assert_eq!(game.record("b").reason, "ApprovalExpired");
    assert_eq!(game.record("b").message, "only jo approved it in time, and 2 had to: Sets  back");

    let mut game = gated(json!({"expiresAfter": "1h", "onExpiry": "Allow"}));
    game.play();
    assert_eq!(game.end().0, Phase::Succeeded);
    assert_eq!(game.record("b").approval.as_ref().unwrap().approved_by, [""; 0]);
}

#[test]
fn an_approval_after_the_end_comes_too_late() {
    let mut game = gated(json!({"expiresAfter": "1h"}));
    game.pass(3600);
    game.vote(Some("b"), "jo", true).play();
    assert_eq!(game.record("b").reason, "ApprovalExpired");
}

#[test]
fn an_approval_that_is_taken_back_in_time_closes_the_gate_again() {
    let mut game = gated(json!({}));
    game.vote(Some("b"), "jo", true).turn();
    assert_eq!(game.says(), ["perform b"]);
    game.votes.clear();
    game.turn();
    assert_eq!(game.record("b").state, StepState::AwaitingApproval);
    assert!(!game.record("b").approval.as_ref().unwrap().open);
}

#[test]
fn a_further_try_needs_the_approval_as_the_first_did() {
    let mut game = gated(json!({})).on("b", [failed(true), done()]);
    game.vote(Some("b"), "jo", true).turn();
    game.turn();
    assert_eq!(game.record("b").state, StepState::Retrying);
    game.votes.clear();
    game.turn();
    assert_eq!(game.record("b").state, StepState::AwaitingApproval);
}

#[test]
fn what_is_asked_anew_needs_a_new_approval() {
    let steps = json!([{"name": "b", "setImage": {"image": "${finding.rule}"}, "approval": {"reason": "sure?"}}]);
    let mut game = Game::with(steps, json!({}));
    game.turn();
    game.vote(Some("b"), "jo", true);
    game.world.finding.spec.rule = "something else".into();
    game.turn();
    assert_eq!(game.record("b").state, StepState::AwaitingApproval);
    assert_eq!(game.record("b").approval.as_ref().unwrap().parameters["setImage"]["image"], "something else");
    assert_eq!(game.says(), [""; 0], "the approval was of something else");
    game.vote(Some("b"), "jo", true).play();
    assert_eq!(game.given.len(), 1);
}

#[test]
fn at_the_moment_of_the_effect_it_is_asked_again_of_what_is_done() {
    let mut game = gated(json!({}));
    game.vote(Some("b"), "jo", true).turn();
    let record = game.record("b").approval.clone();
    let asked = game.steps[1].step.approval.clone().unwrap();
    let of = |image: &str| -> StepKind { serde_json::from_value(json!({"setImage": {"image": image}})).unwrap() };
    let votes = Votes { all: &game.votes, authors: &[] };
    assert!(is_open(&asked, "b", &of("x"), record.as_ref(), votes, game.now));
    assert!(!is_open(&asked, "b", &of("y"), record.as_ref(), votes, game.now), "other parameters");
    assert!(!is_open(&asked, "b", &of("x"), record.as_ref(), Votes::default(), game.now), "taken back");
    assert!(!is_open(&asked, "b", &of("x"), None, votes, game.now), "never asked");
    assert_ne!(digest("b", &of("x")), digest("c", &of("x")));
}

#[test]
fn a_whole_run_waits_and_a_denial_ends_it_with_nothing_done() {
    let steps = json!([{"name": "a", "quarantine": {}}, {"name": "b", "rollback": {}}]);
    let settings = json!({"approval": {"reason": "begin?"},
        "finally": [{"name": "last", "wait": {"for": "1s"}}]});
    let mut game = Game::with(steps.clone(), settings.clone());
    game.turn();
    assert_eq!((game.status.phase, game.states()[0]), (Phase::AwaitingApproval, StepState::Pending));
    game.vote(None, "jo", true).play();
    assert_eq!(game.end().0, Phase::Succeeded);

    let mut game = Game::with(steps, settings);
    game.turn();
    game.vote(None, "jo", false).play();
    let (phase, reason, message) = game.end();
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "ApprovalDenied"));
    assert_eq!(message, "the run was denied; skipped: a, b");
    assert_eq!(game.given.len(), 1, "only what is done finally");
}

#[test]
fn a_run_that_waits_can_be_cancelled_and_undone() {
    for (intent, phase) in [(Intent::Cancel, Phase::Cancelled), (Intent::Undo, Phase::Undone)] {
        let mut game = gated(json!({}));
        game.intent = intent;
        game.play();
        assert_eq!(game.end().0, phase);
        assert_eq!(game.record("b").state, StepState::Skipped);
    }
}
