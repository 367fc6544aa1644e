//! The envelopes that AWS puts around what its services find: EventBridge's, and SNS' around that.

pub mod sns;

use serde_json::Value;

use crate::image::{digest, normalize_image};
use crate::json::{self, Object, kind_of, object_in_text};
use crate::lenient::field;
use crate::walk::{Fields, object_at, text_at};
use crate::{FollowUp, ImageRef, Received, Signal, Unreadable};

/// What a service said, out of its envelopes.
pub(crate) struct Event {
    pub(crate) object: Object,
    /// EventBridge's `source` and `detail-type`; of what came without an envelope neither is known.
    pub(crate) source: Option<String>,
    pub(crate) kind: Option<String>,
    /// EventBridge's time of the event.
    pub(crate) time: Option<String>,
    /// EventBridge's `account` and `region`.
    pub(crate) account: Option<(String, String)>,
}

/// What a reader of one service makes of an event.
pub(crate) type Reader = fn(&Event, &mut Vec<Signal>) -> Result<(), Unreadable>;

/// Reads events in their envelopes, or without them.
pub(crate) fn received(body: &[u8], read: Reader) -> Result<Received, Unreadable> {
    let mut received = Received::default();
    for object in json::objects(body)? {
        unwrap(object, read, &mut received)?;
    }
    Ok(received)
}

fn unwrap(mut object: Object, read: Reader, received: &mut Received) -> Result<(), Unreadable> {
    let text = |name: &str| text_at(&object.fields, &[name]);
    if let (Some(kind), Some(topic)) = (text("Type"), text("TopicArn")) {
        return match kind.as_str() {
            "Notification" => {
                let message = text("Message").and_then(|message| object_in_text(&message));
                let Some(fields) = message else {
                    return Err(Unreadable::new(object.at("Message"), "the message of SNS is no JSON object"));
                };
                unwrap(object.inside("Message", fields), read, received)
            }
            "SubscriptionConfirmation" => {
                let Some(confirm) = text("SubscribeURL") else {
                    return Err(Unreadable::other_format(object.at("SubscribeURL"), "a confirmation of SNS has it"));
                };
                received.follow_ups.push(FollowUp::SnsSubscription { topic, confirm });
                Ok(())
            }
            "UnsubscribeConfirmation" => Ok(()),
            _ => Err(Unreadable::new(object.at("Type"), format!("{kind} is no type of SNS' messages"))),
        };
    }
    let (source, kind, time, account) =
        (text("source"), text("detail-type"), text("time"), text("account").zip(text("region")));
    if kind.is_some() || source.as_ref().is_some_and(|source| source.starts_with("aws.")) {
        let detail = match object.fields.shift_remove("detail") {
            Some(Value::Object(detail)) => detail,
            Some(other) => {
                return Err(Unreadable::new(
                    object.at("detail"),
                    format!("an object was expected, this is {}", kind_of(&other)),
                ));
            }
            None => return Err(Unreadable::other_format(object.at("detail"), "an event of EventBridge has it")),
        };
        let object = object.inside("detail", detail);
        return read(&Event { object, source, kind, time, account }, &mut received.signals);
    }
    read(&Event { object, source: None, kind: None, time: None, account: None }, &mut received.signals)
}

impl Event {
    /// That an event is of another service than the Source's.
    pub(crate) fn expect(&self, sources: &[&str], name: &str) -> Result<(), Unreadable> {
        match &self.source {
            Some(source) if !sources.contains(&source.as_str()) => {
                Err(Unreadable::new("source", format!("{source} is not {name}; is this the body of another service?")))
            }
            _ => Ok(()),
        }
    }
}

/// The image of an ECR repository: by its ARN `arn:aws:ecr:<region>:<account>:repository/<name>[/sha256:…]` or the name alone.
pub(crate) fn ecr_image(arn: &str, registry: Option<&str>, tag: Option<&str>, said: Option<&str>) -> ImageRef {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let (region, account, path) = match parts.as_slice() {
        ["arn", partition, "ecr", region, account, path] => (Some((*region, *partition)), Some(*account), *path),
        _ => (None, None, arn),
    };
    let path = path.strip_prefix("repository/").unwrap_or(path);
    let (name, in_path) = match path.split_once("/sha256:") {
        Some((name, hash)) => (name, Some(format!("sha256:{hash}"))),
        None => (path, None),
    };
    let host = match (registry.or(account), region) {
        (Some(account), Some((region, partition))) => {
            let end = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("{account}.dkr.ecr.{region}.{end}/")
        }
        _ => String::new(),
    };
    let tag = tag.filter(|tag| !tag.is_empty()).map(|tag| format!(":{tag}")).unwrap_or_default();
    let found = said.and_then(digest).or_else(|| in_path.as_deref().and_then(digest));
    let reference = format!("{host}{name}{tag}");
    let reference = match (&found, tag.is_empty()) {
        // Without a tag the digest says which image it is.
        (Some(digest), true) => normalize_image(&format!("{reference}@{digest}")),
        _ => normalize_image(&reference),
    };
    ImageRef { reference, digest: found, image_id: None }
}

