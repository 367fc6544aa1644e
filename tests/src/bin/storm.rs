//! `cargo storm`: one alert, again and again, as fast as it can be sent.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use quell_crds::v1alpha1::Finding;
use quell_tests::floor::percentiles;
use quell_tests::floor::quell::{self, Quell, SOURCE, alert};
use quell_tests::proxy::Pass;
use quell_tests::storm::sender::{self, Address};
use quell_tests::storm::{cores, is_write, processor_time};
use quell_tests::{Proxy, TestNamespace, wait};

/// Quell on one core, the sender on another where there is one.
#[derive(Parser)]
struct Arguments {
    /// Alerts.
    #[arg(long, default_value_t = 100_000)]
    alerts: usize,
    /// Connections, each kept alive.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Alerts on a quiet system, for comparison.
    #[arg(long, default_value_t = 30)]
    quiet: usize,
}

/// Repeats are written some seconds after they came.
const LONGEST_COUNT: Duration = Duration::from_secs(30);

fn main() -> Result<ExitCode> {
    quell_tests::operator::run_as_quell_or(|| measure(&Arguments::parse()))
}

#[tokio::main]
async fn measure(arguments: &Arguments) -> Result<()> {
    let control_plane = quell::control_plane(3).await?;
    let proxy = Proxy::start(&control_plane, Arc::new(Pass)).await?;
    let kubeconfig = control_plane.dir().join("storm.kubeconfig");
    proxy.write_kubeconfig(&kubeconfig)?;
    let spool = control_plane.dir().join("spool");
    let spool = spool.to_str().context("the folder of the spool")?;
    let flags = ["--log", "warn", "--spool", spool];
    let operator = quell::start(&control_plane, Some(&kubeconfig), &flags).await?;
    let cores = cores::allowed()?;
    cores::bind_process(operator.process(), cores[0])?;

    let namespace = TestNamespace::create(&control_plane, "storm").await?;
    let names: Vec<String> = (0..arguments.quiet).map(|number| format!("quiet-{number}")).collect();
    quell::pods(&namespace, &[names.as_slice(), &["hit".to_owned()]].concat()).await?;
    let mut quell = Quell::start(&control_plane, &namespace, &operator).await?;
    let mut alone = Vec::new();
    for name in &names {
        alone.push(quell.once(name).await?);
    }
    let (alone50, alone99) = percentiles(&mut alone);

    let before = proxy.records().select(is_write).len();
    let spent = processor_time(operator.process())?;
    let storm = Storm {
        address: Address { intake: operator.intake(), source: SOURCE.to_owned() },
        body: Bytes::from(alert(namespace.name(), "hit").to_string()),
        number: arguments.alerts,
        connections: arguments.connections,
        core: *cores.last().context("no core")?,
    };
    let began = Instant::now();
    let raging = tokio::task::spawn_blocking(move || storm.rage());
    let first = quell.contained_at("hit").await?.duration_since(began);
    let took = raging.await??;
    let spent = processor_time(operator.process())?.saturating_sub(spent);
    let counted = counted(&namespace, arguments.alerts).await?;
    proxy.settled().await;
    let writes = proxy.records().select(is_write).len() - before;

    let number = f64::from(u32::try_from(arguments.alerts)?);
    println!("alone:  contained p50 {alone50:.2?} p99 {alone99:.2?}; the first of the storm {first:.2?}");
    println!(
        "storm:  {number} alerts in {took:.2?}, {spent:.2?} of one core: {:.0} for each second of it",
        number / spent.as_secs_f64()
    );
    let exact = match counted - i64::try_from(arguments.alerts)? {
        0 => "exact".to_owned(),
        off => format!("off by {off}"),
    };
    println!("storm: {:.0} alerts/s, {writes} writes, count {exact}", number / took.as_secs_f64());
    drop(operator);
    control_plane.stop().await
}

/// The same alert many times.
struct Storm {
    address: Address,
    body: Bytes,
    number: usize,
    connections: usize,
    core: usize,
}

impl Storm {
    /// On a thread of its own, bound to its core; how long it took until the last one was answered.
    fn rage(self) -> Result<Duration> {
        cores::bind_thread(self.core)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let began = Instant::now();
        runtime.block_on(sender::post(&self.address, self.number, self.connections, |_| self.body.clone()))?;
        Ok(began.elapsed())
    }
}

/// Waits until the Finding of the storm has counted all, or for as long as it takes to be sure that it never does.
async fn counted(namespace: &TestNamespace, wanted: usize) -> Result<i64> {
    let findings: Api<Finding> = namespace.api();
    let wanted = i64::try_from(wanted)?;
    let all = findings.list(&ListParams::default()).await?.items;
    let hit: Vec<String> =
        all.iter().filter(|finding| finding.spec.target.name == "hit").map(ResourceExt::name_any).collect();
    ensure!(hit.len() == 1, "the storm made the Findings {hit:?}");
    let count = |finding: &Finding| finding.status.as_ref().map_or(0, |status| status.count);
    let counted =
        wait::until_present(&findings, &hit[0], "all are counted", LONGEST_COUNT, |one| count(one) >= wanted).await;
    if let Err(error) = counted {
        println!("  {error:#}");
    }
    Ok(count(&findings.get(&hit[0]).await?))
}
