//! `watch`: what happens, a line each, as it happens.

mod lines;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use kube::api::{Api, ListParams};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use quell_crds::v1alpha1::{Finding, FindingState, Remediation};

use self::lines::{Line, of_finding, of_run};
use crate::client::{Connection, list};
use crate::error::causes;
use crate::flags::{Connect, Watch};
use crate::text::one_line;
use crate::{CliError, Exit, Io, find, objects, time};

/// Open findings that are listed at the start; the rest is counted.
const MOST_OPEN: usize = 20;

/// What is known so far, by UID: a line is printed for what differs.
#[derive(Default)]
struct Known {
    findings: HashMap<String, Finding>,
    runs: HashMap<String, Remediation>,
}

pub async fn run(of: &Watch, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let awaited = match &of.until_final {
        Some(name) => Some(find::finding(&connection, name).await?.uid().unwrap_or_default()),
        None => None,
    };
    let (findings, runs) = apis(&connection, of.all_namespaces);
    let mut known = Known::default();
    let past = Utc::now() - of.since.and_then(|since| TimeDelta::from_std(since).ok()).unwrap_or_default();
    begin(&mut known, &findings, &runs, past, io).await?;
    if let Some(exit) = awaited.as_deref().and_then(|uid| is_final(&known, uid)) {
        return Ok(exit);
    }

    let configuration = watcher::Config::default;
    let mut findings = watcher(findings, configuration()).default_backoff().boxed();
    let mut runs = watcher(runs, configuration()).default_backoff().boxed();
    let mut interrupted = tokio::spawn(tokio::signal::ctrl_c());
    let mut broken: HashSet<&str> = HashSet::new();
    loop {
        let (what, failed, lines) = tokio::select! {
            _ = &mut interrupted => return Ok(Exit::Ok),
            event = findings.next() => seen("findings", event, |event| known.finding(event))?,
            event = runs.next() => seen("remediations", event, |event| known.run(event))?,
        };
        match failed {
            // Told once, and again when it is over.
            Some(error) if broken.insert(what) => {
                writeln!(io.err, "the watch on {what} broke off ({error}); tries again")?;
            }
            None if broken.remove(what) => writeln!(io.err, "the watch on {what} is back")?,
            _ => {}
        }
        print(&lines, io)?;
        if let Some(exit) = awaited.as_deref().and_then(|uid| is_final(&known, uid)) {
            return Ok(exit);
        }
    }
}

fn apis(connection: &Connection, all: bool) -> (Api<Finding>, Api<Remediation>) {
    let client: Client = connection.client.clone();
    let namespace = &connection.namespace;
    if all {
        (Api::all(client.clone()), Api::all(client))
    } else {
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace))
    }
}

