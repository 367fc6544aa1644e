//! Events of Tetragon, as it exports them: one JSON line each.
//!
//! Fields: cilium/tetragon, `api/v1/tetragon/tetragon.proto`, in protojson with the proto's names. Of all that a node runs only what a
//! TracingPolicy asked for is a finding, and what Tetragon stopped.

use quell_crds::v1alpha1::{Category, Severity, Workload};
use serde_json::Value;

use crate::json::{self, Object, kind_of};
use crate::kinds::{self, is_name, is_uid};
use crate::lenient::field;
use crate::time::time;
use crate::walk::{Fields, container_id, image, object_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound, image as images};

const TOOL: &str = "tetragon";

/// Reads events.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    json::objects(body)?.iter().filter_map(|object| event(object).transpose()).collect()
}

fn event(object: &Object) -> Result<Option<Signal>, Unreadable> {
    let fields = &object.fields;
    let is_event = |name: &str| name.starts_with("process_") || matches!(name, "rate_limit_info" | "test");
    let Some((kind, value)) = fields.iter().find(|(name, value)| is_event(name) && !value.is_null()) else {
        return Err(Unreadable::other_format(
            object.at("process_kprobe"),
            "an event of Tetragon has this or another process_…",
        ));
    };
    let Value::Object(event) = value else {
        return Err(Unreadable::new(object.at(kind), format!("an object was expected, this is {}", kind_of(value))));
    };
    let policy = text_at(event, &["policy_name"]);
    let stopped = stopped(event);
    if matches!(kind.as_str(), "process_exec" | "process_exit" | "process_throttle") || policy.is_none() && !stopped {
        return Ok(None);
    }
    let none = Fields::new();
    let process = object_at(event, &["process"]).unwrap_or(&none);
    let function = ["function_name", "event", "path", "symbol"]
        .iter()
        .find_map(|name| text_at(event, &[name]))
        .unwrap_or_default();
    let binary = text_at(process, &["binary"]).unwrap_or_default();
    let command = format!("{binary} {}", text_at(process, &["arguments"]).unwrap_or_default());
    let happened = format!("{}: {function}", command.trim());
    let mut details = pick(
        event,
        &[
            "policy_name",
            "function_name",
            "args",
            "return",
            "action",
            "return_action",
            "message",
            "tags",
            "subsys",
            "event",
            "path",
            "symbol",
        ],
    );
    let shown = ["binary", "arguments", "pid", "uid", "cwd", "exec_id", "start_time", "flags"];
    details.insert("process".to_owned(), pick(process, &shown).into());
    if let Some(parent) = object_at(event, &["parent"]) {
        details.insert("parent".to_owned(), pick(parent, &["binary", "arguments", "pid", "exec_id"]).into());
    }
    details.insert("event".to_owned(), kind.clone().into());
    Ok(Some(Signal {
        severity: if stopped { Severity::High } else { Severity::Medium },
        message: text_at(event, &["message"])
            .map_or_else(|| happened.clone(), |said| format!("{said}: {}", command.trim())),
        owner: owner(process),
        details: bound::details(&details),
        detected_at: text_at(fields, &["time"]).and_then(|at| time(&at)),
        identity: vec![function.clone(), binary],
        ..Signal::new(
            TOOL,
            Category::Runtime,
            policy.unwrap_or(function),
            about(process, text_at(fields, &["node_name"])),
        )
    }))
}

/// Whether Tetragon did something about it.
fn stopped(event: &Fields) -> bool {
    let acts = |name: &str| {
        text_at(event, &[name]).is_some_and(|action| {
            ["SIGKILL", "SIGNAL", "OVERRIDE", "NOTIFYENFORCER", "NOTIFYKILLER"]
                .iter()
                .any(|word| action.ends_with(word))
        })
    };
    acts("action") || acts("return_action")
}

