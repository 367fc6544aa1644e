//! Alerts of the node agent, as it prints them and as its HTTP exporter posts them.

use std::collections::BTreeMap;

use quell_crds::v1alpha1::{Category, Severity, Workload};
use serde_json::Value;

use super::TOOL;
use crate::json::Object;
use crate::kinds::{self, is_name};
use crate::time::time;
use crate::walk::{Fields, container_id, image, items, number_at, object_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound, image as images};

/// The body of the HTTP exporter.
pub(super) fn alerts(object: &Object, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let Some(spec) = object_at(&object.fields, &["spec"]) else {
        return Err(Unreadable::other_format(object.at("spec"), "RuntimeAlerts have it"));
    };
    let moved = |error: Unreadable| Unreadable { at: format!("spec.{}", error.at), ..error };
    for (at, one) in items(object, spec, "alerts").map_err(moved)?.unwrap_or_default() {
        // That there were more than it may send: nothing about the cluster.
        if text_at(one, &["alertName"]).or_else(|| text_at(one, &["BaseRuntimeMetadata", "alertName"])).as_deref()
            == Some("AlertLimitReached")
        {
            continue;
        }
        signals.push(alert(object, &format!("spec.{at}"), one)?);
    }
    Ok(())
}

/// One alert. The exporter writes its parts without the names of the parts around them.
pub(super) fn alert(object: &Object, at: &str, alert: &Fields) -> Result<Signal, Unreadable> {
    let none = Fields::new();
    let part = |name: &str| {
        object_at(alert, &[name]).or_else(|| Some(alert).filter(|alert| !alert.contains_key(name))).unwrap_or(&none)
    };
    let (base, place) = (part("BaseRuntimeMetadata"), part("RuntimeK8sDetails"));
    let id = text_at(alert, &["RuleID"]);
    let Some(rule) = text_at(base, &["alertName"]).or_else(|| id.clone()) else {
        let at = if at.is_empty() { "BaseRuntimeMetadata.alertName".to_owned() } else { format!("{at}.alertName") };
        return Err(Unreadable::other_format(object.at(&at), "an alert of Kubescape's node agent has a name"));
    };
    let arguments: BTreeMap<String, &Value> = object_at(base, &["arguments"])
        .map(|all| all.iter().map(|(name, value)| (name.clone(), value)).collect())
        .unwrap_or_default();
    let arguments = serde_json::to_string(&arguments).unwrap_or_default();
    let mut details = pick(base, &["severity", "arguments", "infectedPID", "fixSuggestions", "md5Hash", "sha1Hash"]);
    if let Some(id) = &id {
        details.insert("RuleID".to_owned(), id.clone().into());
    }
    if let Some(tree) =
        object_at(alert, &["RuntimeProcessDetails", "processTree"]).or_else(|| object_at(alert, &["processTree"]))
    {
        details.insert(
            "process".to_owned(),
            pick(tree, &["pid", "ppid", "comm", "pcomm", "cmdline", "path", "uid", "gid", "cwd"]).into(),
        );
    }
    details.extend(pick(place, &["clusterName", "podLabels"]));
    let at = [text_at(base, &["timestamp"]), text_at(alert, &["time"])];
    Ok(Signal {
        severity: severity(base),
        message: text_at(alert, &["message"]).or_else(|| text_at(alert, &["msg"])).unwrap_or_else(|| rule.clone()),
        owner: owner(place),
        details: bound::details(&details),
        detected_at: at.into_iter().flatten().find_map(|at| time(&at)),
        identity: vec![id.unwrap_or_default(), arguments],
        ..Signal::new(TOOL, Category::Runtime, rule, about(alert, place))
    })
}

/// A number up to 10, or a word.
fn severity(base: &Fields) -> Severity {
    match number_at(base, &["severity"]) {
        Some(number) if number >= 10.0 => Severity::Critical,
        Some(number) if number >= 8.0 => Severity::High,
        Some(number) if number >= 5.0 => Severity::Medium,
        Some(number) if number >= 1.0 => Severity::Low,
        Some(_) => Severity::Info,
        None => text_at(base, &["severity"]).map_or(Severity::Info, |word| crate::severity::severity(&word)),
    }
}

fn about(alert: &Fields, place: &Fields) -> About {
    let text = |name: &str| text_at(place, &[name]);
    let node = text("nodeName").or_else(|| text_at(alert, &["event", "k8s", "node"]));
    let digest = text("imageDigest").and_then(|digest| images::digest(&digest));
    let image = image(text("image")).map(|found| crate::ImageRef { digest: digest.or(found.digest.clone()), ..found });
    let id = text("containerID").and_then(|id| container_id(&id));
    let namespace = text("podNamespace").or_else(|| text("namespace")).filter(|name| is_name(name, 63));
    match (namespace, text("podName").filter(|name| is_name(name, 253)), id) {
        (Some(namespace), Some(name), id) => About::Pod {
            namespace,
            name,
            uid: text("podUID").filter(|uid| kinds::is_uid(uid)),
            container: text("containerName").filter(|name| is_name(name, 63)),
            container_id: id,
            image,
        },
        (_, _, Some(id)) => About::Container { id, node, image },
        _ => About::Node { name: node.unwrap_or_else(|| "unknown".to_owned()) },
    }
}

fn owner(place: &Fields) -> Option<Workload> {
    let text = |name: &str| text_at(place, &[name]);
    let (kind, name) = (text("workloadKind")?, text("workloadName")?);
    let namespace = text("workloadNamespace").or_else(|| text("namespace")).unwrap_or_default();
    Some(Workload {
        api_version: kinds::api_version(&kind),
        kind,
        namespace,
        name,
        uid: text("workloadUID").unwrap_or_default(),
    })
}
