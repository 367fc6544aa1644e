//! `approve` and `deny`: a decision on what a run waits for.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, PostParams};
use kube::{Resource as _, ResourceExt as _};
use quell_crds::names;
use quell_crds::v1alpha1::{Approval, ApprovalDecision, ApprovalSpec, ApprovedRun, GateRecord, Remediation, StepState};

use crate::client::{Connection, ask};
use crate::find::Named;
use crate::flags::{Approve, Connect};
use crate::steer::FIELD_MANAGER;
use crate::text::one_line;
use crate::{CliError, Exit, Io, find, objects};

/// A gate that waits.
struct Gate {
    step: Option<String>,
    record: GateRecord,
}

impl Gate {
    fn name(&self) -> &str {
        self.step.as_deref().unwrap_or("the whole run")
    }
}

pub async fn run(of: &Approve, decision: ApprovalDecision, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let runs = match find::parse(&of.what)? {
        Named::Remediation(name) => vec![find::remediation(&connection, &name).await?],
        Named::Finding(name) => {
            let finding = find::finding(&connection, &name).await?;
            find::runs(&connection, &finding).await?
        }
    };
    let all = runs.iter().flat_map(|run| gates(run).into_iter().map(move |gate| (run, gate)));
    let mut meant: Vec<_> =
        all.filter(|(_, gate)| of.step.is_none() || gate.step.as_deref() == of.step.as_deref()).collect();
    let Some((run, gate)) = meant.pop() else {
        let what = of.step.as_ref().map_or_else(String::new, |step| format!("step {step} of "));
        return Err(CliError::Refused(format!("{what}{} waits for no approval now", of.what)));
    };
    if let Some((other, another)) = meant.pop() {
        let told = |run: &Remediation, gate: &Gate| format!("remediation/{} {}", run.name_any(), gate.name());
        let message = format!("several wait: {}, {}; say which", told(other, &another), told(run, &gate));
        return Err(CliError::Usage(message));
    }
    let user = whoami(&connection).await?;
    let deny = decision == ApprovalDecision::Deny;
    if !deny && run.spec.author.as_ref() == Some(&user) && is_separate(run, &gate) {
        let message =
            format!("you ({user}) wrote the playbook, and two persons are asked for: somebody else must approve it");
        return Err(CliError::Refused(message));
    }
    writeln!(io.out, "remediation/{} {}: {}", run.name_any(), gate.name(), one_line(&gate.record.reason))?;
    if !gate.record.parameters.is_empty() {
        let parameters = serde_json::to_string(&gate.record.parameters).unwrap_or_default();
        writeln!(io.out, "  what is done: {}", one_line(&parameters))?;
    }
    decide(&connection, run, &gate, decision, &user, &of.reason).await?;
    let more = usize::try_from(gate.record.quorum).unwrap_or(1);
    let given = gate.record.approved_by.iter().filter(|other| **other != user).count() + 1;
    if deny {
        writeln!(io.out, "  denied by {user}")?;
    } else if given < more {
        writeln!(io.out, "  approved by {user}: {given} of {more}")?;
    } else {
        writeln!(io.out, "  approved by {user}; kubectl quell watch tells what comes of it")?;
    }
    Ok(Exit::Ok)
}

fn gates(run: &Remediation) -> Vec<Gate> {
    let status = objects::status(run);
    if status.phase.is_final() {
        return Vec::new();
    }
    let whole = status.approval.filter(|gate| !gate.open).map(|record| Gate { step: None, record });
    let steps = status.steps.into_iter().filter(|record| record.state == StepState::AwaitingApproval);
    let steps = steps.filter_map(|record| {
        Some(Gate { step: Some(record.name), record: record.approval.filter(|gate| !gate.open)? })
    });
    whole.into_iter().chain(steps).collect()
}

fn is_separate(run: &Remediation, gate: &Gate) -> bool {
    let asked = match &gate.step {
        None => run.spec.settings.approval.as_ref(),
        Some(name) => run.spec.all_steps().find(|step| step.name == *name).and_then(|step| step.approval.as_ref()),
    };
    asked.is_some_and(|gate| gate.separate)
}

/// The name by which the API server knows the caller.
async fn whoami(connection: &Connection) -> Result<String, CliError> {
    let api: Api<SelfSubjectReview> = Api::all(connection.client.clone());
    let review =
        ask("asking who you are".to_owned(), api.create(&PostParams::default(), &SelfSubjectReview::default())).await?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    user.ok_or_else(|| CliError::Refused("the API server does not say who you are".to_owned()))
}

async fn decide(
    connection: &Connection,
    run: &Remediation,
    gate: &Gate,
    decision: ApprovalDecision,
    user: &str,
    reason: &str,
) -> Result<(), CliError> {
    let (name, uid) = (run.name_any(), run.uid().unwrap_or_default());
    let spec = ApprovalSpec {
        remediation: ApprovedRun { name: name.clone(), uid: uid.clone() },
        step: gate.step.clone(),
        digest: gate.record.digest.clone(),
        decision,
        user: user.to_owned(),
        reason: reason.to_owned(),
    };
    let step = format!("{}/{decision}", gate.step.as_deref().unwrap_or_default());
    let mut approval = Approval::new(&names::approval(&name, &uid, &step, &gate.record.digest, user), spec);
    approval.metadata.namespace = run.namespace();
    approval.metadata.owner_references = Some(vec![OwnerReference {
        api_version: Remediation::api_version(&()).into_owned(),
        kind: Remediation::kind(&()).into_owned(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    }]);
    let api: Api<Approval> = Api::namespaced(connection.client.clone(), &run.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match ask(format!("deciding on {name}"), api.create(&parameters, &approval)).await {
        Err(CliError::Api { source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.is_already_exists()) => {
            Err(CliError::Refused(format!("you ({user}) have said so already")))
        }
        other => other.map(|_| ()),
    }
}
