//! What probes of a quarantined pod have a say in. What they do to a real network is proven by `cargo packets`.

use anyhow::{Context as _, Result};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{Finding, Phase};
use quell_tests::operator;
use quell_tests::probe_jobs::{Station, told};
use quell_tests::wait;
use serde_json::json;

use crate::containment::{allow_all, contained};
use crate::support::{Bed, DEADLINE, any_falco, condition};

/// A Finding whose pod was cut off, and what its probes, from outside and from beside the pod, came to.
async fn probed(bed: &Bed, outside: &str, beside: &str) -> Result<String> {
    bed.playbook(any_falco(), json!([{ "name": "contain", "quarantine": { "probe": { "ports": [80] } } }])).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?.name_any();
    contained(bed, &finding, "Unknown", "ProbeUnderWay").await?;
    let client = bed.namespace.client();
    Station::new(client, operator::NAMESPACE, "outside").of_runs_in(bed.name()).ends(told(outside)).await?;
    Station::new(client, bed.name(), "beside").ends(told(beside)).await?;
    Ok(finding)
}

/// What `Contained` says, once its message does or doesn't have that part.
async fn says(bed: &Bed, finding: &str, part: &str, there: bool) -> Result<(String, String, String)> {
    let says = |finding: &Finding| condition(finding, ConditionType::Contained);
    let is = |finding: &Finding| says(finding).is_some_and(|(.., message)| message.contains(part) == there);
    let what = format!("Contained, whose message has {part:?}: {there}");
    let finding = wait::until_present(&bed.findings(), finding, &what, DEADLINE, is).await?;
    says(&finding).context("no condition")
}

#[tokio::test]
async fn a_pod_that_a_probe_got_through_to_is_not_contained_whatever_the_policies_say() -> Result<()> {
    let bed = Bed::new("through").await?;
    let finding = probed(&bed, "Silent", "Connected").await?;
    let (_, _, message) =
        condition(&contained(&bed, &finding, "False", "ProbeGotThrough").await?, ConditionType::Contained)
            .context("no condition")?;
    assert!(message.contains("from beside it") && message.contains("computed: no policy lets anything"), "{message}");
    assert!(bed.event(&finding, "ProbeGotThrough").await?.contains("a probe connected to"));
    let run = bed.run_in(&finding, Phase::Succeeded).await?.status.context("no status")?;
    let of_run = conditions::find(&run.conditions, ConditionType::Contained).context("the run claims nothing")?;
    assert_eq!((of_run.status.as_str(), of_run.reason.as_str()), ("False", "ProbeGotThrough"));

    // Judged anew by policies that come and go, which would make it True again.
    bed.namespace.create_object(&allow_all(&bed)?).await?;
    says(&bed, &finding, "allow-all", true).await?;
    bed.namespace.api::<NetworkPolicy>().delete("allow-all", &DeleteParams::default()).await?;
    let (status, reason, message) = says(&bed, &finding, "allow-all", false).await?;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProbeGotThrough"), "{message}");
    assert!(message.contains("computed: no policy lets anything"), "{message}");
    bed.finish().await
}

#[tokio::test]
async fn a_pod_that_no_probe_got_through_to_is_contained_as_the_policies_say() -> Result<()> {
    let bed = Bed::new("silent").await?;
    let finding = probed(&bed, "Silent", "Silent").await?;
    contained(&bed, &finding, "True", "NothingGetsThrough").await?;
    bed.namespace.create_object(&allow_all(&bed)?).await?;
    contained(&bed, &finding, "False", "PathsOpen").await?;
    bed.finish().await
}
