//! The guards of the chart on a control plane: the same files, filled in for the users of the test bed.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Client, Resource, ResourceExt as _};
use quell_crds::names;
use quell_crds::v1alpha1::{Approval, ImageBlock, ImageBlockSpec, Playbook, Remediation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{ControlPlane, TestNamespace, operator, wait};

const FILES: &[&str] = &[
    include_str!("../../charts/quell/files/guards/approvals.yaml"),
    include_str!("../../charts/quell/files/guards/images.yaml"),
    include_str!("../../charts/quell/files/guards/pods.yaml"),
    include_str!("../../charts/quell/files/guards/policies.yaml"),
    include_str!("../../charts/quell/files/guards/sessions.yaml"),
];

/// The group whose members pass.
pub const BREAK_GLASS: &str = "quell:break-glass";

const BLOCKED: &str = "registry.example/blocked:1";
const FREE: &str = "registry.example/free:1";

/// Whom the guards let pass, as the chart's values have it.
#[derive(Clone, Debug)]
pub struct Guards {
    /// The user that is Quell.
    pub quell: String,
    /// `guard.breakGlassGroups`.
    pub break_glass: Vec<String>,
    /// `guard.kubelets`.
    pub kubelets: Vec<String>,
    /// `guard.exemptNamespaces`, and Quell's own.
    pub exempt: Vec<String>,
}

impl Default for Guards {
    /// For the operator as [`crate::Operator`] starts it: with the rights of the test bed's admin.
    fn default() -> Self {
        Self {
            quell: "quell-admin".to_owned(),
            break_glass: vec![BREAK_GLASS.to_owned()],
            kubelets: vec!["system:kwok".to_owned()],
            exempt: vec!["kube-system".to_owned(), operator::NAMESPACE.to_owned()],
        }
    }
}

impl Guards {
    /// The same for another user.
    #[must_use]
    pub fn of(quell: &str) -> Self {
        Self { quell: quell.to_owned(), ..Self::default() }
    }

    /// The policies and their bindings.
    pub fn objects(&self) -> Result<(Vec<ValidatingAdmissionPolicy>, Vec<ValidatingAdmissionPolicyBinding>)> {
        let (mut policies, mut bindings) = (Vec::new(), Vec::new());
        for file in FILES {
            let text = file
                .replace("@NAME@", "quell")
                .replace("@QUELL@", &json!(self.quell).to_string())
                .replace("@BREAK_GLASS@", &json!(self.break_glass).to_string())
                .replace("@KUBELETS@", &json!(self.kubelets).to_string())
                .replace("@EXEMPT@", &json!(self.exempt).to_string());
            for document in text.split("\n---\n") {
                let object: Value = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
                match object["kind"].as_str() {
                    Some("ValidatingAdmissionPolicy") => policies.push(serde_json::from_value(object)?),
                    Some("ValidatingAdmissionPolicyBinding") => bindings.push(serde_json::from_value(object)?),
                    other => bail!("{other:?} among the guards"),
                }
            }
        }
        Ok((policies, bindings))
    }
}

/// Installs the guards; the CRDs must be there. Safe to call from many tests at once. They hold a moment later, see [`in_force`].
pub async fn install(control_plane: &ControlPlane, guards: &Guards) -> Result<()> {
    let client = control_plane.client().await?;
    let (policies, bindings) = guards.objects()?;
    apply(&client, &policies).await?;
    apply(&client, &bindings).await
}

/// Takes the guards away again. They are in force a moment longer.
pub async fn remove(control_plane: &ControlPlane, guards: &Guards) -> Result<()> {
    let client = control_plane.client().await?;
    let (policies, bindings) = guards.objects()?;
    for binding in &bindings {
        let api: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
        api.delete(&binding.name_any(), &DeleteParams::default()).await?;
    }
    for policy in &policies {
        let api: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
        api.delete(&policy.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn apply<K>(client: &Client, objects: &[K]) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>,
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let parameters = PatchParams::apply("quell-tests").force();
    try_join_all(objects.iter().map(|object| {
        let (api, parameters) = (api.clone(), parameters.clone());
        async move { api.patch(&object.name_any(), &parameters, &Patch::Apply(object)).await }
    }))
    .await?;
    Ok(())
}

/// Waits until every policy refuses what it should. The API server takes new ones over in its own time.
pub async fn in_force(control_plane: &ControlPlane, guards: &Guards) -> Result<()> {
    // Callers hold it in futures of their own.
    Box::pin(each_refuses(control_plane, guards)).await
}

async fn each_refuses(control_plane: &ControlPlane, guards: &Guards) -> Result<()> {
    let namespace = TestNamespace::create(control_plane, "guards").await?;
    let quell = control_plane.client_as(&guards.quell, &["system:masters", "system:authenticated"]).await?;
    let stranger = control_plane.client_as("somebody", &["system:masters", "system:authenticated"]).await?;
    let name = namespace.name();
    let label = |key: &str| json!({ key: "full" });
    let pod = |name: &str, labels: Value, image: &str| -> Result<Pod> {
        Ok(serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "containers": [{ "name": "app", "image": image }] },
        }))?)
    };
    let policy = |name: &str, labels: Value, selected: Value| -> Result<NetworkPolicy> {
        Ok(serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels }, "spec": { "podSelector": { "matchLabels": selected } },
        }))?)
    };
    let block = ImageBlockSpec {
        tag: Some(BLOCKED.to_owned()),
        namespaces: vec![name.to_owned()],
        reason: "are the guards in force?".to_owned(),
        ..ImageBlockSpec::default()
    };

    let kept = pod("kept", label(names::QUARANTINE), FREE)?;
    Api::<Pod>::namespaced(quell.clone(), name).create(&PostParams::default(), &kept).await?;
    let blocks: Api<ImageBlock> = Api::all(quell.clone());
    blocks.create(&PostParams::default(), &ImageBlock::new(name, block.clone())).await?;

    let pods: Api<Pod> = Api::namespaced(stranger.clone(), name);
    let policies: Api<NetworkPolicy> = Api::namespaced(stranger.clone(), name);
    refused("quarantined-pods", &pods, &pod("kept-too", label(names::QUARANTINE), FREE)?).await?;
    refused("quarantine-policies", &policies, &policy("deny", label(names::QUARANTINE_POLICY), json!({}))?).await?;
    refused("policies-for-quarantined", &policies, &policy("allow", json!({}), label(names::QUARANTINE))?).await?;
    refused("blocked-images", &pods, &pod("blocked", json!({}), BLOCKED)?).await?;
    let mut of_run = ImageBlock::new(&format!("{name}-run"), block);
    of_run.metadata.labels = Some([(names::REMEDIATION.to_owned(), "run".to_owned())].into());
    refused("image-blocks", &Api::<ImageBlock>::all(stranger.clone()), &of_run).await?;
    wait::eventually(wait::DEADLINE, "the guard quarantined-sessions is in force", async || {
        let answer = connect(&stranger, name, "kept", "exec?command=true").await?;
        ensure!(answer.contains("quell-quarantined-sessions"), "{answer}");
        Ok(Some(()))
    })
    .await?;
    refused("approvals", &Api::namespaced(stranger.clone(), name), &forged_approval()?).await?;
    refused("authors", &Api::namespaced(stranger.clone(), name), &forged_playbook()?).await?;
    let run = Api::namespaced(quell.clone(), name).create(&PostParams::default(), &run_of("somebody")?).await?;
    refused("two-persons", &Api::namespaced(stranger.clone(), name), &approval_of(&run, "somebody")?).await?;
    blocks.delete(name, &DeleteParams::default()).await?;
    namespace.finish().await
}

