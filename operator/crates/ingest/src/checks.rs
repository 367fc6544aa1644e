//! Lists of failed checks and found secrets: one signal for an object's report, with what failed inside.

use quell_crds::v1alpha1::Severity;
use serde_json::Value;

use crate::Signal;

/// Most checks that `details` lists, and most that a message names.
const LISTED: usize = 50;
const NAMED: usize = 5;

/// A failed check, or a secret.
pub(crate) struct Check {
    pub(crate) severity: Severity,
    /// What a message calls it.
    pub(crate) name: String,
    /// What the tool said of it.
    pub(crate) said: Value,
}

/// How checks are called: the key in `details`, one of them, and several.
pub(crate) type Words = (&'static str, &'static str, &'static str);

impl Signal {
    /// The same with the checks that failed, the worst first; without any it says that all are met.
    pub(crate) fn with_checks(mut self, (key, one, many): Words, mut checks: Vec<Check>) -> Self {
        checks.sort_by(|a, b| (b.severity, &a.name).cmp(&(a.severity, &b.name)));
        let Some(worst) = checks.first() else {
            return Self { resolved: true, message: format!("no {many}"), ..self };
        };
        self.severity = worst.severity;
        self.message = message(&checks, one, many);
        self.details.insert(key.to_owned(), checks.into_iter().take(LISTED).map(|check| check.said).collect());
        self.details = crate::bound::details(&self.details);
        self
    }
}

fn message(checks: &[Check], one: &str, many: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for check in checks {
        if names.len() < NAMED && !names.contains(&check.name.as_str()) {
            names.push(&check.name);
        }
    }
    let more = if checks.iter().all(|check| names.contains(&check.name.as_str())) { "" } else { ", …" };
    let noun = if checks.len() == 1 { one } else { many };
    format!("{} {noun}: {}{more}", checks.len(), names.join(", "))
}
