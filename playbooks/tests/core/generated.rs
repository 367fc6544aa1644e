//! Rules that hold for every run, whatever its steps, what becomes of them, and when somebody asks for an undo.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Intent, OnFailure, Phase, StepState};
use quell_playbooks::kind::traits;
use quell_playbooks::{Decision, Outcome, Plan, UndoOutcome};
use serde_json::{Value, json};

use crate::support::{Game, ROUNDS, receipt};

#[derive(Clone, Debug)]
struct Scene {
    steps: Vec<StepScene>,
    /// The round in which an undo is asked for; after the last one: when the run has ended.
    undo_in: Option<usize>,
    /// How much later than asked for the engine looks again, in turn.
    late: Vec<i64>,
}

#[derive(Clone, Debug)]
struct StepScene {
    kind: usize,
    /// Bits of the steps further up.
    after: Option<u8>,
    when: usize,
    on_failure: &'static str,
    retry: Option<(i32, u64)>,
    timeout: Option<u64>,
    outcomes: Vec<Outcome>,
    undos: Vec<UndoOutcome>,
}

fn kinds() -> [Value; 7] {
    [
        json!({"quarantine": {}}),
        json!({"rollback": {}}),
        json!({"setImage": {"image": "x"}}),
        json!({"rebuild": {"job": {"spec": {}}}}),
        json!({"notify": {"channels": [{"name": "security"}]}}),
        json!({"wait": {"for": "10s"}}),
        json!({"denyImage": {"by": "Tag"}}),
    ]
}

const WAIT: usize = 5;

fn outcome() -> impl Strategy<Value = Outcome> {
    let change = proptest::option::of((0..3).prop_map(|n| receipt(&format!("r{n}"))));
    (0..4_usize, change, proptest::option::of(5..400_u64)).prop_map(|(what, receipt, wait)| {
        let (message, outputs) = ("as it goes".to_owned(), BTreeMap::new());
        match what {
            0 => Outcome::Done { message, outputs, receipt },
            1 => Outcome::Pending { message, outputs, receipt, look_again: wait.map(Duration::from_secs) },
            n => Outcome::Failed { reason: Reason::Invalid, message, transient: n == 2, outputs, receipt },
        }
    })
}

fn undo_outcome() -> impl Strategy<Value = UndoOutcome> {
    let (reason, message) = (Reason::ChangedSince, "as it goes".to_owned());
    prop_oneof![
        Just(UndoOutcome::Undone { message: message.clone() }),
        Just(UndoOutcome::LeftAlone { reason, message: message.clone() }),
        Just(UndoOutcome::TryAgain { reason, message }),
    ]
}

fn step() -> impl Strategy<Value = StepScene> {
    (
        0..kinds().len(),
        proptest::option::of(any::<u8>()),
        0..6_usize,
        prop::sample::select(vec!["Abort", "Continue", "Undo"]),
        proptest::option::of((0..4, 1..100_u64)),
        proptest::option::of(1..1000_u64),
        prop::collection::vec(outcome(), 1..5),
        prop::collection::vec(undo_outcome(), 1..4),
    )
        .prop_map(|(kind, after, when, on_failure, retry, timeout, outcomes, undos)| StepScene {
            kind,
            after,
            when,
            on_failure,
            retry,
            timeout,
            outcomes,
            undos,
        })
}

fn scene() -> impl Strategy<Value = Scene> {
    let undo_in = prop_oneof![3 => Just(None), 2 => (0..12_usize).prop_map(Some), 1 => Just(Some(ROUNDS))];
    (prop::collection::vec(step(), 1..=8), undo_in, prop::collection::vec(0..2000_i64, 0..4))
        .prop_map(|(steps, undo_in, late)| Scene { steps, undo_in, late })
}

