//! Two runs at one object: one waits, in order, and nobody for ever.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quell_crds::v1alpha1::{StepKind, Workload};
use quell_playbooks::contention::{Claimant, Claims, Object, RunName, object};
use quell_playbooks::{PodFacts, TargetState, World};
use serde_json::json;

use crate::support::at;

fn thing(name: &str) -> Object {
    Object { kind: "Deployment".into(), namespace: "shop".into(), name: name.into() }
}

fn claimant(run: &str, step: &str, priority: i32, since: i64) -> Claimant {
    Claimant { run: ("shop".into(), run.into()), step: step.into(), priority, since: at(since) }
}

#[test]
fn the_second_waits_and_is_woken_when_the_first_is_done() {
    let mut claims = Claims::default();
    let (first, second) = (claimant("first", "a", 0, 0), claimant("second", "a", 0, 1));
    assert_eq!(claims.take(&thing("web"), &first), Ok(()));
    assert_eq!(claims.take(&thing("web"), &second), Err(first.clone()));
    assert_eq!(claims.take(&thing("web"), &first), Ok(()), "it has it");
    assert_eq!(claims.take(&thing("other"), &second), Ok(()), "another object is free");
    let turns = claims.settle(&first.run, &[], &[]);
    assert_eq!(turns, BTreeSet::from([second.run.clone()]));
    assert_eq!(claims.take(&thing("web"), &second), Ok(()));
}

#[test]
fn the_higher_priority_goes_first_then_the_older_run() {
    let mut claims = Claims::default();
    let holder = claimant("holder", "a", 0, 0);
    let (young, old, urgent) =
        (claimant("young", "a", 0, 9), claimant("old", "a", 0, 1), claimant("urgent", "a", 5, 99));
    claims.take(&thing("web"), &holder).unwrap();
    for one in [&young, &old, &urgent] {
        claims.take(&thing("web"), one).unwrap_err();
    }
    for expected in [&urgent, &old, &young] {
        let before = claims.holder(&thing("web")).unwrap().run.clone();
        assert_eq!(claims.settle(&before, &[], &[]), BTreeSet::from([expected.run.clone()]));
        if expected.run.1 != "young" {
            assert_eq!(claims.take(&thing("web"), &young), Err(expected.clone()), "who isn't next waits");
        }
        claims.take(&thing("web"), expected).unwrap();
    }
}

#[test]
fn who_gives_up_its_place_keeps_nobody_waiting() {
    let mut claims = Claims::default();
    let (holder, next, last) =
        (claimant("holder", "a", 0, 0), claimant("next", "a", 0, 1), claimant("last", "a", 0, 2));
    claims.take(&thing("web"), &holder).unwrap();
    claims.take(&thing("web"), &next).unwrap_err();
    claims.take(&thing("web"), &last).unwrap_err();
    claims.settle(&holder.run, &[], &[]);
    assert_eq!(claims.settle(&next.run, &[], &[]), BTreeSet::from([last.run.clone()]));
    assert_eq!(claims.take(&thing("web"), &last), Ok(()));
}

#[test]
fn what_a_run_holds_by_its_record_is_held_after_a_restart() {
    let mut claims = Claims::default();
    let (first, second) = (claimant("first", "a", 0, 5), claimant("second", "a", 9, 0));
    claims.settle(&first.run, &[(thing("web"), first.clone())], &[]);
    assert_eq!(claims.take(&thing("web"), &second), Err(first));
}

#[test]
fn containment_waits_for_nobody() {
    let pod = PodFacts {
        namespace: "shop".into(),
        name: "web-1".into(),
        service_account: "web".into(),
        ..PodFacts::default()
    };
    let workload =
        Workload { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into(), ..Workload::default() };
    let world = World { target: TargetState::Pod(pod), workload: Some(workload), ..World::default() };
    let of = |kind: serde_json::Value| {
        let kind: StepKind = serde_json::from_value(kind).unwrap();
        object(&kind, &world).map(|object| object.to_string())
    };
    assert_eq!(of(json!({"quarantine": {}})), None);
    assert_eq!(of(json!({"denyImage": {"by": "Tag"}})), None);
    assert_eq!(of(json!({"rollback": {}})), of(json!({"setImage": {"image": "x"}})));
    assert_eq!(of(json!({"rollback": {}})).unwrap(), "Deployment shop/web");
    assert_eq!(of(json!({"revokeAccess": {}})).unwrap(), "ServiceAccount shop/web");
}

