//! Install, upgrade and uninstall, on a real API server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use quell_actions::Mark;
use quell_actions::quarantine::Profile;
use quell_crds::names;
use quell_crds::v1alpha1::step::Quarantine;
use quell_crds::v1alpha1::{ClusterPlaybook, Finding, Source};
use quell_tests::fixtures::{Described as _, pod};
use quell_tests::wait;
use serde_json::json;

use crate::helm::{chart, cluster, helm, kubectl};

/// A namespace in which only what meets the restricted standard may run.
pub async fn restricted_namespace(client: &Client, name: &str) -> Result<()> {
    let labels = [("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())];
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

#[tokio::test]
async fn a_release_is_installed_upgraded_and_removed_and_what_was_found_stays() -> Result<()> {
    let cluster = cluster().await?;
    let client = cluster.client().await?;
    restricted_namespace(&client, "quell").await?;
    let library = "library.enabled=true";

    // A pod under quarantine, from before: nothing that happens to the release is to touch it.
    let quarantine = quarantine(&client).await?;

    // An earlier version, whose CRDs lack something.
    let earlier = earlier_chart(cluster.dir())?;
    let earlier = earlier.to_string_lossy();
    let notes = helm(&cluster, &["install", "quell", &earlier, "-n", "quell", "--set", library]).await?;
    for line in ["https://quell.quell.svc/v1/sources/falco?token=TOKEN", "quell-ingest-tls", "kind: ClusterChannel"] {
        assert!(notes.contains(line), "the notes don't say {line}:\n{notes}");
    }
    wait::rolled_out(&Api::<Deployment>::namespaced(client.clone(), "quell"), "quell", wait::DEADLINE).await?;
    assert_eq!(short_names(&client).await?, Vec::<String>::new());
    let source = Api::<Source>::all(client.clone()).get("falco").await?;
    let bearer = source.spec.webhook.as_ref().and_then(|webhook| webhook.bearer_token.as_ref());
    assert!(bearer.is_some_and(|bearer| bearer.in_query));
    assert_eq!(
        Api::<ClusterPlaybook>::all(client.clone()).list(&kube::api::ListParams::default()).await?.items.len(),
        4
    );
    let before = secrets(&client).await?;

    // This version: what is secret stays, what is ours is upgraded, what the first install made as a hook is taken over.
    let this = chart();
    let this = this.to_string_lossy();
    helm(&cluster, &["upgrade", "quell", &this, "-n", "quell", "--set", library, "--set", "replicas=3"]).await?;
    assert_eq!(secrets(&client).await?, before, "token and certificate are kept");
    still_quarantined(&client, &quarantine).await?;
    assert_eq!(short_names(&client).await?, ["src"], "CRDs are upgraded");
    let manifest = helm(&cluster, &["get", "manifest", "quell", "-n", "quell"]).await?;
    assert!(manifest.contains("kind: Source") && manifest.contains("name: contain-reverse-shell"));
    let after = Api::<Source>::all(client.clone()).get("falco").await?;
    assert_eq!(after.uid(), source.uid(), "the Source was there all the time");

    // Everything, judged strictly by the API server itself.
    let strict = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    kubectl(&cluster, &strict, &manifest).await?;

    // Taken out of the values, it goes.
    helm(&cluster, &["upgrade", "quell", &this, "-n", "quell", "--set", "falco.enabled=false"]).await?;
    wait::gone(&Api::<Source>::all(client.clone()), "falco", wait::DEADLINE).await?;
    helm(&cluster, &["upgrade", "quell", &this, "-n", "quell"]).await?;

    finding(&client, "default", "kept", "default").await?;
    helm(&cluster, &["uninstall", "quell", "-n", "quell"]).await?;
    wait::gone(&Api::<Deployment>::namespaced(client.clone(), "quell"), "quell", wait::DEADLINE).await?;
    Api::<Finding>::namespaced(client.clone(), "default").get("kept").await.context("the Finding is still there")?;
    still_quarantined(&client, &quarantine).await?;

    // And it can come back to them.
    helm(&cluster, &["install", "quell", &this, "-n", "quell", "--wait"]).await?;
    Api::<Finding>::namespaced(client.clone(), "default").get("kept").await.context("the Finding is still there")?;
    Api::<Source>::all(client).get("falco").await?;
    cluster.stop().await
}

/// A pod as a quarantine leaves it, and the policy that it stands on.
async fn quarantine(client: &Client) -> Result<(Pod, NetworkPolicy)> {
    let profile = Profile::of(&Quarantine::default());
    let mark = Mark {
        namespace: "default".to_owned(),
        remediation: "run".to_owned(),
        finding: "finding".to_owned(),
        step: "contain".to_owned(),
    };
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "default");
    let policy = policies.create(&PostParams::default(), &profile.policy("default", &mark)).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let cut_off = pod("cut-off").within("default").label(names::QUARANTINE, "full");
    pods.create(&PostParams::default(), &cut_off).await?;
    Ok((wait::pod_ready(&pods, "cut-off", wait::DEADLINE).await?, policy))
}

async fn still_quarantined(client: &Client, (pod, policy): &(Pod, NetworkPolicy)) -> Result<()> {
    let there = Api::<Pod>::namespaced(client.clone(), "default").get(&pod.name_any()).await?;
    assert_eq!((there.uid(), there.labels()), (pod.uid(), pod.labels()));
    assert!(there.metadata.deletion_timestamp.is_none());
    let standing = Api::<NetworkPolicy>::namespaced(client.clone(), "default").get(&policy.name_any()).await?;
    assert_eq!(
        (standing.uid(), &standing.spec, standing.finalizers()),
        (policy.uid(), &policy.spec, policy.finalizers())
    );
    assert!(standing.metadata.deletion_timestamp.is_none());
    Ok(())
}

/// A copy of the chart in which Sources have no short name yet.
fn earlier_chart(folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("earlier");
    copy_folder(&chart(), &copy)?;
    let crd = copy.join("crds/sources.quell.dev.yaml");
    let text = std::fs::read_to_string(&crd)?;
    let without = text.replace("    shortNames:\n    - src\n", "");
    assert_ne!(text, without, "the CRD of Sources isn't written as it was");
    std::fs::write(crd, without)?;
    Ok(copy)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

async fn short_names(client: &Client) -> Result<Vec<String>> {
    let crd = Api::<CustomResourceDefinition>::all(client.clone()).get("sources.quell.dev").await?;
    Ok(crd.spec.names.short_names.unwrap_or_default())
}

async fn secrets(client: &Client) -> Result<Vec<Secret>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), "quell");
    let mut kept = Vec::new();
    for name in ["quell-ingest-tls", "quell-source-falco"] {
        let mut secret = api.get(name).await?;
        assert!(secret.data.as_ref().is_some_and(|data| data.values().all(|value| value.0.len() >= 40)));
        secret.metadata = ObjectMeta { name: secret.metadata.name, uid: secret.metadata.uid, ..ObjectMeta::default() };
        kept.push(secret);
    }
    Ok(kept)
}

