//! `cargo faults`: alerts come in while one request in ten to the API server goes wrong, the API server and etcd are killed and started
//! again, replicas are killed and frozen; then an audit says what came of each alert that was answered with success.
//!
//! Not tried: clocks that jump. Quell reads the clock of its machine, and without rights of its own a test can't set another for one process.

pub mod audit;
mod disturb;
pub mod receiver;
pub mod replica;
mod stage;
pub mod trouble;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use quell_crds::v1alpha1::{ClusterPlaybook, Remediation};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::audit::{Alert, Found, Verdict, judge};
use self::receiver::Receiver;
use self::replica::Replica;
use self::stage::{declare, playbook_is_ready, pods};
use self::trouble::Troubles;
use crate::floor::quell::alert;
use crate::{ControlPlane, Options, TestNamespace, guards, operator, wait};

const SOURCE: &str = "falco";
/// One pod in so many is named by no alert.
const BYSTANDERS: usize = 20;
/// One alert in so many is sent a second time, as a tool does that sees the same again.
const REPEATED: usize = 10;
/// In which everything must be settled once nothing is wrong any more.
const PATIENCE: Duration = Duration::from_mins(4);
/// What costs as much as reading every object is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A sender that is told to try again does so after this; Quell asks for five seconds, which real senders have.
const SEND_AGAIN: Duration = Duration::from_millis(500);
/// Alerts a second of a soak, which is long and not steep.
const SOAK_RATE: u32 = 5;
/// Memory may grow by this factor from the second round of a soak to its last.
const FLAT: f64 = 1.5;

/// Sends alerts while things go wrong, and audits what came of each.
#[derive(Clone, Debug, Parser)]
#[command(name = "faults", bin_name = "cargo faults", max_term_width = 100)]
pub struct Arguments {
    /// What chooses which requests go wrong, and how
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Seconds in which alerts come
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Alerts a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub rate: u32,
    /// Of a hundred requests, those that go wrong
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=50))]
    pub percent: u8,
    /// Replicas of Quell; the one that leads is killed, told to end, and frozen
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: u8,
    /// Leave the API server and etcd alone
    #[arg(long)]
    pub no_outage: bool,
    /// Go on for so long, in rounds of 20 s with undos and edited playbooks, and look at memory, such as 30m; replicas are left alone
    /// after the first round
    #[arg(long, value_parser = span)]
    pub soak: Option<Duration>,
}

fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 90s, 30m or 2h");
    let (number, unit) = text.split_at(text.len() - usize::from(!text.is_empty()));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(number * seconds))
}

/// What came of all of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Alerts that were answered with success.
    pub alerts: usize,
    /// Of these, those that not everything came of.
    pub lost: usize,
    /// What took place more than once.
    pub doubled: usize,
    /// What nobody asked for.
    pub beyond: usize,
    /// Memory of a soak at the end of its second round, and at its end, in KiB.
    pub memory: Option<(u64, u64)>,
}

