//! From what people wrote to what can be run: every expression compiled, every name found, every mistake named by its place.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::Selector as LabelMatcher;
use quell_crds::conditions::Reason;
use quell_crds::names::AUTHOR;
use quell_crds::time;
use quell_crds::v1alpha1::step::ChannelReference;
use quell_crds::v1alpha1::{
    ApprovalGate, ClusterPlaybook, Match, Mode, NamespaceNames, OnFailure, Playbook, PlaybookKind, PlaybookReference,
    PlaybookStatus, RunSettings, Selector, SelectorOperator, Step, StepKind,
};
use thiserror::Error;

use crate::cel::{Expression, Names};
use crate::facts::{MATCH_VARIABLES, STEP_VARIABLES};
use crate::kind::traits;
use crate::mentions::Mentions;
use crate::parameters;
use crate::template::Template;

impl Compiled {
    /// The facts that its expressions may ask for.
    #[must_use]
    pub fn mentions(&self) -> Mentions {
        let steps: Vec<&Step> = self.steps.iter().map(|one| &one.step).collect();
        Mentions::of(&(self.when.as_ref().map(Expression::source), steps, &self.settings))
    }
}

/// A playbook of either kind, as it was written.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Which one.
    pub reference: PlaybookReference,
    /// Its namespace; empty for a ClusterPlaybook.
    pub namespace: String,
    /// Which Findings.
    pub matcher: Match,
    /// Which namespaces.
    pub namespaces: NamespaceNames,
    /// What is done.
    pub steps: Vec<Step>,
    /// How its runs go.
    pub settings: RunSettings,
    /// Who wrote it, where the API server was told.
    pub author: Option<String>,
    /// Whether it acts.
    pub mode: Mode,
    /// Since when it is as it is now; Findings last reported before are left alone.
    pub effective_since: DateTime<Utc>,
    /// Since when it is there, whatever it was.
    pub created: DateTime<Utc>,
}

impl Draft {
    /// A playbook of the first generation counts from its creation, by the API server's clock, which also dates Findings: one that is
    /// created right after must not be missed. A later generation counts from when it was first seen.
    fn effective_since(metadata: &ObjectMeta, status: Option<&PlaybookStatus>, now: DateTime<Utc>) -> DateTime<Utc> {
        let seen = status.filter(|status| status.observed_generation == metadata.generation);
        match (metadata.generation, seen.and_then(|status| status.effective_since)) {
            (_, Some(since)) => since,
            (None | Some(..=1), None) => created(metadata).unwrap_or(now),
            (Some(_), None) => now,
        }
    }

    /// A Playbook, as it is written now.
    #[must_use]
    pub fn of_playbook(playbook: &Playbook, now: DateTime<Utc>) -> Self {
        let (metadata, spec) = (&playbook.metadata, &playbook.spec);
        let account = spec.service_account_name.clone();
        let reference = PlaybookReference {
            service_account_name: account.unwrap_or_else(|| DEFAULT_SERVICE_ACCOUNT.to_owned()),
            ..reference(PlaybookKind::Playbook, metadata)
        };
        Self {
            reference,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            matcher: spec.r#match.clone(),
            namespaces: NamespaceNames::default(),
            steps: spec.steps.clone(),
            settings: spec.settings.clone(),
            author: author(metadata),
            mode: spec.mode,
            effective_since: Self::effective_since(metadata, playbook.status.as_ref(), now),
            created: created(metadata).unwrap_or(now),
        }
    }

    /// A ClusterPlaybook, as it is written now.
    #[must_use]
    pub fn of_cluster_playbook(playbook: &ClusterPlaybook, now: DateTime<Utc>) -> Self {
        let (metadata, spec) = (&playbook.metadata, &playbook.spec);
        let account = spec.service_account.clone().unwrap_or_default();
        let reference = PlaybookReference {
            service_account_name: account.name,
            service_account_namespace: account.namespace,
            ..reference(PlaybookKind::ClusterPlaybook, metadata)
        };
        Self {
            reference,
            namespace: String::new(),
            matcher: spec.r#match.clone(),
            namespaces: spec.namespaces.clone().unwrap_or_default(),
            steps: spec.steps.clone(),
            settings: spec.settings.clone(),
            author: author(metadata),
            mode: spec.mode,
            effective_since: Self::effective_since(metadata, playbook.status.as_ref(), now),
            created: created(metadata).unwrap_or(now),
        }
    }
}

/// Which playbook it is, but for whom it acts as.
fn reference(kind: PlaybookKind, metadata: &ObjectMeta) -> PlaybookReference {
    PlaybookReference {
        kind,
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        ..PlaybookReference::default()
    }
}

fn author(metadata: &ObjectMeta) -> Option<String> {
    metadata.annotations.as_ref()?.get(AUTHOR).cloned()
}

fn created(metadata: &ObjectMeta) -> Option<DateTime<Utc>> {
    metadata.creation_timestamp.as_ref().map(time::from_kubernetes)
}

