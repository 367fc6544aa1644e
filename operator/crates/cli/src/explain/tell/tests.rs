use quell_crds::conditions::{Reason, Status, condition};
use quell_crds::v1alpha1::step::{Quarantine, Rollback};
use quell_crds::v1alpha1::{
    FindingReference, FindingSpec, FindingStatus, OnFailure, Phase, PlaybookReference, Receipt, RemediationSpec,
    RemediationStatus, Severity, Step, StepKind, Target,
};
use quell_playbooks::facts::{RouteFacts, ServiceFacts};
use quell_playbooks::related::Beside;
use quell_playbooks::{PodFacts, World};

use super::super::Other;
use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn finding() -> Finding {
    let mut finding = Finding::new(
        "falco-0a1b2c3d4e",
        FindingSpec {
            source: "falco".to_owned(),
            rule: "Netcat Remote Code Execution in Container".to_owned(),
            severity: Severity::Critical,
            message: "nc -e /bin/sh\u{1b}[2J (user=root)".to_owned(),
            target: Target {
                kind: "Pod".to_owned(),
                namespace: "shop".to_owned(),
                name: "web-1".to_owned(),
                uid: "u-1".to_owned(),
                container: "app".to_owned(),
                image: "registry.example/web:1.4".to_owned(),
                digest: "sha256:abc".to_owned(),
                node: "node-1".to_owned(),
                ..Target::default()
            },
            detected_at: Some(at(0)),
            ..FindingSpec::default()
        },
    );
    finding.metadata.namespace = Some("shop".to_owned());
    finding.metadata.creation_timestamp = Some(quell_crds::time::to_kubernetes(at(1)));
    finding.status = Some(FindingStatus { count: 3, last_seen: Some(at(60)), ..FindingStatus::default() });
    finding
}

fn step_of(name: &str, kind: StepKind) -> Step {
    Step {
        name: name.to_owned(),
        when: None,
        after: None,
        timeout: None,
        approval: None,
        retry: None,
        on_failure: OnFailure::Abort,
        allow_last_replica: false,
        kind,
    }
}

fn record(name: &str, state: StepState, reason: &str, message: &str) -> StepRecord {
    StepRecord {
        name: name.to_owned(),
        state,
        reason: reason.to_owned(),
        message: message.to_owned(),
        attempts: 1,
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        ..StepRecord::default()
    }
}

fn failed_run() -> Remediation {
    let mut run = Remediation::new(
        "contain-5f6g7h8i9j",
        RemediationSpec {
            mode: quell_crds::v1alpha1::Mode::Enforce,
            finding: FindingReference { name: "falco-0a1b2c3d4e".to_owned(), uid: "f".to_owned(), episode: 1 },
            playbook: PlaybookReference {
                kind: PlaybookKind::ClusterPlaybook,
                name: "contain".to_owned(),
                generation: 4,
                ..PlaybookReference::default()
            },
            steps: vec![
                step_of("contain", StepKind::Quarantine(Quarantine::default())),
                step_of("roll-back", StepKind::Rollback(Rollback::default())),
                step_of("again", StepKind::Rollback(Rollback::default())),
            ],
            target: finding().spec.target,
            workload: None,
            settings: quell_crds::v1alpha1::RunSettings::default(),
            author: None,
            intent: quell_crds::v1alpha1::Intent::Run,
            undo_steps: Vec::new(),
        },
    );
    let mut contained = record("contain", StepState::Succeeded, "Succeeded", "pod shop/web-1 is cut off");
    contained.receipt = Some(Receipt::default());
    contained.outputs.insert("policy".to_owned(), "full".to_owned());
    let steps = vec![
        contained,
        record(
            "roll-back",
            StepState::Failed,
            "NoEarlierRevision",
            "Deployment shop/web has no revision to go back to",
        ),
        record("again", StepState::Skipped, "Aborted", "an earlier step failed"),
    ];
    let complete =
        condition(&[], ConditionType::Complete, Status::True, Reason::StepFailed, "roll-back failed", None, at(9));
    run.status = Some(RemediationStatus {
        phase: Phase::Failed,
        steps,
        started_at: Some(at(1)),
        finished_at: Some(at(9)),
        conditions: vec![complete],
        ..RemediationStatus::default()
    });
    run
}

fn case() -> Case {
    let pod = PodFacts {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: "u-1".to_owned(),
        node: "node-1".to_owned(),
        labels: [(names::QUARANTINE.to_owned(), "full".to_owned())].into(),
        ..PodFacts::default()
    };
    let finding = finding();
    let world = World { finding: finding.clone(), target: TargetState::Pod(pod), ..World::default() };
    let other = |name: &str, why| Other {
        reference: PlaybookReference {
            kind: PlaybookKind::Playbook,
            name: name.to_owned(),
            ..PlaybookReference::default()
        },
        why,
    };
    let others = vec![
        other("trivy-only", Why::Differs("its source is falco, the playbook is for trivy".to_owned())),
        other("broken", Why::NotReady("spec.match.when: `x` names `x`, which is not there".to_owned())),
    ];
    Case {
        finding,
        runs: vec![failed_run()],
        world: Ok(world),
        beside: Beside::default(),
        others: Ok(others),
        unseen: Vec::new(),
    }
}

