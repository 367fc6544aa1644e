//! OPA Gatekeeper: constraints with what their audit found, messages of its export, and the log of its audit.
//!
//! Fields: open-policy-agent/gatekeeper, `website/docs/audit.md`, `pkg/export/util/util.go` (`ExportMsg`) and `pkg/logging`. A constraint's
//! status lists at most `--constraint-violations-limit` violations; `totalViolations` says how many there are.

use quell_crds::v1alpha1::{Category, Severity};
use serde_json::Value;

use crate::json::{self, Object};
use crate::kubernetes::{Resource, is_cluster_scoped, resources_in};
use crate::severity::{known, severity};
use crate::time::time;
use crate::walk::{Fields, items, object_at, objects_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "gatekeeper";
const WANTED: &str = "a constraint of constraints.gatekeeper.sh";

/// Reads constraints and messages. That an audit began or ended is no finding.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects_except(body, says_nothing)? {
        if object.fields.contains_key("eventType") || object.fields.contains_key("event_type") {
            signals.extend(message(&object)?);
            continue;
        }
        if is_other_line(&object.fields) {
            continue;
        }
        for resource in resources_in(object, WANTED)? {
            constraint(&resource, &mut signals)?;
        }
    }
    Ok(signals)
}

/// `audit is started`, `audit is completed`.
pub(crate) fn says_nothing(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("audit is "))
}

/// A line of the audit's log that tells of something else than violations.
fn is_other_line(fields: &Fields) -> bool {
    ["level", "ts", "msg"].iter().all(|name| fields.contains_key(*name)) && !fields.contains_key("kind")
}

fn constraint(resource: &Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    if resource.group() != "constraints.gatekeeper.sh" {
        return Err(resource.not_read(WANTED));
    }
    let fields = &resource.object.fields;
    let Some(name) = text_at(fields, &["metadata", "name"]) else {
        return Err(Unreadable::other_format(resource.object.at("metadata.name"), "a constraint has a name"));
    };
    let said = ["labels", "annotations"].iter().find_map(|map| text_at(fields, &["metadata", map, "severity"]));
    let Some(status) = object_at(fields, &["status"]) else { return Ok(()) };
    let violations = items(&resource.object, status, "violations")
        .map_err(|error| Unreadable { at: format!("status.{}", error.at), ..error })?;
    for (_, violation) in violations.unwrap_or_default() {
        let about = about(violation, ["group", "version", "kind", "namespace", "name"]);
        let message = text_at(violation, &["message"]).unwrap_or_default();
        let mut details = pick(violation, &["enforcementAction", "enforcementActions"]);
        details.extend(pick(status, &["totalViolations", "auditTimestamp"]));
        details.insert("constraint".to_owned(), serde_json::json!({"kind": resource.kind, "name": name}));
        signals.push(Signal {
            severity: said.as_deref().and_then(known).unwrap_or_else(|| of_action(violation)),
            resolved: resource.deleted,
            details: bound::details(&details),
            detected_at: text_at(status, &["auditTimestamp"]).and_then(|at| time(&at)),
            identity: vec![steady(&message)],
            message,
            ..Signal::new(TOOL, Category::Policy, format!("{}/{name}", resource.kind), about)
        });
    }
    Ok(())
}

