//! What an item is about: what is known decides.

use quell_playbooks::mapping::{Field, Target};

use crate::mapping::{Place, value};
use crate::walk::{container_id, image as parse_image};
use crate::{About, ImageRef, Unreadable, image, kinds};

/// What is said of it, each where it says something.
#[derive(Default)]
struct Said {
    kind: Option<String>,
    api_version: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    container: Option<String>,
    container_id: Option<String>,
    image: Option<ImageRef>,
    node: Option<String>,
    address: Option<String>,
}

pub(super) fn about(place: &mut Place, target: &Target) -> Result<About, Unreadable> {
    let said = Said {
        kind: place.text(target.kind.as_ref())?,
        api_version: place.text(target.api_version.as_ref())?,
        namespace: place.text(target.namespace.as_ref())?,
        name: place.text(target.name.as_ref())?,
        uid: place.text(target.uid.as_ref())?,
        container: place.text(target.container.as_ref())?,
        container_id: id(place, target.container_id.as_ref())?,
        image: image_of(place, target)?,
        node: place.text(target.node.as_ref())?,
        address: place.text(target.address.as_ref())?,
    };
    said.about().map_err(|(name, problem)| Unreadable::new(format!("{}target.{name}", place.at), problem))
}

/// The runtime's id of a container. What is none, as Falco's `host`, is unknown.
fn id(place: &mut Place, field: Option<&Field>) -> Result<Option<String>, Unreadable> {
    Ok(place.text(field)?.and_then(|said| container_id(&said)))
}

fn image_of(place: &mut Place, target: &Target) -> Result<Option<ImageRef>, Unreadable> {
    let mut found = parse_image(place.text(target.image.as_ref())?);
    let digest = place.read(target.digest.as_ref(), |said| {
        let Some(said) = value::text(said)? else { return Ok(None) };
        let digest = image::digest(&said);
        digest.map(Some).ok_or_else(|| format!("`{said}` is no digest; sha256:… was expected"))
    })?;
    if let Some(digest) = digest.flatten() {
        found.get_or_insert_default().digest = Some(digest);
    }
    Ok(found)
}

impl Said {
    /// Or the field that is wrong, and how.
    fn about(self) -> Result<About, (&'static str, String)> {
        let Self { kind, api_version, namespace, name, uid, container, container_id, image, node, address } = self;
        match (kind.as_deref(), name) {
            (Some("Image"), name) => {
                let image =
                    parse_image(name).or(image).ok_or(("image", "is empty: an Image has a reference".to_owned()))?;
                Ok(About::Image { image })
            }
            (Some("Node"), name) => {
                let name = name.or(node).ok_or(("name", "is empty: a Node has a name".to_owned()))?;
                Ok(About::Node { name })
            }
            (Some("Cluster"), _) => Ok(About::outside("Cluster", "cluster")),
            (Some("Pod") | None, Some(name)) => match namespace {
                Some(namespace) => {
                    let uid = uid.filter(|uid| kinds::is_uid(uid));
                    Ok(About::Pod { namespace, name, uid, container, container_id, image })
                }
                None if kind.is_none() => {
                    Err(("kind", format!("is empty, and `{name}` is in no namespace: say what it is")))
                }
                None => Err(("namespace", format!("is empty: the Pod `{name}` is in one"))),
            },
            (Some(kind), Some(name)) => {
                let about =
                    About::object(api_version.unwrap_or_default(), kind, namespace.unwrap_or_default(), name, uid);
                Ok(about.with_container(container, image))
            }
            (kind, None) => {
                if let Some(id) = container_id {
                    return Ok(About::Container { id, node, image });
                }
                if let Some(image) = image {
                    return Ok(About::Image { image });
                }
                if let Some(ip) = address {
                    return Ok(About::Address { ip });
                }
                if let Some(name) = node {
                    return Ok(About::Node { name });
                }
                match (kind, namespace) {
                    (None | Some("Namespace"), Some(name)) => {
                        Ok(About::object("v1".to_owned(), "Namespace", String::new(), name, None))
                    }
                    (None, None) => Ok(About::outside("Cluster", "cluster")),
                    (Some(kind), _) => Err(("name", format!("is empty: which {kind} is it?"))),
                }
            }
        }
    }
}
