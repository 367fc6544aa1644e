//! `setImage`: a container of the workload gets another image.

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::SetImage;
use serde_json::{Map, Value, json};

use crate::workloads::{self, Kind, LOOKS, Live, Standing};
use crate::{ActionError, Context, Progress, Right, State};

/// The workload is read as it is now, and patched.
pub const RIGHTS: &[Right] = &[
    Right::new("apps", "daemonsets", "get"),
    Right::new("apps", "daemonsets", "patch"),
    Right::new("apps", "deployments", "get"),
    Right::new("apps", "deployments", "patch"),
    Right::new("apps", "statefulsets", "get"),
    Right::new("apps", "statefulsets", "patch"),
];

const OTHERWISE: &str =
    "it sets images of Deployments, StatefulSets and DaemonSets; change this one where it comes from";

const KINDS: [Kind; 3] = [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet];
/// Key of a receipt's `before`: the image that the step puts there, for who finds the mark and has no record.
const REPLACED_BY: &str = "replacedBy";

/// A container of a pod template, and where it is.
struct Container {
    path: String,
    name: String,
    image: String,
    /// It prepares the pod; it is meant only where it is named.
    init: bool,
}

/// Sets the image, or looks how the roll-out stands.
pub async fn perform(parameters: &SetImage, cx: &Context<'_>) -> Result<Progress, ActionError> {
    if let Some(receipt) = &cx.record.receipt {
        return look(&workloads::again(cx, receipt).await?, receipt.clone());
    }
    let wanted = parameters.image.trim();
    if wanted.is_empty() {
        let message = "setImage.image is empty: the step that should give it has given none";
        return Err(ActionError::refused(Reason::ParameterInvalid, message));
    }
    for _ in 0..LOOKS {
        let live = workloads::find(cx, "setImage", &KINDS, OTHERWISE).await?;
        let put_there = |before: &Map<String, Value>| {
            let container = before.get("container").cloned().unwrap_or_default();
            part(container, json!(wanted))
        };
        if let Some(receipt) = workloads::marked(cx, &live, put_there) {
            return look(&live, receipt);
        }
        let container = choose(parameters, cx, &live)?;
        if container.image == wanted {
            let message = format!("container {} of {} has the image {wanted} already", container.name, live.title());
            return Ok(Progress::done(message, None).with_outputs(outputs(wanted, wanted)));
        }
        workloads::refuse_unfit(&live, "setImage")?;
        if let Some(waits) = workloads::busy_with_another(cx, &live) {
            return Ok(waits);
        }
        let mut before = workloads::remember(&live, part(json!(container.name), json!(container.image)));
        before.insert(REPLACED_BY.to_owned(), json!(wanted));
        let operations = replace(&container, wanted);
        if workloads::change(cx, &live, operations, &before).await?.is_some() {
            let receipt = live.receipt(before, part(json!(container.name), json!(wanted)));
            let what = what(&live, &receipt);
            return Ok(if cx.writer.is_rehearsal() {
                Progress::done(what, Some(receipt)).with_outputs(outputs(&container.image, wanted))
            } else {
                let message = format!("{what}; waits until it is rolled out");
                Progress::pending(State::UntilChange, message, Some(receipt))
            });
        }
    }
    Err(workloads::too_fast("the workload"))
}

/// What this step has changed, where the workload carries its mark.
pub async fn recover(cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    let live = workloads::find(cx, "setImage", &KINDS, OTHERWISE).await?;
    Ok(workloads::marked(cx, &live, |before| {
        let name = text(before, "container");
        let put = before.get(REPLACED_BY).cloned();
        // A mark that doesn't tell is an older version's: what is there now counts as what the step put there.
        let there = || containers(&live).into_iter().find(|one| one.name == name).map(|one| json!(one.image));
        part(json!(name), put.or_else(there).unwrap_or_default())
    }))
}

