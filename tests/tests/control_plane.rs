//! The test bed itself: what other tests take for granted.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use quell_tests::control_plane::{EXIT_CODE, NOT_READY, RESULT};
use quell_tests::fixtures::{
    APP, Described as _, PodCarrier as _, Scaled as _, daemon_set, deployment, digest_of, job, pod, service,
    stateful_set,
};
use quell_tests::wait::{self, DEADLINE, eventually};
use quell_tests::{ControlPlane, Recorder, TestNamespace, requests};
use serde_json::json;

#[tokio::test]
async fn every_component_runs_and_every_node_is_ready() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    cluster.check()?;
    let nodes = Api::<Node>::all(cluster.client().await?).list(&ListParams::default()).await?;
    assert!(!nodes.items.is_empty());
    let version = cluster.kubectl()?.args(["version", "-o", "json"]).output().await?;
    assert!(version.status.success(), "{}", String::from_utf8_lossy(&version.stderr));
    Ok(())
}

#[tokio::test]
async fn workloads_of_every_kind_become_ready() -> Result<()> {
    let namespace = TestNamespace::create(ControlPlane::shared().await?, "workloads").await?;
    namespace.create_object(&deployment("web").replicas(2)).await?;
    namespace.create_object(&stateful_set("db").replicas(2)).await?;
    namespace.create_object(&daemon_set("agent")).await?;
    namespace.create_object(&service("web")).await?;
    wait::rolled_out(&namespace.api::<Deployment>(), "web", DEADLINE).await?;
    wait::rolled_out(&namespace.api::<StatefulSet>(), "db", DEADLINE).await?;
    wait::rolled_out(&namespace.api::<DaemonSet>(), "agent", DEADLINE).await?;

    let slices = namespace.api::<EndpointSlice>();
    let selector = ListParams::default().labels("kubernetes.io/service-name=web");
    eventually(DEADLINE, "both pods are endpoints of the Service", async || {
        let endpoints: usize =
            slices.list(&selector).await?.items.iter().map(|slice| slice.endpoints.iter().flatten().count()).sum();
        ensure!(endpoints == 2, "{endpoints} endpoints");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn containers_report_the_digest_of_their_image_and_an_address_of_their_own() -> Result<()> {
    let namespace = TestNamespace::create(ControlPlane::shared().await?, "digests").await?;
    let pinned = format!("registry.example:5000/team/shop:1.0@sha256:{}", "0123456789abcdef".repeat(4));
    let tagged = "registry.example:5000/team/shop:1.0";
    let object = pod("shop").image(tagged).container("pinned", &pinned).init_container("setup", tagged);
    namespace.create_object(&object).await?;
    let shop = wait::pod_ready(&namespace.api(), "shop", DEADLINE).await?;
    let status = shop.status.context("no status")?;
    assert!(status.pod_ip.is_some());
    let init = status.init_container_statuses.context("no init containers")?;
    let containers = status.container_statuses.context("no containers")?;
    let ids: Vec<_> = containers.iter().chain(&init).map(|container| container.image_id.as_str()).collect();
    let repository = "registry.example:5000/team/shop";
    let expected = [tagged, &pinned, tagged].map(|image| format!("{repository}@{}", digest_of(image)));
    assert_eq!(ids, expected);
    assert!(containers.iter().all(|container| {
        container.container_id.as_deref().is_some_and(|id| id.starts_with("containerd://") && id.len() == 77)
    }));
    Ok(())
}

#[tokio::test]
async fn a_rollout_to_a_broken_image_keeps_the_old_pods() -> Result<()> {
    let namespace = TestNamespace::create(ControlPlane::shared().await?, "broken").await?;
    let deployments = namespace.api::<Deployment>();
    namespace.create_object(&deployment("shop").image("registry.example/shop:1.0").replicas(2)).await?;
    wait::rolled_out(&deployments, "shop", DEADLINE).await?;

    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "registry.example/shop:broken"}]}}}});
    deployments.patch("shop", &PatchParams::default(), &Patch::Strategic(patch)).await?;
    let pods = namespace.api::<Pod>();
    eventually(DEADLINE, "the new pod crashes", async || {
        let statuses: Vec<_> =
            pods.list(&ListParams::default()).await?.into_iter().filter_map(|pod| pod.status).collect();
        let mut containers = statuses.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let reason = |container: &k8s_openapi::api::core::v1::ContainerStatus| {
            Some(container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()? == "CrashLoopBackOff")
        };
        Ok(containers.any(|container| reason(container) == Some(true)).then_some(()))
    })
    .await?;
    let shop = deployments.get("shop").await?;
    assert!(!wait::Rollout::is_rolled_out(&shop));
    assert_eq!(shop.status.and_then(|status| status.available_replicas), Some(2));
    Ok(())
}

