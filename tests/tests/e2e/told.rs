//! Who is told how a quarantine fares after it was made.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use quell_crds::names;
use quell_crds::v1alpha1::{ClusterChannel, FindingState, QuarantineNews, Remediation};
use quell_tests::demo::receiver::{Delivery, KEY, Receiver};
use quell_tests::{operator, wait};
use serde_json::json;

use crate::support::{Bed, DEADLINE, any_falco, apply};

/// A receiver, and a ClusterChannel that leads to it.
async fn channel(bed: &Bed, name: &str) -> Result<Receiver> {
    let receiver = Receiver::listen(tokio::sync::mpsc::unbounded_channel().0).await?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        string_data: Some([("key".to_owned(), KEY.to_owned())].into()),
        ..Secret::default()
    };
    let client = bed.namespace.client().clone();
    Api::<Secret>::namespaced(client.clone(), operator::NAMESPACE).create(&PostParams::default(), &secret).await?;
    let webhook = json!({ "webhook": { "url": receiver.url(), "hmacKey": { "name": name, "key": "key" } } });
    apply(&Api::<ClusterChannel>::all(client), "ClusterChannel", name, &webhook).await?;
    Ok(receiver)
}

async fn end(bed: &Bed, name: &str) -> Result<()> {
    let client = bed.namespace.client().clone();
    Api::<ClusterChannel>::all(client.clone()).delete(name, &DeleteParams::default()).await?;
    Api::<Secret>::namespaced(client, operator::NAMESPACE).delete(name, &DeleteParams::default()).await?;
    Ok(())
}

async fn delivered(receiver: &Receiver, words: &str) -> Result<Delivery> {
    wait::eventually(DEADLINE, &format!("a message that says {words:?}"), async || {
        let all = receiver.deliveries();
        match all.iter().find(|one| one.body.to_string().contains(words)) {
            Some(found) => Ok(Some(found.clone())),
            None => bail!("there are {:#?}", all.iter().map(|one| one.body.to_string()).collect::<Vec<_>>()),
        }
    })
    .await
}

#[tokio::test]
async fn an_opened_path_its_closing_and_a_fight_are_told_once_each_to_the_channels_that_the_run_told() -> Result<()> {
    let bed = Bed::new("told").await?;
    let (name, other) = (bed.name().to_owned(), format!("{}-other", bed.name()));
    let (receiver, skipped) = (channel(&bed, &name).await?, channel(&bed, &other).await?);
    let steps = json!([
        { "name": "contain", "quarantine": {} },
        { "name": "tell", "notify": { "channels": [{ "name": name }] } },
        { "name": "not-these", "when": "finding.severity == 'Low'", "notify": { "channels": [{ "name": other }] } },
    ]);
    bed.playbook(any_falco(), steps).await?;
    let pod = bed.shop("registry.example/shop:1.0").await?;
    let finding = bed.alert(&pod.name_any()).await?;
    bed.finding_in(&finding.name_any(), FindingState::Remediated).await?;
    ensure!(receiver.deliveries().len() == 1, "the step itself: {:?}", receiver.deliveries());

    let runs: Api<Remediation> = bed.namespace.api();
    let run = bed.run_in(&finding.name_any(), quell_crds::v1alpha1::Phase::Succeeded).await?.name_any();
    let knows = async |news: QuarantineNews| {
        let told = move |run: &Remediation| {
            run.status
                .as_ref()
                .and_then(|status| status.told.as_ref())
                .is_some_and(|told| told.news == news && told.failure.is_empty())
        };
        wait::until_present(&runs, &run, &format!("recorded as told: {news:?}"), DEADLINE, told).await
    };

    let policies: Api<NetworkPolicy> = bed.namespace.api();
    let allow: NetworkPolicy = serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "allow-all" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}] },
    }))?;
    policies.create(&PostParams::default(), &allow).await?;
    let told = delivered(&receiver, "does not hold").await?.body.to_string();
    ensure!(
        told.contains(&format!("allowed by NetworkPolicy {}/allow-all", bed.name()))
            && told.contains("delete or narrow"),
        "{told}"
    );
    knows(QuarantineNews::Opened).await?;
    policies.delete("allow-all", &DeleteParams::default()).await?;
    delivered(&receiver, "is undisturbed again").await?;
    knows(QuarantineNews::Closed).await?;

    let pods: Api<Pod> = bed.namespace.api();
    for _ in 0..3 {
        // Whoever only takes a label away owns nothing by which it could be told who it was.
        let labels = json!({ names::QUARANTINE: null, "gitops.example/synced": "yes" });
        let lifted = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        pods.patch(&pod.name_any(), &PatchParams::apply("gitops"), &lifted).await?;
        let is_back = |pod: &Pod| pod.labels().contains_key(names::QUARANTINE);
        wait::until_present(&pods, &pod.name_any(), "under quarantine again", DEADLINE, is_back).await?;
    }
    delivered(&receiver, "it was put back").await?;
    let fought = delivered(&receiver, "3 times in ten minutes").await?.body.to_string();
    ensure!(fought.contains("gitops"), "it says who: {fought}");
    knows(QuarantineNews::Contested).await?;

    let all = receiver.deliveries();
    let keys: BTreeSet<_> = all.iter().map(|one| one.key.as_str()).collect();
    ensure!(all.len() == 5 && keys.len() == 5, "each once: {all:#?}");
    ensure!(all.iter().all(|one| one.verified.is_ok()) && skipped.deliveries().is_empty(), "{all:#?}");
    for name in [&name, &other] {
        end(&bed, name).await?;
    }
    bed.finish().await
}
