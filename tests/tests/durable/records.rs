//! What is written down: the audit trail, and how long records are kept.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use kube::api::{Api, ListParams, Patch, PatchParams};
use quell_cli::{Exit, Io};
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, Phase, Remediation};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::{Gate, Operator, wait};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply};

async fn playbook(bed: &Bed, names: &[&str]) -> Result<()> {
    let spec = json!({ "match": { "sources": ["falco"] }, "steps": [{ "name": "contain", "quarantine": {} }] });
    apply(&Api::<ClusterPlaybook>::all(bed.client.clone()), "ClusterPlaybook", "contain", &spec).await?;
    for name in names {
        bed.namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        wait::pod_ready(&bed.namespace.api(), name, DEADLINE).await?;
    }
    Ok(())
}

/// Reports a pod, and waits until its run is in that phase.
async fn run_of(bed: &Bed, pod: &str, phase: Phase) -> Result<Remediation> {
    let runs: Api<Remediation> = bed.namespace.api();
    wait::eventually(DEADLINE, &format!("the run of {pod} is {phase}"), async || {
        let all = runs.list(&ListParams::default()).await?.items;
        let of = all.into_iter().find(|run| run.spec.target.name == pod);
        Ok(of.filter(|run| run.status.as_ref().is_some_and(|status| status.phase == phase)))
    })
    .await
}

async fn undo(bed: &Bed, run: &Remediation) -> Result<()> {
    let runs: Api<Remediation> = bed.namespace.api();
    let name = run.metadata.name.clone().unwrap_or_default();
    runs.patch(&name, &PatchParams::default(), &Patch::Merge(json!({ "spec": { "intent": "Undo" } }))).await?;
    Ok(())
}

/// Runs `kubectl quell audit verify`.
async fn verify(arguments: &[&str]) -> Result<(Exit, String, String)> {
    let (out, err) = (Printed::default(), Printed::default());
    let mut io = Io {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(std::io::empty()),
        colours: false,
        terminal: false,
    };
    let all = ["kubectl-quell", "audit", "verify"].iter().chain(arguments).map(std::ffi::OsString::from);
    let exit = quell_cli::run(all.collect::<Vec<_>>(), &mut io).await;
    Ok((exit, out.text()?, err.text()?))
}

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn text(&self) -> Result<String> {
        let bytes = self.0.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
        Ok(String::from_utf8(bytes.clone())?)
    }
}

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::Error::other("a writer panicked"))?.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).context("a line")).collect()
}

#[tokio::test]
async fn the_audit_trail_tells_who_did_what_and_shows_when_it_was_changed() -> Result<()> {
    let bed = Bed::new("audit").await?;
    playbook(&bed, &["a", "b"]).await?;
    let gate = Gate::before(&bed.control_plane).await?;
    let trail = bed.control_plane.dir().join("audit.jsonl");
    let path = trail.to_str().context("a path")?;
    let sink = format!("file:{path}");
    let flags = ["--audit-sink", sink.as_str(), "--identity", "quell-0"];
    let first = bed.operator(&gate, &bed.spool("spool"), &flags).await?;
    bed.alert(&first, "a").await?;
    run_of(&bed, "a", Phase::Succeeded).await?;
    // Dropped: SIGKILL, at once.
    drop(first);
    let second = bed.operator(&gate, &bed.spool("spool"), &flags).await?;
    bed.alert(&second, "b").await?;
    let run = run_of(&bed, "b", Phase::Succeeded).await?;
    undo(&bed, &run).await?;
    run_of(&bed, "b", Phase::Undone).await?;

    let all = lines(&trail)?;
    let name = format!("{}/{}", bed.namespace.name(), run.metadata.name.clone().unwrap_or_default());
    let of_run: Vec<&Value> = all.iter().filter(|line| line["remediation"] == json!(name)).collect();
    let contained =
        of_run.iter().find(|line| line["to"] == "Succeeded" && line["event"] == "step").context("contained")?;
    assert_eq!(contained["by"], "quell");
    assert_eq!(contained["playbook"]["generation"], json!(run.spec.playbook.generation));
    assert_eq!(contained["change"]["object"], json!(format!("Pod {}/b", bed.namespace.name())));
    assert!(contained["change"]["before"].is_object() && contained["change"]["after"].is_object(), "{contained}");
    let undone = of_run.iter().find(|line| line["to"] == "Undone" && line["event"] == "step").context("undone")?;
    assert_eq!(undone["change"]["after"], contained["change"]["before"], "what was there before is there again");
    assert_eq!(all.iter().filter(|line| line["event"] == "begin").count(), 2, "two processes");
    assert!(all.iter().all(|line| line["chain"] == "quell-0"), "one chain");

    let (exit, out, err) = verify(&[path]).await?;
    assert_eq!(exit, Exit::Ok, "{out}{err}");
    let head = out.lines().next().and_then(|line| line.split([',', ';']).next()).context("a head")?.to_owned();
    let text = std::fs::read_to_string(&trail)?;
    let changed = bed.control_plane.dir().join("changed.jsonl");
    let file = changed.to_str().context("a path")?;
    std::fs::write(&changed, text.replacen("\"to\":\"Succeeded\"", "\"to\":\"Failed\"", 1))?;
    let (exit, _, err) = verify(&[file]).await?;
    assert_eq!((exit, err.matches("changed:").count()), (Exit::Failed, 1), "{err}");
    let without: Vec<&str> = text.lines().collect();
    std::fs::write(&changed, without[..without.len() - 1].join("\n") + "\n")?;
    let (exit, _, err) = verify(&["--head", &head, file]).await?;
    assert!(exit == Exit::Failed && err.contains("truncated:"), "{err}");
    bed.finish().await
}

