//! The ready-made playbooks: what each is for, and what it does, step by step, to the end.

mod cases;
mod worlds;

use std::collections::BTreeSet;
use std::path::Path;

use quell_crds::v1alpha1::{ClusterPlaybook, StepKind};
use quell_playbooks::compile::Draft;
use quell_playbooks::select::{Verdict, judge};
use quell_playbooks::{Compiled, compile, library};
use serde_json::Value;

use crate::support::{Game, at};
use cases::{CASES, Case, Scene};

fn parsed(name: &str) -> ClusterPlaybook {
    let text = library().into_iter().find(|(known, _)| *known == name).unwrap().1;
    serde_saphyr::from_str(text).unwrap()
}

fn compiled(name: &str) -> Compiled {
    let channels = BTreeSet::from(["security".to_owned()]);
    compile(&Draft::of_cluster_playbook(&parsed(name), at(0)), &channels).unwrap()
}

fn assert_scene(playbook: &Compiled, case: &Case, scene: &Scene) {
    let world = (scene.finding)();
    assert_eq!(judge(playbook, &world, &world.scope()), Verdict::Matches, "{}", case.name);
    let mut game = Game::of(playbook.steps.clone(), world);
    for (step, outcomes) in (scene.outcomes)() {
        game = game.on(step, outcomes);
    }
    game.play();
    assert_eq!(game.log, scene.log, "{}", case.name);
    for (step, text) in scene.given {
        let given =
            game.given.iter().rev().find(|(name, _)| name == step).unwrap_or_else(|| panic!("{step} is not done"));
        let given = match &given.1 {
            StepKind::Notify(notify) => notify.message.clone().unwrap(),
            other => serde_json::to_string(other).unwrap(),
        };
        assert!(given.contains(text), "{}: {step} has no `{text}`:\n{given}", case.name);
    }
}

#[test]
fn each_does_what_it_says_for_what_it_is_for() {
    for case in CASES {
        let playbook = compiled(case.name);
        assert!(!case.scenes.is_empty(), "{} is played", case.name);
        for scene in case.scenes {
            assert_scene(&playbook, case, scene);
        }
    }
}

#[test]
fn each_leaves_alone_what_it_is_not_for() {
    for case in CASES {
        let playbook = compiled(case.name);
        assert!(!case.differs.is_empty(), "{} has something it is not for", case.name);
        for other in case.differs {
            let world = other();
            let verdict = judge(&playbook, &world, &world.scope());
            assert!(matches!(verdict, Verdict::Differs(_)), "{}: {verdict:?} for {:?}", case.name, world.finding.spec);
        }
    }
}

#[test]
fn each_rule_that_a_playbook_names_is_one_that_it_is_for() {
    for case in CASES {
        let playbook = compiled(case.name);
        for rule in case.rules {
            let text = library().into_iter().find(|(name, _)| *name == case.name).unwrap().1;
            assert!(text.contains(&format!("\"{rule}\"")), "{} names {rule}", case.name);
            for source in ["falco", "sidekick"] {
                let world = worlds::falco(source, rule, case.severity);
                assert_eq!(judge(&playbook, &world, &world.scope()), Verdict::Matches, "{} {rule}", case.name);
            }
        }
    }
}

#[test]
fn every_file_of_the_folder_is_in_the_library_and_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
    let files: BTreeSet<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let listed: Vec<String> = library().iter().map(|(name, _)| format!("{name}.yaml")).collect();
    assert!(listed.is_sorted());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), files, "src/library.rs lists the files of library/");
    let tested: BTreeSet<String> = CASES.iter().map(|case| format!("{}.yaml", case.name)).collect();
    assert_eq!(tested, files, "tests/core/library/cases.rs has a case for each");
}

#[test]
fn the_reference_lists_each() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/playbooks.md");
    let reference = std::fs::read_to_string(path).unwrap();
    for (name, _) in library() {
        assert!(reference.contains(&format!("| `{name}` |")), "docs/playbooks.md has no row for {name}");
    }
}

#[test]
fn each_says_when_to_use_it_what_it_needs_and_which_controls_it_serves() {
    for (name, text) in library() {
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert_eq!(head.first(), Some(&format!("# {name}").as_str()));
        for part in ["# When to use: ", "# What it does: ", "# What it doesn't: ", "# Needs: ", "# Controls:"] {
            assert!(head.iter().any(|line| line.starts_with(part)), "{name} has no `{part}`");
        }
        let controls = head.iter().skip_while(|line| **line != "# Controls:").skip(1);
        let known = [
            "NIST SP 800-53 r5 ",
            "PCI DSS v4.0 ",
            "CIS Controls v8 ",
            "CIS Kubernetes Benchmark v1.8 ",
            "HIPAA 45 CFR 164.3",
            "GDPR Art. ",
        ];
        let mut count = 0;
        for line in controls {
            let control = line.strip_prefix("#   ").unwrap();
            assert!(known.iter().any(|standard| control.starts_with(standard)), "{name}: {control}");
            assert!(control.split_once(": ").is_some_and(|(_, why)| why.len() > 10), "{name}: {control}");
            count += 1;
        }
        assert!(count >= 3, "{name}");
        assert!(text.lines().all(|line| !line.starts_with('#') || line.chars().count() <= 120), "{name}");
        assert_eq!(parsed(name).metadata.name.as_deref(), Some(name));
    }
}

#[test]
fn every_key_that_is_written_is_understood() {
    for (name, text) in library() {
        let written: Value = serde_saphyr::from_str(text).unwrap();
        let understood = serde_json::to_value(parsed(name)).unwrap();
        assert_within(&written, &understood, name);
    }
}

#[test]
#[should_panic(expected = "p.spec.steps[0].notify is not a field")]
fn a_second_kind_in_one_step_would_be_found() {
    let text = library()[0]
        .1
        .replace("quarantine: {detach: true}", "quarantine: {detach: true}\n      notify: {channels: []}");
    let playbook: ClusterPlaybook = serde_saphyr::from_str(&text).unwrap();
    assert_within(&serde_saphyr::from_str(&text).unwrap(), &serde_json::to_value(playbook).unwrap(), "p");
}

/// A key that serde does not know, or a second kind in one step, is dropped without a word; here it is found.
fn assert_within(written: &Value, understood: &Value, at: &str) {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (key, value) in written {
                let at = format!("{at}.{key}");
                assert_within(value, understood.get(key).unwrap_or_else(|| panic!("{at} is not a field")), &at);
            }
        }
        (Value::Array(written), Value::Array(understood)) => {
            assert_eq!(written.len(), understood.len(), "{at}");
            for (i, (one, other)) in written.iter().zip(understood).enumerate() {
                assert_within(one, other, &format!("{at}[{i}]"));
            }
        }
        (Value::String(written), Value::String(understood)) if written != understood => {
            let time = |text: &str| text.parse::<kube::core::Duration>().ok();
            assert!(
                time(written).is_some() && time(written) == time(understood),
                "{at}: {written} became {understood}"
            );
        }
        _ => assert_eq!(written, understood, "{at}"),
    }
}
