//! The API server's own audit log, as its webhook would send it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use quell_crds::v1alpha1::{Finding, Severity, Source};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::operator::{TOKEN, source_spec};
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, wait};

use crate::support::{DEADLINE, apply};

/// The only Finding about the pod.
async fn finding(namespace: &TestNamespace, pod: &str) -> Result<Finding> {
    let all: Api<Finding> = namespace.api();
    let all = all.list(&ListParams::default()).await?.items;
    let mut about = all.into_iter().filter(|one| one.spec.target.kind == "Pod" && one.spec.target.name == pod);
    let one = about.next().with_context(|| format!("there is no Finding about {pod}"))?;
    ensure!(about.next().is_none(), "there are several Findings about {pod}");
    Ok(one)
}

/// A control plane of its own, which keeps an audit log.
#[tokio::test]
async fn what_pod_security_only_notes_and_what_it_turns_away_are_findings_of_the_audit_log() -> Result<()> {
    let control_plane = ControlPlane::start(Options { audit: true, ..Options::default() }).await?;
    let operator = Operator::start(Path::new(env!("CARGO_BIN_EXE_quell")), &control_plane, &[]).await?;
    let sources: Api<Source> = Api::all(control_plane.client().await?);
    apply(&sources, "Source", "k8s-audit", &source_spec("k8s-audit")).await?;
    let labelled = async |prefix: &str, mode: &str| {
        let label = format!("pod-security.kubernetes.io/{mode}");
        TestNamespace::create_with_labels(&control_plane, prefix, &[(&label, "restricted")]).await
    };
    let (noted, denied) = (labelled("noted", "audit").await?, labelled("denied", "enforce").await?);
    let bare = |name: &str| -> Pod { pod(name).image("registry.example/shop:1.0") };
    noted.create_object(&bare("let-in")).await?;
    let refused = is_forbidden(denied.create_object(&bare("kept-out")).await);
    ensure!(refused, "Pod Security let a pod in that it should not");

    // The log is written beside the answer.
    let log = wait::eventually(DEADLINE, "both requests are in the audit log", async || {
        let log = tokio::fs::read_to_string(control_plane.audit_log()).await?;
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let has =
            |pod: &str| whole.lines().any(|line| line.contains(pod) && line.contains("pod-security.kubernetes.io"));
        Ok((has("let-in") && has("kept-out")).then(|| whole.to_owned()))
    })
    .await?;
    wait::eventually(DEADLINE, "the log is taken in", async || {
        let answer = operator.post_text("k8s-audit", &log, Some(TOKEN)).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(Some(()))
    })
    .await?;
    let one = finding(&noted, "let-in").await?;
    assert_eq!((one.spec.rule.as_str(), one.spec.severity), ("PodSecurity audit", Severity::Low));
    assert!(one.spec.message.contains("allowPrivilegeEscalation"), "{}", one.spec.message);
    let one = finding(&denied, "kept-out").await?;
    assert_eq!((one.spec.rule.as_str(), one.spec.severity), ("PodSecurity restricted", Severity::Medium));
    control_plane.stop().await
}

fn is_forbidden<T>(answer: Result<T>) -> bool {
    let error = answer.err().and_then(|error| error.downcast::<kube::Error>().ok());
    matches!(error, Some(kube::Error::Api(status)) if status.is_forbidden())
}
