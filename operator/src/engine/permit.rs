//! Whether an effect may be made: asked at its moment, answered from what is known, without a request.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use quell_actions::{ActionError, Gate, mark, quarantine};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::{
    Disruption, Mode, Remediation, RemediationStatus, StepKind, StepRecord, StepState, Workload,
};
use quell_playbooks::PodFacts;
use quell_playbooks::guardrails::{Guardrails, Hold, Impact, Key, Ledger, Purpose, Subject, Verdict, reach};
use serde_json::Value;

use crate::caches::Caches;
use crate::engine::{Queue, Stage};
use crate::guardrails::{Known, Watched};

/// A watch on the Guardrails that was interrupted is back in a moment, as a rule; so long an effect waits before it is held.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often what no limit counts any more is forgotten.
const FORGET_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Lets effects through, or holds them.
pub struct Permits {
    watched: Arc<Watched>,
    held: Arc<HeldRuns>,
    counted: Mutex<Counted>,
    /// Steps whose effect was let through and isn't over: what they do further is a part of it.
    begun: Mutex<HashSet<Key>>,
}

#[derive(Default)]
struct Counted {
    ledger: Ledger,
    /// What is recorded was counted as far back as this.
    recalled: Option<Duration>,
    forgotten: Option<DateTime<Utc>>,
}

impl Permits {
    /// `held` is told which runs wait.
    #[must_use]
    pub fn new(watched: Arc<Watched>, held: Arc<HeldRuns>) -> Arc<Self> {
        Arc::new(Self { watched, held, counted: Mutex::default(), begun: Mutex::default() })
    }

    /// This process leads from now on: what others let through is in the records.
    pub fn lead(&self) {
        *self.counted() = Counted::default();
    }

    /// The Guardrails as they are known now.
    #[must_use]
    pub fn known(&self) -> Arc<Known> {
        self.watched.known()
    }

    /// Whether a step may have its effect now. With no Guardrail there is nothing to wait for.
    pub(crate) async fn ask(
        &self,
        stage: &Stage<'_>,
        step: usize,
        kind: &StepKind,
        purpose: Purpose,
    ) -> Result<(), Hold> {
        if !reach(kind).changes || purpose == Purpose::UndoOfAPerson {
            return Ok(());
        }
        let known = self.watched.known_within(PATIENCE).await;
        if known.is_known() && known.guardrails.is_empty() {
            return Ok(());
        }
        let key = key(stage.run, &stage.steps[step].step.name);
        // From here on a change wakes the run: one that comes while this is decided must not be missed.
        self.held.asks(&key, &stage.run.spec.target.namespace);
        let known = self.watched.known();
        let answer = match known.standstill() {
            Some(hold) => Err(hold),
            None if purpose == Purpose::Upkeep || self.has_begun(&key, &stage.records[step]) => Ok(()),
            None => self.judge(&known.guardrails, stage, step, kind, &key),
        };
        match &answer {
            Ok(()) => {
                self.held.goes_on(&key);
                self.begun().insert(key);
            }
            Err(hold) => self.held.holds(&key, hold, &stage.run.spec.target.namespace),
        }
        answer
    }

    /// What holds everything that isn't asked for by a person; the run is told when nothing does any more.
    pub(crate) fn standstill(&self, run: &Remediation, step: &str) -> Option<Hold> {
        self.held.asks(&key(run, step), &run.spec.target.namespace);
        let hold = self.known().standstill()?;
        self.held.holds(&key(run, step), &hold, &run.spec.target.namespace);
        Some(hold)
    }

    fn has_begun(&self, key: &Key, record: &StepRecord) -> bool {
        record.receipt.is_some() || self.begun().contains(key)
    }

