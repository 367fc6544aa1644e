//! What every reader of foreign text must bear: bodies of the fuzz targets in `fuzz/`, and of the property tests in `tests/bad_input`.
//!
//! None may panic, whatever it is given; that is what a fuzzer looks for. What else must hold is asserted here.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use chrono::Utc;
use quell_crds::v1alpha1::{ClusterPlaybook, Format};
use quell_isolation::Policy;
use quell_playbooks::cel::{Expression, Names, Scope};
use quell_playbooks::compile::Draft;
use quell_playbooks::template;
use serde_json::{Value, json};

const FORMATS: [Format; 4] = [Format::Falco, Format::Falcosidekick, Format::Trivy, Format::TrivyOperator];
const VARIABLES: [&str; 3] = ["finding", "target", "workload"];

static SCOPE: LazyLock<Scope> = LazyLock::new(|| {
    let finding = json!({
        "rule": "Terminal shell in container", "severity": "Critical", "message": "a shell", "tags": ["container", "shell"],
        "vulnerabilities": (0..50).map(|number| json!({"id": format!("CVE-2026-{number}"), "severity": "High"})).collect::<Vec<_>>(),
    });
    Scope::default()
        .with("finding", &finding)
        .with("target", &json!({"kind": "Pod", "namespace": "shop", "name": "web-1"}))
        .with("workload", &json!({"kind": "Deployment", "name": "web"}))
});

fn names() -> Names {
    Names::of(&VARIABLES)
}

/// A body that somebody posts: what is read of it can be stored.
///
/// # Panics
/// Where it can't.
pub fn signal(bytes: &[u8]) {
    for format in FORMATS {
        let Ok(signals) = quell_ingest::read(format, bytes) else { continue };
        for signal in signals {
            let place = quell_ingest::place_without_cluster(&signal);
            let finding = quell_ingest::finding("source", &signal, &place, "quell");
            let name = finding.metadata.name.as_deref().unwrap_or_default();
            assert!((1..=63).contains(&name.len()), "a Finding named {name:?}");
            assert!(finding.metadata.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()));
            assert!(!finding.spec.rule.is_empty() && finding.spec.message.chars().count() <= 2048);
            assert!(finding.spec.vulnerabilities.len() <= 50);
        }
    }
}

/// An expression that somebody writes: it is refused, or has a value or an error in a bounded time.
pub fn expression(text: &str) {
    if let Ok(expression) = Expression::compile(text, &names()) {
        let _ = expression.evaluate(&SCOPE);
    }
}

/// A text with expressions in it.
pub fn text(text: &str) {
    let _ = template::render(text, &SCOPE, &names());
}

/// A playbook that somebody writes.
pub fn playbook(text: &str) {
    let Ok(playbook) = serde_saphyr::from_str::<ClusterPlaybook>(text) else { return };
    let draft = Draft::of_cluster_playbook(&playbook, Utc::now());
    let _ = quell_playbooks::compile(&draft, &BTreeSet::from(["security".to_owned()]));
}

/// A policy as a cluster has it, of any kind.
pub fn policy(bytes: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<Value>(bytes) {
        let _ = Policy::read(&object);
    }
}
