use quell_crds::v1alpha1::Format;

use super::*;
use crate::About;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const CONFIG: &str = "sha256:ffff456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn signals_of(report: &Value) -> Vec<Signal> {
    read(report.to_string().as_bytes()).unwrap()
}

fn refused(body: &str) -> String {
    read(body.as_bytes()).unwrap_err().to_string()
}

fn vulnerable(id: &str, severity: &str, fixed: &str) -> Value {
    json!({
        "VulnerabilityID": id, "PkgName": "openssl", "InstalledVersion": "1", "FixedVersion": fixed, "Severity": severity,
        "Title": "a title", "CVSS": {"nvd": {"V3Score": 7.5}},
    })
}

fn image_report(metadata: &Value, vulnerabilities: &[Value]) -> Value {
    json!({
        "SchemaVersion": 2, "CreatedAt": "2026-01-02T03:04:05Z", "ArtifactName": "web:1", "ArtifactType": "container_image",
        "Metadata": metadata,
        "Results": [{"Target": "web:1 (alpine 3.20)", "Class": "os-pkgs", "Vulnerabilities": vulnerabilities}],
    })
}

#[test]
fn a_report_on_an_image_is_one_signal_with_its_vulnerabilities() {
    let metadata = json!({
        "OS": {"Family": "alpine", "Name": "3.20"}, "ImageID": CONFIG, "RepoTags": ["mirror.example/web:1", "web:1"],
        "RepoDigests": [format!("mirror.example/web@{CONFIG}"), format!("web@{DIGEST}")],
    });
    let found =
        [vulnerable("CVE-1", "LOW", ""), vulnerable("CVE-2", "CRITICAL", "2"), vulnerable("CVE-2", "CRITICAL", "2")];
    let signals = signals_of(&image_report(&metadata, &found));
    let [signal] = signals.as_slice() else { panic!("one signal") };
    let About::Image { image } = &signal.about else { panic!("an image") };
    assert_eq!(image.reference, "docker.io/library/web:1");
    assert_eq!((image.digest.as_deref(), image.image_id.as_deref()), (Some(DIGEST), Some(CONFIG)));
    assert_eq!(signal.rule, "docker.io/library/web:1");
    assert_eq!((signal.category, signal.severity), (Category::Vulnerability, Severity::Critical));
    let counts = signal.vulnerability_counts.unwrap();
    assert_eq!((counts.critical, counts.low, counts.fixable), (1, 1, 1));
    let worst = &signal.vulnerabilities[0];
    assert_eq!((worst.id.as_str(), worst.package.as_str(), worst.score), ("CVE-2", "openssl", Some(7.5)));
    assert_eq!(signal.details["OS"], json!({"Family": "alpine", "Name": "3.20"}));
    assert_eq!(signal.identity, ["Vulnerability", DIGEST]);
    assert!(signal.detected_at.is_some());
}

#[test]
fn a_report_with_nothing_wrong_gives_nothing() {
    let mut without_results = image_report(&json!({}), &[]);
    without_results.as_object_mut().unwrap().remove("Results");
    let unaffected = json!({"VulnerabilityID": "CVE-1", "Severity": "HIGH", "Status": "not_affected"});
    for report in [
        without_results,
        image_report(&json!({}), &[]),
        image_report(&json!({}), &[unaffected]),
        json!({"SchemaVersion": 2, "ArtifactName": "x", "Results": null}),
        json!({"ClusterName": "", "Resources": null}),
        json!([]),
        json!(null),
    ] {
        assert!(signals_of(&report).iter().all(|signal| signal.resolved), "{report}");
    }
}

