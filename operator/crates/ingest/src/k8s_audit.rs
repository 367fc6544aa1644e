//! The audit log of a Kubernetes API server: its webhook's `EventList`, single Events, lines of its log file.
//!
//! Fields: kubernetes/apiserver, `pkg/apis/audit/v1/types.go`; old versions as `audit.k8s.io/v1beta1`. A request has no severity: the rules
//! in [`rules`] say which of them are findings, after what Falco's rules for audit events watch (falcosecurity/plugins,
//! `plugins/k8saudit-rules`). Bodies of requests are read by the rules and never kept: they hold secrets.

mod rules;

use quell_crds::v1alpha1::Category;
use serde_json::Value;

use crate::json::{self, Object, kind_of};
use crate::kinds;
use crate::time::time;
use crate::walk::{Fields, image, object_at, objects_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound};
use rules::Found;

const TOOL: &str = "k8s-audit";

/// Reads requests: one signal for each rule that one meets.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals: Vec<Signal> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for object in json::objects(body)? {
        for request in requests_in(object)? {
            let fields = &request.object.fields;
            let id = text_at(fields, &["auditID"]).unwrap_or_default();
            for found in rules::judge(fields) {
                // A long request is audited when it begins and when it ends: once is enough where both are at hand.
                if id.is_empty() || seen.insert((id.clone(), found.rule.clone())) {
                    signals.push(signal(fields, found));
                }
            }
        }
    }
    Ok(signals)
}

/// One audited request.
pub(crate) struct Request {
    pub(crate) object: Object,
}

/// Whether an object is an audited request, or a list of them.
pub(crate) fn is_request(fields: &Fields) -> bool {
    let of_group = text_at(fields, &["apiVersion"]).is_some_and(|version| version.starts_with("audit.k8s.io/"));
    of_group
        || fields.contains_key("auditID")
        || text_at(fields, &["kind"]).is_some_and(|kind| kind == "EventList") && !fields.contains_key("apiVersion")
}

/// The requests of an object; a list's items don't say what they are.
pub(crate) fn requests_in(mut object: Object) -> Result<Vec<Request>, Unreadable> {
    if !is_request(&object.fields) {
        return Err(Unreadable::other_format(
            object.at("auditID"),
            "an audited request is of audit.k8s.io and has an id",
        ));
    }
    if text_at(&object.fields, &["kind"]).is_none_or(|kind| kind != "EventList") {
        return request(object).map(|request| vec![request]);
    }
    let items = match object.fields.shift_remove("items") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Err(Unreadable::new(
                object.at("items"),
                format!("a list was expected, this is {}", kind_of(&other)),
            ));
        }
    };
    let mut requests = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let at = format!("items[{index}]");
        let Value::Object(fields) = item else {
            return Err(Unreadable::new(object.at(&at), format!("an object was expected, this is {}", kind_of(&item))));
        };
        requests.push(request(object.inside(&at, fields))?);
    }
    Ok(requests)
}

fn request(object: Object) -> Result<Request, Unreadable> {
    for name in ["auditID", "verb"] {
        if text_at(&object.fields, &[name]).is_none() {
            return Err(Unreadable::other_format(object.at(name), "each audited request has it"));
        }
    }
    Ok(Request { object })
}

fn signal(fields: &Fields, found: Found) -> Signal {
    let user = user(fields);
    let mut details = details(fields);
    details.extend(found.details);
    let who = if user.is_empty() { "unknown".to_owned() } else { user.clone() };
    Signal {
        severity: found.severity,
        message: format!("{who}: {}", found.message),
        details: bound::details(&details),
        detected_at: ["stageTimestamp", "requestReceivedTimestamp", "timestamp"]
            .iter()
            .find_map(|name| time(&text_at(fields, &[name])?)),
        identity: [
            Some(user),
            text_at(fields, &["verb"]),
            text_at(fields, &["objectRef", "resource"]),
            text_at(fields, &["objectRef", "subresource"]),
        ]
        .map(Option::unwrap_or_default)
        .into(),
        ..Signal::new(
            TOOL,
            Category::Audit,
            found.rule,
            target(fields).unwrap_or_else(|| About::outside("Cluster", "cluster")),
        )
    }
}

