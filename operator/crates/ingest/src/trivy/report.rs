//! What Trivy writes, as far as Quell reads it: aquasecurity/trivy, `pkg/types/report.go` and its neighbours, and
//! `pkg/k8s/report/report.go`. Everything else is skipped unread, so that a large report costs little.

use std::collections::BTreeMap;

use quell_crds::v1alpha1::Vulnerability;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::lenient::{List, Text, severity};

/// The top of a report, of `trivy image` and its like or of `trivy k8s`; and what tells other formats of Trivy apart.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Report {
    pub(super) schema_version: Option<IgnoredAny>,
    pub(super) created_at: Text,
    pub(super) artifact_name: Option<Text>,
    pub(super) artifact_type: Text,
    pub(super) metadata: List<Metadata>,
    pub(super) results: Option<List<Scanned>>,

    pub(super) cluster_name: Option<Text>,
    pub(super) resources: Option<List<Resource>>,
    pub(super) findings: Option<List<Resource>>,
    pub(super) vulnerabilities: Option<List<Resource>>,
    pub(super) misconfigurations: Option<List<Resource>>,

    #[serde(rename = "runs")]
    pub(super) sarif: Option<IgnoredAny>,
    #[serde(rename = "bomFormat")]
    pub(super) cyclonedx: Option<IgnoredAny>,
    #[serde(rename = "spdxVersion")]
    pub(super) spdx: Option<IgnoredAny>,
}

/// What an artifact is.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Metadata {
    #[serde(rename = "OS")]
    pub(super) os: Option<Os>,
    #[serde(rename = "ImageID")]
    pub(super) image_id: Text,
    pub(super) repo_tags: List<Text>,
    pub(super) repo_digests: List<Text>,
    pub(super) reference: Text,
    #[serde(rename = "RepoURL")]
    pub(super) repo_url: Text,
}

/// An operating system.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Os {
    pub(super) family: Text,
    pub(super) name: Text,
    #[serde(rename = "EOSL")]
    pub(super) end_of_life: Text,
}

/// An object of the cluster in a report of `trivy k8s`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Resource {
    pub(super) namespace: Text,
    pub(super) kind: Text,
    pub(super) name: Text,
    pub(super) metadata: List<Metadata>,
    pub(super) results: List<Scanned>,
}

/// What was found in one part of an artifact: its packages, a file, ….
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Scanned {
    pub(super) target: Text,
    pub(super) vulnerabilities: List<Vulnerable>,
    pub(super) misconfigurations: List<Misconfiguration>,
    pub(super) secrets: List<Secret>,
}

/// A vulnerability of a package.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Vulnerable {
    #[serde(rename = "VulnerabilityID")]
    id: Text,
    pkg_name: Text,
    installed_version: Text,
    fixed_version: Text,
    status: Text,
    severity: Text,
    severity_source: Text,
    title: Text,
    #[serde(rename = "CVSS")]
    cvss: Option<BTreeMap<String, Option<Cvss>>>,
}

/// Scores of one who rates vulnerabilities.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Cvss {
    #[serde(rename = "V2Score")]
    v2: Text,
    #[serde(rename = "V3Score")]
    v3: Text,
    #[serde(rename = "V40Score")]
    v40: Text,
}

/// A check of a configuration.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Misconfiguration {
    #[serde(rename = "ID")]
    pub(super) id: Text,
    #[serde(rename = "AVDID")]
    pub(super) old_id: Text,
    pub(super) title: Text,
    pub(super) severity: Text,
    pub(super) status: Text,
    pub(super) resolution: Text,
}

/// A secret. Trivy's `Code` shows the lines around it as they are, maybe with other secrets: it isn't read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Secret {
    #[serde(rename = "RuleID")]
    pub(super) rule: Text,
    pub(super) category: Text,
    pub(super) severity: Text,
    pub(super) title: Text,
    pub(super) start_line: Text,
}

impl Vulnerable {
    /// The vulnerability, unless the vendor says that the package isn't affected.
    pub(super) fn affecting(self) -> Option<Vulnerability> {
        let score = self.score();
        let id = self.id.known()?.to_owned();
        (self.status.known() != Some("not_affected")).then(|| Vulnerability {
            id,
            package: self.pkg_name.get(),
            installed_version: self.installed_version.get(),
            fixed_version: self.fixed_version.get(),
            severity: severity(&self.severity.0),
            score,
            title: self.title.get(),
        })
    }

    /// The score of whom Trivy took the severity from, else of the NVD, else the highest.
    fn score(&self) -> Option<f64> {
        let all = self.cvss.as_ref()?;
        let of = |who: &str| all.get(who).and_then(Option::as_ref).and_then(Cvss::score);
        let highest = || all.values().flatten().filter_map(Cvss::score).max_by(f64::total_cmp);
        self.severity_source.known().and_then(of).or_else(|| of("nvd")).or_else(highest)
    }
}

impl Cvss {
    fn score(&self) -> Option<f64> {
        [&self.v3, &self.v40, &self.v2]
            .into_iter()
            .filter_map(|score| score.known()?.parse().ok())
            .find(|score: &f64| *score > 0.0 && *score <= 10.0)
    }
}
