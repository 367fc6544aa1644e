//! `doctor`. What it says of a real network is proven by `cargo packets`.

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use quell_cli::Exit;
use quell_tests::ControlPlane;
use quell_tests::guards::{self, Guards};
use quell_tests::wait::{DEADLINE, eventually};
use serde_json::json;

use crate::bed::Bed;

#[tokio::test]
async fn a_look_tells_what_is_installed_and_what_is_wrong_and_makes_nothing() -> Result<()> {
    let bed = Bed::new("cli-doctor").await?;
    guards::install(ControlPlane::shared().await?, &Guards::default()).await?;
    let here = bed.namespace.name();
    let arguments = ["doctor", "--no-packets", "--quell-namespace", here];
    let nobody = bed.quell(&arguments, "").await;
    nobody.expect(
        Exit::Failed,
        &[
            "are installed, as this version has them",
            &format!("there is no Deployment of Quell in namespace {here}"),
            "nobody ever led",
            "stand, while Quell is down, too",
            "not tried (--no-packets)",
        ],
    )?;

    let now = quell_crds::time::to_kubernetes_micro(chrono::Utc::now());
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "quell"},
        "spec": {"holderIdentity": "quell-1", "leaseDurationSeconds": 300, "renewTime": now},
    }))?;
    bed.namespace.create_object(&lease).await?;
    let led = bed.quell(&arguments, "").await;
    assert!(led.out.lines().any(|line| line.starts_with("ok") && line.ends_with("quell-1")), "{led}");
    assert!(!led.err.contains("quell-doctor-"), "it makes a namespace: {led}");
    Ok(())
}

// No pod of this control plane has a network.
#[tokio::test]
async fn what_cannot_be_tried_is_unknown_and_the_namespace_is_deleted() -> Result<()> {
    let bed = Bed::new("cli-doctor").await?;
    let tried = bed.quell(&["doctor", "--image", "registry.example/quell:1", "--timeout", "1s"], "").await;
    tried.expect(Exit::Failed, &["unknown packets", "is deleted"])?;
    let made = tried.err.split_whitespace().find(|word| word.starts_with("quell-doctor-"));
    let made = made.with_context(|| format!("no namespace is named: {tried}"))?;
    let all: Api<Namespace> = Api::all(bed.namespace.client().clone());
    eventually(DEADLINE, "the namespace is gone", async || Ok(all.get_opt(made).await?.is_none().then_some(()))).await
}
