//! From what people wrote to what can be asked.

use std::time::Duration;

use chrono_tz::Tz;
use quell_crds::v1alpha1::{Disruption, Guardrail, LastReadyReplica, Limit, LimitPer, Protection};
use thiserror::Error;

use super::freeze::Time;
use super::{Protected, VARIABLES};
use crate::cel::{Expression, Names};
use crate::compile::selector;

/// The window of a limit that names none.
const WINDOW: Duration = Duration::from_hours(1);

/// Why a Guardrail can't be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{at}: {message}")]
pub struct Problem {
    /// The field, as a path from `spec`.
    pub at: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A Guardrail that can be asked.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Its name.
    pub name: String,
    pub(super) stop: bool,
    pub(super) stop_reason: Option<String>,
    pub(super) learn: bool,
    pub(super) protect: Vec<Protected>,
    pub(super) limits: Vec<Limited>,
    pub(super) freezes: Vec<Frozen>,
    pub(super) keep_last_replica: bool,
    pub(super) channels: Vec<String>,
}

/// How much may be done.
#[derive(Clone, Debug)]
pub(super) struct Limited {
    pub name: String,
    pub of: Vec<Disruption>,
    pub per: LimitPer,
    pub node_label: String,
    pub max: Option<usize>,
    pub max_percent: Option<usize>,
    pub window: Duration,
    pub namespaces: Vec<String>,
}

/// When nothing is done.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    pub name: String,
    pub time: Time,
    pub namespaces: Vec<String>,
    pub when: Option<Expression>,
    pub reason: Option<String>,
}

impl Compiled {
    /// The longest time in which it counts; `None` where it has no limit.
    #[must_use]
    pub fn longest_window(&self) -> Option<Duration> {
        self.limits.iter().map(|limit| limit.window).max()
    }
}

/// Compiles a Guardrail.
pub fn compile(guardrail: &Guardrail) -> Result<Compiled, Problem> {
    let spec = &guardrail.spec;
    let each = |at: &str, i: usize| format!("spec.{at}[{i}]");
    let protect = spec.protect.iter().enumerate().map(|(i, rule)| protection(rule, &each("protect", i)));
    let freezes = spec.freezes.iter().enumerate().map(|(i, freeze)| {
        let at = each("freezes", i);
        let zone = freeze.time_zone.as_deref().unwrap_or("UTC");
        let zone: Tz = zone.parse().map_err(|_| Problem {
            at: format!("{at}.timeZone"),
            message: format!("`{zone}` is not a time zone of the IANA database, such as Europe/Berlin"),
        })?;
        Ok(Frozen {
            name: freeze.name.clone(),
            time: Time::of(freeze, zone)
                .map_err(|(field, message)| Problem { at: format!("{at}.{field}"), message })?,
            namespaces: freeze.namespaces.clone(),
            when: expression(freeze.when.as_deref(), &at)?,
            reason: freeze.reason.clone(),
        })
    });
    Ok(Compiled {
        name: guardrail.metadata.name.clone().unwrap_or_default(),
        stop: spec.stop,
        stop_reason: spec.stop_reason.clone(),
        learn: spec.learn,
        protect: protect.collect::<Result<_, _>>()?,
        limits: spec
            .limits
            .iter()
            .enumerate()
            .map(|(i, one)| limit(one, &each("limits", i)))
            .collect::<Result<_, _>>()?,
        freezes: freezes.collect::<Result<_, _>>()?,
        keep_last_replica: spec.last_ready_replica == LastReadyReplica::Keep,
        channels: spec.channels.iter().map(|channel| channel.name.clone()).collect(),
    })
}

fn protection(rule: &Protection, at: &str) -> Result<Protected, Problem> {
    let matcher = |of, field: &str| {
        selector(of, &format!("{at}.{field}")).map_err(|problem| Problem { at: problem.at, message: problem.message })
    };
    Ok(Protected {
        name: rule.name.clone(),
        namespaces: rule.namespaces.clone(),
        namespace_selector: matcher(rule.namespace_selector.as_ref(), "namespaceSelector")?,
        labels: matcher(rule.labels.as_ref(), "labels")?,
        kinds: rule.kinds.clone(),
        when: expression(rule.when.as_deref(), at)?,
        reason: rule.reason.clone(),
    })
}

fn limit(limit: &Limit, at: &str) -> Result<Limited, Problem> {
    let count = |value: Option<i32>, field: &str| {
        let negative = |_| Problem { at: format!("{at}.{field}"), message: "must not be less than 0".to_owned() };
        value.map(usize::try_from).transpose().map_err(negative)
    };
    Ok(Limited {
        name: limit.name.clone(),
        of: limit.of.clone(),
        per: limit.per,
        node_label: limit.node_label.clone().unwrap_or_default(),
        max: count(limit.max, "max")?,
        max_percent: count(limit.max_percent, "maxPercent")?,
        window: limit.window.map_or(WINDOW, quell_crds::v1alpha1::Duration::get),
        namespaces: limit.namespaces.clone(),
    })
}

fn expression(source: Option<&str>, at: &str) -> Result<Option<Expression>, Problem> {
    let compiled = source.map(|source| Expression::compile(source, &Names::of(VARIABLES))).transpose();
    compiled.map_err(|error| Problem {
        at: format!("{at}.when"),
        message: format!("`{}` {error}", source.unwrap_or_default()),
    })
}