/// An approval in the name of somebody else.
fn forged_approval() -> Result<Approval> {
    Ok(serde_json::from_value(json!({ "metadata": { "name": "forged" }, "spec": {
        "remediation": { "name": "run", "uid": "uid" }, "digest": "0".repeat(64), "decision": "Approve", "user": "nobody",
    } }))?)
}

/// A run of a playbook that somebody wrote, with a step `b` that two persons decide on, and a step `c` that one does.
pub fn run_of(author: &str) -> Result<Remediation> {
    let step = |name: &str, separate: bool| json!({ "name": name, "wait": { "for": "1h" }, "approval": { "reason": "?", "separate": separate } });
    Ok(serde_json::from_value(json!({
        "metadata": { "name": "two-persons" },
        "spec": {
            "finding": { "name": "none", "uid": "none" }, "author": author, "target": { "kind": "Pod", "name": "none" },
            "playbook": { "kind": "Playbook", "name": "none", "uid": "none", "generation": 1 },
            "steps": [step("b", true), step("c", false)],
        },
    }))?)
}

/// The approval of a run's step `b`.
pub fn approval_of(run: &Remediation, user: &str) -> Result<Approval> {
    Ok(serde_json::from_value(json!({ "metadata": { "name": format!("by-{user}") }, "spec": {
        "remediation": { "name": run.name_any(), "uid": run.uid() }, "step": "b", "digest": "0".repeat(64),
        "decision": "Approve", "user": user,
    } }))?)
}

/// A playbook that names another than who writes it.
fn forged_playbook() -> Result<Playbook> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": "forged", "annotations": { names::AUTHOR: "nobody" } },
        "spec": { "match": { "sources": ["nothing"] }, "steps": [{ "name": "wait", "wait": { "for": "1s" } }] },
    }))?)
}

/// Until nobody may create the object on account of that guard; what was created before is taken away again.
async fn refused<K>(guard: &str, api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    wait::eventually(wait::DEADLINE, &format!("the guard {guard} is in force"), async || {
        match api.create(&PostParams::default(), object).await {
            Err(error) if by(guard, &error) => Ok(Some(())),
            Err(error) => Err(error.into()),
            Ok(created) => {
                api.delete(&created.name_any(), &DeleteParams::default().grace_period(0)).await?;
                Ok(None)
            }
        }
    })
    .await
}

/// Whether the API server refused a request on account of that guard.
#[must_use]
pub fn by(guard: &str, error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 403 && status.message.contains(&format!("ValidatingAdmissionPolicy 'quell-{guard}'"))
}

/// Asks to enter a pod, such as by `exec?command=true`, and gives back what is answered. Nobody is ever let in: the request asks for a
/// stream and can't take one, which is found out after all guards were asked.
pub async fn connect(client: &Client, namespace: &str, pod: &str, how: &str) -> Result<String> {
    let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{pod}/{how}")).body(Body::empty())?;
    let answer = client.send(request).await?;
    Ok(String::from_utf8_lossy(&answer.into_body().collect_bytes().await?).into_owned())
}

/// Every binding is of a policy that is there.
pub fn check(guards: &Guards) -> Result<()> {
    let (policies, bindings) = guards.objects()?;
    let bound: BTreeSet<_> = bindings.iter().map(|one| one.spec.policy_name.clone()).collect();
    let there: BTreeSet<_> = policies.iter().map(kube::ResourceExt::name_any).collect();
    ensure!(bound == there, "bound: {bound:?}, there: {there:?}");
    Ok(())
}
