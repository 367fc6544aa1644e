//! Flows of Cilium's Hubble: lines of its exporter, and of `hubble observe -o json` with and without what is around them.
//!
//! Fields: cilium/cilium, `api/v1/flow/flow.proto`. Only what a policy denied is a finding; other drops are the network's health.

use quell_crds::v1alpha1::{Category, Severity, Workload};
use serde_json::Value;

use crate::json::{self, Object, kind_of};
use crate::kinds::{self, is_name};
use crate::time::time;
use crate::walk::{Fields, object_at, objects_at, pick, text_at, texts_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "hubble";

/// Reads flows.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    json::objects(body)?.iter().filter_map(|object| line(object).transpose()).collect()
}

fn line(object: &Object) -> Result<Option<Signal>, Unreadable> {
    let fields = &object.fields;
    let flow = match fields.get("flow") {
        Some(Value::Object(flow)) => flow,
        Some(other) => {
            return Err(Unreadable::new(
                object.at("flow"),
                format!("an object was expected, this is {}", kind_of(other)),
            ));
        }
        None if fields.contains_key("verdict") => fields,
        None if ["node_status", "lost_events", "agent_event", "debug_event"]
            .iter()
            .any(|name| fields.contains_key(*name)) =>
        {
            return Ok(None);
        }
        None => return Err(Unreadable::other_format(object.at("flow"), "a line of Hubble has a flow")),
    };
    let Some(verdict) = text_at(flow, &["verdict"]) else {
        let at = if fields.contains_key("flow") { "flow.verdict" } else { "verdict" };
        return Err(Unreadable::other_format(object.at(at), "a flow of Hubble has a verdict"));
    };
    Ok(reason(flow, &verdict).map(|reason| signal(fields, flow, &verdict, reason)))
}

/// Why a policy denied it; nothing for what was let through, and for what no policy had to do with.
fn reason(flow: &Fields, verdict: &str) -> Option<String> {
    let said = text_at(flow, &["drop_reason_desc"]);
    match verdict {
        // It would have been denied, were the policy enforced.
        "AUDIT" => Some(said.unwrap_or_else(|| "AUDIT".to_owned())),
        "DROPPED" | "ERROR" => match (said.as_deref(), text_at(flow, &["drop_reason"]).as_deref()) {
            (Some(desc), _) => {
                matches!(desc, "POLICY_DENIED" | "POLICY_DENY" | "AUTH_REQUIRED").then(|| desc.to_owned())
            }
            (None, Some("133")) => Some("POLICY_DENIED".to_owned()),
            (None, Some("181")) => Some("POLICY_DENY".to_owned()),
            (None, Some("189")) => Some("AUTH_REQUIRED".to_owned()),
            // Of a proxy's denials no reason is said.
            (None, None) if verdict == "DROPPED" && flow.contains_key("l7") => Some("POLICY_DENIED_L7".to_owned()),
            _ => None,
        },
        _ => None,
    }
}

