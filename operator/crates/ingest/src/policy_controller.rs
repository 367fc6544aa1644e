//! What sigstore's policy-controller turned away: it sends nothing itself, so its denials are read where they are seen: in the API server's
//! audit log, in Events, in its own log, or as the text that `kubectl` prints.
//!
//! Texts: sigstore/policy-controller, `pkg/webhook/validator.go`.

use quell_crds::v1alpha1::{Category, Severity};
use serde_json::Value;

use crate::denial::Denial;
use crate::json::{self, Object, kind_of};
use crate::kubernetes::{self, referred, resources_in};
use crate::time::time;
use crate::walk::{Fields, image, object_at, text_at};
use crate::{About, Signal, Unreadable, bound, k8s_audit};

const TOOL: &str = "policy-controller";
const WANTED: &str = "an Event, or an audited request,";
/// What its messages say after the webhook's name.
const FAILED: &str = "validation failed: ";
const WARNING: &str = "Warning: failed policy: ";

/// Its name by itself, its older name, and Chainguard's.
pub(crate) fn is_its_webhook(name: &str) -> bool {
    ["policy.sigstore.dev", "cosigned.sigstore.dev", "enforcer.chainguard.dev"].contains(&name)
}

/// Reads denials; requests and Events that tell of something else are no findings.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let objects = match json::objects(body) {
        Ok(objects) => objects,
        // What kubectl prints is text.
        Err(unreadable) => {
            let text = std::str::from_utf8(body).unwrap_or_default();
            return match body.trim_ascii_start().first() {
                Some(b'{' | b'[') => Err(unreadable),
                _ if speaks_of_it(text) => Ok(in_text(text, None)),
                _ => Err(unreadable),
            };
        }
    };
    let mut signals = Vec::new();
    for object in objects {
        if object.fields.contains_key("kind") || object.fields.contains_key("auditID") {
            in_object(object, &mut signals)?;
            continue;
        }
        let message = ["message", "msg", "error", "admissionreview/result"].iter().find_map(|name| said(&object, name));
        match message {
            Some(message) if speaks_of_it(&message) => signals.extend(in_text(&message, None)),
            // Lines of its own log that tell of something else.
            Some(_)
                if ["logger", "caller", "admissionreview/allowed"]
                    .iter()
                    .any(|name| object.fields.contains_key(*name)) => {}
            _ => {
                return Err(Unreadable::other_format(
                    object.at("message"),
                    "a denial by policy-controller has a message that says so",
                ));
            }
        }
    }
    Ok(signals)
}

fn said(object: &Object, name: &str) -> Option<String> {
    match object.fields.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Object(result) => text_at(result, &["message"]),
        other => Some(kind_of(other).to_owned()),
    }
}

fn in_object(object: Object, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    if k8s_audit::is_request(&object.fields) {
        for request in k8s_audit::requests_in(object)? {
            let fields = &request.object.fields;
            let Some(message) = text_at(fields, &["responseStatus", "message"]) else { continue };
            let details = bound::details(&k8s_audit::details(fields));
            let at =
                ["stageTimestamp", "requestReceivedTimestamp"].iter().find_map(|name| time(&text_at(fields, &[name])?));
            let about = k8s_audit::target(fields);
            signals.extend(in_text(&message, about.as_ref()).into_iter().map(|one| Signal {
                details: details.clone(),
                detected_at: at,
                ..one
            }));
        }
        return Ok(());
    }
    for resource in resources_in(object, WANTED)? {
        let fields = &resource.object.fields;
        let namespace = text_at(fields, &["metadata", "namespace"]).unwrap_or_default();
        let messages: Vec<String> = match resource.kind.as_str() {
            "Event" => ["message", "note"].iter().filter_map(|name| text_at(fields, &[name])).collect(),
            "Status" => text_at(fields, &["message"]).into_iter().collect(),
            "Deployment" | "ReplicaSet" | "StatefulSet" | "Job" | "DaemonSet" => conditions(fields),
            _ => return Err(resource.not_read(WANTED)),
        };
        let reference = ["involvedObject", "regarding"].iter().find_map(|name| object_at(fields, &[name]));
        let about = match reference {
            Some(reference) => referred(reference, &namespace),
            None => itself(&resource, &namespace),
        };
        for message in messages {
            signals.extend(in_text(&message, about.as_ref()));
        }
    }
    Ok(())
}

fn itself(resource: &kubernetes::Resource, namespace: &str) -> Option<About> {
    let metadata = object_at(&resource.object.fields, &["metadata"])?;
    let (name, uid) = (text_at(metadata, &["name"])?, text_at(metadata, &["uid"]));
    Some(About::object(resource.api_version.clone(), &resource.kind, namespace.to_owned(), name, uid))
}

fn conditions(fields: &Fields) -> Vec<String> {
    let conditions =
        object_at(fields, &["status"]).into_iter().flat_map(|status| crate::walk::objects_at(status, &["conditions"]));
    conditions.filter_map(|one| text_at(one, &["message"])).collect()
}

fn speaks_of_it(text: &str) -> bool {
    text.contains(WARNING) || matches!(Denial::parse(text), Some(Denial::Webhook { name, .. }) if is_its_webhook(&name))
}

fn in_text(message: &str, about: Option<&About>) -> Vec<Signal> {
    match Denial::parse(message) {
        Some(Denial::Webhook { name, said }) if is_its_webhook(&name) => denials(&said, about, Severity::High),
        _ => match message.split_once(WARNING) {
            // A policy in mode `warn` lets pass.
            Some((_, rest)) => denials(&format!("failed policy: {rest}"), about, Severity::Medium),
            None => Vec::new(),
        },
    }
}