/// Gives the container its old image back, where nobody has changed it since.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let name = text(&receipt.before, "container");
    let (before, after) = (text(&receipt.before, "image"), text(&receipt.after, "image"));
    if name.is_empty() || before.is_empty() {
        let message = "what was there before is not in the record; kubectl rollout undo puts it back by hand";
        return Err(ActionError::refused(Reason::NothingToUndo, message));
    }
    let live =
        workloads::put_back(receipt, cx, |live| match containers(live).into_iter().find(|one| one.name == name) {
            None => Standing::Changed(format!("the container {name}, which is gone,")),
            Some(container) if container.image == before => Standing::AsBefore,
            Some(container) if container.image == after => Standing::AsLeft(replace(&container, before)),
            Some(container) => {
                Standing::Changed(format!("the image of container {name} (it is {} now)", container.image))
            }
        })
        .await?;
    let by_hand = if live.kind == Kind::StatefulSet {
        "; Kubernetes does not replace a StatefulSet's pod that never became ready: delete such pods by hand"
    } else {
        ""
    };
    Ok(format!("container {name} of {} has its image {before} again{by_hand}", live.title()))
}

/// The only container, whatever prepares it.
fn only(all: Vec<Container>) -> Option<Container> {
    let mut all = all.into_iter().filter(|container| !container.init);
    all.next().filter(|_| all.next().is_none())
}

/// The container that is meant: by the step, by the Finding, or because there is no other.
fn choose(parameters: &SetImage, cx: &Context<'_>, live: &Live) -> Result<Container, ActionError> {
    let all = containers(live);
    let reported = &cx.world.finding.spec.target.container;
    let meant = parameters.container.as_ref().or(Some(reported).filter(|name| !name.is_empty()));
    let names: Vec<String> = all.iter().map(|container| container.name.clone()).collect();
    let (title, names) = (live.title(), names.join(", "));
    match meant {
        Some(name) => all.into_iter().find(|container| container.name == *name).ok_or_else(|| {
            ActionError::refused(
                Reason::ParameterInvalid,
                format!("{title} has no container {name}; it has {names}. Name the one that is meant in setImage.container"),
            )
        }),
        None => only(all).ok_or_else(|| ActionError::refused(
            Reason::ParameterInvalid,
            format!("{title} has several containers ({names}), and the Finding names none: name it in setImage.container"),
        )),
    }
}

fn containers(live: &Live) -> Vec<Container> {
    let of = |list: &'static str, init: bool| {
        let items = live.template()["spec"][list].as_array();
        items.into_iter().flatten().enumerate().map(move |(index, item)| Container {
            path: format!("/spec/template/spec/{list}/{index}"),
            name: item["name"].as_str().unwrap_or_default().to_owned(),
            image: item["image"].as_str().unwrap_or_default().to_owned(),
            init,
        })
    };
    of("containers", false).chain(of("initContainers", true)).collect()
}

fn replace(container: &Container, image: &str) -> Vec<Value> {
    let at = |field: &str| format!("{}/{field}", container.path);
    vec![
        json!({"op": "test", "path": at("name"), "value": container.name}),
        json!({"op": "test", "path": at("image"), "value": container.image}),
        json!({"op": "replace", "path": at("image"), "value": image}),
    ]
}

fn part(container: Value, image: Value) -> Map<String, Value> {
    Map::from_iter([("container".to_owned(), container), ("image".to_owned(), image)])
}

fn look(live: &Live, receipt: Receipt) -> Result<Progress, ActionError> {
    let (name, wanted) = (text(&receipt.after, "container"), text(&receipt.after, "image"));
    let there = containers(live).into_iter().find(|container| container.name == name).map(|container| container.image);
    if there.as_deref() != Some(wanted) {
        let now = there.unwrap_or_else(|| "gone".to_owned());
        let message = format!(
            "somebody has changed the image of container {name} of {} before it was rolled out (it is {now} now): left alone",
            live.title()
        );
        return Err(ActionError::refused(Reason::ChangedSince, message).after_change(receipt));
    }
    let what = what(live, &receipt);
    let outputs = outputs(text(&receipt.before, "image"), wanted);
    Ok(workloads::follow(live, receipt, &what)?.with_outputs(outputs))
}

fn what(live: &Live, receipt: &Receipt) -> String {
    let [name, before, after] =
        [text(&receipt.after, "container"), text(&receipt.before, "image"), text(&receipt.after, "image")];
    format!("container {name} of {} has the image {after} in place of {before}", live.title())
}

fn outputs(previous: &str, image: &str) -> [(String, String); 2] {
    [("previousImage".to_owned(), previous.to_owned()), ("image".to_owned(), image.to_owned())]
}

fn text<'a>(of: &'a Map<String, Value>, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}
