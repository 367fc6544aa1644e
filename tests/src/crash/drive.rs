//! One scenario: undisturbed first, then with a death at each boundary.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use quell_crds::v1alpha1::Remediation;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::bed::Bed;
use super::boundary::{Boundary, Point, Side};
use super::scenario::{From, Scenario, Staged};
use super::state::{self, Seen};

/// An undisturbed run is made this often: what differs between these runs is no work of a crash.
const UNDISTURBED: usize = 3;
/// No request for this long is the end of a run.
const QUIET: Duration = Duration::from_millis(1500);
/// In which a run that was cut short must have come to its end.
const PATIENCE: Duration = Duration::from_secs(25);
/// The state is read again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(40);
/// A run that has come to its end, and met no death, may meet it with its last answer for so long.
const LAST_ANSWER: Duration = Duration::from_millis(300);
/// A run that comes to its end without reaching its boundary is made again this often.
const TRIES: usize = 3;

/// What came of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Deaths.
    pub boundaries: usize,
    /// Of these, after which something was missing.
    pub lost: usize,
    /// Of these, after which something was there twice.
    pub doubled: usize,
    /// Points that later runs did not come to.
    pub unreached: usize,
    /// Scenarios that could not be played to their end.
    pub broken: usize,
}

/// How things are after an undisturbed run.
struct Expected {
    points: BTreeSet<Point>,
    state: Vec<String>,
    effects: BTreeMap<String, usize>,
    taken: Vec<String>,
}

/// Plays scenarios on a bed.
pub struct Driver<'a> {
    bed: &'a Bed,
    scenario: &'a Scenario,
    prefix: String,
    runs: std::cell::Cell<usize>,
}

impl<'a> Driver<'a> {
    /// `prefix` is what the namespaces of its runs begin with.
    #[must_use]
    pub fn new(bed: &'a Bed, scenario: &'a Scenario, prefix: String) -> Self {
        Self { bed, scenario, prefix, runs: std::cell::Cell::new(0) }
    }

    /// All boundaries, or those that are `asked` for.
    pub async fn play(&self, asked: &[Boundary]) -> Result<Outcome> {
        self.bed.playbook(&self.scenario.text(&self.bed.receivers)?).await?;
        self.bed.run_quell().await?;
        self.bed.all_ready().await?;
        let expected = Box::pin(self.undisturbed()).await.context("undisturbed")?;
        let boundaries: Vec<Boundary> = match asked {
            [] => {
                let points = expected.points.iter().cloned();
                points
                    .flat_map(|point| [Side::Before, Side::After].map(|side| Boundary { point: point.clone(), side }))
                    .collect()
            }
            some => some.to_vec(),
        };
        let mut outcome = Outcome::default();
        for (index, boundary) in boundaries.iter().enumerate() {
            Box::pin(self.one(&expected, boundary, index + 1, boundaries.len(), &mut outcome)).await?;
        }
        self.bed.kill_quell();
        Ok(outcome)
    }

    async fn undisturbed(&self) -> Result<Expected> {
        let mut all: Vec<Expected> = Vec::new();
        for _ in 0..UNDISTURBED {
            let run = Box::pin(self.begin(None)).await?;
            let sent = self.provoke(&run).await?;
            ensure!(sent <= 1, "the signal was sent {sent} times, with nothing broken");
            self.over(&run).await?;
            let points = self.bed.trap.disarm().into_iter().collect();
            let seen = self.look(&run).await?;
            let (effects, taken) = self.effects(&run);
            all.push(Expected { points, state: seen.state, effects, taken });
        }
        let mut all = all.into_iter();
        let mut first = all.next().context("no run")?;
        for other in all {
            let difference = state::difference(&first.state, &other.state);
            ensure!(difference.is_empty(), "two undisturbed runs differ:\n{difference}");
            ensure!(
                first.effects == other.effects,
                "two undisturbed runs differ: {:?} {:?}",
                first.effects,
                other.effects
            );
            let difference = state::difference(&first.taken, &other.taken);
            ensure!(difference.is_empty(), "two undisturbed runs tell differently:\n{difference}");
            first.points.extend(other.points);
        }
        Ok(first)
    }

