//! Names that Quell gives, and the labels and annotations that it reads and writes.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The API group of every kind of Quell.
pub const GROUP: &str = "quell.dev";

/// Label of a quarantined pod; its value is the name of the quarantine profile. The profile's policy selects by it. And the finalizer of
/// that policy, as long as there is such a pod.
pub const QUARANTINE: &str = "quell.dev/quarantine";
/// Label and annotation of an object that a run has changed or created: the name of the Remediation, which is in the
/// object's own namespace.
pub const REMEDIATION: &str = "quell.dev/remediation";
/// Label of an object that a run has created outside of its own namespace: the namespace of the Remediation.
pub const REMEDIATION_NAMESPACE: &str = "quell.dev/remediation-namespace";
/// Annotation of a role binding: the ServiceAccounts that runs have taken out of it, as `namespace/name`, with commas between them. By it
/// the API server knows what may be put back.
pub const REVOKED: &str = "quell.dev/revoked";
/// Annotation: the step of the Remediation that wrote the object.
pub const STEP: &str = "quell.dev/step";
/// Annotation: what was there before, as JSON. Written in the same request as the change itself.
pub const BEFORE: &str = "quell.dev/before";
/// Annotation of a quarantined pod: other pods that the same step cuts off, as JSON. Written in the same request as the quarantine.
pub const OTHERS: &str = "quell.dev/others";
/// Annotation of a workload that runs keep from starting pods in place of quarantined ones: by how many each run has lowered it, and what
/// came of it, as JSON. Written in the same request as the change itself.
pub const HELD_BACK: &str = "quell.dev/held-back";
/// Annotation: the Finding, as `namespace/name`, on account of which the object was written.
pub const FINDING: &str = "quell.dev/finding";
/// Label of the pods that probe a quarantined one: where they do so from, `outside` or `beside`, or `peer`, which each must reach.
pub const PROBE: &str = "quell.dev/probe";
/// Annotation of a Finding: which report made it. By it that report, delivered again after a crash, is known not to be a repeat.
pub const REPORT: &str = "quell.dev/report";
/// Annotation of a Finding that a watch made: the object that it comes from, as `Kind.group/namespace/name`. When neither that nor another
/// object reports it any more, it is over.
pub const REPORTED_BY: &str = "quell.dev/reported-by";
/// Annotation of a playbook, and of a Finding that was written by hand: who wrote it. The API server takes no other name than that of
/// whoever writes it.
pub const AUTHOR: &str = "quell.dev/author";
/// Label of the NetworkPolicies that quarantine profiles stand on; its value is the profile's name.
pub const QUARANTINE_POLICY: &str = "quell.dev/quarantine-policy";

/// Key of what is said of a user whom Quell acts as (the header `Impersonate-Extra-`), by which guards tell what Quell does from what the
/// user does. Nobody can say it who has no right to.
pub const ACTING: &str = "quell.dev/acting";

/// The recommended label that names the tool which manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on objects that Quell created.
pub const QUELL: &str = "quell";

/// A field manager, as it stands in `metadata.managedFields`.
pub mod field_managers {
    /// Writes Findings.
    pub const INTAKE: &str = "quell/intake";
    /// Writes statuses and Remediations.
    pub const RECORD: &str = "quell/record";
    /// Writes what a step does to the cluster.
    pub const STEP: &str = "quell/step";
}

/// Length of the hash in generated names: 50 bits, so that a million Findings of one tool share a name with a chance of
/// less than one in a thousand. Whoever creates by such a name compares the full fingerprint where the name is taken.
const HASH_CHARACTERS: usize = 10;

/// Names of at most this length fit a label value.
const LABEL_VALUE: usize = 63;

/// The fingerprint of what identifies a problem: SHA-256 in hexadecimal.
///
/// The parts are length-prefixed, so that no two lists of parts have the same text.
#[must_use]
pub fn fingerprint<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref().as_bytes();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The name of the Finding with that fingerprint: the same signal twice is the same object.
#[must_use]
pub fn finding(tool: &str, fingerprint: &str) -> String {
    with_hash(tool, &[fingerprint])
}

/// The name of the run of a playbook for a finding: asked twice, it is the same object, so that nothing runs twice.
///
/// `before` is how many earlier Findings of that name, which somebody deleted, there are runs for already; `episode` counts from 1. The
/// Finding's UID has no part in it: containment carries the run's name, and needn't wait for the Finding to have one.
#[must_use]
pub fn remediation(playbook: &str, playbook_uid: &str, finding: &str, before: usize, episode: i64) -> String {
    let before = before.to_string();
    // Runs were named without it before there were episodes.
    let episode = (episode > 1).then(|| episode.to_string());
    let parts: Vec<&str> = [playbook_uid, finding, &before].into_iter().chain(episode.as_deref()).collect();
    with_hash(playbook, &parts)
}

/// The name of a user's decision on a gate: deciding twice on the same is the same object.
#[must_use]
pub fn approval(remediation: &str, remediation_uid: &str, step: &str, digest: &str, user: &str) -> String {
    with_hash(remediation, &[remediation_uid, step, digest, user])
}

/// The name of an object that a step creates, the same for each try.
#[must_use]
pub fn created_by(remediation: &str, step: &str) -> String {
    with_hash(step, &[remediation, step])
}

/// The name of an object of the whole cluster that a step creates, the same for each try: runs of one name in two namespaces are two.
#[must_use]
pub fn created_for_cluster(namespace: &str, remediation: &str, step: &str) -> String {
    with_hash(step, &[namespace, remediation, step])
}

#[allow(clippy::cast_possible_truncation, reason = "five bits are asked for")]
/// `prefix-hash`, where the prefix is cut so that the whole fits a label value.
fn with_hash(prefix: &str, of: &[&str]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let digest = fingerprint(of);
    let bits = u64::from_str_radix(&digest[..16], 16).unwrap_or_default();
    let hash: String =
        (0..HASH_CHARACTERS).map(|i| char::from(ALPHABET[usize::from((bits >> (5 * i)) as u8 & 31)])).collect();
    let room = LABEL_VALUE - HASH_CHARACTERS - 1;
    let prefix: String = prefix
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(room)
        .collect();
    let prefix = prefix.trim_matches('-');
    if prefix.is_empty() { format!("x-{hash}") } else { format!("{prefix}-{hash}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_name_and_others_another() {
        assert_eq!(finding("falco", &fingerprint(["a", "b"])), finding("falco", &fingerprint(["a", "b"])));
        assert_ne!(finding("falco", &fingerprint(["a", "b"])), finding("falco", &fingerprint(["ab", ""])));
    }

    #[test]
    fn a_name_fits_a_label_value_and_a_dns_label_whatever_it_is_made_of() {
        for prefix in ["falco", "", "-", "Ünïcode Rule", &"x".repeat(300), "trailing-dash-"] {
            let name = finding(prefix, "f");
            assert!(name.len() <= 63, "{name}");
            assert!(name.starts_with(|c: char| c.is_ascii_alphanumeric()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '-'), "{name}");
        }
    }
}
