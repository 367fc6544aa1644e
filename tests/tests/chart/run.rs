//! The operator as the chart starts it: with its arguments and files, as its ServiceAccount, and with no other rights.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{EnvVar, Pod, Secret, ServiceAccount};
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Config, ResourceExt};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{Phase, Playbook, Remediation};
use quell_tests::fixtures::{PodCarrier as _, Scaled as _, deployment};
use quell_tests::lifeline::Lifeline;
use quell_tests::{ControlPlane, TestNamespace, wait};
use serde_json::{Value, json};

use crate::helm::{chart, cluster, helm, kubectl};
use crate::lifecycle::restricted_namespace;
use crate::rights;

const HOST: &str = "quell.quell.svc";

#[tokio::test]
async fn the_operator_runs_with_the_rights_of_the_chart_and_no_others() -> Result<()> {
    let cluster = cluster().await?;
    let admin = cluster.client().await?;
    restricted_namespace(&admin, "quell").await?;
    let chart = chart();
    // What ends pods here is no kubelet.
    let kubelets = "guard.kubelets={system:kwok}";
    let install = ["install", "quell", &chart.to_string_lossy(), "-n", "quell", "--wait", "--set", kubelets];
    let notes = helm(&cluster, &install).await?;
    let quell = InCluster::start(&cluster, &admin).await?;
    let told = Told::listen().await?;
    declare(&cluster, &told).await?;

    assert_eq!(quell.trial(&notes).await?, 200);
    a_cluster_playbook_contains_rolls_back_tells_and_undoes(&cluster, &quell, &told).await?;
    a_rebuilt_image_is_put_in(&cluster, &quell).await?;
    a_playbook_has_the_rights_of_its_service_account_only(&cluster, &quell).await?;

    rights::what_was_asked_was_allowed_and_what_is_allowed_was_asked(&cluster.audit_log())?;
    rights::nothing_else_is_allowed(&quell.client).await?;
    rights::people_can_ask_for_an_undo_but_not_act_as_quell(&cluster).await?;
    rights::a_cluster_playbook_names_only_an_account_that_its_writer_may_act_as(&cluster).await?;
    cluster.stop().await
}

/// A channel that is told, playbooks, and a Source that is watched.
async fn declare(cluster: &ControlPlane, told: &Told) -> Result<()> {
    let objects = format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: signature, namespace: quell}}
stringData: {{key: a key for signatures}}
---
apiVersion: quell.dev/v1alpha1
kind: ClusterChannel
metadata: {{name: security}}
spec: {{webhook: {{url: "{}", hmacKey: {{name: signature, key: key}}}}}}
---
apiVersion: quell.dev/v1alpha1
kind: Guardrail
metadata: {{name: production}}
spec: {{limits: [{{name: many, per: Cluster, max: 100}}]}}
---
apiVersion: quell.dev/v1alpha1
kind: ClusterSuppression
metadata: {{name: known}}
spec: {{match: {{rules: [a known thing]}}, reason: known, owner: ana, expiresAt: "2099-01-01T00:00:00Z"}}
---
apiVersion: quell.dev/v1alpha1
kind: Suppression
metadata: {{name: known, namespace: quell}}
spec: {{match: {{rules: [a known thing]}}, reason: known, owner: ana, expiresAt: "2099-01-01T00:00:00Z"}}
---
apiVersion: quell.dev/v1alpha1
kind: Source
metadata: {{name: trivy-operator}}
spec: {{format: trivy-operator, watch: {{}}}}
---
apiVersion: quell.dev/v1alpha1
kind: ClusterPlaybook
metadata: {{name: contain}}
spec:
  match: {{sources: [falco], when: 'finding.rule == "Reverse shell"'}}
  steps:
    - {{name: contain, quarantine: {{detach: true}}}}
    - {{name: roll-back, rollback: {{to: Previous}}}}
    - {{name: deny, denyImage: {{for: 1h}}}}
    - {{name: tell, notify: {{channels: [{{name: security}}]}}}}
---
apiVersion: quell.dev/v1alpha1
kind: ClusterPlaybook
metadata: {{name: rebuild}}
spec:
  match: {{sources: [falco], when: 'finding.rule == "Known hole"'}}
  steps:
    - name: build
      rebuild:
        job:
          spec:
            template:
              metadata: {{annotations: {{quell.dev/test-result: "image=registry.example/shop:1.1-fixed"}}}}
              spec: {{restartPolicy: Never, containers: [{{name: build, image: registry.example/build:1}}]}}
    - {{name: deploy, setImage: {{image: "${{steps.build.outputs.image}}"}}}}
"#,
        told.url
    );
    kubectl(cluster, &["apply", "-f", "-"], &objects).await?;
    Ok(())
}

