//! Which rights were used, which were not and why, and which must never be there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use quell_crds::v1alpha1::{ClusterPlaybook, Remediation};
use quell_operator::rbac;
use quell_tests::{ControlPlane, TestNamespace, wait};
use serde_json::{Value, json};

use crate::helm::kubectl;
use crate::lifecycle::finding;

const USER: &str = "system:serviceaccount:quell:quell";

/// The chart gives the certificate of the intake.
const CERTIFICATE_GIVEN: &str = "the chart gives a certificate, so Quell makes none";

/// The operator's own rights that the run doesn't surely come to, and why they are needed all the same. The rights of each kind of step
/// are used one by one, and proven to be enough, in `tests/actions`.
const NOT_COME_TO: &[(&str, &str, &str, &str)] = &[
    ("", "configmaps", "create", CERTIFICATE_GIVEN),
    ("", "configmaps", "patch", CERTIFICATE_GIVEN),
    ("", "secrets", "create", CERTIFICATE_GIVEN),
    ("", "secrets", "get", CERTIFICATE_GIVEN),
    ("", "secrets", "update", CERTIFICATE_GIVEN),
    ("", "events", "list", "the run has no Source of the format k8s-events; tests/e2e watches has"),
    ("", "events", "watch", "the run has no Source of the format k8s-events; tests/e2e watches has"),
    (
        "authentication.k8s.io",
        "tokenreviews",
        "create",
        "the run has no Source whose senders show the token of a ServiceAccount; tests/e2e doors has",
    ),
    (
        "coordination.k8s.io",
        "leases",
        "watch",
        "the only replica takes the Lease before it has anything to wait for; tests/durable hands it over",
    ),
    ("quell.dev", "findings", "patch", "nothing gets worse in the run; tests/e2e episodes has it"),
    ("quell.dev", "findings", "delete", "records are kept for thirty days; tests/durable has them deleted"),
    ("quell.dev", "remediations", "delete", "records are kept for thirty days; tests/durable has them deleted"),
    ("events.k8s.io", "events", "patch", "only the same Event again, within minutes, is a patch"),
];

/// Groups of network plugins, service meshes and tools, which aren't served here, so there is nothing to follow. With kinds of some of them Quell is tried by
/// the end-to-end tests `denies`, `watches` and `context`, and with all of Calico's and Cilium's by `cargo packets`.
const NOT_SERVED: &[&str] = &[
    "aquasecurity.github.io",
    "cilium.io",
    "crd.projectcalico.org",
    "gateway.networking.k8s.io",
    "openreports.io",
    "policy.networking.k8s.io",
    "projectcalico.org",
    "security.istio.io",
    "spdx.softwarecomposition.kubescape.io",
    "wgpolicyk8s.io",
];

/// What Kubernetes allows everybody who is somebody.
const EVERYBODYS: &[(&str, &str, &str)] = &[("authorization.k8s.io", "selfsubjectaccessreviews", "create")];

