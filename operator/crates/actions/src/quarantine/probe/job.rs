//! The Jobs that probe: what they run, and with which rights, which is none.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use quell_crds::names;
use quell_crds::v1alpha1::step::Probe;
use serde_json::json;

use crate::mark::Mark;
use crate::raw::Raw;

/// Port of the pod that every probe must reach.
pub(super) const PEER_PORT: u16 = 8080;
/// Addresses and ports that are tried at most: what comes of them must fit a termination message (4 KiB).
const MOST_TARGETS: usize = 24;
/// What the network may take to cut the pod off where the playbook doesn't say.
const WITHIN: Duration = Duration::from_mins(1);
const LONGEST_WITHIN: Duration = Duration::from_mins(10);
/// What scheduling, pulling the image and starting may take beside that.
const STARTING: Duration = Duration::from_mins(3);
/// A Job is there this long after its end, so that what it says is read even when Quell was away.
const KEPT: Duration = Duration::from_mins(30);

/// Where a probe is, or what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What every probe must reach: in the probe namespace.
    Peer,
    /// In the probe namespace.
    Outside,
    /// In the namespace of the quarantined pod.
    Beside,
}

impl Place {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Outside => "outside",
            Self::Beside => "beside",
        }
    }
}

pub(super) fn socket(address: &str, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port))
}

/// Every address of the pod with every TCP port that it declares, and those that were asked for.
pub(super) fn targets(pod: &Pod, wanted: &Probe) -> Vec<SocketAddr> {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| {
        // Those that go on running beside the others count.
        let sidecars =
            spec.init_containers.iter().flatten().filter(|one| one.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    });
    let tcp = containers.flat_map(|one| one.ports.iter().flatten());
    let declared =
        tcp.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP").map(|port| port.container_port);
    let named = wanted.ports.iter().copied();
    let ports: BTreeSet<u16> = named.chain(declared).filter_map(|port| u16::try_from(port).ok()).collect();
    let status = pod.status.as_ref();
    let addresses: BTreeSet<&str> = status
        .into_iter()
        .flat_map(|status| status.pod_ip.iter().chain(status.pod_ips.iter().flatten().map(|one| &one.ip)))
        .map(String::as_str)
        .collect();
    let all = addresses.into_iter().flat_map(|address| ports.iter().filter_map(move |port| socket(address, *port)));
    all.take(MOST_TARGETS).collect()
}

fn within(wanted: &Probe) -> Duration {
    wanted.within.map_or(WITHIN, |within| within.get().clamp(Duration::from_secs(1), LONGEST_WITHIN))
}

pub(super) fn try_arguments(peer: SocketAddr, targets: &[SocketAddr], wanted: &Probe) -> Vec<String> {
    let mut arguments = ["probe", "try", "--peer"].map(str::to_owned).to_vec();
    arguments.push(peer.to_string());
    arguments.extend(["--within".to_owned(), within(wanted).as_secs().to_string()]);
    arguments.extend(targets.iter().flat_map(|target| ["--target".to_owned(), target.to_string()]));
    arguments
}

/// A Job that the Pod Security level `restricted` takes, without a token, a volume, or a mesh's sidecar, which would answer for others.
pub(super) fn job(
    name: &str,
    namespace: &str,
    at: Place,
    arguments: &[String],
    image: &str,
    wanted: &Probe,
    mark: &Mark,
) -> Raw<Job> {
    let mut labels = mark.labels();
    labels.insert(names::REMEDIATION_NAMESPACE.to_owned(), mark.namespace.clone());
    labels.insert(names::MANAGED_BY.to_owned(), names::QUELL.to_owned());
    labels.insert(names::PROBE.to_owned(), at.name().to_owned());
    let mut pod_labels = labels.clone();
    pod_labels.insert("sidecar.istio.io/inject".to_owned(), "false".to_owned());
    let life = STARTING + within(wanted);
    let listen = || {
        let port = PEER_PORT.to_string();
        // The probes have their time after it has started.
        let lasts = (life + STARTING).as_secs().to_string();
        ["probe", "listen", "--port", &port, "--for", &lasts].map(str::to_owned).to_vec()
    };
    let (arguments, life) =
        if at == Place::Peer { (listen(), life + STARTING * 2) } else { (arguments.to_vec(), life) };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        annotations: Some(mark.annotations()),
        ..ObjectMeta::default()
    };
    let limits = json!({"cpu": "100m", "memory": "64Mi"});
    let spec = json!({
        "backoffLimit": 0,
        "activeDeadlineSeconds": life.as_secs(),
        "ttlSecondsAfterFinished": KEPT.as_secs(),
        "template": {
            "metadata": {
                "labels": pod_labels,
                "annotations": {"linkerd.io/inject": "disabled", "sidecar.istio.io/inject": "false"},
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "probe",
                    "image": image,
                    "args": arguments,
                    "terminationMessagePolicy": "File",
                    "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": limits},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        },
    });
    Raw::new(metadata, spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_is_what_the_pod_declares_over_tcp_and_what_was_named_at_each_of_its_addresses() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {
                "containers": [{"name": "web", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}],
                "initContainers": [
                    {"name": "once", "ports": [{"containerPort": 1}]},
                    {"name": "sidecar", "restartPolicy": "Always", "ports": [{"containerPort": 90}]},
                ],
            },
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .expect("a pod");
        let told: Vec<String> =
            targets(&pod, &Probe { ports: vec![8443, 80], within: None }).iter().map(ToString::to_string).collect();
        let all = ["10.0.0.1:80", "10.0.0.1:90", "10.0.0.1:8443", "[fd00::1]:80", "[fd00::1]:90", "[fd00::1]:8443"];
        assert_eq!(told, all);
        assert_eq!(targets(&Pod::default(), &Probe { ports: vec![80], within: None }), []);
    }
}
