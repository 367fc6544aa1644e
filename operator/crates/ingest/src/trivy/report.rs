//! What Trivy writes, as far as Quell reads it: aquasecurity/trivy, `pkg/types/report.go` and its neighbours, and
//! `pkg/k8s/report/report.go`. Everything else is skipped unread, so that a large report costs little.

use std::collections::BTreeMap;
use std::fmt;

use quell_crds::v1alpha1::Vulnerability;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::lenient::{List, Text};
use crate::severity::severity;

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

    /// KubeArmor's alerts have a `ClusterName`, too.
    #[serde(rename = "HostName")]
    pub(super) host_name: Option<IgnoredAny>,
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
    pub(super) class: Text,
    pub(super) vulnerabilities: List<Vulnerable>,
    pub(super) misconfigurations: List<Misconfiguration>,
    pub(super) secrets: List<Secret>,
    pub(super) licenses: List<License>,
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

/// A license of a package or a file.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct License {
    pub(super) severity: Text,
    pub(super) category: Text,
    pub(super) pkg_name: Text,
    pub(super) name: Text,
}

/// One JSON value of a body.
pub(super) enum Document {
    /// A report.
    Report(Box<Report>),
    /// The results of schema 1, or several reports.
    Results(Vec<Value>),
    /// What schema 1 writes where there was nothing to scan.
    Nothing,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a report of Trivy")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Document, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Document::Results)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
        Report::deserialize(MapAccessDeserializer::new(map)).map(|report| Document::Report(Box::new(report)))
    }
}

impl Vulnerable {
    /// The vulnerability, unless the vendor says that the package isn't affected.
    pub(super) fn affecting(self) -> Option<Vulnerability> {
        let score = self.score();
        let id = self.id.known()?.to_owned();
        let status = self.status.known();
        (status != Some("not_affected")).then(|| Vulnerability {
            fix_available: match status {
                Some("fixed") => Some(true),
                Some("affected" | "will_not_fix" | "fix_deferred" | "end_of_life") => Some(false),
                _ => None,
            },
            id,
            package: self.pkg_name.get(),
            installed_version: self.installed_version.get(),
            fixed_version: self.fixed_version.get(),
            severity: severity(&self.severity.0),
            score,
            title: self.title.get(),
            ..Vulnerability::default()
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