/// ServiceAccount of a Playbook that names none: what every namespace has.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// A playbook that can be matched and run.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Which one.
    pub reference: PlaybookReference,
    /// Its namespace; empty for a ClusterPlaybook.
    pub namespace: String,
    /// Which Findings, but for what needed compiling.
    pub matcher: Match,
    /// Which namespaces.
    pub namespaces: NamespaceNames,
    /// `match.labels`.
    pub labels: Option<LabelMatcher>,
    /// `match.targetLabels`.
    pub target_labels: Option<LabelMatcher>,
    /// `match.when`.
    pub when: Option<Expression>,
    /// The steps, those of `finally` last.
    pub steps: Vec<CompiledStep>,
    /// How its runs go.
    pub settings: RunSettings,
    /// Who wrote it, where the API server was told.
    pub author: Option<String>,
    /// Whether it acts.
    pub mode: Mode,
    /// Since when it is as it is now.
    pub effective_since: DateTime<Utc>,
    /// Since when it is there, whatever it was.
    pub created: DateTime<Utc>,
}

/// A step that can be run.
#[derive(Clone, Debug)]
pub struct CompiledStep {
    /// As it was written.
    pub step: Step,
    /// Its `when`.
    pub when: Option<Expression>,
    /// Indices of the steps that it comes after.
    pub after: Vec<usize>,
    /// What its expressions may name.
    pub names: Names,
    /// It is one of `finally`.
    pub finally: bool,
}

/// Why a playbook can't be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{at}: {message}")]
pub struct Problem {
    /// The category.
    pub reason: Reason,
    /// The field, as a path from `spec`.
    pub at: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Compiles a playbook; `channels` are the Channels of its namespace, or the ClusterChannels.
pub fn compile(draft: &Draft, channels: &BTreeSet<String>) -> Result<Compiled, Problem> {
    let matcher = &draft.matcher;
    let when = matcher
        .when
        .as_deref()
        .map(|source| expression(source, &Names::of(MATCH_VARIABLES), "spec.match.when"))
        .transpose()?;
    let steps = compile_steps(&draft.steps, &draft.settings.finally)?;
    for (list, steps) in [("steps", &draft.steps), ("finally", &draft.settings.finally)] {
        for (i, step) in steps.iter().enumerate() {
            let at = format!("spec.{list}[{i}]");
            check_channels(step, &at, draft.reference.kind, channels)?;
            if let Some(gate) = &step.approval {
                known_channels(&gate.channels, &format!("{at}.approval"), draft.reference.kind, channels)?;
            }
        }
    }
    if let Some(gate) = &draft.settings.approval {
        known_channels(&gate.channels, "spec.approval", draft.reference.kind, channels)?;
        check_reason(gate, &Names::of(STEP_VARIABLES), "spec.approval")?;
    }
    Ok(Compiled {
        reference: draft.reference.clone(),
        namespace: draft.namespace.clone(),
        matcher: matcher.clone(),
        namespaces: draft.namespaces.clone(),
        labels: selector(matcher.labels.as_ref(), "spec.match.labels")?,
        target_labels: selector(matcher.target_labels.as_ref(), "spec.match.targetLabels")?,
        when,
        steps,
        settings: draft.settings.clone(),
        author: draft.author.clone(),
        mode: draft.mode,
        effective_since: draft.effective_since,
        created: draft.created,
    })
}

/// Compiles the steps alone, as for a run whose playbook may be gone; those of `finally` come last.
pub fn compile_steps(steps: &[Step], finally: &[Step]) -> Result<Vec<CompiledStep>, Problem> {
    if steps.is_empty() {
        return Err(Problem {
            reason: Reason::ParameterInvalid,
            at: "spec.steps".into(),
            message: "has no step".into(),
        });
    }
    let mut compiled: Vec<CompiledStep> = (0..steps.len())
        .map(|i| compile_step(&Among { steps, list: "steps", others: &[] }, i))
        .collect::<Result<_, _>>()?;
    for i in 0..finally.len() {
        let mut step = compile_step(&Among { steps: finally, list: "finally", others: steps }, i)?;
        refuse_unfit(&step.step, i)?;
        step.finally = true;
        step.after.iter_mut().for_each(|before| *before += steps.len());
        compiled.push(step);
    }
    Ok(compiled)
}

/// A list of steps, and the steps that are over when it begins.
struct Among<'a> {
    steps: &'a [Step],
    list: &'a str,
    others: &'a [Step],
}

/// What is done finally comes when nothing is undone any more.
fn refuse_unfit(step: &Step, index: usize) -> Result<(), Problem> {
    let problem = |field: &str, message: String| {
        Err(Problem { reason: Reason::ParameterInvalid, at: format!("spec.finally[{index}].{field}"), message })
    };
    let kind = step.kind.name();
    if traits(&step.kind).can_be_undone {
        let message = format!(
            "{kind} leaves something to undo, and finally is done when there is no undo any more: put it into steps"
        );
        return problem(kind, message);
    }
    if step.on_failure == OnFailure::Undo {
        return problem(
            "onFailure",
            "the run is over, and isn't undone for a step of finally: Abort or Continue".into(),
        );
    }
    Ok(())
}

