//! Sources that watch the objects of other tools: what they report becomes Findings, and what they no longer report is over.

use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::names;
use quell_crds::v1alpha1::{Category, Finding, FindingState, Severity, Source};
use quell_tests::{ControlPlane, Operator, Options, TestNamespace, crds, trivy_operator, wait, watched};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply};

pub fn sources(namespace: &TestNamespace) -> Api<Source> {
    Api::all(namespace.client().clone())
}

/// Waits until the Source says that of its watches; the answer is the message.
pub async fn ready_is(namespace: &TestNamespace, status: &str, reason: &str) -> Result<String> {
    let message = |source: &Source| {
        let ready = conditions::find(&source.status.as_ref()?.conditions, ConditionType::Ready)?;
        let is = ready.observed_generation == source.metadata.generation
            && (ready.status.as_str(), ready.reason.as_str()) == (status, reason);
        is.then(|| ready.message.clone())
    };
    let what = format!("Ready={status} for {reason}");
    let source =
        wait::until_present(&sources(namespace), namespace.name(), &what, DEADLINE, |source| message(source).is_some())
            .await?;
    message(&source).context("no message")
}

/// A Source of the namespace's name, which speaks for this namespace alone.
pub async fn source(namespace: &TestNamespace, mut spec: Value) -> Result<()> {
    spec["namespaces"] = json!({ "include": [namespace.name()] });
    apply(&sources(namespace), "Source", namespace.name(), &spec).await?;
    Ok(())
}

fn objects(namespace: &TestNamespace, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(namespace.client().clone(), namespace.name(), &resource)
}

/// Writes an object of another tool.
async fn put(api: &Api<DynamicObject>, of: (&str, &str), name: &str, fields: Value) -> Result<()> {
    let mut object = json!({ "apiVersion": of.0, "kind": of.1, "metadata": { "name": name } });
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        for (field, value) in fields {
            match object.get_mut(&field).and_then(Value::as_object_mut) {
                Some(there) => there.extend(value.as_object().cloned().unwrap_or_default()),
                None => drop(object.insert(field, value)),
            }
        }
    }
    // A kind that was just installed is refused for a moment.
    wait::eventually(DEADLINE, &format!("{name} is written"), async || {
        api.patch(name, &PatchParams::apply("quell-tests").force(), &Patch::Apply(&object)).await?;
        Ok(Some(()))
    })
    .await
}

/// The Finding of that rule, once it is in that state or, for `None`, once it is there and not over.
async fn finding(namespace: &TestNamespace, rule: &str, state: Option<FindingState>) -> Result<Finding> {
    let api: Api<Finding> = namespace.api();
    wait::eventually(DEADLINE, &format!("a Finding of {rule} in state {state:?}"), async || {
        let all = api.list(&ListParams::default()).await?.items;
        let of = all.into_iter().find(|one| one.spec.source == namespace.name() && one.spec.rule == rule);
        let of = of.context("there is none")?;
        let is = of.status.as_ref().and_then(|status| status.state).unwrap_or_default();
        let fits = state.map_or(is != FindingState::Resolved, |state| is == state);
        anyhow::ensure!(fits, "it is {is}");
        Ok(Some(of))
    })
    .await
}

