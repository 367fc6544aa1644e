//! PolicyReports: of wgpolicyk8s.io, and the same under openreports.io, reports.x-k8s.io and, the oldest, policy.k8s.io.
//!
//! Fields: kubernetes-sigs/wg-policy-prototypes, `policy-report/crd`; openreports/reports-api, `apis/openreports.io/v1alpha1`. Written by
//! Kyverno and by adapters of many tools, of which some leave out severity, source, or the result itself.

use std::collections::BTreeMap;

use quell_crds::v1alpha1::{Category, Severity, Vulnerability};

use crate::kubernetes::{self, Resource, referred};
use crate::severity::severity;
use crate::signal::open_wins;
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, number_at, object_at, objects_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "policyreport";
const WANTED: &str = "a PolicyReport or Report";
const GROUPS: [&str; 4] = ["wgpolicyk8s.io", "openreports.io", "reports.x-k8s.io", "policy.k8s.io"];
const KINDS: [&str; 4] = ["PolicyReport", "ClusterPolicyReport", "Report", "ClusterReport"];

/// Reads reports. What passes or is skipped ends what failed before.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for resource in kubernetes::resources(body, WANTED)? {
        if !GROUPS.contains(&resource.group()) || !KINDS.contains(&resource.kind.as_str()) {
            return Err(resource.not_read(WANTED));
        }
        report(&resource, &mut signals)?;
    }
    Ok(open_wins(signals))
}

fn report(resource: &Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let fields = &resource.object.fields;
    let mut vulnerable: BTreeMap<String, (About, Vec<Vulnerability>)> = BTreeMap::new();
    for (_, result) in kubernetes::list(resource, "results")?.unwrap_or_default() {
        let places = places(fields, result, &resource.kind);
        if let Some(one) = vulnerability(result) {
            for about in places {
                vulnerable.entry(format!("{about:?}")).or_insert_with(|| (about, Vec::new())).1.push(one.clone());
            }
            continue;
        }
        for about in places {
            signals.push(signal(fields, result, about, resource.deleted));
        }
    }
    for (about, found) in vulnerable.into_values() {
        let container = text_at(fields, &["metadata", "labels", "imgvuln.container.name"]);
        let name = text_at(fields, &["metadata", "name"]).unwrap_or_else(|| TOOL.to_owned());
        let signal = Signal {
            identity: vec![Category::Vulnerability.to_string()],
            ..Signal::new(
                &tool(fields, &Fields::new()),
                Category::Vulnerability,
                name,
                about.with_container(container, None),
            )
        };
        let signal = signal.with_vulnerabilities(summarise(found));
        signals.push(Signal { resolved: signal.resolved || resource.deleted, ..signal });
    }
    Ok(())
}

fn signal(report: &Fields, result: &Fields, about: About, deleted: bool) -> Signal {
    let text = |name: &str| text_at(result, &[name]);
    let outcome = text("result").or_else(|| text("status")).unwrap_or_default().to_ascii_lowercase();
    let rule = match (text("policy"), text("rule")) {
        (Some(policy), Some(rule)) if policy != rule => format!("{policy}/{rule}"),
        (policy, rule) => policy.or(rule).or_else(|| text("category")).unwrap_or_else(|| "unnamed policy".to_owned()),
    };
    let tool = tool(report, result);
    let said = text("severity").or_else(|| text_at(result, &["properties", "severity"]));
    let severity = match (said, outcome.as_str()) {
        (Some(word), _) => severity(&word),
        (None, "error" | "warn") => Severity::Low,
        (None, _) => Severity::Medium,
    };
    let mut details = pick(result, &["result", "source", "category", "scored", "properties"]);
    let metadata = object_at(report, &["metadata"]);
    details.insert(
        "report".to_owned(),
        metadata.map(|metadata| pick(metadata, &["namespace", "name"])).unwrap_or_default().into(),
    );
    let seconds = text_at(result, &["timestamp", "seconds"]).or_else(|| text("timestamp"));
    Signal {
        severity,
        message: text("message").or_else(|| text("description")).unwrap_or_else(|| rule.clone()),
        resolved: deleted || matches!(outcome.as_str(), "pass" | "skip"),
        details: bound::details(&details),
        detected_at: seconds.and_then(|at| time(&at)),
        ..Signal::new(&tool, category(&tool), rule, about)
    }
}

