//! What the API server itself refuses and prints, with our CRDs and nothing of Quell running.

mod tables;

use anyhow::{Result, bail};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use quell_tests::{ControlPlane, TestNamespace, crds};
use serde_json::{Value, json};

async fn namespace() -> Result<TestNamespace> {
    let control_plane = ControlPlane::shared().await?;
    crds::install(control_plane).await?;
    TestNamespace::create(control_plane, "api").await
}

fn api(namespace: &TestNamespace, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("quell.dev", "v1alpha1", kind));
    if matches!(
        kind,
        "ClusterPlaybook" | "ClusterChannel" | "ClusterSuppression" | "Guardrail" | "ImageBlock" | "Source"
    ) {
        Api::all_with(namespace.client().clone(), &resource)
    } else {
        Api::namespaced_with(namespace.client().clone(), namespace.name(), &resource)
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Result<DynamicObject> {
    let object = json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
    });
    Ok(serde_json::from_value(object)?)
}

/// What the API server says against it.
async fn refusal(kind: &str, spec: Value) -> Result<String> {
    let namespace = namespace().await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match api(&namespace, kind).create(&dry_run, &object(kind, "tried", &spec)?).await {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(status.message.clone()),
        Err(error) => bail!("not refused as invalid: {error}"),
        Ok(_) => bail!("accepted: {spec}"),
    }
}

async fn is_accepted(kind: &str, spec: Value) -> Result<()> {
    let namespace = namespace().await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    api(&namespace, kind).create(&dry_run, &object(kind, "tried", &spec)?).await?;
    Ok(())
}

fn steps(steps: &Value) -> Value {
    json!({ "match": { "minSeverity": "High" }, "steps": steps })
}

macro_rules! refused {
    ($name:ident, $kind:literal, $spec:expr, $says:literal) => {
        #[tokio::test]
        async fn $name() -> Result<()> {
            let said = refusal($kind, $spec).await?;
            assert!(said.contains($says), "it says: {said}");
            Ok(())
        }
    };
}

