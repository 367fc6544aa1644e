//! `explain`: one Finding, for someone who was woken up by it.

mod advice;
mod tell;

use chrono::Utc;
use kube::ResourceExt as _;
use quell_crds::v1alpha1::{Finding, PlaybookKind, PlaybookReference, Remediation};
use quell_playbooks::related::{Beside, beside};
use quell_playbooks::select::{Verdict, judge, preferred};
use quell_playbooks::{Compiled, Mentions, World};

use crate::client::Connection;
use crate::flags::{Connect, Explain};
use crate::{CliError, Exit, Io, facts, find};

/// Everything that is known of a Finding, to be told.
struct Case {
    finding: Finding,
    runs: Vec<Remediation>,
    /// The target as it is now, or why nobody can tell.
    world: Result<World, String>,
    /// What else is open there.
    beside: Beside,
    /// The playbooks that no run is of, or why they can't be seen.
    others: Result<Vec<Other>, String>,
    /// Playbooks that the caller may not see.
    unseen: Vec<String>,
}

/// A playbook that was not run.
struct Other {
    reference: PlaybookReference,
    why: Why,
}

/// Why a playbook was not run.
enum Why {
    /// It isn't ready.
    NotReady(String),
    /// It isn't for the Finding.
    Differs(String),
    /// Its `match.when` failed.
    Fails(String),
    /// It is for the Finding, and another one of its group is run.
    StandsBack(String),
    /// It is for the Finding, and its run will come.
    Matches,
}

/// Any playbook may ask for it.
const EVERYTHING: Mentions = Mentions { related: true, exposure: true };

pub async fn run(of: &Explain, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let finding = find::finding(&connection, &of.finding).await?;
    let runs = find::runs(&connection, &finding).await?;
    // A run keeps the target with the UID that its steps acted on.
    let target = runs.first().map_or(&finding.spec.target, |run| &run.spec.target);
    let workload = finding.spec.workload.as_ref().or_else(|| runs.iter().find_map(|run| run.spec.workload.as_ref()));
    let seen = async {
        let client = &connection.client;
        let others = facts::others(client, &finding).await?;
        let world = facts::world_among(client, &finding, target, workload, EVERYTHING, &others).await?;
        Ok::<_, CliError>((world, beside(&finding, &others)))
    };
    let (world, beside) = match seen.await {
        Ok((world, beside)) => (Ok(world), beside),
        Err(error) => (Err(error), Beside::default()),
    };
    let (others, unseen) = match &world {
        Ok(world) => match others(&connection, &finding, &runs, world).await {
            Ok((others, unseen)) => (Ok(others), unseen),
            Err(error) => (Err(error.to_string()), Vec::new()),
        },
        Err(_) => (Err("what they are compared with is not known".to_owned()), Vec::new()),
    };
    let case = Case { finding, runs, world: world.map_err(|error| error.to_string()), beside, others, unseen };
    io.out.write_all(tell::text(&case, Utc::now()).as_bytes())?;
    Ok(Exit::Ok)
}

async fn others(
    connection: &Connection,
    finding: &Finding,
    runs: &[Remediation],
    world: &World,
) -> Result<(Vec<Other>, Vec<String>), CliError> {
    let namespace = finding.namespace().unwrap_or_default();
    let scope = world.scope();
    let mut others = Vec::new();
    let (entries, unseen) = facts::library(&connection.client, &namespace, Utc::now()).await?;
    let ready = entries.iter().filter_map(|entry| entry.compiled.as_ref().ok());
    let matched: Vec<Compiled> =
        ready.filter(|compiled| judge(compiled, world, &scope) == Verdict::Matches).cloned().collect();
    for entry in entries {
        let ran = |run: &Remediation| run.spec.playbook.uid == entry.reference.uid;
        if runs.iter().any(ran) {
            continue;
        }
        let why = match &entry.compiled {
            Err(problem) => Why::NotReady(problem.to_string()),
            Ok(compiled) => match judge(compiled, world, &scope) {
                Verdict::Matches => instead(compiled, &matched, runs).map_or(Why::Matches, Why::StandsBack),
                Verdict::Differs(difference) => Why::Differs(difference.to_string()),
                Verdict::Fails(error) => Why::Fails(error.to_string()),
            },
        };
        others.push(Other { reference: entry.reference, why });
    }
    Ok((others, unseen))
}

/// The playbook of the same group that was run in place of this one, or will be.
fn instead(compiled: &Compiled, matched: &[Compiled], runs: &[Remediation]) -> Option<String> {
    let group = compiled.settings.group.as_ref()?;
    let ran = runs.iter().find(|run| {
        run.spec.settings.group.as_ref() == Some(group) && run.spec.playbook.kind == compiled.reference.kind
    });
    let preferred = || preferred(compiled, matched).map(|other| other.reference.name.clone());
    ran.map(|run| run.spec.playbook.name.clone()).or_else(preferred)
}

/// `ClusterPlaybook contain-shell`.
fn title(reference: &PlaybookReference) -> String {
    format!("{} {}", reference.kind, reference.name)
}

/// The resource, as kubectl takes it.
fn resource(reference: &PlaybookReference, namespace: &str) -> String {
    match reference.kind {
        PlaybookKind::Playbook => format!("-n {namespace} playbook/{}", reference.name),
        PlaybookKind::ClusterPlaybook => format!("clusterplaybook/{}", reference.name),
    }
}
