//! How many requests one alert costs: those of the operator itself, recorded.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use kube::api::Api;
use quell_crds::v1alpha1::{Finding, FindingState};
use tokio_util::sync::CancellationToken;

use super::quell::{SOURCE, alert, playbook_is_ready, pods};
use crate::operator::{NAMESPACE, TOKEN};
use crate::requests::{Recorder, Request, Verb, record};
use crate::{ControlPlane, TestNamespace, wait};

/// Requests for an alert in a namespace that never saw a quarantine, and for the next one there.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// The first.
    pub first: usize,
    /// The second.
    pub next: usize,
}

/// Counts with an operator in this process, whose client is recorded.
pub async fn count(control_plane: &ControlPlane) -> Result<Requests> {
    let recorder = Recorder::new();
    let mut config = control_plane.config().await?;
    config.default_retry = false;
    let client = record(config.clone(), &recorder)?;
    let (intake, metrics) = (free_port()?, free_port()?);
    let arguments = [
        "quell",
        "operator",
        "--namespace",
        NAMESPACE,
        "--ingest-plaintext",
        "--ingest-listen",
        &format!("127.0.0.1:{intake}"),
        "--metrics-listen",
        &format!("127.0.0.1:{metrics}"),
    ]
    .map(str::to_owned);
    let quell_operator::Task::Operator(settings) = quell_operator::Command::try_parse_from(arguments)?.task else {
        anyhow::bail!("`quell operator` is another task");
    };
    let end = CancellationToken::new();
    let running = tokio::spawn(quell_operator::run_with(config, client, *settings, end.clone()));
    playbook_is_ready(control_plane).await?;
    leads(metrics).await?;

    let namespace = TestNamespace::create(control_plane, "requests").await?;
    let names = ["first".to_owned(), "next".to_owned()];
    pods(&namespace, &names).await?;
    let mut counted = Vec::new();
    for name in &names {
        counted.push(one(&recorder, &namespace, name, intake).await?);
    }
    end.cancel();
    running.await.context("the operator broke off")??;
    ensure!(counted.len() == 2);
    Ok(Requests { first: counted[0], next: counted[1] })
}

async fn one(recorder: &Recorder, namespace: &TestNamespace, pod: &str, intake: u16) -> Result<usize> {
    drop(recorder.take());
    let url = format!("http://127.0.0.1:{intake}/v1/sources/{SOURCE}");
    let body = alert(namespace.name(), pod);
    let answer = reqwest::Client::new().post(url).bearer_auth(TOKEN).body(body.to_string()).send().await?;
    let answer: serde_json::Value = serde_json::from_str(&answer.error_for_status()?.text().await?)?;
    let name = answer["findings"][0]["name"].as_str().context("no Finding in the answer")?.to_owned();
    let findings: Api<Finding> = namespace.api();
    let done = |finding: &Finding| finding.status.as_ref().and_then(|s| s.state) == Some(FindingState::Remediated);
    wait::until_present(&findings, &name, "remediated", wait::DEADLINE, done).await?;
    // What the operator does about its own last write comes right after it: a second without any request is the end.
    quiet(recorder, namespace).await?;
    let requests: Vec<Request> = recorder.requests().into_iter().filter(|request| counts(request, namespace)).collect();
    for request in &requests {
        eprintln!("  {pod}: {} {}", request.verb.as_str(), request.path);
    }
    Ok(requests.len())
}

/// Watches are opened once for all alerts, and the Lease is renewed by the clock in a namespace of its own.
fn counts(request: &Request, namespace: &TestNamespace) -> bool {
    request.verb != Verb::Watch && request.namespace == namespace.name()
}

async fn quiet(recorder: &Recorder, namespace: &TestNamespace) -> Result<()> {
    let mut last = (0, tokio::time::Instant::now());
    wait::eventually(Duration::from_secs(30), "no further request", async || {
        let now = recorder.count(|request| counts(request, namespace));
        if now != last.0 {
            last = (now, tokio::time::Instant::now());
        }
        Ok((last.1.elapsed() > Duration::from_secs(1)).then_some(()))
    })
    .await
}

/// An operator that doesn't lead takes alerts in, and acts on none.
async fn leads(metrics: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{metrics}/metrics");
    wait::eventually(Duration::from_mins(1), "the operator leads", async || {
        let text = reqwest::get(&url).await?.text().await?;
        Ok(text.lines().any(|line| line == "quell_leader 1").then_some(()))
    })
    .await
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
