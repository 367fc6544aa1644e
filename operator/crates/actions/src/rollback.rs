//! `rollback`: a Deployment goes back to an earlier revision.
//!
//! The pod template of the chosen revision's ReplicaSet is put into the Deployment, as `kubectl rollout undo` does, in a patch that
//! tests the template as it was read and keeps it for the way back.

mod history;

use std::time::Duration;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::Rollback;
use serde_json::{Map, Value, json};

use crate::rollback::history::{Choice, History, choose};
use crate::workloads::{self, Kind, LOOKS, Live, Standing, differences, same};
use crate::{ActionError, Context, Progress, Right, State};

/// The Deployment is read as it is now and patched; its revisions are its ReplicaSets.
pub const RIGHTS: &[Right] = &[
    Right::new("apps", "deployments", "get"),
    Right::new("apps", "deployments", "patch"),
    Right::new("apps", "replicasets", "list"),
];

const OTHERWISE: &str = "only a Deployment keeps its earlier pod templates where they can be rolled back to. Put an image that is known \
                         to be good there with setImage";
/// Where the mark says which revision was gone back to.
const WENT_TO: &str = "replacedByRevision";
/// How long its controller is given to number a revision that was just made.
const SOON: Duration = Duration::from_secs(1);

/// Rolls back, or looks how the roll-out stands.
pub async fn perform(parameters: &Rollback, cx: &Context<'_>) -> Result<Progress, ActionError> {
    if let Some(receipt) = &cx.record.receipt {
        return look(&workloads::again(cx, receipt).await?, receipt.clone());
    }
    for _ in 0..LOOKS {
        let live = workloads::find(cx, "rollback", &[Kind::Deployment], OTHERWISE).await?;
        if cx.mark.is_on(live.metadata.annotations.as_ref()) {
            let history = History::read(cx, &live).await?;
            if let Some(receipt) = workloads::marked(cx, &live, |before| put_there(before, &live, &history)) {
                return look(&live, receipt);
            }
        }
        workloads::refuse_unfit(&live, "rollback")?;
        if let Some(waits) = workloads::busy_with_another(cx, &live) {
            return Ok(waits);
        }
        if !live.is_observed() {
            let message = format!("{} was changed a moment ago; waits until it has a revision for that", live.title());
            return Ok(Progress::pending(State::Again(SOON), message, None));
        }
        let history = History::read(cx, &live).await?;
        let revision = match choose(parameters, cx, &live, &history)? {
            Choice::Revision(revision) => revision,
            Choice::There(message) => return Ok(Progress::done(message, None)),
        };
        let before = workloads::remember(
            &live,
            [
                ("template".to_owned(), live.template().clone()),
                ("revision".to_owned(), json!(history.current)),
                ("replacedBy".to_owned(), json!(revision.replica_set)),
                // The controller gives the ReplicaSet another number as soon as it sees the change.
                (WENT_TO.to_owned(), json!(revision.number)),
            ],
        );
        let operations = replace(live.template(), &revision.template);
        if let Some(now) = workloads::change(cx, &live, operations, &before).await? {
            let after = Map::from_iter([
                ("template".to_owned(), now.template().clone()),
                ("revision".to_owned(), json!(revision.number)),
            ]);
            let receipt = live.receipt(before, after);
            let what = what(&live, &receipt);
            return Ok(if cx.writer.is_rehearsal() {
                Progress::done(what, Some(receipt))
            } else {
                let message = format!("{what}; waits until it is rolled out");
                Progress::pending(State::UntilChange, message, Some(receipt))
            });
        }
    }
    Err(workloads::too_fast("the Deployment"))
}

/// What this step has changed, where the Deployment carries its mark.
pub async fn recover(cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    let live = workloads::find(cx, "rollback", &[Kind::Deployment], OTHERWISE).await?;
    if !cx.mark.is_on(live.metadata.annotations.as_ref()) {
        return Ok(None);
    }
    let history = History::read(cx, &live).await?;
    Ok(workloads::marked(cx, &live, |before| put_there(before, &live, &history)))
}

/// Puts the template back that was there before, where nobody has changed it since.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let [before, after] = [&receipt.before, &receipt.after].map(|of| of.get("template").unwrap_or(&Value::Null));
    if !before.is_object() {
        let message = "what was there before is not in the record; kubectl rollout undo puts it back by hand";
        return Err(ActionError::refused(Reason::NothingToUndo, message));
    }
    let live = workloads::put_back(receipt, cx, |live| {
        if same(live.template(), before) {
            Standing::AsBefore
        } else if same(live.template(), after) {
            Standing::AsLeft(replace(live.template(), before))
        } else {
            Standing::Changed(format!("the pod template ({})", differences(after, live.template())))
        }
    })
    .await?;
    let revision = receipt.before.get("revision").and_then(Value::as_i64).unwrap_or_default();
    Ok(format!("{} has the pod template of revision {revision} again, which it had before", live.title()))
}

fn replace(there: &Value, template: &Value) -> Vec<Value> {
    vec![
        json!({"op": "test", "path": "/spec/template", "value": there}),
        json!({"op": "replace", "path": "/spec/template", "value": template}),
    ]
}

/// What the step put there, told from the mark alone: the template of the ReplicaSet that was chosen. Where that is gone by now, what is
/// there counts as it.
fn put_there(before: &Map<String, Value>, live: &Live, history: &History) -> Map<String, Value> {
    let chosen = before.get("replacedBy").and_then(Value::as_str);
    let revision = history.revisions.iter().find(|revision| Some(revision.replica_set.as_str()) == chosen);
    let template = revision.map_or_else(|| live.template().clone(), |revision| revision.template.clone());
    let mut after = Map::from_iter([("template".to_owned(), template)]);
    let number = before.get(WENT_TO).cloned().or_else(|| revision.map(|revision| json!(revision.number)));
    if let Some(number) = number {
        after.insert("revision".to_owned(), number);
    }
    after
}

fn look(live: &Live, receipt: Receipt) -> Result<Progress, ActionError> {
    let after = receipt.after.get("template").unwrap_or(&Value::Null);
    if !same(live.template(), after) {
        let where_ = differences(after, live.template());
        let message = format!(
            "somebody has changed the pod template of {} ({where_}) before it was rolled out: what is there now was left alone",
            live.title()
        );
        return Err(ActionError::refused(Reason::ChangedSince, message).after_change(receipt));
    }
    let what = what(live, &receipt);
    let outputs =
        ["revision"].into_iter().filter_map(|key| Some((key.to_owned(), receipt.after.get(key)?.to_string())));
    let outputs: Vec<(String, String)> = outputs.collect();
    Ok(workloads::follow(live, receipt, &what)?.with_outputs(outputs))
}

fn what(live: &Live, receipt: &Receipt) -> String {
    let revision = |of: &Map<String, Value>| of.get("revision").and_then(Value::as_i64);
    match (revision(&receipt.after), revision(&receipt.before)) {
        (Some(to), Some(from)) => format!("{} went back from revision {from} to revision {to}", live.title()),
        (_, Some(from)) => format!("{} went back from revision {from}", live.title()),
        _ => format!("{} went back", live.title()),
    }
}
