//! Objects that tests begin from.

use quell_crds::v1alpha1::{Remediation, RemediationStatus};
use serde_json::json;

/// A run of a Playbook that stands like this.
pub fn run(status: RemediationStatus) -> Remediation {
    let run = json!({
        "apiVersion": "quell.dev/v1alpha1", "kind": "Remediation", "metadata": { "name": "run" },
        "spec": {
            "finding": { "name": "finding", "uid": "" }, "steps": [], "target": { "kind": "Pod", "name": "web" },
            "playbook": { "kind": "Playbook", "name": "contain", "uid": "", "generation": 1 },
        },
    });
    let run: Remediation = serde_json::from_value(run).expect("a Remediation");
    Remediation { status: Some(status), ..run }
}
