//! Every kind that a format watches, as its tool writes it: the Finding that comes of it, and what ends that.

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use quell_crds::v1alpha1::{Finding, FindingState, Severity};
use quell_tests::fixtures::{PodCarrier as _, deployment};
use quell_tests::{ControlPlane, TestNamespace, crds, wait, watched};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, apply};
use crate::watches::{close, ready_is, source, sources};

/// One kind, and an object of it that reports one problem.
struct Reported {
    definition: CustomResourceDefinition,
    /// The object while something is wrong, and when that is mended.
    wrong: Value,
    mended: Value,
    severity: Severity,
    /// Kind and name of what the Finding is about. No other object of the test is about the same.
    target: (&'static str, String),
}

impl Reported {
    fn resource(&self) -> Result<ApiResource> {
        let object: DynamicObject = serde_json::from_value(self.wrong.clone())?;
        Ok(ApiResource::from_gvk(&GroupVersionKind::try_from(&object.types.context("no kind")?)?))
    }

    fn objects(&self, namespace: &TestNamespace) -> Result<Api<DynamicObject>> {
        let (client, resource) = (namespace.client().clone(), self.resource()?);
        Ok(match self.wrong["metadata"]["namespace"].as_str() {
            Some(within) => Api::namespaced_with(client, within, &resource),
            None => Api::all_with(client, &resource),
        })
    }

    /// Its Finding, once it is over or, for false, once it is there and not over.
    async fn finding(&self, of: &str, namespace: &TestNamespace, over: bool) -> Result<Finding> {
        let all: Api<Finding> = Api::all(namespace.client().clone());
        let (kind, name) = &self.target;
        let what = format!("the Finding of {of} about {kind} {name}, over: {over}");
        wait::eventually(DEADLINE, &what, async || {
            let all = all.list(&ListParams::default()).await?.items;
            let about =
                |one: &Finding| one.spec.source == of && one.spec.target.kind == *kind && one.spec.target.name == *name;
            let found: Vec<Finding> = all.into_iter().filter(about).collect();
            let [one] = found.as_slice() else { bail!("there are {}: {found:?}", found.len()) };
            let state = one.status.as_ref().and_then(|status| status.state).unwrap_or_default();
            ensure!((state == FindingState::Resolved) == over, "it is {state}");
            Ok(Some(one.clone()))
        })
        .await
    }