/// Reads the audit log: nothing that the operator asked for as itself was forbidden, and it used what it declares.
pub fn what_was_asked_was_allowed_and_what_is_allowed_was_asked(audit_log: &Path) -> Result<()> {
    let mut used: BTreeSet<(String, String, String)> = BTreeSet::new();
    let mut refused = Vec::new();
    let mut requests = 0;
    for line in std::fs::read_to_string(audit_log)?.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        if event["user"]["username"] != USER {
            continue;
        }
        requests += 1;
        if !event["impersonatedUser"].is_null() {
            used.insert((String::new(), "serviceaccounts".to_owned(), "impersonate".to_owned()));
            let says = event["impersonatedUser"]["extra"].as_object();
            assert!(says.is_some_and(|says| says.contains_key(quell_crds::names::ACTING)), "{event}");
            let group = "authentication.k8s.io".to_owned();
            used.insert((group, "userextras/quell.dev/acting".to_owned(), "impersonate".to_owned()));
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let resource = match (text(&object["resource"]), text(&object["subresource"])) {
            (resource, subresource) if subresource.is_empty() => resource,
            (resource, subresource) => format!("{resource}/{subresource}"),
        };
        let right = (text(&object["apiGroup"]), resource, text(&event["verb"]));
        // A 403 may also come from admission, as in a namespace that is on its way out.
        if event["annotations"]["authorization.k8s.io/decision"] != "allow" {
            refused.push(format!("{right:?} in {:?}: {}", object["namespace"], event["responseStatus"]["message"]));
        }
        if !right.1.is_empty() {
            used.insert(right);
        }
    }
    assert!(requests > 100, "{requests} requests: is this the audit log of the run?");
    assert_eq!(refused, Vec::<String>::new(), "the operator lacks rights");

    let of_steps: BTreeSet<(&str, &str, &str)> = quell_actions::rights::ALL
        .iter()
        .copied()
        .flatten()
        .map(|right| (right.group, right.resource, right.verb))
        .collect();
    let own: BTreeSet<(&str, &str, &str)> = rbac::OWN
        .iter()
        .flat_map(|need| {
            let verbs = move |resource| need.verbs.iter().map(move |verb| (need.group, resource, *verb));
            need.resources.iter().flat_map(move |resource| verbs(*resource))
        })
        .collect();
    let explained: BTreeSet<_> =
        NOT_COME_TO.iter().map(|(group, resource, verb, _)| (*group, *resource, *verb)).collect();
    assert!(explained.is_subset(&own), "explained, and not declared: {:?}", explained.difference(&own));
    let used: BTreeSet<_> =
        used.iter().map(|(group, resource, verb)| (group.as_str(), resource.as_str(), verb.as_str())).collect();
    let known: BTreeSet<_> = used.union(&of_steps).chain(&explained).copied().collect();
    let idle: Vec<_> = own.difference(&known).filter(|(group, ..)| !NOT_SERVED.contains(group)).collect();
    assert!(
        idle.is_empty(),
        "declared, and not used: {idle:?}. Use them in the run, take them away, or say why they are needed"
    );
    let undeclared: Vec<_> = used
        .iter()
        .filter(|right| !own.contains(*right) && !of_steps.contains(*right))
        .filter(|right| !EVERYBODYS.contains(right))
        .collect();
    assert!(undeclared.is_empty(), "used, and allowed by something else than the chart: {undeclared:?}");
    Ok(())
}