/// The signals of what the webhook said after `denied the request:`, one for each policy that was not met and its image.
pub(crate) fn denials(said: &str, about: Option<&About>, severity: Severity) -> Vec<Signal> {
    let said = said.trim().strip_prefix(FAILED).unwrap_or(said);
    let mut signals: Vec<Signal> = Vec::new();
    let mut rule = None;
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("failed policy: ") {
            rule = Some(rest.split_once(": ").map_or(rest, |(name, _)| name).to_owned());
        } else if line.starts_with("no matching policies") {
            rule = Some("no matching policies".to_owned());
        } else if let Some(rest) = line.strip_prefix("invalid value: ") {
            let (reference, _) = rest.split_once(" must be an image digest").unwrap_or((rest, ""));
            signals.push(denial("image digest required".to_owned(), reference, line, about, severity));
        } else if line.starts_with("invalid image signature") {
            signals.push(denial("invalid image signature".to_owned(), "", line, about, severity));
        } else if let Some(rule) = &rule {
            let (reference, reason) = line.split_once(' ').unwrap_or((line, "no policy matches this image"));
            signals.push(denial(rule.clone(), reference, reason, about, severity));
        }
    }
    // A policy alone, or a text of another version: what was said is said.
    if signals.is_empty() {
        signals.push(denial(rule.unwrap_or_else(|| "validation failed".to_owned()), "", said, about, severity));
    }
    signals
}

fn denial(rule: String, reference: &str, reason: &str, about: Option<&About>, severity: Severity) -> Signal {
    let image = image(Some(reference.to_owned()).filter(|reference| !reference.is_empty()));
    let about = match (about, image.clone()) {
        (Some(about), image) => about.clone().with_container(None, image),
        (None, Some(image)) => About::Image { image },
        (None, None) => About::outside("Cluster", "cluster"),
    };
    let of = image.map(|image| image.identity()).unwrap_or_default();
    Signal {
        severity,
        message: format!("{reference} {reason}").trim().to_owned(),
        identity: vec![of],
        ..Signal::new(TOOL, Category::Policy, rule, about)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn denied(rest: &str) -> String {
        format!("admission webhook \"policy.sigstore.dev\" denied the request: validation failed: {rest}")
    }

    #[test]
    fn each_policy_that_was_not_met_is_a_signal_about_its_image() {
        let text = denied(&format!(
            "failed policy: signed: spec.containers[0].image\nghcr.io/acme/shop@{DIGEST} no matching signatures\n\
             failed policy: sbom: spec.containers[1].image\nghcr.io/acme/web:2 no matching attestations"
        ));
        let signals = read(json!({ "message": text }).to_string().as_bytes()).unwrap();
        let found: Vec<_> = signals
            .iter()
            .map(|one| (one.rule.as_str(), one.message.split_once(' ').unwrap().1, one.severity))
            .collect();
        assert_eq!(
            found,
            [
                ("signed", "no matching signatures", Severity::High),
                ("sbom", "no matching attestations", Severity::High)
            ]
        );
        assert!(matches!(&signals[0].about, About::Image { image } if image.digest.as_deref() == Some(DIGEST)));
        assert_eq!(read(format!("Error from server (BadRequest): {text}").as_bytes()).unwrap().len(), 2);
    }

    #[test]
    fn other_denials_have_names_of_their_own_and_a_warning_is_less() {
        for (text, rule, severity) in [
            (denied("no matching policies: spec.containers[0].image\nnginx"), "no matching policies", Severity::High),
            (
                denied("invalid value: mysql:latest must be an image digest: spec.containers[0].image"),
                "image digest required",
                Severity::High,
            ),
            (denied("something new"), "validation failed", Severity::High),
            (
                "Warning: failed policy: signed: spec.containers[0].image\nnginx no signatures found".to_owned(),
                "signed",
                Severity::Medium,
            ),
        ] {
            let signals = read(json!([{ "message": text }]).to_string().as_bytes()).unwrap();
            let found: Vec<_> = signals.iter().map(|one| (one.rule.as_str(), one.severity)).collect();
            assert_eq!(found, [(rule, severity)]);
        }
    }

    #[test]
    fn an_audited_request_says_what_was_to_be_changed() {
        let body = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": "a", "stage": "ResponseComplete", "verb": "create",
            "user": {"username": "jane"}, "objectRef": {"resource": "deployments", "apiGroup": "apps", "apiVersion": "v1", "namespace": "shop", "name": "web"},
            "responseStatus": {"code": 400, "message": denied("failed policy: signed: spec\nnginx no signatures found")}});
        let signals = read(body.to_string().as_bytes()).unwrap();
        let About::Workload { kind, name, image: Some(image), .. } = &signals[0].about else { panic!("{signals:?}") };
        assert_eq!(
            (kind.as_str(), name.as_str(), image.reference.as_str()),
            ("Deployment", "web", "docker.io/library/nginx:latest")
        );
        assert_eq!(signals[0].details["user"]["username"], "jane");
    }

    #[test]
    fn what_tells_of_something_else_is_no_finding_and_what_is_no_message_is_refused() {
        assert!(read(br#"{"logger":"policy-controller","message":"all is well"}"#).unwrap().is_empty());
        assert_eq!(read(br#"{"message":"all is well"}"#).unwrap_err().at, "message");
        assert_eq!(read(br#"{"a":1}"#).unwrap_err().at, "message");
        assert_eq!(read(b"hello").unwrap_err().at, "line 1, column 1");
        assert_eq!(read(br#"{"kind":"Pod","apiVersion":"v1"}"#).unwrap_err().at, "kind");
    }
}
