//! `denyImage`: the API server refuses pods with the image, by an ImageBlock of a name that the run and the step fix.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::step::{DenyImage, DenyImageBy, DenyImageNamespaces};
use quell_crds::v1alpha1::{BlockedFor, Effect, FindingSpec, ImageBlock, ImageBlockSpec, PlaybookKind, Receipt};
use quell_ingest::ImageRef;
use serde_json::{Map, Value, json};

use crate::{ActionError, Context, Progress, Right};

/// A block is created, read where one of that name is there already, and read and deleted by undo.
pub const RIGHTS: &[Right] = &[
    Right::cluster("quell.dev", "imageblocks", "create"),
    Right::cluster("quell.dev", "imageblocks", "get"),
    Right::cluster("quell.dev", "imageblocks", "delete"),
];

/// Most that `spec.reason` holds, in characters.
const REASON: usize = 512;

/// Blocks the image of the Finding.
pub async fn perform(parameters: &DenyImage, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let wanted = block(parameters, cx)?;
    let api: Api<ImageBlock> = Api::all(cx.writer.client());
    if let Some(created) = cx.writer.create(&api, &wanted).await? {
        return Ok(done(&created, cx.now));
    }
    let name = wanted.name_any();
    match cx.writer.get(&api, "", &name).await? {
        // By this very step, in a try whose record was lost.
        Some(there) if cx.mark.is_on(there.metadata.annotations.as_ref()) && is_of(&there, &wanted) => {
            Ok(done(&there, cx.now))
        }
        Some(_) => Err(ActionError::refused(
            Reason::ChangedSince,
            format!(
                "ImageBlock {name} is there already and does not carry the mark of this step, so it was left alone; see who made it, and \
                 delete it if it should not be there"
            ),
        )),
        None => Err(ActionError::for_now(Reason::ChangedSince, format!("ImageBlock {name} came and went"))),
    }
}

/// The block, where this step has made it.
pub async fn recover(cx: &Context<'_>) -> Result<Option<Receipt>, ActionError> {
    let api: Api<ImageBlock> = Api::all(cx.writer.client());
    let there = cx.writer.get(&api, "", &name(cx)).await?;
    Ok(there.filter(|there| cx.mark.is_on(there.metadata.annotations.as_ref())).map(|there| {
        // The first generation is what was made. Of a later one nothing tells what was there: undo must find it changed.
        let made = there.metadata.generation == Some(1);
        let after = if made { spec(&there) } else { Map::from_iter([("generation".to_owned(), json!(1))]) };
        Effect { after, ..receipt(&there).effect }.into()
    }))
}

/// Deletes the block, where it is still the one that was made.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let api: Api<ImageBlock> = Api::all(cx.writer.client());
    let name = &receipt.name;
    let Some(there) = cx.writer.get(&api, "", name).await? else {
        return Ok(format!("ImageBlock {name} is gone already, expired or deleted: nothing of it is left"));
    };
    if there.uid().as_deref() != Some(&receipt.uid) {
        let message = format!("ImageBlock {name} is another one by now, and was left alone");
        return Err(ActionError::refused(Reason::ChangedSince, message));
    }
    if !receipt.after.is_empty() && spec(&there) != receipt.after {
        let message = format!(
            "somebody has changed ImageBlock {name} since, so it was left alone; kubectl delete imageblock {name} lifts it by hand"
        );
        return Err(ActionError::refused(Reason::ChangedSince, message));
    }
    let what = what(&there.spec);
    cx.writer.delete(&api, "", name, &receipt.uid).await?;
    Ok(format!("{what} may start again: ImageBlock {name} is deleted"))
}

fn block(parameters: &DenyImage, cx: &Context<'_>) -> Result<ImageBlock, ActionError> {
    let finding = &cx.world.finding.spec;
    let mut spec = refused(parameters.by, finding)?;
    spec.namespaces = namespaces(parameters, cx)?;
    spec.reason = format!("{:?}: {}", finding.severity, finding.rule).chars().take(REASON).collect();
    spec.finding = Some(BlockedFor { namespace: cx.mark.namespace.clone(), name: cx.mark.finding.clone() });
    spec.expires_at = parameters.r#for.and_then(|time| expiry(cx.now, time.get()));
    let mut labels = cx.mark.labels();
    labels.insert(names::MANAGED_BY.to_owned(), names::QUELL.to_owned());
    let metadata = ObjectMeta {
        name: Some(name(cx)),
        labels: Some(labels),
        annotations: Some(cx.mark.annotations()),
        ..ObjectMeta::default()
    };
    Ok(ImageBlock { metadata, spec })
}

/// Fixed by run and step.
fn name(cx: &Context<'_>) -> String {
    names::created_for_cluster(&cx.mark.namespace, &cx.mark.remediation, &cx.mark.step)
}

/// Rounded up: the API server compares whole seconds.
fn expiry(now: DateTime<Utc>, time: std::time::Duration) -> Option<DateTime<Utc>> {
    Some((now + TimeDelta::from_std(time).ok()?).trunc_subsecs(0) + TimeDelta::seconds(1))
}