type Seen = (&'static str, Option<String>, Vec<Line>);

fn seen<K>(
    what: &'static str,
    event: Option<Result<Event<K>, watcher::Error>>,
    learn: impl FnOnce(Event<K>) -> Vec<Line>,
) -> Result<Seen, CliError> {
    match event {
        Some(Ok(event)) => {
            let lines = learn(event);
            Ok((what, None, lines))
        }
        Some(Err(error)) => Ok((what, Some(causes(&error)), Vec::new())),
        None => Err(CliError::Refused(format!("the watch on {what} has ended"))),
    }
}

/// Whether the runs for the Finding have ended, and how.
fn is_final(known: &Known, uid: &str) -> Option<Exit> {
    match known.findings.get(uid)?.status.as_ref()?.state? {
        FindingState::Remediated | FindingState::Undone | FindingState::Resolved | FindingState::Expired => {
            Some(Exit::Ok)
        }
        FindingState::Failed | FindingState::Cancelled => Some(Exit::Failed),
        FindingState::Open
        | FindingState::Suppressed
        | FindingState::Remediating
        | FindingState::Held
        | FindingState::Quarantined => None,
    }
}

/// Prints what is open, and what has happened since `past`.
async fn begin(
    known: &mut Known,
    findings: &Api<Finding>,
    runs: &Api<Remediation>,
    past: DateTime<Utc>,
    io: &mut Io,
) -> Result<(), CliError> {
    let all = list(findings, &ListParams::default()).await?;
    let runs = list(runs, &ListParams::default()).await?;
    let mut lines: Vec<Line> = all.iter().flat_map(|finding| of_finding(None, finding, Utc::now())).collect();
    lines.extend(runs.iter().flat_map(|run| of_run(None, run, Utc::now())));
    lines.retain(|line| line.at >= past);
    lines.sort_by_key(|line| line.at);

    let mut open: Vec<&Finding> = all.iter().filter(|finding| is_open(finding)).collect();
    open.sort_by_key(|finding| {
        (std::cmp::Reverse(finding.spec.severity), std::cmp::Reverse(time::created(&finding.metadata)))
    });
    if open.is_empty() {
        writeln!(io.out, "Nothing is open.")?;
    } else {
        let more = open.len().saturating_sub(MOST_OPEN);
        let more =
            if more > 0 { format!(", {more} of them not listed; kubectl quell get lists all") } else { String::new() };
        writeln!(io.out, "{} open{more}:", open.len())?;
    }
    for finding in open.into_iter().take(MOST_OPEN) {
        let line = open_line(finding, &runs);
        print(&[line], io)?;
    }
    writeln!(io.out)?;
    print(&lines, io)?;
    known.findings = all.into_iter().map(|finding| (finding.uid().unwrap_or_default(), finding)).collect();
    known.runs = runs.into_iter().map(|run| (run.uid().unwrap_or_default(), run)).collect();
    Ok(())
}

/// Whether somebody may have to look: nothing was done, it is under way, or it failed.
fn is_open(finding: &Finding) -> bool {
    let state = finding.status.as_ref().and_then(|status| status.state).unwrap_or_default();
    !matches!(
        state,
        FindingState::Remediated
            | FindingState::Suppressed
            | FindingState::Undone
            | FindingState::Resolved
            | FindingState::Expired
    )
}

fn open_line(finding: &Finding, runs: &[Remediation]) -> Line {
    let uid = finding.uid().unwrap_or_default();
    let of: Vec<&Remediation> = runs.iter().filter(|run| run.spec.finding.uid == uid).collect();
    let state = finding.status.as_ref().and_then(|status| status.state).unwrap_or_default();
    let done = objects::done(&of);
    let done = if done.is_empty() { String::new() } else { format!(": {done}") };
    let mut line = lines::found(finding);
    line.what = format!("{state}, {}{done}", line.what);
    line
}

impl Known {
    fn finding(&mut self, event: Event<Finding>) -> Vec<Line> {
        match event {
            Event::Apply(finding) | Event::InitApply(finding) => {
                let uid = finding.uid().unwrap_or_default();
                let lines = of_finding(self.findings.get(&uid), &finding, Utc::now());
                self.findings.insert(uid, finding);
                lines
            }
            Event::Delete(finding) => {
                self.findings.remove(&finding.uid().unwrap_or_default());
                vec![Line::new(&finding, Utc::now(), "the finding was deleted".to_owned())]
            }
            Event::Init | Event::InitDone => Vec::new(),
        }
    }

    fn run(&mut self, event: Event<Remediation>) -> Vec<Line> {
        match event {
            Event::Apply(run) | Event::InitApply(run) => {
                let uid = run.uid().unwrap_or_default();
                let lines = of_run(self.runs.get(&uid), &run, Utc::now());
                self.runs.insert(uid, run);
                lines
            }
            Event::Delete(run) => {
                self.runs.remove(&run.uid().unwrap_or_default());
                Vec::new()
            }
            Event::Init | Event::InitDone => Vec::new(),
        }
    }
}

fn print(lines: &[Line], io: &mut Io) -> Result<(), CliError> {
    for line in lines {
        let at = line.at.format("%Y-%m-%d %H:%M:%S");
        let (colour, plain) = if io.colours { (line.tone.colour(), "\u{1b}[0m") } else { ("", "") };
        writeln!(io.out, "{at}  {}/{}  {colour}{}{plain}", line.namespace, line.finding, one_line(&line.what))?;
    }
    Ok(io.out.flush()?)
}