    async fn one(
        &self,
        expected: &Expected,
        boundary: &Boundary,
        number: usize,
        of: usize,
        outcome: &mut Outcome,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let began = Instant::now();
            let run = Box::pin(self.begin(Some(boundary.clone()))).await?;
            let deaths = self.bed.trap.deaths();
            let before = *deaths.borrow();
            let ended = self.through(&run, expected, before).await;
            let died = *deaths.borrow() > before;
            let _ = self.bed.trap.disarm();
            if !died {
                ended?;
                continue;
            }
            outcome.boundaries += 1;
            let (lost, doubled) = (ended.err(), self.doubled(&run, expected));
            let name = self.scenario.name;
            println!(
                "{name} {number}/{of} {boundary}: {:.1} s{}",
                began.elapsed().as_secs_f64(),
                match (&lost, &doubled) {
                    (None, None) => "",
                    (Some(_), None) => " LOST",
                    (None, Some(_)) => " DOUBLED",
                    (Some(_), Some(_)) => " LOST, DOUBLED",
                }
            );
            outcome.lost += usize::from(lost.is_some());
            outcome.doubled += usize::from(doubled.is_some());
            if let Some(problem) =
                lost.map(|error| format!("{error:#}")).into_iter().chain(doubled).reduce(|a, b| a + "\n" + &b)
            {
                println!("{problem}\n  alone: cargo crash --scenario {name} --boundary '{boundary}'");
            }
            return Ok(());
        }
        println!("{} {number}/{of} {boundary}: not reached", self.scenario.name);
        outcome.unreached += 1;
        Ok(())
    }

    /// From the beginning to the end, with a death in between.
    async fn through(&self, run: &Run, expected: &Expected, before: usize) -> Result<()> {
        let mut deaths = self.bed.trap.deaths();
        let provoked = self.provoke(run);
        let again = async {
            deaths.wait_for(|deaths| *deaths > before).await.context("the trap is gone")?;
            self.bed.run_quell().await
        };
        let (mut provoked, mut again) = (std::pin::pin!(provoked), std::pin::pin!(again));
        let (mut sent, mut alive) = (None, true);
        let mut end = Instant::now() + PATIENCE;
        let mut calm = None;
        let mut looks = tokio::time::interval(LOOK_AGAIN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = &mut provoked, if sent.is_none() => sent = Some(told?),
                started = &mut again, if alive => {
                    started?;
                    alive = false;
                    end = Instant::now() + PATIENCE;
                }
                _ = looks.tick(), if sent.is_some() => {
                    let found = self.look(run).await?;
                    let (_, taken) = self.effects(run);
                    let tries = i64::from(sent.unwrap_or_default().max(1));
                    let difference = [
                        state::difference(&expected.state, &found.state),
                        state::difference(&expected.taken, &taken),
                        count(&found, tries),
                    ].join("");
                    let died = *self.bed.trap.deaths().borrow() > before;
                    if difference.is_empty() && !alive {
                        return Ok(());
                    }
                    let mut calm_is_over =
                        || Instant::now() > *calm.get_or_insert(Instant::now() + LAST_ANSWER);
                    if difference.is_empty() && !died && calm_is_over() {
                        return Ok(());
                    }
                    if Instant::now() > end {
                        bail!("after {} s:\n{difference}\nthe log of Quell ends with:\n{}", PATIENCE.as_secs(), self.bed.log_tail());
                    }
                }
            }
        }
    }

    /// What was done more often than undisturbed.
    fn doubled(&self, run: &Run, expected: &Expected) -> Option<String> {
        let (effects, _) = self.effects(run);
        let more: Vec<String> = effects
            .iter()
            .filter(|(what, count)| **count > expected.effects.get(*what).copied().unwrap_or_default())
            .map(|(what, count)| format!("  {count} times: {what}"))
            .collect();
        (!more.is_empty()).then(|| more.join("\n"))
    }

    async fn begin(&self, boundary: Option<Boundary>) -> Result<Run> {
        let number = self.runs.replace(self.runs.get() + 1);
        // Of one length, so that none is the beginning of another.
        let namespace = format!("{}-{number:04}", self.prefix);
        let staged = Box::pin(self.scenario.stage(&self.bed.client, &namespace)).await.context("setting the stage")?;
        let arm = || self.bed.trap.arm(&namespace, boundary.clone());
        let mut run = Run { staged, from: self.bed.proxy.records().len(), undo: None };
        match self.scenario.from {
            From::Signal => arm(),
            From::Undo => {
                self.signal(&run).await?;
                self.over_in(&run, "Succeeded").await?;
                let seen = self.look(&run).await?;
                let [(of, name, _)] = seen.runs.as_slice() else { bail!("{} runs", seen.runs.len()) };
                run.undo = Some((of.clone(), name.clone()));
                run.from = self.bed.proxy.records().len();
                arm();
            }
            From::Start => {
                // A Finding that was stored, and nobody acted on: whoever took it in was killed right then.
                let stored = Boundary {
                    point: Point {
                        what: "POST /apis/quell.dev/v1alpha1/namespaces/{ns}/findings".to_owned(),
                        occurrence: 1,
                    },
                    side: Side::After,
                };
                let deaths = self.bed.trap.deaths();
                let before = *deaths.borrow();
                self.bed.trap.arm(&namespace, Some(stored));
                let (source, signal) = (self.scenario.signal)(&run.staged);
                tokio::select! {
                    answered = self.bed.send(source, &signal) => bail!("answered, not killed: {answered:?}"),
                    died = wait_for(deaths, before) => died?,
                }
                self.bed.proxy.settled().await;
                arm();
            }
        }
        Ok(run)
    }

    /// What the run begins with. The answer is how often a signal was posted.
    async fn provoke(&self, run: &Run) -> Result<u32> {
        match self.scenario.from {
            From::Signal => self.signal(run).await,
            From::Undo => {
                let (namespace, name) = run.undo.as_ref().context("no run to undo")?;
                undo(&self.bed.client, namespace, name).await?;
                Ok(0)
            }
            From::Start => {
                self.bed.run_quell().await?;
                Ok(0)
            }
        }
    }

    async fn signal(&self, run: &Run) -> Result<u32> {
        let (source, signal) = (self.scenario.signal)(&run.staged);
        self.bed.send(source, &signal).await
    }

    async fn over(&self, run: &Run) -> Result<()> {
        self.over_in(run, self.scenario.from.ends_in()).await
    }

    async fn over_in(&self, run: &Run, phase: &str) -> Result<()> {
        crate::wait::eventually(PATIENCE, &format!("every run is {phase}"), async || {
            let seen = self.look(run).await?;
            ensure!(seen.is_over(phase), "{:?} {:?}\n{}", seen.runs, seen.findings, seen.state.join("\n"));
            Ok(Some(()))
        })
        .await
        .map_err(|error| error.context(self.bed.log_tail()))?;
        self.quiet().await
    }

    async fn quiet(&self) -> Result<()> {
        let mut last = (0, Instant::now());
        crate::wait::eventually(PATIENCE, "no further request", async || {
            let now = self.bed.proxy.records().len();
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok((last.1.elapsed() > QUIET).then_some(()))
        })
        .await
    }

    async fn look(&self, run: &Run) -> Result<Seen> {
        state::read(&self.bed.client, &run.staged.namespace).await
    }

    fn effects(&self, run: &Run) -> (BTreeMap<String, usize>, Vec<String>) {
        let mut index = 0;
        let records = self.bed.proxy.records().select(|_| {
            index += 1;
            index > run.from
        });
        let namespace = &run.staged.namespace;
        (state::effects(namespace, &records), self.bed.receivers.taken(namespace))
    }
}

struct Run {
    staged: Staged,
    /// How many requests came before it.
    from: usize,
    /// Namespace and name of the run that is to be undone.
    undo: Option<(String, String)>,
}

/// A sender that got no answer sends again, so its signal counts at least once and at most as often as it was sent.
fn count(found: &Seen, tries: i64) -> String {
    let wrong = found.findings.iter().filter(|(_, count)| !(1..=tries).contains(count));
    let told: Vec<String> =
        wrong.map(|(_, count)| format!("  count {count} of a signal that was sent {tries} times")).collect();
    told.join("\n")
}

async fn wait_for(mut deaths: tokio::sync::watch::Receiver<usize>, before: usize) -> Result<()> {
    deaths.wait_for(|deaths| *deaths > before).await.map(drop).context("the trap is gone")
}

async fn undo(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let runs: Api<Remediation> = Api::namespaced(client.clone(), namespace);
    let intent: Value = json!({ "spec": { "intent": "Undo" } });
    runs.patch(name, &PatchParams::default(), &Patch::Merge(intent)).await?;
    Ok(())
}
