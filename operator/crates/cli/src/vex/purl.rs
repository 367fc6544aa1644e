//! Package URLs, as far as they name images and packages: <https://github.com/package-url/purl-spec>.

/// The image that a package URL of the type `oci` or `docker` names, as a Suppression has it: repository and digest, or tag.
pub(super) fn image(purl: &str) -> Option<String> {
    let rest = purl.strip_prefix("pkg:oci/").or_else(|| purl.strip_prefix("pkg:docker/"))?;
    let (path, qualifiers) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    let (name, version) = path.split_once('@').map_or((path, None), |(name, version)| (name, Some(decode(version))));
    let qualifier = |key: &str| {
        let of = qualifiers.split('&').filter_map(|pair| pair.split_once('='));
        of.into_iter().find(|(one, _)| *one == key).map(|(_, value)| decode(value))
    };
    let name = decode(name);
    let repository = match qualifier("repository_url") {
        // The specification has the name in it; some tools leave it out.
        Some(url) if url.rsplit('/').next() == name.rsplit('/').next() => url,
        Some(url) => format!("{}/{name}", url.trim_end_matches('/')),
        None => name,
    };
    let repository = repository.trim_start_matches("https://").to_owned();
    match (version, qualifier("tag")) {
        (Some(version), _) if version.starts_with("sha256:") => Some(format!("{repository}@{version}")),
        (Some(tag), _) | (None, Some(tag)) => Some(format!("{repository}:{tag}")),
        (None, None) => Some(repository),
    }
}

/// The name of the package that a package URL of any other type names, as scanners tell it.
pub(super) fn package(purl: &str) -> Option<String> {
    let rest = purl.strip_prefix("pkg:")?;
    let (kind, rest) = rest.split_once('/')?;
    if matches!(kind, "oci" | "docker") {
        return None;
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    // A scope such as `@types` is written as %40; what follows a plain @ is the version.
    let path = decode(path.rsplit_once('@').map_or(path, |(name, _)| name));
    let (namespace, name) = path.rsplit_once('/').map_or((None, path.as_str()), |(before, name)| (Some(before), name));
    Some(match (kind, namespace) {
        ("maven", Some(group)) => format!("{group}:{name}"),
        ("npm" | "golang" | "composer" | "github", Some(namespace)) => format!("{namespace}/{name}"),
        // For a package of a distribution, the namespace is the distribution.
        _ => name.to_owned(),
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hexadecimal = (first == b'%').then(|| std::str::from_utf8(tail.get(..2)?).ok()).flatten();
        if let Some(byte) = hexadecimal.and_then(|text| u8::from_str_radix(text, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
