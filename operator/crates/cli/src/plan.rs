//! `plan`: what a playbook would do, tried without doing it.

mod documents;
mod identity;
mod show;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::names;
use quell_crds::v1alpha1::{Finding, FindingState, PlaybookKind};
use quell_notify::Courier;
use quell_playbooks::compile::Draft;
use quell_playbooks::select::{Difference, Verdict, judge};
use quell_playbooks::{Compiled, World, compile};

use self::documents::Accepted;
use crate::client::{Connection, list};
use crate::cluster::{Channels, Live};
use crate::flags::{Connect, Plan};
use crate::text::{count, one_line};
use crate::{CliError, Exit, Io, facts, find, objects};
use quell_actions::rehearse::{End, Rehearsal};

/// Findings that are listed as matched; the rest is counted.
const MOST_LISTED: usize = 20;
/// Findings whose target is looked at, the worst first.
const MOST_JUDGED: usize = 200;

/// A playbook of the file that can be planned with.
struct Planned {
    title: String,
    compiled: Compiled,
    /// The playbook is there already.
    is_change: bool,
    /// Since when it is as it is; the compiled one counts from ever.
    since: DateTime<Utc>,
}

pub async fn run(of: &Plan, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let documents = documents::read(&of.file, io)?;
    let mut connection = Connection::new(connect).await?;
    let mut exit = Exit::Ok;
    let mut accepted = Vec::new();
    for document in &documents {
        match document.dry_run(&connection).await {
            Ok(judged) => accepted.push((document, judged)),
            Err(error @ CliError::File { .. }) => {
                writeln!(io.err, "error: {error}")?;
                exit = Exit::Failed;
            }
            Err(error) => return Err(error),
        }
    }
    let channels: Channels = accepted.iter().filter_map(|(_, judged)| channel(&judged.object)).collect();
    // The Finding is looked for where the playbook is, unless a namespace is said.
    if let (None, Some(namespace)) = (&connect.namespace, documents.iter().find_map(|one| one.namespace.clone())) {
        connection.namespace = namespace;
    }
    let finding = match &of.finding {
        Some(name) if !accepted.is_empty() => Some(find::finding(&connection, name).await?),
        _ => None,
    };
    for (document, judged) in &accepted {
        let Some(draft) = draft(&judged.object) else { continue };
        let title = format!("{} {}", draft.reference.kind, draft.reference.name);
        let change = if judged.is_change { ", as a change of the one that is there" } else { "" };
        writeln!(io.out, "{title} ({}): the API server takes it{change}", document.place)?;
        let Some((compiled, since)) = ready(&connection, &title, draft, &channels, io).await? else {
            exit = Exit::Failed;
            continue;
        };
        let planned = Planned { title, compiled, is_change: judged.is_change, since };
        let done = match &finding {
            Some(finding) => Box::pin(plan(of, &connection, &planned, finding, &channels, io)).await?,
            None => matches(&connection, &planned, io).await?,
        };
        exit = if exit == Exit::Ok { done } else { exit };
        writeln!(io.out)?;
    }
    Ok(exit)
}

fn channel(object: &Accepted) -> Option<((PlaybookKind, String), quell_crds::v1alpha1::ChannelKind)> {
    match object {
        Accepted::Channel(channel) => Some(((PlaybookKind::Playbook, channel.name_any()), channel.spec.kind.clone())),
        Accepted::ClusterChannel(channel) => {
            Some(((PlaybookKind::ClusterPlaybook, channel.name_any()), channel.spec.kind.clone()))
        }
        Accepted::Playbook(_) | Accepted::ClusterPlaybook(_) => None,
    }
}

fn draft(object: &Accepted) -> Option<Draft> {
    match object {
        Accepted::Playbook(playbook) => Some(Draft::of_playbook(playbook, Utc::now())),
        Accepted::ClusterPlaybook(playbook) => Some(Draft::of_cluster_playbook(playbook, Utc::now())),
        Accepted::Channel(_) | Accepted::ClusterChannel(_) => None,
    }
}