#[tokio::test]
async fn readiness_follows_the_annotation() -> Result<()> {
    let namespace = TestNamespace::create(ControlPlane::shared().await?, "readiness").await?;
    let pods = namespace.api::<Pod>();
    let created = namespace.create_object(&pod("shop").annotation(NOT_READY, "true")).await?;
    let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let shop = wait::until_present(&pods, "shop", "runs", DEADLINE, running).await?;
    assert!(!wait::is_ready(&shop));
    for (value, ready) in [(json!(null), true), (json!("true"), false)] {
        let patch = json!({"metadata": {"annotations": {NOT_READY: value}}});
        pods.patch("shop", &PatchParams::default(), &Patch::Merge(patch)).await?;
        let changed = |pod: &Pod| wait::is_ready(pod) == ready;
        let shop = wait::until_present(&pods, "shop", "changes its readiness", DEADLINE, changed).await?;
        assert_eq!(shop.uid(), created.uid());
    }
    Ok(())
}

#[tokio::test]
async fn a_job_completes_with_its_message_and_fails_with_its_exit_code() -> Result<()> {
    let namespace = TestNamespace::create(ControlPlane::shared().await?, "jobs").await?;
    let jobs = namespace.api::<Job>();
    let message = r#"{"image":"registry.example/shop","digest":"sha256:abc"}"#;
    namespace.create_object(&job("build").pod_annotation(RESULT, message)).await?;
    namespace.create_object(&job("fails").pod_annotation(RESULT, "no space").pod_annotation(EXIT_CODE, "3")).await?;
    assert!(wait::job_finished(&jobs, "build", DEADLINE).await?);
    assert!(!wait::job_finished(&jobs, "fails", DEADLINE).await?);

    for (name, code, said) in [("build", 0, message), ("fails", 3, "no space")] {
        let selector = ListParams::default().labels(&format!("{APP}={name}"));
        let pods = namespace.api::<Pod>().list(&selector).await?;
        let status = pods.items.first().and_then(|pod| pod.status.as_ref()).context("no pod")?;
        let container = status.container_statuses.iter().flatten().next().context("no container")?;
        let end = container.state.as_ref().and_then(|state| state.terminated.as_ref()).context("not terminated")?;
        assert_eq!((end.exit_code, end.message.as_deref()), (code, Some(said)));
        assert!(container.image_id.contains("@sha256:"));
    }
    Ok(())
}

#[tokio::test]
async fn pods_have_logs_and_go_when_deleted_or_evicted() -> Result<()> {
    let namespace = TestNamespace::create(ControlPlane::shared().await?, "lifecycle").await?;
    let pods = namespace.api::<Pod>();
    for name in ["one", "two"] {
        namespace.create_object(&pod(name)).await?;
        wait::pod_ready(&pods, name, DEADLINE).await?;
    }
    let log = pods.logs("one", &LogParams::default()).await?;
    assert!(log.contains("listening on :8080"), "{log}");
    pods.delete("one", &DeleteParams::default()).await?;
    pods.evict("two", &EvictParams::default()).await?;
    wait::gone(&pods, "one", DEADLINE).await?;
    wait::gone(&pods, "two", DEADLINE).await?;
    namespace.finish().await
}

#[tokio::test]
async fn rights_are_real() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = TestNamespace::create(cluster, "rights").await?;
    let client = cluster.client_as_service_account(namespace.name(), "default").await?;
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(client, namespace.name());
    match secrets.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        other => bail!("a service account without rights got {other:?}"),
    }
}

#[tokio::test]
async fn requests_are_recorded_with_their_verbs_and_answers() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = TestNamespace::create(cluster, "requests").await?;
    let recorder = Recorder::new();
    let client = quell_tests::recorded_client(cluster, &recorder.labelled("operator")).await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace.name());
    let apply = PatchParams::apply("quell/test");
    maps.patch(
        "one",
        &apply,
        &Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "b"}}),
        ),
    )
    .await?;
    assert!(maps.get_opt("two").await?.is_none());
    wait::until(&maps, "one", "exists", DEADLINE, |map| map.is_some()).await?;
    Api::<Pod>::all(client).list(&ListParams::default().limit(1)).await?;
    maps.delete("one", &DeleteParams::default()).await?;

    let seen = recorder.requests();
    assert!(seen.iter().all(|request| request.label == "operator"));
    let writes: Vec<_> = seen.iter().filter(|request| request.verb.is_write()).collect();
    assert_eq!(writes.len(), 2);
    assert_eq!((writes[0].field_manager().as_str(), writes[0].status.map(|s| s.as_u16())), ("quell/test", Some(201)));
    let missing = seen.iter().find(|request| request.verb == requests::Verb::Get).context("the get is missing")?;
    assert_eq!((missing.name.as_str(), missing.status.map(|s| s.as_u16())), ("two", Some(404)));
    let rights: Vec<_> =
        recorder.rights().into_iter().map(|right| format!("{} {}", right.verb, right.resource)).collect();
    for right in ["delete configmaps", "get configmaps", "patch configmaps", "list pods"] {
        assert!(rights.iter().any(|used| used == right), "{right} is missing in {rights:?}");
    }
    Ok(())
}
