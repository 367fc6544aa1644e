//! `cargo packets`: quarantine on a real network.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use quell_cli::Io;
use quell_tests::floor::quell::{declare, playbook_is_ready};
use quell_tests::node::{Node, Options, Plugin};
use quell_tests::packets::{doctor, killed, quell, scenario, speed, world::World};
use quell_tests::{Missing, Operator};

/// Boots a Kubernetes node whose network enforces policies, and tries real connections before, under and after Quell's quarantine.
/// Needs root on Linux. Ends with 0 if all came out as expected, with 1 if not, and with 2 where it can't run.
#[derive(Parser)]
struct Arguments {
    /// The network plugin.
    #[arg(long, value_enum, default_value_t)]
    plugin: Plugin,
    /// How often the time to the last packet is measured; by default 10 times, on Cilium, where it takes half a minute, 3 times.
    #[arg(long)]
    rounds: Option<usize>,
    /// Boot the node, say how to use it, and wait for Ctrl-C.
    #[arg(long)]
    stay: bool,
}

fn main() -> ExitCode {
    // Quell runs as a process of its own, and this binary is the one that is sure to be there.
    let first = std::env::args_os().nth(1).unwrap_or_default();
    if ["operator", "probe", "sever"].iter().any(|task| first == *task) {
        return quell_operator::start();
    }
    if first == doctor::PLUGIN {
        return plugin();
    }
    let error = match run(&Arguments::parse()) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::FAILURE,
        Err(error) => error,
    };
    if let Some(missing) = error.chain().find_map(|cause| cause.downcast_ref::<Missing>()) {
        eprintln!("packets can't run here: {missing}");
        return ExitCode::from(2);
    }
    eprintln!("Error: {error:#}");
    ExitCode::FAILURE
}

/// What kubectl starts for `kubectl quell`.
#[tokio::main]
async fn plugin() -> ExitCode {
    let mut io = Io {
        out: Box::new(std::io::stdout()),
        err: Box::new(std::io::stderr()),
        input: Box::new(std::io::stdin()),
        colours: false,
        terminal: false,
    };
    quell_cli::run(std::env::args_os().skip(1), &mut io).await.into()
}

#[tokio::main]
async fn run(arguments: &Arguments) -> Result<bool> {
    let options = Options { plugin: arguments.plugin };
    if !arguments.stay {
        Node::prepare(&options).await?;
        killed::leaves_nothing(&std::env::current_exe()?).await?;
    }
    let node = tokio::select! {
        node = Node::start(options) => node?,
        // Ends what has been started, too; returning would wait for a build under way.
        _ = tokio::signal::ctrl_c() => std::process::exit(130),
    };
    let version = node.control_plane().client().await?.apiserver_version().await?.git_version;
    println!("Kubernetes {version} with {:?} after {:.1?}", arguments.plugin, node.booted());
    if arguments.stay {
        println!("{}{}", killed::LEAVES, serde_json::to_string(&node.leaves())?);
        println!("export KUBECONFIG={}", node.control_plane().kubeconfig_path().display());
        tokio::signal::ctrl_c().await.context("can't wait for Ctrl-C")?;
        node.stop().await?;
        return Ok(true);
    }
    let rounds = arguments.rounds.unwrap_or(if arguments.plugin == Plugin::Cilium { 3 } else { 10 });
    let outcome = tokio::select! {
        outcome = play(&node, rounds) => outcome,
        _ = tokio::signal::ctrl_c() => std::process::exit(130),
    };
    // What ended by itself explains the rest.
    node.check()?;
    let good = outcome?;
    node.stop().await?;
    Ok(good)
}

async fn play(node: &Node, rounds: usize) -> Result<bool> {
    let control_plane = node.control_plane();
    quell_tests::operator::prepare(control_plane).await?;
    declare(control_plane).await?;
    let binary = std::env::current_exe()?;
    node.add_quell(&binary)?;
    let flags = [&["--log", "warn"], quell::FLAGS].concat();
    let operator = Operator::start(&binary, control_plane, &flags).await?;
    playbook_is_ready(control_plane).await?;
    quell::prepare(control_plane).await?;
    quell::probes(control_plane, Some(node.plugin())).await?;

    let began = Instant::now();
    let world = World::create(node).await?;
    println!("the world is up after {:.1?}", began.elapsed());
    let mut report = Box::pin(scenario::play(node, &operator, &world)).await?;
    for claim in doctor::ask(node, &binary).await? {
        report.claim(&claim.what, claim.holds);
    }
    // What is measured is the way to the quarantine alone.
    quell::probes(control_plane, None).await?;

    if node.plugin() != Plugin::None && rounds > 0 {
        let times = speed::measure(node, &operator, rounds).await?;
        println!("from the request to the last answer of the pod, {rounds} pods each, in turns:");
        print("label patch", &times.patch);
        print("alert", &times.alert);
        print("alert's answer", &times.answer);
    }
    for wrong in &report.wrong {
        println!("WRONG {wrong}");
    }
    println!("packets: {} pairs, {} wrong", report.pairs, report.wrong.len());
    Ok(report.wrong.is_empty())
}

fn print(what: &str, times: &[Duration]) {
    let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
    println!("  {what:<16} min {:.1?}, median {:.1?}, max {:.1?}", at(0), at(50), at(100));
}
