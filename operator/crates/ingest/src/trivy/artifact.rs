//! What Trivy scanned.

use super::report::{Metadata, Os, Report, Resource, Scanned};
use crate::image::{digest, normalize_image, split_digest};
use crate::lenient::Text;
use crate::{About, ImageRef, kinds};

/// What a report is about, and the steady, readable name of it.
pub(super) struct Artifact {
    pub(super) about: About,
    pub(super) name: String,
}

impl Artifact {
    /// Of a report on one artifact.
    pub(super) fn of_report(report: &Report, results: &[Scanned]) -> Self {
        let said = report.artifact_name.as_ref().and_then(Text::known).unwrap_or_default();
        let kind = match report.artifact_type.known().unwrap_or_default() {
            "container_image" | "image" => return Self::image(said, report.metadata.0.first(), results),
            // Older than the type itself: what has an image's metadata is one.
            "" if report.metadata.0.iter().any(Metadata::is_image) => {
                return Self::image(said, report.metadata.0.first(), results);
            }
            // A list of what is in an image may say of which.
            "cyclonedx" | "spdx" if report.metadata.0.iter().any(Metadata::is_image) => {
                return Self::image("", report.metadata.0.first(), results);
            }
            "filesystem" | "fs" => "Filesystem",
            "repository" | "repo" => "Repository",
            "vm" => "VirtualMachine",
            _ => "Artifact",
        };
        let address = report.metadata.0.first().and_then(|metadata| metadata.repo_url.known());
        let name = without_credentials(address.unwrap_or(if said.is_empty() { "unknown" } else { said }));
        Self { about: About::outside(kind, &name), name }
    }

    /// Of the oldest reports, which are a list of results and don't say of what: the name of the first one tells.
    pub(super) fn of_results(results: &[Scanned]) -> Self {
        if image_in_results(results).is_some() {
            return Self::image("", None, results);
        }
        let name = results.iter().find_map(|result| result.target.known()).unwrap_or("unknown").to_owned();
        Self { about: About::outside("Artifact", &name), name }
    }

    /// Of an object of the cluster.
    pub(super) fn of_resource(resource: &Resource) -> Self {
        let (namespace, kind, name) = (resource.namespace.get(), resource.kind.get(), resource.name.get());
        let images: Vec<_> = resource.metadata.0.iter().filter(|metadata| metadata.is_image()).collect();
        // With several images, nothing tells which of them a result belongs to.
        let image = match images.as_slice() {
            [] => image_in_results(&resource.results.0).map(|target| ImageRef::parse(&target)),
            [metadata] => Some(image("", Some(metadata), &resource.results.0)),
            _ => None,
        };
        let title = if namespace.is_empty() { format!("{kind}/{name}") } else { format!("{namespace}/{kind}/{name}") };
        let about = match kind.as_str() {
            "Pod" if !namespace.is_empty() => {
                About::Pod { namespace, name, uid: None, container: None, container_id: None, image }
            }
            "Node" | "NodeInfo" | "NodeComponents" => About::Node { name },
            _ => About::Workload {
                api_version: kinds::api_version(&kind),
                kind,
                namespace,
                name,
                uid: None,
                container: None,
                image,
            },
        };
        Self { about, name: title }
    }

    fn image(said: &str, metadata: Option<&Metadata>, results: &[Scanned]) -> Self {
        let image = image(said, metadata, results);
        let name = image.name();
        Self { about: About::Image { image }, name }
    }
}

impl Metadata {
    /// `trivy k8s` writes empty metadata for what isn't an image.
    fn is_image(&self) -> bool {
        [&self.image_id, &self.reference]
            .into_iter()
            .chain(&self.repo_tags.0)
            .chain(&self.repo_digests.0)
            .any(|text| text.known().is_some())
    }

    pub(super) fn os(&self) -> Option<&Os> {
        self.os.as_ref().filter(|os| os.family.known().is_some_and(|family| family != "none"))
    }
}

/// The image that was asked for, else one that it is tagged as. The name of an archive is no reference.
fn image(said: &str, metadata: Option<&Metadata>, results: &[Scanned]) -> ImageRef {
    let none = Metadata::default();
    let metadata = metadata.unwrap_or(&none);
    let digests = || metadata.repo_digests.0.iter().filter_map(Text::known);
    let is_archive = said.starts_with(['/', '.']) || [".tar", ".tar.gz", ".tgz"].iter().any(|end| said.ends_with(end));
    let asked = Some(said).filter(|said| !said.is_empty() && !is_archive);
    let found = asked
        .or_else(|| metadata.reference.known())
        .or_else(|| metadata.repo_tags.0.iter().find_map(Text::known))
        .map(str::to_owned)
        .or_else(|| digests().next().map(str::to_owned))
        .or_else(|| image_in_results(results));
    let mut image = found.map_or_else(
        || ImageRef { reference: said.to_owned(), ..ImageRef::default() },
        |reference| ImageRef::parse(&reference),
    );
    let of_the_same = |candidate: &&str| {
        let (name, _) = split_digest(candidate);
        let repository = normalize_image(&format!("{name}:x"));
        image.reference.starts_with(repository.trim_end_matches('x')) || repository == format!("{}:x", image.reference)
    };
    if image.digest.is_none() {
        // An image that was pushed to several registries has a digest in each, mostly the same.
        let digest_of = digests().find(of_the_same).or_else(|| digests().next()).and_then(digest);
        image.digest = digest_of;
    }
    image.image_id = metadata.image_id.known().and_then(digest);
    image
}

/// Results on the packages of an operating system are called `<image> (<family> <version>)`.
fn image_in_results(results: &[Scanned]) -> Option<String> {
    let target = results.iter().find_map(|result| result.target.known()?.strip_suffix(')')?.split_once(" ("))?;
    Some(target.0.to_owned()).filter(|name| !name.is_empty() && !name.contains(' '))
}

/// The address of a repository may have a token in it.
fn without_credentials(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_an_address_is_left_out() {
        assert_eq!(without_credentials("https://me:token@git.example/a@b"), "https://git.example/a@b");
        assert_eq!(without_credentials("https://git.example"), "https://git.example");
        assert_eq!(without_credentials("./a@b"), "./a@b");
    }
}
