//! Rules that hold for every run, whatever its steps, what becomes of them, and when somebody asks for an undo.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Intent, OnExpiry, OnFailure, Phase, StepState};
use quell_playbooks::kind::traits;
use quell_playbooks::{Decision, Outcome, Plan, UndoOutcome};
use serde_json::{Value, json};

use crate::support::{Game, ROUNDS, receipt};

#[derive(Clone, Debug)]
struct Scene {
    steps: Vec<StepScene>,
    finally: Vec<StepScene>,
    /// Timeout of the run, in seconds.
    timeout: Option<u64>,
    /// When the run is undone by itself: after so many seconds, or when the Finding is resolved.
    undo: Option<(Option<u64>, bool)>,
    /// What people ask for, and in how many rounds after the ask before.
    asks: Vec<(usize, Ask)>,
    /// How much later than asked for the engine looks again, in turn.
    late: Vec<i64>,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Intent(Intent),
    UndoStep(usize),
    Resolved,
    /// Somebody decides on a step's gate.
    Vote(usize, &'static str, bool),
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
    busy: usize,
    /// Quorum, seconds until it expires, whether that counts as a yes.
    gate: Option<(i32, u64, bool)>,
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
        prop_oneof![3 => Just(0), 1 => 1..4_usize],
        prop_oneof![3 => Just(None), 1 => (1..3, 1..500_u64, any::<bool>()).prop_map(Some)],
    )
        .prop_map(|(kind, after, when, on_failure, retry, timeout, outcomes, undos, busy, gate)| StepScene {
            kind,
            after,
            when,
            on_failure,
            retry,
            timeout,
            outcomes,
            undos,
            busy,
            gate,
        })
}

fn ask() -> impl Strategy<Value = Ask> {
    let intents = vec![Intent::Run, Intent::Pause, Intent::Pause, Intent::Cancel, Intent::Undo];
    prop_oneof![
        4 => prop::sample::select(intents).prop_map(Ask::Intent),
        2 => (0..8_usize).prop_map(Ask::UndoStep),
        1 => Just(Ask::Resolved),
        6 => (0..8_usize, prop::sample::select(vec!["jo", "kim"]), prop::bool::weighted(0.9))
            .prop_map(|(step, user, approves)| Ask::Vote(step, user, approves)),
    ]
}

/// A step of `finally`: of a kind that leaves nothing to undo.
fn last() -> impl Strategy<Value = StepScene> {
    let kinds = prop::sample::select(vec![3, 4, WAIT]);
    let on_failure = prop::sample::select(vec!["Abort", "Continue"]);
    (step(), kinds, on_failure).prop_map(|(step, kind, on_failure)| StepScene { kind, on_failure, ..step })
}

fn scene() -> impl Strategy<Value = Scene> {
    (
        prop::collection::vec(step(), 1..=8),
        prop::collection::vec(last(), 0..3),
        prop_oneof![3 => Just(None), 1 => (1..3000_u64).prop_map(Some)],
        proptest::option::of((proptest::option::of(1..5000_u64), any::<bool>())),
        prop::collection::vec((0..6_usize, ask()), 0..8),
        prop::collection::vec(0..2000_i64, 0..4),
    )
        .prop_map(|(steps, finally, timeout, undo, asks, late)| Scene {
            steps,
            finally,
            timeout,
            undo,
            asks,
            late,
        })
}

