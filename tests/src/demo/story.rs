//! An incident as it goes: each line is told by a watch on the API server, or by the receiver of notifications.

mod breach;
mod vulnerable;

pub use breach::Breach;
pub use vulnerable::Vulnerable;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quell_crds::v1alpha1::{Finding, FindingState, Remediation};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout_at;

use super::news::{News, Seen};
use super::receiver::Delivery;
use super::screen::{Screen, Tone};

/// How long an incident may take; it takes a second or two.
const PATIENCE: Duration = Duration::from_secs(40);

/// Something that happens in an incident, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The Finding is stored.
    Found,
    /// The policy that denies everything stands.
    Denied,
    /// The pod has quarantine's label and no other.
    Quarantined,
    /// The Service sends nothing to the pod.
    OutOfService,
    /// Another pod is Ready in its place.
    Replaced,
    /// The receiver has a notification whose signature is right.
    Notified,
    /// The workload has another pod template.
    Changed,
    /// All pods of the workload are of that template, and available.
    RolledOut,
    /// The build runs.
    Building,
    /// The build has said what it made.
    Built,
    /// The Finding says so.
    Remediated,
}

impl Beat {
    fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Denied => "policy",
            Self::Quarantined => "quarantined",
            Self::OutOfService => "unreachable",
            Self::Replaced => "replaced",
            Self::Notified => "notified",
            Self::Changed => "changed",
            Self::RolledOut => "rolled out",
            Self::Building => "building",
            Self::Built => "built",
            Self::Remediated => "remediated",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Found => Tone::Alarm,
            Self::Denied | Self::Quarantined | Self::OutOfService => Tone::Action,
            Self::Replaced | Self::Notified | Self::Changed | Self::Building | Self::Built => Tone::Quiet,
            Self::RolledOut | Self::Remediated => Tone::Good,
        }
    }
}

/// What one kind of incident consists of.
pub trait Plot {
    /// All that must happen.
    fn beats(&self) -> &'static [Beat];
    /// What these news tell.
    fn read(&mut self, seen: &Seen) -> Vec<(Beat, String)>;
}

/// Tells an incident until all of it has happened.
pub async fn tell(
    screen: Screen,
    mut plot: impl Plot,
    alert: Instant,
    finding: &str,
    news: &mut UnboundedReceiver<News>,
) -> Result<()> {
    let mut told: Vec<Beat> = Vec::new();
    let mut last = Last::default();
    let mut end = None;
    let deadline = tokio::time::Instant::from_std(alert + PATIENCE);
    while told.len() < plot.beats().len() {
        let Ok(Some(one)) = timeout_at(deadline, news.recv()).await else {
            let missing: Vec<&str> =
                plot.beats().iter().filter(|beat| !told.contains(beat)).map(|beat| beat.word()).collect();
            bail!("not within {} s: {}\n{}", PATIENCE.as_secs(), missing.join(", "), last.describe());
        };
        last.note(&one.seen, finding);
        for (beat, text) in plot.read(&one.seen) {
            if !told.contains(&beat) {
                told.push(beat);
                let line = (one.at.saturating_duration_since(alert), beat, text);
                // Each kind has a watch of its own; that it is over may be seen a moment before the last thing that made it so.
                if beat == Beat::Remediated { end = Some(line) } else { print(screen, &line) }
            }
        }
        if last.has_failed() {
            bail!("the remediation failed\n{}", last.describe());
        }
    }
    if let Some(line) = &end {
        print(screen, line);
    }
    Ok(())
}

fn print(screen: Screen, (after, beat, text): &(Duration, Beat, String)) {
    screen.beat(*after, beat.word(), beat.tone(), text);
}

/// The Finding and the run as they were last seen, to say what is wrong.
#[derive(Default)]
struct Last {
    finding: Option<Finding>,
    run: Option<Remediation>,
}

impl Last {
    fn note(&mut self, seen: &Seen, name: &str) {
        match seen {
            Seen::Finding(finding) if finding.metadata.name.as_deref() == Some(name) => {
                self.finding = Some((**finding).clone());
            }
            Seen::Run(run) if run.spec.finding.name == name => self.run = Some((**run).clone()),
            _ => {}
        }
    }

    fn has_failed(&self) -> bool {
        self.finding.as_ref().and_then(state) == Some(FindingState::Failed)
    }

    fn describe(&self) -> String {
        let mut lines = Vec::new();
        match &self.finding {
            None => lines.push("  there is no Finding".to_owned()),
            Some(finding) => {
                let conditions = finding.status.iter().flat_map(|status| &status.conditions);
                lines.extend(
                    conditions
                        .map(|one| format!("  Finding: {}={} {}: {}", one.type_, one.status, one.reason, one.message)),
                );
            }
        }
        let records = self.run.iter().filter_map(|run| run.status.as_ref()).flat_map(|status| &status.steps);
        lines.extend(records.map(|one| format!("  step {}: {} {} {}", one.name, one.state, one.reason, one.message)));
        lines.join("\n")
    }
}

fn state(finding: &Finding) -> Option<FindingState> {
    finding.status.as_ref()?.state
}

/// What is the same in every incident: found, notified, remediated.
fn common(seen: &Seen, finding: &str) -> Option<(Beat, String)> {
    match seen {
        Seen::Delivery(delivery) if concerns(delivery, finding) => match delivery.verified {
            Ok(()) => {
                let title = delivery.body["title"].as_str().unwrap_or_default();
                Some((Beat::Notified, format!("the receiver has \"{title}\"; signature verified")))
            }
            Err(_) => None,
        },
        Seen::Finding(object) if object.metadata.name.as_deref() == Some(finding) => {
            let remediated = state(object) == Some(FindingState::Remediated);
            remediated.then(|| (Beat::Remediated, format!("Finding {finding}: every step has ended well")))
        }
        _ => None,
    }
}

/// Whether a notification is about that Finding.
#[must_use]
pub fn concerns(delivery: &Delivery, finding: &str) -> bool {
    delivery.body["fields"]["Finding"].as_str().and_then(|name| name.rsplit('/').next()) == Some(finding)
}
