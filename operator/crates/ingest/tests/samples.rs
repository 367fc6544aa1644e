//! Runs over real reports of the tools, where they are at hand: a folder `shared/samples` beside the repository.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use quell_crds::v1alpha1::{Category, Format, Severity};
use quell_ingest::{About, Signal, Unreadable, finding, place_without_cluster, read};

const FORMATS: [(&str, Format); 4] = [
    ("falco", Format::Falco),
    ("falcosidekick", Format::Falcosidekick),
    ("trivy", Format::Trivy),
    ("trivy-operator", Format::TrivyOperator),
];

/// The repository is the topmost folder above this crate that has a `Cargo.lock`.
fn samples() -> Option<PathBuf> {
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().filter(|at| at.join("Cargo.lock").exists()).last()?;
    let samples = repository.parent()?.join("shared/samples");
    if !samples.is_dir() {
        println!("skipped: there is no folder shared/samples beside the repository");
        return None;
    }
    Some(samples)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|path: &PathBuf| path.extension().is_some_and(|end| end != "md"));
    files.sort();
    files
}

fn of(name: &str) -> Option<Result<Vec<Signal>, Unreadable>> {
    let folder = name.split('/').next()?;
    let (_, format) = FORMATS.into_iter().find(|(known, _)| *known == folder)?;
    Some(read(format, &fs::read(samples()?.join(name)).unwrap()))
}

/// Everything that a reader does with a body, so that none of it may panic.
fn exercise(format: Format, body: &[u8]) {
    match read(format, body) {
        Ok(signals) => {
            for signal in &signals {
                let details = serde_json::to_string(&signal.details).unwrap();
                assert!(details.len() <= 16 * 1024, "{}", details.len());
                let finding = finding("source", signal, &place_without_cluster(signal), "quell");
                assert!(finding.metadata.name.is_some_and(|name| name.len() <= 63));
            }
        }
        Err(unreadable) => {
            assert!(!unreadable.at.is_empty() && !unreadable.problem.is_empty());
            assert!(!unreadable.to_string().contains('\n'));
        }
    }
}