refused!(
    a_source_that_watches_has_no_time_after_which_its_findings_expire,
    "Source",
    json!({ "format": "policyreport", "watch": {}, "expireAfter": "24h" }),
    "expireAfter is for what is posted"
);
refused!(
    a_time_to_expire_after_that_is_shorter_than_repeats_take_to_be_counted_is_refused,
    "Source",
    json!({ "format": "falco", "expireAfter": "9s", "webhook": { "sns": { "topicArn": "arn:aws:sns:us-east-1:1:a" } } }),
    "must be from 10s"
);
refused!(a_playbook_without_steps_is_refused, "Playbook", json!({ "match": {} }), "spec.steps: Required value");
refused!(a_playbook_with_an_empty_list_of_steps_is_refused, "Playbook", steps(&json!([])), "spec.steps");
refused!(
    two_kinds_in_one_step_are_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": {}, "wait": { "for": "1m" } }])),
    "spec.steps[0]"
);
refused!(a_step_of_no_kind_is_refused, "Playbook", steps(&json!([{ "name": "a" }])), "spec.steps[0]");
refused!(
    two_steps_of_one_name_are_refused,
    "ClusterPlaybook",
    steps(&json!([{ "name": "a", "quarantine": {} }, { "name": "a", "wait": { "for": "1m" } }])),
    "each step needs a name of its own"
);
refused!(
    an_after_that_names_nothing_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": {}, "after": ["b"] }])),
    "after must name other steps of this playbook"
);
refused!(
    an_after_that_names_its_own_step_is_refused,
    "ClusterPlaybook",
    steps(&json!([{ "name": "a", "quarantine": {}, "after": ["a"] }])),
    "after must name other steps of this playbook"
);
refused!(
    a_probe_of_what_is_left_open_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": { "isolate": "Egress", "probe": {} } }])),
    "which isolate: Egress leaves open"
);
refused!(
    a_probe_of_a_port_that_is_none_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": { "probe": { "ports": [65536] } } }])),
    "probe.ports"
);
refused!(
    a_duration_that_is_none_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": {}, "timeout": "soon" }])),
    "timeout"
);
refused!(
    a_duration_of_nothing_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "wait": { "for": "0s" } }])),
    "must be more than nothing"
);
refused!(
    a_duration_of_years_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "wait": { "for": "9999h" } }])),
    "at most 8784h"
);
refused!(
    a_severity_that_is_none_is_refused,
    "Playbook",
    json!({ "match": { "minSeverity": "Terrible" }, "steps": [{ "name": "a", "quarantine": {} }] }),
    "minSeverity"
);
refused!(
    a_step_name_that_expressions_could_not_reach_is_refused,
    "Playbook",
    steps(&json!([{ "name": "Not A Name", "quarantine": {} }])),
    "spec.steps[0].name"
);
refused!(
    a_revision_without_to_revision_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "rollback": { "to": "Previous", "revision": 3 } }])),
    "revision goes with to: Revision"
);
refused!(
    to_revision_without_a_revision_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "rollback": { "to": "Revision" } }])),
    "revision goes with to: Revision"
);
refused!(
    a_rebuild_of_two_ways_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "rebuild": {
        "job": { "spec": {} }, "http": { "url": "http://ci", "poll": { "url": "http://ci/1", "succeeded": "true", "failed": "false" } } } }])),
    "rebuild"
);
refused!(
    a_notify_without_channels_is_refused,
    "Playbook",
    steps(&json!([{ "name": "a", "notify": { "channels": [] } }])),
    "channels"
);
refused!(
    a_channel_of_two_kinds_is_refused,
    "Channel",
    json!({ "slack": { "webhookUrl": { "name": "s", "key": "k" } }, "webhook": { "url": "https://x.example/h", "hmacKey": { "name": "s", "key": "k" } } }),
    "spec"
);
refused!(
    a_webhook_address_that_is_none_is_refused,
    "ClusterChannel",
    json!({ "webhook": { "url": "soc.example", "hmacKey": { "name": "s", "key": "k" } } }),
    "url"
);
refused!(
    a_source_that_neither_takes_posts_nor_watches_is_refused,
    "Source",
    json!({ "format": "falco" }),
    "give one of webhook and watch"
);
refused!(
    a_source_with_a_format_and_a_mapping_is_refused,
    "Source",
    json!({ "format": "falco", "mapping": { "rule": "item.r" }, "webhook": { "bearerToken": { "secret": { "name": "s", "key": "k" } } } }),
    "give one of format and mapping"
);
refused!(
    a_source_with_neither_a_format_nor_a_mapping_is_refused,
    "Source",
    json!({ "webhook": { "bearerToken": { "secret": { "name": "s", "key": "k" } } } }),
    "give one of format and mapping"
);
refused!(
    a_mapping_without_a_rule_is_refused,
    "Source",
    json!({ "mapping": { "severity": "item.s" }, "webhook": { "bearerToken": { "secret": { "name": "s", "key": "k" } } } }),
    "spec.mapping.rule: Required value"
);
refused!(
    a_source_that_watches_what_is_posted_is_refused,
    "Source",
    json!({ "format": "falco", "watch": {} }),
    "trivy-operator are watched"
);
refused!(
    a_mapping_that_watches_nothing_is_refused,
    "Source",
    json!({ "mapping": { "rule": "item.r" }, "watch": {} }),
    "a mapping that watches names the kinds"
);
refused!(
    a_format_that_watches_other_kinds_is_refused,
    "Source",
    json!({ "format": "gatekeeper", "watch": { "resources": [{ "group": "acme.io", "kind": "Alert" }] } }),
    "a format knows its own"
);
refused!(
    reasons_of_what_are_no_events_are_refused,
    "Source",
    json!({ "format": "gatekeeper", "watch": { "reasons": ["FailedCreate"] } }),
    "it is for the format k8s-events"
);
refused!(
    a_source_with_two_credentials_is_refused,
    "Source",
    json!({ "format": "guardduty", "webhook": {
        "sns": { "topicArn": "arn:aws:sns:us-east-1:1:a" }, "bearerToken": { "secret": { "name": "a", "key": "b" } },
    }}),
    "give exactly one of bearerToken, hmac, basic, clientCertificate, serviceAccount and sns"
);
refused!(
    a_topic_that_is_a_queue_is_refused,
    "Source",
    json!({ "format": "guardduty", "webhook": { "sns": { "topicArn": "arn:aws:sqs:us-east-1:1:a" } } }),
    "spec.webhook.sns.topicArn"
);
refused!(
    a_source_of_another_tool_that_names_clair_is_refused,
    "Source",
    json!({ "format": "harbor", "clair": { "url": "http://clair" }, "webhook": { "sns": { "topicArn": "arn:aws:sns:us-east-1:1:a" } } }),
    "it is for a webhook of the format clair"
);
refused!(
    a_source_of_another_tool_that_names_harbor_is_refused,
    "Source",
    json!({ "format": "clair", "harbor": { "url": "http://harbor" }, "webhook": { "sns": { "topicArn": "arn:aws:sns:us-east-1:1:a" } } }),
    "it is for a webhook of the format harbor"
);
refused!(
    an_address_of_harbor_with_a_password_in_it_is_refused,
    "Source",
    json!({ "format": "harbor", "harbor": { "url": "http://a:b@harbor" }, "webhook": { "sns": { "topicArn": "arn:aws:sns:us-east-1:1:a" } } }),
    "spec.harbor.url"
);
refused!(
    a_finding_of_unknown_severity_is_refused,
    "Finding",
    json!({ "source": "manual", "rule": "r", "severity": "Bad", "target": { "kind": "Pod", "name": "p" } }),
    "severity"
);
refused!(
    a_finding_without_a_target_is_refused,
    "Finding",
    json!({ "source": "manual", "rule": "r", "severity": "High" }),
    "target"
);

