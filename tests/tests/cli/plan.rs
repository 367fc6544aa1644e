//! `plan`, and whose rights it needs.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::AuthInfo;
use quell_actions::quarantine::Profile;
use quell_cli::Exit;
use quell_crds::v1alpha1::Playbook;
use quell_crds::v1alpha1::step::Quarantine;
use quell_tests::ControlPlane;
use quell_tests::fixtures::service_account;

use crate::bed::Bed;

/// Everything that a service account needs to be rehearsed; without, the plan says what is missing.
async fn allow_quarantine(bed: &Bed, account: &str) -> Result<()> {
    let verbs = ["get", "create", "patch"];
    let rules = vec![rule("", "pods", &verbs), rule("networking.k8s.io", "networkpolicies", &verbs)];
    allow(bed, account, rules).await
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    }
}

async fn allow(bed: &Bed, account: &str, rules: Vec<PolicyRule>) -> Result<()> {
    bed.namespace.create_object(&service_account(account)).await?;
    let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
    bed.namespace.create_object(&Role { metadata: metadata.clone(), rules: Some(rules) }).await?;
    let subject = Subject {
        kind: "ServiceAccount".to_owned(),
        name: account.to_owned(),
        namespace: Some(bed.namespace.name().to_owned()),
        ..Subject::default()
    };
    let role = RoleRef {
        kind: "Role".to_owned(),
        name: account.to_owned(),
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
    };
    bed.namespace.create_object(&RoleBinding { metadata, role_ref: role, subjects: Some(vec![subject]) }).await?;
    Ok(())
}

