//! Tencent Container Security Service: events as its API lists and details them. No callback of its is documented; who passes events on sends
//! these objects.
//!
//! Fields: API `tcss` 2020-11-01, `*EventList`, `*Events`, `*EventDetail`, `DescribeVirusDetail`, `DescribeAssetImageVulList`. Times are China's.

use quell_crds::v1alpha1::{Category, Severity, Vulnerability, Workload};

use crate::json::{self, Object};
use crate::kinds::{self, is_name};
use crate::severity::{known, of_cvss};
use crate::time::time_in_china;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, container_id, image, items, number_at, object_at, pick, text_at};
use crate::{About, ImageRef, Signal, Unreadable, bound, image as images};

const TOOL: &str = "tencent-tcss";
/// Where the API's answers list events or vulnerabilities.
const LISTS: [&str; 3] = ["EventSet", "List", "EventList"];

/// Reads answers of the API, and single events.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        let (fields, place) = match object_at(&object.fields, &["Response"]) {
            Some(response) => (response, "Response."),
            None => (&object.fields, ""),
        };
        let moved = |error: Unreadable| Unreadable { at: format!("{place}{}", error.at), ..error };
        if let Some(code) = text_at(fields, &["Error", "Code"]) {
            let said = text_at(fields, &["Error", "Message"]).unwrap_or_default();
            return Err(Unreadable::new(
                object.at(&format!("{place}Error")),
                format!("the API answered with an error, {code}: {said}"),
            ));
        }
        let mut lists = Vec::new();
        for name in LISTS {
            lists.extend(items(&object, fields, name).map_err(moved)?);
        }
        if lists.is_empty() && !LISTS.iter().any(|name| fields.contains_key(*name)) {
            // One event: its parts in objects of their own, or flat.
            signals.push(event(&object, place, fields)?);
            continue;
        }
        let all: Vec<_> = lists.into_iter().flatten().collect();
        let (vulnerable, events): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, one)| one.contains_key("CVEID") || one.contains_key("CVSSV3Score"));
        signals.extend(vulnerabilities(&vulnerable));
        for (at, one) in events {
            signals.push(event(&object, &format!("{place}{at}."), one)?);
        }
    }
    Ok(signals)
}

fn event(object: &Object, place: &str, fields: &Fields) -> Result<Signal, Unreadable> {
    let none = Fields::new();
    let base = object_at(fields, &["EventBaseInfo"]).unwrap_or(fields);
    let detail =
        object_at(fields, &["EventDetail"]).or_else(|| object_at(fields, &["EventDescription"])).unwrap_or(&none);
    let text = |name: &str| text_at(base, &[name]);
    let of_container =
        ["ContainerId", "ContainerID", "ClusterID", "ClusterId", "ImageId"].iter().any(|name| text(name).is_some());
    let is_event = ["EventId", "EventID", "EventType", "VirusName", "Status", "RuleName", "Id", "ID"]
        .iter()
        .any(|name| text(name).is_some());
    if !of_container || !is_event {
        return Err(Unreadable::other_format(
            object.at(&format!("{place}EventBaseInfo")),
            "an event of TCSS says of which container or cluster it is",
        ));
    }
    let rule = rule(fields, base);
    let described = || {
        text_at(detail, &["Description"])
            .or_else(|| text("Description"))
            .or_else(|| text("Desc"))
            .or_else(|| text("HarmDescribe"))
    };
    let what: Vec<String> = ["ProcessPath", "ProcessName", "FilePath", "SyscallName", "DstAddress", "MatchProcessPath"]
        .iter()
        .filter_map(|name| text(name).or_else(|| text_at(fields, &["ProcessInfo", name])))
        .collect();
    let mut details = pick(
        base,
        &[
            "EventId",
            "EventType",
            "EventName",
            "EventCount",
            "Status",
            "RiskLevel",
            "MatchRuleLevel",
            "MatchRuleName",
            "RuleName",
            "ClusterID",
            "ClusterName",
            "ContainerName",
            "ContainerNetStatus",
            "ProcessName",
            "ProcessPath",
            "PProcessName",
            "DstAddress",
            "SyscallName",
            "VirusName",
            "FilePath",
            "FileMd5",
            "HostIP",
            "PodIP",
            "Solution",
            "SuggestScheme",
        ],
    );
    if let Some(process) = object_at(fields, &["ProcessInfo"]) {
        details.insert(
            "ProcessInfo".to_owned(),
            pick(process, &["ProcessName", "ProcessPath", "ProcessParam", "ProcessTree", "ProcessStartUser"]).into(),
        );
    }
    let id = ["EventId", "EventID", "Id", "ID"].iter().find_map(|name| text(name));
    let seen = ["LatestFoundTime", "FoundTime", "LastCreateTime", "ModifyTime", "CreateTime"];
    Ok(Signal {
        severity: severity(base, &rule),
        message: match (described(), what.is_empty()) {
            (Some(said), _) => said,
            (None, true) => rule.clone(),
            (None, false) => format!("{rule}: {}", what.join(", ")),
        },
        resolved: is_done(base),
        owner: owner(base),
        details: bound::details(&details),
        detected_at: seen.iter().find_map(|name| time_in_china(&text(name)?)),
        identity: id.map_or(what, |id| vec![id]),
        ..Signal::new(TOOL, category(&rule), rule, about(base))
    })
}

