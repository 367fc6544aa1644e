//! Which playbooks a Finding is for, and why not the others.

use chrono::SecondsFormat;
use quell_crds::time;
use quell_crds::v1alpha1::{Mode, PlaybookKind};
use thiserror::Error;

use crate::cel::{EvaluationError, Scope};
use crate::compile::Compiled;
use crate::facts::World;

/// Whether a playbook is for a Finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Matches,
    /// It isn't.
    Differs(Difference),
    /// Its `when` failed, so nobody can tell: it isn't run, and the Finding says so.
    Fails(EvaluationError),
}

/// The first thing in which a Finding isn't what a playbook asks for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say what each is")]
pub enum Difference {
    #[error("its source is {found}, the playbook is for {wanted}")]
    Source { found: String, wanted: String },
    #[error("its category is {found}, the playbook is for {wanted}")]
    Category { found: String, wanted: String },
    #[error("its severity is {found}, the playbook begins at {wanted}")]
    Severity { found: String, wanted: String },
    #[error("it is in the namespace {found}, which the playbook is not for")]
    Namespace { found: String },
    #[error("its target is in the namespace {target}, and a Finding in {found} speaks for {found} alone")]
    Foreign { target: String, found: String },
    #[error("its labels are not those of match.labels")]
    Labels,
    #[error("its target has not the labels of match.targetLabels")]
    TargetLabels,
    #[error(
        "it was last reported at {reported}, before the playbook was as it is now ({since}); it is run when it is reported again"
    )]
    Earlier { reported: String, since: String },
    #[error("match.when is false: {when}")]
    When { when: String },
}

/// Judges one playbook. `scope` is [`World::scope`], made once for all playbooks of a Finding.
#[must_use]
pub fn judge(playbook: &Compiled, world: &World, scope: &Scope) -> Verdict {
    if let Some(difference) = difference(playbook, world) {
        return Verdict::Differs(difference);
    }
    let in_time = || earlier(playbook, world).map_or(Verdict::Matches, Verdict::Differs);
    match &playbook.when {
        None => in_time(),
        Some(when) => match when.is_true(scope) {
            Ok(true) => in_time(),
            Ok(false) => Verdict::Differs(Difference::When { when: when.source().to_owned() }),
            Err(error) => Verdict::Fails(error),
        },
    }
}

/// The playbook that is run in place of this one: of the same group, and with a higher priority, or among equals the first by name. Only
/// ClusterPlaybooks stand back for each other, and Playbooks of one namespace: else whoever may write a Playbook could keep one of the
/// cluster's from being run. A dry run does nothing in place of another.
#[must_use]
pub fn preferred<'a>(playbook: &Compiled, matched: impl IntoIterator<Item = &'a Compiled>) -> Option<&'a Compiled> {
    let group = playbook.settings.group.as_ref()?;
    let rank = |one: &Compiled| (std::cmp::Reverse(one.settings.priority), one.reference.name.clone());
    let rivals = matched.into_iter().filter(|other| {
        other.settings.group.as_ref() == Some(group)
            && other.reference.kind == playbook.reference.kind
            && other.namespace == playbook.namespace
            && (other.mode == Mode::Enforce || other.mode == playbook.mode)
    });
    rivals.min_by_key(|other| rank(other)).filter(|best| rank(best) < rank(playbook))
}

/// The cheap comparisons, in the order in which a person would ask.
fn difference(playbook: &Compiled, world: &World) -> Option<Difference> {
    let wanted = &playbook.matcher;
    let spec = &world.finding.spec;
    let namespace = world.finding.metadata.namespace.as_deref().unwrap_or_default();

    if world.foreign {
        return Some(Difference::Foreign { target: spec.target.namespace.clone(), found: namespace.to_owned() });
    }
    let in_scope = match playbook.reference.kind {
        PlaybookKind::Playbook => playbook.namespace == namespace,
        PlaybookKind::ClusterPlaybook => {
            let named = |names: &[String]| names.iter().any(|name| name == namespace);
            (playbook.namespaces.include.is_empty() || named(&playbook.namespaces.include))
                && !named(&playbook.namespaces.exclude)
        }
    };
    if !in_scope {
        return Some(Difference::Namespace { found: namespace.to_owned() });
    }
    if !wanted.sources.is_empty() && !wanted.sources.iter().any(|source| *source == spec.source || *source == spec.tool)
    {
        return Some(Difference::Source { found: spec.source.clone(), wanted: wanted.sources.join(", ") });
    }
    if !wanted.categories.is_empty() && !wanted.categories.contains(&spec.category) {
        let names: Vec<String> = wanted.categories.iter().map(ToString::to_string).collect();
        return Some(Difference::Category { found: spec.category.to_string(), wanted: names.join(", ") });
    }
    if let Some(least) = wanted.min_severity
        && spec.severity < least
    {
        return Some(Difference::Severity { found: spec.severity.to_string(), wanted: least.to_string() });
    }
    if let Some(selector) = &playbook.labels
        && !matches_labels(selector, world.finding.metadata.labels.as_ref())
    {
        return Some(Difference::Labels);
    }
    if let Some(selector) = &playbook.target_labels
        && !matches_labels(selector, world.target.pod().map(|pod| &pod.labels))
    {
        return Some(Difference::TargetLabels);
    }
    None
}

/// Compared in whole seconds, as the API server dates objects. A Finding that no playbook was judged for yet, as after an outage, is not an old
/// one to a playbook that was there when it was reported and has been changed since.
fn earlier(playbook: &Compiled, world: &World) -> Option<Difference> {
    let created = world.finding.metadata.creation_timestamp.as_ref().map(time::from_kubernetes);
    let again = world.finding.status.as_ref().and_then(|status| status.last_seen);
    let reported = created.max(again)?;
    let judged = world.finding.status.as_ref().is_some_and(|status| status.observed_generation.is_some());
    let since = if judged { playbook.effective_since } else { playbook.effective_since.min(playbook.created) };
    (reported.timestamp() < since.timestamp()).then(|| Difference::Earlier {
        reported: reported.to_rfc3339_opts(SecondsFormat::Secs, true),
        since: since.to_rfc3339_opts(SecondsFormat::Secs, true),
    })
}

fn matches_labels(
    selector: &kube::core::Selector,
    labels: Option<&std::collections::BTreeMap<String, String>>,
) -> bool {
    use kube::core::SelectorExt as _;
    let none = std::collections::BTreeMap::new();
    selector.matches(labels.unwrap_or(&none))
}