    fn judge(
        &self,
        guardrails: &Guardrails,
        stage: &Stage<'_>,
        step: usize,
        kind: &StepKind,
        key: &Key,
    ) -> Result<(), Hold> {
        let (engine, run, world) = (stage.engine, stage.run, stage.world);
        let caches = &*engine.caches;
        let target = &run.spec.target;
        let about = match target.namespace.as_str() {
            "" => format!("{} {}", target.kind, target.name),
            namespace => format!("{} {namespace}/{}", target.kind, target.name),
        };
        let pod = world.target.pod();
        let pod_labels = pod.map(|pod| {
            let mut labels = pod.labels.clone();
            // Those that it had before a quarantine say what it is.
            let before = mark::before(pod.annotations.as_ref());
            for (key, value) in before.get("labels").and_then(Value::as_object).into_iter().flatten() {
                labels.entry(key.clone()).or_insert_with(|| value.as_str().unwrap_or_default().to_owned());
            }
            labels
        });
        let workload = world.workload.as_ref();
        let kinds: BTreeSet<String> =
            [Some(target.kind.clone()), workload.map(|one| one.kind.clone())].into_iter().flatten().collect();
        let others = others(stage, step, kind);
        let mut impact = reach(kind).disrupts.and_then(|disruption| impact(caches, run, disruption));
        if let Some(impact) = &mut impact {
            impact.pods.extend(others.iter().map(|(pod, workload)| caches.place(workload, &pod.node)));
        }
        let contains = reach(kind).disrupts == Some(Disruption::Contained);
        let cut_off = others.iter().map(|(pod, _)| pod.name.as_str()).collect();
        let last_ready_of = pod.filter(|_| contains).and_then(|pod| caches.only_ready_pod_of(pod, &cut_off));
        let subject = Subject {
            purpose: Purpose::Effect,
            step: &stage.steps[step].step.name,
            kind,
            allow_last_replica: stage.steps[step].step.allow_last_replica,
            scope: stage.scope,
            about: &about,
            namespace: &target.namespace,
            namespace_labels: &caches.namespace_labels(&target.namespace),
            pod_labels: pod_labels.as_ref(),
            kinds: &kinds,
            impact: impact.as_ref(),
            last_ready_of: last_ready_of.as_deref(),
        };
        for (pod, workload) in &others {
            let about = format!("Pod {}/{}, which runs the same image,", pod.namespace, pod.name);
            let kinds = ["Pod".to_owned(), workload.kind.clone()].into();
            let other = Subject { about: &about, pod_labels: Some(&pod.labels), kinds: &kinds, ..subject };
            if let Some(hold) = guardrails.protects(&other) {
                return Err(hold);
            }
        }
        let now = Utc::now();
        let mut counted = self.counted();
        let longest = guardrails.readable.iter().filter_map(|one| one.longest_window()).max();
        if let Some(longest) = longest {
            counted.recall(caches, longest, now);
        }
        match guardrails.decide(&subject, key, &mut counted.ledger, caches, now) {
            Verdict::Go => Ok(()),
            Verdict::Held(hold) => Err(hold),
        }
    }

    /// What became of a try: one that is over, and wasn't good, asks anew the next time.
    pub(crate) fn tried(&self, run: &Remediation, step: &str, goes_on: bool) {
        if !goes_on {
            self.begun().remove(&key(run, step));
        }
    }