/// Who asked, or as whom.
fn user(fields: &Fields) -> String {
    text_at(fields, &["impersonatedUser", "username"])
        .or_else(|| text_at(fields, &["user", "username"]))
        .unwrap_or_default()
}

/// What is kept of a request: never its body or the answer's.
pub(crate) fn details(fields: &Fields) -> Fields {
    let mut details =
        pick(fields, &["auditID", "stage", "verb", "requestURI", "sourceIPs", "userAgent", "annotations"]);
    for (name, keys) in [
        ("user", &["username", "groups"][..]),
        ("impersonatedUser", &["username", "groups"]),
        ("objectRef", &["apiGroup", "apiVersion", "resource", "subresource", "namespace", "name"]),
        ("responseStatus", &["code", "reason", "message"]),
    ] {
        if let Some(object) = object_at(fields, &[name]) {
            details.insert(name.to_owned(), pick(object, keys).into());
        }
    }
    details
}

/// The object that a request was for; none for a path such as `/healthz`.
pub(crate) fn target(fields: &Fields) -> Option<About> {
    let reference = object_at(fields, &["objectRef"])?;
    let resource = text_at(reference, &["resource"])?;
    let (kind, usual) = kinds::of_resource(&resource);
    let api_version = match (text_at(reference, &["apiGroup"]), text_at(reference, &["apiVersion"])) {
        (Some(group), Some(version)) => format!("{group}/{version}"),
        (None, Some(version)) => version,
        _ => usual,
    };
    // The API server's answer knows the name that it generated and the UID that it gave.
    let answered = |name: &str| {
        let same = text_at(fields, &["responseObject", "kind"]).is_some_and(|answer| answer == kind);
        text_at(fields, &["responseObject", "metadata", name]).filter(|_| same)
    };
    let name = text_at(reference, &["name"])
        .or_else(|| answered("name"))
        .or_else(|| text_at(fields, &["requestObject", "metadata", "name"]));
    let creates = text_at(fields, &["verb"]).is_some_and(|verb| verb == "create");
    let said = text_at(reference, &["uid"]).filter(|_| !creates || reference.contains_key("subresource"));
    let namespace = if resource == "namespaces" { None } else { text_at(reference, &["namespace"]) };
    // A request for all objects of the kind: no object is called so, and no step can take it for one.
    let name = name.unwrap_or_else(|| "*".to_owned());
    let about = match kind.as_str() {
        "Pod" | "Node" if !kinds::is_name(&name, 253) => About::Workload {
            api_version,
            kind,
            namespace: namespace.unwrap_or_default(),
            name,
            uid: None,
            container: None,
            image: None,
        },
        _ => About::object(
            api_version,
            &kind,
            namespace.unwrap_or_default(),
            name,
            answered("uid").or(said).filter(|uid| kinds::is_uid(uid)),
        ),
    };
    Some(about.with_container(container(fields), only_image(fields)))
}

/// The container that a command is run in.
fn container(fields: &Fields) -> Option<String> {
    let uri = text_at(fields, &["requestURI"])?;
    let (_, query) = uri.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("container="))
        .filter(|name| kinds::is_name(name, 63))
        .map(str::to_owned)
}

/// The image of a pod that was asked for, where it has one container only.
fn only_image(fields: &Fields) -> Option<crate::ImageRef> {
    let spec = object_at(fields, &["requestObject", "spec"])?;
    let mut containers = objects_at(spec, &["containers"]);
    let (one, none) = (containers.next()?, containers.next());
    if none.is_some() { None } else { image(text_at(one, &["image"])) }
}

#[cfg(test)]
mod tests;
