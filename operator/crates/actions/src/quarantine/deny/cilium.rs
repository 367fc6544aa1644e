//! CiliumNetworkPolicy, with deny rules: they come before all that allows, so they can't leave anything open.

use quell_crds::names;
use quell_crds::v1alpha1::step::{Isolate, Quarantine};
use serde_json::{Map, Value, json};

use super::super::profile::Profile;

/// Why such a policy can't say what a profile leaves open; `None`: it can.
pub(super) fn lacks(parameters: &Quarantine) -> Option<&'static str> {
    let leaves_open = parameters.allow_dns || !parameters.allow.is_empty() || !parameters.deny_cidrs.is_empty();
    leaves_open.then_some(
        "Cilium's deny rules come before all that allows, and can leave nothing open (allow, allowDNS, denyCIDRs)",
    )
}

/// Not the host: it probes the pod, and a container that fails its probes is restarted, and the evidence in it lost.
pub(super) fn spec(profile: &Profile, isolate: Isolate) -> Map<String, Value> {
    let pods = json!([{"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}]}]);
    let (ingress, egress) = (isolate != Isolate::Egress, isolate != Isolate::Ingress);
    let mut spec =
        Map::from_iter([("endpointSelector".to_owned(), json!({"matchLabels": {names::QUARANTINE: profile.name()}}))]);
    if ingress {
        let others = json!(["world", "remote-node", "unmanaged", "init"]);
        spec.insert("ingressDeny".to_owned(), json!([{"fromEndpoints": pods}, {"fromEntities": others}]));
    }
    if egress {
        spec.insert("egressDeny".to_owned(), json!([{"toEntities": ["all"]}]));
    }
    spec
}