    /// What was undone, or came to nothing, is counted no more; who waits for the slot is woken.
    pub(crate) fn recorded(&self, run: &Remediation, status: &RemediationStatus) {
        let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
        let mut next = Vec::new();
        {
            let mut counted = self.counted();
            for (step, record) in run.spec.all_steps().zip(&status.steps) {
                let none = match record.state {
                    StepState::Undone | StepState::Skipped => true,
                    StepState::Failed | StepState::Cancelled => record.receipt.is_none(),
                    _ => false,
                };
                if none && reach(&step.kind).disrupts.is_some() {
                    next.extend(counted.ledger.release(&key(run, &step.name), |key| self.held.is_held(key)));
                }
            }
            if status.phase.is_final() {
                counted.ledger.forget_waiting(&namespace, &name);
            }
        }
        if status.phase.is_final() {
            self.held.forget(&namespace, &name);
            self.begun().retain(|key| key.namespace != namespace || key.remediation != name);
        }
        for key in next {
            self.held.wake(&key);
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for Permits {
    fn pass(&self) -> Result<(), ActionError> {
        match self.known().standstill() {
            None => Ok(()),
            Some(hold) => Err(ActionError::for_now(hold.reason, hold.message)),
        }
    }
}

impl Counted {
    /// Counts what is recorded, where it isn't yet: the runs' records, and pods whose quarantine carries the only record that there is.
    fn recall(&mut self, caches: &Caches, longest: Duration, now: DateTime<Utc>) {
        let then = TimeDelta::from_std(longest).ok().and_then(|longest| now.checked_sub_signed(longest));
        if self.forgotten.is_none_or(|last| now - last > FORGET_EVERY) {
            self.ledger.forget_before(then.unwrap_or(DateTime::<Utc>::MIN_UTC));
            self.forgotten = Some(now);
        }
        if self.recalled.is_some_and(|recalled| recalled >= longest) {
            return;
        }
        self.recalled = Some(longest);
        for run in caches.remediations.state().iter().filter(|run| run.spec.mode == Mode::Enforce) {
            let records = run.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
            for (step, record) in run.spec.all_steps().zip(records) {
                let Some(disruption) = reach(&step.kind).disrupts else { continue };
                let at = record.finished_at.or(record.started_at).filter(|at| then.is_none_or(|then| *at >= then));
                if let (true, Some(at), Some(mut impact)) = (is_in_effect(record), at, impact(caches, run, disruption))
                {
                    for other in record.receipt.iter().flat_map(quarantine::cut_off).skip(1) {
                        let workload = caches.pod(&other.namespace, &other.name).map(|pod| caches.top_owner(&pod));
                        impact.pods.push(caches.place(&workload.unwrap_or_default(), ""));
                    }
                    self.ledger.count(key(run, &step.name), impact, at);
                }
            }
        }
        for (key, impact) in caches.unrecorded_quarantines() {
            self.ledger.count(key, impact, now);
        }
    }
}

/// Whether what the step does is done, or may be.
fn is_in_effect(record: &StepRecord) -> bool {
    match record.state {
        StepState::Undone
        | StepState::Skipped
        | StepState::Pending
        | StepState::AwaitingApproval
        | StepState::Waiting
        | StepState::Held => false,
        StepState::Failed | StepState::Cancelled => record.receipt.is_some(),
        _ => true,
    }
}

fn key(run: &Remediation, step: &str) -> Key {
    Key { namespace: run.namespace().unwrap_or_default(), remediation: run.name_any(), step: step.to_owned() }
}

/// What a step of the run does to pods, as far as the copies tell.
fn impact(caches: &Caches, run: &Remediation, disruption: Disruption) -> Option<Impact> {
    let target = &run.spec.target;
    let workload = run.spec.workload.as_ref();
    let own = Workload {
        kind: "Pod".to_owned(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        ..Workload::default()
    };
    let pods = match disruption {
        Disruption::Contained if target.kind != "Pod" => return None,
        Disruption::Contained => {
            let node = caches.pod(&target.namespace, &target.name).and_then(|pod| pod.spec.clone()?.node_name);
            vec![caches.place(workload.unwrap_or(&own), node.as_deref().unwrap_or(&target.node))]
        }
        Disruption::Restarted => caches.places_of(workload?),
    };
    Some(Impact { disruption, namespace: target.namespace.clone(), pods })
}

/// Other pods that the step would cut off as well.
fn others(stage: &Stage<'_>, step: usize, kind: &StepKind) -> Vec<(PodFacts, Workload)> {
    let (StepKind::Quarantine(parameters), Some(pod)) = (kind, stage.world.target.pod()) else { return Vec::new() };
    let mark = stage.mark(step);
    quarantine::others(parameters, pod, &stage.context(&mark, step))
}

/// Runs that are held, and what wakes each.
pub struct HeldRuns {
    all: Mutex<HashMap<Key, Held>>,
    runs: Queue<Remediation>,
}

struct Held {
    reason: Reason,
    guardrail: String,
    /// Namespace of the target.
    namespace: String,
}

impl HeldRuns {
    /// `runs` is told which to look at.
    #[must_use]
    pub fn new(runs: Queue<Remediation>) -> Self {
        Self { all: Mutex::default(), runs }
    }

    /// The Guardrails are others than before, or can be read again.
    pub fn wake_all(&self) {
        for key in self.all().keys() {
            self.wake(key);
        }
    }

    /// Something in a namespace has changed on which a Guardrail may hang: which pods are ready, or labels.
    pub fn namespace_changed(&self, namespace: &str) {
        let all = self.all();
        let hangs = |held: &Held| {
            matches!(held.reason, Reason::LastReadyReplica | Reason::Protected | Reason::GuardrailUnreadable)
                && held.namespace == namespace
        };
        for (key, _) in all.iter().filter(|(_, held)| hangs(held)) {
            self.wake(key);
        }
    }

    /// The Guardrail that holds a step.
    #[must_use]
    pub fn guardrail_of(&self, run: &Remediation, step: &str) -> Option<String> {
        self.all().get(&key(run, step)).map(|held| held.guardrail.clone())
    }

    fn holds(&self, key: &Key, hold: &Hold, namespace: &str) {
        let (reason, guardrail) = (hold.reason, hold.guardrail.clone());
        self.all().insert(key.clone(), Held { reason, guardrail, namespace: namespace.to_owned() });
    }

    fn asks(&self, key: &Key, namespace: &str) {
        let asks =
            || Held { reason: Reason::GuardrailUnreadable, guardrail: String::new(), namespace: namespace.to_owned() };
        self.all().entry(key.clone()).or_insert_with(asks);
    }

    fn is_held(&self, key: &Key) -> bool {
        self.all().contains_key(key)
    }

    fn goes_on(&self, key: &Key) {
        self.all().remove(key);
    }

    /// A run that is over, or gone, waits no more.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.all().retain(|key, _| key.namespace != namespace || key.remediation != name);
    }

    fn wake(&self, key: &Key) {
        self.runs.send(ObjectRef::new(&key.remediation).within(&key.namespace));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step that an object carries the mark of.
pub(crate) fn marked(annotations: &std::collections::BTreeMap<String, String>) -> Option<(Key, String)> {
    let (namespace, finding) = annotations.get(names::FINDING)?.split_once('/')?;
    let key = Key {
        namespace: namespace.to_owned(),
        remediation: annotations.get(names::REMEDIATION)?.clone(),
        step: annotations.get(names::STEP)?.clone(),
    };
    Some((key, finding.to_owned()))
}
