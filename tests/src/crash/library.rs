//! The scenarios: every playbook of the library, the undo of those that can be undone, and the start of the process.

use serde_json::{Value, json};

use super::receivers::Receivers;
use super::scenario::{From, Scenario, Staged};
use crate::control_plane::RESULT;
use crate::demo::signals::{falco_alert, trivy_report};
use crate::fixtures::digest_of;

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    falco("contain-reverse-shell", |staged| alert(staged, "Netcat Remote Code Execution in Container")),
    falco("contain-container-escape", |staged| alert(staged, "Debugfs Launched in Privileged Container")),
    falco("contain-credential-theft", |staged| alert(staged, "Find AWS Credentials")),
    falco("contain-cryptominer", |staged| alert(staged, "Detect crypto miners using the Stratum protocol")),
    falco("contain-drifted-binary", |staged| alert(staged, "Drop and execute new binary in container")),
    Scenario {
        edit: |text, _| text.replace("for: 15m", "for: 1s"),
        ..falco("contain-terminal-shell", |staged| alert(staged, "Terminal shell in container"))
    },
    Scenario { releases: 2, ..falco("quarantine-and-rollback", |staged| alert(staged, "A rule of a team's own")) },
    falco("tell-on-k8s-api-contact", |staged| alert(staged, "Contact K8S API Server From Container")),
    Scenario { releases: 0, ..trivy("deny-critical-image") },
    Scenario { releases: 2, ..trivy("rollback-critical-cve") },
    Scenario { edit: with_builder, ..trivy("rebuild-fixable-cve") },
    Scenario { edit: with_pipeline, ..trivy("rebuild-by-pipeline") },
    Scenario { signal: |staged| ("trivy", secrets(&staged.image)), ..trivy("tell-on-exposed-secret") },
    Scenario {
        name: "undo-quarantine-and-rollback",
        releases: 2,
        from: From::Undo,
        ..falco("quarantine-and-rollback", |staged| alert(staged, "A rule of a team's own"))
    },
    Scenario { name: "undo-deny-critical-image", releases: 0, from: From::Undo, ..trivy("deny-critical-image") },
    Scenario { name: "undo-rebuild-fixable-cve", edit: with_builder, from: From::Undo, ..trivy("rebuild-fixable-cve") },
    Scenario {
        name: "start",
        from: From::Start,
        ..falco("contain-reverse-shell", |staged| alert(staged, "Netcat Remote Code Execution in Container"))
    },
];

const fn falco(name: &'static str, signal: fn(&Staged) -> (&'static str, Value)) -> Scenario {
    Scenario { name, playbook: name, edit: as_it_is, releases: 1, signal, from: From::Signal }
}

const fn trivy(name: &'static str) -> Scenario {
    let signal = |staged: &Staged| ("trivy", trivy_report(&staged.image));
    Scenario { name, playbook: name, edit: as_it_is, releases: 1, signal, from: From::Signal }
}

fn as_it_is(text: &str, _: &Receivers) -> String {
    text.to_owned()
}

/// A builder in the cluster that has built, as the nodes of the test bed let it.
fn with_builder(text: &str, _: &Receivers) -> String {
    let image = "registry.example/shop:1.1-quell";
    let result = json!(format!("image={image}\ndigest={}\n", digest_of(image)));
    let template = "            template:\n";
    let annotated = format!("{template}              metadata: {{annotations: {{{RESULT}: {result}}}}}\n");
    text.replace(template, &annotated)
}

fn with_pipeline(text: &str, receivers: &Receivers) -> String {
    text.replace("https://ci.example.com/api/rebuilds", &receivers.builds()).replace("interval: 15s", "interval: 1s")
}

fn alert(staged: &Staged, rule: &str) -> (&'static str, Value) {
    let mut alert = staged.pod.as_ref().map(falco_alert).unwrap_or_default();
    alert["rule"] = json!(rule);
    ("falco", alert)
}

fn secrets(image: &str) -> Value {
    let mut report = trivy_report(image);
    report["Results"] = json!([{
        "Target": "/app/deploy.sh", "Class": "secret",
        "Secrets": [{
            "RuleID": "aws-access-key-id", "Category": "AWS", "Severity": "CRITICAL", "Title": "AWS Access Key ID",
            "StartLine": 3, "EndLine": 3, "Match": "export AWS_ACCESS_KEY_ID=********************",
        }],
    }]);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_playbook_of_the_library_is_a_scenario() {
        for (name, _) in quell_playbooks::library::library() {
            assert!(SCENARIOS.iter().any(|scenario| scenario.name == name), "{name}");
        }
    }
}
