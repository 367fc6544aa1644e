//! ImageBlocks: what they refuse.

use anyhow::{Context as _, Result, bail};
use chrono::{TimeDelta, Utc};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use quell_crds::v1alpha1::{BlockedFor, ImageBlock, ImageBlockSpec};
use quell_tests::fixtures::{PodCarrier as _, deployment, pod};
use quell_tests::{TestNamespace, guards, wait};
use serde_json::{Value, json};

use crate::bed::{Bed, refused};

const IMAGES: &str = "blocked-images";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Blocks, and waits until the API server knows it.
async fn block(bed: &Bed, name: &str, mut spec: Value, refuses: &str) -> Result<String> {
    spec["namespaces"] = json!([bed.name()]);
    spec["reason"] = json!("a critical hole");
    let spec: ImageBlockSpec = serde_json::from_value(spec)?;
    let name = format!("{}-{name}", bed.name());
    let api: Api<ImageBlock> = Api::all(bed.stranger.clone());
    api.create(&PostParams::default(), &ImageBlock::new(&name, spec)).await?;
    wait::eventually(wait::DEADLINE, &format!("{refuses} is blocked"), async || match start(bed, refuses).await {
        Err(error) if guards::by(IMAGES, &error) => Ok(Some(())),
        other => bail!("{other:?}"),
    })
    .await?;
    Ok(name)
}

/// Asks whether a pod with that image may start.
async fn start(bed: &Bed, image: &str) -> Result<Pod, kube::Error> {
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    bed.pods(&bed.stranger).create(&parameters, &pod("asks").image(image)).await
}

