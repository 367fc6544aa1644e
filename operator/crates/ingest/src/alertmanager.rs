//! The webhook of Prometheus' Alertmanager.
//!
//! Fields: prometheus/alertmanager, `template/template.go` (`Data`) and `notify/webhook/webhook.go`. Severity and place are conventions of
//! labels, not part of the format; alerts as `GET /api/v2/alerts` lists them are read, too.

use quell_crds::v1alpha1::{Category, Severity};

use crate::json::{self, Object};
use crate::kinds::is_name;
use crate::severity::severity;
use crate::time::time;
use crate::walk::{Fields, items, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "alertmanager";

/// Labels that name an object which owns pods, and its kind.
const WORKLOADS: [(&str, &str); 6] = [
    ("deployment", "Deployment"),
    ("statefulset", "StatefulSet"),
    ("daemonset", "DaemonSet"),
    ("job_name", "Job"),
    ("cronjob", "CronJob"),
    ("replicaset", "ReplicaSet"),
];

/// Reads notifications; an alert that is resolved is a signal that says so.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        let group = &object.fields;
        match items(&object, group, "alerts")? {
            Some(alerts) => {
                if !["receiver", "groupLabels", "commonLabels", "groupKey", "status"]
                    .iter()
                    .any(|key| group.contains_key(*key))
                {
                    return Err(Unreadable::other_format(
                        object.at("receiver"),
                        "a notification of Alertmanager has a receiver",
                    ));
                }
                for (at, alert) in alerts {
                    signals.push(signal(&object, &at, alert, group)?);
                }
            }
            None if group.contains_key("labels")
                && (group.contains_key("startsAt") || group.contains_key("annotations")) =>
            {
                signals.push(signal(&object, "", group, &Fields::new())?);
            }
            None if group.contains_key("alerts") && group.contains_key("receiver") => {}
            None => {
                return Err(Unreadable::other_format(
                    object.at("alerts"),
                    "a notification of Alertmanager lists its alerts here",
                ));
            }
        }
    }
    Ok(signals)
}

fn signal(object: &Object, at: &str, alert: &Fields, group: &Fields) -> Result<Signal, Unreadable> {
    let none = Fields::new();
    let labels = match alert.get("labels") {
        Some(serde_json::Value::Object(labels)) => labels,
        Some(serde_json::Value::Null) => &none,
        None if at.is_empty() || alert.contains_key("annotations") => &none,
        _ => {
            let at = if at.is_empty() { "labels".to_owned() } else { format!("{at}.labels") };
            return Err(Unreadable::other_format(object.at(&at), "an alert has an object of labels here"));
        }
    };
    let label = |name: &str| text_at(labels, &[name]);
    let rule = label("alertname")
        .or_else(|| text_at(group, &["commonLabels", "alertname"]))
        .unwrap_or_else(|| "unnamed alert".to_owned());
    let said = ["message", "description", "summary", "title"]
        .iter()
        .find_map(|name| text_at(alert, &["annotations", name]))
        .or_else(|| text_at(group, &["commonAnnotations", "summary"]));
    let status = text_at(alert, &["status"]).or_else(|| text_at(group, &["status"]));
    let mut details = pick(alert, &["labels", "annotations", "startsAt", "endsAt", "generatorURL"]);
    details.extend(pick(group, &["groupKey", "receiver", "externalURL"]));
    // The fingerprint is one of all labels. Old versions and imitations don't write it.
    let identity = if let Some(fingerprint) = text_at(alert, &["fingerprint"]) {
        vec![fingerprint]
    } else {
        let mut pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.sort();
        pairs
    };
    Ok(Signal {
        severity: label("severity").or_else(|| label("priority")).map_or(Severity::Medium, |word| severity(&word)),
        message: said.unwrap_or_else(|| rule.clone()),
        resolved: status.is_some_and(|status| status.eq_ignore_ascii_case("resolved")),
        details: bound::details(&details),
        detected_at: text_at(alert, &["startsAt"]).and_then(|at| time(&at)),
        identity,
        ..Signal::new(TOOL, Category::Other, rule, about(labels))
    })
}

/// The pod, else its owner, else the node, address or namespace that the labels name.
fn about(labels: &Fields) -> About {
    let name = |label: &str, longest: usize| text_at(labels, &[label]).filter(|name| is_name(name, longest));
    // Where the metric has a label that what was scraped has, too, Prometheus calls the metric's `exported_…`: then the others are the exporter's.
    let is_exporters = ["exported_namespace", "exported_pod"].iter().any(|label| labels.contains_key(*label));
    let namespace = name("exported_namespace", 63).or_else(|| name("namespace", 63));
    if let Some(namespace) = &namespace {
        let (pod, container) = if is_exporters {
            (name("exported_pod", 253), name("exported_container", 63))
        } else {
            (
                name("pod", 253).or_else(|| name("pod_name", 253)),
                name("container", 63).or_else(|| name("container_name", 63)),
            )
        };
        if let Some(pod) = pod {
            let uid = text_at(labels, &["uid"]).filter(|uid| crate::kinds::is_uid(uid));
            return About::object("v1".to_owned(), "Pod", namespace.clone(), pod, uid).with_container(container, None);
        }
        for (label, kind) in WORKLOADS {
            if let Some(workload) = name(label, 253) {
                return About::object(String::new(), kind, namespace.clone(), workload, None);
            }
        }
        if let (Some(workload), Some(kind)) = (name("workload", 253), text_at(labels, &["workload_type"]))
            && let Some((_, kind)) = WORKLOADS.iter().find(|(known, _)| kind.eq_ignore_ascii_case(known))
        {
            return About::object(String::new(), kind, namespace.clone(), workload, None);
        }
    }
    if let Some(node) = name("exported_node", 253)
        .or_else(|| name("node", 253))
        .or_else(|| name("nodename", 253))
        .or_else(|| name("kubernetes_node", 253))
    {
        return About::Node { name: node };
    }
    if let Some(namespace) = namespace {
        return About::object("v1".to_owned(), "Namespace", String::new(), namespace, None);
    }
    let host = text_at(labels, &["instance"]).map(|instance| without_port(&instance).to_owned());
    match host {
        Some(host) if host.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_loopback()) => About::Address { ip: host },
        Some(host) if host.contains('.') && is_name(&host, 253) => About::outside("Host", &host),
        other => {
            let named = ["service", "job"].iter().find_map(|label| text_at(labels, &[label]));
            About::outside("External", &other.or(named).unwrap_or_else(|| TOOL.to_owned()))
        }
    }
}