#[test]
fn a_failed_run_is_told_with_its_steps_its_reasons_and_what_to_do() {
    let text = text(&case(), at(120));
    for expected in [
        "Finding shop/falco-0a1b2c3d4e\n",
        "Rule        Netcat Remote Code Execution in Container\n",
        "Message     nc -e /bin/sh [2J (user=root)\n",
        "UTC (60s ago), reported 3 times\n",
        "Now         the pod is there, under quarantine (full)\n",
        "Digest      sha256:abc\n",
        "ClusterPlaybook contain (generation 4), as Quell: Failed\n",
        "Cut off     2s after the tool saw it, 1s after the finding\n",
        "✓ contain (quarantine): Succeeded  ",
        "      policy = full\n",
        "✗ roll-back (rollback): Failed",
        "      NoEarlierRevision: Deployment shop/web has no revision to go back to\n",
        "What it did not do\n  roll-back (contain): failed, NoEarlierRevision",
        "  again (contain): skipped, Aborted: an earlier step failed\n",
        "  Playbook trivy-only: its source is falco, the playbook is for trivy\n",
        "  Playbook broken: not Ready: spec.match.when",
        "  kubectl describe -n shop remediation/contain-5f6g7h8i9j ",
        "  kubectl logs -n shop web-1 -c app ",
        "  kubectl edit -n shop playbook/broken ",
        "  kubectl quell undo -n shop falco-0a1b2c3d4e ",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }
}

#[test]
fn a_finding_that_nothing_was_done_about_says_so_and_what_is_not_known_is_said() {
    let mut case = case();
    case.runs.clear();
    case.world = Err("reading Pod shop/web-1: forbidden".to_owned());
    case.others = Ok(Vec::new());
    let text = text(&case, at(120));
    assert!(text.contains("Nothing yet: it has not been looked at"), "{text}");
    assert!(text.contains("Now         not known: reading Pod shop/web-1: forbidden"), "{text}");
    assert!(text.contains("kubectl quell plan playbook.yaml --finding falco-0a1b2c3d4e -n shop"), "{text}");
    assert!(!text.contains("quell undo"), "{text}");
}

#[test]
fn a_target_that_was_replaced_is_not_taken_for_the_one_that_was_reported() {
    let mut case = case();
    if let Ok(world) = &mut case.world {
        world.target = TargetState::Replaced { uid: "u-2".to_owned() };
    }
    let text = text(&case, at(120));
    assert!(text.contains("the pod is gone; another one has its name now (UID u-2)"), "{text}");
    assert!(!text.contains("kubectl logs"), "{text}");
}

#[test]
fn what_else_is_open_there_and_what_the_target_opens_to_others_is_told() {
    let mut case = case();
    let one = Related {
        name: "trivy-1".to_owned(),
        source: "scanner".to_owned(),
        tool: "trivy".to_owned(),
        rule: "registry.example/web:1".to_owned(),
        severity: "Critical".to_owned(),
        state: "Open".to_owned(),
        ..Related::default()
    };
    case.beside = Beside { worst: vec![one], all: 3 };
    if let Ok(world) = &mut case.world {
        let service = ServiceFacts { name: "web".to_owned(), kind: "LoadBalancer".to_owned(), external: true };
        let ingress = RouteFacts {
            kind: "Ingress".to_owned(),
            name: "edge".to_owned(),
            hosts: vec!["shop.example".to_owned()],
            ..RouteFacts::default()
        };
        world.exposure =
            Exposure { services: vec![service], ingresses: vec![ingress], privileged: true, ..Exposure::default() };
    }
    let text = text(&case, at(120));
    assert!(
        text.contains("Exposed     Service web (LoadBalancer), Ingress edge (shop.example), a privileged container\n"),
        "{text}"
    );
    let beside = "What else is open there\n  Critical trivy-1: registry.example/web:1 (Open, source scanner, tool trivy)\n  and 2 more, none of them worse: kubectl quell get -n shop\n";
    assert!(text.contains(beside), "{text}");
}

#[test]
fn an_episode_and_its_end_are_told() {
    let mut case = case();
    let status = case.finding.status.get_or_insert_default();
    status.resolve(at(60));
    status.report(1, at(90));
    status.resolve(at(100));
    let text = text(&case, at(120));
    assert!(text.contains("(30s ago), episode 2\n"), "{text}");
    assert!(text.contains("Resolved    "), "{text}");
}

#[test]
fn that_it_expired_is_not_told_as_if_somebody_had_said_that_it_is_over() {
    let mut case = case();
    case.finding.status.get_or_insert_default().expired_at = Some(at(100));
    let text = text(&case, at(120));
    assert!(text.contains("(20s ago); nobody said that it is over\n") && !text.contains("Resolved"), "{text}");
}
