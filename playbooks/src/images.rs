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
}

/// The images that open Findings name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Digests.
    pub digests: BTreeSet<String>,
    /// References, in the same normal form; of Findings whose digest isn't known.
    pub images: BTreeSet<String>,
}

impl Affected {
    /// Whether a Finding speaks against the revision. A reference whose digest isn't known on either side is enough:
    /// to roll back to an image that may be the bad one is worse than to say no.
    #[must_use]
    pub fn includes(&self, revision: &Revision) -> bool {
        !self.digests.is_disjoint(&revision.digests) || !self.images.is_disjoint(&revision.images)
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
        }
    }

    fn affected(images: &[&str], digests: &[&str]) -> Affected {
        Affected {
            images: images.iter().map(ToString::to_string).collect(),
            digests: digests.iter().map(ToString::to_string).collect(),
        }
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