/// A Finding by hand, in a namespace, about a pod of another or the same.
pub async fn finding(client: &Client, namespace: &str, name: &str, about: &str) -> Result<Finding, kube::Error> {
    let finding: Finding = serde_json::from_value(json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": "Finding", "metadata": { "name": name },
        "spec": {
            "source": "manual", "rule": "by hand", "severity": "Low",
            "target": { "kind": "Pod", "apiVersion": "v1", "namespace": about, "name": "some" },
        },
    }))
    .map_err(kube::Error::SerdeError)?;
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &finding).await
}

/// An install makes objects of kinds that come with it. Helm looks at everything before it creates anything, and an API server takes a
/// moment to serve a new kind; neither may depend on luck, or on the name of the release.
#[tokio::test]
async fn a_first_install_knows_its_own_kinds_whatever_the_release_is_called() -> Result<()> {
    let chart = chart();
    let chart = chart.to_string_lossy();
    for (release, namespace) in [("quell", "quell"), ("guard", "security")] {
        let cluster = cluster().await?;
        let client = cluster.client().await?;
        let of_release = |verb: &'static str| {
            [verb, release, &chart, "-n", namespace, "--create-namespace", "--set", "library.enabled=true"]
        };
        let rehearsed = helm(&cluster, &[&of_release("install")[..], &["--dry-run=server"]].concat()).await?;
        assert!(rehearsed.contains("kind: Source"));
        helm(&cluster, &of_release("install")).await.with_context(|| format!("installing {release}"))?;
        Api::<Source>::all(client.clone()).get("falco").await?;
        let notes = helm(&cluster, &[&of_release("upgrade")[..8], &["--install"]].concat()).await?;
        let others = release != "quell";
        assert_eq!(notes.contains("it does not upgrade them"), others, "{notes}");
        Api::<Source>::all(client.clone()).get("falco").await?;
        helm(&cluster, &["uninstall", release, "-n", namespace]).await?;
        assert_eq!(short_names(&client).await?, ["src"], "CRDs stay");
        cluster.stop().await?;
    }
    Ok(())
}
