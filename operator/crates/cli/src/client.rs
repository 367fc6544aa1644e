//! The way to the cluster: the kubeconfig as kubectl reads it, and requests that are bounded in time.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;

use crate::CliError;
use crate::flags::Connect;

/// A person waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// A cluster, and the namespace that is meant where none is named.
pub struct Connection {
    pub client: Client,
    pub config: Config,
    pub namespace: String,
}

impl Connection {
    /// Connects to the cluster that the flags name.
    pub async fn new(flags: &Connect) -> Result<Self, CliError> {
        let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
        let config = match &flags.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| CliError::Kubeconfig(Box::new(error)))?;
                Config::from_custom_kubeconfig(file, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = match config {
            Ok(config) => config,
            // In a pod there is no kubeconfig, and kubectl goes by the pod's service account.
            Err(error) if flags.context.is_none() && flags.kubeconfig.is_none() => {
                Config::incluster().map_err(|_| CliError::Kubeconfig(Box::new(error)))?
            }
            Err(error) => return Err(CliError::Kubeconfig(Box::new(error))),
        };
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config.clone()).map_err(|error| CliError::Kubeconfig(Box::new(error)))?;
        Ok(Self { client, config, namespace })
    }
}

/// Makes a request, and says what it was for where it fails.
pub async fn ask<T>(
    doing: impl Into<String>,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CliError> {
    let doing = doing.into();
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(CliError::Api { doing, source: Box::new(error) }),
        Err(_) => Err(CliError::Timeout { doing, limit: LIMIT }),
    }
}

/// All objects that the parameters select.
pub async fn list<K>(api: &Api<K>, parameters: &ListParams) -> Result<Vec<K>, CliError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    Ok(ask(format!("listing {}", K::plural(&())), api.list(parameters)).await?.items)
}