pub async fn close(bed: Bed) -> Result<()> {
    sources(&bed.namespace).delete(bed.name(), &DeleteParams::default()).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_report_that_is_clean_and_one_that_is_deleted_end_the_finding() -> Result<()> {
    let bed = Bed::new("clean").await?;
    crds::install_these(ControlPlane::shared().await?, vec![trivy_operator::vulnerability_reports()?]).await?;
    source(&bed.namespace, json!({ "format": "trivy-operator", "watch": {} })).await?;
    let message = ready_is(&bed.namespace, "True", "Watching").await?;
    assert!(message.contains(".aquasecurity.github.io") && message.contains(": watched"), "{message}");

    let rule = "registry.example/shop:1.0";
    let report = |severities: &[&str]| {
        let all: Vec<Value> =
            severities.iter().map(|severity| trivy_operator::vulnerability("CVE-2026-1", severity)).collect();
        trivy_operator::vulnerability_report(bed.name(), ("Deployment", "shop"), &all)
    };
    let api = objects(&bed.namespace, "aquasecurity.github.io", "v1alpha1", "VulnerabilityReport");
    bed.namespace.put(&report(&["HIGH"])).await?;
    let open = finding(&bed.namespace, rule, None).await?;
    let by = format!("VulnerabilityReport.aquasecurity.github.io/{}/deployment-shop-app", bed.name());
    assert_eq!(open.annotations().get(names::REPORTED_BY), Some(&by));

    bed.namespace.put(&report(&[])).await?;
    finding(&bed.namespace, rule, Some(FindingState::Resolved)).await?;
    bed.namespace.put(&report(&["HIGH"])).await?;
    let again = finding(&bed.namespace, rule, None).await?;
    assert_eq!((again.uid(), again.status.map(|status| status.episode)), (open.uid(), Some(2)));
    api.delete("deployment-shop-app", &DeleteParams::default()).await?;
    finding(&bed.namespace, rule, Some(FindingState::Resolved)).await?;
    close(bed).await
}

#[tokio::test]
async fn a_constraint_of_a_kind_that_comes_later_is_watched_and_what_it_no_longer_lists_is_over() -> Result<()> {
    let bed = Bed::new("constraint").await?;
    source(&bed.namespace, json!({ "format": "gatekeeper", "watch": {} })).await?;
    let kind = format!("K8s{}", bed.name().replace('-', ""));
    crds::install_these(ControlPlane::shared().await?, vec![watched::constraint(&kind)?]).await?;
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("constraints.gatekeeper.sh", "v1beta1", &kind),
        &kind.to_lowercase(),
    );
    let api: Api<DynamicObject> = Api::all_with(bed.namespace.client().clone(), &resource);
    let violation = |name: &str| {
        json!({ "enforcementAction": "deny", "group": "apps", "version": "v1", "kind": "Deployment",
        "namespace": bed.name(), "name": name, "message": "no team" })
    };
    let status = |names: &[&str]| {
        json!({ "status": { "auditTimestamp": "2026-01-01T00:00:00Z", "totalViolations": names.len(),
        "violations": names.iter().map(|name| violation(name)).collect::<Vec<_>>() } })
    };
    let of = ("constraints.gatekeeper.sh/v1beta1", kind.as_str());
    put(&api, of, "team", status(&["web", "cart"])).await?;
    let all = wait::eventually(DEADLINE, "a Finding of each violation", async || {
        let all = bed.findings().list(&ListParams::default()).await?.items;
        let ours: Vec<Finding> = all.into_iter().filter(|one| one.spec.source == bed.name()).collect();
        Ok((ours.len() == 2).then_some(ours))
    })
    .await?;
    for one in &all {
        let target = &one.spec.target;
        assert_eq!((one.spec.severity, one.spec.category), (Severity::High, Category::Policy));
        assert_eq!((target.kind.as_str(), target.namespace.as_str()), ("Deployment", bed.name()));
    }
    put(&api, of, "team", status(&["cart"])).await?;
    for one in all {
        let over = one.spec.target.name == "web";
        let is = |finding: &Finding| {
            let state = finding.status.as_ref().and_then(|status| status.state).unwrap_or_default();
            (state == FindingState::Resolved) == over
        };
        wait::until_present(&bed.findings(), &one.name_any(), &format!("over: {over}"), DEADLINE, is).await?;
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(bed.namespace.client().clone());
    definitions.delete(&format!("{}.constraints.gatekeeper.sh", kind.to_lowercase()), &DeleteParams::default()).await?;
    finding(&bed.namespace, &format!("{kind}/team"), Some(FindingState::Resolved)).await?;
    close(bed).await
}

#[tokio::test]
async fn a_kind_that_a_mapping_names_may_come_and_go_while_quell_runs() -> Result<()> {
    let bed = Bed::new("alerts").await?;
    let group = format!("{}.acme.example", bed.name());
    let spec = json!({
        "mapping": {
            "rule": "body.spec.check", "severity": "body.spec.level",
            "target": { "kind": "'Deployment'", "namespace": "body.metadata.namespace", "name": "body.spec.on" },
        },
        "watch": { "resources": [{ "group": group, "kind": "Alert" }, { "group": group, "kind": "Warning" }] },
    });
    source(&bed.namespace, spec).await?;
    let message = ready_is(&bed.namespace, "False", "KindNotServed").await?;
    assert!(message.contains(&format!("Alert.{group}")), "{message}");

    let control_plane = ControlPlane::shared().await?;
    let (of, api) = (format!("{group}/v1"), objects(&bed.namespace, &group, "v1", "Alert"));
    let alert = json!({ "spec": { "check": "root-user", "level": "sev2", "on": "shop" } });
    let definitions: Api<CustomResourceDefinition> = Api::all(bed.namespace.client().clone());
    for episode in [1, 2] {
        crds::install_these(control_plane, vec![watched::alerts(&group)?]).await?;
        put(&api, (&of, "Alert"), "one", alert.clone()).await?;
        let open = finding(&bed.namespace, "root-user", None).await?;
        assert_eq!(open.status.map_or(1, |status| status.episode), episode);
        let message = ready_is(&bed.namespace, "True", "Watching").await?;
        assert!(message.starts_with(&format!("Alert.{group}")), "{message}");
        assert!(message.contains(&format!("not served by this cluster: Warning.{group}")), "{message}");
        definitions.delete(&format!("alerts.{group}"), &DeleteParams::default()).await?;
        wait::gone(&definitions, &format!("alerts.{group}"), DEADLINE).await?;
        finding(&bed.namespace, "root-user", Some(FindingState::Resolved)).await?;
        ready_is(&bed.namespace, "False", "KindNotServed").await?;
    }
    close(bed).await
}

#[tokio::test]
async fn an_object_that_can_not_be_read_is_told_by_an_event_at_the_source_and_holds_up_no_other() -> Result<()> {
    let bed = Bed::new("unreadable").await?;
    let group = format!("{}.acme.example", bed.name());
    crds::install_these(ControlPlane::shared().await?, vec![watched::alerts(&group)?]).await?;
    let spec = json!({
        "mapping": { "rule": "body.spec.check", "target": { "namespace": "body.metadata.namespace", "name": "'web'" } },
        "watch": { "resources": [{ "group": group, "kind": "Alert" }] },
    });
    source(&bed.namespace, spec).await?;
    let (of, api) = (format!("{group}/v1"), objects(&bed.namespace, &group, "v1", "Alert"));
    put(&api, (&of, "Alert"), "bad", json!({ "spec": { "other": "x" } })).await?;
    put(&api, (&of, "Alert"), "good", json!({ "spec": { "check": "root-user" } })).await?;
    finding(&bed.namespace, "root-user", None).await?;
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(bed.namespace.client().clone(), "default");
    wait::eventually(DEADLINE, "an Event at the Source", async || {
        let all = events.list(&ListParams::default().fields(&format!("involvedObject.name={}", bed.name()))).await?;
        let told = all.items.into_iter().find(|event| event.reason.as_deref() == Some("Unreadable"));
        let note = told.and_then(|event| event.message).context("no such Event")?;
        let said = format!("Alert.{group}/{}/bad can't be read: rule: `check` is missing", bed.name());
        anyhow::ensure!(note.starts_with(&said), "{note}");
        Ok(Some(()))
    })
    .await?;
    close(bed).await
}

#[tokio::test]
async fn what_two_reports_list_is_over_when_the_last_of_them_lists_it_no_more() -> Result<()> {
    const OF: (&str, &str) = ("wgpolicyk8s.io/v1alpha2", "PolicyReport");
    let bed = Bed::new("both").await?;
    crds::install_these(ControlPlane::shared().await?, vec![watched::policy_reports("PolicyReport")?]).await?;
    source(&bed.namespace, json!({ "format": "policyreport", "watch": {} })).await?;
    let api = objects(&bed.namespace, "wgpolicyk8s.io", "v1alpha2", OF.1);
    let results = |of: &[(&str, &str)]| {
        let one = |(rule, outcome): &(&str, &str)| {
            json!({ "source": "kyverno", "policy": "team", "rule": rule, "severity": "high", "result": outcome,
                "resources": [{ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": bed.name(), "name": "web" }] })
        };
        json!({ "results": of.iter().map(one).collect::<Vec<_>>() })
    };
    put(&api, OF, "one", results(&[("shared", "fail"), ("own", "fail")])).await?;
    put(&api, OF, "other", results(&[("shared", "fail"), ("mark", "fail")])).await?;
    for rule in ["shared", "own", "mark"] {
        finding(&bed.namespace, &format!("team/{rule}"), None).await?;
    }
    let is_open = async || {
        let shared = finding(&bed.namespace, "team/shared", None).await?.status.unwrap_or_default();
        assert_eq!((shared.episode, shared.resolved_at), (1, None));
        Ok::<_, anyhow::Error>(())
    };
    // One says that it passes, and the other still that it fails.
    put(&api, OF, "one", results(&[("shared", "pass"), ("own", "pass")])).await?;
    finding(&bed.namespace, "team/own", Some(FindingState::Resolved)).await?;
    is_open().await?;
    // And the other way round; then both.
    put(&api, OF, "one", results(&[("shared", "fail")])).await?;
    put(&api, OF, "other", results(&[("shared", "pass"), ("mark", "pass")])).await?;
    finding(&bed.namespace, "team/mark", Some(FindingState::Resolved)).await?;
    is_open().await?;
    api.delete("one", &DeleteParams::default()).await?;
    let over = finding(&bed.namespace, "team/shared", Some(FindingState::Resolved)).await?;
    assert_eq!(over.status.map(|status| status.episode), Some(1));
    close(bed).await
}

/// A control plane of its own: another test's operator would go on in this one's place.
#[tokio::test]
async fn what_vanished_while_quell_was_down_is_over_when_it_is_back() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    let namespace = TestNamespace::create(&control_plane, "vanished").await?;
    let group = "acme.example";
    crds::install_these(&control_plane, vec![watched::alerts(group)?]).await?;
    let spec = json!({
        "mapping": { "forEach": "body.spec.checks", "rule": "item.name", "resolved": "item.?ok.orValue(false)", "target": { "namespace": "body.metadata.namespace", "name": "'web'" } },
        "watch": { "resources": [{ "group": group, "kind": "Alert" }] },
    });
    source(&namespace, spec).await?;
    let api = objects(&namespace, group, "v1", "Alert");
    let of = ("acme.example/v1", "Alert");
    let (kept, fixed) = (json!({ "name": "kept" }), json!({ "name": "fixed" }));
    let before = [("goes", json!([{ "name": "gone" }])), ("is-fixed", json!([kept, fixed])), ("stays", json!([kept]))];
    for (name, checks) in before {
        put(&api, of, name, json!({ "spec": { "checks": checks } })).await?;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    let first = Operator::start(binary, &control_plane, &["--lease-seconds", "3"]).await?;
    for rule in ["kept", "fixed", "gone"] {
        finding(&namespace, rule, None).await?;
    }
    // Dropped: SIGKILL, at once.
    drop(first);
    api.delete("goes", &DeleteParams::default()).await?;
    // Listed before the one that still says that it isn't.
    put(
        &api,
        of,
        "is-fixed",
        json!({ "spec": { "checks": [{ "name": "kept", "ok": true }, { "name": "fixed", "ok": true }] } }),
    )
    .await?;
    let _second = Operator::start(binary, &control_plane, &["--lease-seconds", "3"]).await?;
    for rule in ["fixed", "gone"] {
        finding(&namespace, rule, Some(FindingState::Resolved)).await?;
    }
    let kept = finding(&namespace, "kept", None).await?.status.unwrap_or_default();
    assert_eq!((kept.episode, kept.resolved_at), (1, None), "another object still reports it");
    control_plane.stop().await
}

/// A control plane of its own: another test's operator would go on in this one's place.
#[tokio::test]
async fn what_was_said_before_its_finding_was_ended_by_hand_does_not_begin_it_anew_when_quell_starts() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default()).await?;
    quell_tests::operator::prepare(&control_plane).await?;
    let namespace = TestNamespace::create(&control_plane, "said-before").await?;
    crds::install_these(&control_plane, vec![watched::alerts("acme.example")?]).await?;
    let speaks_for = json!({ "include": [namespace.name()] });
    let events = json!({ "format": "k8s-events", "watch": {}, "namespaces": speaks_for });
    apply(&sources(&namespace), "Source", "events", &events).await?;
    let spec = json!({
        "mapping": { "rule": "body.spec.check", "target": { "namespace": "body.metadata.namespace", "name": "'web'" } },
        "watch": { "resources": [{ "group": "acme.example", "kind": "Alert" }] },
    });
    source(&namespace, spec).await?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Event"));
    let all_events: Api<DynamicObject> = Api::namespaced_with(namespace.client().clone(), namespace.name(), &resource);
    let event = |policy: &str, last: &str| {
        json!({
            "type": "Warning", "reason": "PolicyViolation", "lastTimestamp": last, "source": { "component": "kyverno" },
            "message": format!("policy {policy} fail: no team"),
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace.name(), "name": "web" },
        })
    };
    let alerts = objects(&namespace, "acme.example", "v1", "Alert");
    let of_alert = ("acme.example/v1", "Alert");
    let of_event = ("v1", "Event");
    let known = async |rule: &str, state: FindingState| {
        let api: Api<Finding> = namespace.api();
        wait::eventually(DEADLINE, &format!("a Finding of {rule} in state {state}"), async || {
            let all = api.list(&ListParams::default()).await?.items;
            let of = all.into_iter().find(|one| one.spec.rule == rule).context("there is none")?;
            let is = of.status.as_ref().and_then(|status| status.state);
            anyhow::ensure!(is == Some(state), "it is {is:?}");
            Ok(Some(of))
        })
        .await
    };

    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    let first = Operator::start(binary, &control_plane, &["--lease-seconds", "3"]).await?;
    put(&all_events, of_event, "a-told", event("told", "2026-01-01T00:00:00Z")).await?;
    put(&alerts, of_alert, "a-told", json!({ "spec": { "check": "root-user" } })).await?;
    for rule in ["told", "root-user"] {
        let name = known(rule, FindingState::Open).await?.name_any();
        // The API server dates what is written in whole seconds.
        let end = chrono::Utc::now() + chrono::TimeDelta::seconds(1);
        let over = Patch::Merge(json!({ "status": { "resolvedAt": end } }));
        namespace.api::<Finding>().patch_status(&name, &PatchParams::default(), &over).await?;
        known(rule, FindingState::Resolved).await?;
    }
    // Dropped: SIGKILL, at once.
    drop(first);
    // What comes after these in a list is read after them.
    put(&all_events, of_event, "z-mark", event("event-mark", "2026-01-01T00:00:00Z")).await?;
    put(&alerts, of_alert, "z-mark", json!({ "spec": { "check": "alert-mark" } })).await?;
    let _second = Operator::start(binary, &control_plane, &["--lease-seconds", "3"]).await?;
    for (rule, mark) in [("told", "event-mark"), ("root-user", "alert-mark")] {
        known(mark, FindingState::Open).await?;
        let status = known(rule, FindingState::Resolved).await?.status.unwrap_or_default();
        assert_eq!((status.episode, status.count), (1, 1), "{rule}");
    }

    // What happens after that does.
    let later = (chrono::Utc::now() + chrono::TimeDelta::seconds(2)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    put(&all_events, of_event, "a-told", event("told", &later)).await?;
    let back = known("told", FindingState::Open).await?.status.unwrap_or_default();
    assert_eq!((back.episode, back.count), (2, 2));
    put(
        &all_events,
        of_event,
        "a-told",
        json!({ "count": 7, "type": "Warning", "reason": "PolicyViolation",
        "message": "policy told fail: no team", "lastTimestamp": later,
        "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace.name(), "name": "web" } }),
    )
    .await?;
    let counted = |finding: &Finding| finding.status.as_ref().is_some_and(|status| status.count == 3);
    let name = known("told", FindingState::Open).await?.name_any();
    wait::until_present(&namespace.api::<Finding>(), &name, "counted once more", DEADLINE, counted).await?;
    control_plane.stop().await
}
