//! Ready-made playbooks, as they are in `library/`.

/// Names and texts of the ready-made ClusterPlaybooks, by name.
#[must_use]
pub fn library() -> Vec<(&'static str, &'static str)> {
    macro_rules! files {
        ($($name:literal),* $(,)?) => {
            vec![$(($name, include_str!(concat!("../library/", $name, ".yaml")))),*]
        };
    }
    files![
        "contain-container-escape",
        "contain-credential-theft",
        "contain-cryptominer",
        "contain-drifted-binary",
        "contain-reverse-shell",
        "contain-terminal-shell",
        "deny-critical-image",
        "quarantine-and-rollback",
        "rebuild-by-pipeline",
        "rebuild-fixable-cve",
        "rollback-critical-cve",
        "tell-on-exposed-secret",
        "tell-on-k8s-api-contact",
    ]
}