/// What the event is called, or what kind of event it is by what only such events have.
fn rule(fields: &Fields, base: &Fields) -> String {
    let text = |name: &str| text_at(base, &[name]);
    if text("SyscallName").is_some() {
        return "RISK_SYSCALL".to_owned();
    }
    if fields.contains_key("VirusName") {
        return "VIRUS".to_owned();
    }
    if text("DstAddress").is_some() {
        return "REVERSE_SHELL".to_owned();
    }
    ["EventType", "MatchRuleType", "EventName", "RuleName"]
        .iter()
        .find_map(|name| text(name))
        .unwrap_or_else(|| "EVENT".to_owned())
}

fn category(rule: &str) -> Category {
    if rule.contains("ANONYMOUS") || rule.contains("K8S") || rule.contains("API") {
        Category::Audit
    } else {
        Category::Runtime
    }
}

/// Its level where it has one, `RISK_CRITICAL` or `MIDDLE`; else by what kind of event it is.
fn severity(base: &Fields, rule: &str) -> Severity {
    let said = ["RiskLevel", "MatchRuleLevel", "Level", "Severity"]
        .iter()
        .find_map(|name| text_at(base, &[name]))
        .or_else(|| text_at(base, &["MatchRule", "RiskLevel"]));
    if let Some(severity) = said.and_then(|word| known(word.strip_prefix("RISK_").unwrap_or(&word))) {
        return severity;
    }
    let is = |words: &[&str]| words.iter().any(|word| rule.contains(word));
    if is(&["ESCAPE", "PTAH", "PATH", "VIRUS", "REVERSE_SHELL", "MALICIOUS", "PRIVILEGE", "MOUNT", "CGROUPS"]) {
        Severity::High
    } else if is(&["SYSCALL", "PROCESS", "ACCESS", "REQUEST"]) {
        Severity::Medium
    } else {
        Severity::Info
    }
}

/// Dealt with, ignored, added to what is trusted, or isolated by a person. What waits is `EVENT_UNDEAL` or `DEAL_NONE`.
fn is_done(base: &Fields) -> bool {
    text_at(base, &["Status"]).is_some_and(|status| {
        matches!(
            status.as_str(),
            "EVENT_DEALED"
                | "EVENT_IGNORE"
                | "EVENT_DEL"
                | "EVENT_ADD_WHITE"
                | "DEAL_IGNORE"
                | "DEAL_ISOLATE"
                | "DEAL_DEL"
                | "DEAL_TRUST"
                | "DEAL_RECOVER"
        )
    })
}