refused!(
    a_block_of_nothing,
    "ImageBlock",
    json!({ "reason": "why" }),
    "give at least one of digest, tag and repository"
);
refused!(a_block_without_a_reason, "ImageBlock", json!({ "tag": "a:1" }), "spec.reason: Required value");
refused!(a_tag_without_a_tag, "ImageBlock", json!({ "reason": "why", "tag": "registry.example/shop" }), "spec.tag");
refused!(a_tag_that_is_a_pattern, "ImageBlock", json!({ "reason": "why", "tag": "registry.example/*:1" }), "spec.tag");
refused!(a_digest_that_is_none, "ImageBlock", json!({ "reason": "why", "digest": "sha256:abc" }), "spec.digest");
refused!(
    a_repository_with_a_tag,
    "ImageBlock",
    json!({ "reason": "why", "repository": "registry.example/shop:1" }),
    "spec.repository"
);
refused!(
    a_repository_that_is_everything,
    "ImageBlock",
    json!({ "reason": "why", "repository": "*" }),
    "spec.repository"
);
refused!(
    a_playbook_of_a_namespace_that_blocks_images_in_all,
    "Playbook",
    steps(&json!([{ "name": "a", "denyImage": { "namespaces": "All" } }])),
    "denyImage in all namespaces is for ClusterPlaybooks"
);

refused!(
    a_quarantine_that_contradicts_itself,
    "ClusterPlaybook",
    steps(&json!([{ "name": "a", "quarantine": { "detach": true, "owner": "Keep" } }])),
    "detach and owner contradict each other"
);
refused!(
    a_bound_on_others_where_none_are_asked_for,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": { "maxOthers": 3 } }])),
    "maxOthers goes with others: SameDigest"
);
refused!(
    more_others_than_a_record_holds,
    "Playbook",
    steps(&json!([{ "name": "a", "quarantine": { "others": "SameDigest", "maxOthers": 21 } }])),
    "maxOthers"
);

refused!(
    a_step_of_finally_that_has_the_name_of_another,
    "Playbook",
    json!({ "steps": [{ "name": "a", "wait": { "for": "1s" } }], "finally": [{ "name": "a", "wait": { "for": "1s" } }] }),
    "those of finally, too"
);
refused!(
    an_undo_that_never_comes,
    "ClusterPlaybook",
    json!({ "steps": [{ "name": "a", "wait": { "for": "1s" } }], "undo": {} }),
    "undo needs after or onResolved"
);

