//! `cargo floor`: the way to containment against the floor, side by side.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use quell_tests::floor::bare::Bare;
use quell_tests::floor::quell::{self, Quell};
use quell_tests::floor::{percentiles, ratio, requests, verification};
use quell_tests::guards::Guards;
use quell_tests::{ControlPlane, Operator, TestNamespace};

/// Times Quell's way from an alert to containment beside the least that a bare client needs, on the same API server, in turns.
#[derive(Parser)]
struct Arguments {
    /// Alerts one at a time.
    #[arg(long, default_value_t = 150)]
    alone: usize,
    /// Alerts at once.
    #[arg(long, default_value_t = 1000)]
    burst: usize,
    /// Bursts of each; the best of each is compared.
    #[arg(long, default_value_t = 2)]
    bursts: usize,
    /// Leave Quell's guards in place. The bare client's policy is looked at by them, too, which makes the floor higher.
    #[arg(long)]
    guards: bool,
}

fn main() -> Result<ExitCode> {
    quell_tests::operator::run_as_quell_or(|| measure(Arguments::parse()))
}

#[tokio::main]
async fn measure(Arguments { alone, burst, bursts, guards }: Arguments) -> Result<()> {
    let control_plane = quell::control_plane(3).await?;
    let operator = quell::start(&control_plane, None, &["--log", "warn"]).await?;
    if !guards {
        quell_tests::guards::remove(&control_plane, &Guards::default()).await?;
    }

    let (floor, ours) = one_at_a_time(&control_plane, &operator, alone).await?;
    let (mut floor, mut ours) = (floor, ours);
    let ((floor50, floor99), (ours50, ours99)) = (percentiles(&mut floor), percentiles(&mut ours));
    println!("alone:  floor p50 {floor50:.2?} p99 {floor99:.2?}; Quell p50 {ours50:.2?} p99 {ours99:.2?}");

    let (floor_burst, our_burst) = at_once(&control_plane, &operator, burst, bursts).await?;
    println!("{burst} at once:  floor {floor_burst:.2?}; Quell {our_burst:.2?}, all contained, none twice");
    let (verified, mean, slow) = verification(&operator.metrics().await?)?;
    println!("verified:  {verified} times, without any request; mean {mean:.2?}, longer than 2 ms: {slow}");
    drop(operator);

    let counted = requests::count(&control_plane).await?;
    println!("requests:  {} for the first alert in a namespace, {} for the next", counted.first, counted.next);
    println!(
        "floor: p50 ratio {:.2}, p99 ratio {:.2}, burst ratio {:.2}, requests per alert {}",
        ratio(ours50, floor50),
        ratio(ours99, floor99),
        ratio(our_burst, floor_burst),
        counted.first.max(counted.next),
    );
    control_plane.stop().await
}

/// In turns, so that whatever else the machine does falls on both.
async fn one_at_a_time(
    control_plane: &ControlPlane,
    operator: &Operator,
    number: usize,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (bare_namespace, namespace) =
        (TestNamespace::create(control_plane, "floor").await?, TestNamespace::create(control_plane, "alone").await?);
    let names = names("one", number + 5);
    quell::pods(&namespace, &names).await?;
    let mut bare = Bare::start(control_plane, &bare_namespace).await?;
    let mut quell = Quell::start(control_plane, &namespace, operator).await?;
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for name in &names {
        floor.push(bare.once(name).await?);
        ours.push(quell.once(name).await?);
    }
    quell.none_lost_none_twice(&names).await?;
    let (answered50, answered99) = percentiles(&mut quell.answered);
    println!("answered:  p50 {answered50:.2?} p99 {answered99:.2?}, with the Finding durable");
    // The first few open connections.
    Ok((floor.split_off(5), ours.split_off(5)))
}

async fn at_once(
    control_plane: &ControlPlane,
    operator: &Operator,
    number: usize,
    rounds: usize,
) -> Result<(Duration, Duration)> {
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let names = names("many", number);
        let bare_namespace = TestNamespace::create(control_plane, &format!("floor-{round}")).await?;
        let namespace = TestNamespace::create(control_plane, &format!("burst-{round}")).await?;
        quell::pods(&namespace, &names).await?;
        floor.push(Bare::start(control_plane, &bare_namespace).await?.burst(&names).await?);
        let mut quell = Quell::start(control_plane, &namespace, operator).await?;
        ours.push(quell.burst(&names).await?);
        quell.none_lost_none_twice(&names).await?;
        println!("  round {round}: floor {:.2?}, Quell {:.2?}", floor[round], ours[round]);
    }
    let best = |all: &[Duration]| all.iter().min().copied().context("no round");
    Ok((best(&floor)?, best(&ours)?))
}

fn names(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|i| format!("{prefix}-{i}")).collect()
}