/// The pod where its namespace is known, else the container by its id, else the cluster. `PodName` may hold both.
fn about(base: &Fields) -> About {
    let text = |name: &str| text_at(base, &[name]);
    let id = text("ContainerId").or_else(|| text("ContainerID")).and_then(|id| container_id(&id));
    let of = image(text("ImageName"))
        .map(|found| ImageRef { image_id: text("ImageId").and_then(|id| images::digest(&id)), ..found });
    let said = text("PodName").unwrap_or_default();
    let (namespace, pod) = match said.split_once('/') {
        Some((namespace, pod)) => (Some(namespace.to_owned()), pod.to_owned()),
        None => (text("Namespace"), said),
    };
    let node = text("NodeName").or_else(|| text("HostName"));
    // The name is the container runtime's, `/k8s_…`, or the one in the pod.
    let container = text("ContainerName").filter(|name| is_name(name, 63));
    match (namespace.filter(|name| is_name(name, 63)), id) {
        (Some(namespace), id) if is_name(&pod, 253) => {
            About::Pod { namespace, name: pod, uid: None, container, container_id: id, image: of }
        }
        (_, Some(id)) => About::Container { id, node, image: of },
        (_, None) => match (text("PodIP").filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()), node, of) {
            (Some(ip), ..) => About::Address { ip },
            (None, Some(name), _) if is_name(&name, 253) => About::Node { name },
            (None, _, Some(image)) => About::Image { image },
            _ => About::outside(
                "Cluster",
                &text("ClusterName").or_else(|| text("ClusterID")).unwrap_or_else(|| "cluster".to_owned()),
            ),
        },
    }
}

fn owner(base: &Fields) -> Option<Workload> {
    let text = |name: &str| text_at(base, &[name]);
    let (kind, name) = (text("WorkloadType")?, text("WorkloadName")?);
    Some(Workload {
        api_version: kinds::api_version(&kind),
        kind,
        namespace: text("Namespace")?,
        name,
        uid: String::new(),
    })
}

