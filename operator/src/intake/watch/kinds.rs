//! Which kinds a Source watches.

use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};
use quell_crds::v1alpha1::{Format, SourceSpec};

/// What a Source wants to be watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wanted {
    /// One kind of a group.
    Kind {
        /// API group; empty for Kubernetes' core.
        group: String,
        /// The version, where it has to be that one.
        version: Option<String>,
        /// The kind.
        kind: String,
    },
    /// Every kind of a group, which come and go.
    All {
        /// API group.
        group: String,
    },
}

impl Wanted {
    /// One kind, in whatever version.
    pub fn kind(group: &str, kind: &str) -> Self {
        Self::Kind { group: group.to_owned(), version: None, kind: kind.to_owned() }
    }

    /// Kubernetes' own Events, which every cluster serves.
    pub fn is_events(&self) -> bool {
        *self == Self::kind("", "Event")
    }

    /// The API group.
    pub fn group(&self) -> &str {
        match self {
            Self::Kind { group, .. } | Self::All { group } => group,
        }
    }

    /// Those of the kinds that a group serves, each in one version: the first that is served.
    pub fn of<'a>(&self, served: &'a [ApiResource]) -> Vec<&'a ApiResource> {
        let mut found: Vec<&ApiResource> = Vec::new();
        for resource in served {
            let is_meant = match self {
                Self::Kind { version, kind, .. } => {
                    resource.kind == *kind && version.as_ref().is_none_or(|version| *version == resource.version)
                }
                Self::All { .. } => true,
            };
            if is_meant && !found.iter().any(|known| known.kind == resource.kind) {
                found.push(resource);
            }
        }
        found
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { group, version: None, kind } if group.is_empty() => f.write_str(kind),
            Self::Kind { group, version: None, kind } => write!(f, "{kind}.{group}"),
            Self::Kind { group, version: Some(version), kind } if group.is_empty() => write!(f, "{kind}.{version}"),
            Self::Kind { group, version: Some(version), kind } => write!(f, "{kind}.{version}.{group}"),
            Self::All { group } => write!(f, "every kind of {group}"),
        }
    }
}

/// `Kind.group`, by which people and Findings know a kind.
pub fn label(resource: &ApiResource) -> String {
    Wanted::kind(&resource.group, &resource.kind).to_string()
}

const TRIVY: [&str; 10] = [
    "VulnerabilityReport",
    "ClusterVulnerabilityReport",
    "ConfigAuditReport",
    "ClusterConfigAuditReport",
    "ExposedSecretReport",
    "RbacAssessmentReport",
    "ClusterRbacAssessmentReport",
    "InfraAssessmentReport",
    "ClusterInfraAssessmentReport",
    "ClusterComplianceReport",
];

/// What the Source wants; nothing for one that doesn't watch.
pub fn wanted(spec: &SourceSpec) -> Vec<Wanted> {
    let Some(watch) = &spec.watch else { return Vec::new() };
    let all = |group: &str, kinds: &[&str]| kinds.iter().map(|kind| Wanted::kind(group, kind)).collect();
    match spec.format {
        Some(Format::TrivyOperator) => all("aquasecurity.github.io", &TRIVY),
        Some(Format::Gatekeeper) => vec![Wanted::All { group: "constraints.gatekeeper.sh".to_owned() }],
        Some(Format::Policyreport) => all("wgpolicyk8s.io", &["PolicyReport", "ClusterPolicyReport"]),
        Some(Format::Openreports) => all("openreports.io", &["Report", "ClusterReport"]),
        // Each tells the whole of what its scan found; the scans themselves would tell it again.
        Some(Format::Kubescape) => all(
            "spdx.softwarecomposition.kubescape.io",
            &["WorkloadConfigurationScanSummary", "VulnerabilityManifestSummary"],
        ),
        Some(Format::K8sEvents) => vec![Wanted::kind("", "Event")],
        Some(_) => Vec::new(),
        None => {
            let of = watch.resources.iter().map(|one| Wanted::Kind {
                group: one.group.clone(),
                version: one.version.clone(),
                kind: one.kind.clone(),
            });
            of.collect()
        }
    }
}

/// How objects of a format are watched, where that isn't as all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// A list or a watch has only metadata: each object has to be read by itself.
    pub reads_each: bool,
    /// That an object is deleted says nothing about the problem.
    pub outlives: bool,
}

impl Manner {
    /// That of a format.
    pub fn of(format: Option<Format>) -> Self {
        match format {
            Some(Format::Kubescape) => Self { reads_each: true, ..Self::default() },
            // Kubernetes deletes an Event after an hour.
            Some(Format::K8sEvents) => Self { outlives: true, ..Self::default() },
            _ => Self::default(),
        }
    }
}

/// The resource of Kubernetes' own Events.
pub fn events() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Event"), "events")
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{SourceMapping, SourceWatch, WatchedKind};

    use super::*;

    fn spec(format: Option<Format>, watch: SourceWatch) -> SourceSpec {
        let mapping = format.is_none().then(SourceMapping::default);
        SourceSpec {
            format,
            mapping,
            data_format: None,
            webhook: None,
            watch: Some(watch),
            limits: None,
            expire_after: None,
            namespaces: None,
            clair: None,
            harbor: None,
        }
    }

    fn served(kinds: &[(&str, &str)]) -> Vec<ApiResource> {
        let resource =
            |(version, kind): &(&str, &str)| ApiResource::from_gvk(&GroupVersionKind::gvk("g.io", version, kind));
        kinds.iter().map(resource).collect()
    }

    #[test]
    fn a_format_has_its_kinds_and_a_mapping_those_that_are_named() {
        let names = |spec: SourceSpec| wanted(&spec).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(spec(Some(Format::TrivyOperator), SourceWatch::default())).len(), 10);
        assert_eq!(
            names(spec(Some(Format::Gatekeeper), SourceWatch::default())),
            ["every kind of constraints.gatekeeper.sh"]
        );
        let one = |group: &str, version: Option<&str>| WatchedKind {
            group: group.to_owned(),
            version: version.map(str::to_owned),
            kind: "Alert".to_owned(),
        };
        let resources = vec![one("acme.io", None), one("acme.io", Some("v2")), one("", None)];
        let of_mapping = spec(None, SourceWatch { resources, ..SourceWatch::default() });
        assert_eq!(names(of_mapping), ["Alert.acme.io", "Alert.v2.acme.io", "Alert"]);
        assert!(wanted(&SourceSpec { watch: None, ..spec(Some(Format::Falco), SourceWatch::default()) }).is_empty());
    }

    #[test]
    fn of_what_is_served_a_kind_is_taken_once_and_of_a_whole_group_all() {
        let served = served(&[("v1", "A"), ("v1beta1", "A"), ("v1", "B")]);
        let found = |wanted: Wanted| -> Vec<String> {
            wanted.of(&served).into_iter().map(|one| format!("{}/{}", one.version, one.kind)).collect()
        };
        assert_eq!(found(Wanted::kind("g.io", "A")), ["v1/A"]);
        let exact =
            Wanted::Kind { group: "g.io".to_owned(), version: Some("v1beta1".to_owned()), kind: "A".to_owned() };
        assert_eq!(found(exact), ["v1beta1/A"]);
        assert_eq!(found(Wanted::All { group: "g.io".to_owned() }), ["v1/A", "v1/B"]);
        assert!(found(Wanted::kind("g.io", "C")).is_empty());
    }
}
