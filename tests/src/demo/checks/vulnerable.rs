//! The image was built once, and payments runs what was built.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use quell_crds::names;
use quell_crds::v1alpha1::Severity;

use super::Checks;
use crate::demo::Told;
use crate::demo::shop::{PAYMENTS, VULNERABLE_IMAGE, api, image_of};
use crate::demo::signals::CVE;
use crate::fixtures::APP;
use crate::wait::Rollout as _;

pub(super) async fn check(checks: &mut Checks<'_>, told: &Told) -> Result<()> {
    let (finding, run) = checks.remediated(&told.vulnerable, "rebuild-critical").await?;
    let spec = &finding.spec;
    let worst = spec.vulnerabilities.first().map(|one| one.id.as_str()).unwrap_or_default();
    let target = &spec.target;
    let meant = (target.kind.as_str(), target.name.as_str(), target.image.as_str())
        == ("Deployment", PAYMENTS, VULNERABLE_IMAGE);
    let seen = format!("{worst}, {} vulnerabilities, {} {}", spec.vulnerabilities.len(), target.kind, target.name);
    checks.check(
        "the Finding names the workload that runs the image",
        meant && worst == CVE && spec.severity == Severity::Critical,
        seen,
    );

    let client = &checks.stage.client;
    let jobs = api::<Job>(client).list(&ListParams::default().labels(names::REMEDIATION)).await?.items;
    let deployment = api::<Deployment>(client).get(PAYMENTS).await?;
    let pods = api::<Pod>(client).list(&ListParams::default().labels(&format!("{APP}={PAYMENTS}"))).await?.items;
    let records = run.status.clone().unwrap_or_default().steps;
    let outputs =
        records.iter().find(|record| record.name == "rebuild").map(|record| record.outputs.clone()).unwrap_or_default();

    let complete = |job: &Job| job.status.as_ref().is_some_and(|status| status.succeeded == Some(1));
    let seen: Vec<String> = jobs.iter().map(ResourceExt::name_any).collect();
    checks.check("one Job has built it, once", jobs.len() == 1 && jobs.iter().all(complete), seen.join(", "));
    let output = |key: &str| outputs.get(key).map(String::as_str).unwrap_or_default();
    let (image, digest) = (output("image"), output("digest"));
    let named = image.ends_with(":2.3.1") && digest.starts_with("sha256:") && digest.len() == "sha256:".len() + 64;
    checks.check("the Job's termination message says what it made", named, format!("{image} {digest}"));
    let runs = image_of(&deployment);
    let same = runs == format!("{image}@{digest}") && deployment.is_rolled_out();
    checks.check("the Deployment has exactly that image, and is rolled out", same, runs);
    let ids: Vec<&str> = pods
        .iter()
        .filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()?.first().map(|one| one.image_id.as_str()))
        .collect();
    let all = ids.len() == 2 && ids.iter().all(|id| id.ends_with(digest));
    checks.check("every pod of it has that digest", all, format!("{} pods", ids.len()));
    Ok(())
}