fn signal(line: &Fields, flow: &Fields, verdict: &str, reason: String) -> Signal {
    let none = Fields::new();
    let end = |name: &str| object_at(flow, &[name]).unwrap_or(&none);
    // A field mask may leave the direction out: then whoever began is meant.
    let ingress = text_at(flow, &["traffic_direction"]).is_some_and(|direction| direction == "INGRESS");
    let (own, peer) = if ingress { ("destination", "source") } else { ("source", "destination") };
    let direction = if ingress { "ingress" } else { "egress" };
    let peer_name = peer_name(flow, end(peer), peer);
    let port = port(flow);
    let labels = texts_at(end(peer), &["labels"]);
    let leaves =
        !ingress && labels.iter().any(|label| matches!(label.as_str(), "reserved:world" | "reserved:kube-apiserver"));
    let severity = if leaves { Severity::Medium } else { Severity::Low };
    let policies: Vec<String> = ["egress_denied_by", "ingress_denied_by"]
        .iter()
        .flat_map(|name| objects_at(flow, &[name]))
        .filter_map(|policy| {
            Some(format!("{}/{}", text_at(policy, &["namespace"]).unwrap_or_default(), text_at(policy, &["name"])?))
        })
        .collect();
    let mut details = pick(
        flow,
        &[
            "verdict",
            "drop_reason_desc",
            "IP",
            "l4",
            "l7",
            "traffic_direction",
            "Summary",
            "destination_names",
            "source_names",
            "node_name",
        ],
    );
    for name in ["source", "destination"] {
        details.insert(
            name.to_owned(),
            pick(end(name), &["identity", "namespace", "pod_name", "labels", "workloads"]).into(),
        );
    }
    if !policies.is_empty() {
        details.insert("denied_by".to_owned(), policies.clone().into());
    }
    let by = if policies.is_empty() { String::new() } else { format!(" by {}", policies.join(", ")) };
    let preposition = if ingress { "from" } else { "to" };
    let done = if verdict == "AUDIT" { "audited" } else { "denied" };
    Signal {
        severity,
        message: format!("{direction} {preposition} {peer_name} {port} {done}{by}").replace("  ", " "),
        owner: owner(end(own)),
        details: bound::details(&details),
        detected_at: text_at(flow, &["time"]).or_else(|| text_at(line, &["time"])).and_then(|at| time(&at)),
        identity: vec![peer_name, port, direction.to_owned()],
        ..Signal::new(TOOL, Category::Runtime, reason, about(line, flow, end(own), own))
    }
}

fn about(line: &Fields, flow: &Fields, end: &Fields, name: &str) -> About {
    let namespace = text_at(end, &["namespace"]).filter(|name| is_name(name, 63));
    let pod = text_at(end, &["pod_name"]).filter(|name| is_name(name, 253));
    if let (Some(namespace), Some(pod)) = (namespace, pod) {
        return About::object("v1".to_owned(), "Pod", namespace, pod, None);
    }
    let host = texts_at(end, &["labels"]).iter().any(|label| label == "reserved:host");
    // `cluster/node`, or the node alone.
    let node = text_at(flow, &["node_name"]).or_else(|| text_at(line, &["node_name"]));
    let node = node.map(|node| node.rsplit_once('/').map_or(node.clone(), |(_, node)| node.to_owned()));
    match (text_at(flow, &["IP", name]), node) {
        (Some(ip), None) => About::Address { ip },
        (Some(ip), Some(_)) if !host => About::Address { ip },
        (_, node) => About::Node { name: node.unwrap_or_else(|| "unknown".to_owned()) },
    }
}

fn owner(end: &Fields) -> Option<Workload> {
    let workload = objects_at(end, &["workloads"]).next()?;
    let (kind, name) = (text_at(workload, &["kind"])?, text_at(workload, &["name"])?);
    Some(Workload {
        api_version: kinds::api_version(&kind),
        kind,
        namespace: text_at(end, &["namespace"])?,
        name,
        uid: String::new(),
    })
}

/// The other end, under a name that the next packet of it has, too: its workload, its DNS name, what Cilium reserves names for, its pod.
/// The addresses of the world are one: a scan of it is one problem.
fn peer_name(flow: &Fields, end: &Fields, name: &str) -> String {
    let namespace = text_at(end, &["namespace"]).unwrap_or_default();
    let workload = objects_at(end, &["workloads"]).find_map(|workload| text_at(workload, &["name"]));
    if let Some(workload) = workload.or_else(|| text_at(end, &["pod_name"])) {
        return format!("{namespace}/{workload}");
    }
    let dns = texts_at(flow, &[&format!("{name}_names")]).into_iter().next();
    let reserved =
        || texts_at(end, &["labels"]).iter().find_map(|label| label.strip_prefix("reserved:").map(str::to_owned));
    dns.or_else(reserved).or_else(|| text_at(flow, &["IP", name])).unwrap_or_else(|| "unknown".to_owned())
}

