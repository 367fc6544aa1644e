//! Alerts of KubeArmor, as its relay, `karmor logs --json` and the sidekick write them.
//!
//! Fields: kubearmor/KubeArmor, `KubeArmor/types/types.go` and `getting-started/kubearmor-events.md`; the versions of 2021 write fewer.

use quell_crds::v1alpha1::{Category, Severity, Workload};

use crate::json::{self, Object};
use crate::kinds::{self, is_name};
use crate::time::time;
use crate::walk::{Fields, container_id, image, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "kubearmor";
/// Policy of what is denied because nothing allows it.
const DEFAULT_POSTURE: &str = "DefaultPosture";

/// Reads alerts; logs of what was allowed to happen are telemetry, and no findings.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    json::objects(body)?.iter().filter_map(|object| alert(object).transpose()).collect()
}

fn alert(object: &Object) -> Result<Option<Signal>, Unreadable> {
    let fields = &object.fields;
    let text = |name: &str| text_at(fields, &[name]);
    let Some(kind) = text("Type") else {
        return Err(Unreadable::other_format(
            object.at("Type"),
            "an alert of KubeArmor says MatchedPolicy or the like",
        ));
    };
    if !["HostName", "Operation", "ContainerID", "PolicyName"].iter().any(|name| text(name).is_some()) {
        return Err(Unreadable::other_format(object.at("Operation"), "an alert of KubeArmor says what was done"));
    }
    if !kind.starts_with("Matched") {
        return Ok(None);
    }
    let rule = text("PolicyName").unwrap_or_else(|| DEFAULT_POSTURE.to_owned());
    let (operation, resource, action) = (
        text("Operation").unwrap_or_default(),
        text("Resource").unwrap_or_default(),
        text("Action").unwrap_or_default(),
    );
    let happened = format!("{operation} {resource}: {action}, {}", text("Result").unwrap_or_default());
    let mut details = pick(
        fields,
        &[
            "Type",
            "Severity",
            "Action",
            "Operation",
            "Resource",
            "Data",
            "Result",
            "Source",
            "ProcessName",
            "ParentProcessName",
            "Enforcer",
            "ClusterName",
            "HostName",
            "PID",
            "UID",
            "Cwd",
            "Tags",
            "ATags",
            "Labels",
        ],
    );
    // What is not known is written as an empty text.
    details.retain(|_, value| value.as_str() != Some(""));
    Ok(Some(Signal {
        severity: severity(text("Severity").as_deref(), &rule),
        message: text("Message").unwrap_or_else(|| happened.trim().trim_end_matches([',', ':']).trim().to_owned()),
        owner: owner(fields),
        details: bound::details(&details),
        detected_at: text("UpdatedTime").or_else(|| text("Timestamp")).and_then(|at| time(&at)),
        identity: vec![operation, resource, action],
        ..Signal::new(TOOL, Category::Runtime, rule, about(fields))
    }))
}

/// From 1 to 10; where several policies matched, of each: the highest counts.
fn severity(said: Option<&str>, policy: &str) -> Severity {
    let highest = said.and_then(|text| text.split(',').filter_map(|one| one.trim().parse::<u8>().ok()).max());
    match highest {
        Some(9..) => Severity::Critical,
        Some(7..) => Severity::High,
        Some(4..) => Severity::Medium,
        Some(1..) => Severity::Low,
        _ if policy.contains(DEFAULT_POSTURE) => Severity::Low,
        // A word, as some who pass alerts on write it.
        _ => said.map_or(Severity::Info, crate::severity::severity),
    }
}

fn about(fields: &Fields) -> About {
    let text = |name: &str| text_at(fields, &[name]);
    let name = |field: &str, longest: usize| text(field).filter(|name| is_name(name, longest));
    let id = text("ContainerID").and_then(|id| container_id(&id));
    let image = image(text("ContainerImage"));
    let container = name("ContainerName", 63);
    match (name("NamespaceName", 63), name("PodName", 253), id) {
        (Some(namespace), Some(pod), id) => {
            About::Pod { namespace, name: pod, uid: None, container, container_id: id, image }
        }
        (_, _, Some(id)) => About::Container { id, node: text("HostName"), image },
        _ => About::Node { name: text("HostName").unwrap_or_else(|| "unknown".to_owned()) },
    }
}

fn owner(fields: &Fields) -> Option<Workload> {
    let text = |name: &str| text_at(fields, &["Owner", name]);
    let (kind, name) = (text("Ref")?, text("Name")?);
    let namespace = text("Namespace").or_else(|| text_at(fields, &["NamespaceName"])).unwrap_or_default();
    Some(Workload { api_version: kinds::api_version(&kind), kind, namespace, name, uid: String::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn alert(change: Value) -> Value {
        let mut body = json!({"Timestamp": 1_686_475_183, "HostName": "n1", "NamespaceName": "shop", "PodName": "web-1", "ContainerName": "app",
            "ContainerID": "8762eafc25a35ab90089f79703b86659989e8e547c2c029fb60f55d884355000", "ContainerImage": "nginx:1.27",
            "Owner": {"Ref": "Deployment", "Name": "web", "Namespace": "shop"}, "PolicyName": "no-apt", "Severity": "5", "Type": "MatchedPolicy",
            "Operation": "Process", "Resource": "/usr/bin/apt update", "Action": "Block", "Result": "Permission denied"});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    }

    fn one(change: Value) -> Signal {
        read(alert(change).to_string().as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn an_alert_is_about_its_container_and_names_the_owner_of_the_pod() {
        let signal = one(json!({}));
        assert_eq!((signal.rule.as_str(), signal.severity), ("no-apt", Severity::Medium));
        assert_eq!(signal.message, "Process /usr/bin/apt update: Block, Permission denied");
        assert!(
            matches!(&signal.about, About::Pod { name, container: Some(_), container_id: Some(_), image: Some(_), .. } if name == "web-1")
        );
        let owner = signal.owner.unwrap();
        assert_eq!(
            (owner.api_version.as_str(), owner.kind.as_str(), owner.name.as_str()),
            ("apps/v1", "Deployment", "web")
        );
        assert_eq!(
            one(json!({"PodName": null, "NamespaceName": "", "ContainerID": ""})).about,
            About::Node { name: "n1".to_owned() }
        );
    }

    #[test]
    fn the_highest_of_several_severities_counts_and_the_default_posture_is_low() {
        for (said, policy, severity) in [
            (json!("10"), "a", Severity::Critical),
            (json!(8), "a", Severity::High),
            (json!("2,9"), "a,b", Severity::Critical),
            (json!("1"), "a", Severity::Low),
            (json!(""), "a", Severity::Info),
            (json!(""), DEFAULT_POSTURE, Severity::Low),
        ] {
            assert_eq!(one(json!({"Severity": said, "PolicyName": policy})).severity, severity);
        }
    }

    #[test]
    fn telemetry_is_no_finding_and_other_bodies_are_refused() {
        assert!(read(alert(json!({"Type": "ContainerLog"})).to_string().as_bytes()).unwrap().is_empty());
        for (body, at) in [(json!({"a": 1}), "Type"), (json!({"type": "x"}), "Operation")] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at);
        }
    }

    #[test]
    fn another_resource_is_another_problem_and_another_process_id_is_not() {
        assert_eq!(one(json!({"PID": 1})).identity, one(json!({"PID": 2})).identity);
        assert_ne!(one(json!({})).identity, one(json!({"Resource": "/usr/bin/scp"})).identity);
    }
}
