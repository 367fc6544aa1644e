//! `revokeAccess`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding, RoleRef, Subject};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{RevokeAccess, RevokeScope};
use quell_playbooks::{Outcome, UndoOutcome};
use quell_tests::fixtures::{self, service_account};
use quell_tests::wait::{self, DEADLINE, eventually};
use quell_tests::{Recorder, TestNamespace};
use serde_json::json;

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used, marks, not_allowed, written};

fn of(scope: RevokeScope, delete_tokens: bool) -> StepKind {
    StepKind::RevokeAccess(RevokeAccess { scope, delete_tokens })
}

fn kind() -> StepKind {
    of(RevokeScope::Namespace, false)
}

async fn stage() -> Result<Stage> {
    Stage::of(&kind(), &Recorder::new()).await
}

fn user(name: &str) -> Subject {
    let api_group = Some("rbac.authorization.k8s.io".to_owned());
    Subject { kind: "User".to_owned(), name: name.to_owned(), api_group, namespace: None }
}

fn group(name: &str) -> Subject {
    Subject { kind: "Group".to_owned(), ..user(name) }
}

fn account(namespace: &TestNamespace, name: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some(namespace.name().to_owned()),
        api_group: None,
    }
}

/// To a role that gives more than the step's own account has.
fn role() -> RoleRef {
    RoleRef {
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        kind: "ClusterRole".to_owned(),
        name: "edit".to_owned(),
    }
}

async fn binding(namespace: &TestNamespace, name: &str, subjects: Vec<Subject>) -> Result<RoleBinding> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    namespace.create_object(&RoleBinding { metadata, role_ref: role(), subjects: Some(subjects) }).await
}

async fn subjects(namespace: &TestNamespace, name: &str) -> Result<Vec<Subject>> {
    Ok(namespace.api::<RoleBinding>().get(name).await?.subjects.unwrap_or_default())
}

/// A pod that runs as that ServiceAccount.
async fn pod(stage: &Stage, as_account: &str) -> Result<Pod> {
    if as_account != "default" {
        stage.namespace.create_object(&service_account(as_account)).await?;
    }
    let mut pod = fixtures::pod(&format!("pod-{as_account}"));
    pod.spec.as_mut().context("no spec")?.service_account_name = Some(as_account.to_owned());
    let created =
        eventually(DEADLINE, "the account may be used", async || Ok(Some(stage.namespace.create_object(&pod).await?)))
            .await?;
    wait::pod_ready(&stage.namespace.api(), &created.name_any(), DEADLINE).await
}

#[tokio::test]
async fn done_twice_is_once_and_undo_puts_the_account_back_beside_whom_others_have_added() -> Result<()> {
    revokes(&Recorder::new()).await
}

async fn revokes(recorder: &Recorder) -> Result<()> {
    let stage = Stage::of(&kind(), recorder).await?;
    let pod = pod(&stage, "web").await?;
    let here = &stage.namespace;
    let as_user = user(&format!("system:serviceaccount:{}:web", here.name()));
    let (alice, web) = (user("alice"), account(here, "web"));
    binding(here, "both", vec![as_user.clone(), alice.clone(), web.clone()]).await?;
    // Without a namespace it is that of the binding.
    let web_here = Subject { namespace: None, ..web.clone() };
    binding(here, "alone", vec![web_here.clone()]).await?;
    let untouched = binding(here, "others", vec![alice.clone(), account(&stage.own, "web")]).await?;

    let mut run = Run::of(&stage, kind())?.about(&pod);
    // What will be taken away is known to the record before anything is.
    assert!(matches!(run.perform().await, Outcome::Pending { receipt: Some(_), .. }), "{:?}", run.record);
    assert_eq!(stage.writes(), 0);
    run.succeed().await?;
    assert_eq!(subjects(here, "both").await?, std::slice::from_ref(&alice));
    assert_eq!(subjects(here, "alone").await?, []);
    assert_eq!((run.output("bindings"), run.output("remaining")), ("2", "0"));
    let marked = here.api::<RoleBinding>().get("both").await?;
    assert_eq!(marked.annotations()[names::REVOKED], format!("{}/web", here.name()));
    assert_eq!(crate::stage::before(&marked)?["subjects"], json!([as_user, web]));
    let receipt = run.receipt()?;

    // The process died, and with it all that it knew.
    run.lose_record();
    run.succeed().await?;
    assert_eq!(stage.writes(), 2);
    assert_eq!(run.receipt()?, receipt, "the marks tell what the record told");
    assert_eq!(written(&here.api::<RoleBinding>().get("others").await?)?, written(&untouched)?);

    let bob = user("bob");
    stage.meddle::<RoleBinding>("alone", json!({"subjects": [bob]})).await?;
    run.undone().await?;
    assert_eq!(subjects(here, "both").await?, [alice, as_user, web.clone()]);
    assert_eq!(subjects(here, "alone").await?, [bob, web_here]);
    for name in ["both", "alone"] {
        assert_eq!(marks(&here.api::<RoleBinding>().get(name).await?), Vec::<String>::new());
    }
    let writes = stage.writes();
    run.undone().await?;
    assert_eq!(stage.writes(), writes, "undone twice is undone once");
    Ok(())
}

