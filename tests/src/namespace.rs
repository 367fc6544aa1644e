//! A namespace for each test, so that tests run side by side.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::wait;

/// A namespace that is deleted, best effort, when this value is dropped.
#[derive(Clone)]
pub struct TestNamespace {
    name: String,
    client: Client,
    // Shared by clones, so that the last one deletes.
    _cleaner: std::sync::Arc<Cleaner>,
}

impl TestNamespace {
    /// Creates a namespace called `prefix-` and something random, and waits until pods can be created in it.
    pub async fn create(cluster: &ControlPlane, prefix: &str) -> Result<Self> {
        Self::create_with_labels(cluster, prefix, &[]).await
    }

    /// The same, with labels, for example of Pod Security.
    pub async fn create_with_labels(cluster: &ControlPlane, prefix: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let client = cluster.client().await?;
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let created = Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("can't create a namespace for {prefix}"))?;
        let name = created.name_any();
        let cleaner = Cleaner { name: name.clone(), config: Some(cluster.config().await?) };
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &name);
        wait::until(&accounts, "default", "exists", wait::DEADLINE, |account| account.is_some()).await?;
        Ok(Self { name, client, _cleaner: cleaner.into() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The admin client that made it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its objects of a kind.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates `object` in it.
    pub async fn create_object<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        self.api().create(&PostParams::default(), object).await.with_context(|| {
            format!(
                "can't create {} {}",
                K::kind(&K::DynamicType::default()),
                object.meta().name.as_deref().unwrap_or("?")
            )
        })
    }

    /// Labels the namespace itself.
    pub async fn label(&self, key: &str, value: &str) -> Result<()> {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { key: value } } }));
        Api::<Namespace>::all(self.client.clone()).patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Writes an object of another tool, of whatever kind it says that it is and with its plural by Kubernetes' rules: into this namespace,
    /// or where it names none, into the cluster. A kind that was just installed is refused for a moment; until then it is tried again.
    pub async fn put(&self, object: &Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let types = object.types.clone().context("an object says its apiVersion and kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let (name, apply) = (object.name_any(), PatchParams::apply("quell-tests").force());
        wait::eventually(wait::DEADLINE, &format!("{} {name} is written", types.kind), async || {
            api.patch(&name, &apply, &Patch::Apply(&object)).await?;
            Ok(Some(()))
        })
        .await
    }

    /// Deletes it and waits until all that was in it is gone. Not needed at the end of a test.
    pub async fn finish(self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces.delete(&self.name, &DeleteParams::background()).await.context("can't delete a test's namespace")?;
        wait::gone(&namespaces, &self.name, wait::DEADLINE).await
    }
}

struct Cleaner {
    name: String,
    config: Option<Config>,
}

impl Drop for Cleaner {
    // A test's runtime is often about to end here: its tasks and its clients can't be relied on.
    fn drop(&mut self) {
        let (Some(config), name) = (self.config.take(), std::mem::take(&mut self.name)) else { return };
        let delete = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let namespaces = Api::<Namespace>::all(Client::try_from(config).ok()?);
                let parameters = DeleteParams::background();
                let deletion = namespaces.delete(&name, &parameters);
                tokio::time::timeout(Duration::from_secs(5), deletion).await.ok()?.ok()
            })
        };
        let _ = std::thread::spawn(delete).join();
    }
}
