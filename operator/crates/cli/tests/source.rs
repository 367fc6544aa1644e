//! `source test` needs no cluster: what it prints, where, and how it ends.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use quell_cli::{Exit, Io, run};
use serde_json::Value;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

async fn quell(arguments: &[&str], input: &str) -> (Exit, String, String) {
    let (out, err) = (Kept::default(), Kept::default());
    let mut io = Io {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(Cursor::new(input.to_owned())),
        colours: false,
        terminal: false,
    };
    let arguments = std::iter::once("kubectl-quell").chain(arguments.iter().copied()).map(OsString::from);
    let exit = run(arguments, &mut io).await;
    (exit, out.text(), err.text())
}

const ALERT: &str = r#"{"hostname":"n","output":"x","priority":"Critical","rule":"Terminal shell in container","source":"syscall",
"time":"2026-11-21T03:12:45.000000000Z","output_fields":{"k8s.ns.name":"shop","k8s.pod.name":"web-1","container.id":"0123456789ab"}}"#;

const REPORT: &str = "\
apiVersion: aquasecurity.github.io/v1alpha1
kind: VulnerabilityReport
metadata:
  name: replicaset-web-1-app
  namespace: shop
  labels:
    trivy-operator.container.name: app
    trivy-operator.resource.kind: ReplicaSet
    trivy-operator.resource.name: web-1
    trivy-operator.resource.namespace: shop
report:
  artifact: {repository: library/nginx, tag: '1.16'}
  registry: {server: index.docker.io}
  scanner: {name: Trivy, vendor: Aqua Security, version: 0.72.0}
  summary: {criticalCount: 1, highCount: 0, lowCount: 0, mediumCount: 0, unknownCount: 0}
  vulnerabilities:
    - {vulnerabilityID: CVE-2019-20367, resource: libbsd0, installedVersion: 0.9.1-2, fixedVersion: '', severity: CRITICAL, title: ''}
";

#[tokio::test]
async fn an_alert_from_standard_input_is_one_finding_on_one_line() {
    let (exit, out, err) = quell(&["source", "test", "--format", "falco", "-"], ALERT).await;
    assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
    assert_eq!(out.lines().count(), 1, "{out}");
    let finding: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(finding["kind"], "Finding");
    assert_eq!(finding["metadata"]["namespace"], "shop");
    assert_eq!(finding["spec"]["rule"], "Terminal shell in container");
}

#[tokio::test]
async fn what_can_not_be_read_is_said_with_its_place_and_the_other_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("broken.json"), "{\"rule\": ").unwrap();
    std::fs::write(path("good.json"), ALERT).unwrap();
    let files = [path("missing.json"), path("broken.json"), path("good.json")];
    let (exit, out, err) = quell(&["source", "test", "--format", "falco", &files[0], &files[1], &files[2]], "").await;
    assert_eq!(exit, Exit::Failed);
    assert_eq!(out.lines().count(), 1, "{out}");
    let told: Vec<&str> = err.lines().collect();
    assert_eq!(told.len(), 2, "{err}");
    assert!(told[0].starts_with(&format!("{}: can't be read: ", files[0])), "{err}");
    assert!(told[1].starts_with(&format!("{}: line 1, column", files[1])), "{err}");
}

#[tokio::test]
async fn a_report_may_be_yaml_with_several_documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reports.yaml").display().to_string();
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    std::fs::write(&path, format!("{REPORT}---\n{other}")).unwrap();
    let (exit, out, err) = quell(&["source", "test", "--format", "trivy-operator", &path], "").await;
    assert_eq!(exit, Exit::Failed);
    assert!(err.starts_with(&format!("{path}: document 2, kind: ConfigMap of v1 is not read")), "{err}");
    let finding: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(finding["spec"]["vulnerabilities"][0]["id"], "CVE-2019-20367");
    let (exit, piped, _) = quell(&["source", "test", "--format", "trivy-operator", "-"], REPORT).await;
    assert_eq!((exit, piped), (Exit::Ok, out));
}

#[tokio::test]
async fn nothing_wrong_is_no_finding_and_no_error() {
    let clean = REPORT.split("  vulnerabilities:").next().unwrap().replace("criticalCount: 1", "criticalCount: 0");
    let clean = format!("{clean}  vulnerabilities: []\n");
    let (exit, out, err) = quell(&["source", "test", "--format", "trivy-operator", "-"], &clean).await;
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Ok, "", ""));
}

#[tokio::test]
async fn what_is_packed_is_unpacked_and_what_is_cut_short_is_said() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(ALERT.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("alerts.json.gz"), &packed).unwrap();
    std::fs::write(path("short.gz"), &packed[..packed.len() / 2]).unwrap();
    let (exit, out, err) =
        quell(&["source", "test", "--format", "falco", &path("alerts.json.gz"), &path("short.gz")], "").await;
    assert_eq!((exit, out.lines().count()), (Exit::Failed, 1));
    assert!(err.contains("short.gz: begins as gzip, and can't be unpacked"), "{err}");
}