/// Makes trouble and audits. The exit code says whether nothing was lost, doubled or beyond, and memory was flat.
#[must_use]
pub fn start(arguments: &Arguments) -> ExitCode {
    let done = std::env::current_exe().context("this program has no path").and_then(|binary| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(Box::pin(play(&binary, arguments)))
    });
    match done {
        Ok(outcome) => {
            let flat = outcome.memory.is_none_or(|(early, late)| {
                println!("memory: {} MiB after the second round, {} MiB at the end", early / 1024, late / 1024);
                #[allow(clippy::cast_precision_loss, reason = "KiB of a process")]
                let growth = late as f64 / early as f64;
                growth <= FLAT
            });
            let Outcome { alerts, lost, doubled, beyond, .. } = outcome;
            println!("faults: {alerts} alerts, {lost} lost, {doubled} doubled, {beyond} beyond");
            if lost + doubled + beyond == 0 && flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything, on a control plane of its own.
pub async fn play(binary: &Path, arguments: &Arguments) -> Result<Outcome> {
    let bed = Bed::start(binary, arguments).await?;
    let mut outcome = Outcome::default();
    let Some(long) = arguments.soak else {
        let upheaval = Upheaval { of_replicas: true, of_the_cluster: !arguments.no_outage };
        let verdict = bed.round(arguments, upheaval, &mut outcome).await?;
        bed.tell(&verdict);
        return bed.stop().await.map(|()| outcome);
    };
    let end = Instant::now() + long;
    let (mut number, mut memory) = (0_u64, Vec::new());
    while Instant::now() < end {
        number += 1;
        let round =
            Arguments { seconds: 20, rate: SOAK_RATE, seed: arguments.seed.wrapping_add(number), ..arguments.clone() };
        // Processes that live on show whether memory is flat.
        let upheaval = Upheaval { of_replicas: number == 1, of_the_cluster: !arguments.no_outage && number % 5 == 1 };
        let verdict = bed.round(&round, upheaval, &mut outcome).await.with_context(|| format!("round {number}"))?;
        bed.tell(&verdict);
        let now = bed.replicas.iter().filter_map(Replica::memory).max().unwrap_or_default();
        println!("round {number}: {} alerts so far, {} MiB", outcome.alerts, now / 1024);
        memory.push(now);
    }
    outcome.memory = memory.get(1).copied().zip(memory.last().copied());
    bed.stop().await.map(|()| outcome)
}

struct Bed {
    client: Client,
    replicas: Vec<Replica>,
    receiver: Receiver,
    control_plane: ControlPlane,
}

/// What goes wrong beside single requests.
#[derive(Clone, Copy, Debug)]
struct Upheaval {
    /// Leaders are killed, told to end, and frozen.
    of_replicas: bool,
    /// The API server and etcd are killed.
    of_the_cluster: bool,
}

type Alerts = Mutex<BTreeMap<String, Alert>>;

fn lock(alerts: &Alerts) -> MutexGuard<'_, BTreeMap<String, Alert>> {
    alerts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bed {
    async fn start(binary: &Path, arguments: &Arguments) -> Result<Self> {
        let control_plane = ControlPlane::start(Options::default()).await?;
        operator::prepare(&control_plane).await?;
        guards::in_force(&control_plane, &guards::Guards::default()).await?;
        let client = control_plane.client().await?;
        let receiver = Receiver::listen(arguments.seed).await?;
        declare(&client, &receiver).await?;
        let mut replicas = Vec::new();
        for number in 0..arguments.replicas {
            let troubles = Troubles::new(arguments.seed.wrapping_add(u64::from(number)), arguments.percent);
            replicas.push(Replica::start(binary, &control_plane, number.into(), troubles).await?);
        }
        let bed = Self { client, replicas, receiver, control_plane };
        bed.leader().await?;
        playbook_is_ready(&bed.client).await?;
        Ok(bed)
    }

    /// One load, with everything that goes wrong in it, to the audit.
    async fn round(&self, arguments: &Arguments, upheaval: Upheaval, outcome: &mut Outcome) -> Result<Verdict> {
        let namespace = TestNamespace::create(&self.control_plane, "faults").await?;
        let number = usize::try_from(arguments.seconds * arguments.rate)?;
        let names: Vec<String> = (0..number + number / BYSTANDERS).map(|index| format!("pod-{index:05}")).collect();
        pods(&namespace, &names).await?;
        let alerts = Arc::new(Alerts::default());
        println!("{number} pods are named by alerts, {} at a second", arguments.rate);
        self.trouble(true);
        let began = Instant::now();
        let over = CancellationToken::new();
        let load = self.load(arguments, namespace.name(), &names[..number], &alerts, &over);
        let disturb = async {
            let successions = self.disturb(arguments.seconds, upheaval).await;
            over.cancel();
            successions
        };
        let (loaded, successions) = tokio::join!(load, disturb);
        loaded?;
        let successions = successions?;
        println!("all alerts are answered after {:.0} s", began.elapsed().as_secs_f64());
        self.trouble(false);
        let undone = if arguments.soak.is_some() { self.meddle(&namespace, &alerts).await? } else { Vec::new() };
        let verdict = self.settle(namespace.name(), &alerts, &undone).await?;
        self.tell_of(&successions, namespace.name());
        outcome.alerts += lock(&alerts).values().filter(|alert| alert.answered > 0).count();
        outcome.lost += verdict.lost.len();
        outcome.doubled += verdict.doubled.len();
        outcome.beyond += verdict.beyond.len();
        Ok(verdict)
    }

    fn trouble(&self, on: bool) {
        self.replicas.iter().for_each(|replica| replica.troubles.switch(on));
    }

    /// Alerts at the rate, each from a sender that goes on until it is answered with success. When all have come once, they come again, until
    /// what goes wrong is `over`.
    async fn load(
        &self,
        arguments: &Arguments,
        namespace: &str,
        pods: &[String],
        alerts: &Arc<Alerts>,
        over: &CancellationToken,
    ) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / arguments.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let timed = stream::unfold((ticks, pods.iter().cycle().enumerate()), |(mut ticks, mut named)| async move {
            let next = named.next().filter(|(index, _)| *index < pods.len() || !over.is_cancelled())?;
            ticks.tick().await;
            Some((next, (ticks, named)))
        });
        let senders = timed.map(|(index, pod)| async move {
            let signal = alert(namespace, pod);
            self.send(index, pod, &signal, alerts).await?;
            if index % REPEATED == 0 {
                self.send(index + 1, pod, &signal, alerts).await?;
            }
            anyhow::Ok(())
        });
        senders.buffer_unordered(pods.len().max(1)).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn send(&self, index: usize, pod: &str, signal: &Value, alerts: &Alerts) -> Result<()> {
        let mut to = index;
        let what = format!("the alert about {pod} is answered with success");
        wait::eventually_every(SEND_AGAIN, PATIENCE, &what, async || {
            let replica = &self.replicas[to % self.replicas.len()];
            to += 1;
            lock(alerts).entry(pod.to_owned()).or_default().posted += 1;
            let answered = replica.post(SOURCE, signal).await?;
            if answered {
                lock(alerts).entry(pod.to_owned()).or_default().answered += 1;
                return Ok(Some(()));
            }
            Ok(None)
        })
        .await
    }

    /// In a soak people undo runs, and change playbooks.
    async fn meddle(&self, namespace: &TestNamespace, alerts: &Alerts) -> Result<Vec<String>> {
        let runs: Api<Remediation> = namespace.api();
        let asked: Vec<String> = lock(alerts).keys().step_by(10).cloned().collect();
        let mut undone = Vec::new();
        for run in runs.list(&ListParams::default()).await?.items {
            if !asked.contains(&run.spec.target.name) {
                continue;
            }
            let name = run.metadata.name.clone().unwrap_or_default();
            let patch = Patch::Merge(json!({ "spec": { "intent": "Undo" } }));
            runs.patch(&name, &PatchParams::default(), &patch).await?;
            undone.push(run.spec.target.name);
        }
        let playbooks: Api<ClusterPlaybook> = Api::all(self.client.clone());
        let priority =
            json!({ "spec": { "match": { "minSeverity": if undone.len() % 2 == 0 { "High" } else { "Medium" } } } });
        playbooks.patch("contain", &PatchParams::default(), &Patch::Merge(&priority)).await?;
        playbook_is_ready(&self.client).await?;
        Ok(undone)
    }

    /// Waits until nothing is missing, or nothing more can be hoped for; then audits.
    async fn settle(&self, namespace: &str, alerts: &Alerts, undone: &[String]) -> Result<Verdict> {
        let alerts: BTreeMap<String, Alert> =
            lock(alerts).clone().into_iter().filter(|(pod, _)| !undone.contains(pod)).collect();
        ensure!(!alerts.is_empty(), "no alert was sent");
        let what = "everything that was answered with success is done";
        let settled = wait::eventually_every(LOOK_AGAIN, PATIENCE, what, async || {
            for replica in &self.replicas {
                replica.keep_running()?;
            }
            let found = Found::read(&self.client, namespace).await?;
            let missing: Vec<String> = alerts.iter().filter_map(|(pod, alert)| found.missing(pod, alert)).collect();
            ensure!(missing.is_empty(), "{} missing, such as {}", missing.len(), missing[0]);
            Ok(Some(()))
        });
        if let Err(error) = settled.await {
            println!("{error:#}");
        }
        for replica in &self.replicas {
            replica.proxy.settled().await;
        }
        let found = Found::read(&self.client, namespace).await?;
        let records: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| (replica.identity.clone(), replica.proxy.records().select(|_| true)))
            .collect();
        let mut known = alerts;
        // What was undone was changed twice, and is told of by its own tests.
        known.extend(undone.iter().map(|pod| (pod.clone(), Alert { posted: 1, answered: 0 })));
        let mut verdict = judge(&found, &known, &records, &self.receiver.told(), namespace);
        verdict.doubled.retain(|what| !undone.iter().any(|pod| what.starts_with(&format!("{pod}: changed 2 "))));
        Ok(verdict)
    }

    fn tell(&self, verdict: &Verdict) {
        let mut all = BTreeMap::new();
        for replica in &self.replicas {
            for (trouble, count) in replica.troubles.counts() {
                *all.entry(format!("{trouble:?}")).or_insert(0) += count;
            }
        }
        println!("troubles: {all:?}");
        for (what, list) in [("lost", &verdict.lost), ("doubled", &verdict.doubled), ("beyond", &verdict.beyond)] {
            for one in list.iter().take(10) {
                println!("{what}: {one}");
            }
        }
        if !verdict.lost.is_empty() {
            for replica in &self.replicas {
                println!("the log of {} ends with:\n{}", replica.identity, replica.log_tail());
            }
        }
    }

    async fn stop(self) -> Result<()> {
        let Self { replicas, control_plane, .. } = self;
        tokio::task::spawn_blocking(move || drop(replicas)).await.context("interrupted while Quell ended")?;
        control_plane.stop().await
    }
}