fn game(scene: &Scene) -> Game {
    let steps: Vec<Value> = scene.steps.iter().enumerate().map(|(i, step)| written(i, step)).collect();
    scene.steps.iter().enumerate().fold(Game::new(json!(steps)), |game, (i, step)| {
        let mut outcomes = step.outcomes.clone();
        if step.kind == WAIT && step.timeout.is_none() {
            // Nothing but the wait itself ends it: it asks to be looked at again, and is done in the end.
            let (message, outputs, look_again) = (String::new(), BTreeMap::new(), Some(Duration::from_secs(5)));
            outcomes = vec![
                Outcome::Pending { message: message.clone(), outputs: outputs.clone(), receipt: None, look_again },
                Outcome::Done { message, outputs, receipt: None },
            ];
        }
        let name = format!("s{i}");
        game.on(&name, outcomes).on_undo(&name, step.undos.clone())
    })
}

fn written(i: usize, step: &StepScene) -> Value {
    let mut written = kinds()[step.kind].clone();
    let fields = written.as_object_mut().unwrap();
    fields.insert("name".into(), json!(format!("s{i}")));
    fields.insert("onFailure".into(), json!(step.on_failure));
    if let Some(bits) = step.after {
        let after: Vec<String> = (0..i).filter(|n| bits & (1 << n) != 0).map(|n| format!("s{n}")).collect();
        fields.insert("after".into(), json!(after));
    }
    let when = match step.when {
        0 => Some("false".to_owned()),
        1 => Some("finding.nothing == 1".to_owned()),
        2 if step.after.is_none() && i > 0 => Some(format!("steps.s{}.state == 'Succeeded'", i - 1)),
        3 => Some("finding.rule == 'Reverse shell'".to_owned()),
        _ => None,
    };
    fields.extend(when.map(|when| ("when".to_owned(), json!(when))));
    fields.extend(
        step.retry.map(|(limit, wait)| ("retry".to_owned(), json!({"limit": limit, "backoff": format!("{wait}s")}))),
    );
    fields.extend(step.timeout.map(|timeout| ("timeout".to_owned(), json!(format!("{timeout}s")))));
    written
}

fn check(game: &Game, plan: &Plan, begun: &mut [i32]) {
    assert_eq!(*plan, game.plan(), "the same run gives the same decisions");
    let (status, steps) = (&game.status, &game.steps);
    let mut seen = Vec::new();
    for (at, decision) in plan.decisions.iter().enumerate() {
        let step = match decision {
            Decision::Begin { step } | Decision::Perform { step, .. } => {
                may_be_done(game, *step, matches!(decision, Decision::Begin { .. }));
                if matches!(status.steps[*step].state, StepState::Pending | StepState::Retrying) {
                    begun[*step] += 1;
                }
                // Containment that says nothing of retries is bounded by its time alone.
                let written = &steps[*step].step;
                let unbounded = written.retry.is_none() && traits(&written.kind).contains;
                let limit = written.retry.clone().unwrap_or_default().limit;
                assert!(unbounded || begun[*step] <= limit + 1, "tried too often");
                *step
            }
            Decision::Skip { step, .. } => {
                assert!(!status.steps[*step].state.is_final());
                *step
            }
            Decision::Fail { step, .. } => {
                assert_eq!(status.phase, Phase::Running);
                assert!(!status.steps[*step].state.is_final());
                *step
            }
            Decision::Revert { step } => {
                assert_eq!((status.phase, status.steps[*step].state), (Phase::Running, StepState::Reverting));
                assert!(status.steps[*step].receipt.is_some());
                *step
            }
            Decision::Undo { step } => {
                may_be_undone(game, *step);
                *step
            }
            Decision::Enter { phase, .. } => {
                assert_eq!(at + 1, plan.decisions.len(), "a run changes its phase last");
                assert_ne!(*phase, status.phase);
                continue;
            }
        };
        assert!(!seen.contains(&step), "one thing at a time for each step");
        seen.push(step);
    }
    assert!(plan.decisions.iter().filter(|one| matches!(one, Decision::Undo { .. })).count() <= 1);
}