/// Compiles the playbook, and says what it is or why it would not be Ready.
async fn ready(
    connection: &Connection,
    title: &str,
    mut draft: Draft,
    channels: &Channels,
    io: &mut Io,
) -> Result<Option<(Compiled, DateTime<Utc>)>, CliError> {
    let kind = draft.reference.kind;
    let mut known: BTreeSet<String> =
        channels.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect();
    known.extend(facts::channels(&connection.client, kind, &draft.namespace).await?);
    let since = std::mem::replace(&mut draft.effective_since, DateTime::<Utc>::UNIX_EPOCH);
    match compile(&draft, &known) {
        Ok(compiled) => {
            let steps: Vec<String> =
                compiled.steps.iter().map(|step| format!("{} ({})", step.step.name, step.step.kind.name())).collect();
            writeln!(io.out, "  it would be Ready: {}: {}", count(steps.len(), "step"), steps.join(", "))?;
            Ok(Some((compiled, since)))
        }
        Err(problem) => {
            writeln!(io.out, "  it would not be Ready, and match nothing")?;
            writeln!(io.err, "error: {title}: {} ({})", one_line(&problem.to_string()), problem.reason)?;
            Ok(None)
        }
    }
}

/// Rehearses the run for a Finding.
async fn plan(
    of: &Plan,
    connection: &Connection,
    planned: &Planned,
    finding: &Finding,
    channels: &Channels,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let namespace = finding.namespace().unwrap_or_default();
    let compiled = &planned.compiled;
    let world = facts::world(
        &connection.client,
        finding,
        &finding.spec.target,
        finding.spec.workload.as_ref(),
        compiled.mentions(),
    )
    .await?;
    let why_not = match judge(compiled, &world, &world.scope()) {
        Verdict::Matches => None,
        Verdict::Differs(difference) => Some(difference.to_string()),
        Verdict::Fails(error) => Some(format!("match.when failed: {error}")),
    };
    match why_not {
        None => writeln!(io.out, "  it is for finding {namespace}/{}", finding.name_any())?,
        Some(why) => {
            writeln!(io.out, "  it is not for finding {namespace}/{}: {}", finding.name_any(), one_line(&why))?;
            if !of.assume_match {
                writeln!(io.err, "error: {} does not match; plan it all the same with --assume-match", planned.title)?;
                return Ok(Exit::Failed);
            }
        }
    }
    if let Some(earlier) = only_when_reported_again(planned, &world) {
        writeln!(io.out, "  note: {earlier}")?;
    }
    let (playbook, episode) = (&compiled.reference, finding.status.as_ref().map_or(1, |status| status.episode));
    let run = names::remediation(&playbook.name, &playbook.uid, &finding.name_any(), 0, episode);
    if !planned.is_change {
        writeln!(
            io.out,
            "  note: the run is named {run} here; the real one isn't, for its name hangs on the playbook's UID"
        )?;
    }
    let identity = identity::of(connection, compiled, &namespace).await?;
    writeln!(io.out, "  {}\n", identity.told)?;

    let cluster = Live::read(&connection.client, compiled, &namespace, &of.quell_namespace, channels.clone()).await?;
    let courier = Courier::new(None).map_err(|error| CliError::Refused(error.to_string()))?;
    let rehearsal = Rehearsal {
        playbook: &compiled.reference,
        steps: &compiled.steps,
        settings: &compiled.settings,
        world: &world,
        cluster: &cluster,
        client: &identity.client,
        borrowed: identity.borrowed,
        courier: &courier,
        run: &run,
        now: Utc::now(),
    };
    let told = rehearsal.run().await;
    for (i, one) in told.iter().enumerate() {
        io.out.write_all(show::step(i + 1, &compiled.steps[one.step], one).as_bytes())?;
    }
    writeln!(io.out, "\n{}", show::summary(told.iter().flat_map(|one| &one.writes)))?;
    let failed = told.iter().any(|one| matches!(one.end, End::Failed(..)));
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

/// A playbook acts on what is reported after it was written; older Findings wait for their next report.
fn only_when_reported_again(planned: &Planned, world: &World) -> Option<String> {
    let dated = Compiled { effective_since: planned.since, ..planned.compiled.clone() };
    match judge(&dated, world, &world.scope()) {
        Verdict::Differs(difference @ Difference::Earlier { .. }) => Some(difference.to_string()),
        _ => None,
    }
}

/// Lists the open Findings that the playbook is for.
async fn matches(connection: &Connection, planned: &Planned, io: &mut Io) -> Result<Exit, CliError> {
    let compiled = &planned.compiled;
    let client = connection.client.clone();
    let all = ListParams::default();
    let findings = match compiled.reference.kind {
        PlaybookKind::Playbook => list(&Api::<Finding>::namespaced(client, &compiled.namespace), &all).await?,
        PlaybookKind::ClusterPlaybook => match list(&Api::<Finding>::all(client.clone()), &all).await {
            Err(error) if error.is_forbidden() => {
                writeln!(
                    io.out,
                    "  you may not list findings of all namespaces; looked in {} only",
                    connection.namespace
                )?;
                list(&Api::<Finding>::namespaced(client, &connection.namespace), &all).await?
            }
            other => other?,
        },
    };
    // What can be told without the target goes first: each target costs requests.
    let cheap = Compiled { when: None, target_labels: None, ..compiled.clone() };
    let open = |finding: &Finding| {
        let state = finding.status.as_ref().and_then(|status| status.state).unwrap_or_default();
        !matches!(
            state,
            FindingState::Remediated
                | FindingState::Suppressed
                | FindingState::Undone
                | FindingState::Resolved
                | FindingState::Expired
        )
    };
    let mut candidates: Vec<Finding> = findings.into_iter().filter(open).collect();
    candidates.retain(|finding| {
        let world = World { finding: finding.clone(), ..World::default() };
        judge(&cheap, &world, &world.scope()) == Verdict::Matches
    });
    candidates.sort_by_key(|finding| std::cmp::Reverse(finding.spec.severity));
    let left = candidates.len().saturating_sub(MOST_JUDGED);
    let mut matched = Vec::new();
    for finding in candidates.into_iter().take(MOST_JUDGED) {
        let spec = &finding.spec;
        let world =
            facts::world(&connection.client, &finding, &spec.target, spec.workload.as_ref(), compiled.mentions())
                .await?;
        match judge(compiled, &world, &world.scope()) {
            Verdict::Matches => matched.push(finding),
            Verdict::Fails(error) => {
                writeln!(
                    io.out,
                    "  its match.when fails for {}: {}",
                    finding.name_any(),
                    one_line(&error.to_string())
                )?;
            }
            Verdict::Differs(_) => {}
        }
    }
    let more = if left > 0 { format!(" (and of {left} that were not looked at, maybe more)") } else { String::new() };
    writeln!(io.out, "  it is for {}{more}", count(matched.len(), "open finding"))?;
    for finding in matched.iter().take(MOST_LISTED) {
        let spec = &finding.spec;
        let name = format!("{}/{}", finding.namespace().unwrap_or_default(), finding.name_any());
        writeln!(
            io.out,
            "    {name}: {} {} on {}",
            spec.severity,
            one_line(&spec.rule),
            objects::target(&spec.target)
        )?;
    }
    if matched.len() > MOST_LISTED {
        writeln!(io.out, "    and {} more", matched.len() - MOST_LISTED)?;
    }
    if let Some(first) = matched.first() {
        let namespace = first.namespace().unwrap_or_default();
        writeln!(io.out, "  what it would do: add --finding {} -n {namespace}", first.name_any())?;
    }
    Ok(Exit::Ok)
}
