//! Commands that read files, and need no cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quell_crds::v1alpha1::Format;

#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// Print the findings that a tool's output would make; needs no cluster
    #[command(after_help = SOURCE_TEST)]
    Test(SourceTest),
}

const SOURCE_TEST: &str = "\
Findings are printed as JSON lines, what is reported several times as one with a count; what can't be read is said on standard error, with \
exit code 1. Findings about what is in no namespace are in the one that -n names, by default quell.

Formats: alertmanager, clair, cloudevents, falco, falcosidekick, gatekeeper, grype, guardduty, harbor, hubble, inspector, k8s-audit, \
k8s-events, kube-bench, kubearmor, kubescape, ocsf, openreports, policy-controller, policyreport, sarif, tencent-cwp, tencent-tcr, \
tencent-tcss, tetragon, trivy, trivy-operator.

Examples:
  kubectl quell source test --format falco alerts.jsonl
  trivy image -f json registry.example/shop:1.4 | kubectl quell source test --format trivy -
  kubectl quell source test --format trivy-operator report.yaml
  kubectl quell source test --mapping source.yaml what-it-posts.json";

#[derive(Args, Clone, Debug)]
pub struct SourceTest {
    /// What the files are
    #[arg(long, value_parser = format, required_unless_present = "mapping")]
    pub format: Option<Format>,
    /// In place of a format: a file with a Source, whose spec.mapping reads the files
    #[arg(long, value_name = "SOURCE.yaml", conflicts_with_all = ["format", "data_format"])]
    pub mapping: Option<PathBuf>,
    /// What is in CloudEvents whose type doesn't tell
    #[arg(long, value_parser = format, value_name = "FORMAT")]
    pub data_format: Option<Format>,
    /// Name of the Source in the findings; default: the format, or the Source's own
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Files (JSON, JSON lines or YAML, also packed by gzip); - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

fn format(text: &str) -> Result<Format, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|_| {
        let names: Vec<String> = Format::ALL.iter().map(ToString::to_string).collect();
        format!("the formats are {}", names.join(", "))
    })
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Say whether an audit trail is what Quell wrote, and where it isn't; needs no cluster
    #[command(after_help = AUDIT_VERIFY)]
    Verify(AuditVerify),
}

const AUDIT_VERIFY: &str = "\
Lines that were changed, removed, reordered or replaced are named on standard error, with exit code 1. That the end is missing can \
only be told by a head from elsewhere: Quell's log has it, as CHAIN:NUMBER:HASH.

Examples:
  kubectl quell audit verify audit.jsonl*
  kubectl quell audit verify --head quell-0:4711:9f86d0… audit.jsonl";

#[derive(Args, Clone, Debug)]
pub struct AuditVerify {
    /// The last line of a chain, as it is known from elsewhere; can be given several times
    #[arg(long, value_name = "CHAIN:NUMBER:HASH")]
    pub head: Vec<quell_audit::Head>,
    /// Files of the trail, all that there are of it
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum VexCommand {
    /// Make suppressions of what a VEX document says is not affected, or fixed
    #[command(after_help = VEX_IMPORT)]
    Import(VexImport),
}

const VEX_IMPORT: &str = "\
Reads OpenVEX and CycloneDX VEX (JSON). Only the states not affected and fixed (resolved) are taken over, with their justification; the rest is \
said on standard error. Without --apply, manifests are printed, and no cluster is needed.

Examples:
  kubectl quell vex import shop.openvex.json -n shop > suppressions.yaml
  kubectl quell vex import shop.openvex.json -n shop --apply
  kubectl quell vex import bom.vex.json --cluster --image registry.example/shop --expires 2027-03-31T00:00:00Z";

#[derive(Args, Clone, Debug)]
pub struct VexImport {
    /// The document; - for standard input
    pub file: PathBuf,
    /// Write the suppressions to the cluster
    #[arg(long)]
    pub apply: bool,
    /// Make ClusterSuppressions, for all namespaces
    #[arg(long)]
    pub cluster: bool,
    /// Images that it holds for, in place of those that the document names; may be given several times
    #[arg(long = "image", value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Who answers for it; default: the document's author
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Until when; default: without end
    #[arg(long = "expires", value_name = "TIME", value_parser = crate::vex::time)]
    pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_format() {
        let named: Vec<&str> =
            SOURCE_TEST.split("Formats: ").nth(1).unwrap().split('.').next().unwrap().split(", ").collect();
        assert_eq!(named, Format::ALL.map(|format| format.to_string()));
    }
}
