//! Which revision of a workload no open Finding speaks against.

use std::collections::BTreeSet;

/// One revision of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Its number, as `kubectl rollout history` shows it.
    pub number: i64,
    /// The images of its containers, by reference, in one normal form.
    pub images: BTreeSet<String>,
    /// The digests of those images, as far as references or pods tell.
    pub digests: BTreeSet<String>,
    /// Those of `images` whose digest isn't known.
    pub undigested: BTreeSet<String>,
}

/// The images that open Findings name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Digests.
    pub digests: BTreeSet<String>,
    /// References, in the same normal form.
    pub images: BTreeSet<String>,
    /// Those of `images` that a Finding names without a digest.
    pub undigested: BTreeSet<String>,
}

impl Affected {
    /// Adds what a Finding names.
    pub fn add(&mut self, image: &str, digest: &str) {
        if !digest.is_empty() {
            self.digests.insert(digest.to_owned());
        }
        if !image.is_empty() {
            self.images.insert(image.to_owned());
            if digest.is_empty() {
                self.undigested.insert(image.to_owned());
            }
        }
    }

    /// Whether a Finding speaks against the revision. Digests decide where both sides have them, for a tag may have moved. Where one side
    /// has none, the reference is enough: to roll back to an image that may be the bad one is worse than to say no.
    #[must_use]
    pub fn includes(&self, revision: &Revision) -> bool {
        !self.digests.is_disjoint(&revision.digests)
            || !self.undigested.is_disjoint(&revision.images)
            || !self.images.is_disjoint(&revision.undigested)
    }
}

/// Whether an image is the one that is named: by a digest (`sha256:…`), a repository, one with a tag, or one with a digest. `nginx` is
/// `docker.io/library/nginx`.
#[must_use]
pub fn is_of(named: &str, image: &str, digest: &str) -> bool {
    let (image, digest_of_reference) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    let is_digest = |wanted: &str| wanted == digest || wanted == digest_of_reference;
    if named.starts_with("sha256:") {
        return is_digest(named);
    }
    if let Some((repository, wanted)) = named.split_once('@') {
        return is_digest(wanted) && complete(repository) == complete(repository_of(image));
    }
    if repository_of(named) == named {
        return !image.is_empty() && complete(named) == complete(repository_of(image));
    }
    complete(named) == complete(image)
}

/// The reference without its tag; the colon of a port comes before the last slash.
fn repository_of(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => reference,
    }
}

/// With the registry, and `library`, that container runtimes add.
fn complete(reference: &str) -> String {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
        None => format!("docker.io/library/{reference}"),
    }
}

/// The newest revision that isn't the current one and that no open Finding speaks against.
#[must_use]
pub fn last_unaffected<'a>(revisions: &'a [Revision], current: i64, affected: &Affected) -> Option<&'a Revision> {
    revisions
        .iter()
        .filter(|revision| revision.number != current && !affected.includes(revision))
        .max_by_key(|revision| revision.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: i64, image: &str, digest: &str) -> Revision {
        Revision {
            number,
            images: BTreeSet::from([image.to_owned()]),
            digests: if digest.is_empty() { BTreeSet::new() } else { BTreeSet::from([digest.to_owned()]) },
            undigested: if digest.is_empty() { BTreeSet::from([image.to_owned()]) } else { BTreeSet::new() },
        }
    }

    fn affected(images: &[&str], digests: &[&str]) -> Affected {
        let mut affected = Affected::default();
        for image in images {
            affected.add(image, "");
        }
        for digest in digests {
            affected.add("", digest);
        }
        affected
    }

    #[test]
    fn a_tag_that_has_moved_to_another_digest_is_not_affected() {
        let mut named = Affected::default();
        named.add("a:stable", "bad");
        assert!(!named.includes(&revision(1, "a:stable", "good")));
        assert!(named.includes(&revision(1, "a:stable", "bad")));
        assert!(named.includes(&revision(1, "a:stable", "")), "where the digest isn't known, the reference is enough");
    }

    #[test]
    fn the_newest_clean_revision_wins_even_where_the_previous_one_is_affected() {
        let history = [revision(1, "a:1", "d1"), revision(2, "a:2", "d2"), revision(3, "a:3", "d3")];
        let found = last_unaffected(&history, 3, &affected(&[], &["d2", "d3"]));
        assert_eq!(found.map(|r| r.number), Some(1));
    }

    #[test]
    fn the_current_revision_is_never_the_answer() {
        assert_eq!(last_unaffected(&[revision(3, "a:3", "d3")], 3, &affected(&[], &[])), None);
    }

    #[test]
    fn a_reference_counts_where_the_digest_is_not_known() {
        let history = [revision(1, "a:1", ""), revision(2, "a:2", "")];
        assert_eq!(last_unaffected(&history, 9, &affected(&["a:2"], &[])).map(|r| r.number), Some(1));
    }

    #[test]
    fn nothing_is_chosen_where_all_are_affected() {
        assert_eq!(last_unaffected(&[revision(1, "a:1", "d1")], 2, &affected(&["a:1"], &[])), None);
    }
}
