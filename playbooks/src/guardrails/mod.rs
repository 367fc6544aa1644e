//! What no playbook may do, whatever it says: whether a step may have its effect now, or is held, with the reason and the numbers.
//!
//! Facts, counts and time are arguments. What was let through is kept in a [`Ledger`], so that of a thousand that ask at once no more get
//! through than may.

mod compile;
mod freeze;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use kube::core::{Selector as LabelMatcher, SelectorExt as _};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::HostNetwork;
use quell_crds::v1alpha1::{Disruption, StepKind};
use serde_json::json;

pub use compile::{Compiled, Problem, compile};
pub use ledger::{Group, Impact, Key, Ledger, Place, Totals};

use crate::cel::{Expression, Scope};

/// All Guardrails that there are.
#[derive(Clone, Debug, Default)]
pub struct Guardrails {
    /// Those that can be read.
    pub readable: Vec<Arc<Compiled>>,
    /// Names of the others, and what is wrong with each. While there is one, nothing is let through.
    pub unreadable: Vec<(String, String)>,
}

/// Why something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A step's effect.
    Effect,
    /// To end what was begun, or to keep up or put back what Quell did: held by the stop switch alone.
    Upkeep,
    /// An undo that a person asked for: held by nothing. It is the way back when Quell did what it shouldn't have, so the stop switch must not
    /// stand in it.
    UndoOfAPerson,
}

/// What is about to be done, and to what.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What for.
    pub purpose: Purpose,
    /// Name of the step.
    pub step: &'a str,
    /// What it does.
    pub kind: &'a StepKind,
    /// The step may contain the last ready pod.
    pub allow_last_replica: bool,
    /// What expressions see: what a step's own do.
    pub scope: &'a Scope,
    /// The target, for people, such as `Pod shop/web-1`.
    pub about: &'a str,
    /// Namespace of the target; empty where it is in none.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Labels of the pod, those that it had before a quarantine included.
    pub pod_labels: Option<&'a BTreeMap<String, String>>,
    /// Kinds of the target and its workload.
    pub kinds: &'a BTreeSet<String>,
    /// What becomes of pods.
    pub impact: Option<&'a Impact>,
    /// The workload whose last ready pod would be contained.
    pub last_ready_of: Option<&'a str>,
}

/// Whether it may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may. What counts for a limit is counted.
    Go,
    /// Not now.
    Held(Hold),
}

/// Why not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Name of the Guardrail.
    pub guardrail: String,
    /// The category.
    pub reason: Reason,
    /// What holds it, with the numbers, and what to do.
    pub message: String,
    /// When to ask again at the latest; `None`: when something changes.
    pub until: Option<DateTime<Utc>>,
}

/// What the expressions of a Guardrail may name.
pub const VARIABLES: &[&str] = &["finding", "target", "workload", "namespace", "remediation", "step"];

/// How far a kind of step reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// It changes something, in the cluster or outside: more than telling people and letting time pass.
    pub changes: bool,
    /// What it does to pods that counts for limits.
    pub disrupts: Option<Disruption>,
    /// Kinds of the objects that it writes, beside its target and workload.
    pub writes: &'static [&'static str],
}

/// How far that kind of step reaches.
#[must_use]
pub fn reach(kind: &StepKind) -> Reach {
    let changes = Reach { changes: true, disrupts: None, writes: &[] };
    match kind {
        StepKind::Quarantine(quarantine) => Reach {
            disrupts: Some(Disruption::Contained),
            writes: if quarantine.host_network == HostNetwork::Cordon { &["Pod", "Node"] } else { &["Pod"] },
            ..changes
        },
        StepKind::DenyImage(_) => Reach { writes: &["ImageBlock"], ..changes },
        StepKind::Rollback(_) | StepKind::SetImage(_) => Reach { disrupts: Some(Disruption::Restarted), ..changes },
        StepKind::Rebuild(_) => changes,
        // Of a pod that is under quarantine, and so counted already.
        StepKind::SeverConnections(_) => Reach { writes: &["Pod"], ..changes },
        StepKind::RevokeAccess(_) => {
            Reach { writes: &["ServiceAccount", "RoleBinding", "ClusterRoleBinding"], ..changes }
        }
        StepKind::Notify(_) | StepKind::Wait(_) => Reach { changes: false, ..changes },
    }
}