/// Who found it: the adapter of a tool, or a policy engine.
fn tool(report: &Fields, result: &Fields) -> String {
    let labels = ["app.kubernetes.io/managed-by", "wgpolicyk8s.io/engine", "policy.kubernetes.io/engine"];
    let said = text_at(result, &["source"])
        .or_else(|| text_at(report, &["source"]))
        .or_else(|| objects_at(report, &["results"]).find_map(|result| text_at(result, &["source"])))
        .or_else(|| labels.iter().find_map(|label| text_at(report, &["metadata", "labels", label])));
    said.map_or_else(|| TOOL.to_owned(), |source| crate::kinds::slug(&source))
}

fn category(tool: &str) -> Category {
    let is = |names: &[&str]| names.iter().any(|name| tool.contains(name));
    if is(&["falco", "kubearmor", "tetragon", "tracee"]) {
        Category::Runtime
    } else if is(&["kube-bench", "cis", "compliance"]) {
        Category::Compliance
    } else {
        Category::Policy
    }
}

/// What a result is about: its own resources, else the report's scope, else what the report's labels or owner say, else where the report is.
fn places(report: &Fields, result: &Fields, kind: &str) -> Vec<About> {
    let namespace = text_at(report, &["metadata", "namespace"]).unwrap_or_default();
    let own: Vec<About> = objects_at(result, &["resources"])
        .chain(objects_at(result, &["subjects"]))
        .filter_map(|reference| referred(reference, &namespace))
        .collect();
    if !own.is_empty() {
        return own;
    }
    let metadata = object_at(report, &["metadata"]);
    let labelled = || {
        let label = |what: &str| text_at(report, &["metadata", "labels", &format!("imgvuln.resource.{what}")]);
        let namespace = label("namespace").unwrap_or_else(|| namespace.clone());
        let owner = metadata.and_then(kubernetes::owner);
        let uid =
            owner.filter(|owner| text_at(owner, &["name"]) == label("name")).and_then(|owner| text_at(owner, &["uid"]));
        Some(About::object(String::new(), &label("kind")?, namespace, label("name")?, uid))
    };
    let place = object_at(report, &["scope"])
        .and_then(|scope| referred(scope, &namespace))
        .or_else(labelled)
        .or_else(|| metadata.and_then(kubernetes::owner).and_then(|owner| referred(owner, &namespace)));
    vec![place.unwrap_or_else(|| {
        if namespace.is_empty() || kind.starts_with("Cluster") {
            About::outside("Cluster", "cluster")
        } else {
            About::object("v1".to_owned(), "Namespace", String::new(), namespace, None)
        }
    })]
}

/// The adapter of Trivy writes one result for each vulnerability of an image.
fn vulnerability(result: &Fields) -> Option<Vulnerability> {
    let properties = object_at(result, &["properties"])?;
    let text = |name: &str| text_at(properties, &[name]).unwrap_or_default();
    Some(Vulnerability {
        id: text_at(properties, &["VulnerabilityID"])?,
        package: text_at(properties, &["PkgName"]).or_else(|| text_at(result, &["category"])).unwrap_or_default(),
        installed_version: text("InstalledVersion"),
        fixed_version: text("FixedVersion"),
        severity: text_at(result, &["severity"]).map_or(Severity::Info, |word| severity(&word)),
        score: number_at(properties, &["Score"]),
        title: text_at(result, &["policy"]).or_else(|| text_at(result, &["message"])).unwrap_or_default(),
        ..Vulnerability::default()
    })
}

#[cfg(test)]
mod tests;