fn without_port(instance: &str) -> &str {
    match instance.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.trim_matches(['[', ']']),
        _ => instance,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn alert(labels: serde_json::Value) -> Signal {
        let body = json!({"version": "4", "status": "firing", "receiver": "quell", "alerts": [
            {"status": "firing", "labels": labels, "annotations": {"summary": "s"}, "startsAt": "2024-01-01T00:00:00Z"}]});
        read(body.to_string().as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn labels_say_how_bad_it_is_and_what_it_is_about() {
        let signal = alert(
            json!({"alertname": "A", "severity": "critical", "namespace": "shop", "pod": "web-1", "container": "app"}),
        );
        assert_eq!((signal.severity, signal.rule.as_str(), signal.message.as_str()), (Severity::Critical, "A", "s"));
        assert!(
            matches!(&signal.about, About::Pod { name, container: Some(app), .. } if name == "web-1" && app == "app")
        );
        for (labels, kind) in [
            (json!({"namespace": "shop", "deployment": "web"}), "Deployment"),
            (json!({"namespace": "shop", "workload": "db", "workload_type": "statefulset"}), "StatefulSet"),
            (json!({"namespace": "shop"}), "Namespace"),
            (json!({"namespace": "not/one", "pod": "web-1"}), "External"),
            (json!({"instance": "server01.example:9100"}), "Host"),
            (json!({"instance": "localhost:9100"}), "External"),
        ] {
            let about = alert(labels.clone()).about;
            assert!(matches!(&about, About::Workload { kind: found, .. } if found == kind), "{labels}: {about:?}");
        }
        assert_eq!(
            alert(json!({"instance": "10.80.40.11:9100"})).about,
            About::Address { ip: "10.80.40.11".to_owned() }
        );
        assert_eq!(alert(json!({"instance": "[fd00::1]:9100"})).about, About::Address { ip: "fd00::1".to_owned() });
        assert_eq!(alert(json!({"node": "n1", "instance": "10.0.0.1:1"})).about, About::Node { name: "n1".to_owned() });
        assert_eq!(alert(json!({})).severity, Severity::Medium);
    }

    #[test]
    fn what_a_metric_says_stands_before_the_exporter_that_said_it() {
        let exporter = |more: serde_json::Value| {
            let mut labels = json!({"namespace": "monitoring", "pod": "kube-state-metrics-0", "container": "main", "instance": "10.0.0.9:8080"});
            labels.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            alert(labels).about
        };
        let pod = exporter(json!({"exported_namespace": "shop", "exported_pod": "web-1", "exported_container": "app"}));
        assert!(
            matches!(&pod, About::Pod { namespace, name, container: Some(app), .. } if namespace == "shop" && name == "web-1" && app == "app"),
            "{pod:?}"
        );
        let owner = exporter(json!({"exported_namespace": "shop", "deployment": "web"}));
        assert!(
            matches!(&owner, About::Workload { namespace, kind, name, .. } if namespace == "shop" && kind == "Deployment" && name == "web"),
            "{owner:?}"
        );
        let only = exporter(json!({"exported_namespace": "shop"}));
        assert!(
            matches!(&only, About::Workload { kind, name, .. } if kind == "Namespace" && name == "shop"),
            "{only:?}"
        );
    }

    #[test]
    fn an_alert_is_the_same_by_its_fingerprint_else_by_its_labels() {
        let other = alert(json!({"alertname": "A", "a": "2"}));
        let one = alert(json!({"alertname": "A", "a": "1"}));
        assert_ne!(one.identity, other.identity);
        assert_eq!(one.identity, alert(json!({"a": "1", "alertname": "A"})).identity);
    }

    #[test]
    fn a_resolved_alert_ends_the_one_that_fired() {
        let fired = alert(json!({"alertname": "A"}));
        let body = json!({"receiver": "quell", "status": "resolved", "alerts": [
            {"labels": {"alertname": "A"}, "annotations": {}, "endsAt": "2024-01-01T01:00:00Z"}]});
        let ended = read(body.to_string().as_bytes()).unwrap().remove(0);
        assert!(ended.resolved && !fired.resolved);
        assert_eq!((&ended.rule, &ended.identity, &ended.about), (&fired.rule, &fired.identity, &fired.about));
    }

    #[test]
    fn another_body_is_refused_and_an_empty_one_is_nothing() {
        assert!(read(br#"{"receiver":"a","alerts":[]}"#).unwrap().is_empty());
        assert!(read(br#"{"receiver":"a","alerts":null}"#).unwrap().is_empty());
        for (body, at) in [
            (r#"{"a":1}"#, "alerts"),
            (r#"{"receiver":"a","alerts":[{"labels":[]}]}"#, "alerts[0].labels"),
            (r#"{"alerts":[]}"#, "receiver"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().at, at);
        }
    }
}
