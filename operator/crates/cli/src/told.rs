//! What the operator was told when it was installed, as its Deployment says.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use kube::Client;
use kube::api::{Api, ListParams};

use crate::CliError;
use crate::client::list;

/// The operator's Deployments in a namespace: one, or none where it runs elsewhere.
pub struct Told {
    /// Them.
    pub deployments: Vec<Deployment>,
}

impl Told {
    /// Reads them.
    pub async fn read(client: &Client, own_namespace: &str) -> Result<Self, CliError> {
        let api: Api<Deployment> = Api::namespaced(client.clone(), own_namespace);
        let deployments = list(&api, &ListParams::default().labels("app.kubernetes.io/name=quell")).await?;
        Ok(Self { deployments })
    }

    /// Its containers.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        let templates = self.deployments.iter().filter_map(|one| one.spec.as_ref()?.template.spec.as_ref());
        templates.flat_map(|pod| &pod.containers)
    }

    /// The ServiceAccount that it runs as.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        let mut templates = self.deployments.iter().filter_map(|one| one.spec.as_ref()?.template.spec.as_ref());
        templates.find_map(|pod| pod.service_account_name.as_deref())
    }

    /// The value of a flag, or of the environment variable of the same name.
    #[must_use]
    pub fn by(&self, flag: &str, variable: &str) -> Option<String> {
        let mut arguments = self.containers().flat_map(|one| one.args.iter().flatten());
        let given = arguments.find_map(|argument| argument.strip_prefix(flag)?.strip_prefix('='));
        let mut variables = self.containers().flat_map(|one| one.env.iter().flatten());
        let set = || variables.find(|one| one.name == variable).and_then(|one| one.value.as_deref());
        given.or_else(set).map(str::to_owned)
    }
}