    /// Found, mended, found again, deleted, found again, and the kind itself taken away and installed anew: all while Quell runs.
    async fn comes_and_goes(&self, source: &str, namespace: &TestNamespace) -> Result<()> {
        let control_plane = ControlPlane::shared().await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(namespace.client().clone());
        let objects = self.objects(namespace)?;
        let name = self.wrong["metadata"]["name"].as_str().context("no name")?;
        crds::install_these(control_plane, vec![self.definition.clone()]).await?;

        namespace.put(&self.wrong).await?;
        let first = self.finding(source, namespace, false).await?;
        ensure!(first.spec.severity == self.severity, "{name} is {}", first.spec.severity);
        namespace.put(&self.mended).await?;
        self.finding(source, namespace, true).await?;
        namespace.put(&self.wrong).await?;
        let again = self.finding(source, namespace, false).await?;
        ensure!(again.uid() == first.uid(), "it is another Finding");
        objects.delete(name, &DeleteParams::default()).await?;
        self.finding(source, namespace, true).await?;
        namespace.put(&self.wrong).await?;
        self.finding(source, namespace, false).await?;

        let definition = self.definition.name_any();
        // Other tests have objects of this kind.
        if definition == "policyreports.wgpolicyk8s.io" {
            objects.delete(name, &DeleteParams::default()).await?;
            self.finding(source, namespace, true).await?;
            return Ok(());
        }
        definitions.delete(&definition, &DeleteParams::default()).await?;
        self.finding(source, namespace, true).await?;
        wait::gone(&definitions, &definition, DEADLINE).await?;
        crds::install_these(control_plane, vec![self.definition.clone()]).await?;
        namespace.put(&self.wrong).await?;
        let last = self.finding(source, namespace, false).await?;
        ensure!(last.status.is_some_and(|status| status.episode == 4), "not every time was an episode");
        definitions.delete(&definition, &DeleteParams::default()).await?;
        let over = self.finding(source, namespace, true).await?;
        // What is about the cluster isn't deleted with the test's namespace.
        let findings: Api<Finding> = Api::namespaced(namespace.client().clone(), &over.namespace().unwrap_or_default());
        findings.delete(&over.name_any(), &DeleteParams::default()).await?;
        Ok(())
    }
}

async fn all_come_and_go(bed: Bed, source: &str, all: Vec<Reported>) -> Result<Bed> {
    try_join_all(all.iter().map(|one| one.comes_and_goes(source, &bed.namespace))).await?;
    Ok(bed)
}

/// An object whose metadata and other fields are given; in the namespace, if there is one.
fn object(of: (&str, &str), namespace: Option<&str>, name: &str, labels: &Value, fields: Value) -> Value {
    let mut object = json!({ "apiVersion": of.0, "kind": of.1, "metadata": { "name": name, "labels": labels } });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}

/// A report of trivy-operator about an object.
fn of_trivy(kind: &str, namespace: Option<&str>, about: (&str, &str), fields: Value) -> Value {
    let mut labels = json!({ "trivy-operator.resource.kind": about.0, "trivy-operator.resource.name": about.1 });
    if let Some(namespace) = namespace {
        labels["trivy-operator.resource.namespace"] = json!(namespace);
        labels["trivy-operator.container.name"] = json!("app");
    }
    let name = format!("{}-{}", about.0.to_lowercase(), about.1);
    object(("aquasecurity.github.io/v1alpha1", kind), namespace, &name, &labels, fields)
}

fn checks(severity: &str, success: bool) -> Value {
    json!({ "report": {
        "updateTimestamp": "2026-01-01T00:00:00Z", "scanner": { "name": "Trivy", "vendor": "Aqua Security", "version": "0.70.0" },
        "summary": { "criticalCount": 0, "highCount": 0, "mediumCount": 0, "lowCount": 0 },
        "checks": [
            { "checkID": "KSV014", "title": "Root file system is not read-only", "severity": severity, "category": "Kubernetes Security Check",
              "description": "d", "messages": ["Container 'app' should set readOnlyRootFilesystem"], "remediation": "r", "success": success },
            { "checkID": "KSV001", "title": "Can elevate its own privileges", "severity": "CRITICAL", "success": true },
        ],
    } })
}

#[tokio::test]
async fn each_kind_of_report_of_trivy_operator_is_a_finding_until_it_is_clean_or_gone() -> Result<()> {
    // Bound to no namespace, as some reports are about nothing that is in one; a Source that others use as well.
    const SOURCE: &str = "trivy-operator";
    let bed = Bed::new("trivy-kinds").await?;
    apply(&sources(&bed.namespace), "Source", SOURCE, &json!({ "format": SOURCE, "watch": {} })).await?;
    let within = bed.name();
    let of_checks = |kind: &str, about: (&'static str, &str), namespace: Option<&str>, severity: (&str, Severity)| {
        let name = format!("{}-{within}", about.1);
        Ok::<_, anyhow::Error>(Reported {
            definition: watched::of_trivy_operator(kind)?,
            wrong: of_trivy(kind, namespace, (about.0, &name), checks(severity.0, false)),
            mended: of_trivy(kind, namespace, (about.0, &name), checks(severity.0, true)),
            severity: severity.1,
            target: (about.0, name),
        })
    };
    let mut all = vec![
        of_checks("ConfigAuditReport", ("ReplicaSet", "web"), Some(within), ("LOW", Severity::Low))?,
        of_checks("RbacAssessmentReport", ("Role", "reader"), Some(within), ("HIGH", Severity::High))?,
        of_checks("InfraAssessmentReport", ("Pod", "apiserver"), Some(within), ("MEDIUM", Severity::Medium))?,
        of_checks("ClusterConfigAuditReport", ("StorageClass", "fast"), None, ("MEDIUM", Severity::Medium))?,
        of_checks("ClusterRbacAssessmentReport", ("ClusterRole", "all"), None, ("CRITICAL", Severity::Critical))?,
        of_checks("ClusterInfraAssessmentReport", ("Node", "kubelet"), None, ("HIGH", Severity::High))?,
    ];

    let leaky = format!("leaky-{within}");
    let secrets = |found: Value| {
        let report = json!({ "report": {
            "updateTimestamp": "2026-01-01T00:00:00Z", "registry": { "server": "registry.example" },
            "artifact": { "repository": "shop", "tag": "1.0" }, "secrets": found,
        } });
        of_trivy("ExposedSecretReport", Some(within), ("Deployment", &leaky), report)
    };
    all.push(Reported {
        definition: watched::of_trivy_operator("ExposedSecretReport")?,
        wrong: secrets(json!([{ "ruleID": "private-key", "category": "AsymmetricPrivateKey", "severity": "HIGH", "title": "Private key",
            "target": "/srv/key.pem", "match": "*****" }])),
        mended: secrets(json!([])),
        severity: Severity::High,
        target: ("Deployment", leaky.clone()),
    });

    let core = format!("core-{within}");
    let component = |found: Value| {
        let report = json!({ "report": {
            "updateTimestamp": "2026-01-01T00:00:00Z", "artifact": { "repository": "k8s.io/kubelet", "tag": "1.36.0" },
            "summary": { "criticalCount": 0 }, "vulnerabilities": found,
        } });
        of_trivy("ClusterVulnerabilityReport", None, ("Node", &core), report)
    };
    all.push(Reported {
        definition: watched::of_trivy_operator("ClusterVulnerabilityReport")?,
        wrong: component(json!([quell_tests::trivy_operator::vulnerability("CVE-2026-7", "CRITICAL")])),
        mended: component(json!([])),
        severity: Severity::Critical,
        target: ("Node", core.clone()),
    });
    all_come_and_go(bed, SOURCE, all).await?.finish().await
}

#[tokio::test]
async fn each_control_of_a_standard_that_fails_is_a_finding_until_it_passes() -> Result<()> {
    const SOURCE: &str = "trivy-operator";
    let bed = Bed::new("standard").await?;
    crds::install_these(ControlPlane::shared().await?, vec![watched::of_trivy_operator("ClusterComplianceReport")?])
        .await?;
    apply(&sources(&bed.namespace), "Source", SOURCE, &json!({ "format": SOURCE, "watch": {} })).await?;
    let report = |fails: [Option<u32>; 3]| {
        let control = |(id, (severity, fails)): (&str, (&str, Option<u32>))| {
            let mut control = json!({ "id": id, "name": format!("Control {id}"), "severity": severity });
            if let Some(fails) = fails {
                control["totalFail"] = json!(fails);
            }
            control
        };
        let controls: Vec<Value> = ["1.1", "1.2", "1.3"]
            .into_iter()
            .zip(["HIGH", "LOW", "CRITICAL"].into_iter().zip(fails))
            .map(control)
            .collect();
        let fields = json!({
            "spec": { "cron": "0 */6 * * *", "reportType": "summary", "compliance": { "id": "own", "title": "Own", "controls": [] } },
            "status": {
                "updateTimestamp": "2026-01-01T00:00:00Z", "summary": { "failCount": 1, "passCount": 1 },
                "summaryReport": { "id": "own", "title": "Own", "controlCheck": controls },
            },
        });
        object(("aquasecurity.github.io/v1alpha1", "ClusterComplianceReport"), None, bed.name(), &json!({}), fields)
    };
    let all: Api<Finding> = Api::all(bed.namespace.client().clone());
    let those_are = async |expected: &[(&str, Severity, bool)]| {
        wait::eventually(DEADLINE, &format!("{expected:?}"), async || {
            let found = all.list(&ListParams::default()).await?.items;
            let of = |one: &Finding| {
                let id = one.spec.rule.strip_prefix(&format!("{} ", bed.name()))?.to_owned();
                let state = one.status.as_ref().and_then(|status| status.state).unwrap_or_default();
                Some((id, one.spec.severity, state == FindingState::Resolved))
            };
            let mut found: Vec<_> = found.iter().filter(|one| one.spec.source == SOURCE).filter_map(of).collect();
            found.sort();
            let found: Vec<_> = found.iter().map(|(id, severity, over)| (id.as_str(), *severity, *over)).collect();
            ensure!(found == expected, "they are {found:?}");
            Ok(Some(()))
        })
        .await
    };
    // Without a number only a person can tell.
    bed.namespace.put(&report([Some(2), Some(0), None])).await?;
    those_are(&[("1.1", Severity::High, false)]).await?;
    bed.namespace.put(&report([Some(0), Some(3), None])).await?;
    those_are(&[("1.1", Severity::High, true), ("1.2", Severity::Low, false)]).await?;
    let resource =
        ApiResource::from_gvk(&GroupVersionKind::gvk("aquasecurity.github.io", "v1alpha1", "ClusterComplianceReport"));
    let reports: Api<DynamicObject> = Api::all_with(bed.namespace.client().clone(), &resource);
    reports.delete(bed.name(), &DeleteParams::default()).await?;
    those_are(&[("1.1", Severity::High, true), ("1.2", Severity::Low, true)]).await?;
    // They are about the cluster, and not deleted with the test's namespace.
    let ours = all.list(&ListParams::default()).await?.items.into_iter();
    for one in ours.filter(|one| one.spec.rule.starts_with(bed.name())) {
        let findings: Api<Finding> =
            Api::namespaced(bed.namespace.client().clone(), &one.namespace().unwrap_or_default());
        findings.delete(&one.name_any(), &DeleteParams::default()).await?;
    }
    bed.finish().await
}

/// A report of the shape that policy reports and open reports share, about one Deployment or one ClusterRole.
fn policy_report(of: (&str, &str), namespace: Option<&str>, about: (&str, &str), outcome: &str) -> Value {
    let mut resource = json!({ "apiVersion": "apps/v1", "kind": about.0, "name": about.1 });
    match namespace {
        Some(namespace) => resource["namespace"] = json!(namespace),
        None => resource["apiVersion"] = json!("rbac.authorization.k8s.io/v1"),
    }
    let fields = json!({
        "scope": resource, "summary": { "pass": 0, "fail": 1, "warn": 0, "error": 0, "skip": 0 },
        "results": [{ "source": "kyverno", "policy": "team", "rule": "label", "severity": "high", "result": outcome, "message": "no team",
            "timestamp": { "seconds": 1_767_225_600, "nanos": 0 } }],
    });
    object(of, namespace, &format!("report-{}", about.1), &json!({}), fields)
}

async fn reports_of_policies(
    format: &str,
    group: &str,
    kinds: [&'static str; 2],
    define: fn(&str) -> Result<CustomResourceDefinition>,
) -> Result<()> {
    let bed = Bed::new(format).await?;
    let spec = json!({ "format": format, "watch": {} });
    apply(&sources(&bed.namespace), "Source", bed.name(), &spec).await?;
    let of = |kind: &'static str, namespace: Option<&str>, about: &'static str| {
        let target = (about, format!("web-{}", bed.name()));
        let report = |outcome: &str| policy_report((group, kind), namespace, (about, &target.1), outcome);
        Ok::<_, anyhow::Error>(Reported {
            definition: define(kind)?,
            wrong: report("fail"),
            mended: report("pass"),
            severity: Severity::High,
            target: target.clone(),
        })
    };
    let all = vec![of(kinds[0], Some(bed.name()), "Deployment")?, of(kinds[1], None, "ClusterRole")?];
    let source = bed.name().to_owned();
    close(all_come_and_go(bed, &source, all).await?).await
}

#[tokio::test]
async fn a_policy_report_is_a_finding_until_it_passes_or_is_gone() -> Result<()> {
    let kinds = ["PolicyReport", "ClusterPolicyReport"];
    reports_of_policies("policyreport", "wgpolicyk8s.io/v1alpha2", kinds, watched::policy_reports).await
}

#[tokio::test]
async fn an_open_report_is_a_finding_until_it_passes_or_is_gone() -> Result<()> {
    reports_of_policies("openreports", "openreports.io/v1alpha1", ["Report", "ClusterReport"], watched::open_reports)
        .await
}

#[tokio::test]
async fn a_summary_of_kubescape_is_a_finding_until_it_counts_nothing_or_is_gone() -> Result<()> {
    let bed = Bed::new("kubescape").await?;
    source(&bed.namespace, json!({ "format": "kubescape", "watch": {} })).await?;
    let summary = |kind: &str, about: &str, severities: Value| {
        let labels = json!({
            "kubescape.io/workload-api-group": "apps", "kubescape.io/workload-api-version": "v1", "kubescape.io/workload-kind": "Deployment",
            "kubescape.io/workload-name": about, "kubescape.io/workload-namespace": bed.name(), "kubescape.io/workload-container-name": "app",
        });
        let of = ("spdx.softwarecomposition.kubescape.io/v1beta1", kind);
        object(
            of,
            Some(bed.name()),
            &format!("deployment-{about}"),
            &labels,
            json!({ "spec": { "severities": severities } }),
        )
    };
    let count = |high: u32| json!({ "critical": 0, "high": high, "medium": 1, "low": 0, "unknown": 0 });
    let counts = |all: u32| {
        let both = |all: u32| json!({ "all": all, "relevant": 0 });
        json!({ "critical": both(all), "high": both(0), "medium": both(0), "low": both(0), "negligible": both(0), "unknown": both(0) })
    };
    let none = json!({ "critical": 0, "high": 0, "medium": 0, "low": 0, "unknown": 0 });
    let (scan, manifest) = ("WorkloadConfigurationScanSummary", "VulnerabilityManifestSummary");
    let all = vec![
        Reported {
            definition: watched::of_kubescape(scan)?,
            wrong: summary(scan, "scanned", count(2)),
            mended: summary(scan, "scanned", none),
            severity: Severity::High,
            target: ("Deployment", "scanned".to_owned()),
        },
        Reported {
            definition: watched::of_kubescape(manifest)?,
            wrong: summary(manifest, "vulnerable", counts(3)),
            mended: summary(manifest, "vulnerable", counts(0)),
            severity: Severity::Critical,
            target: ("Deployment", "vulnerable".to_owned()),
        },
    ];
    let source = bed.name().to_owned();
    close(all_come_and_go(bed, &source, all).await?).await
}

/// The Finding of the test's Source, once there is one.
async fn found(bed: &Bed) -> Result<Finding> {
    wait::eventually(DEADLINE, "a Finding", async || {
        let all = bed.findings().list(&ListParams::default()).await?.items;
        let mut ours = all.into_iter().filter(|one| one.spec.source == bed.name());
        let one = ours.next();
        ensure!(ours.next().is_none(), "there are several");
        Ok(one)
    })
    .await
}

#[tokio::test]
async fn a_pod_that_pod_security_turns_away_is_a_finding_about_its_owner() -> Result<()> {
    let bed = Bed::new("pod-security").await?;
    source(&bed.namespace, json!({ "format": "k8s-events", "watch": {} })).await?;
    ready_is(&bed.namespace, "True", "Watching").await?;
    bed.namespace.label("pod-security.kubernetes.io/enforce", "restricted").await?;
    bed.namespace.create_object(&deployment("root").image("registry.example/shop:1.0")).await?;
    // The controller tells it by an Event, as there is nobody else whom it could tell.
    let finding = found(&bed).await?;
    let spec = &finding.spec;
    assert_eq!((spec.rule.as_str(), spec.severity), ("PodSecurity restricted", Severity::Medium));
    let workload = spec.workload.clone().map(|workload| (workload.kind, workload.name));
    assert_eq!(workload, Some(("Deployment".to_owned(), "root".to_owned())), "{:?}", spec.target);
    assert!(spec.message.contains("violates PodSecurity"), "{}", spec.message);
    let deployments: Api<Deployment> = bed.namespace.api();
    deployments.delete("root", &DeleteParams::background()).await?;
    close(bed).await
}

/// An Event about a pod, as a controller writes it.
fn event(bed: &Bed, name: &str, reason: &str, kind: &str, message: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(bed.name().to_owned()),
            ..ObjectMeta::default()
        },
        reason: Some(reason.to_owned()),
        type_: Some(kind.to_owned()),
        message: Some(message.to_owned()),
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(bed.name().to_owned()),
            name: Some("web".to_owned()),
            ..ObjectReference::default()
        },
        ..Event::default()
    }
}

