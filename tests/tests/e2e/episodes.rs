//! What ends a Finding, and what begins it anew.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use quell_crds::conditions::ConditionType;
use quell_crds::v1alpha1::{Finding, FindingState, Phase, Remediation, Severity, Source};
use quell_tests::fixtures::{PodCarrier as _, deployment};
use quell_tests::operator::Answer;
use quell_tests::{ControlPlane, crds, trivy_operator, wait};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply, condition, is_quarantined, quarantine};

/// A notification as Alertmanager sends it, about a pod of this namespace.
fn notification(bed: &Bed, pod: &str, status: &str, severity: &str) -> Value {
    json!({
        "version": "4", "groupKey": "{}:{}", "status": status, "receiver": "quell", "groupLabels": {}, "commonLabels": {},
        "commonAnnotations": {}, "externalURL": "http://alertmanager.example", "truncatedAlerts": 0,
        "alerts": [{
            "status": status, "fingerprint": "0badc0de0badc0de", "startsAt": "2026-01-01T00:00:00Z",
            "endsAt": if status == "resolved" { "2026-01-01T00:05:00Z" } else { "0001-01-01T00:00:00Z" },
            "generatorURL": "", "annotations": { "summary": "a miner" },
            "labels": { "alertname": "Miner", "severity": severity, "namespace": bed.name(), "pod": pod },
        }],
    })
}

async fn notify(bed: &Bed, pod: &str, status: &str) -> Result<Answer> {
    notify_as(bed, pod, status, "critical").await
}

async fn notify_as(bed: &Bed, pod: &str, status: &str, severity: &str) -> Result<Answer> {
    let answer = bed.operator.post("alertmanager", &notification(bed, pod, status, severity)).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(answer)
}

async fn fire(bed: &Bed, pod: &str) -> Result<String> {
    Ok(notify(bed, pod, "firing").await?.finding()?.1)
}

fn of_alertmanager() -> Value {
    json!({ "sources": ["alertmanager"] })
}

async fn pod_is_quarantined(bed: &Bed, pod: &Pod) -> Result<bool> {
    let pods: Api<Pod> = bed.namespace.api();
    Ok(is_quarantined(&pods.get(&pod.name_any()).await?))
}

async fn runs(bed: &Bed) -> Result<Vec<Remediation>> {
    let runs: Api<Remediation> = bed.namespace.api();
    let mut runs = runs.list(&ListParams::default()).await?.items;
    runs.sort_by_key(|run| run.spec.finding.episode);
    Ok(runs)
}

