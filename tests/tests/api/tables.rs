//! What `kubectl get` prints, of objects with the names that such objects have.

use anyhow::{Context as _, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use quell_crds::names;
use quell_tests::{ControlPlane, TestNamespace};
use serde_json::{Value, json};

use crate::{api, namespace, object};

/// Longest line.
const WIDTH: usize = 120;
/// A namespace's name of ordinary length, and the gap behind it: the column that `-A` adds.
const NAMESPACE: usize = "shop-staging".len() + 3;
/// An age of `0s` becomes one of `365d`.
const OLDER: usize = 2;
/// Label of the objects of one test: those of the whole cluster are beside others.
const OF: &str = "tests.quell.dev/of";

const PLAYBOOK: &str = "contain-credential-theft";

/// An object of a kind, what is in it, and its status.
struct Row {
    kind: &'static str,
    name: String,
    spec: Value,
    status: Value,
}

fn row(kind: &'static str, name: impl Into<String>, spec: Value, status: Value) -> Row {
    Row { kind, name: name.into(), spec, status }
}

fn ready(reason: &str) -> Value {
    let since = "2026-01-01T00:00:00Z";
    let ready =
        json!({ "type": "Ready", "status": "False", "reason": reason, "message": "why", "lastTransitionTime": since });
    json!({ "conditions": [ready] })
}

fn finding(tool: &str, rule: &str, target: &str, workload: Option<&str>, state: &str) -> Row {
    let mut spec = json!({
        "source": tool, "rule": rule, "severity": "Critical",
        "target": { "kind": "Pod", "apiVersion": "v1", "namespace": "shop", "name": target },
    });
    if let Some(name) = workload {
        spec["workload"] = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": name });
    }
    let status = json!({ "state": state, "count": 1234, "playbook": PLAYBOOK });
    row("Finding", names::finding(tool, rule), spec, status)
}

fn findings() -> Vec<Row> {
    let pod = "storefront-79c8bc59b-7snn7";
    let node = "ip-10-1-20-7";
    vec![
        finding("falco", "Reverse shell in container", pod, Some("storefront"), "Quarantined"),
        finding(
            "falco",
            "Read sensitive file untrusted",
            "payments-gateway-0",
            Some("payments-gateway"),
            "Remediating",
        ),
        finding("trivy", "ghcr.io/acme/payments:2.3.0", "payments", None, "Remediated"),
        finding("kubescape", "C-0057", "ingress-nginx", Some("ingress-nginx"), "Suppressed"),
        finding("kube-bench", "4.2.6", node, None, "Open"),
    ]
}

fn run() -> Row {
    let spec = json!({
        "finding": { "name": "falco-pf5vonkhaa", "uid": "u" },
        "playbook": { "kind": "ClusterPlaybook", "name": PLAYBOOK, "uid": "v", "generation": 1 },
        "target": { "kind": "Pod", "name": "web" },
        "steps": [{ "name": "roll-back", "wait": { "for": "1m" } }],
    });
    let status = json!({ "phase": "AwaitingApproval", "currentStep": "roll-back (AwaitingApproval)" });
    row("Remediation", names::remediation(PLAYBOOK, "v", "falco-pf5vonkhaa", 0, 1), spec, status)
}

fn decision() -> Row {
    let run = run().name;
    let digest = "0".repeat(64);
    let user = "jane.doe@shop.example";
    let spec = json!({
        "remediation": { "name": run, "uid": "u" }, "step": "roll-back", "digest": digest, "decision": "Approve", "user": user,
        "reason": "seen, and agreed with the team that runs it",
    });
    row("Approval", names::approval(&run, "u", "roll-back", &digest, user), spec, Value::Null)
}

fn others() -> Vec<Row> {
    let steps = json!({ "match": { "minSeverity": "Critical" }, "steps": [{ "name": "a", "wait": { "for": "1m" } }] });
    let risk = json!({ "match": { "sources": ["falco"] }, "reason": "known", "owner": "payments@shop.example", "expiresAt": "2027-01-01T00:00:00Z" });
    let channel = json!({ "webhook": { "url": "https://soc.example/hook", "hmacKey": { "name": "s", "key": "k" } } });
    let source = json!({ "format": "trivy-operator", "watch": {} });
    let freeze = json!({ "freezes": [{ "name": "weekend", "weekly": { "days": ["Saturday"] } }], "stop": false, "learn": false });
    let tag = json!({
        "tag": "registry.example/shop/payments:2.3.0", "namespaces": ["shop"], "reason": "why",
        "finding": { "namespace": "shop", "name": "trivy-u7jg8io7oq" }, "expiresAt": "2027-01-01T00:00:00Z",
    });
    let digest =
        json!({ "digest": format!("sha256:{}", "0".repeat(64)), "reason": "why", "expiresAt": "2027-01-01T00:00:00Z" });
    let repository = json!({ "repository": "registry.example/shop/*", "reason": "why" });
    vec![
        row("Playbook", PLAYBOOK, steps.clone(), ready("ExpressionInvalid")),
        row("ClusterPlaybook", PLAYBOOK, steps, ready("RightsMissing")),
        row("Suppression", "log4j-in-build-image", risk.clone(), ready("SuppressionExpired")),
        row("ClusterSuppression", "log4j-in-build-image", risk, ready("ParameterInvalid")),
        row("Channel", "security-slack", channel.clone(), ready("SecretMissing")),
        row("ClusterChannel", "security-slack", channel, ready("SecretMissing")),
        row("Source", "trivy-operator-reports", source, ready("KindNotServed")),
        row("Guardrail", "weekend-freeze", freeze, ready("ExpressionInvalid")),
        row("ImageBlock", names::created_for_cluster("shop", &run().name, "deny"), tag, Value::Null),
        row("ImageBlock", "shop-images", repository, Value::Null),
        row("ImageBlock", "xz-backdoor", digest, Value::Null),
    ]
}

/// Creates it under the test's label, and gives it its status.
async fn create(namespace: &TestNamespace, row: &Row) -> Result<()> {
    let api = api(namespace, row.kind);
    let mut object = object(row.kind, &row.name, &row.spec)?;
    object.metadata.labels = Some([(OF.to_owned(), namespace.name().to_owned())].into());
    api.create(&PostParams::default(), &object).await.with_context(|| format!("{} {}", row.kind, row.name))?;
    if !row.status.is_null() {
        let status = Patch::Merge(json!({ "status": row.status }));
        api.patch_status(&row.name, &PatchParams::default(), &status)
            .await
            .with_context(|| format!("the status of {} {}", row.kind, row.name))?;
    }
    Ok(())
}

/// What kubectl prints of the test's objects of a kind.
async fn printed(namespace: &TestNamespace, kind: &str, arguments: &[&str]) -> Result<String> {
    let of = format!("{OF}={}", namespace.name());
    let mut kubectl = ControlPlane::shared().await?.kubectl()?;
    let kind = format!("{}.quell.dev", kind.to_ascii_lowercase());
    let output = kubectl.args(["get", &kind, "-n", namespace.name(), "-l", &of]).args(arguments).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn the_table_of_every_kind_but_findings_fits_a_line_for_objects_with_ordinary_names() -> Result<()> {
    let namespace = namespace().await?;
    let rows: Vec<Row> = [run(), decision()].into_iter().chain(others()).collect();
    for row in &rows {
        create(&namespace, row).await?;
    }
    // What eight columns about a Finding need is more than a line has, unless rule, target and playbook are short; `kubectl quell get` cuts.
    let kinds: Vec<_> = quell_crds::all().into_iter().filter(|crd| crd.spec.names.kind != "Finding").collect();
    for crd in &kinds {
        let kind = crd.spec.names.kind.as_str();
        let text = printed(&namespace, kind, &[]).await?;
        let expected = rows.iter().filter(|row| row.kind == kind).count();
        assert!(expected > 0 && text.lines().count() == expected + 1, "{kind}: {text}");
        let more = OLDER + if crd.spec.scope == "Namespaced" { NAMESPACE } else { 0 };
        let widest = text.lines().map(|line| line.trim_end().chars().count() + more).max();
        assert!(widest <= Some(WIDTH), "{kind}: {widest:?}\n{text}");
    }
    // Those of the whole cluster outlive the namespace.
    for crd in kinds.iter().filter(|crd| crd.spec.scope == "Cluster") {
        for row in rows.iter().filter(|row| row.kind == crd.spec.names.kind) {
            api(&namespace, row.kind).delete(&row.name, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_finding_shows_how_bad_it_is_where_and_what_is_done_about_it_and_the_rest_when_asked() -> Result<()> {
    let namespace = namespace().await?;
    for row in findings() {
        create(&namespace, &row).await?;
    }
    let text = printed(&namespace, "Finding", &[]).await?;
    let header: Vec<&str> = text.lines().next().context("no header")?.split_whitespace().collect();
    assert_eq!(header, ["NAME", "SEVERITY", "SOURCE", "RULE", "TARGET", "STATE", "PLAYBOOK", "COUNT", "AGE"]);
    let wide = printed(&namespace, "Finding", &["-o", "wide"]).await?;
    for (table, parts) in [
        (&text, ["Critical", "falco", "storefront-79c8bc59b-7snn7", "Quarantined", PLAYBOOK, "1234"]),
        (&wide, ["Critical", "falco", "storefront-79c8bc59b-7snn7", "Pod", "  storefront  ", "1234"]),
    ] {
        let shell = table.lines().find(|line| line.contains("Reverse shell")).context("it is gone")?;
        for part in parts {
            assert!(shell.contains(part), "{part} is missing: {table}");
        }
    }
    Ok(())
}