/// A run: for each of its branches the objects that the branch's steps change, one after the other, and how long each takes.
type Branches = Vec<Vec<(usize, u8)>>;

#[derive(Clone, Debug)]
struct Busy {
    priority: i32,
    since: i64,
    branches: Branches,
}

fn busy() -> impl Strategy<Value = Busy> {
    let steps = prop::collection::vec((0..4_usize, 1..4_u8), 1..4);
    (-2..3_i32, 0..20_i64, prop::collection::vec(steps, 1..4)).prop_map(|(priority, since, branches)| Busy {
        priority,
        since,
        branches,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs with several branches want several objects in whatever order; the order in which they are looked at is arbitrary, and after a
    /// while each is looked at only when it is woken.
    #[test]
    fn every_run_comes_to_its_end_and_no_object_is_changed_by_two(
        runs in prop::collection::vec(busy(), 1..7),
        order in prop::collection::vec(0..64_usize, 0..64),
    ) {
        let name = |run: usize| -> RunName { ("shop".into(), format!("r{run}")) };
        let mut claims = Claims::default();
        // Where each branch stands: its step, how much of it is left once it has begun, and whether it waits.
        let mut at_step: Vec<Vec<(usize, Option<u8>, bool)>> =
            runs.iter().map(|run| vec![(0, None, false); run.branches.len()]).collect();
        let mut woken: BTreeSet<usize> = (0..runs.len()).collect();
        let mut picks = order.into_iter();
        let mut holders: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for _ in 0..10_000 {
            let Some(pick) = picks.next().map(|n| n % woken.len().max(1)).or(Some(0)) else { break };
            let Some(run) = woken.iter().nth(pick).copied() else { break };
            woken.remove(&run);
            let mut moves = false;
            for (branch, steps) in runs[run].branches.iter().enumerate() {
                let (step, left, waits) = &mut at_step[run][branch];
                let Some(&(object, takes)) = steps.get(*step) else { continue };
                let claimant = claimant(&format!("r{run}"), &format!("{branch}-{step}"), runs[run].priority, runs[run].since);
                match left {
                    None => match claims.take(&thing(&object.to_string()), &claimant) {
                        Ok(()) => {
                            prop_assert_eq!(holders.insert(object, (run, branch)), None, "two at one object");
                            (*left, *waits, moves) = (Some(takes), false, true);
                        }
                        Err(first) => {
                            prop_assert!(!(first.run == claimant.run && first.step == claimant.step));
                            *waits = true;
                        }
                    },
                    Some(0) => {
                        prop_assert_eq!(holders.remove(&object), Some((run, branch)));
                        (*step, *left, moves) = (*step + 1, None, true);
                    }
                    Some(more) => (*more, moves) = (*more - 1, true),
                }
            }
            let (mut holds, mut waits) = (Vec::new(), Vec::new());
            for (branch, &(step, left, waiting)) in at_step[run].iter().enumerate() {
                let Some(&(object, _)) = runs[run].branches[branch].get(step) else { continue };
                let claimant = claimant(&format!("r{run}"), &format!("{branch}-{step}"), runs[run].priority, runs[run].since);
                if left.is_some() {
                    holds.push((thing(&object.to_string()), claimant));
                } else if waiting {
                    waits.push((thing(&object.to_string()), claimant));
                }
            }
            let turns = claims.settle(&name(run), &holds, &waits);
            woken.extend((0..runs.len()).filter(|other| turns.contains(&name(*other))));
            if moves {
                woken.insert(run);
            }
        }
        for (run, branches) in at_step.iter().enumerate() {
            for (branch, (step, ..)) in branches.iter().enumerate() {
                prop_assert_eq!(*step, runs[run].branches[branch].len(), "run {} branch {} waits for ever", run, branch);
            }
        }
    }
}