#[tokio::test]
async fn whoever_may_patch_bindings_and_not_bind_the_role_can_not_even_take_a_subject_out() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    let web = account(&stage.namespace, "web");
    binding(&stage.namespace, "edits", vec![web.clone()]).await?;
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"], "verbs": ["get", "list", "patch"]}]);
    stage.meddle::<Role>("steps-finding", json!({"rules": rules})).await?;
    not_allowed(&stage, "rbac.authorization.k8s.io", "clusterroles", "bind").await?;

    let mut run = Run::of(&stage, kind())?.about(&pod);
    run.perform().await;
    let message = run.refused(Reason::Forbidden).await?;
    assert!(message.contains("attempting to grant RBAC permissions not currently held"), "{message}");
    assert!(message.contains("revokeAccess.enabled=true"), "{message}");
    assert_eq!(subjects(&stage.namespace, "edits").await?, [web]);
    Ok(())
}

#[tokio::test]
async fn groups_and_other_pods_are_told_and_left_alone() -> Result<()> {
    let mut stage = stage().await?;
    stage.known.pods_of_account = Some(4);
    let pod = pod(&stage, "default").await?;
    let of_namespace = group(&format!("system:serviceaccounts:{}", stage.namespace.name()));
    binding(&stage.namespace, "by-group", vec![of_namespace.clone(), account(&stage.namespace, "default")]).await?;
    binding(&stage.namespace, "by-all", vec![group("system:authenticated")]).await?;
    binding(&stage.namespace, "by-team", vec![group("team")]).await?;
    let mut run = Run::of(&stage, kind())?.about(&pod);
    run.succeed().await?;
    assert_eq!(subjects(&stage.namespace, "by-group").await?, [of_namespace]);
    assert_eq!((run.output("otherPods"), run.output("remaining")), ("3", "2"));
    let message = &run.record.message;
    for said in ["3 other pods run as it", "/by-group (ClusterRole edit)", "/by-all (", "until it expires"] {
        assert!(message.contains(said), "{said}: {message}");
    }
    assert!(!message.contains("by-team"), "{message}");
    Ok(())
}

#[tokio::test]
async fn an_account_that_nothing_names_is_found_so_and_nothing_is_written() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    let mut run = Run::of(&stage, kind())?.about(&pod);
    run.succeed().await?;
    assert_eq!(stage.writes(), 0);
    assert!(run.record.message.contains("no binding names"), "{}", run.record.message);
    run.undone().await?;
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn bindings_of_other_namespaces_and_of_the_cluster_are_met_where_that_is_asked_for() -> Result<()> {
    revokes_everywhere(&Recorder::new()).await
}