/// Whether an EC2 instance is a node of a cluster, by its tags, and the name it has there.
pub(crate) fn node_name(instance: &Fields, interfaces: &[&str]) -> Option<String> {
    let tags = field(instance, "tags")?;
    let is_cluster = |key: &str| {
        key.starts_with("kubernetes.io/cluster/") || key.starts_with("eks:") || key == "aws:eks:cluster-name"
    };
    let of_cluster = match tags {
        Value::Array(list) => {
            list.iter().filter_map(|tag| text_at(tag.as_object()?, &["key"])).any(|key| is_cluster(&key))
        }
        Value::Object(map) => map.keys().any(|key| is_cluster(key)),
        _ => false,
    };
    let interface = || {
        field(instance, "networkInterfaces")?.as_array()?.first()?.as_object().and_then(|one| text_at(one, interfaces))
    };
    of_cluster.then(|| text_at(instance, interfaces).or_else(interface)).flatten()
}

/// The object at the end of a way, whose own name says what it is.
pub(crate) fn named<'a>(fields: &'a Fields, names: &[&'static str]) -> Option<(&'static str, &'a Fields)> {
    names.iter().find_map(|name| Some((*name, object_at(fields, &[name])?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn echo(event: &Event, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
        event.expect(&["aws.test"], "a test")?;
        let rule = event.object.at("x");
        signals.push(Signal::new(
            "t",
            quell_crds::v1alpha1::Category::Other,
            rule,
            crate::About::outside("External", "x"),
        ));
        Ok(())
    }

    fn rules(body: &Value) -> Vec<String> {
        received(body.to_string().as_bytes(), echo).unwrap().signals.into_iter().map(|signal| signal.rule).collect()
    }

    #[test]
    fn what_is_inside_is_read_and_knows_its_place() {
        let event = json!({"version": "0", "source": "aws.test", "detail-type": "T", "detail": {}});
        assert_eq!(rules(&json!({})), ["x"]);
        assert_eq!(rules(&event), ["detail.x"]);
        let notification =
            json!({"Type": "Notification", "TopicArn": "arn:aws:sns:a:1:t", "Message": event.to_string()});
        assert_eq!(rules(&notification), ["Message.detail.x"]);
        assert!(rules(&json!({"Type": "UnsubscribeConfirmation", "TopicArn": "t"})).is_empty());
    }

    #[test]
    fn a_subscription_waits_for_its_confirmation() {
        let body = json!({"Type": "SubscriptionConfirmation", "TopicArn": "t", "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?x"});
        let received = received(body.to_string().as_bytes(), echo).unwrap();
        assert_eq!(
            received.follow_ups,
            [FollowUp::SnsSubscription {
                topic: "t".to_owned(),
                confirm: "https://sns.us-east-1.amazonaws.com/?x".to_owned()
            }]
        );
    }

    #[test]
    fn other_services_and_broken_envelopes_are_refused_with_their_place() {
        for (body, at) in [
            (json!({"source": "aws.other", "detail-type": "T", "detail": {}}), "source"),
            (json!({"source": "aws.test", "detail-type": "T"}), "detail"),
            (json!({"source": "aws.test", "detail-type": "T", "detail": 3}), "detail"),
            (json!({"Type": "Notification", "TopicArn": "t", "Message": "hello"}), "Message"),
            (json!({"Type": "Other", "TopicArn": "t"}), "Type"),
        ] {
            assert_eq!(received(body.to_string().as_bytes(), echo).unwrap_err().at, at, "{body}");
        }
    }

    #[test]
    fn an_image_of_ecr_has_its_registry_by_account_and_region() {
        let arn = format!("arn:aws:ecr:us-east-2:1234:repository/team/web/{DIGEST}");
        let image = ecr_image(&arn, None, Some("v1"), None);
        assert_eq!(
            (image.reference.as_str(), image.digest.as_deref()),
            ("1234.dkr.ecr.us-east-2.amazonaws.com/team/web:v1", Some(DIGEST))
        );
        assert_eq!(ecr_image(&arn, None, None, None).reference, "1234.dkr.ecr.us-east-2.amazonaws.com/team/web");
        assert_eq!(ecr_image("web", None, Some("v1"), None).reference, "docker.io/library/web:v1");
    }
}