type Received = Arc<Mutex<(bool, Vec<String>, Vec<String>)>>;

async fn receive(State(received): State<Received>, headers: HeaderMap, body: String) -> StatusCode {
    let Ok(mut received) = received.lock() else { return StatusCode::INTERNAL_SERVER_ERROR };
    if !received.0 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    received.1.extend(body.lines().map(str::to_owned));
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    received.2.push(token);
    StatusCode::NO_CONTENT
}

#[tokio::test]
async fn a_receiver_that_is_away_gets_the_trail_when_it_is_back_and_runs_do_not_wait_for_it() -> Result<()> {
    let bed = Bed::new("receiver").await?;
    playbook(&bed, &["a"]).await?;
    let received: Received = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/lines", listener.local_addr()?);
    let app = axum::Router::new().route("/lines", axum::routing::post(receive)).with_state(received.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let token = bed.control_plane.dir().join("token");
    std::fs::write(&token, "secret-token\n")?;
    let gate = Gate::before(&bed.control_plane).await?;
    let flags = ["--audit-sink", &url, "--audit-token-file", token.to_str().context("a path")?];
    let operator: Operator = bed.operator(&gate, &bed.spool("spool"), &flags).await?;
    bed.alert(&operator, "a").await?;
    run_of(&bed, "a", Phase::Succeeded).await?;
    {
        let mut received = received.lock().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        assert!(received.1.is_empty());
        received.0 = true;
    }
    wait::eventually(DEADLINE, "the trail", async || {
        let received = received.lock().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        Ok(received.1.iter().any(|line| line.contains("\"to\":\"Succeeded\"")).then_some(()))
    })
    .await?;
    let file = bed.control_plane.dir().join("received.jsonl");
    {
        let received = received.lock().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        assert!(received.2.iter().all(|token| token == "Bearer secret-token"));
        std::fs::write(&file, received.1.join("\n") + "\n")?;
    }
    let (exit, out, err) = verify(&[file.to_str().context("a path")?]).await?;
    assert_eq!(exit, Exit::Ok, "{out}{err}");
    serving.abort();
    bed.finish().await
}

#[tokio::test]
async fn what_is_over_is_deleted_after_its_time_and_a_quarantine_that_stands_never() -> Result<()> {
    let bed = Bed::new("history").await?;
    playbook(&bed, &["stands", "lifted"]).await?;
    let gate = Gate::before(&bed.control_plane).await?;
    let operator = bed.operator(&gate, &bed.spool("spool"), &["--history-ttl", "2s"]).await?;
    for name in ["stands", "lifted"] {
        bed.alert(&operator, name).await?;
    }
    run_of(&bed, "stands", Phase::Succeeded).await?;
    let lifted = run_of(&bed, "lifted", Phase::Succeeded).await?;
    undo(&bed, &lifted).await?;
    let (findings, runs): (Api<Finding>, Api<Remediation>) = (bed.namespace.api(), bed.namespace.api());
    wait::eventually(DEADLINE, "the records of what was lifted are gone, and no others", async || {
        let findings = findings.list(&ListParams::default()).await?.items;
        let runs = runs.list(&ListParams::default()).await?.items;
        let left: Vec<_> = findings
            .iter()
            .map(|one| &one.spec.target.name)
            .chain(runs.iter().map(|run| &run.spec.target.name))
            .collect();
        ensure!(left.iter().filter(|name| **name == "stands").count() == 2, "left: {left:?}");
        Ok((left.len() == 2).then_some(()))
    })
    .await?;
    // Reported anew, it is contained anew.
    bed.alert(&operator, "lifted").await?;
    run_of(&bed, "lifted", Phase::Succeeded).await?;
    // The pod goes, and with it what stood.
    let pods: Api<k8s_openapi::api::core::v1::Pod> = bed.namespace.api();
    pods.delete("stands", &kube::api::DeleteParams::default().grace_period(0)).await?;
    wait::eventually(Duration::from_mins(1), "the records of what stood are gone", async || {
        let left = runs.list(&ListParams::default()).await?.items;
        Ok(left.iter().all(|run| run.spec.target.name != "stands").then_some(()))
    })
    .await?;
    bed.finish().await
}
