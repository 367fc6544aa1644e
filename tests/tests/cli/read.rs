//! `get`, `explain`, `watch`.

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use quell_cli::{Exit, run};
use quell_crds::v1alpha1::{Finding, Playbook, Severity};
use quell_tests::wait::{self, DEADLINE};
use serde_json::{Value, json};

use crate::bed::{Bed, io};

#[tokio::test]
async fn get_prints_what_is_wrong_and_what_was_done_in_every_form() -> Result<()> {
    let bed = Bed::new("cli-get").await?;
    bed.quell(&["get"], "").await.expect(Exit::Ok, &["No findings in the namespace cli-get-"])?;
    let (_, finding) = bed.finding("falco-0a1b2c3d4e").await?;
    bed.run_for(&finding).await?;
    let table = bed.quell(&["get"], "").await;
    table.expect(Exit::Ok, &["NAME", "SEVERITY", "DONE", "falco-0a1b2c3d4e", "Critical", "cut, back failed"])?;
    assert!(table.out.lines().all(|line| line.chars().count() <= 120), "{table}");
    bed.quell(&["get", "-o", "wide"], "").await.expect(Exit::Ok, &["IMAGE", "registry.example/app:1.0"])?;
    let name = bed.quell(&["get", "falco-0a1b2c3d4e", "-o", "name"], "").await;
    assert_eq!(name.out, "finding.quell.dev/falco-0a1b2c3d4e\n");
    let list: Value = serde_json::from_str(&bed.quell(&["get", "-o", "json"], "").await.out)?;
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("List"), &json!("Finding")));
    let yaml = bed.quell(&["get", "finding/falco-0a1b2c3d4e", "-o", "yaml"], "").await;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml.out)?["spec"]["rule"], "Reverse shell");
    bed.quell(&["get", "falco-0a1b2c3d4e"], "").await.expect(Exit::Ok, &["Run", "(Failed): cut, back failed"])?;
    let piped = bed.quell_piped(&["get", "-A"]).await;
    piped.expect(Exit::Ok, &["NAMESPACE", bed.namespace.name(), "cut, back failed"])?;
    assert!(!piped.out.contains('…'), "another program gets every value whole: {piped}");
    let everywhere = bed.quell(&["get", "-A"], "").await;
    everywhere.expect(Exit::Ok, &["NAMESPACE"])?;
    assert!(everywhere.out.lines().all(|line| line.chars().count() <= 120), "{everywhere}");
    Ok(())
}

#[tokio::test]
async fn a_finding_that_is_not_there_is_answered_with_the_ones_that_may_be_meant() -> Result<()> {
    let bed = Bed::new("cli-near").await?;
    bed.finding_about("falco-0a1b2c3d4e", "u").await?;
    let missing = bed.quell(&["explain", "falco-0a1b2c3d4f"], "").await;
    missing.expect(
        Exit::Failed,
        &["error: there is no Finding falco-0a1b2c3d4f in the namespace", "is it falco-0a1b2c3d4e?"],
    )?;
    let other = Bed::new("cli-far").await?;
    let name = format!("falco-{}", bed.namespace.name());
    bed.finding_about(&name, "u").await?;
    let hint = format!("add -n {}", bed.namespace.name());
    other.quell(&["explain", &name], "").await.expect(Exit::Failed, &[&hint])
}

#[tokio::test]
async fn explain_tells_what_was_done_what_was_not_and_why() -> Result<()> {
    let bed = Bed::new("cli-explain").await?;
    let (pod, finding) = bed.finding("falco-explained").await?;
    bed.run_for(&finding).await?;
    for (name, matcher) in
        [("scans-only", json!({"sources": ["trivy"]})), ("broken", json!({"when": "findin.rule == 'x'"}))]
    {
        let playbook: Playbook = serde_json::from_value(json!({
            "apiVersion": "quell.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": name},
            "spec": {"match": matcher, "steps": [{"name": "cut", "quarantine": {}}]},
        }))?;
        bed.namespace.create_object(&playbook).await?;
    }
    let uid = pod.uid().context("no UID")?;
    let namespace = bed.namespace.name();
    let told = bed.quell(&["explain", "finding/falco-explained"], "").await;
    told.expect(
        Exit::Ok,
        &[
            "Reverse shell",
            &uid,
            "the pod is there, not under quarantine",
            "ClusterPlaybook contain (generation 3), as Quell: Failed",
            "✓ cut (quarantine): Succeeded  2026-11-21 03:12:46 UTC",
            "back (contain): failed, TargetUnsupported: a pod is no Deployment",
            "Playbook scans-only: its source is falco, the playbook is for trivy",
            "Playbook broken: not Ready: spec.match.when: `findin.rule == 'x'` names `findin`",
            &format!("kubectl edit -n {namespace} playbook/broken"),
            &format!("kubectl quell undo -n {namespace} falco-explained"),
        ],
    )
}

#[tokio::test]
async fn explain_tells_what_else_is_open_on_the_pod_the_worst_first() -> Result<()> {
    let bed = Bed::new("cli-beside").await?;
    let (pod, finding) = bed.finding("falco-explained").await?;
    let uid = pod.uid().context("no UID")?;
    bed.finding_about("falco-worse", &uid).await?;
    for (name, resolved) in [("falco-mild", false), ("falco-over", true)] {
        let mut spec = finding.spec.clone();
        (spec.severity, spec.fingerprint) = (Severity::Low, name.to_owned());
        bed.namespace.create_object(&Finding::new(name, spec)).await?;
        if resolved {
            let over = json!({"status": {"state": "Resolved", "resolvedAt": "2026-11-21T03:12:45Z"}});
            let findings = bed.namespace.api::<Finding>();
            findings.patch_status(name, &PatchParams::default(), &Patch::Merge(over)).await?;
        }
    }
    let told = bed.quell(&["explain", "falco-explained"], "").await;
    let beside = "What else is open there\n  Critical falco-worse: Reverse shell (Open, source falco)\n  Low falco-mild: Reverse shell (Open, source falco)\n\n";
    told.expect(Exit::Ok, &[beside])
}

#[tokio::test]
async fn watch_begins_with_what_is_open_and_goes_on_until_the_runs_have_ended() -> Result<()> {
    let bed = Bed::new("cli-watch").await?;
    let (_, finding) = bed.finding("falco-watched").await?;
    let (mut io, out, _) = io("");
    let arguments = bed.arguments(&["watch", "--until-final", "falco-watched"]);
    let watching = tokio::spawn(async move { run(arguments, &mut io).await });
    let says = async |text: &str| {
        wait::eventually(DEADLINE, text, async || {
            ensure!(out.text().contains(text), "{}", out.text());
            Ok(Some(()))
        })
        .await
    };
    says("1 open:").await?;
    says("/falco-watched  Open, Critical Reverse shell on Pod").await?;
    bed.run_for(&finding).await?;
    says("matched by contain").await?;
    says("contained by cut: pod web-1 is cut off").await?;
    says("back failed (TargetUnsupported): a pod is no Deployment").await?;
    let failed = json!({"status": {"state": "Failed", "count": 1}});
    bed.namespace
        .api::<Finding>()
        .patch_status("falco-watched", &PatchParams::default(), &Patch::Merge(failed))
        .await?;
    assert_eq!(tokio::time::timeout(DEADLINE, watching).await??, Exit::Failed);
    Ok(())
}
