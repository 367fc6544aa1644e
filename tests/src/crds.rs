//! Quell's CRDs on a control plane.

use anyhow::{Result, bail};
use futures::future::try_join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::client::Body;
use kube::{Client, ResourceExt as _};

use crate::{ControlPlane, wait};

/// Installs every CRD, and waits until they are served. Safe to call from many tests at once.
pub async fn install(control_plane: &ControlPlane) -> Result<()> {
    install_these(control_plane, quell_crds::all()).await
}

/// Installs these CRDs, such as those of another tool.
pub async fn install_these(control_plane: &ControlPlane, crds: Vec<CustomResourceDefinition>) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(control_plane.client().await?);
    // Without kube's own retries, whose pauses grow.
    let mut config = control_plane.config().await?;
    config.default_retry = false;
    let plain = Client::try_from(config)?;
    try_join_all(crds.iter().map(|crd| {
        let (api, plain) = (api.clone(), plain.clone());
        async move {
            let name = crd.name_any();
            api.patch(&name, &PatchParams::apply("quell-tests").force(), &Patch::Apply(crd)).await?;
            let established = |found: &CustomResourceDefinition| {
                let conditions = found.status.as_ref().and_then(|status| status.conditions.as_ref());
                conditions.into_iter().flatten().any(|one| one.type_ == "Established" && one.status == "True")
            };
            wait::until_present(&api, &name, "established", wait::DEADLINE, established).await?;
            let version = crd.spec.versions.iter().find(|version| version.served).map_or("", |version| &version.name);
            let path = format!("/apis/{}/{version}/{}?watch=true", crd.spec.group, crd.spec.names.plural);
            wait::eventually(wait::DEADLINE, &format!("{name} can be watched"), async || can_watch(&plain, &path).await)
                .await
        }
    }))
    .await?;
    Ok(())
}

/// An established kind is refused to watchers (429, "storage is (re)initializing") until its cache stands; each watch that begins before
/// that loses a second or two to its backoff.
async fn can_watch(client: &Client, path: &str) -> Result<Option<()>> {
    let answer = client.send(http::Request::get(path).body(Body::empty())?).await?;
    if !answer.status().is_success() {
        bail!("{path}: {}", answer.status());
    }
    Ok(Some(()))
}