fn may_be_done(game: &Game, step: usize, begins: bool) {
    let (status, steps) = (&game.status, &game.steps);
    assert_eq!((status.phase, game.intent), (Phase::Running, Intent::Run), "steps are done in a run that runs");
    for &before in &steps[step].after {
        let record = &status.steps[before];
        let passed = match record.state {
            StepState::Succeeded => true,
            StepState::Skipped => record.reason == "ConditionNotMet",
            StepState::Failed => steps[before].step.on_failure == OnFailure::Continue,
            _ => false,
        };
        assert!(passed, "{} before {}", steps[step].step.name, record.name);
    }
    let record = &status.steps[step];
    let intent_first = traits(&steps[step].step.kind).intent_first;
    assert_eq!(begins, intent_first && record.state == StepState::Pending, "intent first, and only once");
    if record.state == StepState::Pending {
        let stopped = steps.iter().zip(&status.steps).any(|(step, record)| {
            matches!(record.state, StepState::Failed | StepState::Reverting)
                && step.step.on_failure != OnFailure::Continue
        });
        assert!(!stopped, "no step begins once another has failed");
    } else {
        assert!(matches!(record.state, StepState::Running | StepState::Retrying));
    }
}

fn may_be_undone(game: &Game, step: usize) {
    let can_be = |i: usize| {
        let record = &game.status.steps[i];
        record.receipt.is_some()
            && traits(&game.steps[i].step.kind).can_be_undone
            && !matches!(record.state, StepState::Undone | StepState::NotUndone | StepState::Skipped)
    };
    assert_eq!(game.status.phase, Phase::Undoing);
    assert!(can_be(step));
    assert!(!(step + 1..game.steps.len()).any(can_be), "what was done last is undone first");
}

/// Plays a scene to its end and past it.
fn play(scene: &Scene) -> Game {
    let mut game = game(scene);
    let mut begun = vec![0; scene.steps.len()];
    let mut late = scene.late.iter().copied();
    for round in 0..ROUNDS {
        if scene.undo_in == Some(round) {
            game.intent = Intent::Undo;
        }
        let before = game.status.clone();
        let plan = game.plan();
        check(&game, &plan, &mut begun);
        game.turn();
        for (old, new) in before.steps.iter().zip(&game.status.steps) {
            if old.receipt.is_some() && new.receipt != old.receipt {
                assert!(new.receipt.is_none() && old.state == StepState::Reverting, "a receipt is kept as it was");
            }
        }
        if game.status != before {
            continue;
        }
        let next = game.plan().wake_at;
        if game.status.phase.is_final() {
            assert_eq!((&plan, next), (&Plan::default(), None), "nothing happens after the end");
            if scene.undo_in.is_some() && game.intent == Intent::Run {
                game.intent = Intent::Undo;
                continue;
            }
            return game;
        }
        let next = next.expect("a run that hasn't ended knows when to go on");
        assert!(next > game.now);
        game.now = next + chrono::TimeDelta::seconds(late.next().unwrap_or_default());
    }
    panic!("the run does not end: {:?}", game.status);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_and_keeps_the_rules(scene in scene()) {
        let game = play(&scene);
        let status = &game.status;
        prop_assert!(status.phase.is_final());
        prop_assert!(status.finished_at.is_some());
        prop_assert_eq!(status.current_step.as_str(), "");
        prop_assert!(status.steps.iter().all(|record| record.state.is_final() && record.finished_at.is_some()));
        let any = |state| status.steps.iter().any(|record| record.state == state);
        match status.phase {
            Phase::Succeeded => prop_assert!(!any(StepState::Failed) && game.intent == Intent::Run),
            Phase::Undone => prop_assert!(!any(StepState::NotUndone) && game.intent == Intent::Undo),
            _ => prop_assert!(any(StepState::Failed) || any(StepState::NotUndone) || any(StepState::Undone)),
        }
        let complete = status.conditions.iter().find(|one| one.type_ == "Complete").unwrap();
        prop_assert_eq!(complete.status.as_str(), "True");
        prop_assert!(!complete.message.is_empty());
    }

    #[test]
    fn the_same_scene_plays_the_same(scene in scene()) {
        let (one, other) = (play(&scene), play(&scene));
        prop_assert_eq!(one.log, other.log);
        prop_assert_eq!(one.status, other.status);
    }
}