/// The list of an image's vulnerabilities doesn't say of which image.
fn vulnerabilities(all: &[(String, &Fields)]) -> Option<Signal> {
    let found: Vec<Vulnerability> = all
        .iter()
        .map(|(_, one)| {
            let text = |name: &str| text_at(one, &[name]).unwrap_or_default();
            let score = number_at(one, &["CVSSV3Score"]).filter(|score| *score > 0.0);
            // A word, or a number of which only the score tells what it means.
            let severity = text_at(one, &["Level"])
                .and_then(|word| known(&word))
                .or_else(|| score.map(of_cvss))
                .unwrap_or_default();
            Vulnerability {
                id: text_at(one, &["CVEID"]).or_else(|| text_at(one, &["POCID"])).unwrap_or_else(|| text("Name")),
                package: text("Component"),
                installed_version: text("Version"),
                fixed_version: text("FixedVersions"),
                severity,
                score,
                title: text("Name"),
                ..Vulnerability::default()
            }
        })
        .collect();
    let of = all.iter().find_map(|(_, one)| image(text_at(one, &["ImageName"])));
    let about = of.map_or_else(|| About::outside("Artifact", "unknown"), |image| About::Image { image });
    let rule = match &about {
        About::Image { image } => image.name(),
        _ => "image".to_owned(),
    };
    let identity = vec![Category::Vulnerability.to_string(), about.image_identity()];
    (!found.is_empty()).then(|| {
        Signal { identity, ..Signal::new(TOOL, Category::Vulnerability, rule, about) }
            .with_vulnerabilities(summarise(found))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CONTAINER: &str = "b49a9fd917d30b736e76bff07a81e016bb1ced7bd9428b5d076628c80f8c62fd";

    fn one(body: &Value) -> Signal {
        read(body.to_string().as_bytes()).unwrap().remove(0)
    }

    fn event(change: Value) -> Value {
        let mut event = json!({"EventId": "5075001", "ContainerId": CONTAINER, "ImageName": "registry.example/shop:1", "NodeName": "n1", "PodName": "web-1",
            "FoundTime": "2024-10-24 08:38:49", "Status": "EVENT_UNDEAL", "ProcessPath": "/usr/bin/dash"});
        for (key, value) in change.as_object().unwrap() {
            event[key] = value.clone();
        }
        json!({"Response": {"EventSet": [event], "TotalCount": 1}})
    }

    #[test]
    fn each_kind_of_event_has_its_name_and_level() {
        for (change, rule, severity) in [
            (json!({"DstAddress": "10.0.0.1:9000"}), "REVERSE_SHELL", Severity::High),
            (
                json!({"EventType": "MALICE_PROCESS_START", "MatchRuleLevel": "MIDDLE"}),
                "MALICE_PROCESS_START",
                Severity::Medium,
            ),
            (json!({"SyscallName": "chroot"}), "RISK_SYSCALL", Severity::Medium),
            (json!({"VirusName": "Win32", "RiskLevel": "RISK_CRITICAL"}), "VIRUS", Severity::Critical),
            (json!({"EventType": "MOUNT_SENSITIVE_PTAH"}), "MOUNT_SENSITIVE_PTAH", Severity::High),
            (json!({"EventType": "SOMETHING_NEW"}), "SOMETHING_NEW", Severity::Info),
        ] {
            let signal = one(&event(change));
            assert_eq!((signal.rule.as_str(), signal.severity), (rule, severity));
        }
    }

    #[test]
    fn it_is_about_the_pod_where_its_namespace_is_known_else_the_container_else_the_cluster() {
        assert!(
            matches!(one(&event(json!({}))).about, About::Container { id, node: Some(_), image: Some(_) } if id == CONTAINER)
        );
        for change in [json!({"Namespace": "shop"}), json!({"PodName": "shop/web-1"})] {
            assert!(
                matches!(one(&event(change)).about, About::Pod { namespace, name, .. } if namespace == "shop" && name == "web-1")
            );
        }
        let api = json!({"Response": {"List": [{"ID": 1, "ClusterID": "cls-1", "ClusterName": "prod", "MatchRuleType": "ANONYMOUS_ACCESS", "RiskLevel": "HIGH", "Status": "EVENT_UNDEAL"}]}});
        let signal = one(&api);
        assert_eq!(
            (signal.about, signal.severity, signal.category),
            (About::outside("Cluster", "prod"), Severity::High, Category::Audit)
        );
        assert_eq!(
            one(&event(json!({"ContainerId": null, "ImageId": "x", "PodIP": "10.0.0.7"}))).about,
            About::Address { ip: "10.0.0.7".to_owned() }
        );
    }

    #[test]
    fn what_was_dealt_with_is_over_and_a_detail_is_the_same_event() {
        assert!(one(&event(json!({"Status": "EVENT_DEALED"}))).resolved);
        let detail = json!({"Response": {"EventBaseInfo": {"EventId": "1", "EventType": "ESCAPE_X", "ContainerId": CONTAINER, "Namespace": "shop", "PodName": "web-1"},
            "EventDetail": {"Description": "d"}, "ProcessInfo": {"ProcessPath": "/bin/x"}}});
        let signal = one(&detail);
        assert_eq!((signal.message.as_str(), signal.identity), ("d", vec!["1".to_owned()]));
    }

    #[test]
    fn vulnerabilities_of_an_image_are_one_signal() {
        let vulnerability = |id: &str, level: Value| json!({"CVEID": id, "Level": level, "CVSSV3Score": 8.8, "Component": "libxml2", "Version": "1", "FixedVersions": "2"});
        let signal = one(
            &json!({"Response": {"List": [vulnerability("CVE-1", json!(2)), vulnerability("CVE-2", json!("CRITICAL"))]}}),
        );
        assert_eq!((signal.severity, signal.vulnerabilities.len()), (Severity::Critical, 2));
        assert_eq!(signal.vulnerabilities[1].severity, Severity::High);
    }

    #[test]
    fn an_answer_without_events_is_nothing() {
        for list in [json!([]), json!(null)] {
            let body = json!({"Response": {"EventSet": list, "TotalCount": 0, "RequestId": "r"}});
            assert!(read(body.to_string().as_bytes()).unwrap().is_empty(), "{body}");
        }
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (
                json!({"Response": {"Error": {"Code": "AuthFailure", "Message": "no"}, "RequestId": "r"}}),
                "Response.Error",
            ),
            (json!({"a": 1}), "EventBaseInfo"),
            (json!({"Response": {"EventSet": 3}}), "Response.EventSet"),
            (json!({"Response": {"List": [{"a": 1}]}}), "Response.List[0].EventBaseInfo"),
        ] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