/// Asks the API server, as the operator, for what would be too much.
pub async fn nothing_else_is_allowed(quell: &Client) -> Result<()> {
    let may = async |namespace: &str, group: &str, resource: &str, verb: &str| -> Result<bool> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = Api::all(quell.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    };
    // That the question is put rightly.
    assert!(may("shop", "", "pods", "patch").await? && may("quell", "", "secrets", "get").await?);
    // Kinds that nobody has named yet; a controller adds these rights up.
    wait::eventually(wait::DEADLINE, "constraints of any kind may be watched", async || {
        let every = may("", "constraints.gatekeeper.sh", "k8srequiredlabels", "watch").await?
            && may("", "constraints.gatekeeper.sh", "k8srequiredlabels", "list").await?;
        Ok(every.then_some(()))
    })
    .await?;
    let mut too_much = Vec::new();
    for (namespace, group, resource, verbs) in [
        ("shop", "", "pods", &["create", "delete", "update"][..]),
        ("shop", "", "pods/exec", &["create", "get"]),
        ("shop", "", "pods/ephemeralcontainers", &["patch", "update"]),
        ("shop", "", "secrets", &["get", "list", "watch", "create", "patch"]),
        ("kube-system", "", "secrets", &["get", "list"]),
        ("", "", "secrets", &["get", "list", "watch"]),
        ("quell", "", "secrets", &["create", "patch", "update", "delete"]),
        ("shop", "", "configmaps", &["get", "create"]),
        ("shop", "", "serviceaccounts/token", &["create"]),
        ("", "", "users", &["impersonate"]),
        ("", "", "groups", &["impersonate"]),
        ("", "", "nodes", &["patch", "delete"]),
        ("", "", "namespaces", &["patch", "delete"]),
        ("shop", "apps", "deployments", &["create", "delete"]),
        ("shop", "coordination.k8s.io", "leases", &["get", "create"]),
        ("quell", "coordination.k8s.io", "leases", &["delete", "list"]),
        ("shop", "networking.k8s.io", "networkpolicies", &["delete"]),
        ("shop", "quell.dev", "findings", &["patch", "update", "delete"]),
        ("shop", "quell.dev", "remediations", &["patch", "update", "delete"]),
        ("shop", "quell.dev", "playbooks", &["create", "patch", "delete"]),
        ("", "quell.dev", "clusterplaybooks", &["create", "patch", "delete"]),
        ("", "quell.dev", "imageblocks", &["patch", "update"]),
        ("", "rbac.authorization.k8s.io", "clusterrolebindings", &["create", "patch"]),
        ("shop", "rbac.authorization.k8s.io", "rolebindings", &["create", "patch"]),
        ("", "rbac.authorization.k8s.io", "clusterroles", &["escalate", "bind", "patch"]),
        ("", "apiextensions.k8s.io", "customresourcedefinitions", &["create", "patch", "delete"]),
        ("", "admissionregistration.k8s.io", "validatingadmissionpolicies", &["patch", "delete"]),
        ("", "constraints.gatekeeper.sh", "k8srequiredlabels", &["create", "patch", "update", "delete"]),
        ("", "templates.gatekeeper.sh", "constrainttemplates", &["list", "create"]),
    ] {
        for verb in verbs {
            let needed = rbac::declared().iter().any(|right| {
                (right.group.as_str(), right.resource.as_str(), right.verb.as_str()) == (group, resource, *verb)
                    && (right.scope == rbac::Scope::Cluster || namespace == "quell")
            });
            if !needed && may(namespace, group, resource, verb).await? {
                too_much.push(format!("{verb} {resource}.{group} in {namespace:?}"));
            }
        }
    }
    assert_eq!(too_much, Vec::<String>::new());
    Ok(())
}

/// Whoever may write ClusterPlaybooks doesn't get the rights of every ServiceAccount by that.
pub async fn a_cluster_playbook_names_only_an_account_that_its_writer_may_act_as(cluster: &ControlPlane) -> Result<()> {
    let home = TestNamespace::create(cluster, "home").await?;
    for create in [
        &["clusterrole", "author", "--verb=create", "--resource=clusterplaybooks.quell.dev"][..],
        &["clusterrolebinding", "author", "--clusterrole=author", "--user=author"][..],
    ] {
        kubectl(cluster, &[&["create"], create].concat(), "").await?;
    }
    in_force(cluster, "author", "", "create", "clusterplaybooks.quell.dev").await?;
    let author = Api::<ClusterPlaybook>::all(cluster.client_as("author", &["system:authenticated"]).await?);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let write = async |account: Value| {
        let playbook: ClusterPlaybook = serde_json::from_value(json!({
            "apiVersion": "quell.dev/v1alpha1", "kind": "ClusterPlaybook", "metadata": { "name": "named" },
            "spec": { "match": {}, "steps": [{ "name": "wait", "wait": { "for": "1h" } }], "serviceAccount": account },
        }))?;
        anyhow::Ok(author.create(&dry_run, &playbook).await?)
    };
    let account = json!({ "namespace": home.name(), "name": "default" });
    let refused = write(account.clone()).await;
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("may impersonate")), "{refused:?}");
    write(Value::Null).await.context("one without an account")?;
    let role = ["create", "role", "act", "--verb=impersonate", "--resource=serviceaccounts", "-n", home.name()];
    kubectl(cluster, &role, "").await?;
    let binding = ["create", "rolebinding", "act", "--role=act", "--user=author", "-n", home.name()];
    kubectl(cluster, &binding, "").await?;
    in_force(cluster, "author", home.name(), "impersonate", "serviceaccounts").await?;
    write(account).await.context("one with an account that its writer may act as")?;
    home.finish().await
}

