//! What a large report of Trivy costs from its bytes to a Finding: `cargo bench -p quell-ingest`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quell_crds::v1alpha1::Format;
use quell_ingest::{LARGEST_FINDING, finding, place_without_cluster, read};
use serde_json::json;

const VULNERABILITIES: usize = 2_000;
const ROUNDS: usize = 200;
/// What is promised: from bytes to a Finding, and how large that is at most.
const LONGEST: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let body = report();
    let mut times = Vec::with_capacity(ROUNDS);
    let mut largest = 0;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let signals = read(Format::Trivy, black_box(&body))?;
        let findings: Vec<_> =
            signals.iter().map(|signal| finding("trivy", signal, &place_without_cluster(signal), "quell")).collect();
        times.push(begun.elapsed());
        for finding in black_box(&findings) {
            largest = largest.max(serde_json::to_vec(finding)?.len());
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    let slowest = times[times.len() * 99 / 100];
    println!(
        "report: {VULNERABILITIES} vulnerabilities, {:.1} MiB: p50 {median:.2?}, p99 {slowest:.2?} (at most {LONGEST:?}); Finding {largest} bytes \
         (at most {LARGEST_FINDING})",
        mebibytes(body.len())
    );
    if median > LONGEST || largest > LARGEST_FINDING {
        return Err("above what is promised".into());
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// With what Trivy writes for each vulnerability, as long as it usually is: about 3 KiB.
fn report() -> Vec<u8> {
    let severities = ["CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN"];
    let vulnerabilities: Vec<_> = (0..VULNERABILITIES)
        .map(|i| {
            let score = f64::from(u32::try_from(i % 100).unwrap_or_default()) / 10.0;
            json!({
                "VulnerabilityID": format!("CVE-2024-{i:05}"), "PkgID": format!("package-{}@1.2.3-r{i}", i % 300), "PkgName": format!("package-{}", i % 300),
                "PkgIdentifier": {"PURL": format!("pkg:apk/alpine/package-{}@1.2.3-r{i}?arch=x86_64&distro=3.20", i % 300), "UID": "0123456789abcdef"},
                "InstalledVersion": format!("1.2.3-r{i}"), "FixedVersion": if i % 2 == 0 { "1.2.4" } else { "" },
                "Status": if i % 2 == 0 { "fixed" } else { "affected" }, "Severity": severities[i % 5], "SeveritySource": "nvd",
                "Layer": {"Digest": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "DiffID": "sha256:ffff"},
                "PrimaryURL": format!("https://avd.aquasec.com/nvd/cve-2024-{i:05}"),
                "DataSource": {"ID": "alpine", "Name": "Alpine Secdb", "URL": "https://secdb.alpinelinux.org/"},
                "Title": "package: a heap-based buffer overflow in the parser allows a remote attacker to run code",
                "Description": "A description as long as those of the NVD are. ".repeat(20),
                "CweIDs": ["CWE-787", "CWE-120"], "VendorSeverity": {"amazon": 2, "nvd": 4, "redhat": 2, "ubuntu": 2},
                "CVSS": {"nvd": {"V3Vector": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "V3Score": score}, "redhat": {"V3Score": 7.5}},
                "References": (0..12).map(|n| format!("https://example.com/advisories/{i}/{n}")).collect::<Vec<_>>(),
                "PublishedDate": "2024-01-01T00:00:00Z", "LastModifiedDate": "2024-06-01T00:00:00Z",
            })
        })
        .collect();
    let report = json!({
        "SchemaVersion": 2, "CreatedAt": "2024-06-01T00:00:00Z", "ArtifactName": "registry.example/shop:1.4", "ArtifactType": "container_image",
        "Metadata": {"OS": {"Family": "alpine", "Name": "3.20"}, "RepoDigests": ["registry.example/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]},
        "Results": [{"Target": "registry.example/shop:1.4 (alpine 3.20)", "Class": "os-pkgs", "Type": "alpine", "Vulnerabilities": vulnerabilities}],
    });
    report.to_string().into_bytes()
}