fn game(scene: &Scene) -> Game {
    let steps: Vec<Value> = scene.steps.iter().enumerate().map(|(i, step)| written("s", i, step)).collect();
    let finally: Vec<Value> = scene.finally.iter().enumerate().map(|(i, step)| written("f", i, step)).collect();
    let mut settings = json!({"finally": finally});
    if let Some(timeout) = scene.timeout {
        settings["timeout"] = json!(format!("{timeout}s"));
    }
    if let Some((after, resolved)) = scene.undo {
        settings["undo"] = json!({"onResolved": resolved});
        if let Some(after) = after {
            settings["undo"]["after"] = json!(format!("{after}s"));
        }
    }
    let all = scene.steps.iter().enumerate().map(|(i, step)| (format!("s{i}"), step));
    let all = all.chain(scene.finally.iter().enumerate().map(|(i, step)| (format!("f{i}"), step)));
    all.fold(Game::with(json!(steps), settings), |game, (name, step)| {
        let mut outcomes = step.outcomes.clone();
        if step.kind == WAIT && step.timeout.is_none() {
            // Nothing but the wait itself ends it: it asks to be looked at again, and is done in the end.
            let (message, outputs, look_again) = (String::new(), BTreeMap::new(), Some(Duration::from_secs(5)));
            outcomes = vec![
                Outcome::Pending { message: message.clone(), outputs: outputs.clone(), receipt: None, look_again },
                Outcome::Done { message, outputs, receipt: None },
            ];
        }
        game.on(&name, outcomes).on_undo(&name, step.undos.clone()).busy(&name, step.busy)
    })
}

fn written(prefix: &str, i: usize, step: &StepScene) -> Value {
    let mut written = kinds()[step.kind].clone();
    let fields = written.as_object_mut().unwrap();
    fields.insert("name".into(), json!(format!("{prefix}{i}")));
    fields.insert("onFailure".into(), json!(step.on_failure));
    if let Some(bits) = step.after {
        let after: Vec<String> = (0..i).filter(|n| bits & (1 << n) != 0).map(|n| format!("{prefix}{n}")).collect();
        fields.insert("after".into(), json!(after));
    }
    let when = match step.when {
        0 => Some("false".to_owned()),
        1 => Some("finding.nothing == 1".to_owned()),
        2 if step.after.is_none() && i > 0 => Some(format!("steps.{prefix}{}.state == 'Succeeded'", i - 1)),
        3 => Some("finding.rule == 'Reverse shell'".to_owned()),
        4 if prefix == "f" => Some("remediation.outcome != 'Succeeded'".to_owned()),
        _ => None,
    };
    fields.extend(when.map(|when| ("when".to_owned(), json!(when))));
    fields.extend(
        step.retry.map(|(limit, wait)| ("retry".to_owned(), json!({"limit": limit, "backoff": format!("{wait}s")}))),
    );
    fields.extend(step.gate.map(|(quorum, seconds, allow)| {
        let on_expiry = if allow { "Allow" } else { "Deny" };
        let gate =
            json!({"reason": "?", "quorum": quorum, "expiresAfter": format!("{seconds}s"), "onExpiry": on_expiry});
        ("approval".to_owned(), gate)
    }));
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
                if matches!(
                    status.steps[*step].state,
                    StepState::Pending | StepState::AwaitingApproval | StepState::Waiting | StepState::Retrying
                ) {
                    begun[*step] += 1;
                }
                // Containment that says nothing of retries is bounded by its time alone; and who waits for its turn hasn't tried.
                let written = &steps[*step].step;
                let unbounded = written.retry.is_none() && traits(&written.kind).contains;
                let limit = written.retry.clone().unwrap_or_default().limit;
                assert!(unbounded || begun[*step] <= limit + 1 + MOST_BUSY, "tried too often");
                *step
            }
            Decision::Skip { step, reason, .. } => {
                assert!(!status.steps[*step].state.is_final());
                let by_others = [Reason::Aborted, Reason::Cancelled, Reason::TimedOut, Reason::DependencyNotMet];
                assert!(!steps[*step].finally || !by_others.contains(reason), "finally is done whatever happened");
                *step
            }
            Decision::Fail { step, .. } => {
                assert!(matches!(status.phase, Phase::Running | Phase::AwaitingApproval | Phase::Finishing));
                assert!(!status.steps[*step].state.is_final());
                *step
            }
            Decision::Ask { step: Some(step), .. } => {
                assert!(steps[*step].step.approval.is_some() && !status.steps[*step].state.is_final());
                *step
            }
            Decision::Ask { step: None, .. } => panic!("no run here has a gate of its own"),
            Decision::LetGo { step, .. } => {
                assert!(matches!(status.phase, Phase::Running | Phase::AwaitingApproval));
                assert_eq!(game.intent, Intent::Cancel);
                assert!(!steps[*step].finally && !status.steps[*step].state.is_final());
                *step
            }
            Decision::Revert { step } => {
                assert_eq!((status.phase, status.steps[*step].state), (Phase::Running, StepState::Reverting));
                assert!(status.steps[*step].receipt.is_some());
                *step
            }
            Decision::Recover { step } => {
                let record = &status.steps[*step];
                assert!(record.receipt.is_none() && !record.nothing_found && !steps[*step].finally);
                assert!(status.phase == Phase::Undoing || game.undo_steps.contains(&record.name));
                *step
            }
            Decision::Undo { step } => {
                may_be_undone(game, *step);
                *step
            }
            Decision::Enter { phase, .. } | Decision::Close { phase, .. } => {
                assert_eq!(at + 1, plan.decisions.len(), "a run changes its phase last");
                assert_ne!(*phase, status.phase);
                let last = steps.iter().zip(&status.steps).filter(|(step, _)| step.finally);
                assert!(!phase.is_final() || last.clone().all(|(_, record)| record.state.is_final()));
                continue;
            }
            Decision::Finish { .. } => {
                assert_eq!(at + 1, plan.decisions.len(), "a run changes its phase last");
                let main = steps.iter().zip(&status.steps).filter(|(step, _)| !step.finally);
                assert!(main.clone().all(|(_, record)| record.state.is_final()), "finally comes last");
                continue;
            }
        };
        assert!(!seen.contains(&step), "one thing at a time for each step");
        seen.push(step);
    }
    assert!(plan.decisions.iter().filter(|one| matches!(one, Decision::Undo { .. })).count() <= 1);
}