async fn a_cluster_playbook_contains_rolls_back_tells_and_undoes(
    cluster: &ControlPlane,
    quell: &InCluster,
    told: &Told,
) -> Result<()> {
    let shop = TestNamespace::create(cluster, "shop").await?;
    let (first, second) = ("registry.example/shop:1.0", "registry.example/shop:1.1");
    let pod = workload(&shop, &[first, second]).await?;
    assert_eq!(quell.alert("falco", "Reverse shell", &shop, &pod, "not the token").await?, 401);
    for _ in 0..2 {
        assert_eq!(quell.alert("falco", "Reverse shell", &shop, &pod, &quell.token).await?, 200);
    }
    let run = quell.ended(&shop, "contain", Phase::Succeeded).await?;
    let pods: Api<Pod> = shop.api();
    assert!(pods.get(&pod).await?.labels().contains_key("quell.dev/quarantine"));
    assert_eq!(image(&shop).await?, first);
    assert_eq!(told.calls().len(), 1);
    the_api_server_keeps_it(cluster, &shop, &pod, second).await?;

    let undo = json!({ "spec": { "intent": "Undo" } });
    shop.api::<Remediation>().patch(&run.name_any(), &PatchParams::default(), &Patch::Merge(undo)).await?;
    quell.ended(&shop, "contain", Phase::Undone).await?;
    // Its ReplicaSet has it back, and may find that it has one too many now.
    let free = pods.get_opt(&pod).await?.is_none_or(|pod| !pod.labels().contains_key("quell.dev/quarantine"));
    assert!(free, "the quarantine of pod {pod} was not lifted");
    assert_eq!(image(&shop).await?, second);
    Ok(())
}

/// From an admin of the cluster, who isn't Quell.
async fn the_api_server_keeps_it(cluster: &ControlPlane, shop: &TestNamespace, pod: &str, image: &str) -> Result<()> {
    let refused = async |arguments: &[&str], says: &str| -> Result<()> {
        let arguments = [&["-n", shop.name()][..], arguments].concat();
        let answer = kubectl(cluster, &arguments, "").await.err().with_context(|| format!("{arguments:?} was done"))?;
        anyhow::ensure!(answer.to_string().contains(says), "{arguments:?}: {answer}");
        Ok(())
    };
    refused(&["label", "pod", pod, "quell.dev/quarantine-"], "nobody but Quell changes its labels").await?;
    refused(&["delete", "pod", pod], "kept for forensics").await?;
    refused(&["exec", pod, "--", "true"], "nobody enters or evicts it").await?;
    refused(&["delete", "networkpolicy", "--all"], "nobody but Quell writes it").await?;
    let run = format!("--image={image}");
    refused(&["run", "again", &run, "--dry-run=server"], "is blocked by ImageBlock").await?;
    let break_glass = ["--as=jo", "--as-group=system:masters", "--as-group=quell:break-glass"];
    let label = ["label", "pod", pod, "case=42", "-n", shop.name()];
    kubectl(cluster, &[&label[..], &break_glass].concat(), "").await?;
    Ok(())
}

async fn a_rebuilt_image_is_put_in(cluster: &ControlPlane, quell: &InCluster) -> Result<()> {
    let shop = TestNamespace::create(cluster, "rebuilt").await?;
    let pod = workload(&shop, &["registry.example/shop:1.1"]).await?;
    assert_eq!(quell.alert("falco", "Known hole", &shop, &pod, &quell.token).await?, 200);
    quell.ended(&shop, "rebuild", Phase::Succeeded).await?;
    assert_eq!(image(&shop).await?, "registry.example/shop:1.1-fixed");
    Ok(())
}

async fn a_playbook_has_the_rights_of_its_service_account_only(
    cluster: &ControlPlane,
    quell: &InCluster,
) -> Result<()> {
    let bank = TestNamespace::create(cluster, "bank").await?;
    let objects = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: responder}
---
apiVersion: quell.dev/v1alpha1
kind: Channel
metadata: {name: on-call}
spec: {slack: {webhookUrl: {name: slack, key: url}}}
---
apiVersion: quell.dev/v1alpha1
kind: Playbook
metadata: {name: ours}
spec:
  match: {when: 'finding.rule == "Of the bank"'}
  serviceAccountName: responder
  steps: [{name: contain, quarantine: {detach: true}}]
