//! Objects of a cluster as `kubectl`, a watch or a tool's own webhook hand them on: one, several, a list of them, a frame of a watch.

use serde_json::Value;

use crate::json::{self, Object};
use crate::walk::{Fields, items, objects_at, text_at};
use crate::{About, Unreadable};

/// An object of a cluster.
pub(crate) struct Resource {
    pub(crate) object: Object,
    /// API version, such as `aquasecurity.github.io/v1alpha1`; empty where it isn't said.
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// A watch says that it was deleted.
    pub(crate) deleted: bool,
}

impl Resource {
    /// The API group; empty for Kubernetes' core.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// That objects of this kind are not what the format describes.
    pub(crate) fn not_read(&self, wanted: &str) -> Unreadable {
        let of = if self.api_version.is_empty() { String::new() } else { format!(" of {}", self.api_version) };
        Unreadable::new(self.object.at("kind"), format!("{}{of} is not read, {wanted} is", self.kind))
    }
}

/// All objects of a body. What has no kind is refused: `wanted` is what would be read.
pub(crate) fn resources(body: &[u8], wanted: &str) -> Result<Vec<Resource>, Unreadable> {
    let mut found = Vec::new();
    for object in json::objects(body)? {
        unfold(object, ("", ""), false, wanted, &mut found)?;
    }
    Ok(found)
}

/// The same of an object that is at hand already.
pub(crate) fn resources_in(object: Object, wanted: &str) -> Result<Vec<Resource>, Unreadable> {
    let mut found = Vec::new();
    unfold(object, ("", ""), false, wanted, &mut found)?;
    Ok(found)
}

/// `of` is what a list says of its items, which needn't say it themselves.
fn unfold(
    mut object: Object,
    of: (&str, &str),
    deleted: bool,
    wanted: &str,
    found: &mut Vec<Resource>,
) -> Result<(), Unreadable> {
    let text = |name: &str| text_at(&object.fields, &[name]);
    let kind = text("kind").unwrap_or_else(|| of.1.to_owned());
    let api_version = text("apiVersion").unwrap_or_else(|| of.0.to_owned());
    if kind.is_empty() {
        if let (Some(event), Some(Value::Object(_))) = (text("type"), object.fields.get("object")) {
            let Some(Value::Object(fields)) = object.fields.shift_remove("object") else { return Ok(()) };
            // A bookmark is a place in a watch, an error the end of it: neither is an object.
            return match event.as_str() {
                "BOOKMARK" | "ERROR" => Ok(()),
                _ => unfold(object.inside("object", fields), ("", ""), event == "DELETED", wanted, found),
            };
        }
        return Err(Unreadable::new(object.at("kind"), format!("missing: expected {wanted}")));
    }
    if let Some(item) = kind.strip_suffix("List").filter(|_| object.fields.contains_key("items")) {
        let items = match object.fields.shift_remove("items") {
            Some(Value::Array(items)) => items,
            Some(Value::Null) | None => Vec::new(),
            Some(other) => {
                let problem = format!("a list was expected, this is {}", json::kind_of(&other));
                return Err(Unreadable::new(object.at("items"), problem));
            }
        };
        let of = if item.is_empty() { ("", "") } else { (api_version.as_str(), item) };
        for (index, item) in items.into_iter().enumerate() {
            let at = format!("items[{index}]");
            let Value::Object(fields) = item else {
                let problem = format!("an object was expected, this is {}", json::kind_of(&item));
                return Err(Unreadable::new(object.at(&at), problem));
            };
            if found.len() >= crate::MAX_OBJECTS {
                return Err(Unreadable::too_many(object.at("items"), found.len()));
            }
            unfold(object.inside(&at, fields), of, deleted, wanted, found)?;
        }
        return Ok(());
    }
    found.push(Resource { object, api_version, kind, deleted });
    Ok(())
}

/// The object that a reference such as `involvedObject` or `scope` is to.
pub(crate) fn referred(reference: &Fields, namespace: &str) -> Option<About> {
    let kind = text_at(reference, &["kind"])?;
    let name = text_at(reference, &["name"])?;
    let namespace = text_at(reference, &["namespace"]).unwrap_or_else(|| namespace.to_owned());
    let namespace = if is_cluster_scoped(&kind) { String::new() } else { namespace };
    let api_version = text_at(reference, &["apiVersion"]).unwrap_or_default();
    Some(About::object(api_version, &kind, namespace, name, text_at(reference, &["uid"])))
}

/// Whether objects of a kind that every cluster has are in no namespace.
pub(crate) fn is_cluster_scoped(kind: &str) -> bool {
    const KINDS: [&str; 11] = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "StorageClass",
        "ValidatingWebhookConfiguration",
        "VolumeAttachment",
    ];
    KINDS.contains(&kind)
}

/// The first owner of an object.
pub(crate) fn owner(metadata: &Fields) -> Option<&Fields> {
    objects_at(metadata, &["ownerReferences"]).next()
}

/// The results of a report, each with its place; `None` where it has no such list.
pub(crate) fn list<'a>(resource: &'a Resource, name: &str) -> Result<Option<Vec<(String, &'a Fields)>>, Unreadable> {
    items(&resource.object, &resource.object.fields, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(body: &str) -> Result<Vec<(String, String, bool)>, Unreadable> {
        let found = resources(body.as_bytes(), "a Report")?;
        Ok(found.into_iter().map(|one| (one.api_version, one.kind, one.deleted)).collect())
    }

    #[test]
    fn objects_are_found_in_lists_and_frames() {
        let one = |kind: &str, deleted| ("v1".to_owned(), kind.to_owned(), deleted);
        for (body, expected) in [
            (r#"{"apiVersion":"v1","kind":"Pod"}"#, vec![one("Pod", false)]),
            (r#"{"kind":"List","items":[{"apiVersion":"v1","kind":"Pod"}]}"#, vec![one("Pod", false)]),
            (
                r#"{"apiVersion":"v1","kind":"PodList","items":[{},{"kind":"Node"}]}"#,
                vec![one("Pod", false), one("Node", false)],
            ),
            (r#"{"type":"DELETED","object":{"apiVersion":"v1","kind":"Pod"}}"#, vec![one("Pod", true)]),
            (r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"Pod"}}"#, vec![]),
            (r#"{"kind":"List","items":null}"#, vec![]),
        ] {
            assert_eq!(kinds(body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        assert_eq!(kinds(r#"{"a":1}"#).unwrap_err().to_string(), "kind: missing: expected a Report");
        assert_eq!(kinds(r#"{"kind":"List","items":[1]}"#).unwrap_err().at, "items[0]");
        assert_eq!(kinds(r#"{"kind":"List","items":{}}"#).unwrap_err().at, "items");
    }
}
