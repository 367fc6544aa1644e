//! The pod is out of reach and kept, the workload is whole and clean.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use quell_crds::conditions::{ConditionType, is_true};
use quell_crds::names;
use quell_crds::v1alpha1::{Finding, FindingState, Remediation, Severity, StepState};
use serde_json::{Value, json};

use super::Checks;
use crate::demo::Told;
use crate::demo::shop::{self, BAD_IMAGE, CLEAN_IMAGE, NAMESPACE, REPLICAS, STOREFRONT, api, image_of};
use crate::fixtures::{APP, digest_of};
use crate::wait::{self, Rollout as _};

pub(super) async fn check(checks: &mut Checks<'_>, told: &Told) -> Result<()> {
    let (finding, run) = checks.remediated(&told.breach, "contain-reverse-shell").await?;
    let victim = checks.stage.shop.victim.clone();
    let target = &finding.spec.target;
    let meant = Some(&target.uid) == victim.metadata.uid.as_ref()
        && target.digest == digest_of(BAD_IMAGE)
        && finding.spec.severity == Severity::Critical;
    let seen = format!("{} {}, UID {}, {}", target.kind, target.name, target.uid, target.image);
    checks.check("the Finding names the pod by its UID, and the image by its digest", meant, seen);
    let conditions = finding.status.map(|status| status.conditions).unwrap_or_default();
    checks.check(
        "the Finding says that the quarantine stands",
        is_true(&conditions, ConditionType::Quarantined),
        "condition Quarantined",
    );

    kept_and_cut_off(checks, &victim, &run).await?;
    out_of_service(checks, &victim).await?;
    whole_and_clean(checks, &run).await
}

async fn kept_and_cut_off(checks: &mut Checks<'_>, victim: &Pod, run: &Remediation) -> Result<()> {
    let client = &checks.stage.client;
    let pod = api::<Pod>(client).get(&victim.name_any()).await.context("the pod was not kept")?;
    let policies = api::<NetworkPolicy>(client).list(&ListParams::default().labels(names::QUARANTINE_POLICY)).await?;
    let quarantined = api::<Pod>(client).list(&ListParams::default().labels(names::QUARANTINE)).await?;

    let running = pod.metadata.uid == victim.metadata.uid && wait::is_ready(&pod);
    checks.check("the pod still runs, for forensics", running, format!("UID {}", pod.uid().unwrap_or_default()));
    let labels: Vec<String> = pod.labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let cut = pod.labels().contains_key(names::QUARANTINE) && !pod.labels().contains_key(APP);
    checks.check("it has lost every label that anything selects it by", cut && labels.len() == 2, labels.join(", "));
    let owned = pod.owner_references().iter().any(|owner| owner.controller == Some(true));
    checks.check("its ReplicaSet has let it go", !owned, if owned { "it has an owner" } else { "it has no owner" });

    let before: Value =
        serde_json::from_str(pod.annotations().get(names::BEFORE).map_or("null", String::as_str)).unwrap_or_default();
    let marked = pod.annotations().get(names::REMEDIATION) == Some(&run.name_any());
    let seen = format!("{}: {before}", names::BEFORE);
    checks.check(
        "it carries who did this, and the labels that it had",
        marked && before["labels"][APP] == STOREFRONT,
        seen,
    );

    let policy = policies.items.first().and_then(|policy| policy.spec.clone()).unwrap_or_default();
    let selects = policy.pod_selector.as_ref().and_then(|selector| selector.match_labels.as_ref());
    let selects = selects.is_some_and(|labels| {
        labels.len() == 1 && labels.get(names::QUARANTINE) == pod.labels().get(names::QUARANTINE)
    });
    let denies = policy.ingress.is_none_or(|rules| rules.is_empty())
        && policy.egress.is_none_or(|rules| rules.is_empty())
        && policy.policy_types.is_some_and(|types| types.len() == 2);
    let seen = format!("{} policy, selects it: {selects}, allows nothing: {denies}", policies.items.len());
    checks.check("one policy denies it everything, in and out", policies.items.len() == 1 && selects && denies, seen);
    let seen: Vec<String> = quarantined.items.iter().map(ResourceExt::name_any).collect();
    checks.check("no other pod is quarantined", seen == [victim.name_any()], seen.join(", "));
    Ok(())
}

async fn out_of_service(checks: &mut Checks<'_>, victim: &Pod) -> Result<()> {
    let client = checks.stage.client.clone();
    let victim = victim.name_any();
    // The last pods of the old revision may still be on their way out of the EndpointSlice.
    let what = "the Service sends to as many pods as there are replicas";
    let wanted = usize::try_from(REPLICAS)?;
    let settled = wait::eventually(wait::DEADLINE, what, async || {
        let behind = shop::endpoints(&client).await?;
        Ok((behind.len() == wanted).then_some(behind))
    });
    let behind = settled.await?;
    checks.check("the Service sends to three pods, and not to this one", !behind.contains(&victim), behind.join(", "));
    Ok(())
}

