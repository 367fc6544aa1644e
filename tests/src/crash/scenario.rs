//! What is played: one playbook, one signal, on a namespace of its own.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::receivers::Receivers;
use crate::fixtures::{Described as _, PodCarrier as _, deployment};
use crate::wait;

/// A scenario: what is there, what comes in, what is asked for then.
pub struct Scenario {
    /// Its name, by which it is asked for.
    pub name: &'static str,
    /// The playbook of the library.
    pub playbook: &'static str,
    /// What of the playbook is made fit for the test bed: the places of receivers, and waits that are shortened.
    pub edit: fn(&str, &Receivers) -> String,
    /// How many releases the workload has, each rolled out, the last one bad; with none there is no workload.
    pub releases: usize,
    /// The Source, and what it says.
    pub signal: fn(&Staged) -> (&'static str, Value),
    /// What the counting begins with.
    pub from: From,
}

/// What the counting of requests begins with. What comes before is done without a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The signal; to the end of the run.
    Signal,
    /// A person who asks for an undo of the run that has ended; to the end of the undo.
    Undo,
    /// The start of the process, which finds a Finding that nobody has acted on; to the end of the run.
    Start,
}

impl From {
    /// The phase in which runs end.
    #[must_use]
    pub fn ends_in(self) -> &'static str {
        match self {
            Self::Signal | Self::Start => "Succeeded",
            Self::Undo => "Undone",
        }
    }
}

/// The place of one run of a scenario.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Its namespace.
    pub namespace: String,
    /// The image of the newest release; of this run alone.
    pub image: String,
    /// A pod of the newest release, where there is a workload.
    pub pod: Option<Pod>,
}

impl Scenario {
    /// The playbook, fit for the test bed.
    pub fn text(&self, receivers: &Receivers) -> Result<String> {
        let library = quell_playbooks::library::library();
        let (_, text) = library.into_iter().find(|(name, _)| *name == self.playbook).context("not in the library")?;
        Ok((self.edit)(text, receivers))
    }

    /// Sets the stage for one run.
    pub async fn stage(&self, client: &Client, namespace: &str) -> Result<Staged> {
        let wanted = Namespace {
            metadata: ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &wanted).await?;
        let image = |release: usize| format!("registry.example/{namespace}/shop:1.{release}");
        let mut staged = Staged { namespace: namespace.to_owned(), image: image(self.releases), pod: None };
        if self.releases == 0 {
            return Ok(staged);
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        wait::until_present(&accounts, "default", "exists", wait::DEADLINE, |_| true).await?;
        // What builds images in the cluster does so as this one.
        let builder = ServiceAccount {
            metadata: ObjectMeta { name: Some("rebuilder".to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        accounts.create(&PostParams::default(), &builder).await?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let shop = deployment("shop").image(&image(1)).label("app", "shop");
        deployments.create(&PostParams::default(), &shop).await?;
        wait::rolled_out(&deployments, "shop", wait::DEADLINE).await?;
        for release in 2..=self.releases {
            let containers = json!([{ "name": "app", "image": image(release) }]);
            let patch = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
            deployments.patch("shop", &PatchParams::default(), &Patch::Strategic(patch)).await?;
            wait::rolled_out(&deployments, "shop", wait::DEADLINE).await?;
        }
        let newest = staged.image.clone();
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pod = wait::eventually(wait::DEADLINE, "the newest release has the only pod", async || {
            let all = pods.list(&ListParams::default()).await?.items;
            let [pod] = all.as_slice() else { anyhow::bail!("{} pods", all.len()) };
            let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref());
            Ok((image == Some(newest.as_str()) && wait::is_ready(pod)).then(|| pod.clone()))
        })
        .await?;
        staged.pod = Some(pod);
        Ok(staged)
    }
}

impl Staged {
    /// The pod's name.
    #[must_use]
    pub fn pod_name(&self) -> String {
        self.pod.as_ref().map(ResourceExt::name_any).unwrap_or_default()
    }
}