fn message(object: &Object) -> Result<Option<Signal>, Unreadable> {
    let fields = &object.fields;
    // The audit's log writes the same under names of its own.
    let is_log = fields.contains_key("event_type");
    let text = |exported: &str, logged: &str| text_at(fields, &[if is_log { logged } else { exported }]);
    let event = text("eventType", "event_type").unwrap_or_default();
    if !event.starts_with("violation") {
        return match event.as_str() {
            "audit_started" | "audit_finished" | "template_ingested" | "constraint_audited" => Ok(None),
            _ => Err(Unreadable::other_format(
                object.at("eventType"),
                "an export of Gatekeeper says violation_audited or violation_admission",
            )),
        };
    }
    let (Some(kind), Some(name)) = (text("kind", "constraint_kind"), text("name", "constraint_name")) else {
        return Err(Unreadable::other_format(object.at("kind"), "a violation names its constraint"));
    };
    let about = if is_log {
        about(
            fields,
            ["resource_group", "resource_api_version", "resource_kind", "resource_namespace", "resource_name"],
        )
    } else {
        about(fields, ["resourceGroup", "resourceAPIVersion", "resourceKind", "resourceNamespace", "resourceName"])
    };
    let said = ["severity", "metadata.gatekeeper.sh/severity"]
        .iter()
        .find_map(|key| text_at(fields, &["constraintAnnotations", key]));
    let message = text("message", "msg").unwrap_or_default();
    let names = [
        "id",
        "eventType",
        "enforcementAction",
        "enforcementActions",
        "details",
        "operation",
        "requestUsername",
        "constraint_action",
        "event_type",
    ];
    Ok(Some(Signal {
        severity: said.as_deref().map_or_else(|| of_action(fields), severity),
        details: bound::details(&pick(fields, &names)),
        detected_at: ["timestamp", "id", "ts", "audit_id"].iter().find_map(|name| time(&text_at(fields, &[name])?)),
        identity: vec![steady(&message)],
        message,
        ..Signal::new(TOOL, Category::Policy, format!("{kind}/{name}"), about)
    }))
}

/// The object that violates, by the names of its five fields.
fn about(fields: &Fields, [group, version, kind, namespace, name]: [&str; 5]) -> About {
    let text = |name: &str| text_at(fields, &[name]).unwrap_or_default();
    let kind = text(kind);
    let kind = if kind.is_empty() { "unknown" } else { &kind };
    let (group, version) = (text(group), text(version));
    let api_version = if group.is_empty() || version.contains('/') { version } else { format!("{group}/{version}") };
    let namespace = if is_cluster_scoped(kind) { String::new() } else { text(namespace) };
    let name = text(name);
    // Written without a version (before Gatekeeper 3.7), an object's group can't be told either.
    About::object(api_version, kind, namespace, if name.is_empty() { "*".to_owned() } else { name }, None)
}

/// What a violation without a severity of its own weighs: by what Gatekeeper does about it.
fn of_action(violation: &Fields) -> Severity {
    let first = || objects_at(violation, &["enforcementActions"]).find_map(|one| text_at(one, &["action"]));
    let action = text_at(violation, &["enforcementAction"]).or_else(|| text_at(violation, &["constraint_action"]));
    let action = match action.as_deref() {
        Some("scoped") | None => first().or_else(|| text_at(violation, &["enforcementActions"])).or(action),
        _ => action,
    };
    match action.as_deref() {
        Some("deny") => Severity::High,
        Some("warn") => Severity::Medium,
        _ => Severity::Low,
    }
}

