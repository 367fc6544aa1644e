//! Kubernetes Events that tell of something that security turned away or found; also the condition of a workload that tells the same.
//!
//! Fields: kubernetes/api, `core/v1` and `events/v1` (`Event`). An Event has no severity, and most have nothing to do with security: only
//! those of [`RULES`] and denials of admission are findings.

use quell_crds::v1alpha1::{Category, Severity};

use crate::denial::{self, Denial};
use crate::json::{self, Object};
use crate::kubernetes::{Resource, referred, resources_in};
use crate::time::time;
use crate::walk::{Fields, items, object_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound, policy_controller};

const TOOL: &str = "k8s-events";
const WANTED: &str = "an Event";

/// Reasons that policy engines give to their Events, and how bad they are: Kyverno (`pkg/event/reason.go`), Gatekeeper
/// (`pkg/webhook/policy.go`, `pkg/audit/manager.go`), Fairwinds Insights.
const RULES: [(&str, Severity); 6] = [
    ("PolicyViolation", Severity::Medium),
    ("VAPViolation", Severity::Medium),
    ("FailedAdmission", Severity::Medium),
    ("AuditViolation", Severity::Medium),
    ("WarningAdmission", Severity::Low),
    ("DryrunViolation", Severity::Low),
];

/// Kinds whose conditions say `ReplicaFailure`.
const WORKLOADS: [&str; 4] = ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// Reads Events; those of other reasons are no findings.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    read_chosen(body, &[])
}

/// The same where a Source chooses reasons: only these are read, and each of them is a finding, Medium where nothing else is known of it.
/// Without any it is as Quell knows Events.
pub fn read_chosen(body: &[u8], chosen: &[String]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        if is_condition(&object) {
            signals.extend(condition(&object.fields, None));
            continue;
        }
        for resource in resources_in(object, WANTED)? {
            if WORKLOADS.contains(&resource.kind.as_str()) {
                workload(&resource, &mut signals)?;
            } else if resource.kind == "Event" && matches!(resource.group(), "" | "events.k8s.io") {
                event(&resource, chosen, &mut signals)?;
            } else {
                return Err(resource.not_read(WANTED));
            }
        }
    }
    Ok(signals)
}

fn is_condition(object: &Object) -> bool {
    ["type", "status", "reason", "message", "lastTransitionTime"].iter().all(|name| object.fields.contains_key(*name))
        && !object.fields.contains_key("kind")
}

fn event(resource: &Resource, chosen: &[String], signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let fields = &resource.object.fields;
    let Some(reason) = text_at(fields, &["reason"]) else {
        return Err(Unreadable::other_format(resource.object.at("reason"), "an Event has a reason"));
    };
    let Some(reference) = ["involvedObject", "regarding"].iter().find_map(|name| object_at(fields, &[name])) else {
        return Err(Unreadable::other_format(resource.object.at("involvedObject"), "an Event says what it is about"));
    };
    let is_chosen = chosen.contains(&reason);
    // What is deleted is the Event, after an hour: that says nothing about the problem.
    let is_normal = text_at(fields, &["type"]).is_some_and(|kind| kind == "Normal");
    if resource.deleted || (is_normal && !is_chosen) || (!chosen.is_empty() && !is_chosen) {
        return Ok(());
    }
    let namespace = text_at(fields, &["metadata", "namespace"]).unwrap_or_default();
    let message = text_at(fields, &["message"]).or_else(|| text_at(fields, &["note"])).unwrap_or_default();
    let place = violating(fields).or_else(|| referred(reference, &namespace));
    let about = place.unwrap_or_else(|| About::outside("Cluster", "cluster"));
    let details = bound::details(&details(fields, reference));
    // Of a series, each of which is written into the one Event, the last.
    let seen: [&[&str]; 5] = [
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["eventTime"],
        &["deprecatedLastTimestamp"],
        &["firstTimestamp"],
    ];
    let at = seen.iter().find_map(|path| time(&text_at(fields, path)?));
    if let Some((_, severity)) = RULES.iter().find(|(known, _)| *known == reason) {
        signals.push(Signal {
            severity: *severity,
            identity: vec![reason.clone(), denial::steady(&message)],
            message: message.clone(),
            details,
            detected_at: at,
            ..Signal::new(TOOL, Category::Policy, rule(fields, &reason, &message), about)
        });
        return Ok(());
    }
    let Some(denial) = Denial::parse(&message).filter(|_| reason.starts_with("Failed")) else {
        if is_chosen {
            signals.push(Signal {
                severity: Severity::Medium,
                identity: vec![denial::steady(&message)],
                message,
                details,
                detected_at: at,
                ..Signal::new(TOOL, Category::Other, reason, about)
            });
        }
        return Ok(());
    };
    if let Denial::Webhook { name, said } = &denial
        && policy_controller::is_its_webhook(name)
    {
        let found = policy_controller::denials(said, Some(&about), Severity::High);
        signals.extend(found.into_iter().map(|one| Signal { details: details.clone(), detected_at: at, ..one }));
        return Ok(());
    }
    signals.push(Signal {
        severity: Severity::Medium,
        identity: vec![reason, denial::steady(&message)],
        message,
        details,
        detected_at: at,
        ..Signal::new(TOOL, Category::Policy, denial.rule(), about)
    });
    Ok(())
}