impl Guardrails {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readable.is_empty() && self.unreadable.is_empty()
    }

    /// Names of the ClusterChannels that a Guardrail names.
    #[must_use]
    pub fn channels(&self, guardrail: &str) -> Vec<String> {
        let of = self.readable.iter().find(|one| one.name == guardrail);
        of.map(|one| one.channels.clone()).unwrap_or_default()
    }

    /// Whether every run that begins is a dry run.
    #[must_use]
    pub fn learn(&self) -> bool {
        self.readable.iter().any(|one| one.learn)
    }

    /// What holds everything: the stop switch, learning, or a Guardrail that can't be read.
    #[must_use]
    pub fn standstill(&self) -> Option<Hold> {
        if let Some(stopped) = self.readable.iter().find(|one| one.stop) {
            let why = stopped.stop_reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
            let message = format!(
                "Guardrail {} has the stop switch on{why}: nothing is done until it is off: kubectl quell go",
                stopped.name
            );
            return Some(hold(&stopped.name, Reason::Stopped, message, None));
        }
        if let Some(learns) = self.readable.iter().find(|one| one.learn) {
            let message = format!(
                "Guardrail {} has all playbooks learn: new runs are dry runs, and this one, which began before, goes on when that ends",
                learns.name
            );
            return Some(hold(&learns.name, Reason::Learning, message, None));
        }
        let (name, problem) = self.unreadable.first()?;
        let message = format!(
            "Guardrail {name} can't be read, so nothing may be done until it is repaired or deleted: {problem}"
        );
        Some(hold(name, Reason::GuardrailUnreadable, message, None))
    }

    /// Whether it may be done now. What is let through is counted in the ledger under `key`, once however often it is asked.
    pub fn decide(
        &self,
        subject: &Subject<'_>,
        key: &Key,
        ledger: &mut Ledger,
        totals: &dyn Totals,
        now: DateTime<Utc>,
    ) -> Verdict {
        if let Some(hold) = self.holds(subject, key, ledger, totals, now) {
            return Verdict::Held(hold);
        }
        if let (Purpose::Effect, Some(impact)) = (subject.purpose, subject.impact) {
            ledger.count(key.clone(), impact.clone(), now);
        }
        Verdict::Go
    }

    fn holds(
        &self,
        subject: &Subject<'_>,
        key: &Key,
        ledger: &mut Ledger,
        totals: &dyn Totals,
        now: DateTime<Utc>,
    ) -> Option<Hold> {
        let reach = reach(subject.kind);
        if !reach.changes || subject.purpose == Purpose::UndoOfAPerson {
            return None;
        }
        let standstill = self.standstill();
        if standstill.is_some() || subject.purpose == Purpose::Upkeep {
            return standstill;
        }
        self.protected(subject, &reach)
            .or_else(|| self.frozen(subject, now))
            .or_else(|| self.last_replica(subject))
            .or_else(|| subject.impact.and_then(|impact| ledger.limited(&self.readable, key, impact, totals, now)))
    }

    /// What protects the subject, whatever else holds it.
    #[must_use]
    pub fn protects(&self, subject: &Subject<'_>) -> Option<Hold> {
        self.protected(subject, &reach(subject.kind))
    }

    fn protected(&self, subject: &Subject<'_>, reach: &Reach) -> Option<Hold> {
        for guardrail in &self.readable {
            for rule in &guardrail.protect {
                let applies = rule.applies(subject, reach);
                let why = rule.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
                let of = format!("{} of Guardrail {}", rule.name, guardrail.name);
                match applies {
                    Ok(false) => {}
                    Ok(true) => {
                        let message = format!(
                            "{} is protected by {of}{why}: it was left as it is. Act by hand, or change the Guardrail",
                            subject.about
                        );
                        return Some(hold(&guardrail.name, Reason::Protected, message, None));
                    }
                    Err(error) => return Some(unreadable(&guardrail.name, &of, &error)),
                }
            }
        }
        None
    }

    fn frozen(&self, subject: &Subject<'_>, now: DateTime<Utc>) -> Option<Hold> {
        for guardrail in &self.readable {
            for freeze in guardrail.freezes.iter().filter(|freeze| is_within(&freeze.namespaces, subject.namespace)) {
                let Some(until) = freeze.time.until(now) else { continue };
                let of = format!("{} of Guardrail {}", freeze.name, guardrail.name);
                match holds_for(freeze.when.as_ref(), subject) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => return Some(unreadable(&guardrail.name, &of, &error)),
                }
                let why = freeze.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
                let message = format!(
                    "{of} freezes changes until {}{why}: {} was left as it is, and the step goes on then",
                    freeze.time.tell(until),
                    subject.about
                );
                return Some(hold(&guardrail.name, Reason::Frozen, message, Some(until)));
            }
        }
        None
    }

    fn last_replica(&self, subject: &Subject<'_>) -> Option<Hold> {
        let workload = subject.last_ready_of.filter(|_| !subject.allow_last_replica)?;
        let guardrail = self.readable.iter().find(|one| one.keep_last_replica)?;
        let message = format!(
            "{} is the only ready pod of {workload}, which Guardrail {} keeps: it is contained when another is ready. To do so now, write \
             allowLastReplica: true on the step, or lastReadyReplica: Allow in the Guardrail",
            subject.about, guardrail.name
        );
        Some(hold(&guardrail.name, Reason::LastReadyReplica, message, None))
    }
}