#[tokio::test]
async fn blocks_of_images_are_accepted() -> Result<()> {
    for image in [
        json!({ "tag": "nginx:1.27" }),
        json!({ "tag": "registry.example:5000/a/b:1" }),
        json!({ "repository": "registry.example:5000/a/b" }),
        json!({ "repository": "registry.example/*" }),
        json!({ "repository": "nginx" }),
        json!({ "digest": format!("sha256:{}", "0".repeat(64)), "tag": "nginx:1" }),
    ] {
        let mut spec = image;
        spec["reason"] = json!("why");
        is_accepted("ImageBlock", spec).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_playbook_with_every_kind_of_step_is_accepted() -> Result<()> {
    let all = steps(&json!([
        { "name": "contain", "quarantine": { "detach": true }, "timeout": "30s" },
        { "name": "hold", "quarantine": { "detach": true, "owner": "Pause", "others": "SameDigest", "maxOthers": 20, "hostNetwork": "Cordon" } },
        { "name": "leave", "quarantine": { "detach": false, "owner": "Keep" } },
        { "name": "tell", "notify": { "channels": [{ "name": "soc" }], "message": "${finding.rule}" }, "after": ["contain"], "onFailure": "Continue" },
        { "name": "back", "rollback": { "to": "LastUnaffected" }, "when": "workload.kind == 'Deployment'", "after": ["contain"] },
        { "name": "build", "rebuild": { "job": { "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [] } } } } },
          "retry": { "limit": 2, "backoff": "10s" }, "after": [] },
        { "name": "deny", "denyImage": { "by": "Tag", "for": "24h" } },
        { "name": "set", "setImage": { "image": "${steps.build.outputs.image}" } },
        { "name": "sever", "severConnections": { "by": "Pause" }, "after": ["contain"] },
        { "name": "cut", "severConnections": {}, "after": ["contain"] },
        { "name": "revoke", "revokeAccess": { "scope": "Cluster", "deleteTokens": true } },
        { "name": "pause", "wait": { "for": "1h30m" }, "onFailure": "Undo" },
    ]));
    let mut all = all;
    all["priority"] = json!(-5);
    all["group"] = json!("containment");
    all["timeout"] = json!("1h");
    all["undo"] = json!({ "after": "24h", "onResolved": true });
    all["finally"] = json!([
        { "name": "last", "notify": { "channels": [{ "name": "soc" }], "message": "${remediation.outcome}" } },
        { "name": "later", "wait": { "for": "1s" }, "after": ["last"] },
    ]);
    is_accepted("Playbook", all.clone()).await?;
    is_accepted("ClusterPlaybook", all).await
}

#[tokio::test]
async fn a_run_can_be_asked_to_undo_and_changed_in_no_other_way() -> Result<()> {
    let namespace = namespace().await?;
    let runs = api(&namespace, "Remediation");
    let spec = json!({
        "finding": { "name": "f", "uid": "u" },
        "playbook": { "kind": "ClusterPlaybook", "name": "p", "uid": "v", "generation": 1 },
        "target": { "kind": "Pod", "name": "web" },
        "steps": [{ "name": "a", "quarantine": {} }],
    });
    runs.create(&PostParams::default(), &object("Remediation", "run", &spec)?).await?;
    let patch = |spec: Value| kube::api::Patch::Merge(json!({ "spec": spec }));
    let parameters = kube::api::PatchParams::default();
    let steps = json!({ "steps": [{ "name": "b", "wait": { "for": "1m" } }] });
    let refused = runs.patch("run", &parameters, &patch(steps)).await.expect_err("the steps are frozen");
    assert!(refused.to_string().contains("a run can't be changed once it has begun"), "{refused}");
    let settings = json!({ "settings": { "undo": { "after": "1s" } } });
    let refused = runs.patch("run", &parameters, &patch(settings)).await.expect_err("so are its settings");
    assert!(refused.to_string().contains("a run can't be changed once it has begun"), "{refused}");
    let unknown = json!({ "undoSteps": ["b"] });
    let refused = runs.patch("run", &parameters, &patch(unknown)).await.expect_err("there is no such step");
    assert!(refused.to_string().contains("undoSteps must name steps of this run"), "{refused}");
    runs.patch("run", &parameters, &patch(json!({ "undoSteps": ["a"] }))).await?;
    for intent in ["Pause", "Run", "Cancel", "Undo"] {
        runs.patch("run", &parameters, &patch(json!({ "intent": intent }))).await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_field_is_explained() -> Result<()> {
    let namespace = namespace().await?;
    for crd in quell_crds::all() {
        let schema = serde_json::to_value(&crd)?;
        let root = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            undocumented(&root[part], &format!("{}.{part}", crd.spec.names.kind))?;
        }
    }
    let explained =
        ControlPlane::shared().await?.kubectl()?.args(["explain", "clusterplaybook.spec.steps"]).output().await?;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains("quarantine") && text.contains("Cut the pod off"), "{text}");
    drop(namespace);
    Ok(())
}

/// Fields of Kubernetes' own types (conditions) have descriptions, too, so nothing needs to be left out.
fn undocumented(schema: &Value, at: &str) -> Result<()> {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            let at = format!("{at}.{name}");
            if property.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
                bail!("{at} has no description");
            }
            undocumented(property, &at)?;
        }
    }
    schema.get("items").map_or(Ok(()), |items| undocumented(items, &format!("{at}[]")))
}

refused!(
    a_protection_of_nothing_is_refused,
    "Guardrail",
    json!({ "protect": [{ "name": "all", "reason": "because" }] }),
    "give at least one of namespaces, namespaceSelector, labels, kinds and when"
);
refused!(
    a_limit_without_a_number_is_refused,
    "Guardrail",
    json!({ "limits": [{ "name": "few", "per": "Cluster" }] }),
    "give max, maxPercent or both"
);
refused!(
    a_limit_of_node_groups_without_their_label_is_refused,
    "Guardrail",
    json!({ "limits": [{ "name": "few", "per": "NodeGroup", "max": 1 }] }),
    "nodeLabel goes with per: NodeGroup"
);
refused!(
    a_freeze_at_no_time_is_refused,
    "Guardrail",
    json!({ "freezes": [{ "name": "night" }] }),
    "give weekly or once"
);
refused!(
    a_freeze_at_a_time_that_no_clock_shows_is_refused,
    "Guardrail",
    json!({ "freezes": [{ "name": "night", "weekly": { "days": ["Monday"], "from": "25:00" } }] }),
    "spec.freezes[0].weekly.from"
);
refused!(
    two_limits_of_one_name_are_refused,
    "Guardrail",
    json!({ "limits": [{ "name": "few", "per": "Cluster", "max": 1 }, { "name": "few", "per": "Namespace", "max": 1 }] }),
    "each limit needs a name of its own"
);

#[tokio::test]
async fn a_guardrail_with_everything_is_accepted() -> Result<()> {
    is_accepted(
        "Guardrail",
        json!({
            "protect": [{ "name": "core", "namespaceSelector": { "matchLabels": { "tier": "core" } }, "kinds": ["StatefulSet"], "reason": "by hand" }],
            "limits": [
                { "name": "few", "per": "Cluster", "max": 10, "window": "1h" },
                { "name": "zone", "of": ["Contained"], "per": "NodeGroup", "nodeLabel": "topology.kubernetes.io/zone", "maxPercent": 30 },
            ],
            "freezes": [
                { "name": "weekend", "timeZone": "Europe/Berlin", "weekly": { "days": ["Saturday", "Sunday"] }, "when": "finding.severity != 'Critical'" },
                { "name": "holidays", "once": { "from": "2026-12-24T12:00", "until": "2027-01-02T06:00" } },
            ],
            "channels": [{ "name": "platform" }],
        }),
    )
    .await
}

refused!(
    an_accepted_risk_without_an_end_is_refused,
    "Suppression",
    json!({ "match": { "sources": ["falco"] }, "reason": "known", "owner": "ana" }),
    "an accepted risk ends: give expiresAt"
);
refused!(
    a_suppression_of_everything_is_refused,
    "ClusterSuppression",
    json!({ "match": {}, "reason": "known", "owner": "ana", "expiresAt": "2027-01-01T00:00:00Z" }),
    "give at least one of sources, rules"
);
refused!(
    a_suppression_that_nobody_answers_for_is_refused,
    "Suppression",
    json!({ "match": { "sources": ["falco"] }, "reason": "known", "expiresAt": "2027-01-01T00:00:00Z" }),
    "spec.owner: Required value"
);

#[tokio::test]
async fn what_a_vex_document_states_may_do_without_an_end() -> Result<()> {
    let vex = json!({ "status": "NotAffected", "justification": "vulnerable_code_not_present", "document": "https://shop.example/vex/1" });
    let matcher = json!({ "vulnerabilities": ["CVE-2019-20367"], "images": ["registry.example/shop"] });
    is_accepted("Suppression", json!({ "match": matcher, "reason": "not there", "owner": "ana", "vex": vex })).await
}