fn workload(resource: &Resource, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let none = Fields::new();
    let fields = &resource.object.fields;
    let metadata = object_at(fields, &["metadata"]).unwrap_or(&none);
    let text = |name: &str| text_at(metadata, &[name]);
    let Some(name) = text("name") else {
        return Err(Unreadable::other_format(resource.object.at("metadata.name"), "an object has a name"));
    };
    let about = About::object(
        resource.api_version.clone(),
        &resource.kind,
        text("namespace").unwrap_or_default(),
        name,
        text("uid"),
    );
    let Some(status) = object_at(fields, &["status"]) else { return Ok(()) };
    let conditions = items(&resource.object, status, "conditions")
        .map_err(|error| Unreadable { at: format!("status.{}", error.at), ..error })?;
    for (_, one) in conditions.unwrap_or_default() {
        signals.extend(condition(one, Some(&about)));
    }
    Ok(())
}

/// `ReplicaFailure`, where admission is why.
fn condition(condition: &Fields, about: Option<&About>) -> Option<Signal> {
    let text = |name: &str| text_at(condition, &[name]);
    let message = text("message")?;
    if text("type")? != "ReplicaFailure" || text("status")? != "True" {
        return None;
    }
    let denial = Denial::parse(&message)?;
    let about = about.cloned().unwrap_or_else(|| {
        // A condition by itself names the pod at most, and no namespace.
        About::object(
            "v1".to_owned(),
            "Pod",
            String::new(),
            denial::pod(&message).unwrap_or_else(|| "unknown".to_owned()),
            None,
        )
    });
    Some(Signal {
        severity: Severity::Medium,
        identity: vec!["ReplicaFailure".to_owned(), denial::steady(&message)],
        message,
        details: bound::details(&pick(condition, &["type", "reason", "lastTransitionTime"])),
        detected_at: text("lastUpdateTime").or_else(|| text("lastTransitionTime")).and_then(|at| time(&at)),
        ..Signal::new(TOOL, Category::Policy, denial.rule(), about)
    })
}

/// Gatekeeper annotates its Events with the object that violates; the Event itself may be about the constraint.
fn violating(event: &Fields) -> Option<About> {
    let text = |name: &str| text_at(event, &["metadata", "annotations", name]);
    let (kind, name) = (text("resource_kind")?, text("resource_name")?);
    let version = text("resource_api_version").unwrap_or_default();
    let api_version = match text("resource_group") {
        Some(group) if !version.contains('/') => format!("{group}/{version}"),
        _ => version,
    };
    let namespace = if crate::kubernetes::is_cluster_scoped(&kind) { None } else { text("resource_namespace") };
    Some(About::object(api_version, &kind, namespace.unwrap_or_default(), name, None))
}

/// The policy: of Gatekeeper as annotated, of Kyverno as its message begins (`policy ns/name/rule fail: …`).
fn rule(event: &Fields, reason: &str, message: &str) -> String {
    let text = |name: &str| text_at(event, &["metadata", "annotations", name]);
    if let (Some(kind), Some(name)) = (text("constraint_kind"), text("constraint_name")) {
        return format!("{kind}/{name}");
    }
    let named = message.strip_prefix("policy ").and_then(|rest| rest.split_whitespace().next());
    let related = || {
        text_at(event, &["involvedObject", "name"])
            .filter(|_| text_at(event, &["involvedObject", "kind"]).is_some_and(|kind| kind.ends_with("Policy")))
    };
    named.map(str::to_owned).or_else(related).unwrap_or_else(|| reason.to_owned())
}

