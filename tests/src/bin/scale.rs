//! `cargo scale`: many Findings on many pods, and a critical alert among noise.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use quell_crds::names;
use quell_crds::v1alpha1::Finding;
use quell_tests::TestNamespace;
use quell_tests::floor::quell::{self, SOURCE, alert};
use quell_tests::floor::seen::{Seen, light};
use quell_tests::floor::{percentiles, ratio};
use quell_tests::storm::sender::{self, Address};
use quell_tests::storm::{processor_time, resident_memory};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Everything on one machine: the API server has what Quell and the sender leave of it.
#[derive(Parser)]
struct Arguments {
    /// Pods that the alerts are about.
    #[arg(long, default_value_t = 1000)]
    pods: usize,
    /// Alerts that all differ, each a Finding.
    #[arg(long, default_value_t = 10_000)]
    findings: usize,
    /// Alerts a second while the critical ones come: half of them were seen before, half are new.
    #[arg(long, default_value_t = 200)]
    noise: usize,
    /// Critical alerts on a quiet system, and as many in the noise.
    #[arg(long, default_value_t = 40)]
    critical: usize,
}

const FLAGS: [&str; 2] = ["--log", "warn"];
/// Between two critical alerts.
const PAUSE: Duration = Duration::from_millis(250);
/// Connections of the senders.
const CONNECTIONS: usize = 32;
const LONGEST: Duration = Duration::from_mins(5);

fn main() -> Result<ExitCode> {
    quell_tests::operator::run_as_quell_or(|| measure(&Arguments::parse()))
}

#[tokio::main]
async fn measure(arguments: &Arguments) -> Result<()> {
    let nodes = u32::try_from(arguments.pods.div_ceil(100) + 3)?;
    let control_plane = quell::control_plane(nodes).await?;
    let mut operator = quell::start(&control_plane, None, &FLAGS).await?;
    let namespace = TestNamespace::create(&control_plane, "scale").await?;
    let pods = numbered("pod", arguments.pods);
    let (quiet, noisy) = (numbered("quiet", arguments.critical), numbered("noisy", arguments.critical));
    quell::pods(&namespace, &[pods.as_slice(), &quiet, &noisy].concat()).await?;
    println!("{} pods run", arguments.pods + 2 * arguments.critical);

    let address = Address { intake: operator.intake(), source: SOURCE.to_owned() };
    let mut seen = Seen::by_watch(
        light::<Pod>(control_plane.client().await?, namespace.name()),
        watcher::Config::default().labels(names::QUARANTINE),
        |pod| Some(pod.name_any()),
    );
    let mut quiet = contained(&address, &namespace, &mut seen, &quiet).await?;
    let (quiet50, quiet99) = percentiles(&mut quiet);

    let (began, spent) = (Instant::now(), processor_time(operator.process())?);
    let others = Noise { namespace: namespace.name().to_owned(), pods };
    sender::post(&address, arguments.findings, CONNECTIONS, |number| others.alert(number)).await?;
    let (took, spent) = (began.elapsed(), processor_time(operator.process())?.saturating_sub(spent));
    println!(
        "{} different alerts:  taken in after {took:.2?}, {:.0} a second; {spent:.2?} of processor time",
        arguments.findings,
        f64::from(u32::try_from(arguments.findings)?) / took.as_secs_f64(),
    );

    let over = CancellationToken::new();
    let blowing = tokio::spawn(others.blow(address.clone(), arguments.findings, arguments.noise, over.clone()));
    let mut noisy = contained(&address, &namespace, &mut seen, &noisy).await?;
    over.cancel();
    let blown = blowing.await??;
    let (noisy50, noisy99) = percentiles(&mut noisy);
    println!("quiet:  a critical alert is contained p50 {quiet50:.2?} p99 {quiet99:.2?}");
    println!(
        "among {blown} others, {} a second:  p50 {noisy50:.2?} p99 {noisy99:.2?}; p50 ratio {:.2}",
        arguments.noise,
        ratio(noisy50, quiet50)
    );

    let findings: Api<Finding> = namespace.api();
    let all = findings.list_metadata(&ListParams::default()).await?.items.len();
    let memory = resident_memory(operator.process())? / 1024;
    drop(operator);
    let again = Instant::now();
    operator = quell::start(&control_plane, None, &FLAGS).await?;
    let ready = again.elapsed();
    println!("started again:  {} MiB", resident_memory(operator.process())? / 1024);
    println!("scale: {all} findings, {memory} MiB, ready in {:.1} s", ready.as_secs_f64());
    drop(operator);
    control_plane.stop().await
}

/// Critical alerts one after the other: how long each took until its pod was seen to be cut off.
async fn contained(
    address: &Address,
    namespace: &TestNamespace,
    seen: &mut Seen,
    pods: &[String],
) -> Result<Vec<Duration>> {
    let mut connection = sender::connect(address).await?;
    let mut turns = interval(PAUSE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut took = Vec::new();
    for pod in pods {
        turns.tick().await;
        let body = Bytes::from(alert(namespace.name(), pod).to_string());
        let began = Instant::now();
        sender::send(&mut connection, address, body).await?;
        took.push(seen.all(std::slice::from_ref(pod), LONGEST).await?.duration_since(began));
    }
    Ok(took)
}

/// Alerts that no playbook is for.
struct Noise {
    namespace: String,
    pods: Vec<String>,
}

impl Noise {
    fn alert(&self, number: usize) -> Bytes {
        let mut alert = alert(&self.namespace, &self.pods[number % self.pods.len()]);
        alert["rule"] = json!(format!("Unexpected connection {number}"));
        alert["priority"] = json!("Warning");
        Bytes::from(alert.to_string())
    }

    /// So many a second, until it is over: every other one new, from `first` on, the others among those before. How many there were.
    async fn blow(self, address: Address, first: usize, a_second: usize, over: CancellationToken) -> Result<usize> {
        let a_second = u32::try_from(a_second).context("alerts a second")?.max(1);
        let mut ticks = interval(Duration::from_secs(1) / a_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let ticks = stream::unfold((ticks, 0), async |(mut ticks, number)| {
            ticks.tick().await;
            Some((number, (ticks, number + 1)))
        });
        // As many connections as are needed to keep the pace, each kept for the next alert.
        let free = Mutex::new(Vec::new());
        let sent = ticks.take_until(over.cancelled()).map(|number| {
            let (noise, address, free) = (&self, &address, &free);
            async move {
                let kept = free.lock().await.pop();
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => sender::connect(address).await?,
                };
                let body = noise.alert(if number % 2 == 0 { first + number } else { number });
                sender::send(&mut connection, address, body).await?;
                free.lock().await.push(connection);
                anyhow::Ok(1)
            }
        });
        sent.buffer_unordered(CONNECTIONS).try_fold(0, async |all, one| Ok(all + one)).await
    }
}

fn numbered(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|number| format!("{prefix}-{number}")).collect()
}
