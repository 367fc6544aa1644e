//! `cargo kept`: how long a quarantine that somebody opens stays open, beside a bare label patch on the same API server.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource, ResourceExt as _};
use quell_crds::names;
use quell_tests::TestNamespace;
use quell_tests::floor::percentiles;
use quell_tests::floor::quell::{self, Quell};
use quell_tests::guards::Guards;
use serde_json::{Value, json};

/// Opens quarantines in turns with patching a label of another pod, and times each by a watch of its own.
#[derive(Parser)]
struct Arguments {
    /// Quarantined pods, each in a namespace of its own: one that is opened often is put back ever more slowly.
    #[arg(long, default_value_t = 50)]
    pods: usize,
}

fn main() -> Result<ExitCode> {
    quell_tests::operator::run_as_quell_or(|| measure(&Arguments::parse()))
}

#[tokio::main]
async fn measure(arguments: &Arguments) -> Result<()> {
    let control_plane = quell::control_plane(3).await?;
    let operator = quell::start(&control_plane, None, &["--log", "error"]).await?;
    // They would refuse to open anything.
    quell_tests::guards::remove(&control_plane, &Guards::default()).await?;

    let (mut labels, mut policies, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..arguments.pods {
        let namespace = TestNamespace::create(&control_plane, &format!("kept-{number}")).await?;
        quell::pods(&namespace, &["held".to_owned(), "bare".to_owned()]).await?;
        Quell::start(&control_plane, &namespace, &operator).await?.once("held").await?;
        let pods: Api<Pod> = namespace.api();
        let is_held = |pod: &Pod| pod.labels().contains_key(names::QUARANTINE);
        bare.push(
            until(&pods, "bare", &json!({"metadata": {"labels": {"bare": "x"}}}), None, |pod| {
                pod.labels().contains_key("bare")
            })
            .await?,
        );
        let free = json!({"metadata": {"labels": {names::QUARANTINE: null, "app": "floor"}}});
        labels.push(until(&pods, "held", &free, Some(&|pod| !is_held(pod)), is_held).await?);
        let all: Api<NetworkPolicy> = namespace.api();
        let own = all.list(&ListParams::default().labels(names::QUARANTINE_POLICY)).await?;
        let own = own.items.first().context("the quarantine has no policy")?.name_any();
        let is_open = |policy: &NetworkPolicy| {
            policy.spec.as_ref().is_some_and(|spec| spec.egress.as_ref().is_some_and(|all| !all.is_empty()))
        };
        let open = json!({"spec": {"egress": [{}]}});
        policies.push(until(&all, &own, &open, Some(&is_open), |policy| !is_open(policy)).await?);
        // What is in it goes with the control plane.
        drop(namespace);
    }
    let (label50, label99) = percentiles(&mut labels);
    let (policy50, policy99) = percentiles(&mut policies);
    let (bare50, bare99) = percentiles(&mut bare);
    println!("labels taken off: closed p50 {label50:.2?} p99 {label99:.2?}");
    println!("policy opened: closed p50 {policy50:.2?} p99 {policy99:.2?}");
    let mut both = [labels, policies].concat();
    let (closed50, closed99) = percentiles(&mut both);
    println!("kept: closed p50 {closed50:.2?} p99 {closed99:.2?}, bare label patch p50 {bare50:.2?} p99 {bare99:.2?}");
    drop(operator);
    control_plane.stop().await
}

/// From the patch to the moment that a watch shows the object as it should be; where `first` is given, after it was shown so.
async fn until<K>(
    api: &Api<K>,
    name: &str,
    patch: &Value,
    first: Option<&(dyn Fn(&K) -> bool + Sync)>,
    then: impl Fn(&K) -> bool,
) -> Result<Duration>
where
    K: Resource<DynamicType: Default> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut stream = std::pin::pin!(watcher(api.clone(), config).default_backoff().touched_objects());
    stream.next().await.context("the watch has ended")??;
    let began = Instant::now();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    let mut shown = first.is_none();
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    while let Some(object) = tokio::time::timeout_at(deadline, stream.try_next()).await.context("it stays open")?? {
        shown |= first.is_some_and(|first| first(&object));
        if shown && then(&object) {
            return Ok(began.elapsed());
        }
    }
    anyhow::bail!("the watch has ended")
}