#[test]
fn an_archive_is_called_by_its_tag_and_an_image_without_name_by_its_results() {
    let reference = |name: &str, metadata: &Value| {
        let mut report = image_report(metadata, &[vulnerable("CVE-1", "LOW", "")]);
        report["ArtifactName"] = json!(name);
        let About::Image { image } = signals_of(&report).remove(0).about else { panic!("an image") };
        image.reference
    };
    assert_eq!(reference("out/web.tar.gz", &json!({"RepoTags": ["ghcr.io/acme/web:7"]})), "ghcr.io/acme/web:7");
    assert_eq!(reference("out/web.tar", &json!({"Reference": "ghcr.io/acme/web:8"})), "ghcr.io/acme/web:8");
    assert_eq!(
        reference("", &json!({"RepoTags": [""], "RepoDigests": "", "ImageID": CONFIG})),
        "docker.io/library/web:1"
    );
    assert_eq!(reference("", &json!(null)), "docker.io/library/web:1");
    assert_eq!(reference(&format!("ghcr.io/acme/web@{DIGEST}"), &json!({})), "ghcr.io/acme/web");
}

#[test]
fn the_oldest_reports_are_a_list_of_results() {
    let signals = signals_of(&json!([
        {"Target": "web:1 (debian 10.8)", "Type": "debian", "Vulnerabilities": [vulnerable("CVE-1", "UNKNOWN", "")]},
        {"Target": "app.jar", "Vulnerabilities": null},
    ]));
    assert_eq!(signals[0].rule, "docker.io/library/web:1");
    assert_eq!((signals[0].severity, signals[0].vulnerability_counts.unwrap().info), (Severity::Info, 1));
    assert!(refused(r#"[{"Target": "a"}, {"kind": "Pod"}]"#).starts_with("[1].Target: missing"));
}

#[test]
fn failed_checks_are_a_misconfiguration_and_passed_ones_nothing() {
    let check = |id: &str, severity: &str, status: &str| json!({"ID": id, "Severity": severity, "Status": status, "Title": "t"});
    let signals = signals_of(&json!({
        "SchemaVersion": 2, "ArtifactName": "https://me:token@git.example/shop", "ArtifactType": "repository",
        "Results": [{"Target": "Dockerfile", "Class": "config", "Misconfigurations": [
            check("DS-1", "LOW", "PASS"), check("DS-2", "MEDIUM", "FAIL"), check("DS-3", "HIGH", "FAIL"),
            check("DS-4", "CRITICAL", "EXCEPTION"),
        ]}],
    }));
    let [signal] = signals.as_slice() else { panic!("one signal") };
    assert_eq!((signal.category, signal.severity), (Category::Misconfiguration, Severity::High));
    assert_eq!(signal.message, "2 failed checks: DS-3, DS-2");
    assert_eq!(signal.details["Misconfigurations"][0]["Target"], "Dockerfile");
    assert_eq!(signal.rule, "https://git.example/shop");
    assert!(
        matches!(&signal.about, About::Workload { kind, api_version, .. } if kind == "Repository" && api_version.is_empty())
    );
}

#[test]
fn secrets_are_told_without_what_stands_around_them() {
    let signals = signals_of(&json!({
        "SchemaVersion": 2, "ArtifactName": ".", "ArtifactType": "filesystem",
        "Results": [{"Target": "deploy.sh", "Class": "secret", "Secrets": [{
            "RuleID": "aws-access-key-id", "Category": "AWS", "Severity": "CRITICAL", "Title": "AWS key", "StartLine": 3,
            "Match": "key=****", "Code": {"Lines": [{"Content": "password=hunter2"}]},
        }]}],
    }));
    let [signal] = signals.as_slice() else { panic!("one signal") };
    assert_eq!((signal.category, signal.severity), (Category::Secret, Severity::Critical));
    assert_eq!(signal.message, "1 secret: aws-access-key-id in deploy.sh:3");
    assert!(!format!("{signal:?}").contains("hunter2"));
}

#[test]
fn a_report_on_a_cluster_is_about_its_objects_in_every_shape() {
    let results = json!([
        {"Target": "web:1 (debian 12)", "Vulnerabilities": [vulnerable("CVE-1", "HIGH", "")]},
        {"Target": "Deployment/web", "Misconfigurations": [{"ID": "KSV001", "Severity": "MEDIUM", "Status": "FAIL"}]},
    ]);
    let metadata = json!({"RepoTags": ["web:1"], "RepoDigests": [format!("web@{DIGEST}")]});
    for (list, metadata) in [
        ("Resources", metadata.clone()),
        ("Resources", json!([metadata.clone()])),
        ("Findings", metadata),
        ("Vulnerabilities", json!(null)),
    ] {
        let resource =
            json!({"Namespace": "shop", "Kind": "Deployment", "Name": "web", "Metadata": metadata, "Results": results});
        let signals = signals_of(&json!({"ClusterName": "", list: [resource]}));
        assert_eq!(signals.len(), 2);
        let About::Workload { api_version, kind, namespace, name, image, .. } = &signals[0].about else {
            panic!("{list}")
        };
        assert_eq!((api_version.as_str(), kind.as_str()), ("apps/v1", "Deployment"));
        assert_eq!((namespace.as_str(), name.as_str()), ("shop", "web"));
        assert_eq!(image.as_ref().unwrap().reference, "docker.io/library/web:1");
        assert_eq!(signals[0].rule, "shop/Deployment/web");
        assert_ne!(signals[0].identity, signals[1].identity);
    }
}

#[test]
fn an_object_with_several_images_has_none_since_nothing_tells_which() {
    let resource = json!({
        "Namespace": "shop", "Kind": "Pod", "Name": "web-1",
        "Metadata": [{"ImageID": CONFIG, "RepoTags": ["web:1"]}, {"ImageID": DIGEST, "RepoTags": ["proxy:1"]}],
        "Results": [{"Target": "web:1 (debian 12)", "Vulnerabilities": [vulnerable("CVE-1", "HIGH", "")]}],
    });
    let signals = signals_of(&json!({"ClusterName": "c", "Resources": [resource]}));
    assert!(matches!(&signals[0].about, About::Pod { name, image: None, .. } if name == "web-1"));
}

#[test]
fn objects_of_the_whole_cluster_have_no_namespace() {
    let failed =
        json!([{"Target": "x", "Misconfigurations": [{"ID": "KSV041", "Severity": "CRITICAL", "Status": "FAIL"}]}]);
    let signals = signals_of(&json!({"ClusterName": "c", "Findings": [
        {"Kind": "ClusterRole", "Name": "admin", "Results": failed}, {"Kind": "NodeInfo", "Name": "node-1", "Results": failed},
    ]}));
    assert!(matches!(&signals[0].about, About::Workload { namespace, .. } if namespace.is_empty()));
    assert_eq!(signals[1].about, About::Node { name: "node-1".to_owned() });
}

#[test]
fn the_score_is_of_whom_the_severity_is_from() {
    let mut one = vulnerable("CVE-1", "HIGH", "");
    one["CVSS"] = json!({"nvd": {"V3Score": 9.8}, "ghsa": {"V3Score": "8.1"}, "x": null});
    let score =
        |one: &Value| signals_of(&image_report(&json!({}), std::slice::from_ref(one)))[0].vulnerabilities[0].score;
    assert_eq!(score(&one), Some(9.8));
    one["SeveritySource"] = json!("ghsa");
    assert_eq!(score(&one), Some(8.1));
    one["CVSS"] = json!({"redhat": {"V2Score": 4.3}, "bad": {"V3Score": 99}});
    assert_eq!(score(&one), Some(4.3));
}

#[test]
fn other_formats_and_other_tools_are_refused_with_what_is_missing() {
    assert_eq!(refused(r#"{"$schema": "s", "runs": []}"#), "runs: this is SARIF: run trivy with --format json");
    assert_eq!(refused(r#"{"bomFormat": "CycloneDX"}"#), "bomFormat: this is CycloneDX: run trivy with --format json");
    assert!(
        refused(r#"{"rule": "r", "priority": "Error"}"#)
            .starts_with("ArtifactName: missing, as are Results and Resources")
    );
    assert!(refused(r#"{"Findings": [{"Id": "asff"}]}"#).starts_with("Findings[0].Kind: missing"));
    assert_eq!(refused(r#"{"Results": 3}"#), "line 1, column 13: invalid type: integer `3`, expected a list");
    assert_eq!(refused(""), "line 1, column 1: the body is empty, a report of Trivy was expected");
}

#[test]
fn more_objects_with_problems_than_the_limit_are_refused() {
    let failed = json!([{"Target": "x", "Misconfigurations": [{"ID": "KSV041", "Severity": "LOW", "Status": "FAIL"}]}]);
    let resources: Vec<_> =
        (0..=crate::MAX_SIGNALS).map(|i| json!({"Kind": "Role", "Name": format!("r{i}"), "Results": failed})).collect();
    let body = json!({"Resources": resources}).to_string();
    let refused = crate::read(Format::Trivy, body.as_bytes()).unwrap_err();
    assert_eq!(refused.to_string(), "the body: 5001 problems in one body, at most 5000 are taken: send them in parts");
}

#[test]
fn nesting_that_would_overflow_the_stack_is_refused_or_skipped() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}0{}", open.repeat(500_000), close.repeat(500_000));
        let reports = [
            format!(r#"{{"ArtifactName": "x", "Results": [], "Unread": {deep}}}"#),
            format!(r#"{{"ArtifactName": {deep}}}"#),
            format!(r#"{{"Results": {deep}}}"#),
            deep,
        ];
        for report in reports {
            if let Err(unreadable) = read(report.as_bytes()) {
                assert!(unreadable.problem.len() < 250, "{unreadable}");
            }
        }
    }
}

#[test]
fn a_clean_report_ends_what_was_wrong_with_the_image() {
    let metadata = json!({"RepoDigests": [format!("web@{DIGEST}")]});
    let clean = signals_of(&image_report(&metadata, &[])).remove(0);
    let dirty = signals_of(&image_report(&metadata, &[vulnerable("CVE-1", "HIGH", "2")])).remove(0);
    assert!(clean.resolved && !dirty.resolved);
    assert_eq!((&clean.rule, &clean.identity, &clean.about), (&dirty.rule, &dirty.identity, &dirty.about));
}

#[test]
fn several_reports_in_a_body_are_read_one_by_one() {
    let report = image_report(&json!({}), &[vulnerable("CVE-1", "HIGH", "2")]);
    assert_eq!(signals_of(&json!([report, report])).len(), 2);
    let lines = format!("{report}\n{report}\n");
    assert_eq!(read(lines.as_bytes()).unwrap().len(), 2);
    assert!(refused(&format!("{report}\n{{}}")).starts_with("document 2, ArtifactName: missing"));
}

#[test]
fn licenses_that_ask_for_more_than_a_notice_are_found() {
    let report = json!({"ArtifactName": "web:1", "ArtifactType": "container_image", "Results": [{"Target": "OS Packages", "Class": "license", "Licenses": [
        {"Severity": "LOW", "Category": "notice", "PkgName": "a", "Name": "MIT"}, {"Severity": "HIGH", "Category": "restricted", "PkgName": "b", "Name": "GPL-3.0"}]}]});
    let signal = signals_of(&report).remove(0);
    assert_eq!(
        (signal.category, signal.severity, signal.message.as_str()),
        (Category::Compliance, Severity::High, "1 license: GPL-3.0 of b")
    );
}

#[test]
fn the_status_says_whether_there_is_a_fix() {
    let status = |status: &str| {
        let mut one = vulnerable("CVE-1", "HIGH", "");
        one["Status"] = json!(status);
        signals_of(&image_report(&json!({}), &[one])).remove(0).vulnerabilities[0].fix_available
    };
    assert_eq!(
        (status("will_not_fix"), status("under_investigation"), status("fixed")),
        (Some(false), None, Some(true))
    );
}
