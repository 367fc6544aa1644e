//! Pods under quarantine.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use quell_crds::names;
use quell_tests::fixtures::{Described as _, PodCarrier as _, Scaled as _, deployment, job, pod};
use quell_tests::guards::{Guards, check, connect};
use quell_tests::{ControlPlane, wait};
use serde_json::{Value, json};

use crate::bed::{Bed, quarantine, refused};

const PODS: &str = "quarantined-pods";
const SESSIONS: &str = "quarantined-sessions";

async fn change(bed: &Bed, of: &Client, name: &str, patch: Value) -> Result<Pod, kube::Error> {
    bed.pods(of).patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

#[test]
fn every_policy_is_bound_and_every_binding_has_its_policy() -> Result<()> {
    check(&Guards::default())
}

#[tokio::test]
async fn every_expression_is_of_the_right_types() -> Result<()> {
    use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
    let bed = Bed::new("types").await?;
    let api: Api<ValidatingAdmissionPolicy> = Api::all(bed.namespace.client().clone());
    for name in Guards::default().objects()?.0.iter().map(ResourceExt::name_any) {
        let checked = |policy: &ValidatingAdmissionPolicy| {
            policy.status.as_ref().is_some_and(|status| status.observed_generation == policy.metadata.generation)
        };
        let policy = wait::until_present(&api, &name, "is checked", wait::DEADLINE, checked).await?;
        let found = policy.status.and_then(|status| status.type_checking).unwrap_or_default();
        assert_eq!(found.expression_warnings.unwrap_or_default(), [], "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_admin_can_not_lift_a_quarantine_nor_hide_it() -> Result<()> {
    let bed = Bed::new("lift").await?;
    bed.quarantined("bad").await?;
    let undo = format!("kubectl quell undo -n {} remediation/run-1", bed.name());
    for labels in [
        json!({ names::QUARANTINE: null }),
        json!({ names::QUARANTINE: "other" }),
        json!({ names::REMEDIATION: null }),
        json!({ "app": "bad" }),
    ] {
        let patch = json!({ "metadata": { "labels": labels } });
        refused(change(&bed, &bed.stranger, "bad", patch.clone()).await, PODS, &undo);
        let by_status = Patch::Merge(patch);
        refused(bed.pods(&bed.stranger).patch_status("bad", &PatchParams::default(), &by_status).await, PODS, &undo);
    }
    for annotations in [json!({ names::BEFORE: "{\"labels\":{}}" }), json!({ names::REMEDIATION: null })] {
        let patch = json!({ "metadata": { "annotations": annotations } });
        refused(change(&bed, &bed.stranger, "bad", patch).await, PODS, "Quell's own record");
    }
    let there = bed.pods(&bed.quell).get("bad").await?;
    assert_eq!((there.labels()[names::QUARANTINE].as_str(), there.labels().get("app")), ("full", None));
    change(&bed, &bed.stranger, "bad", json!({ "metadata": { "annotations": { "case": "42" } } })).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_under_quarantine_is_kept_as_it_is() -> Result<()> {
    let bed = Bed::new("kept").await?;
    let there = bed.quarantined("bad").await?;
    let image = json!({ "spec": { "containers": [{ "name": "app", "image": "registry.example/wiped:1" }] } });
    refused(change(&bed, &bed.stranger, "bad", image).await, PODS, "kept as it is");
    refused(change(&bed, &bed.stranger, "bad", json!({ "spec": { "activeDeadlineSeconds": 1 } })).await, PODS, "kept");
    let debug = Patch::Strategic(json!({ "spec": {
        "ephemeralContainers": [{ "name": "debug", "image": "registry.example/sh:1" }],
    } }));
    let pods = bed.pods(&bed.stranger);
    refused(pods.patch_subresource("ephemeralcontainers", "bad", &PatchParams::default(), &debug).await, PODS, "kept");
    for parameters in [DeleteParams::default(), DeleteParams::default().grace_period(0)] {
        refused(bed.pods(&bed.stranger).delete("bad", &parameters).await, PODS, "kept for forensics");
    }
    let all = bed.pods(&bed.stranger).delete_collection(&DeleteParams::default(), &ListParams::default()).await;
    refused(all, PODS, "kept for forensics");
    refused(
        bed.pods(&bed.stranger).evict("bad", &EvictParams::default()).await,
        SESSIONS,
        "nobody enters or evicts it",
    );
    let after = bed.pods(&bed.quell).get("bad").await?;
    assert_eq!((after.uid(), &after.spec, after.metadata.deletion_timestamp), (there.uid(), &there.spec, None));
    Ok(())
}

/// A quarantine of several pods: the first says which others belong to it.
#[tokio::test]
async fn nobody_but_quell_says_which_pods_belong_to_a_quarantine_and_each_is_kept() -> Result<()> {
    let bed = Bed::new("others").await?;
    let second = bed.quarantined("second").await?;
    bed.quarantined("first").await?;
    let naming = |value: Value| json!({ "metadata": { "annotations": { names::OTHERS: value } } });
    let all = json!({ "pods": [{ "name": "second", "uid": second.uid() }] }).to_string();
    change(&bed, &bed.quell, "first", naming(json!(all))).await?;
    let innocent = json!({ "pods": [{ "name": "innocent", "uid": "some" }] }).to_string();
    let by_itself = bed.service_account(bed.name(), false).await?;
    for (who, name, value) in [
        (&bed.stranger, "first", json!(innocent)),
        (&bed.stranger, "first", Value::Null),
        (&bed.stranger, "second", json!(innocent)),
        (&by_itself, "first", json!(innocent)),
    ] {
        let patch = naming(value);
        refused(change(&bed, who, name, patch.clone()).await, PODS, "Quell's own record");
        let by_status = Patch::Merge(patch);
        let answer = bed.pods(who).patch_status(name, &PatchParams::default(), &by_status).await;
        refused(answer, PODS, "Quell's own record");
    }
    for name in ["first", "second"] {
        let lifted = json!({ "metadata": { "labels": { names::QUARANTINE: null } } });
        refused(change(&bed, &bed.stranger, name, lifted).await, PODS, "nobody but Quell changes its labels");
        refused(bed.pods(&bed.stranger).delete(name, &DeleteParams::default()).await, PODS, "kept for forensics");
    }
    let there = bed.pods(&bed.quell).get("first").await?;
    assert_eq!(there.annotations().get(names::OTHERS), Some(&all));
    assert!(!bed.pods(&bed.quell).get("second").await?.annotations().contains_key(names::OTHERS));
    let by_quell = bed.service_account(bed.name(), true).await?;
    for who in [&by_quell, &bed.break_glass] {
        change(&bed, who, "first", naming(json!(all))).await?;
        change(&bed, who, "first", naming(Value::Null)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn nobody_enters_a_pod_under_quarantine_and_the_pod_beside_it_is_open() -> Result<()> {
    let bed = Bed::new("enter").await?;
    bed.quarantined("bad").await?;
    bed.namespace.create_object(&pod("good")).await?;
    wait::pod_ready(&bed.namespace.api(), "good", wait::DEADLINE).await?;
    for how in ["exec?command=sh&stdin=true", "attach?stdin=true", "portforward?ports=80", "proxy/"] {
        let answer = connect(&bed.stranger, bed.name(), "bad", how).await?;
        assert!(
            answer.contains("quell-quarantined-sessions") && answer.contains("quell:break-glass"),
            "{how}: {answer}"
        );
        for (who, name) in [(&bed.quell, "bad"), (&bed.break_glass, "bad"), (&bed.stranger, "good")] {
            let answer = connect(who, bed.name(), name, how).await?;
            assert!(!answer.contains("ValidatingAdmissionPolicy"), "{how} {name}: {answer}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn nobody_but_quell_puts_a_pod_under_quarantine() -> Result<()> {
    let bed = Bed::new("put").await?;
    bed.namespace.create_object(&pod("good")).await?;
    refused(change(&bed, &bed.stranger, "good", quarantine()).await, PODS, "Quell's own");
    let run = json!({ "metadata": { "labels": { names::REMEDIATION: "run-2" } } });
    refused(change(&bed, &bed.stranger, "good", run.clone()).await, PODS, "Quell's own");
    let new = pod("new").label(names::QUARANTINE, "full");
    refused(bed.pods(&bed.stranger).create(&PostParams::default(), &new).await, PODS, "only Quell puts a pod");

    // Such as that of a build: its template has the mark of the run.
    change(&bed, &bed.quell, "good", run).await?;
    for labels in [json!({ names::REMEDIATION: null }), json!({ names::REMEDIATION: "run-3" })] {
        refused(change(&bed, &bed.stranger, "good", json!({ "metadata": { "labels": labels } })).await, PODS, "own");
    }
    change(&bed, &bed.stranger, "good", json!({ "metadata": { "labels": { "team": "shop" } } })).await?;
    let mut build = job("build");
    let template = &mut build.spec.as_mut().context("a spec")?.template;
    template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(names::REMEDIATION.into(), "r".into());
    bed.namespace.create_object(&build).await?;
    assert!(wait::job_finished(&bed.namespace.api::<Job>(), "build", wait::DEADLINE).await?);
    bed.pods(&bed.stranger).delete("good", &DeleteParams::default()).await?;
    wait::gone(&bed.pods(&bed.stranger), "good", wait::DEADLINE).await
}

#[tokio::test]
async fn quell_and_the_break_glass_group_lift_and_delete() -> Result<()> {
    let bed = Bed::new("pass").await?;
    for (name, who) in [("one", &bed.quell), ("two", &bed.break_glass)] {
        bed.quarantined(name).await?;
        let lifted =
            json!({ "metadata": { "labels": { names::QUARANTINE: null, names::REMEDIATION: null, "app": name } } });
        let lifted = change(&bed, who, name, lifted).await?;
        assert!(!lifted.labels().contains_key(names::QUARANTINE));
        bed.quarantine(&bed.quell, name).await?;
        bed.pods(who).delete(name, &DeleteParams::default()).await?;
        wait::gone(&bed.pods(who), name, wait::DEADLINE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_playbooks_service_account_passes_in_its_namespace_and_only_by_quell() -> Result<()> {
    let bed = Bed::new("playbook").await?;
    bed.quarantined("bad").await?;
    let lift = json!({ "metadata": { "labels": { names::QUARANTINE: null } } });
    let by_itself = bed.service_account(bed.name(), false).await?;
    refused(change(&bed, &by_itself, "bad", lift.clone()).await, PODS, "nobody but Quell");
    let of_another = bed.service_account("default", true).await?;
    refused(change(&bed, &of_another, "bad", lift.clone()).await, PODS, "nobody but Quell");
    let by_quell = bed.service_account(bed.name(), true).await?;
    change(&bed, &by_quell, "bad", lift).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_may_act_as_a_service_account_may_not_say_that_he_is_quell() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let bed = Bed::new("claim").await?;
    let objects = json!([
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "acts" },
          "rules": [{ "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"] }] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "acts" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "acts" },
          "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": bed.name() }] },
    ]);
    bed.namespace
        .create_object::<k8s_openapi::api::rbac::v1::Role>(&serde_json::from_value(objects[0].clone())?)
        .await?;
    let binding: k8s_openapi::api::rbac::v1::RoleBinding = serde_json::from_value(objects[1].clone())?;
    bed.namespace.create_object(&binding).await?;
    let token = kube::Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(bed.stranger.clone(), bed.name())
        .create_token_request(
            "default",
            &PostParams::default(),
            &k8s_openapi::api::authentication::v1::TokenRequest::default(),
        )
        .await?;
    let mut config = cluster.config().await?;
    config.auth_info = kube::config::AuthInfo {
        token: token.status.and_then(|status| status.token).map(Into::into),
        impersonate: Some(format!("system:serviceaccount:{}:responder", bed.name())),
        ..kube::config::AuthInfo::default()
    };
    let plain = Client::try_from(config.clone())?;
    config.headers.push(("impersonate-extra-quell.dev%2facting".parse()?, "true".parse()?));
    let claims = Client::try_from(config)?;
    wait::eventually(wait::DEADLINE, "he may act as the service account", async || {
        match bed.pods(&plain).get("some").await {
            Err(kube::Error::Api(status)) if status.message.contains("cannot get resource") => Ok(Some(())),
            other => bail!("{other:?}"),
        }
    })
    .await?;
    let answer = bed.pods(&claims).get("some").await;
    let error = answer.expect_err("he must not").to_string();
    assert!(error.contains("cannot impersonate resource") && error.contains("userextras/quell.dev/acting"), "{error}");
    Ok(())
}

#[tokio::test]
async fn its_owner_releases_it_and_starts_another_and_the_owner_can_go() -> Result<()> {
    let bed = Bed::new("owner").await?;
    bed.namespace.create_object(&deployment("shop").image("registry.example/shop:1").replicas(2)).await?;
    wait::rolled_out(&bed.namespace.api::<Deployment>(), "shop", wait::DEADLINE).await?;
    let pods = bed.pods(&bed.quell);
    let all = ListParams::default().labels("app=shop");
    let bad = pods.list(&all).await?.items.into_iter().next().context("a pod")?.name_any();
    bed.quarantine(&bed.quell, &bad).await?;
    wait::until_present(&pods, &bad, "is released", wait::DEADLINE, |pod| pod.owner_references().is_empty()).await?;
    wait::eventually(wait::DEADLINE, "another is started", async || {
        Ok((pods.list(&all).await?.items.len() == 2).then_some(()))
    })
    .await?;
    let deployments = bed.namespace.api::<Deployment>();
    deployments.delete("shop", &DeleteParams::foreground()).await?;
    wait::gone(&deployments, "shop", wait::DEADLINE).await?;
    assert!(pods.get(&bad).await?.metadata.deletion_timestamp.is_none());
    Ok(())
}

/// Without `detach` its owner keeps it; neither fewer replicas nor the owner's end takes it away.
#[tokio::test]
async fn a_controller_does_not_take_it_away_either() -> Result<()> {
    let bed = Bed::new("owned").await?;
    bed.namespace.create_object(&deployment("shop").replicas(1)).await?;
    wait::rolled_out(&bed.namespace.api::<Deployment>(), "shop", wait::DEADLINE).await?;
    let pods = bed.pods(&bed.quell);
    let bad = pods.list(&ListParams::default()).await?.items.into_iter().next().context("a pod")?.name_any();
    let marked = json!({ "metadata": { "labels": { names::QUARANTINE: "full" } } });
    change(&bed, &bed.quell, &bad, marked).await?;
    let scale = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    bed.namespace.api::<Deployment>().patch("shop", &PatchParams::default(), &scale).await?;
    wait::eventually(wait::DEADLINE, "the ReplicaSet is told no", async || {
        let events: Api<k8s_openapi::api::core::v1::Event> = bed.namespace.api();
        let told = events.list(&ListParams::default().fields("reason=FailedDelete")).await?.items;
        Ok(told.iter().any(|event| event.message.as_deref().unwrap_or_default().contains("forensics")).then_some(()))
    })
    .await?;
    let cluster = ControlPlane::shared().await?;
    for controller in
        ["generic-garbage-collector", "node-controller", "daemon-set-controller", "statefulset-controller"]
    {
        let controller = cluster.client_as_service_account("kube-system", controller).await?;
        let now = DeleteParams::default().grace_period(0);
        refused(bed.pods(&controller).delete(&bad, &now).await, PODS, "kept for forensics");
    }
    assert!(pods.get(&bad).await?.metadata.deletion_timestamp.is_none());
    // Of a node that is gone nothing is left to be kept.
    let collector = cluster.client_as_service_account("kube-system", "pod-garbage-collector").await?;
    bed.pods(&collector).delete(&bad, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_is_deleted_goes_with_all_that_is_in_it() -> Result<()> {
    let bed = Bed::new("namespace").await?;
    bed.quarantined("bad").await?;
    let namespaces: Api<Namespace> = Api::all(bed.stranger.clone());
    namespaces.delete(bed.name(), &DeleteParams::default()).await?;
    wait::gone(&namespaces, bed.name(), wait::DEADLINE).await
}

#[tokio::test]
async fn a_kubelet_ends_what_was_deleted_and_nothing_else() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let bed = Bed::new("kubelet").await?;
    let node = bed.quarantined("bad").await?.spec.and_then(|spec| spec.node_name).context("a node")?;
    let kubelet = cluster.client_as(&format!("system:node:{node}"), &["system:nodes", "system:authenticated"]).await?;
    let now = DeleteParams::default().grace_period(0);
    refused(bed.pods(&kubelet).delete("bad", &now).await, PODS, "kept for forensics");
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    bed.pods(&kubelet).patch_status("bad", &PatchParams::default(), &Patch::Strategic(status)).await?;

    // It takes its time to end, which nobody but the kubelet shortens.
    let slow = json!({ "metadata": { "finalizers": ["example.com/slow"] } });
    change(&bed, &bed.stranger, "bad", slow).await?;
    bed.pods(&bed.break_glass).delete("bad", &DeleteParams::default().grace_period(600)).await?;
    refused(bed.pods(&bed.stranger).delete("bad", &now).await, PODS, "kept for forensics");
    bed.pods(&kubelet).delete("bad", &now).await?;
    change(&bed, &bed.stranger, "bad", json!({ "metadata": { "finalizers": null } })).await?;
    wait::gone(&bed.pods(&bed.stranger), "bad", wait::DEADLINE).await
}

#[tokio::test]
async fn what_changes_nothing_is_not_refused_so_that_a_plan_can_be_made() -> Result<()> {
    let bed = Bed::new("plan").await?;
    bed.namespace.create_object(&pod("good")).await?;
    let rehearsal = PatchParams { dry_run: true, ..PatchParams::default() };
    bed.pods(&bed.stranger).patch("good", &rehearsal, &Patch::Merge(quarantine())).await?;
    assert!(!bed.pods(&bed.stranger).get("good").await?.labels().contains_key(names::QUARANTINE));
    Ok(())
}
