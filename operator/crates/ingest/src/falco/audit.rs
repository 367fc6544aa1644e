//! Alerts on the API server's audit log: falcosecurity/plugins, `plugins/k8saudit/README.md`.

use serde_json::{Map, Value};

use crate::kinds::{self, is_name};
use crate::lenient::first_text;
use crate::{About, ImageRef};

/// Whether an alert is about a request to the API server. Old versions don't write the source.
pub(super) fn is_audit(source: &str, fields: &Map<String, Value>) -> bool {
    source.replace('-', "_").starts_with("k8s_audit")
        || source.starts_with("k8saudit")
        || fields.contains_key("ka.verb")
        || fields.contains_key("ka.target.resource")
}

/// The object that the request was for.
pub(super) fn about(fields: &Map<String, Value>) -> About {
    let Some(resource) = first_text(fields, &["ka.target.resource"]) else {
        // A path such as /healthz: no object.
        return About::outside("External", "k8s_audit");
    };
    // Rules may leave it out of their output; the path of the request says it, too.
    let asked = || first_text(fields, &["ka.uri"]).and_then(|path| kinds::namespace_in_path(&path));
    let namespace = first_text(fields, &["ka.target.namespace"]).or_else(asked).unwrap_or_default();
    // The name that the API server gave to an object created with generateName is in its response.
    let name = first_text(fields, &["ka.target.name", "ka.resp.name"]);
    let image = image(fields);
    match (resource.to_ascii_lowercase().as_str(), name) {
        ("pods", Some(name)) if is_name(&name, 253) && is_name(&namespace, 63) => {
            About::Pod { namespace, name, uid: None, container: None, container_id: None, image }
        }
        ("nodes", Some(name)) => About::Node { name },
        ("namespaces", Some(name)) => object(&resource, String::new(), name, fields, image),
        // A request for all objects of the kind. No object is called so, and no step can take it for one.
        (_, name) => object(&resource, namespace, name.unwrap_or_else(|| "*".to_owned()), fields, image),
    }
}

fn object(
    resource: &str,
    namespace: String,
    name: String,
    fields: &Map<String, Value>,
    image: Option<ImageRef>,
) -> About {
    let (kind, usual) = kinds::of_resource(resource);
    let asked = first_text(fields, &["ka.uri"]).and_then(|path| kinds::api_version_in_path(&path));
    About::Workload { api_version: asked.unwrap_or(usual), kind, namespace, name, uid: None, container: None, image }
}

/// The image of a pod that was asked for, where it has one only.
fn image(fields: &Map<String, Value>) -> Option<ImageRef> {
    let images = fields.get("ka.req.pod.containers.image")?;
    if images.as_array().is_some_and(|images| images.len() != 1) {
        return None;
    }
    let reference = crate::lenient::text(images)?;
    (!reference.contains([',', ' '])).then(|| ImageRef::parse(&reference))
}

/// Who did what: another user, or another verb on the same object, is another problem.
pub(super) fn identity(fields: &Map<String, Value>) -> Vec<String> {
    ["ka.user.name", "ka.verb", "ka.target.resource", "ka.target.subresource"]
        .map(|name| first_text(fields, &[name]).unwrap_or_default())
        .into()
}