/// The port that was asked for and its protocol, `80/TCP`; of ICMP the protocol alone.
fn port(flow: &Fields) -> String {
    let Some(l4) = object_at(flow, &["l4"]) else { return String::new() };
    let Some((protocol, ports)) = l4.iter().next() else { return String::new() };
    match ports.as_object().and_then(|ports| text_at(ports, &["destination_port"])) {
        Some(port) => format!("{port}/{protocol}"),
        None => protocol.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flow(change: Value) -> Value {
        let mut flow = json!({"time": "2023-08-21T12:12:18.510175415Z", "verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED",
            "IP": {"source": "10.0.1.60", "destination": "10.0.1.5"}, "l4": {"TCP": {"source_port": 44916, "destination_port": 80}},
            "source": {"namespace": "shop", "pod_name": "web-1", "workloads": [{"name": "web", "kind": "Deployment"}]},
            "destination": {"namespace": "db", "pod_name": "pg-0", "workloads": [{"name": "pg", "kind": "StatefulSet"}]},
            "traffic_direction": "EGRESS", "node_name": "c/n1"});
        for (key, value) in change.as_object().unwrap() {
            flow[key] = value.clone();
        }
        json!({"flow": flow, "node_name": "c/n1", "time": "2023-08-21T12:12:18.510175415Z"})
    }

    fn signals(body: &Value) -> Vec<Signal> {
        read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_policy_denied_is_about_the_end_that_the_policy_is_of() {
        let egress = signals(&flow(json!({}))).remove(0);
        assert_eq!((egress.rule.as_str(), egress.severity), ("POLICY_DENIED", Severity::Low));
        assert_eq!(egress.message, "egress to db/pg 80/TCP denied");
        assert!(matches!(&egress.about, About::Pod { name, .. } if name == "web-1"));
        assert_eq!(egress.owner.unwrap().name, "web");
        let ingress = signals(&flow(json!({"traffic_direction": "INGRESS"}))).remove(0);
        assert!(matches!(&ingress.about, About::Pod { name, .. } if name == "pg-0"));
    }

    #[test]
    fn leaving_for_the_world_is_worse_and_the_world_is_one_peer() {
        let to = |ip: &str| {
            signals(&flow(json!({"destination": {"labels": ["reserved:world"]}, "IP": {"source": "10.0.1.60", "destination": ip}}))).remove(0)
        };
        assert_eq!(to("1.2.3.4").severity, Severity::Medium);
        assert_eq!(to("1.2.3.4").identity, to("5.6.7.8").identity);
    }

    #[test]
    fn what_was_let_through_and_what_no_policy_dropped_is_no_finding() {
        for change in [
            json!({"verdict": "FORWARDED"}),
            json!({"drop_reason_desc": "INVALID_SOURCE_IP"}),
            json!({"drop_reason_desc": null, "drop_reason": 132}),
            json!({"drop_reason_desc": null}),
        ] {
            assert!(signals(&flow(change.clone())).is_empty(), "{change}");
        }
        assert!(signals(&json!({"lost_events": {"num_events_lost": "3"}})).is_empty());
        assert_eq!(signals(&flow(json!({"verdict": "AUDIT", "drop_reason_desc": null}))).len(), 1);
        assert_eq!(
            signals(&flow(json!({"drop_reason_desc": null, "l7": {"type": "REQUEST"}})))[0].rule,
            "POLICY_DENIED_L7"
        );
    }

    #[test]
    fn an_end_without_a_pod_is_an_address_or_a_node() {
        assert_eq!(signals(&flow(json!({"source": {}})))[0].about, About::Address { ip: "10.0.1.60".to_owned() });
        assert_eq!(
            signals(&flow(json!({"source": {"labels": ["reserved:host"]}})))[0].about,
            About::Node { name: "n1".to_owned() }
        );
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [(r#"{"a":1}"#, "flow"), (r#"{"flow":3}"#, "flow"), (r#"{"flow":{}}"#, "flow.verdict")] {
            assert_eq!(read(body.as_bytes()).unwrap_err().at, at);
        }
    }
}
