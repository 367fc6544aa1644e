//! What differs from one run of a scenario to the next, and means nothing.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// Patterns and what stands in their place, in the order in which they are replaced.
static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "{uid}"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "{time}"),
        (r"\b\d\d:\d\d:\d\d\.\d+\b", "{time}"),
        (r"\b\d+(\.\d+)? ?(ms|µs|s) after the alert", "{span} after the alert"),
        (r"\b[0-9a-f]{64}\b", "{sha256}"),
        (r"\b[0-9a-f]{12}\b", "{container}"),
        (r#""evt\.time":\d+"#, r#""evt.time":{time}"#),
        (r#"(pod-template-hash\\*":\\*")[0-9a-z]+"#, "${1}{template}"),
        (r"\b10\.\d+\.\d+\.\d+\b", "{ip}"),
        (r"\bnode-\d+\b", "{node}"),
        (r"\bshop-[0-9a-z]{6,10}-[0-9a-z]{5}\b", "{pod}"),
        (r"\bshop-[0-9a-f]{6,10}\b", "{replicaset}"),
        (r"-[0-9a-v]{10}\b", "-{hash}"),
        (r"\b(build-\{hash\})-[0-9a-z]{5}\b", "${1}-{pod}"),
        // Events are named by the time.
        (r"\.[0-9a-f]{14,16}\b", ".{event}"),
    ]
    .into_iter()
    .filter_map(|(pattern, name)| Some((Regex::new(pattern).ok()?, name)))
    .collect()
});

/// A word that is as long as a hash, of letters that hashes have.
const WORD: &str = "-quarantine";

/// The text with placeholders for what is of one run alone: its namespace, generated names, UIDs, times, addresses.
#[must_use]
pub fn timeless(namespace: &str, text: &str) -> String {
    let mut text = text.replace(namespace, "{ns}").replace(WORD, "-{word}");
    for (pattern, name) in PATTERNS.iter() {
        if let Cow::Owned(replaced) = pattern.replace_all(&text, *name) {
            text = replaced;
        }
    }
    text.replace("-{word}", WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_one_run_alone_is_replaced_and_nothing_else() {
        for (text, expected) in [
            ("/api/v1/namespaces/crash-1/pods/shop-5d4f8c7b9-x2x4z", "/api/v1/namespaces/{ns}/pods/{pod}"),
            ("contain-reverse-shell-0123456789", "contain-reverse-shell-{hash}"),
            ("pod crash-1/shop-5d4f8c7b9-x2x4z at 2026-11-21T10:00:00.123Z", "pod {ns}/{pod} at {time}"),
            ("quell-quarantine", "quell-quarantine"),
            ("deployment.apps/shop", "deployment.apps/shop"),
        ] {
            assert_eq!(timeless("crash-1", text), expected);
        }
    }
}
