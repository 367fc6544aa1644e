//! Image references, which tools write in many ways.

/// An image, as far as a tool named it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRef {
    /// Registry, repository and tag, without the digest. As Falco writes it, which may leave out registry and tag; of
    /// scanners the result of [`normalize_image`], to be compared with that of a pod's image as it is.
    pub reference: String,
    /// Digest of the image's manifest, such as `sha256:…`.
    pub digest: Option<String>,
    /// Digest of the image's configuration, Trivy's `ImageID` and the `imageID` of some container runtimes.
    pub image_id: Option<String>,
}

impl ImageRef {
    /// The image of a reference that may have a digest, such as `nginx:1.27@sha256:…`, in normal form.
    #[must_use]
    pub fn parse(reference: &str) -> Self {
        let (_, found) = split_digest(reference);
        Self { reference: normalize_image(reference), digest: found.and_then(digest), image_id: None }
    }

    /// What it is called: its reference, else its digest.
    pub(crate) fn name(&self) -> String {
        let names = [Some(&self.reference), self.digest.as_ref(), self.image_id.as_ref()];
        names.into_iter().flatten().find(|name| !name.is_empty()).cloned().unwrap_or_else(|| "unknown".to_owned())
    }

    /// What is the same however it is called: its digest, else its id, else its reference.
    pub(crate) fn identity(&self) -> String {
        self.digest.as_ref().or(self.image_id.as_ref()).unwrap_or(&self.reference).clone()
    }
}

/// The one form in which references of images are compared: with registry, repository and tag, without digest, as
/// container runtimes complete them. `nginx`, `library/nginx:latest` and `index.docker.io/library/nginx` are all
/// `docker.io/library/nginx:latest`.
///
/// A reference with a digest and no tag stays without tag, since the digest says which image is meant. What is an image's id
/// alone (`sha256:…`) stays as it is. A scheme such as `docker-pullable://` is dropped.
#[must_use]
pub fn normalize_image(reference: &str) -> String {
    let (name, digest) = split_digest(reference);
    if name.is_empty() || name.starts_with("sha256:") {
        return name.to_owned();
    }
    let (name, tag) = split_tag(name);
    // As in the reference grammar of `distribution`: the first part is a registry if it can't be part of a repository.
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first.to_ascii_lowercase(), rest),
        _ => ("docker.io".to_owned(), name),
    };
    let registry = match registry.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        other => other,
    };
    let library = if registry == "docker.io" && !repository.contains('/') { "library/" } else { "" };
    match (tag, digest) {
        (Some(tag), _) => format!("{registry}/{library}{repository}:{tag}"),
        (None, Some(_)) => format!("{registry}/{library}{repository}"),
        (None, None) => format!("{registry}/{library}{repository}:latest"),
    }
}

/// A reference without its scheme, in two at the `@`.
pub(crate) fn split_digest(reference: &str) -> (&str, Option<&str>) {
    let reference = reference.trim();
    let reference = reference.split_once("://").map_or(reference, |(_, rest)| rest);
    match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    }
}

/// A reference without digest, in two at the `:` of the tag, which is not that of the registry's port.
pub(crate) fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !tag.is_empty() => (name, Some(tag)),
        _ => (name, None),
    }
}

/// The digest in a text that is one, or a reference with one. Whatever else is none: a wrong digest would be believed.
pub(crate) fn digest(text: &str) -> Option<String> {
    let text = split_digest(text).1.unwrap_or(text).trim();
    let (algorithm, hash) = text.split_once(':')?;
    let known = matches!(algorithm, "sha256" | "sha384" | "sha512");
    let hexadecimal = (32..=128).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (known && hexadecimal).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_of_the_same_image_have_one_form() {
        for reference in [
            "nginx",
            "nginx:latest",
            "library/nginx",
            "docker.io/nginx",
            "docker.io/library/nginx:latest",
            "index.docker.io/library/nginx",
            "registry-1.docker.io/library/nginx:latest",
            "docker-pullable://nginx:latest",
            &format!("nginx:latest@{DIGEST}"),
        ] {
            assert_eq!(normalize_image(reference), "docker.io/library/nginx:latest", "{reference}");
        }
    }

    #[test]
    fn registries_ports_and_tags_are_kept_apart() {
        assert_eq!(normalize_image("localhost:5000/shop"), "localhost:5000/shop:latest");
        assert_eq!(normalize_image("localhost/shop:2"), "localhost/shop:2");
        assert_eq!(normalize_image("GHCR.io/acme/shop:V2"), "ghcr.io/acme/shop:V2");
        assert_eq!(normalize_image("acme/shop"), "docker.io/acme/shop:latest");
    }

    #[test]
    fn a_digest_stands_for_the_tag() {
        let image = ImageRef::parse(&format!("quay.io/acme/shop@{DIGEST}"));
        assert_eq!(image.reference, "quay.io/acme/shop");
        assert_eq!(image.digest.as_deref(), Some(DIGEST));
        assert_eq!(normalize_image(DIGEST), DIGEST);
        assert_eq!(normalize_image(""), "");
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        for reference in ["nginx", "a:5/b", "a.b/c:d", "ghcr.io/x/y", ":", "/", "a//b", "a:"] {
            let once = normalize_image(reference);
            assert_eq!(normalize_image(&once), once, "{reference}");
        }
    }

    #[test]
    fn what_is_no_digest_is_none() {
        assert_eq!(digest(DIGEST).as_deref(), Some(DIGEST));
        assert_eq!(digest(&format!("nginx@{DIGEST}")).as_deref(), Some(DIGEST));
        for text in ["", "<NA>", "sha256:", "sha256:xyz", "latest", "md5:0123456789abcdef0123456789abcdef"] {
            assert_eq!(digest(text), None, "{text}");
        }
    }
}