/// People who may edit a namespace get Quell's kinds with it, and no way into another namespace by way of Quell.
pub async fn people_can_ask_for_an_undo_but_not_act_as_quell(cluster: &ControlPlane) -> Result<()> {
    let shop = TestNamespace::create(cluster, "people").await?;
    let bank = TestNamespace::create(cluster, "others").await?;
    kubectl(cluster, &["create", "rolebinding", "dev", "--clusterrole=edit", "--user=dev", "-n", shop.name()], "")
        .await?;
    let mut target = json!({ "kind": "Pod", "apiVersion": "v1", "namespace": shop.name(), "name": "some" });
    let run = json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": "Remediation", "metadata": { "name": "run" },
        "spec": {
            "finding": { "name": "theirs", "uid": "1" }, "target": target,
            "playbook": { "kind": "Playbook", "name": "gone", "uid": "2", "generation": 1, "serviceAccountName": "default" },
            "workload": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": shop.name(), "name": "shop", "uid": "3" },
            "steps": [{ "name": "wait", "wait": { "for": "1h" } }],
        },
    });
    in_force(cluster, "dev", shop.name(), "patch", "remediations.quell.dev").await?;
    let dev = cluster.client_as("dev", &["system:authenticated"]).await?;
    assert!(forbidden(finding(&dev, bank.name(), "theirs", bank.name()).await));
    finding(&dev, shop.name(), "theirs", shop.name()).await?;
    for about in [bank.name(), ""] {
        let reach = finding(&dev, shop.name(), "reach", about).await;
        assert!(
            reach.as_ref().is_err_and(|error| error.to_string().contains("its own namespace")),
            "{about}: {reach:?}"
        );
    }

    // Were `edit` given that right, the API server itself would still refuse.
    let admin: Api<Remediation> = shop.api();
    let written = admin.create(&PostParams::default(), &serde_json::from_value(run.clone())?).await;
    assert!(written.as_ref().is_err_and(|error| error.to_string().contains("only Quell begins a run")), "{written:?}");
    let quell = cluster.client_as_service_account("quell", "quell").await?;
    let api: Api<Remediation> = Api::namespaced(quell, shop.name());
    let run = api.create(&PostParams::default(), &serde_json::from_value(run)?).await?;

    let api: Api<Remediation> = Api::namespaced(dev, shop.name());
    let patch = async |spec: Value| {
        api.patch(&run.name_any(), &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await
    };
    target["namespace"] = json!(bank.name());
    for change in [
        json!({ "target": target }),
        json!({ "workload": { "namespace": bank.name() } }),
        json!({ "workload": null }),
        json!({ "playbook": { "kind": "ClusterPlaybook" } }),
        json!({ "steps": [{ "name": "contain", "quarantine": {} }] }),
    ] {
        let changed = patch(change.clone()).await;
        assert!(
            changed.as_ref().is_err_and(|error| error.to_string().contains("only intent and undoSteps can")),
            "{change}: {changed:?}"
        );
    }
    patch(json!({ "intent": "Undo" })).await.context("an undo can be asked for")?;
    Ok(())
}

fn forbidden<T>(answer: Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.is_forbidden())
}

/// Until the API server has taken notice of a right.
pub async fn in_force(cluster: &ControlPlane, user: &str, namespace: &str, verb: &str, resource: &str) -> Result<()> {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api = Api::<SubjectAccessReview>::all(cluster.client().await?);
    wait::eventually(wait::DEADLINE, "the right is in force", async || {
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed).then_some(()))
    })
    .await
}