/// How often a step may find its object busy: see `step`.
const MOST_BUSY: i32 = 4;

fn may_be_done(game: &Game, step: usize, begins: bool) {
    let (status, steps) = (&game.status, &game.steps);
    let record = &status.steps[step];
    let begun = record.state == StepState::Running;
    // What has had a try is seen through, also while it waits for its turn: before it is undone, and when what it follows is undone meanwhile.
    let tried = begun || record.state == StepState::Retrying || record.receipt.is_some();
    if steps[step].finally {
        assert_eq!(status.phase, Phase::Finishing, "what is done finally is done when the rest is over");
    } else {
        let runs = matches!(status.phase, Phase::Running | Phase::AwaitingApproval);
        assert!(runs, "steps are done in a run that runs");
        let seen_through = game.intent == Intent::Pause && begun;
        assert!(game.intent == Intent::Run || seen_through, "{:?} begins nothing", game.intent);
        assert!(tried || !game.undo_steps.contains(&record.name), "a step whose undo is asked for never begins");
    }
    for &before in &steps[step].after {
        let record = &status.steps[before];
        let passed = match record.state {
            StepState::Succeeded => true,
            StepState::Skipped => record.reason == "ConditionNotMet",
            StepState::Failed => steps[before].step.on_failure == OnFailure::Continue,
            _ => false,
        };
        let undone = matches!(record.state, StepState::Undone | StepState::NotUndone | StepState::Undoing);
        let over = record.state.is_final() && steps[step].finally;
        assert!(passed || over || (tried && undone), "{} before {}", steps[step].step.name, record.name);
    }
    let intent_first = traits(&steps[step].step.kind).intent_first;
    let fresh = matches!(record.state, StepState::Pending | StepState::AwaitingApproval | StepState::Waiting);
    if let Some(gate) = steps[step].step.approval.as_ref().filter(|_| fresh) {
        let asked = record.approval.as_ref().expect("who was never asked has approved nothing");
        let users = asked.approved_by.len();
        let expired = asked.expires_at.is_some_and(|end| end <= game.now) && gate.on_expiry == OnExpiry::Allow;
        assert!(asked.open && (expired || users >= usize::try_from(gate.quorum).unwrap()), "not approved: {asked:?}");
        let denied = game.votes.iter().any(|vote| {
            let about = vote.step.as_ref() == Some(&record.name) && vote.digest == asked.digest;
            about && !vote.approves && Some(vote.at) < asked.expires_at
        });
        assert!(!denied, "one denial is enough");
    }
    assert_eq!(begins, intent_first && fresh, "intent first, and only once");
    if fresh {
        let stopped = steps.iter().zip(&status.steps).any(|(step, record)| {
            matches!(record.state, StepState::Failed | StepState::Reverting)
                && step.step.on_failure != OnFailure::Continue
        });
        assert!(!stopped || steps[step].finally, "no step begins once another has failed");
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
    assert!(can_be(step) && !game.steps[step].finally);
    if game.status.phase == Phase::Undoing {
        assert!(!(step + 1..game.steps.len()).any(can_be), "what was done last is undone first");
    } else {
        assert!(game.undo_steps.contains(&game.status.steps[step].name), "a step is undone by itself where asked for");
        assert!(!matches!(game.status.steps[step].state, StepState::Running | StepState::Retrying));
    }
}

fn ask_of(game: &mut Game, ask: Ask) {
    match ask {
        Ask::Intent(intent) => game.intent = intent,
        Ask::UndoStep(step) => game.undo_steps.push(format!("s{step}")),
        Ask::Resolved => game.resolved = true,
        Ask::Vote(step, user, approves) => {
            let name = format!("s{step}");
            if game.status.steps.iter().any(|record| record.name == name) {
                game.vote(Some(&name), user, approves);
            }
        }
    }
}

/// Plays a scene to its end and past it.
fn play(scene: &Scene) -> Game {
    let mut game = game(scene);
    let mut begun = vec![0; game.steps.len()];
    let mut late = scene.late.iter().copied();
    let mut asks = scene.asks.iter().copied().peekable();
    let mut since = 0;
    for _ in 0..ROUNDS {
        since += 1;
        if let Some((_, ask)) = asks.next_if(|(after, _)| *after < since) {
            ask_of(&mut game, ask);
            since = 0;
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
        if let Some(next) = next {
            assert!(next > game.now);
            game.now = next + chrono::TimeDelta::seconds(late.next().unwrap_or_default());
            continue;
        }
        let still = game.status.phase.is_final() || game.status.phase == Phase::Paused;
        assert!(still, "a run that hasn't ended knows when to go on: {:?}", game.status);
        assert_eq!(plan, Plan::default(), "nothing happens by itself at the end, or in a pause");
        if let Some((_, ask)) = asks.next() {
            ask_of(&mut game, ask);
        } else if game.status.phase == Phase::Paused {
            assert_eq!(game.intent, Intent::Pause);
            game.intent = Intent::Run;
        } else {
            return game;
        }
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
            Phase::Succeeded => prop_assert!(!any(StepState::Failed)),
            Phase::Undone => {
                let asked = scene.asks.iter().any(|(_, ask)| matches!(ask, Ask::Intent(Intent::Undo)));
                prop_assert!(asked || scene.undo.is_some());
            }
            Phase::Cancelled => prop_assert!(any(StepState::Cancelled) || any(StepState::Skipped)),
            _ => {
                let late = scene.timeout.is_some() && any(StepState::Skipped);
                prop_assert!(any(StepState::Failed) || any(StepState::NotUndone) || any(StepState::Undone) || late);
            }
        }
        prop_assert_eq!(status.paused_at, None);
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
