//! `cargo demo`: an incident from alert to remediation, on a control plane of its own.
//!
//! [`stage`] sets up the cluster, Quell, a [`shop`] and what teams declare; [`signals`] are what the tools send; the [`story`] is told
//! from [`news`] as they come; [`checks`] compare what was told with what the API server holds.

mod checks;
mod guide;
pub mod news;
pub mod receiver;
pub mod screen;
pub mod shop;
pub mod signals;
pub mod stage;
pub mod story;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::news::{News, Watches};
use self::screen::{Screen, span};
use self::stage::Stage;
use self::story::{Breach, Vulnerable};

/// Shows an incident from alert to remediation, on a control plane of its own.
///
/// Boots a real Kubernetes control plane on loopback, installs Quell, opens a small shop, sends what Falco and Trivy would send, and
/// prints what happens as the API server tells it. Then it stays up, so that you can look around, until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "demo", bin_name = "cargo demo", max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// Check all that was shown against the API server, and exit: 0 if it holds, 1 if something doesn't
    #[arg(long)]
    pub once: bool,
}

const EXAMPLES: &str = "\
Examples:
  See it, and look around afterwards:
    cargo demo

  In CI, without colours:
    NO_COLOR=1 cargo demo --once

It needs Rust and Go, and no cluster and no containers. The first run builds etcd and Kubernetes from
their Go modules, which takes some minutes; they are kept in ~/.cache/quell. Set KUBEBUILDER_ASSETS to
a folder with binaries that you have.";

/// What was told, for the checks and for whoever looks around.
struct Told {
    breach: String,
    vulnerable: String,
    alert: Value,
}

/// Plays the demo, and says what is wrong where something is.
#[must_use]
pub fn start(arguments: &Arguments) -> ExitCode {
    match play_in_runtime(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play_in_runtime(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(play(arguments))
}

/// Waits for Ctrl-C or a request to end, and gives back the exit code that a shell expects.
async fn interrupted() -> i32 {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

async fn play(arguments: &Arguments) -> Result<ExitCode> {
    let screen = Screen::of_stdout();
    let (sender, mut news) = unbounded_channel();
    let shown = async {
        let stage = Box::pin(Stage::set(screen, &sender)).await?;
        let told = show(screen, &stage, &sender, &mut news).await?;
        let outcome = if arguments.once { Some(checks::run(screen, &stage, &told).await?) } else { None };
        anyhow::Ok((stage, told, outcome))
    };
    let (stage, told, outcome) = tokio::select! {
        shown = shown => shown?,
        // Leaving the process at once ends what has been started, too, see `lifeline`; returning would wait for a build under way.
        code = interrupted() => std::process::exit(code),
    };
    let Some(outcome) = outcome else {
        guide::invite(screen, &stage, &told)?;
        interrupted().await;
        stage.strike().await?;
        screen.line("demo: everything is stopped");
        return Ok(ExitCode::SUCCESS);
    };
    let begun = stage.begun;
    stage.strike().await?;
    let seconds = begun.elapsed().as_secs_f64();
    screen.line(&format!("demo: {} checks, {} wrong, {seconds:.1} s", outcome.checks, outcome.wrong));
    Ok(if outcome.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Both incidents, and what kubectl shows of them; where that fails, what Quell said about it.
async fn show(
    screen: Screen,
    stage: &Stage,
    sender: &UnboundedSender<News>,
    news: &mut UnboundedReceiver<News>,
) -> Result<Told> {
    match act(screen, stage, sender, news).await {
        Ok(told) => {
            guide::show(screen, stage).await?;
            Ok(told)
        }
        Err(error) => {
            let log = stage.operator.log().unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            bail!("{error:#}\nthe log of Quell ends with:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
        }
    }
}

/// The two incidents, one after the other, each with its own clock.
async fn act(
    screen: Screen,
    stage: &Stage,
    sender: &UnboundedSender<News>,
    news: &mut UnboundedReceiver<News>,
) -> Result<Told> {
    let _watches = Watches::open(&stage.client, shop::NAMESPACE, sender).await?;

    screen.heading("Falco reports a reverse shell in the storefront");
    let alert = signals::falco_alert(&stage.shop.victim);
    let (sent, breach) = send(screen, stage, "falco", &alert).await?;
    story::tell(screen, Breach::new(&breach, &stage.shop), sent, &breach, news).await.context("the reverse shell")?;

    screen.heading("Trivy reports a critical vulnerability in the image of payments");
    let report = signals::trivy_report(shop::VULNERABLE_IMAGE);
    let (sent, vulnerable) = send(screen, stage, "trivy", &report).await?;
    story::tell(screen, Vulnerable::new(&vulnerable), sent, &vulnerable, news).await.context("the vulnerability")?;
    Ok(Told { breach, vulnerable, alert })
}

/// Posts a signal; gives back when that was, and the name of its Finding.
async fn send(screen: Screen, stage: &Stage, source: &str, body: &Value) -> Result<(Instant, String)> {
    let sent = Instant::now();
    let answer =
        stage.operator.post(source, body).await.with_context(|| format!("can't post to the Source {source}"))?;
    let took = sent.elapsed();
    let (namespace, name) = answer.finding()?;
    if namespace != shop::NAMESPACE {
        bail!("the Finding {name} is in the namespace {namespace}, not in {}", shop::NAMESPACE);
    }
    let text =
        format!("POST {}/v1/sources/{source}: answered {} after {}", stage.operator.url(), answer.status, span(took));
    screen.beat(std::time::Duration::ZERO, "alert", screen::Tone::Alarm, &text);
    Ok((sent, name))
}