#[tokio::test]
async fn a_resolved_alert_ends_its_finding_and_what_was_done_is_undone_where_the_playbook_says_so() -> Result<()> {
    let bed = Bed::new("resolved").await?;
    bed.playbook_with(bed.name(), of_alertmanager(), quarantine(), json!({ "undo": { "onResolved": true } })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = fire(&bed, &pod.name_any()).await?;
    bed.finding_in(&finding, FindingState::Remediated).await?;
    assert!(pod_is_quarantined(&bed, &pod).await?);

    let answer = notify(&bed, &pod.name_any(), "resolved").await?;
    assert_eq!(answer.body["findings"][0]["resolved"], json!(true), "{}", answer.body);
    assert_eq!(answer.finding()?.1, finding);
    bed.run_in(&finding, Phase::Undone).await?;
    assert!(!pod_is_quarantined(&bed, &pod).await?);
    let resolved = bed.finding_in(&finding, FindingState::Resolved).await?;
    let (status, reason, _) = condition(&resolved, ConditionType::Resolved).expect("Resolved");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NoLongerReported"));
    let status = resolved.status.unwrap_or_default();
    assert!(status.resolved_at.is_some());
    assert_eq!((status.count, status.episode), (1, 1));
    bed.event(&finding, "NoLongerReported").await?;
    bed.finish().await
}

#[tokio::test]
async fn what_was_done_stands_after_the_alert_is_resolved_where_the_playbook_does_not_say_otherwise() -> Result<()> {
    let bed = Bed::new("stands").await?;
    bed.playbook(of_alertmanager(), quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = fire(&bed, &pod.name_any()).await?;
    bed.finding_in(&finding, FindingState::Remediated).await?;
    notify(&bed, &pod.name_any(), "resolved").await?;
    bed.finding_in(&finding, FindingState::Resolved).await?;
    let run = bed.run_in(&finding, Phase::Succeeded).await?;
    assert!(pod_is_quarantined(&bed, &pod).await?);
    bed.undo(&run.name_any()).await?;
    bed.run_in(&finding, Phase::Undone).await?;
    bed.finding_in(&finding, FindingState::Resolved).await?;
    bed.finish().await
}

#[tokio::test]
async fn what_comes_back_is_a_new_episode_of_the_same_finding_with_a_run_of_its_own() -> Result<()> {
    let bed = Bed::new("episode").await?;
    bed.playbook_with(bed.name(), of_alertmanager(), quarantine(), json!({ "undo": { "onResolved": true } })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = fire(&bed, &pod.name_any()).await?;
    let first = bed.finding_in(&finding, FindingState::Remediated).await?;
    for episode in 2..=3 {
        notify(&bed, &pod.name_any(), "resolved").await?;
        bed.finding_in(&finding, FindingState::Resolved).await?;
        // At once: what the run before undoes is waited for by Quell, not by the sender.
        assert_eq!(fire(&bed, &pod.name_any()).await?, finding);
        let what = format!("episode {episode} remediated");
        let again = wait::until_present(&bed.findings(), &finding, &what, DEADLINE, |finding| {
            let status = finding.status.clone().unwrap_or_default();
            status.episode == episode && status.state == Some(FindingState::Remediated)
        })
        .await?;
        assert!(pod_is_quarantined(&bed, &pod).await?);
        assert_eq!(
            (&again.metadata.uid, again.creation_timestamp()),
            (&first.metadata.uid, first.creation_timestamp())
        );
        let (status, reason, _) = condition(&again, ConditionType::Resolved).expect("Resolved");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "ReportedAgain"));
        let status = again.status.unwrap_or_default();
        assert_eq!((status.count, status.resolved_at), (episode, None));
        let runs = runs(&bed).await?;
        let phases: Vec<_> = runs
            .iter()
            .map(|run| (run.spec.finding.episode, run.status.as_ref().map(|status| status.phase).unwrap_or_default()))
            .collect();
        let expected: Vec<_> =
            (1..=episode).map(|of| (of, if of == episode { Phase::Succeeded } else { Phase::Undone })).collect();
        assert_eq!(phases, expected);
    }
    bed.event(&finding, "ReportedAgain").await?;
    bed.finish().await
}

#[tokio::test]
async fn a_run_that_still_goes_on_when_an_alert_comes_back_is_not_begun_a_second_time() -> Result<()> {
    let bed = Bed::new("goes-on").await?;
    let steps = json!([{ "name": "contain", "quarantine": {} }, { "name": "think", "wait": { "for": "1h" } }]);
    bed.playbook(of_alertmanager(), steps).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = fire(&bed, &pod.name_any()).await?;
    let run = bed.run_in(&finding, Phase::Running).await?.name_any();
    notify(&bed, &pod.name_any(), "resolved").await?;
    bed.finding_in(&finding, FindingState::Resolved).await?;
    fire(&bed, &pod.name_any()).await?;
    let is_of_both = |finding: &Finding| {
        let status = finding.status.clone().unwrap_or_default();
        status.episode == 2 && status.remediations.iter().any(|one| one.name == run && one.episode == 2)
    };
    wait::until_present(&bed.findings(), &finding, "the run is for episode 2", DEADLINE, is_of_both).await?;
    bed.ask(&run, json!({ "intent": "Cancel" })).await?;
    bed.run_in(&finding, Phase::Cancelled).await?;
    bed.finding_in(&finding, FindingState::Cancelled).await?;
    assert_eq!(runs(&bed).await?.len(), 1);

    // The next episode has one of its own.
    notify(&bed, &pod.name_any(), "resolved").await?;
    bed.finding_in(&finding, FindingState::Resolved).await?;
    fire(&bed, &pod.name_any()).await?;
    wait::eventually(DEADLINE, "a second run", async || {
        Ok((runs(&bed).await?.iter().map(|run| run.spec.finding.episode).eq([1, 3])).then_some(()))
    })
    .await?;
    bed.finish().await
}

#[tokio::test]
async fn an_alert_is_resolved_whose_pod_is_gone_by_then() -> Result<()> {
    let bed = Bed::new("gone-by-then").await?;
    let pod = bed.shop("registry.example/shop:1.0").await?.name_any();
    let finding = fire(&bed, &pod).await?;
    bed.finding_in(&finding, FindingState::Open).await?;
    let pods: Api<Pod> = bed.namespace.api();
    pods.delete(&pod, &DeleteParams::default().grace_period(0)).await?;
    wait::gone(&pods, &pod, DEADLINE).await?;
    notify(&bed, &pod, "resolved").await?;
    bed.finding_in(&finding, FindingState::Resolved).await?;
    bed.finish().await
}

#[tokio::test]
async fn what_was_contained_and_is_over_before_anybody_looked_is_undone_as_well() -> Result<()> {
    let bed = Bed::new("at-once").await?;
    bed.playbook_with(bed.name(), of_alertmanager(), quarantine(), json!({ "undo": { "onResolved": true } })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = fire(&bed, &pod.name_any()).await?;
    notify(&bed, &pod.name_any(), "resolved").await?;
    bed.finding_in(&finding, FindingState::Resolved).await?;
    let settled = async || {
        let runs = runs(&bed).await?;
        let undone = |run: &Remediation| run.status.as_ref().is_some_and(|status| status.phase == Phase::Undone);
        ensure!(runs.iter().all(undone), "the runs are {runs:#?}");
        ensure!(!pod_is_quarantined(&bed, &pod).await?, "the pod is under quarantine");
        Ok(Some(()))
    };
    wait::eventually(DEADLINE, "the pod is not under quarantine", settled).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_signal_that_something_is_over_that_never_was_makes_nothing() -> Result<()> {
    let bed = Bed::new("never-was").await?;
    let answer = notify(&bed, "web", "resolved").await?;
    assert_eq!(answer.body, json!({ "findings": [] }));
    assert_eq!(bed.findings().list(&ListParams::default()).await?.items.len(), 0);
    bed.finish().await
}

#[tokio::test]
async fn what_gets_worse_is_written_before_its_sender_is_answered_and_playbooks_are_asked_again() -> Result<()> {
    let bed = Bed::new("worse").await?;
    let critical = json!({ "sources": ["alertmanager"], "minSeverity": "Critical" });
    bed.playbook(critical, quarantine()).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = notify_as(&bed, &pod.name_any(), "firing", "warning").await?.finding()?.1;
    let mild = bed.finding_in(&finding, FindingState::Open).await?;
    assert_eq!(mild.spec.severity, Severity::Medium);
    fire(&bed, &pod.name_any()).await?;
    assert_eq!(bed.findings().get(&finding).await?.spec.severity, Severity::Critical);
    bed.finding_in(&finding, FindingState::Remediated).await?;
    assert!(pod_is_quarantined(&bed, &pod).await?);

    // That it is not as bad any more is no hurry, and changes nothing of what was done.
    notify_as(&bed, &pod.name_any(), "firing", "info").await?;
    let better = |finding: &Finding| finding.spec.severity == Severity::Info;
    wait::until_present(&bed.findings(), &finding, "less severe", DEADLINE, better).await?;
    let counted = |finding: &Finding| finding.status.as_ref().is_some_and(|status| status.count == 3);
    let after = wait::until_present(&bed.findings(), &finding, "counted", DEADLINE, counted).await?;
    assert_eq!(after.status.and_then(|status| status.state), Some(FindingState::Remediated));
    bed.run_in(&finding, Phase::Succeeded).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_report_that_lists_other_vulnerabilities_changes_what_the_finding_says() -> Result<()> {
    let bed = Bed::new("relisted").await?;
    let image = format!("registry.example/{}:1.0", bed.name());
    bed.shop(&image).await?;
    let report = |ids: &[&str]| {
        let one = |id: &&str| json!({ "VulnerabilityID": id, "PkgName": "openssl", "InstalledVersion": "3", "Severity": "HIGH" });
        json!({
            "SchemaVersion": 2, "CreatedAt": "2026-01-01T00:00:00Z", "ArtifactName": image, "ArtifactType": "container_image",
            "Metadata": { "OS": { "Family": "debian", "Name": "12.5" }, "RepoTags": [image] },
            "Results": [{ "Target": "os", "Class": "os-pkgs", "Type": "debian",
                "Vulnerabilities": ids.iter().map(one).collect::<Vec<_>>() }],
        })
    };
    let ids = |finding: &Finding| finding.spec.vulnerabilities.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    let finding = bed.operator.post("trivy", &report(&["CVE-2026-1", "CVE-2026-2"])).await?.finding()?.1;
    assert_eq!(ids(&bed.findings().get(&finding).await?), ["CVE-2026-1", "CVE-2026-2"]);
    bed.finding_in(&finding, FindingState::Open).await?;
    bed.operator.post("trivy", &report(&["CVE-2026-2"])).await?;
    let changed = |finding: &Finding| ids(finding) == ["CVE-2026-2"];
    let changed = wait::until_present(&bed.findings(), &finding, "the other list", DEADLINE, changed).await?;
    assert_eq!(changed.spec.vulnerability_counts.map(|counts| counts.high), Some(1));
    assert!(changed.spec.message.starts_with("1 vulnerability"), "{}", changed.spec.message);
    bed.finish().await
}

#[tokio::test]
async fn a_report_without_vulnerabilities_ends_the_findings_of_all_workloads_that_had_the_image() -> Result<()> {
    let bed = Bed::new("clean").await?;
    let image = format!("registry.example/{}:1.0", bed.name());
    bed.shop(&image).await?;
    bed.namespace.create_object(&deployment("stall").image(&image)).await?;
    wait::rolled_out(&bed.namespace.api::<Deployment>(), "stall", DEADLINE).await?;
    let report = |vulnerabilities: Value| {
        json!({
            "SchemaVersion": 2, "CreatedAt": "2026-01-01T00:00:00Z", "ArtifactName": image, "ArtifactType": "container_image",
            "Metadata": { "OS": { "Family": "debian", "Name": "12.5" }, "RepoTags": [image] },
            "Results": [{ "Target": "os", "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": vulnerabilities }],
        })
    };
    let found = json!([{ "VulnerabilityID": "CVE-2026-0001", "PkgName": "openssl", "InstalledVersion": "3.0.1", "Severity": "HIGH" }]);
    bed.operator.post("trivy", &report(found)).await?;
    let states = async || {
        let all = bed.findings().list(&ListParams::default()).await?.items;
        Ok::<_, anyhow::Error>(
            all.into_iter().map(|one| one.status.and_then(|status| status.state)).collect::<Vec<_>>(),
        )
    };
    let all_are = |state: FindingState| {
        wait::eventually(DEADLINE, "the state of both", async move || {
            let states = states().await?;
            ensure!(states == [Some(state), Some(state)], "they are {states:?}");
            Ok(Some(()))
        })
    };
    all_are(FindingState::Open).await?;
    // By now one of them runs it no longer.
    let deployments: Api<Deployment> = bed.namespace.api();
    deployments.delete("stall", &DeleteParams::foreground()).await?;
    wait::gone(&deployments, "stall", DEADLINE).await?;
    let answer = bed.operator.post("trivy", &report(json!([]))).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    all_are(FindingState::Resolved).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_watched_report_that_changes_changes_its_finding_and_one_that_is_clean_ends_it() -> Result<()> {
    let bed = Bed::new("watched").await?;
    crds::install_these(ControlPlane::shared().await?, vec![trivy_operator::vulnerability_reports()?]).await?;
    let sources: Api<Source> = Api::all(bed.namespace.client().clone());
    apply(&sources, "Source", "trivy-operator", &json!({ "format": "trivy-operator", "watch": {} })).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let owner = pod.owner_references().first().expect("a ReplicaSet").name.clone();
    let report = async |severities: &[&str]| {
        let one =
            |(number, severity): (usize, &&str)| trivy_operator::vulnerability(&format!("CVE-2026-{number}"), severity);
        let all: Vec<Value> = severities.iter().enumerate().map(one).collect();
        bed.namespace.put(&trivy_operator::vulnerability_report(bed.name(), ("ReplicaSet", &owner), &all)).await
    };
    let finding_is = async |what: &str, is: &dyn Fn(&Finding) -> bool| {
        wait::eventually(DEADLINE, what, async || {
            let all = bed.findings().list(&ListParams::default()).await?.items;
            ensure!(all.len() <= 1, "there are {}", all.len());
            Ok(all.into_iter().find(|finding| is(finding)))
        })
        .await
    };
    report(&["HIGH"]).await?;
    let found = finding_is("found", &|finding| finding.spec.vulnerabilities.len() == 1).await?;
    assert_eq!(found.spec.severity, Severity::High);
    report(&["CRITICAL", "LOW"]).await?;
    let worse = finding_is("worse", &|finding| finding.spec.severity == Severity::Critical).await?;
    assert_eq!(worse.spec.vulnerabilities.len(), 2);
    report(&["LOW"]).await?;
    finding_is("better", &|finding| finding.spec.severity == Severity::Low).await?;
    report(&[]).await?;
    bed.finding_in(&found.name_any(), FindingState::Resolved).await?;
    // As bad as before, and other ones: what comes back says what is there now.
    report(&["LOW", "LOW"]).await?;
    let back = bed.finding_in(&found.name_any(), FindingState::Open).await?;
    assert_eq!(back.spec.vulnerabilities.len(), 2);
    assert_eq!(back.status.map(|status| status.episode), Some(2));
    bed.finish().await
}