async fn revokes_everywhere(recorder: &Recorder) -> Result<()> {
    let kind = of(RevokeScope::Cluster, true);
    let stage = Stage::of(&kind, recorder).await?;
    let pod = pod(&stage, "web").await?;
    let web = account(&stage.namespace, "web");
    binding(&stage.namespace, "here", vec![web.clone()]).await?;
    binding(&stage.own, "there", vec![web.clone()]).await?;
    let name = format!("everywhere-{}", stage.namespace.name());
    let client: Client = stage.namespace.client().clone();
    let of_cluster = Api::<ClusterRoleBinding>::all(client);
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let binding = ClusterRoleBinding { metadata, role_ref: role(), subjects: Some(vec![web.clone(), user("alice")]) };
    of_cluster.create(&PostParams::default(), &binding).await?;
    secret(&stage, "web-token", "web").await?;

    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.succeed().await?;
    assert_eq!(run.output("bindings"), "3");
    assert_eq!(subjects(&stage.namespace, "here").await?, []);
    assert_eq!(subjects(&stage.own, "there").await?, []);
    assert_eq!(of_cluster.get(&name).await?.subjects, Some(vec![user("alice")]));
    run.undone().await?;
    assert_eq!(subjects(&stage.namespace, "here").await?, std::slice::from_ref(&web));
    assert_eq!(subjects(&stage.own, "there").await?, std::slice::from_ref(&web));
    assert_eq!(of_cluster.get(&name).await?.subjects, Some(vec![user("alice"), web]));
    of_cluster.delete(&name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn the_scope_of_a_namespace_ends_at_its_border() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    let web = account(&stage.namespace, "web");
    binding(&stage.own, "there", vec![web.clone()]).await?;
    Run::of(&stage, kind())?.about(&pod).succeed().await?;
    assert_eq!(subjects(&stage.own, "there").await?, [web]);
    Ok(())
}

/// A legacy token; the control plane fills it in.
async fn secret(stage: &Stage, name: &str, account: &str) -> Result<Secret> {
    let annotations = BTreeMap::from([("kubernetes.io/service-account.name".to_owned(), account.to_owned())]);
    let metadata = ObjectMeta { name: Some(name.to_owned()), annotations: Some(annotations), ..ObjectMeta::default() };
    let type_ = Some("kubernetes.io/service-account-token".to_owned());
    stage.namespace.create_object(&Secret { metadata, type_, ..Secret::default() }).await?;
    eventually(DEADLINE, "the token was made", async || {
        let secret = stage.namespace.api::<Secret>().get(name).await?;
        let made = secret.data.as_ref().is_some_and(|data| data.contains_key("token"));
        Ok(made.then_some(secret))
    })
    .await
}

#[tokio::test]
async fn legacy_tokens_of_the_account_are_deleted_for_good_after_the_record_names_them() -> Result<()> {
    let kind = of(RevokeScope::Namespace, true);
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    let pod = pod(&stage, "web").await?;
    stage.namespace.create_object(&service_account("other")).await?;
    let token = secret(&stage, "web-token", "web").await?;
    secret(&stage, "other-token", "other").await?;
    stage.secret(&stage.namespace, "plain", "kept").await?;

    let mut run = Run::of(&stage, kind)?.about(&pod);
    run.perform().await;
    assert_eq!(run.receipt()?.before["secrets"], json!({"web-token": token.uid()}));
    let secrets = stage.namespace.api::<Secret>();
    assert!(secrets.get_opt("web-token").await?.is_some());
    run.succeed().await?;
    let left: Vec<String> =
        secrets.list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(left, ["other-token", "plain"]);
    assert_eq!(run.output("tokens"), "1");

    // Of what was in it nothing is kept anywhere.
    let secret = token.data.as_ref().and_then(|data| data.get("token")).context("no token")?;
    let record = serde_json::to_string(&run.record)?;
    assert!(!record.contains(std::str::from_utf8(&secret.0)?));
    let undone = run.undone().await?;
    assert!(undone.contains("1 deleted token can't be brought back"), "{undone}");
    Ok(())
}

#[tokio::test]
async fn tokens_stay_where_their_deletion_is_not_asked_for() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    secret(&stage, "web-token", "web").await?;
    Run::of(&stage, kind())?.about(&pod).succeed().await?;
    assert!(stage.namespace.api::<Secret>().get_opt("web-token").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn what_others_have_changed_since_is_named_and_the_rest_is_put_back() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    let (here, web) = (&stage.namespace, account(&stage.namespace, "web"));
    for name in ["deleted", "kept", "remade", "unmarked"] {
        binding(here, name, vec![web.clone()]).await?;
    }
    let mut run = Run::of(&stage, kind())?.about(&pod);
    run.succeed().await?;
    let bindings = here.api::<RoleBinding>();
    for name in ["deleted", "remade"] {
        bindings.delete(name, &DeleteParams::default()).await?;
    }
    binding(here, "remade", vec![user("alice")]).await?;
    stage.meddle::<RoleBinding>("unmarked", json!({"metadata": {"annotations": {names::REVOKED: null}}})).await?;
    let message = run.left_alone(Reason::ChangedSince).await?;
    for said in ["/deleted was deleted", "/remade was deleted and made anew", "/unmarked does not say any more"] {
        assert!(message.contains(said), "{said}: {message}");
    }
    assert_eq!(subjects(here, "kept").await?, [web]);
    assert_eq!(subjects(here, "remade").await?, [user("alice")]);
    assert_eq!(subjects(here, "unmarked").await?, []);
    Ok(())
}

#[tokio::test]
async fn two_runs_take_two_accounts_out_of_one_binding_and_each_is_undone_for_itself() -> Result<()> {
    let stage = stage().await?;
    let (first, second) = (pod(&stage, "web").await?, pod(&stage, "api").await?);
    let (web, api) = (account(&stage.namespace, "web"), account(&stage.namespace, "api"));
    binding(&stage.namespace, "edits", vec![web.clone(), api.clone()]).await?;
    let mut one = Run::of(&stage, kind())?.about(&first);
    let mut other = Run::of(&stage, kind())?.named("run-2").about(&second);
    one.succeed().await?;
    other.succeed().await?;
    assert_eq!(subjects(&stage.namespace, "edits").await?, []);
    one.undone().await?;
    assert_eq!(subjects(&stage.namespace, "edits").await?, std::slice::from_ref(&web));
    other.undone().await?;
    assert_eq!(subjects(&stage.namespace, "edits").await?, [web, api]);
    assert_eq!(marks(&stage.namespace.api::<RoleBinding>().get("edits").await?), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn more_bindings_than_a_record_should_hold_are_refused_and_none_is_changed() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    let web = account(&stage.namespace, "web");
    for i in 0..65 {
        binding(&stage.namespace, &format!("b{i}"), vec![web.clone()]).await?;
    }
    let message = Run::of(&stage, kind())?.about(&pod).refused(Reason::TooMany).await?;
    assert!(message.contains("65 bindings"), "{message}");
    assert_eq!(stage.writes(), 0);
    Ok(())
}

#[tokio::test]
async fn quells_own_rights_are_not_taken_away() -> Result<()> {
    let mut stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    stage.known.lives_in(stage.namespace.name());
    Run::of(&stage, kind())?.about(&pod).refused(Reason::TargetUnsupported).await?;
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_what_it_would_change_and_changes_nothing() -> Result<()> {
    let stage = stage().await?;
    let pod = pod(&stage, "web").await?;
    let web = account(&stage.namespace, "web");
    binding(&stage.namespace, "edits", vec![web.clone()]).await?;
    let run = Run::of(&stage, kind())?.about(&pod);
    let (outcome, writes) = run.rehearse().await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(writes.iter().map(|write| write.verb).collect::<Vec<_>>(), ["patch"]);
    assert_eq!(subjects(&stage.namespace, "edits").await?, [web]);
    stage.meddle::<RoleBinding>("edits", json!({"subjects": [user("alice")]})).await?;
    stage.comes_too_late::<RoleBinding>("edits", &writes[0]).await
}

#[tokio::test]
async fn every_right_that_revoke_access_declares_is_used() -> Result<()> {
    let recorder = Recorder::new();
    revokes(&recorder).await?;
    assert_all_rights_used(&kind(), &recorder);
    let recorder = Recorder::new();
    revokes_everywhere(&recorder).await?;
    assert_all_rights_used(&of(RevokeScope::Cluster, true), &recorder);
    Ok(())
}

#[tokio::test]
async fn an_undo_of_a_record_that_can_not_be_read_changes_nothing() -> Result<()> {
    let stage = stage().await?;
    let run = Run::of(&stage, kind())?;
    assert!(matches!(run.undo_of_nothing().await, UndoOutcome::LeftAlone { reason: Reason::NothingToUndo, .. }));
    Ok(())
}