/// What of the Finding's image is refused.
fn refused(by: DenyImageBy, finding: &FindingSpec) -> Result<ImageBlockSpec, ActionError> {
    let (digest, tag, repository) = named(finding);
    let missing = |what: &str| {
        let message = format!(
            "the Finding names no {what} of an image: it has image {:?} and digest {:?}; say in denyImage.by what of it is to be refused",
            finding.target.image, finding.target.digest
        );
        ActionError::refused(Reason::ParameterInvalid, message)
    };
    let spec = match by {
        DenyImageBy::Digest => {
            ImageBlockSpec { digest: Some(digest.ok_or_else(|| missing("digest"))?), ..ImageBlockSpec::default() }
        }
        DenyImageBy::Tag => {
            ImageBlockSpec { tag: Some(tag.ok_or_else(|| missing("tag"))?), ..ImageBlockSpec::default() }
        }
        DenyImageBy::Repository => ImageBlockSpec {
            repository: Some(repository.ok_or_else(|| missing("repository"))?),
            ..ImageBlockSpec::default()
        },
        DenyImageBy::Image if digest.is_none() && tag.is_none() => return Err(missing("digest and no tag")),
        DenyImageBy::Image => ImageBlockSpec { digest, tag, ..ImageBlockSpec::default() },
    };
    Ok(spec)
}

/// Digest, tag with its repository, and repository, in the form in which references are compared, as far as the Finding names them.
fn named(finding: &FindingSpec) -> (Option<String>, Option<String>, Option<String>) {
    let target = &finding.target;
    let reference = match (target.image.as_str(), target.kind.as_str()) {
        ("", "Image") => target.name.as_str(),
        (image, _) => image,
    };
    let image = ImageRef::parse(reference);
    let digest = ImageRef::parse(&format!("image@{}", target.digest)).digest.or(image.digest);
    // An image's id alone has neither.
    let located = image.reference.contains('/').then_some(image.reference);
    let repository = located.as_deref().map(|reference| match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository.to_owned(),
        _ => reference.to_owned(),
    });
    let tag = located.filter(|reference| repository.as_ref() != Some(reference));
    (digest, tag, repository)
}

fn namespaces(parameters: &DenyImage, cx: &Context<'_>) -> Result<Vec<String>, ActionError> {
    match parameters.namespaces {
        DenyImageNamespaces::All if cx.playbook == PlaybookKind::ClusterPlaybook => Ok(Vec::new()),
        DenyImageNamespaces::All => Err(ActionError::refused(
            Reason::Forbidden,
            "only a ClusterPlaybook may refuse an image in all namespaces; leave denyImage.namespaces out for the Playbook's own",
        )),
        DenyImageNamespaces::Own if cx.mark.namespace == cx.cluster.own_namespace() => Err(ActionError::refused(
            Reason::ParameterInvalid,
            format!(
                "the Finding is in Quell's own namespace {}, in which no image is refused; denyImage.namespaces: All refuses it in all others",
                cx.mark.namespace
            ),
        )),
        DenyImageNamespaces::Own => Ok(vec![cx.mark.namespace.clone()]),
    }
}

/// Whether the block is the one that is wanted, but for when it was made.
fn is_of(there: &ImageBlock, wanted: &ImageBlock) -> bool {
    let timeless = |spec: &ImageBlockSpec| ImageBlockSpec { expires_at: None, ..spec.clone() };
    timeless(&there.spec) == timeless(&wanted.spec)
}

fn done(block: &ImageBlock, now: DateTime<Utc>) -> Progress {
    let name = block.name_any();
    let place = match block.spec.namespaces.as_slice() {
        [] => "every namespace".to_owned(),
        some => format!("namespace {}", some.join(", ")),
    };
    let until = block.spec.expires_at.map(|end| format!(" until {}", end.format("%Y-%m-%dT%H:%M:%SZ")));
    let until = until.unwrap_or_default();
    let expired = block.spec.expires_at.is_some_and(|end| end <= now);
    let verb = if expired { "was refused" } else { "is refused" };
    let message = format!("{} {verb} in {place}{until}, by ImageBlock {name}; what runs goes on", what(&block.spec));
    Progress::done(message, Some(receipt(block))).with_outputs([("imageBlock".to_owned(), name)])
}

fn receipt(block: &ImageBlock) -> Receipt {
    Effect {
        api_version: "quell.dev/v1alpha1".to_owned(),
        kind: "ImageBlock".to_owned(),
        namespace: String::new(),
        name: block.name_any(),
        uid: block.uid().unwrap_or_default(),
        before: Map::new(),
        after: spec(block),
    }
    .into()
}

fn what(spec: &ImageBlockSpec) -> String {
    let parts: Vec<&str> =
        [&spec.tag, &spec.repository, &spec.digest].into_iter().flatten().map(String::as_str).collect();
    format!("image {}", parts.join(" and "))
}

fn spec(block: &ImageBlock) -> Map<String, Value> {
    match json!(block.spec) {
        Value::Object(spec) => Map::from_iter([("spec".to_owned(), Value::Object(spec))]),
        _ => Map::new(),
    }
}