#[tokio::test]
async fn of_events_those_of_the_chosen_reasons_alone_are_findings_whatever_their_type() -> Result<()> {
    let bed = Bed::new("reasons").await?;
    source(&bed.namespace, json!({ "format": "k8s-events", "watch": { "reasons": ["Sandboxed", "NodeNotSafe"] } }))
        .await?;
    ready_is(&bed.namespace, "True", "Watching").await?;
    let events: Api<Event> = bed.namespace.api();
    let write = async |event: Event| events.create(&PostParams::default(), &event).await.map(drop);
    let denied = "Error creating: pods \"web-1\" is forbidden: violates PodSecurity \"restricted:v1.35\": privileged";
    write(event(&bed, "denied.1", "FailedCreate", "Warning", denied)).await?;
    write(event(&bed, "pulled.1", "Pulled", "Normal", "the image is there")).await?;
    write(event(&bed, "chosen.1", "Sandboxed", "Normal", "the pod left its sandbox")).await?;
    let finding = found(&bed).await?;
    let (spec, target) = (&finding.spec, &finding.spec.target);
    assert_eq!((spec.rule.as_str(), spec.severity), ("Sandboxed", Severity::Medium));
    assert_eq!((target.kind.as_str(), target.name.as_str()), ("Pod", "web"));
    assert_eq!(spec.message, "the pod left its sandbox");

    // An Event is forgotten; what it told of isn't over.
    events.delete("chosen.1", &DeleteParams::default()).await?;
    write(event(&bed, "chosen.2", "NodeNotSafe", "Warning", "the kernel is tainted")).await?;
    wait::eventually(DEADLINE, "both are open", async || {
        let all = bed.findings().list(&ListParams::default()).await?.items;
        let of = |one: &Finding| {
            let state = one.status.as_ref().and_then(|status| status.state);
            (one.spec.rule.clone(), state == Some(FindingState::Open))
        };
        let mut all: Vec<_> = all.iter().filter(|one| one.spec.source == bed.name()).map(of).collect();
        all.sort();
        ensure!(all == [("NodeNotSafe".to_owned(), true), ("Sandboxed".to_owned(), true)], "they are {all:?}");
        Ok(Some(()))
    })
    .await?;
    close(bed).await
}
