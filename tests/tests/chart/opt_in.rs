//! What is switched on by itself: steps that need more than the chart gives by default, and what the API server keeps them from.

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use quell_tests::{ControlPlane, wait};
use serde_json::{Value, json};

use crate::helm::{chart, cluster, find, helm, objects, template};
use crate::lifecycle::restricted_namespace;
use crate::rights::in_force;

const USER: &str = "system:serviceaccount:quell:quell";

#[tokio::test]
async fn nothing_of_it_is_there_unless_it_is_asked_for() -> Result<()> {
    let text = template(&[]).await?;
    for absent in [
        "quell-sever",
        "quell-revoke",
        "quell-tokens",
        "quell-host-network",
        "rolebindings",
        "--sever-image",
        "--probe-image",
        "quell-probe",
    ] {
        assert!(!text.contains(absent), "{absent}");
    }
    for (settings, names) in [
        ("revokeAccess.deleteTokens=true", "revokeAccess.enabled"),
        ("sever.enabled=true,sever.namespace=quell", "must not be Quell's own"),
        ("probe.enabled=true,probe.namespace=quell", "must not be Quell's own"),
    ] {
        let refused = template(&["--set", settings]).await.expect_err(settings).to_string();
        assert!(refused.contains(names), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn the_right_to_change_bindings_comes_only_with_what_narrows_it() -> Result<()> {
    let settings = ["--set", "revokeAccess.enabled=true,admissionPolicy.enabled=false"];
    let made = objects(&template(&settings).await?)?;
    find(&made, "ClusterRole", "quell-revoke")?;
    let policy = find(&made, "ValidatingAdmissionPolicy", "quell-revoke")?;
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let binding = find(&made, "ValidatingAdmissionPolicyBinding", "quell-revoke")?;
    assert_eq!(binding["spec"], json!({"policyName": "quell-revoke", "validationActions": ["Deny"]}));
    assert!(find(&made, "ClusterRole", "quell-tokens").is_err());
    let settings = ["--set", "revokeAccess.enabled=true,revokeAccess.deleteTokens=true"];
    find(&objects(&template(&settings).await?)?, "ClusterRole", "quell-tokens")?;
    Ok(())
}

#[tokio::test]
async fn probes_have_a_namespace_in_which_nothing_has_a_right_and_quell_may_make_jobs_there_alone() -> Result<()> {
    let settings = ["--set", "probe.enabled=true,image.repository=registry.example/quell,image.tag=v1"];
    let text = template(&settings).await?;
    assert!(text.contains("--probe-image=registry.example/quell:v1") && text.contains("--probe-namespace=quell-probe"));
    let made = objects(&text)?;
    let namespace = find(&made, "Namespace", "quell-probe")?;
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let role = find(&made, "Role", "quell-probe")?;
    assert_eq!(role["metadata"]["namespace"], "quell-probe");
    let rules = role["rules"].as_array().context("no rules")?;
    let resources: Vec<&str> = rules
        .iter()
        .flat_map(|rule| rule["resources"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(resources, ["pods", "jobs"]);
    find(&made, "RoleBinding", "quell-probe")?;
    Ok(())
}

#[tokio::test]
async fn the_right_to_cordon_nodes_and_to_end_pods_comes_by_its_own_switch() -> Result<()> {
    let made = objects(&template(&["--set", "quarantine.hostNetwork=true"]).await?)?;
    let role = find(&made, "ClusterRole", "quell-host-network")?;
    let resources: Vec<&str> = role["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|rule| rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str))
        .collect();
    assert_eq!(resources, ["pods/eviction", "pods", "nodes"]);
    assert_eq!(find(&made, "ClusterRoleBinding", "quell-host-network")?["roleRef"]["name"], "quell-host-network");
    Ok(())
}

#[tokio::test]
async fn what_is_switched_on_can_do_what_it_is_for_and_nothing_more() -> Result<()> {
    let cluster = cluster().await?;
    let client = cluster.client().await?;
    restricted_namespace(&client, "quell").await?;
    let this = chart();
    let settings = "sever.enabled=true,revokeAccess.enabled=true,image.repository=registry.example/quell,image.tag=v1";
    helm(&cluster, &["install", "quell", &this.to_string_lossy(), "-n", "quell", "--set", settings]).await?;
    in_force(&cluster, USER, "default", "patch", "rolebindings.rbac.authorization.k8s.io").await?;
    in_force(&cluster, USER, "quell-sever", "create", "jobs.batch").await?;
    let quell = cluster.client_as_service_account("quell", "quell").await?;
    bindings_can_be_emptied_and_refilled_and_nobody_is_added(&cluster, &quell).await?;
    Box::pin(only_quell_itself_runs_beside_the_nodes(&client, &quell)).await?;
    cluster.stop().await
}

async fn bindings_can_be_emptied_and_refilled_and_nobody_is_added(
    cluster: &ControlPlane,
    quell: &Client,
) -> Result<()> {
    let admin: Api<RoleBinding> = Api::namespaced(cluster.client().await?, "default");
    let web = json!({"kind": "ServiceAccount", "namespace": "default", "name": "web"});
    let web_as_user =
        json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "system:serviceaccount:default:web"});
    let alice = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "alice"});
    let quells = json!({"kind": "ServiceAccount", "namespace": "quell", "name": "quell"});
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "edits", "annotations": {"team": "shop"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [web, web_as_user, alice],
    }))?;
    admin.create(&PostParams::default(), &binding).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(quell.clone(), "default");
    let patch = async |subjects: Value, revoked: Option<&str>| {
        let change = json!({"metadata": {"annotations": {"quell.dev/revoked": revoked}}, "subjects": subjects});
        bindings.patch("edits", &PatchParams::default(), &Patch::Merge(change)).await
    };
    let refused = |answer: Result<RoleBinding, kube::Error>, words: &str| {
        let said = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(said.contains(words), "{words}: {answer:?}");
    };
    // A policy is in force some time after it was created; until then a rehearsal alone keeps the binding as it is.
    let rehearsal = PatchParams { dry_run: true, ..PatchParams::default() };
    let added = Patch::Merge(json!({"subjects": [web, web_as_user, alice, quells]}));
    wait::eventually(wait::DEADLINE, "the policy is in force", async || {
        Ok(bindings.patch("edits", &rehearsal, &added).await.is_err().then_some(()))
    })
    .await?;
    refused(patch(json!([web, web_as_user, alice, quells]), None).await, "add nobody else");
    refused(patch(json!([web, web_as_user, alice, quells]), Some("quell/quell")).await, "add nobody else");
    refused(patch(json!([web, web_as_user, alice]), Some("quell/quell")).await, "that the same write takes out");
    refused(patch(json!([web, web_as_user, alice]), Some("default/web")).await, "that the same write takes out");
    // One of its two names is left: it is not out.
    refused(patch(json!([web_as_user, alice]), Some("default/web")).await, "that the same write takes out");

    patch(json!([alice]), Some("default/web")).await.context("an account can be taken out")?;
    refused(patch(json!([alice, quells]), Some("default/web")).await, "add nobody else");
    refused(patch(json!([alice]), Some("default/web,quell/quell")).await, "that the same write takes out");
    patch(json!([alice, web, web_as_user]), None).await.context("and put back")?;
    let here = json!({"kind": "ServiceAccount", "name": "here"});
    admin.patch("edits", &PatchParams::default(), &Patch::Merge(json!({"subjects": [here]}))).await?;
    patch(json!([]), Some("default/here")).await.context("one without a namespace can be taken out")?;
    patch(json!([here]), None).await.context("and put back")?;
    patch(json!([]), None).await.context("subjects can be taken out without a note")?;
    refused(patch(json!([web]), None).await, "add nobody else");

    let own: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "own"}, "roleRef": binding.role_ref, "subjects": [quells],
    }))?;
    assert!(bindings.create(&PostParams::default(), &own).await.is_err(), "RBAC itself gives no such right");
    // Others are not narrowed.
    let back = Patch::Merge(json!({"subjects": [alice]}));
    admin.patch("edits", &PatchParams::default(), &back).await.context("people may do as before")?;
    Ok(())
}