fn compile_step(among: &Among<'_>, index: usize) -> Result<CompiledStep, Problem> {
    let steps = among.steps;
    let step = &steps[index];
    let at = |field: &str| format!("spec.{}[{index}].{field}", among.list);
    let earlier = &steps[..index];
    if earlier.iter().chain(among.others).any(|other| other.name == step.name) {
        return Err(Problem {
            reason: Reason::StepOrderInvalid,
            at: at("name"),
            message: format!("`{}` is the name of an earlier step", step.name),
        });
    }
    let after = match &step.after {
        None => index.checked_sub(1).into_iter().collect(),
        Some(names) => names
            .iter()
            .map(|name| {
                earlier.iter().position(|other| other.name == *name).ok_or_else(|| Problem {
                    reason: Reason::StepOrderInvalid,
                    at: at("after"),
                    message: format!(
                        "`{name}` is not a step further up; steps are written in an order in which they can run"
                    ),
                })
            })
            .collect::<Result<Vec<_>, _>>()?,
    };
    // Only what surely ran before may be read: the steps that this one comes after, and theirs.
    let mut names = Names::of(STEP_VARIABLES);
    names.steps = ancestors(steps, &after).into_iter().map(|i| steps[i].name.clone()).collect();
    names.steps.extend(among.others.iter().map(|step| step.name.clone()));
    let when = step.when.as_deref().map(|source| expression(source, &names, &at("when"))).transpose()?;
    parameters::check(&step.kind, &names).map_err(|(field, message)| Problem {
        reason: Reason::ExpressionInvalid,
        at: at(&field),
        message,
    })?;
    if let Some(gate) = &step.approval {
        check_reason(gate, &names, &at("approval"))?;
    }
    Ok(CompiledStep { step: step.clone(), when, after, names, finally: false })
}

fn ancestors(steps: &[Step], after: &[usize]) -> BTreeSet<usize> {
    let mut all = BTreeSet::new();
    let mut open = after.to_vec();
    while let Some(i) = open.pop() {
        if all.insert(i) {
            match &steps[i].after {
                None => open.extend(i.checked_sub(1)),
                Some(names) => {
                    open.extend(
                        names.iter().filter_map(|name| steps[..i].iter().position(|other| other.name == *name)),
                    );
                }
            }
        }
    }
    all
}

fn check_channels(step: &Step, at: &str, kind: PlaybookKind, known: &BTreeSet<String>) -> Result<(), Problem> {
    let StepKind::Notify(notify) = &step.kind else { return Ok(()) };
    known_channels(&notify.channels, &format!("{at}.notify"), kind, known)
}

fn check_reason(gate: &ApprovalGate, names: &Names, at: &str) -> Result<(), Problem> {
    Template::compile(&gate.reason, names).map(|_| ()).map_err(|error| Problem {
        reason: Reason::ExpressionInvalid,
        at: format!("{at}.reason"),
        message: error.to_string(),
    })
}

fn known_channels(
    channels: &[ChannelReference],
    at: &str,
    kind: PlaybookKind,
    known: &BTreeSet<String>,
) -> Result<(), Problem> {
    for (i, channel) in channels.iter().enumerate() {
        if !known.contains(&channel.name) {
            let kind = match kind {
                PlaybookKind::Playbook => "Channel in this namespace",
                PlaybookKind::ClusterPlaybook => "ClusterChannel",
            };
            return Err(Problem {
                reason: Reason::ChannelUnknown,
                at: format!("{at}.channels[{i}]"),
                message: format!("there is no {kind} named `{}`", channel.name),
            });
        }
    }
    Ok(())
}

pub(crate) fn expression(source: &str, names: &Names, at: &str) -> Result<Expression, Problem> {
    Expression::compile(source, names).map_err(|error| Problem {
        reason: Reason::ExpressionInvalid,
        at: at.to_owned(),
        message: format!("`{source}` {error}"),
    })
}

/// The labels that are asked for; `at` is the field that says so.
pub fn selector(selector: Option<&Selector>, at: &str) -> Result<Option<LabelMatcher>, Problem> {
    let problem = |at: String, message: String| Problem { reason: Reason::ParameterInvalid, at, message };
    let Some(selector) = selector else { return Ok(None) };
    for (i, requirement) in selector.match_expressions.iter().enumerate() {
        // What Kubernetes refuses, too: `NotIn` of nothing would hold for everything.
        let needs_values = matches!(requirement.operator, SelectorOperator::In | SelectorOperator::NotIn);
        if needs_values == requirement.values.is_empty() {
            let what = if needs_values { "needs values" } else { "takes no values" };
            let message = format!("{:?} of `{}` {what}", requirement.operator, requirement.key);
            return Err(problem(format!("{at}.matchExpressions[{i}]"), message));
        }
    }
    let matcher = LabelMatcher::try_from(LabelSelector::from(selector));
    matcher.map(Some).map_err(|error| problem(at.to_owned(), error.to_string()))
}