#[test]
fn every_sample_is_read_or_refused_with_a_reason() {
    let Some(samples) = samples() else { return };
    let mut wrong = String::new();
    for (folder, format) in FORMATS {
        for path in files(&samples.join(folder)) {
            let body = fs::read(&path).unwrap();
            let name = path.strip_prefix(&samples).unwrap().display().to_string();
            let refused = ["-docs.yaml", "-expected.yaml"].iter().any(|end| name.ends_with(end))
                || folder == "trivy-operator" && !name.contains("/vulnerabilityreport_");
            exercise(format, &body);
            if read(format, &body).is_err() != refused {
                writeln!(wrong, "{name}: {:?}", read(format, &body)).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn samples_give_the_signals_that_a_person_counted() {
    for (name, expected) in [
        ("falco/contact-k8s-api-server.json", &[(Category::Runtime, Severity::Low)][..]),
        ("falco/docs-terminal-shell-critical.json", &[(Category::Runtime, Severity::Critical)]),
        ("falco/falcosidekick-readme-write-below-binary-dir.json", &[(Category::Runtime, Severity::High)]),
        ("falco/gcpaudit-1.json", &[(Category::Other, Severity::Low)]),
        ("falco/image-digest-as-array.json", &[(Category::Runtime, Severity::Medium)]),
        ("falco/internal-metrics-snapshot.json", &[]),
        ("falco/internal-syscall-drop-strings.json", &[]),
        ("falco/k8saudit-attach-exec-pod-eks.json", &[(Category::Audit, Severity::Low)]),
        ("falco/k8saudit-cluster-secret-accessed-critical.json", &[(Category::Audit, Severity::Critical)]),
        (
            "falco/k8saudit-disallowed-user-warning.jsonl",
            &[(Category::Audit, Severity::Medium), (Category::Audit, Severity::Medium)],
        ),
        ("falco/k8saudit-serviceaccount-created-informational.json", &[(Category::Audit, Severity::Info)]),
        ("falcosidekick/payload-test.json", &[]),
        ("falcosidekick/webhook-terminal-shell.json", &[(Category::Runtime, Severity::Low)]),
        ("trivy/alpine-39-skip.json", &[]),
        ("trivy/dockerfile.json", &[(Category::Misconfiguration, Severity::High)]),
        ("trivy/helm_testchart.json", &[(Category::Misconfiguration, Severity::High)]),
        ("trivy/secrets.json", &[(Category::Secret, Severity::Critical)]),
        ("trivy/alpine-39.json", &[(Category::Vulnerability, Severity::Critical)]),
        ("trivy/centos-7.json", &[(Category::Vulnerability, Severity::Medium)]),
        ("trivy/fluentd-gems.json", &[(Category::Vulnerability, Severity::Critical)]),
        ("trivy/legacy_many_vulns_array.json", &[(Category::Vulnerability, Severity::High)]),
        ("trivy/k-client-filesystem.json", &[(Category::Vulnerability, Severity::Critical)]),
        ("trivy-operator/vulnerabilityreport_many.json", &[(Category::Vulnerability, Severity::Critical)]),
        ("trivy-operator/vulnerabilityreport_no_vuln.json", &[]),
        ("trivy-operator/vulnerabilityreport_single_vuln.json", &[(Category::Vulnerability, Severity::Critical)]),
    ] {
        let Some(read) = of(name) else { return };
        let found: Vec<_> = read.unwrap().iter().map(|signal| (signal.category, signal.severity)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn samples_have_as_many_vulnerabilities_as_a_person_counted() {
    for (name, [critical, high, medium, low, info, fixable]) in [
        ("trivy/alpine-39.json", [2, 0, 4, 0, 0, 6]),
        ("trivy/image-many-vulns-issue_9333.json", [0, 0, 1, 12, 0, 1]),
        ("trivy/legacy_many_vulns_array.json", [0, 18, 9, 65, 1, 0]),
        ("trivy/k-client-filesystem.json", [1, 5, 17, 1, 0, 23]),
        ("trivy-operator/vulnerabilityreport_many.json", [2, 3, 25, 11, 0, 39]),
        ("trivy-operator/vulnerabilityreport_single_vuln.json", [1, 0, 0, 0, 0, 1]),
    ] {
        let Some(read) = of(name) else { return };
        let counts = read.unwrap()[0].vulnerability_counts.unwrap();
        let found = [counts.critical, counts.high, counts.medium, counts.low, counts.info, counts.fixable];
        assert_eq!(found, [critical, high, medium, low, info, fixable], "{name}");
    }
}

#[test]
fn every_line_of_a_log_of_alerts_is_a_signal_about_its_container() {
    let Some(read) = of("falco/event-generator-docker-11-rules.jsonl") else { return };
    let signals = read.unwrap();
    assert_eq!(signals.len(), 11);
    assert!(signals.iter().all(
        |signal| matches!(&signal.about, About::Container { id, node: Some(_), image: Some(_) } if id.len() == 12)
    ));
    let critical = signals.iter().filter(|signal| signal.severity == Severity::Critical);
    assert_eq!(critical.count(), 2);
}

#[test]
fn samples_are_about_what_they_say() {
    let about = |name: &str| of(name).map(|read| read.unwrap().remove(0).about);
    let Some(about_pod) = about("falcosidekick/webhook-terminal-shell.json") else { return };
    let About::Pod { namespace, name, uid, container, .. } = about_pod else { panic!("a pod") };
    assert_eq!((namespace.as_str(), name.as_str()), ("ingress-nginx", "ingress-nginx-controller-slszv"));
    assert_eq!(uid.as_deref(), Some("3eaeaaf8-be47-4f32-895c-ec9caad3bf8c"));
    assert_eq!(container.as_deref(), Some("controller"));

    let Some(About::Workload { kind, namespace, name, .. }) =
        about("falco/k8saudit-cluster-secret-accessed-critical.json")
    else {
        panic!("an object")
    };
    assert_eq!((kind.as_str(), namespace.as_str(), name.as_str()), ("Secret", "prod", "*"));

    let Some(About::Image { image }) = about("trivy/alpine-39.json") else { panic!("an image") };
    assert_eq!(image.reference, "ghcr.io/aquasecurity/trivy-test-images:alpine-39");

    let Some(About::Workload { kind, name, image, .. }) = about("trivy-operator/vulnerabilityreport_many.json") else {
        panic!("a workload")
    };
    assert_eq!((kind.as_str(), name.as_str()), ("ReplicaSet", "nginx-deployment-965685897"));
    assert_eq!(image.unwrap().reference, "docker.io/library/nginx:alpine");
}

#[test]
fn samples_of_other_tools_are_refused() {
    let Some(samples) = samples() else { return };
    for folder in ["alertmanager", "gatekeeper", "grype", "kube-bench", "sarif", "tetragon"] {
        for path in files(&samples.join(folder)) {
            let body = fs::read(&path).unwrap();
            for (name, format) in FORMATS {
                let read = read(format, &body);
                assert!(read.is_err(), "{} as {name}: {read:?}", path.display());
            }
        }
    }
}

#[test]
fn a_sample_cut_anywhere_or_with_wrong_bytes_never_panics() {
    let Some(samples) = samples() else { return };
    for (folder, format) in FORMATS {
        for path in files(&samples.join(folder)) {
            let body = fs::read(&path).unwrap();
            for end in (0..body.len()).step_by(1024) {
                exercise(format, &body[..end]);
            }
            // A small linear generator: the same bytes in every run.
            let mut state = body.len() as u64;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 33).unwrap()
            };
            for _ in 0..24 {
                let mut mutated = body.clone();
                for _ in 0..=next() % 4 {
                    let at = next() % mutated.len();
                    mutated[at] ^= 1 << (next() % 8);
                }
                exercise(format, &mutated);
            }
        }
    }
}
