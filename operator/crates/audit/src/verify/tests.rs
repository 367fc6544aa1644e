use proptest::prelude::*;

use super::*;
use crate::{Chain, Entry, Event};

fn lines(name: &str, number: usize) -> Vec<String> {
    let mut chain = Chain::new(name);
    (0..number)
        .map(|at| {
            let entry = Entry { event: Event::Step, step: format!("step-{at}"), ..Entry::default() };
            chain.seal(&entry).expect("a line")
        })
        .collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn verify(lines: &[String]) -> Report {
    verify_with(lines, &[])
}

fn verify_with(lines: &[String], known: &[Head]) -> Report {
    let mut verifier = Verifier::default();
    verifier.read("audit.jsonl", text(lines).as_bytes());
    verifier.finish(known)
}

fn faults(report: &Report) -> Vec<(usize, Fault)> {
    report.breaks.iter().map(|one| (one.line, one.fault.clone())).collect()
}

#[test]
fn an_untouched_chain_has_no_break_and_goes_on_over_files_and_restarts() {
    let first = lines("quell-0", 3);
    let file: String = text(&first);
    let head = Head::of(file.as_bytes()).expect("whole").expect("lines");
    assert_eq!(head.number, 2);
    let mut chain = Chain::after(head);
    let next = chain.seal(&Entry::default()).expect("a line");
    let mut verifier = Verifier::default();
    verifier.read("audit.jsonl.0", file.as_bytes());
    verifier.read("audit.jsonl", format!("{next}\n").as_bytes());
    let report = verifier.finish(&[chain.head().expect("a head")]);
    assert_eq!(report.breaks, []);
    assert_eq!(report.chains, [(0, chain.head().expect("a head"))]);
}

#[test]
fn a_line_that_was_removed_reordered_repeated_or_replaced_is_named() {
    let all = lines("quell-0", 6);
    let mut removed = all.clone();
    removed.drain(2..4);
    assert_eq!(faults(&verify(&removed)), [(3, Fault::Removed { from: 2, to: 3 })]);

    let mut swapped = all.clone();
    swapped.swap(2, 3);
    assert_eq!(
        faults(&verify(&swapped)),
        [(3, Fault::Removed { from: 2, to: 2 }), (4, Fault::Reordered { expected: 4 })]
    );

    let mut repeated = all.clone();
    repeated.insert(3, all[1].clone());
    assert_eq!(faults(&verify(&repeated)), [(4, Fault::Reordered { expected: 3 })]);

    // Sealed anew, as whoever knows the format can do: the next line tells.
    let mut forged = all.clone();
    let mut chain = Chain::after(Head::of(format!("{}\n", all[1]).as_bytes()).expect("whole").expect("a line"));
    forged[2] = chain.seal(&Entry { step: "nothing".to_owned(), ..Entry::default() }).expect("a line");
    assert_eq!(faults(&verify(&forged)), [(4, Fault::Replaced)]);
}

#[test]
fn an_end_that_is_missing_is_told_where_the_head_is_known_and_where_a_line_is_cut() {
    let all = lines("quell-0", 4);
    let head = Head::of(format!("{}\n", all[3]).as_bytes()).expect("whole").expect("a line");
    assert_eq!(verify_with(&all, std::slice::from_ref(&head)).breaks, []);
    let report = verify_with(&all[..2], std::slice::from_ref(&head));
    assert_eq!(faults(&report), [(0, Fault::Truncated { head: head.clone() })]);
    assert_eq!(head.to_string().parse(), Ok(head));

    let text = format!("{}\n{}", all[0], &all[1][..all[1].len() / 2]);
    let mut verifier = Verifier::default();
    verifier.read("audit.jsonl", text.as_bytes());
    assert_eq!(faults(&verifier.finish(&[])), [(2, Fault::CutOff)]);
    assert_eq!(Head::of(text.as_bytes()), Err(all[0].len() + 1), "what is cut off can be taken away");
}

#[test]
fn chains_of_several_replicas_in_one_file_are_told_apart() {
    let (one, two) = (lines("one", 3), lines("two", 3));
    let mixed: Vec<String> = one.iter().zip(&two).flat_map(|(one, two)| [one.clone(), two.clone()]).collect();
    let report = verify(&mixed);
    assert_eq!(report.breaks, []);
    assert_eq!(report.chains.len(), 2);
}

proptest! {
    #[test]
    fn no_byte_can_be_changed_without_a_trace(line in 0_usize..5, place in 0_usize..4096, to in 0x20_u8..0x7f) {
        let mut all = lines("quell-0", 5);
        let bytes = all[line].as_bytes();
        let place = place % bytes.len();
        prop_assume!(bytes[place] != to);
        let mut changed = bytes.to_vec();
        changed[place] = to;
        all[line] = String::from_utf8(changed).expect("ASCII");
        let last = line == 4;
        let report = verify(&all);
        prop_assert!(!report.breaks.is_empty(), "line {line}, byte {place} to {to}, last: {last}");
    }
}