"#;
    kubectl(cluster, &["apply", "-n", bank.name(), "-f", "-"], objects).await?;
    let pod = workload(&bank, &["registry.example/bank:1.0"]).await?;
    assert_eq!(quell.alert("falco", "Of the bank", &bank, &pod, &quell.token).await?, 200);
    let user = format!("system:serviceaccount:{}:responder", bank.name());
    wait::eventually(wait::DEADLINE, "the playbook lacks rights", async || {
        let status = bank.api::<Playbook>().get("ours").await?.status.context("no status")?;
        let ready = conditions::find(&status.conditions, ConditionType::Ready).context("no condition")?;
        let told = ready.message.contains(&user) && ready.message.contains("networkpolicies");
        anyhow::ensure!(ready.reason == "RightsMissing" && told, "it is {ready:?}");
        Ok(Some(()))
    })
    .await?;
    assert!(bank.api::<Remediation>().list(&ListParams::default()).await?.items.is_empty());
    assert!(!bank.api::<Pod>().get(&pod).await?.labels().contains_key("quell.dev/quarantine"));

    let objects = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: responder}
rules:
  - {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [create, get, patch]}
  - {apiGroups: [""], resources: [pods], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: responder}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: responder}
subjects: [{kind: ServiceAccount, name: responder}]
"#;
    kubectl(cluster, &["apply", "-n", bank.name(), "-f", "-"], objects).await?;
    rights::in_force(cluster, &user, bank.name(), "patch", "pods").await?;
    quell.ended(&bank, "ours", Phase::Succeeded).await?;
    assert!(bank.api::<Pod>().get(&pod).await?.labels().contains_key("quell.dev/quarantine"));
    Ok(())
}

/// A Deployment of two pods that has had these images; the name of a pod that runs the last.
async fn workload(namespace: &TestNamespace, images: &[&str]) -> Result<String> {
    let (first, later) = images.split_first().context("an image")?;
    namespace.create_object(&deployment("shop").image(first).replicas(2)).await?;
    let api: Api<Deployment> = namespace.api();
    wait::rolled_out(&api, "shop", wait::DEADLINE).await?;
    for image in later {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        api.patch("shop", &PatchParams::default(), &Patch::Strategic(patch)).await?;
        wait::rolled_out(&api, "shop", wait::DEADLINE).await?;
    }
    let last = images.last().copied().unwrap_or_default();
    wait::eventually(wait::DEADLINE, "a pod runs the last image", async || {
        let pods = namespace.api::<Pod>().list(&ListParams::default().labels("app=shop")).await?;
        let runs = |pod: &&Pod| {
            let spec = pod.spec.as_ref();
            wait::is_ready(pod) && spec.is_some_and(|spec| spec.containers[0].image.as_deref() == Some(last))
        };
        Ok(pods.items.iter().find(runs).map(ResourceExt::name_any))
    })
    .await
}

async fn image(namespace: &TestNamespace) -> Result<String> {
    let found = namespace.api::<Deployment>().get("shop").await?;
    let pod = found.spec.and_then(|spec| spec.template.spec).context("a template")?;
    pod.containers[0].image.clone().context("an image")
}

/// The operator, as the chart's Deployment starts it.
struct InCluster {
    lifeline: Lifeline,
    log: PathBuf,
    intake: SocketAddr,
    /// What Falco shows.
    token: String,
    http: reqwest::Client,
    /// Has the rights of the ServiceAccount.
    client: Client,
}

impl InCluster {
    /// Takes arguments, environment and files from what the chart has made. Where it listens is another place: here is but one host.
    async fn start(cluster: &ControlPlane, admin: &Client) -> Result<Self> {
        let folder = cluster.dir().join("in-cluster");
        std::fs::create_dir_all(&folder)?;
        let deployment = Api::<Deployment>::namespaced(admin.clone(), "quell").get("quell").await?;
        let pod = deployment.spec.and_then(|spec| spec.template.spec).context("a pod")?;
        let account = pod.service_account_name.clone().context("a service account")?;
        let container = pod.containers.into_iter().next().context("a container")?;
        let secret = async |name: &str| -> Result<BTreeMap<String, Vec<u8>>> {
            let secret = Api::<Secret>::namespaced(admin.clone(), "quell").get(name).await?;
            Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
        };
        let tls = secret("quell-ingest-tls").await?;
        for file in ["tls.crt", "tls.key"] {
            std::fs::write(folder.join(file), &tls[file])?;
        }
        let (intake, metrics) = (free_address()?, free_address()?);
        let here = |argument: &String| {
            let argument = argument.replace("0.0.0.0:8443", &intake.to_string());
            argument.replace("0.0.0.0:9090", &metrics.to_string()).replace("/tls/", &format!("{}/", folder.display()))
        };
        let kubeconfig = kubeconfig(cluster, &token(admin, &account).await?).await?;
        let file = folder.join("kubeconfig");
        std::fs::write(&file, kubeconfig.to_string())?;
        let log = folder.join("quell.log");
        let output = std::fs::File::create(&log)?;
        let lifeline = Lifeline::new(None)?;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quell"));
        command
            .args(container.args.unwrap_or_default().iter().map(here))
            .envs(container.env.unwrap_or_default().into_iter().map(environment))
            .env("KUBECONFIG", &file)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        lifeline.spawn("quell", &mut command)?;
        let authority = reqwest::Certificate::from_pem(&tls["ca.crt"])?;
        let http = reqwest::Client::builder().tls_certs_only([authority]).resolve(HOST, intake).build()?;
        let token = String::from_utf8(secret("quell-source-falco").await?["token"].clone())?;
        let client = client(&file).await?;
        let this = Self { lifeline, log, intake, token, http, client };
        this.wait_until_it_leads(metrics).await?;
        Ok(this)
    }