async fn whole_and_clean(checks: &mut Checks<'_>, run: &Remediation) -> Result<()> {
    let client = &checks.stage.client;
    let deployment = api::<Deployment>(client).get(STOREFRONT).await?;
    let pods = api::<Pod>(client).list(&ListParams::default().labels(&format!("{APP}={STOREFRONT}"))).await?;
    let records = run.status.clone().unwrap_or_default().steps;
    let back = records.iter().find(|record| record.name == "roll-back");

    let image = image_of(&deployment).to_owned();
    checks.check(
        "the Deployment is back at 1.4.0, and rolled out",
        image == CLEAN_IMAGE && deployment.is_rolled_out(),
        image,
    );
    let images: Vec<&str> =
        pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers.first()?.image.as_deref()).collect();
    let clean = images.iter().all(|image| *image == CLEAN_IMAGE) && images.len() == usize::try_from(REPLICAS)?;
    checks.check("no pod of it runs the bad image", clean, images.join(", "));
    let revision = back.and_then(|record| record.outputs.get("revision"));
    let receipt = back.and_then(|record| record.receipt.as_ref());
    let kept = receipt.is_some_and(|receipt| receipt.before["template"]["spec"]["containers"][0]["image"] == BAD_IMAGE);
    let seen = back.map_or_else(|| "no record".to_owned(), |record| record.message.clone());
    checks.check(
        "the record says to which revision, and what was there before",
        revision.is_some_and(|one| one == "1") && kept,
        seen,
    );
    Ok(())
}

/// The same alert again is the same Finding: counted, and not acted on twice.
pub(super) async fn check_repeat(checks: &mut Checks<'_>, told: &Told) -> Result<()> {
    let answer = checks.stage.operator.post("falco", &told.alert).await?;
    let (_, name) = answer.finding()?;
    let findings: Api<Finding> = api(&checks.stage.client);
    let counted = |finding: &Finding| finding.status.as_ref().is_some_and(|status| status.count == 2);
    let finding = wait::until_present(&findings, &name, "is counted twice", wait::DEADLINE, counted).await?;
    let runs = api::<Remediation>(&checks.stage.client).list(&ListParams::default()).await?.items;
    let of_it = runs.iter().filter(|run| run.spec.finding.name == told.breach).count();
    let deliveries = checks.stage.receiver.deliveries();
    let told_of_it = deliveries.iter().filter(|delivery| super::concerns(delivery, &told.breach)).count();
    let count = finding.status.map(|status| status.count).unwrap_or_default();
    let seen = format!("{NAMESPACE}/{name}, count {count}, {of_it} Remediation, {told_of_it} notification");
    checks.check(
        "the same alert again raises a count, and nothing is done twice",
        name == told.breach && of_it == 1 && told_of_it == 1,
        seen,
    );
    Ok(())
}

/// Undo, as `kubectl quell undo` asks for it.
pub(super) async fn check_undo(checks: &mut Checks<'_>, told: &Told) -> Result<()> {
    let client = checks.stage.client.clone();
    let runs: Api<Remediation> = api(&client);
    let all = runs.list(&ListParams::default()).await?.items;
    let name =
        all.iter().find(|run| run.spec.finding.name == told.breach).context("the Remediation is gone")?.name_any();
    let ask = Patch::Merge(json!({"spec": {"intent": "Undo"}}));
    runs.patch(&name, &PatchParams::default(), &ask).await?;
    let is = |finding: &Finding| finding.status.as_ref().and_then(|status| status.state) == Some(FindingState::Undone);
    wait::until_present(&api::<Finding>(&client), &told.breach, "is undone", wait::DEADLINE, is).await?;

    // The ReplicaSet takes the pod back, and may then end it as the one that is too many.
    let quarantined = api::<Pod>(&client).list(&ListParams::default().labels(names::QUARANTINE)).await?.items;
    let records = runs.get(&name).await?.status.unwrap_or_default().steps;
    let contain = records.iter().find(|record| record.name == "contain").cloned().unwrap_or_default();
    let undone = contain.state == StepState::Undone && quarantined.is_empty();
    checks.check("undo gives the pod its labels back", undone, contain.message);
    let deployment = api::<Deployment>(&client).get(STOREFRONT).await?;
    let image = image_of(&deployment).to_owned();
    checks.check("undo gives the Deployment its pod template back", image == BAD_IMAGE, image);
    Ok(())
}