const CONTAIN: &str = "\
apiVersion: quell.dev/v1alpha1
kind: Playbook
metadata: {name: contain}
spec:
  serviceAccountName: responder
  match: {minSeverity: High, when: 'finding.rule.contains(\"shell\")'}
  steps:
    - name: cut
      quarantine: {detach: true}
    - name: build
      when: target.found
      rebuild:
        http:
          url: https://ci.example/builds
          body: {image: \"${finding.target.image}\"}
          poll: {url: 'https://ci.example/builds/${started.id}', succeeded: response.ok, failed: '!response.ok'}
    - name: replace
      onFailure: Continue
      setImage: {image: '${steps.build.outputs.image}'}
";

#[tokio::test]
async fn a_plan_lists_every_write_and_makes_none() -> Result<()> {
    let bed = Bed::new("cli-plan").await?;
    let (pod, finding) = bed.finding("falco-planned").await?;
    allow_quarantine(&bed, "responder").await?;
    let before = bed.versions().await?;
    let namespace = bed.namespace.name();

    let told = bed.quell(&["plan", "-", "--finding", "falco-planned"], CONTAIN).await;
    told.expect(
        Exit::Ok,
        &[
            "Playbook contain (standard input): the API server takes it",
            "it would be Ready: 3 steps: cut (quarantine), build (rebuild), replace (setImage)",
            &format!("it is for finding {namespace}/falco-planned"),
            "rehearsed as that",
            &format!("create NetworkPolicy {namespace}/quell-quarantine-full"),
            &format!("patch Pod {namespace}/web-1"),
            &format!("only if metadata.uid is \"{}\"", pod.uid().context("no UID")?),
            "- app: web-1",
            "+ quell.dev/quarantine: full",
            "POST https://ci.example/builds (outside the cluster; not sent)",
            "image: ${steps.build.outputs.image}",
            "\n2 writes, 0 messages, 1 call to the outside; nothing was changed\n",
        ],
    )?;
    assert_eq!(bed.versions().await?, before);

    let listed = bed.quell(&["plan", "-"], CONTAIN).await;
    listed.expect(Exit::Ok, &["it is for 1 open finding", "falco-planned: Critical Reverse shell on Pod"])?;

    // The policy that stands isn't written again; a rule that isn't the Finding's is no match.
    let cluster = ControlPlane::shared().await?;
    let policy = Profile::of(&Quarantine::default()).policy(
        namespace,
        &quell_actions::Mark {
            namespace: namespace.to_owned(),
            remediation: "r".to_owned(),
            finding: finding.name_any(),
            step: "s".to_owned(),
        },
    );
    Api::namespaced(cluster.client().await?, namespace).create(&PostParams::default(), &policy).await?;
    let told = bed.quell(&["plan", "-", "--finding", "falco-planned"], CONTAIN).await;
    told.expect(Exit::Ok, &["\n1 write, 0 messages"])?;
    assert!(!told.out.contains("create NetworkPolicy"), "{told}");

    let other = CONTAIN.replace("shell", "miner");
    let told = bed.quell(&["plan", "-", "--finding", "falco-planned"], &other).await;
    told.expect(Exit::Failed, &["it is not for finding", "match.when is false", "--assume-match"])?;
    let told = bed.quell(&["plan", "-", "--finding", "falco-planned", "--assume-match"], &other).await;
    told.expect(Exit::Ok, &["patch Pod"])
}

#[tokio::test]
async fn a_plan_says_what_the_service_account_may_not() -> Result<()> {
    let bed = Bed::new("cli-rights").await?;
    bed.finding("falco-forbidden").await?;
    bed.namespace.create_object(&service_account("responder")).await?;
    let told = bed.quell(&["plan", "-", "--finding", "falco-forbidden"], CONTAIN).await;
    told.expect(Exit::Failed, &["would fail (Forbidden)", "system:serviceaccount:", "\n0 writes, 0 messages"])
}

#[tokio::test]
async fn a_wrong_playbook_is_refused_in_the_words_of_the_api_server() -> Result<()> {
    let bed = Bed::new("cli-wrong").await?;
    let refused = bed.quell(&["plan", "-"], &CONTAIN.replace("name: build", "name: cut")).await;
    refused.expect(
        Exit::Failed,
        &["standard input: the API server refuses this Playbook", "each step needs a name of its own"],
    )?;
    let misspelt = bed.quell(&["plan", "-"], &CONTAIN.replace("minSeverity", "minSeverty")).await;
    misspelt.expect(Exit::Failed, &["unknown field \"spec.match.minSeverty\""])?;
    let unready = bed.quell(&["plan", "-"], &CONTAIN.replace("finding.rule", "findin.rule")).await;
    unready.expect(Exit::Failed, &["it would not be Ready", "spec.match.when", "(ExpressionInvalid)"])?;

    // Judged as a change where it is there already.
    let playbook: Playbook = serde_saphyr::from_str(CONTAIN)?;
    bed.namespace.create_object(&playbook).await?;
    bed.quell(&["plan", "-"], CONTAIN).await.expect(Exit::Ok, &["the API server takes it"])?;
    let refused = bed.quell(&["plan", "-"], &CONTAIN.replace("name: build", "name: cut")).await;
    refused.expect(Exit::Failed, &["each step needs a name of its own"])
}

/// A kubeconfig of a service account that has these rights in the namespace, and no others.
async fn somebody_who_may(bed: &mut Bed, rules: Vec<PolicyRule>) -> Result<tempfile::NamedTempFile> {
    allow(bed, "alice", rules).await?;
    let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = bed.namespace.api();
    let token = accounts.create_token_request("alice", &PostParams::default(), &request).await?;
    let mut kubeconfig = ControlPlane::shared().await?.kubeconfig().clone();
    for user in &mut kubeconfig.auth_infos {
        let token = token.status.as_ref().and_then(|status| status.token.clone()).map(Into::into);
        user.auth_info = Some(AuthInfo { token, ..AuthInfo::default() });
    }
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, &kubeconfig)?;
    bed.kubeconfig = file.path().display().to_string();
    Ok(file)
}

#[tokio::test]
async fn somebody_of_one_namespace_gets_an_answer_with_what_they_may_see() -> Result<()> {
    let mut bed = Bed::new("cli-limited").await?;
    bed.finding("falco-limited").await?;
    bed.namespace.create_object(&service_account("responder")).await?;
    let quell = ["findings", "remediations", "playbooks", "channels"]
        .map(|one| rule("quell.dev", one, &["get", "list", "create"]));
    let read = [rule("", "pods", &["get"]), rule("networking.k8s.io", "networkpolicies", &["get", "create"])];
    let _kubeconfig = somebody_who_may(&mut bed, quell.into_iter().chain(read).collect()).await?;

    let told = bed.quell(&["plan", "-", "--finding", "falco-limited"], CONTAIN).await;
    told.expect(
        Exit::Ok,
        &[
            "which you may not impersonate; rehearsed with your rights",
            "create NetworkPolicy",
            "can't be rehearsed with your rights, the run has its own; taken for done: patching Pod",
            "\n1 write, 0 messages, 1 call to the outside",
        ],
    )?;
    let told = bed.quell(&["explain", "falco-limited"], "").await;
    told.expect(Exit::Ok, &["the pod is there", "Not seen: listing clusterplaybooks: ", "forbidden"])?;
    let told = bed.quell(&["undo", "falco-limited"], "").await;
    told.expect(Exit::Ok, &["there is no run to undo"])?;
    bed.quell(&["get", "-A"], "").await.expect(Exit::Failed, &["error: listing findings: ", "forbidden"])
}