#[tokio::test]
async fn a_tag_is_refused_however_it_is_written_and_no_other_is() -> Result<()> {
    let bed = Bed::new("tag").await?;
    let name = block(&bed, "hub", json!({ "tag": "nginx:1.27" }), "nginx:1.27").await?;
    for image in [
        "docker.io/nginx:1.27",
        "docker.io/library/nginx:1.27",
        "index.docker.io/library/nginx:1.27",
        "registry-1.docker.io/library/nginx:1.27",
        "library/nginx:1.27",
        "DOCKER.io/nginx:1.27",
        "docker.io:443/library/nginx:1.27",
        &format!("nginx:1.27@{DIGEST}"),
    ] {
        refused(start(&bed, image).await, IMAGES, &format!("image {image} is blocked by ImageBlock {name}"));
    }
    block(&bed, "own", json!({ "tag": "registry.example:5000/team/shop:latest" }), "registry.example:5000/team/shop")
        .await?;
    block(&bed, "local", json!({ "tag": "localhost/shop:1" }), "localhost/shop:1").await?;
    refused(start(&bed, "REGISTRY.example:5000/team/shop:latest").await, IMAGES, "a critical hole");
    for image in [
        "nginx",
        "nginx:1.27.1",
        "nginx:1.2",
        "acme/nginx:1.27",
        "registry.example/nginx:1.27",
        "registry.example/docker.io/library/nginx:1.27",
        "registry.example:5000/team/shop:1",
        "registry.example:500/team/shop",
        "registry.example/team/shop",
        "shop:1",
        "localhost:5000/shop:1",
        &format!("nginx@{DIGEST}"),
    ] {
        start(&bed, image).await.context(image.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_digest_is_refused_in_whatever_repository_and_a_tag_beside_it_is_no_way_round() -> Result<()> {
    let bed = Bed::new("digest").await?;
    let image = format!("registry.example/shop@{DIGEST}");
    block(&bed, "digest", json!({ "digest": DIGEST }), &image).await?;
    for image in [format!("shop@{DIGEST}"), format!("mirror.example:5000/x/shop:2@{DIGEST}"), DIGEST.to_owned()] {
        refused(start(&bed, &image).await, IMAGES, "a critical hole");
    }
    let other = DIGEST.replace('0', "1");
    for image in ["registry.example/shop:1", &format!("registry.example/shop@{other}"), &other] {
        start(&bed, image).await.context(image.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_repository_is_refused_with_whatever_tag_and_all_below_it_with_a_star() -> Result<()> {
    let bed = Bed::new("repository").await?;
    block(&bed, "one", json!({ "repository": "registry.example:443/team/shop" }), "registry.example/team/shop:1")
        .await?;
    block(&bed, "below", json!({ "repository": "evil.example/*" }), "evil.example/a").await?;
    block(&bed, "owner", json!({ "repository": "acme/*" }), "acme/tool").await?;
    for image in ["registry.example/team/shop", &format!("registry.example/team/shop@{DIGEST}"), "evil.example/a/b/c:1"]
    {
        refused(start(&bed, image).await, IMAGES, "a critical hole");
    }
    refused(start(&bed, "docker.io/acme/tool:7").await, IMAGES, "a critical hole");
    for image in ["registry.example/team/shop2", "registry.example/team", "evil.example.org/a", "acme2/tool", "tool"] {
        start(&bed, image).await.context(image.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn every_place_of_a_pod_that_has_an_image_is_looked_at() -> Result<()> {
    let bed = Bed::new("places").await?;
    let bad = "registry.example/bad:1";
    block(&bed, "bad", json!({ "tag": bad }), bad).await?;
    let container = json!({ "name": "bad", "image": bad });
    for spec in [
        json!({ "initContainers": [container] }),
        json!({ "volumes": [{ "name": "bad", "image": { "reference": bad, "pullPolicy": "Always" } }] }),
    ] {
        let mut wanted = serde_json::to_value(pod("places"))?;
        wanted["spec"].as_object_mut().context("a spec")?.extend(spec.as_object().cloned().unwrap_or_default());
        let wanted: Pod = serde_json::from_value(wanted)?;
        refused(bed.pods(&bed.stranger).create(&PostParams::default(), &wanted).await, IMAGES, bad);
    }
    bed.namespace.create_object(&pod("runs")).await?;
    wait::pod_ready(&bed.namespace.api(), "runs", wait::DEADLINE).await?;
    let debug = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
    let pods = bed.pods(&bed.stranger);
    refused(pods.patch_subresource("ephemeralcontainers", "runs", &PatchParams::default(), &debug).await, IMAGES, bad);
    let swap = Patch::Strategic(json!({ "spec": { "containers": [{ "name": "app", "image": bad }] } }));
    refused(pods.patch("runs", &PatchParams::default(), &swap).await, IMAGES, bad);
    Ok(())
}

#[tokio::test]
async fn what_runs_already_goes_on_and_its_owner_is_told_why_no_more_start() -> Result<()> {
    let bed = Bed::new("runs").await?;
    let bad = "registry.example/shop:1";
    bed.namespace.create_object(&deployment("shop").image(bad)).await?;
    wait::rolled_out(&bed.namespace.api::<Deployment>(), "shop", wait::DEADLINE).await?;
    let finding = BlockedFor { namespace: "quell".to_owned(), name: "trivy-0a1b2c3d4e".to_owned() };
    let name = block(&bed, "bad", json!({ "tag": bad, "finding": finding }), bad).await?;
    let pods = bed.pods(&bed.stranger);
    let there = pods.list(&ListParams::default()).await?.items.into_iter().next().context("a pod")?;
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    pods.patch(&there.name_any(), &PatchParams::default(), &label).await?;

    let scale = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
    bed.namespace.api::<Deployment>().patch("shop", &PatchParams::default(), &scale).await?;
    let told = wait::eventually(wait::DEADLINE, "the ReplicaSet says why", async || {
        let sets = bed.namespace.api::<ReplicaSet>().list(&ListParams::default()).await?.items;
        let conditions = sets.into_iter().filter_map(|set| set.status?.conditions).flatten();
        Ok(conditions.filter(|one| one.type_ == "ReplicaFailure").find_map(|one| one.message))
    })
    .await?;
    assert!(told.contains(&format!("blocked by ImageBlock {name}")), "{told}");
    assert!(told.contains("on account of Finding quell/trivy-0a1b2c3d4e: a critical hole"), "{told}");
    assert!(told.contains("quell:break-glass"), "{told}");
    assert_eq!(pods.list(&ListParams::default()).await?.items.len(), 1);
    Ok(())
}

#[tokio::test]
async fn it_holds_in_the_namespaces_that_it_names_or_selects() -> Result<()> {
    let bed = Bed::new("where").await?;
    let cluster = quell_tests::ControlPlane::shared().await?;
    let prod = TestNamespace::create_with_labels(cluster, "prod", &[("env", "prod"), ("case", bed.name())]).await?;
    let staging =
        TestNamespace::create_with_labels(cluster, "staging", &[("env", "staging"), ("case", bed.name())]).await?;
    let asks = async |namespace: &TestNamespace, image: &str| {
        let parameters = PostParams { dry_run: true, ..PostParams::default() };
        namespace.api::<Pod>().create(&parameters, &pod("asks").image(image)).await
    };
    let api: Api<ImageBlock> = Api::all(bed.stranger.clone());
    let case = json!({ "key": "case", "operator": "In", "values": [bed.name()] });
    for (name, selector, in_prod, in_staging, in_other) in [
        ("labels", json!({ "matchLabels": { "env": "prod", "case": bed.name() } }), true, false, false),
        (
            "not-in",
            json!({ "matchExpressions": [case, { "key": "env", "operator": "NotIn", "values": ["prod"] }] }),
            false,
            true,
            false,
        ),
        ("exists", json!({ "matchExpressions": [case, { "key": "env", "operator": "Exists" }] }), true, true, false),
        (
            "not-there",
            json!({ "matchExpressions": [case, { "key": "env", "operator": "DoesNotExist" }] }),
            false,
            false,
            false,
        ),
        ("names-too", json!({ "matchLabels": { "case": bed.name() } }), false, true, false),
    ] {
        let image = format!("registry.example/where/{name}:1");
        let namespaces =
            if name == "names-too" { vec![staging.name().to_owned(), bed.name().to_owned()] } else { vec![] };
        let spec = ImageBlockSpec {
            tag: Some(image.clone()),
            namespaces,
            namespace_selector: Some(serde_json::from_value(selector)?),
            reason: "where?".to_owned(),
            ..ImageBlockSpec::default()
        };
        let block = format!("{}-{name}", bed.name());
        api.create(&PostParams::default(), &ImageBlock::new(&block, spec)).await?;
        wait::eventually(wait::DEADLINE, &format!("{name} holds where it should"), async || {
            let mut found = Vec::new();
            for namespace in [&prod, &staging, &bed.namespace] {
                match asks(namespace, &image).await {
                    Ok(_) => found.push(false),
                    Err(error) if guards::by(IMAGES, &error) => found.push(true),
                    Err(error) => bail!(error),
                }
            }
            if found == [in_prod, in_staging, in_other] { Ok(Some(())) } else { bail!("{found:?}") }
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_the_cluster_stands_on_starts_whatever_is_blocked() -> Result<()> {
    let bed = Bed::new("everywhere").await?;
    let quell = Namespace {
        metadata: ObjectMeta { name: Some("quell".to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let apply = PatchParams::apply("tests").force();
    Api::<Namespace>::all(bed.stranger.clone()).patch("quell", &apply, &Patch::Apply(&quell)).await?;
    let image = format!("registry.example/{}:1", bed.name());
    let spec = ImageBlockSpec {
        tag: Some(image.clone()),
        reason: "everywhere".to_owned(),
        expires_at: Some(Utc::now() + TimeDelta::minutes(10)),
        ..ImageBlockSpec::default()
    };
    let api: Api<ImageBlock> = Api::all(bed.stranger.clone());
    api.create(&PostParams::default(), &ImageBlock::new(bed.name(), spec)).await?;
    wait::eventually(wait::DEADLINE, "it holds", async || Ok(start(&bed, &image).await.is_err().then_some(()))).await?;
    refused(start(&bed, &image).await, IMAGES, " until 20");
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let mut wanted = pod("asks").image(&image);
    wanted.spec.get_or_insert_default().automount_service_account_token = Some(false);
    for namespace in ["kube-system", "quell"] {
        let pods: Api<Pod> = Api::namespaced(bed.stranger.clone(), namespace);
        pods.create(&parameters, &wanted).await.context(namespace)?;
    }
    api.delete(bed.name(), &DeleteParams::default()).await?;
    Ok(())
}

/// No operator runs here: the API server's own clock ends the block.
#[tokio::test]
async fn a_block_ends_in_time_without_anybody_who_deletes_it() -> Result<()> {
    let bed = Bed::new("expires").await?;
    let bad = "registry.example/shop:1";
    let end = Utc::now() + TimeDelta::seconds(4);
    let name = block(&bed, "short", json!({ "tag": bad, "expiresAt": end }), bad).await?;
    wait::eventually(wait::DEADLINE, "the image may start again", async || {
        Ok(start(&bed, bad).await.is_ok().then_some(()))
    })
    .await?;
    assert!(Utc::now() >= end - TimeDelta::seconds(1), "it ended before its time");
    Api::<ImageBlock>::all(bed.stranger.clone()).get(&name).await.context("the block is still there")?;
    Ok(())
}

/// The API server gives a policy only so much time, and lets a request pass where this one can't come to an end.
#[tokio::test]
async fn a_pod_can_not_be_made_too_large_to_look_at() -> Result<()> {
    let bed = Bed::new("large").await?;
    let bad = "registry.example/bad:1";
    block(&bed, "bad", json!({ "tag": bad }), bad).await?;
    let many = |count: usize, image: &str| -> Result<Pod> {
        let mut containers: Vec<Value> =
            (0..count - 1).map(|n| json!({ "name": format!("c{n}"), "image": image })).collect();
        containers.push(json!({ "name": "bad", "image": bad }));
        Ok(serde_json::from_value(json!({ "metadata": { "name": "large" }, "spec": { "containers": containers } }))?)
    };
    let pods = bed.pods(&bed.stranger);
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let longest = format!("registry.example/{}:1", "a/".repeat(503));
    for image in [
        longest.as_str(),
        &"a/".repeat(20_000),
        &"@".repeat(1000),
        &":".repeat(1000),
        "a@",
        "@",
        ":",
        "/",
        "//",
        "a:/b",
    ] {
        let count = if image.len() > 10_000 { 20 } else { 256 };
        refused(pods.create(&parameters, &many(count, image)?).await, IMAGES, bad);
    }
    // Not the blocked one among them, for either policy may be the one that is told of.
    let mut more = many(257, "a")?;
    more.spec.get_or_insert_default().containers[256].image = Some("a".to_owned());
    refused(pods.create(&parameters, &more).await, "too-many-images", "more than 256");
    Ok(())
}
