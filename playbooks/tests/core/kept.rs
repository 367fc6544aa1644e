//! What is told about a quarantine after it was made.

use chrono::{DateTime, Duration, Utc};
use quell_crds::v1alpha1::QuarantineNews::{self, Closed, Contested, NotKept, Opened};
use quell_playbooks::kept::{CONTESTED, Decision, Facts, MOST, WINDOW, decide, wait};

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::days(1)
}

fn told(facts: &Facts, known: Option<QuarantineNews>) -> Decision {
    decide(facts, known, [], now())
}

#[test]
fn a_path_that_opens_and_its_closing_are_told_once_each() {
    let open = Facts { open: true, ..Facts::default() };
    assert_eq!(told(&Facts::default(), None), Decision::Nothing, "a quarantine that holds is no news");
    assert_eq!(told(&open, None), Decision::Tell(Opened));
    assert_eq!(told(&open, Some(Opened)), Decision::Nothing);
    assert_eq!(told(&Facts::default(), Some(Opened)), Decision::Tell(Closed));
    assert_eq!(told(&Facts::default(), Some(Closed)), Decision::Nothing);
    assert_eq!(told(&open, Some(Closed)), Decision::Tell(Opened));
}

#[test]
fn what_quell_is_about_to_close_is_not_told_as_open() {
    let changed = Facts { open: true, changed: true, restored: 1, ..Facts::default() };
    assert_eq!(told(&changed, None), Decision::Nothing);
    assert_eq!(told(&changed, Some(Opened)), Decision::Nothing);
}

#[test]
fn a_fight_and_a_quarantine_that_can_not_be_put_back_are_told_and_so_is_their_end() {
    let fought = Facts { open: true, changed: true, restored: CONTESTED, ..Facts::default() };
    assert_eq!(told(&fought, None), Decision::Tell(Contested));
    assert_eq!(told(&Facts { restored: CONTESTED + 4, ..fought }, Some(Contested)), Decision::Nothing);
    assert_eq!(told(&Facts::default(), Some(Contested)), Decision::Tell(Closed));
    let failed = Facts { failed: true, ..fought };
    assert_eq!(told(&failed, Some(Contested)), Decision::Tell(NotKept));
    assert_eq!(told(&failed, Some(NotKept)), Decision::Nothing);
    assert_eq!(told(&Facts::default(), Some(NotKept)), Decision::Tell(Closed));
}

#[test]
fn flapping_floods_nobody_and_its_end_is_told_all_the_same() {
    let mut sent = Vec::new();
    let (mut known, mut at) = (None, now());
    let mut state = |open: bool, at: DateTime<Utc>| {
        let decision = decide(&Facts { open, ..Facts::default() }, known, sent.iter().copied(), at);
        if let Decision::Tell(news) = decision {
            known = Some(news);
            sent.push(at);
        }
        decision
    };
    let mut messages = 0;
    for round in 0..300 {
        messages += usize::from(matches!(state(round % 2 == 0, at), Decision::Tell(_)));
        at += Duration::seconds(1);
    }
    assert_eq!(messages, MOST);
    let Decision::Later(when) = state(true, at) else { panic!("it is open, and people take it for closed") };
    assert_eq!(when, now() + WINDOW);
    assert_eq!(state(true, when), Decision::Tell(Opened));
}

#[test]
fn whoever_fights_is_answered_ever_more_slowly_and_never_given_up_to() {
    let waits: Vec<_> = [0, 1, 2, 3, 4, 8, 50].map(|times| wait(times).num_seconds()).into();
    assert_eq!(waits, [0, 0, 1, 2, 4, 60, 60]);
}