fn about(process: &Fields, node: Option<String>) -> About {
    let text = |way: &[&str]| text_at(process, way);
    let id = text(&["pod", "container", "id"]).or_else(|| text(&["docker"])).and_then(|id| container_id(&id));
    // The name is the reference as the workload has it, the id the digest that was pulled.
    let digest = text(&["pod", "container", "image", "id"]).and_then(|id| images::digest(&id));
    let image =
        image(text(&["pod", "container", "image", "name"]).or_else(|| text(&["pod", "container", "image", "id"])))
            .map(|found| crate::ImageRef { digest: found.digest.clone().or(digest), ..found });
    let namespace = text(&["pod", "namespace"]).filter(|name| is_name(name, 63));
    match (namespace, text(&["pod", "name"]).filter(|name| is_name(name, 253)), id) {
        (Some(namespace), Some(name), id) => About::Pod {
            namespace,
            name,
            uid: text(&["pod", "uid"]).filter(|uid| is_uid(uid)),
            container: text(&["pod", "container", "name"]).filter(|name| is_name(name, 63)),
            container_id: id,
            image,
        },
        (_, _, Some(id)) => About::Container { id, node, image },
        _ => About::Node { name: node.unwrap_or_else(|| "unknown".to_owned()) },
    }
}

fn owner(process: &Fields) -> Option<Workload> {
    let pod = field(process, "pod")?.as_object()?;
    let (kind, name) = (text_at(pod, &["workload_kind"])?, text_at(pod, &["workload"])?);
    let namespace = text_at(pod, &["namespace"])?;
    Some(Workload { api_version: kinds::api_version(&kind), kind, namespace, name, uid: String::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(action: &str, policy: Option<&str>) -> Value {
        json!({"process_kprobe": {"process": {"binary": "/bin/vi", "arguments": "/etc/passwd", "pid": 64746, "exec_id": "a", "pod": {
            "namespace": "shop", "name": "web-1", "workload": "web", "workload_kind": "Deployment", "container": {"name": "app",
            "id": "containerd://6b742e38ee3a212239e6d48b2954435a407af44b9a354bd", "image": {"name": "docker.io/library/busybox:1",
            "id": "docker.io/library/busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}}, "docker": "6b742e38ee3a212"},
            "function_name": "security_file_permission", "action": action, "policy_name": policy, "return": {"int_arg": "9007199254740993"}},
            "node_name": "n1", "time": "2024-04-14T02:18:14.376304204Z"})
    }

    fn signals(body: &Value) -> Vec<Signal> {
        read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_policy_asked_for_is_a_finding_and_what_it_stopped_a_worse_one() {
        let signal = signals(&event("KPROBE_ACTION_POST", Some("files"))).remove(0);
        assert_eq!((signal.rule.as_str(), signal.severity), ("files", Severity::Medium));
        let About::Pod { name, image: Some(image), container_id: Some(_), .. } = &signal.about else {
            panic!("{:?}", signal.about)
        };
        assert!(name == "web-1" && image.digest.is_some());
        assert_eq!(signal.owner.unwrap().name, "web");
        assert_eq!(signals(&event("KPROBE_ACTION_SIGKILL", Some("files")))[0].severity, Severity::High);
        assert_eq!(signals(&event("KPROBE_ACTION_SIGKILL", None))[0].rule, "security_file_permission");
    }

    #[test]
    fn telemetry_is_no_finding() {
        for body in [
            event("KPROBE_ACTION_POST", None),
            json!({"process_exec": {"process": {"binary": "/usr/bin/nsenter"}}, "node_name": "n"}),
            json!({"process_exit": {"process": {}}}),
            json!({"rate_limit_info": {"number_of_dropped_process_events": "3"}}),
        ] {
            assert!(signals(&body).is_empty(), "{body}");
        }
    }

    #[test]
    fn a_process_of_the_host_is_about_its_node() {
        let mut body = event("KPROBE_ACTION_POST", Some("modules"));
        body["process_kprobe"]["process"] = json!({"binary": "/usr/sbin/insmod"});
        assert_eq!(signals(&body)[0].about, About::Node { name: "n1".to_owned() });
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        assert_eq!(read(br#"{"flow":{}}"#).unwrap_err().at, "process_kprobe");
        assert_eq!(read(br#"{"process_kprobe":3}"#).unwrap_err().at, "process_kprobe");
    }
}