async fn only_quell_itself_runs_beside_the_nodes(admin: &Client, quell: &Client) -> Result<()> {
    let jobs: Api<Job> = Api::namespaced(quell.clone(), "quell-sever");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "quell-sever");
    let good = json!({
        "restartPolicy": "Never", "hostNetwork": true, "automountServiceAccountToken": false,
        "containers": [{
            "name": "sever", "image": "registry.example/quell:v1", "args": ["sever", "--address", "10.0.0.1"],
            "securityContext": {"runAsUser": 0, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
        }],
    });
    let job = |name: &str, spec: &Value| -> Result<Job> {
        Ok(serde_json::from_value(json!({
            "metadata": ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            "spec": {"backoffLimit": 0, "template": {"spec": spec}},
        }))?)
    };
    jobs.create(&PostParams::default(), &job("good", &good)?).await?;
    wait::eventually(wait::DEADLINE, "the Job's pod is let in", async || {
        let all = pods.list(&ListParams::default().labels("batch.kubernetes.io/job-name=good")).await?;
        Ok((!all.items.is_empty()).then_some(()))
    })
    .await?;

    let with = |path: &str, value: Value| -> Result<Box<Pod>> {
        let mut spec = good.clone();
        *spec.pointer_mut(path).with_context(|| path.to_owned())? = value;
        Ok(serde_json::from_value(json!({"metadata": {"name": "bad"}, "spec": spec}))?)
    };
    let host = json!([{"name": "host", "hostPath": {"path": "/"}}]);
    let mut with_files = with("/hostNetwork", json!(true))?;
    with_files.spec.as_mut().context("no spec")?.volumes = Some(serde_json::from_value(host)?);
    let mut two = with("/hostNetwork", json!(true))?;
    let mut second = two.spec.as_ref().context("no spec")?.containers.clone();
    for one in &mut second {
        "second".clone_into(&mut one.name);
    }
    two.spec.as_mut().context("no spec")?.containers.extend(second);
    let security = "/containers/0/securityContext";
    for (bad, what) in [
        (with("/containers/0/image", json!("registry.example/other:1"))?, "another image"),
        (with("/containers/0/args", json!(["operator"]))?, "another task"),
        (with(security, json!({"privileged": true}))?, "privileged"),
        (with(&format!("{security}/capabilities/add"), json!(["SYS_ADMIN"]))?, "another capability"),
        (with(&format!("{security}/capabilities/drop"), json!([]))?, "the usual capabilities"),
        (with_files, "files of the node"),
        (two, "a second container"),
    ] {
        // The admin asks: even whoever may do everything is refused.
        let answer = pods.create(&PostParams::default(), &bad).await;
        assert!(
            answer.as_ref().is_err_and(|error| error.to_string().contains("in this namespace")),
            "{what}: {answer:?}"
        );
    }
    let there = pods.list(&ListParams::default()).await?.items.pop().context("no pod")?;
    let image = json!({"spec": {"containers": [{"name": "sever", "image": "registry.example/other:1"}]}});
    let changed = pods.patch(&there.name_any(), &PatchParams::default(), &Patch::Strategic(image)).await;
    assert!(changed.is_err_and(|error| error.to_string().contains("nothing but `quell sever`")));
    Ok(())
}