#[tokio::test]
async fn what_is_reported_twice_is_one_finding_with_a_count() {
    let lines = format!("{ALERT}\n{ALERT}\n{}", ALERT.replace("Terminal shell in container", "another"));
    let (_, out, _) = quell(&["source", "test", "--format", "falco", "-"], &lines).await;
    let counts: Vec<Value> =
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["status"]["count"].clone()).collect();
    assert_eq!(counts, [Value::from(2), Value::Null]);
}

#[tokio::test]
async fn a_resolved_alert_makes_no_finding() {
    let alert = r#"{"receiver":"a","status":"resolved","alerts":[{"status":"resolved","labels":{"alertname":"A"}}]}"#;
    let (exit, out, err) = quell(&["source", "test", "--format", "alertmanager", "-"], alert).await;
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Ok, "", ""));
}

#[tokio::test]
async fn a_line_of_text_is_told_apart_from_yaml() {
    let (exit, _, err) =
        quell(&["source", "test", "--format", "falco", "-"], "17:03:22.123: Warning A shell was spawned\n").await;
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("set json_output: true in falco.yaml"), "{err}");
    let deep = format!("a: {}", "[".repeat(10_000));
    let (exit, _, err) = quell(&["source", "test", "--format", "policyreport", "-"], &deep).await;
    assert!(exit == Exit::Failed && err.lines().count() == 1, "{err}");
}

#[tokio::test]
async fn what_is_in_a_cloud_event_of_another_type_can_be_said() {
    let event = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":{ALERT}}}"#);
    let arguments = ["source", "test", "--format", "cloudevents", "-"];
    assert_eq!(quell(&arguments, &event).await, (Exit::Ok, String::new(), String::new()));
    let (_, out, _) = quell(&[&arguments[..], &["--data-format", "falco"]].concat(), &event).await;
    assert_eq!(out.lines().count(), 1);
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_help_with_0() {
    for arguments in [&["get", "--nope"][..], &["source", "test", "--format", "nosuch", "x"], &["undo"], &[]] {
        let (exit, out, err) = quell(arguments, "").await;
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{arguments:?}");
        assert!(!err.is_empty());
    }
    let (exit, out, _) = quell(&["plan", "--help"], "").await;
    assert!(exit == Exit::Ok && out.contains("Examples:"), "{out}");
    let (exit, out, _) = quell(&["version"], "").await;
    assert_eq!((exit, out), (Exit::Ok, format!("kubectl-quell {}\n", env!("CARGO_PKG_VERSION"))));
}

const MAPPING: &str = "\
apiVersion: quell.dev/v1alpha1
kind: Source
metadata: {name: acme}
spec:
  webhook: {bearerToken: {secret: {name: acme, key: token}}}
  mapping:
    forEach: body.violations
    rule: item.check
    severity: item.level
    message: item.?text
    target: {namespace: item.ns, name: item.pod}
    fingerprint: [item.check]
";

#[tokio::test]
async fn a_mapping_of_ones_own_reads_any_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.yaml").display().to_string();
    std::fs::write(&path, MAPPING).unwrap();
    let body = r#"{"violations": [{"check": "root-user", "level": "sev2", "ns": "shop", "pod": "web-1", "text": "runs as root"}]}"#;
    let (exit, out, err) = quell(&["source", "test", "--mapping", &path, "-"], body).await;
    assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
    let finding: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&finding["spec"]["source"], &finding["spec"]["severity"]),
        (&Value::from("acme"), &Value::from("High"))
    );
    assert_eq!(
        (&finding["metadata"]["namespace"], &finding["spec"]["target"]["kind"]),
        (&Value::from("shop"), &Value::from("Pod"))
    );
    let (exit, out, err) = quell(&["source", "test", "--mapping", &path, "-"], &body.replace("sev2", "spicy")).await;
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.starts_with("standard input: item 0, severity: `spicy` is no severity"), "{err}");
}

#[tokio::test]
async fn a_mapping_that_can_not_be_used_is_said_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.yaml").display().to_string();
    for (from, to, said) in [
        ("item.check\n    severity", "item.check +\n    severity", "spec.mapping.rule: "),
        ("severity:", "severty:", "spec.mapping.severty: there is no such field"),
        ("item.pod", "pod.name", "spec.mapping.target.name: "),
        ("kind: Source", "kind: Pod", "one document of quell.dev and kind Source was expected"),
        ("  mapping:", "  format: falco\n  mapping:", "spec: give one of format and mapping"),
    ] {
        let changed = MAPPING.replacen(from, to, 1);
        assert_ne!(changed, MAPPING);
        std::fs::write(&path, changed).unwrap();
        let (exit, _, err) = quell(&["source", "test", "--mapping", &path, "-"], "{}").await;
        assert!(exit == Exit::Failed && err.contains(&format!("{path}: {said}")), "{err}");
    }
    let (exit, ..) = quell(&["source", "test", "--mapping", &path, "--format", "falco", "-"], "{}").await;
    assert_eq!(exit, Exit::Usage);
}