/// What stays the same in a message from audit to audit: its words without their order, since lists in it have none, and without ages.
fn steady(message: &str) -> String {
    const UNITS: [&str; 6] = ["second", "minute", "hour", "day", "week", "month"];
    let words: Vec<&str> = message
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}'))
        .filter(|word| !word.is_empty())
        .collect();
    let is_age = |index: usize| {
        let next = words.get(index + 1).is_some_and(|next| UNITS.iter().any(|unit| next.starts_with(unit)));
        next && words.get(index).is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
    };
    let mut kept: Vec<&str> =
        (0..words.len()).filter(|index| !is_age(*index)).filter_map(|index| words.get(index).copied()).collect();
    kept.sort_unstable();
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn constraint(action: &str, labels: &Value, message: &str) -> Value {
        json!({"apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "K8sRequiredLabels",
            "metadata": {"name": "team", "labels": labels},
            "status": {"auditTimestamp": "2024-01-01T00:00:00Z", "totalViolations": 7, "violations": [
                {"enforcementAction": action, "enforcementActions": [{"action": "warn"}], "group": "apps", "version": "v1",
                    "kind": "Deployment", "namespace": "shop", "name": "web", "message": message}]}})
    }

    fn one(body: &Value) -> Signal {
        read(body.to_string().as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_violation_is_a_signal_about_its_object_as_bad_as_its_constraint_says_or_acts() {
        let signal = one(&constraint("deny", &json!({}), "m"));
        assert_eq!((signal.rule.as_str(), signal.severity), ("K8sRequiredLabels/team", Severity::High));
        let About::Workload { api_version, kind, namespace, name, .. } = &signal.about else {
            panic!("{:?}", signal.about)
        };
        assert_eq!([api_version, kind, namespace, name], ["apps/v1", "Deployment", "shop", "web"]);
        for (action, severity) in [("warn", Severity::Medium), ("dryrun", Severity::Low), ("scoped", Severity::Medium)]
        {
            assert_eq!(one(&constraint(action, &json!({}), "m")).severity, severity, "{action}");
        }
        assert_eq!(one(&constraint("deny", &json!({"severity": "info"}), "m")).severity, Severity::Info);
    }

    #[test]
    fn a_message_is_the_same_whatever_the_order_of_its_list_and_its_ages() {
        let identity = |message: &str| one(&constraint("deny", &json!({}), message)).identity;
        assert_eq!(identity(r#"missing: {"a", "b"}"#), identity(r#"missing: {"b", "a"}"#));
        assert_eq!(identity("image x is 819 days old"), identity("image x is 820 days old"));
        assert_ne!(identity("port 80 is open"), identity("port 81 is open"));
    }

    #[test]
    fn an_exported_violation_is_the_same_as_the_audited_one() {
        let exported = json!({"id": "2024-01-01T00:00:00Z", "eventType": "violation_audited", "kind": "K8sRequiredLabels", "name": "team",
            "group": "constraints.gatekeeper.sh", "enforcementAction": "deny", "message": "m", "resourceGroup": "apps",
            "resourceAPIVersion": "v1", "resourceKind": "Deployment", "resourceNamespace": "shop", "resourceName": "web"});
        let (exported, audited) = (one(&exported), one(&constraint("deny", &json!({}), "m")));
        assert_eq!(
            (&exported.rule, &exported.about, &exported.identity),
            (&audited.rule, &audited.about, &audited.identity)
        );
        let logged = json!({"event_type": "violation_audited", "constraint_kind": "K8sRequiredLabels", "constraint_name": "team", "msg": "m",
            "constraint_action": "deny", "resource_group": "apps", "resource_api_version": "v1", "resource_kind": "Deployment",
            "resource_namespace": "shop", "resource_name": "web"});
        assert_eq!((one(&logged).about, one(&logged).severity), (audited.about, Severity::High));
    }

    #[test]
    fn what_an_audit_says_about_itself_is_nothing_and_a_deleted_constraint_ends_its_violations() {
        let lines = "\"audit is started\"\n{\"event_type\":\"audit_started\"}\n{\"level\":\"info\",\"ts\":1767225600.1,\"logger\":\"controller\",\"msg\":\"auditing is complete\"}\n\"audit is completed\"";
        assert!(read(lines.as_bytes()).unwrap().is_empty());
        assert!(one(&json!({"type": "DELETED", "object": constraint("deny", &json!({}), "m")})).resolved);
        assert!(
            read(br#"{"apiVersion":"constraints.gatekeeper.sh/v1beta1","kind":"K","metadata":{"name":"x"}}"#)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (r#"{"a":1}"#, "kind"),
            (r#"{"apiVersion":"v1","kind":"Pod"}"#, "kind"),
            (r#"{"eventType":"x"}"#, "eventType"),
            (r#"{"eventType":"violation_audited"}"#, "kind"),
            (
                r#"{"apiVersion":"constraints.gatekeeper.sh/v1beta1","kind":"K","metadata":{"name":"x"},"status":{"violations":3}}"#,
                "status.violations",
            ),
            ("\"something else\"", "line 1"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