    async fn wait_until_it_leads(&self, metrics: SocketAddr) -> Result<()> {
        let url = format!("http://{metrics}/metrics");
        wait::eventually(Duration::from_secs(30), "the operator leads", async || {
            if let Some((_, status)) = self.lifeline.exited() {
                bail!("the operator ended ({status}):\n{}", std::fs::read_to_string(&self.log)?);
            }
            let text = reqwest::get(&url).await?.text().await?;
            Ok(text.contains("quell_leader 1").then_some(()))
        })
        .await
        .with_context(|| std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// What Falco's `http_output` posts, to the address that the chart's notes name.
    async fn alert(&self, source: &str, rule: &str, namespace: &TestNamespace, pod: &str, token: &str) -> Result<u16> {
        let url = format!("https://{HOST}:{}/v1/sources/{source}?token={token}", self.intake.port());
        let body = json!({
            "rule": rule, "priority": "Critical", "output": rule, "hostname": "node", "source": "syscall", "tags": [],
            "time": "2026-11-21T10:00:00.000000000Z",
            "output_fields": { "k8s.ns.name": namespace.name(), "k8s.pod.name": pod, "container.name": "app" },
        });
        Ok(self.http.post(url).body(body.to_string()).send().await?.status().as_u16())
    }

    /// The trial that the chart's notes propose, word for word, with the token in a header.
    async fn trial(&self, notes: &str) -> Result<u16> {
        let body = notes.lines().find_map(|line| line.trim().strip_prefix("-d '")).context("no trial in the notes")?;
        let url = format!("https://{HOST}:{}/v1/sources/falco", self.intake.port());
        let body = body.trim_end_matches('\'').to_owned();
        Ok(self.http.post(url).bearer_auth(&self.token).body(body).send().await?.status().as_u16())
    }

    /// The one run of a playbook in a namespace, once it has come to this phase.
    async fn ended(&self, namespace: &TestNamespace, playbook: &str, phase: Phase) -> Result<Remediation> {
        wait::eventually(wait::DEADLINE, &format!("{playbook} is {phase}"), async || {
            let runs = namespace.api::<Remediation>().list(&ListParams::default()).await?;
            let run = runs.items.into_iter().find(|run| run.spec.playbook.name == playbook).context("no run")?;
            if run.status.as_ref().is_some_and(|status| status.phase == phase) {
                return Ok(Some(run));
            }
            bail!("{}", json!(run.status));
        })
        .await
        .with_context(|| std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

/// What the kubelet would make of it.
fn environment(variable: EnvVar) -> (String, String) {
    let field = variable.value_from.and_then(|from| from.field_ref).map(|field| field.field_path);
    let value = match field.as_deref() {
        Some("metadata.namespace") => "quell".to_owned(),
        Some("metadata.name") => "quell-of-the-test".to_owned(),
        _ => variable.value.unwrap_or_default(),
    };
    (variable.name, value)
}

async fn token(admin: &Client, account: &str) -> Result<String> {
    let request = TokenRequest {
        metadata: ObjectMeta::default(),
        spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() }),
        status: None,
    };
    let api: Api<ServiceAccount> = Api::namespaced(admin.clone(), "quell");
    let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
    answer.status.and_then(|status| status.token).context("a token")
}

/// Shows this token and nothing else.
async fn kubeconfig(cluster: &ControlPlane, token: &str) -> Result<Value> {
    let url = cluster.config().await?.cluster_url.to_string();
    let known = cluster.kubeconfig().clusters.first().and_then(|one| one.cluster.clone()).context("a cluster")?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "quell",
        "clusters": [{ "name": "quell", "cluster": {
            "server": url, "certificate-authority-data": known.certificate_authority_data,
        }}],
        "users": [{ "name": "quell", "user": { "token": token } }],
        "contexts": [{ "name": "quell", "context": { "cluster": "quell", "user": "quell" } }],
    }))
}

async fn client(file: &Path) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(file)?;
    Ok(Client::try_from(
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?,
    )?)
}

fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// An address that is told things.
struct Told {
    url: String,
    calls: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Told {
    async fn listen() -> Result<Self> {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/told", listener.local_addr()?);
        let heard = calls.clone();
        let router = Router::new().fallback(async move |body: String| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        });
        let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self { url, calls, task })
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}