/// A rule about what must not be touched.
#[derive(Clone, Debug)]
pub struct Protected {
    name: String,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelMatcher>,
    labels: Option<LabelMatcher>,
    kinds: Vec<String>,
    when: Option<Expression>,
    reason: Option<String>,
}

impl Protected {
    fn applies(&self, subject: &Subject<'_>, reach: &Reach) -> Result<bool, String> {
        let in_namespace = self.namespaces.is_empty() || self.namespaces.iter().any(|one| one == subject.namespace);
        let selected =
            self.namespace_selector.as_ref().is_none_or(|selector| selector.matches(subject.namespace_labels));
        let of_kind = self.kinds.is_empty()
            || self.kinds.iter().any(|kind| subject.kinds.contains(kind) || reach.writes.contains(&kind.as_str()));
        let labelled = self
            .labels
            .as_ref()
            .is_none_or(|selector| subject.pod_labels.is_some_and(|labels| selector.matches(labels)));
        if !(in_namespace && selected && of_kind && labelled) {
            return Ok(false);
        }
        holds_for(self.when.as_ref(), subject)
    }
}

fn holds_for(when: Option<&Expression>, subject: &Subject<'_>) -> Result<bool, String> {
    let Some(when) = when else { return Ok(true) };
    let step = json!({ "name": subject.step, "kind": subject.kind.name() });
    when.is_true(&subject.scope.clone().with("step", &step)).map_err(|error| error.to_string())
}

fn is_within(namespaces: &[String], namespace: &str) -> bool {
    namespaces.is_empty() || namespaces.iter().any(|one| one == namespace)
}

fn hold(guardrail: &str, reason: Reason, message: String, until: Option<DateTime<Utc>>) -> Hold {
    Hold { guardrail: guardrail.to_owned(), reason, message, until }
}

fn unreadable(guardrail: &str, of: &str, error: &str) -> Hold {
    let message = format!("whether {of} holds the step can't be told, so it is held until that is repaired: {error}");
    hold(guardrail, Reason::GuardrailUnreadable, message, None)
}
