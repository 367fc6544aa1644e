//! The kinds of Kubernetes and the resources that requests name.

/// Resource, kind and API version of what workloads and audited requests are about, in every cluster.
const KINDS: &[(&str, &str, &str)] = &[
    ("clusterrolebindings", "ClusterRoleBinding", "rbac.authorization.k8s.io/v1"),
    ("clusterroles", "ClusterRole", "rbac.authorization.k8s.io/v1"),
    ("configmaps", "ConfigMap", "v1"),
    ("controllerrevisions", "ControllerRevision", "apps/v1"),
    ("cronjobs", "CronJob", "batch/v1"),
    ("customresourcedefinitions", "CustomResourceDefinition", "apiextensions.k8s.io/v1"),
    ("daemonsets", "DaemonSet", "apps/v1"),
    ("deployments", "Deployment", "apps/v1"),
    ("endpoints", "Endpoints", "v1"),
    ("endpointslices", "EndpointSlice", "discovery.k8s.io/v1"),
    ("events", "Event", "v1"),
    ("horizontalpodautoscalers", "HorizontalPodAutoscaler", "autoscaling/v2"),
    ("ingresses", "Ingress", "networking.k8s.io/v1"),
    ("jobs", "Job", "batch/v1"),
    ("leases", "Lease", "coordination.k8s.io/v1"),
    ("limitranges", "LimitRange", "v1"),
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1"),
    ("namespaces", "Namespace", "v1"),
    ("networkpolicies", "NetworkPolicy", "networking.k8s.io/v1"),
    ("nodes", "Node", "v1"),
    ("persistentvolumeclaims", "PersistentVolumeClaim", "v1"),
    ("persistentvolumes", "PersistentVolume", "v1"),
    ("poddisruptionbudgets", "PodDisruptionBudget", "policy/v1"),
    ("pods", "Pod", "v1"),
    ("replicasets", "ReplicaSet", "apps/v1"),
    ("replicationcontrollers", "ReplicationController", "v1"),
    ("resourcequotas", "ResourceQuota", "v1"),
    ("rolebindings", "RoleBinding", "rbac.authorization.k8s.io/v1"),
    ("roles", "Role", "rbac.authorization.k8s.io/v1"),
    ("secrets", "Secret", "v1"),
    ("serviceaccounts", "ServiceAccount", "v1"),
    ("services", "Service", "v1"),
    ("statefulsets", "StatefulSet", "apps/v1"),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "admissionregistration.k8s.io/v1"),
    ("volumeattachments", "VolumeAttachment", "storage.k8s.io/v1"),
];

/// Kind and API version of a resource; of one that not every cluster has, its own name and nothing.
pub(crate) fn of_resource(resource: &str) -> (String, String) {
    KINDS.iter().find(|(plural, ..)| plural.eq_ignore_ascii_case(resource)).map_or_else(
        || (resource.to_owned(), String::new()),
        |(_, kind, api_version)| ((*kind).to_owned(), (*api_version).to_owned()),
    )
}

/// API version of a kind that every cluster has; else empty.
pub(crate) fn api_version(kind: &str) -> String {
    KINDS.iter().find(|(_, known, _)| *known == kind).map_or_else(String::new, |(.., version)| (*version).to_owned())
}

/// Whether every cluster has objects of that kind.
pub(crate) fn is_kind(kind: &str) -> bool {
    KINDS.iter().any(|(_, known, _)| *known == kind)
}

/// The API version in the path of a request, `/api/v1/…` or `/apis/apps/v1/…`.
pub(crate) fn api_version_in_path(path: &str) -> Option<String> {
    let fits = |part: &&str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        !part.is_empty() && part.len() <= 120 && part.bytes().all(allowed)
    };
    let mut parts = path.split(['/', '?']).skip(1);
    match parts.next()? {
        "api" => parts.next().filter(fits).map(str::to_owned),
        "apis" => {
            let (group, version) = (parts.next().filter(fits)?, parts.next().filter(fits)?);
            Some(format!("{group}/{version}"))
        }
        _ => None,
    }
}

/// The namespace in the path of a request for an object in one, `/api/v1/namespaces/shop/pods/…`.
pub(crate) fn namespace_in_path(path: &str) -> Option<String> {
    let path = path.split('?').next()?;
    let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
    let namespace = parts.next().filter(|name| is_name(name, 63))?;
    // A path that ends with it is that of the namespace itself.
    parts.next().map(|_| namespace.to_owned())
}

/// Whether it can be the name of an object: RFC 1123.
pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let bytes = name.as_bytes();
    bytes.len() <= longest && edge(bytes.first()) && edge(bytes.last()) && name.bytes().all(allowed)
}

/// Whether it can be a UID of the API server. Of a static pod the runtime knows a hash instead, which no object has.
pub(crate) fn is_uid(uid: &str) -> bool {
    let parts = uid.split('-').map(str::len);
    parts.eq([8, 4, 4, 4, 12]) && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// A tool's name in the form of names in Kubernetes: `Trivy Vulnerability` is `trivy-vulnerability`.
pub(crate) fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.trim().chars().take(63) {
        if c.is_alphanumeric() || matches!(c, '.' | '_') {
            slug.extend(c.to_lowercase());
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_its_kind_and_an_unknown_one_its_own_name() {
        assert_eq!(of_resource("deployments"), ("Deployment".to_owned(), "apps/v1".to_owned()));
        assert_eq!(of_resource("widgets"), ("widgets".to_owned(), String::new()));
        assert_eq!(api_version("ReplicaSet"), "apps/v1");
        assert_eq!(api_version("Widget"), "");
    }

    #[test]
    fn the_path_of_a_request_tells_its_api_version() {
        assert_eq!(api_version_in_path("/api/v1/namespaces/prod/secrets?limit=5").as_deref(), Some("v1"));
        assert_eq!(
            api_version_in_path("/apis/storage.k8s.io/v1/volumeattachments/x").as_deref(),
            Some("storage.k8s.io/v1")
        );
        for path in ["", "/", "/healthz", "/api", "/apis/apps", "/apis/Ä/v1", "api/v1"] {
            assert_eq!(api_version_in_path(path), None, "{path}");
        }
    }

    #[test]
    fn the_path_of_a_request_tells_the_namespace_of_what_is_in_one() {
        for path in ["/api/v1/namespaces/prod/secrets?limit=5", "/apis/apps/v1/namespaces/prod/deployments/web/scale"] {
            assert_eq!(namespace_in_path(path).as_deref(), Some("prod"), "{path}");
        }
        for path in [
            "",
            "/healthz",
            "/api/v1/namespaces",
            "/api/v1/namespaces/prod",
            "/api/v1/nodes/n1",
            "/api/v1/namespaces/Ä/pods",
        ] {
            assert_eq!(namespace_in_path(path), None, "{path}");
        }
    }
}