fn details(event: &Fields, reference: &Fields) -> Fields {
    let mut details =
        pick(event, &["reason", "type", "count", "action", "reportingComponent", "reportingController", "related"]);
    if let Some(component) = text_at(event, &["source", "component"]) {
        details.insert("component".to_owned(), component.into());
    }
    details.insert("involvedObject".to_owned(), pick(reference, &["kind", "namespace", "name", "fieldPath"]).into());
    details
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DENIED: &str =
        r#"Error creating: pods "web-6475d-78rvr" is forbidden: violates PodSecurity "restricted:v1.35": x"#;

    fn event(reason: &str, kind: &str, message: &str) -> Value {
        json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e", "namespace": "shop"}, "type": kind, "reason": reason,
            "message": message, "count": 3, "lastTimestamp": "2026-04-17T11:33:08Z", "involvedObject": {"kind": "ReplicaSet",
            "apiVersion": "apps/v1", "namespace": "shop", "name": "web-6475d", "uid": "99658fa9-c658-4e12-a01c-826b5219dd04"}})
    }

    fn signals(body: &Value) -> Vec<Signal> {
        read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_denial_of_admission_is_a_signal_about_the_owner_and_the_same_for_each_try() {
        let one = signals(&event("FailedCreate", "Warning", DENIED)).remove(0);
        assert_eq!(
            (one.rule.as_str(), one.severity, one.category),
            ("PodSecurity restricted", Severity::Medium, Category::Policy)
        );
        assert!(matches!(&one.about, About::Workload { kind, uid: Some(_), .. } if kind == "ReplicaSet"));
        let again = signals(&event("FailedCreate", "Warning", &DENIED.replace("78rvr", "zzzzz"))).remove(0);
        assert_eq!(one.identity, again.identity);
    }

    #[test]
    fn what_has_nothing_to_do_with_security_is_no_finding() {
        for (reason, kind, message) in [
            ("FailedScheduling", "Warning", "no nodes"),
            ("FailedCreate", "Warning", "exceeded quota"),
            ("PolicyApplied", "Normal", "fine"),
            ("BackOff", "Warning", DENIED),
        ] {
            assert!(signals(&event(reason, kind, message)).is_empty(), "{reason}");
        }
    }

    #[test]
    fn of_chosen_reasons_each_is_a_finding_and_others_are_none() {
        let chosen = ["BackOff".to_owned(), "FailedCreate".to_owned()];
        let read = |body: &Value| read_chosen(body.to_string().as_bytes(), &chosen).unwrap();
        let one = read(&event("BackOff", "Normal", "Back-off pulling image")).remove(0);
        assert_eq!((one.rule.as_str(), one.severity, one.category), ("BackOff", Severity::Medium, Category::Other));
        assert_eq!(read(&event("FailedCreate", "Warning", DENIED)).remove(0).rule, "PodSecurity restricted");
        assert!(read(&event("PolicyViolation", "Warning", "policy x fail")).is_empty());
    }

    #[test]
    fn an_event_of_gatekeeper_is_about_the_object_that_violates() {
        let mut body = event("AuditViolation", "Warning", "no team");
        body["metadata"]["annotations"] = json!({"constraint_kind": "K8sRequiredLabels", "constraint_name": "team", "resource_kind": "Pod",
            "resource_name": "web-1", "resource_namespace": "shop", "resource_api_version": "v1"});
        let signal = signals(&body).remove(0);
        assert_eq!(signal.rule, "K8sRequiredLabels/team");
        assert!(matches!(&signal.about, About::Pod { name, .. } if name == "web-1"));
    }

    #[test]
    fn a_denial_by_sigstore_is_read_as_the_policy_controllers() {
        let said = "admission webhook \"policy.sigstore.dev\" denied the request: validation failed: failed policy: signed: spec.containers[0].image\nnginx no matching signatures";
        let signal = signals(&event("FailedCreate", "Warning", said)).remove(0);
        assert_eq!(
            (signal.tool.as_str(), signal.rule.as_str(), signal.severity),
            ("policy-controller", "signed", Severity::High)
        );
        assert!(matches!(&signal.about, About::Workload { kind, image: Some(_), .. } if kind == "ReplicaSet"));
    }

    #[test]
    fn the_condition_of_a_workload_tells_the_same() {
        let condition = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": DENIED, "lastTransitionTime": "2022-10-28T19:09:56Z"});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "status": {"conditions": [condition]}});
        assert!(
            matches!(&signals(&deployment)[0].about, About::Workload { kind, name, .. } if kind == "Deployment" && name == "web")
        );
        assert!(
            matches!(&signals(&condition)[0].about, About::Workload { kind, name, .. } if kind == "Pod" && name == "web-6475d-78rvr")
        );
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (json!({"apiVersion": "audit.k8s.io/v1", "kind": "Event", "reason": "x"}), "kind"),
            (json!({"apiVersion": "v1", "kind": "Pod"}), "kind"),
            (json!({"apiVersion": "v1", "kind": "Event"}), "reason"),
            (json!({"apiVersion": "v1", "kind": "Event", "reason": "x"}), "involvedObject"),
            (json!({}), "kind"),
        ] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
