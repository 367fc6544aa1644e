//! `cargo crash`: Quell, a real process, is killed (SIGKILL) before and after each single request that it makes, and started again.
//!
//! For each [`scenario`] an undisturbed run says which requests there are, what stands in the end, and how often each effect takes place.
//! Then the scenario is played again for each boundary, on a namespace of its own, with a death there. Nothing is lost where the state of
//! the cluster and of the receivers comes to equal that of the undisturbed run; nothing is doubled where no effect took place more often.
//!
//! Not compared are the numbers of tries, what an undo says of how it found things, Events, and how often a signal is counted that its sender had to send again: at least once, and
//! no more often than it was sent.

pub mod bed;
pub mod boundary;
pub mod drive;
pub mod library;
pub mod names;
pub mod receivers;
pub mod scenario;
pub mod state;
pub mod trap;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use self::bed::Bed;
use self::boundary::Boundary;
use self::drive::{Driver, Outcome};
use self::library::SCENARIOS;
use self::scenario::Scenario;

/// Kills Quell before and after each single request of each scenario, and looks whether anything was lost or done twice.
#[derive(Debug, Parser)]
#[command(name = "crash", bin_name = "cargo crash", max_term_width = 100)]
pub struct Arguments {
    /// Play this scenario alone; several where given several times
    #[arg(long)]
    pub scenario: Vec<String>,
    /// Die at this boundary alone, such as 'after PATCH /api/v1/namespaces/{ns}/pods/{pod} #1'; several where given several times
    #[arg(long)]
    pub boundary: Vec<Boundary>,
    /// Scenarios side by side, each on a control plane of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub jobs: u8,
    /// Say which scenarios there are
    #[arg(long)]
    pub list: bool,
}

/// Plays what is asked for. The exit code says whether nothing was lost and nothing doubled.
#[must_use]
pub fn start(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    match in_runtime(arguments) {
        Ok(outcome) => {
            if outcome.unreached > 0 {
                println!("{} boundaries were not reached in later runs", outcome.unreached);
            }
            if outcome.broken > 0 {
                println!("{} scenarios could not be played to their end", outcome.broken);
            }
            println!("crash: {} boundaries, {} lost, {} doubled", outcome.boundaries, outcome.lost, outcome.doubled);
            if outcome.lost + outcome.doubled + outcome.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("crash: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(arguments: &Arguments) -> Result<Outcome> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| arguments.scenario.is_empty() || arguments.scenario.iter().any(|name| name == scenario.name))
        .collect();
    ensure!(!chosen.is_empty(), "there is no such scenario; --list says which there are");
    let waiting = Mutex::new(chosen.into_iter());
    let binary = std::env::current_exe().context("this program has no path")?;
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let (waiting, binary) = (&waiting, &binary);
        let workers: Vec<_> = (0..arguments.jobs)
            .map(|number| scope.spawn(move || work(number, binary, waiting, &arguments.boundary)))
            .collect();
        let joined = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|outcome| outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("a worker broke off")))).collect()
    });
    let mut all = Outcome::default();
    for outcome in outcomes {
        all.add(&outcome?);
    }
    Ok(all)
}

/// One worker: a control plane for each scenario, so that none finds what another has left.
fn work<'a>(
    number: u8,
    binary: &Path,
    waiting: &Mutex<impl Iterator<Item = &'a Scenario>>,
    boundaries: &[Boundary],
) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all = Outcome::default();
    loop {
        let next = waiting.lock().ok().and_then(|mut waiting| waiting.next());
        let Some(scenario) = next else { return Ok(all) };
        match runtime.block_on(async { Box::pin(play(binary, scenario, number, boundaries)).await }) {
            Ok(outcome) => all.add(&outcome),
            // The others are worth playing all the same.
            Err(error) => {
                println!("{}: {error:#}", scenario.name);
                all.broken += 1;
            }
        }
    }
}

/// Plays one scenario on a control plane of its own. No `boundaries` are all.
pub async fn play(binary: &Path, scenario: &Scenario, worker: u8, boundaries: &[Boundary]) -> Result<Outcome> {
    let began = Instant::now();
    let bed = Bed::start(binary).await?;
    let driver = Driver::new(&bed, scenario, format!("crash-{worker}"));
    let outcome = Box::pin(driver.play(boundaries)).await?;
    println!(
        "{}: {} boundaries, {} lost, {} doubled, {:.0} s",
        scenario.name,
        outcome.boundaries,
        outcome.lost,
        outcome.doubled,
        began.elapsed().as_secs_f64()
    );
    bed.stop().await?;
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.boundaries += other.boundaries;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.unreached += other.unreached;
        self.broken += other.broken;
    }
}
