//! Which requests are findings.

use quell_crds::v1alpha1::Severity;
use serde_json::Value;

use crate::denial::Denial;
use crate::walk::{Fields, is_true, object_at, objects_at, text_at, texts_at};

/// What a rule found in a request.
pub(super) struct Found {
    pub(super) rule: String,
    pub(super) severity: Severity,
    /// What was done, after who did it.
    pub(super) message: String,
    pub(super) details: Fields,
}

impl Found {
    fn new(rule: impl Into<String>, severity: Severity, message: impl Into<String>) -> Self {
        Self { rule: rule.into(), severity, message: message.into(), details: Fields::new() }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// Folders of a node that give a container the node, or its secrets: the path itself and what is below it.
const SENSITIVE: [&str; 12] = [
    "/etc",
    "/proc",
    "/root",
    "/home",
    "/dev",
    "/boot",
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd",
    "/var/run/crio",
    "/var/lib/kubelet",
    "/var/lib/docker",
];

/// Kinds whose objects make pods. ReplicaSets are left out: their Deployment was seen before them, and their pods are after.
const WITH_TEMPLATE: [&str; 5] = ["deployments", "daemonsets", "statefulsets", "jobs", "cronjobs"];

/// Words that begin a credential in the text of a ConfigMap.
const CREDENTIALS: [&str; 6] = [
    "aws_access_key_id",
    "aws-access-key-id",
    "aws_s3_access_key_id",
    "aws-s3-access-key-id",
    "password",
    "passphrase",
];

/// A request as the rules see it.
struct Request<'a> {
    fields: &'a Fields,
    verb: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    user: String,
    groups: Vec<String>,
    path: String,
    code: u32,
}

/// What the rules find in a request: nothing in one that is not done yet, or that changed nothing.
pub(super) fn judge(fields: &Fields) -> Vec<Found> {
    let text = |way: &[&str]| text_at(fields, way).unwrap_or_default();
    let stage = text(&["stage"]);
    let request = Request {
        fields,
        verb: text(&["verb"]).to_ascii_lowercase(),
        resource: text(&["objectRef", "resource"]),
        subresource: text(&["objectRef", "subresource"]),
        namespace: text(&["objectRef", "namespace"]),
        name: text(&["objectRef", "name"]),
        user: text(&["user", "username"]),
        groups: object_at(fields, &["user"]).map(|user| texts_at(user, &["groups"])).unwrap_or_default(),
        path: text(&["requestURI"]).split('?').next().unwrap_or_default().to_owned(),
        code: text(&["responseStatus", "code"]).parse().unwrap_or_default(),
    };
    // A command in a pod is answered with 101 when it begins, and is done when it ends, which may be hours later.
    let begun = stage == "ResponseStarted" && request.code == 101;
    if stage != "ResponseComplete" && !begun {
        return Vec::new();
    }
    let forbidden = text(&["annotations", "authorization.k8s.io/decision"]) == "forbid";
    let done = (request.code < 300) && !forbidden;
    let mut found: Vec<Found> = if done {
        [
            request.session(),
            request.anonymous(),
            request.pod_in_system_namespace(),
            request.binding(),
            request.role(),
            request.secrets(),
            request.credentials(),
            request.token(),
            request.node_proxy(),
            request.webhook(),
            request.impersonation(),
        ]
        .into_iter()
        .flatten()
        .chain(request.pod())
        .collect()
    } else {
        request.denied().into_iter().collect()
    };
    found.extend(request.violations());
    found
}

impl Request<'_> {
    /// A part of the control plane, or a kubelet: what they do is their work.
    fn is_system(&self) -> bool {
        let user = self.user.as_str();
        user.starts_with("system:kube-")
            || user.starts_with("system:node:")
            || user.starts_with("system:serviceaccount:kube-system:")
            || matches!(user, "system:apiserver" | "system:addon-manager" | "kubelet")
    }

    fn writes(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch")
    }

    fn is(&self, resource: &str) -> bool {
        self.resource == resource && self.subresource.is_empty()
    }

    fn object(&self) -> Option<&Fields> {
        object_at(self.fields, &["requestObject"])
    }

    fn place(&self) -> String {
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => format!("all {}", self.resource),
            ("", name) => format!("{} {name}", self.resource),
            (namespace, "") => format!("{} in {namespace}", self.resource),
            (namespace, name) => format!("{} {namespace}/{name}", self.resource),
        }
    }

    fn session(&self) -> Option<Found> {
        if self.resource != "pods" || !matches!(self.verb.as_str(), "create" | "get" | "update" | "patch") {
            return None;
        }
        let (rule, severity, what) = match self.subresource.as_str() {
            "exec" => ("Exec into pod", Severity::Medium, "ran a command in"),
            "attach" => ("Attach to pod", Severity::Medium, "attached to"),
            "ephemeralcontainers" if self.verb != "get" => {
                ("Ephemeral container added", Severity::Medium, "added a container to")
            }
            "portforward" => ("Port forward to pod", Severity::Low, "forwarded a port of"),
            _ => return None,
        };
        let severity = if is_system_namespace(&self.namespace) { severity.max(Severity::High) } else { severity };
        let mut found = Found::new(rule, severity, format!("{what} {}", self.place()));
        let uri = text_at(self.fields, &["requestURI"]).unwrap_or_default();
        let query = uri.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let command: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("command=")).collect();
        if !command.is_empty() {
            found.message = format!("{}: {}", found.message, command.join(" "));
            found = found.with("command", command.join(" "));
        }
        Some(found)
    }

    fn anonymous(&self) -> Option<Found> {
        let anonymous =
            self.user == "system:anonymous" || self.groups.iter().any(|group| group == "system:unauthenticated");
        // What everybody may ask: health, version, discovery.
        let open = ["/healthz", "/livez", "/readyz", "/version", "/openid/", "/.well-known/"];
        if !anonymous || self.path == "/" || open.iter().any(|path| self.path.starts_with(path)) {
            return None;
        }
        let writes = !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head");
        let severity = if writes { Severity::Critical } else { Severity::High };
        let what = if self.resource.is_empty() { self.path.clone() } else { self.place() };
        Some(Found::new("Anonymous request allowed", severity, format!("was allowed to {} {what}", self.verb)))
    }

    fn pod_in_system_namespace(&self) -> Option<Found> {
        let made = self.is("pods") && self.verb == "create";
        (made && is_system_namespace(&self.namespace) && !self.is_system()).then(|| {
            Found::new("Pod created in system namespace", Severity::Medium, format!("created {}", self.place()))
        })
    }

    /// What a pod, or those of a workload, may do to its node.
    fn pod(&self) -> Vec<Found> {
        let Some(object) = self.object().filter(|_| self.writes() && self.subresource.is_empty()) else {
            return Vec::new();
        };
        let spec = match self.resource.as_str() {
            "pods" => object_at(object, &["spec"]),
            "cronjobs" => object_at(object, &["spec", "jobTemplate", "spec", "template", "spec"]),
            resource if WITH_TEMPLATE.contains(&resource) => object_at(object, &["spec", "template", "spec"]),
            _ => None,
        };
        let Some(spec) = spec else { return Vec::new() };
        // The control plane's own pods are privileged by their nature.
        if is_system_namespace(&self.namespace) && self.is_system() {
            return Vec::new();
        }
        [self.privileged(spec), self.host_path(spec), self.host_namespaces(spec)].into_iter().flatten().collect()
    }

    fn privileged(&self, spec: &Fields) -> Option<Found> {
        let containers = || {
            ["initContainers", "containers", "ephemeralContainers"]
                .into_iter()
                .flat_map(|name| objects_at(spec, &[name]))
        };
        let names: Vec<String> = containers()
            .filter(|one| is_true(one, &["securityContext", "privileged"]))
            .map(|one| text_at(one, &["name"]).unwrap_or_default())
            .collect();
        (!names.is_empty()).then(|| {
            Found::new(
                "Privileged pod",
                Severity::High,
                format!("asked for privileged containers in {}: {}", self.place(), names.join(", ")),
            )
            .with("containers", names)
        })
    }

    fn host_path(&self, spec: &Fields) -> Option<Found> {
        let paths: Vec<String> =
            objects_at(spec, &["volumes"]).filter_map(|volume| text_at(volume, &["hostPath", "path"])).collect();
        if paths.is_empty() {
            return None;
        }
        let is_sensitive = |path: &String| {
            let path = path.trim_end_matches('/');
            path.is_empty()
                || SENSITIVE.iter().any(|folder| {
                    path == *folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
                })
        };
        let (rule, severity) = if paths.iter().any(is_sensitive) {
            ("Sensitive host path mounted", Severity::High)
        } else {
            ("Host path mounted", Severity::Low)
        };
        let message = format!("asked for folders of the node in {}: {}", self.place(), paths.join(", "));
        Some(Found::new(rule, severity, message).with("hostPaths", paths))
    }

    fn host_namespaces(&self, spec: &Fields) -> Option<Found> {
        let asked: Vec<&str> =
            ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| is_true(spec, &[name])).collect();
        (!asked.is_empty()).then(|| {
            let severity = if asked.contains(&"hostPID") { Severity::High } else { Severity::Medium };
            Found::new(
                "Host namespaces shared",
                severity,
                format!("asked for {} in {}", asked.join(", "), self.place()),
            )
        })
    }

    fn binding(&self) -> Option<Found> {
        let (cluster, namespaced) = (self.is("clusterrolebindings"), self.is("rolebindings"));
        let object = self.object().filter(|_| (cluster || namespaced) && self.writes())?;
        let subjects: Vec<String> =
            objects_at(object, &["subjects"]).filter_map(|one| text_at(one, &["name"])).collect();
        let role = text_at(object, &["roleRef", "name"])?;
        let to_anybody =
            subjects.iter().any(|name| matches!(name.as_str(), "system:anonymous" | "system:unauthenticated"));
        let message = format!("bound {role} to {} by {}", subjects.join(", "), self.place());
        if to_anybody && role != "system:public-info-viewer" {
            return Some(Found::new("Role bound to anonymous", Severity::Critical, message).with("role", role));
        }
        // The API server puts its own bindings back when it starts.
        (role == "cluster-admin" && self.user != "system:apiserver").then(|| {
            Found::new("Cluster-admin bound", if cluster { Severity::High } else { Severity::Medium }, message)
                .with("subjects", subjects)
        })
    }

    fn role(&self) -> Option<Found> {
        let object = self.object().filter(|_| (self.is("clusterroles") || self.is("roles")) && self.writes())?;
        if self.is_system() {
            return None;
        }
        let any = |name: &str, wanted: &[&str]| {
            objects_at(object, &["rules"]).any(|rule| {
                let of_objects = !texts_at(rule, &["resources"]).is_empty();
                of_objects && texts_at(rule, &[name]).iter().any(|one| wanted.contains(&one.as_str()))
            })
        };
        let (verbs, resources) = (any("verbs", &["*"]), any("resources", &["*"]));
        if verbs || resources {
            let severity = if verbs && resources { Severity::High } else { Severity::Medium };
            return Some(Found::new("Wildcard role", severity, format!("allowed * in {}", self.place())));
        }
        if any("verbs", &["escalate", "bind", "impersonate"]) {
            return Some(Found::new(
                "Role that escalates",
                Severity::High,
                format!("allowed escalate, bind or impersonate in {}", self.place()),
            ));
        }
        any("resources", &["pods/exec", "pods/attach", "nodes/proxy"]).then(|| {
            Found::new("Role that runs commands in pods", Severity::Medium, format!("allowed it in {}", self.place()))
        })
    }

    fn secrets(&self) -> Option<Found> {
        let all = self.is("secrets") && matches!(self.verb.as_str(), "list" | "watch" | "get") && self.name.is_empty();
        // Controllers watch secrets from the day they are installed; people and stolen tokens list them.
        let controller = self.user.starts_with("system:")
            && (self.verb == "watch" || !self.user.starts_with("system:serviceaccount:"));
        (all && !controller && !self.is_system())
            .then(|| Found::new("Secrets listed", Severity::Medium, format!("read {}", self.place())))
    }

    fn credentials(&self) -> Option<Found> {
        let object = self.object().filter(|_| self.is("configmaps") && self.writes())?;
        let values = object_at(object, &["data"])?.iter();
        let is_credential = |line: &str| {
            let line = line.trim_start().to_ascii_lowercase();
            CREDENTIALS
                .iter()
                .any(|word| line.strip_prefix(word).is_some_and(|rest| rest.trim_start().starts_with(['=', ':'])))
        };
        let keys: Vec<String> = values
            .filter(|(_, value)| value.as_str().is_some_and(|text| text.lines().any(is_credential)))
            .map(|(key, _)| key.clone())
            .collect();
        (!keys.is_empty()).then(|| {
            Found::new(
                "Credentials in ConfigMap",
                Severity::Medium,
                format!("wrote what looks like credentials to {}, in {}", self.place(), keys.join(", ")),
            )
            .with("keys", keys)
        })
    }

    fn token(&self) -> Option<Found> {
        let asked = self.resource == "serviceaccounts" && self.subresource == "token" && self.verb == "create";
        (asked && !self.is_system()).then(|| {
            Found::new(
                "Service account token requested",
                Severity::Medium,
                format!("asked for a token of {}", self.place()),
            )
        })
    }

    fn node_proxy(&self) -> Option<Found> {
        (self.resource == "nodes" && self.subresource == "proxy" && !self.is_system()).then(|| {
            Found::new("Kubelet reached through the API server", Severity::High, format!("reached {}", self.place()))
        })
    }

    fn webhook(&self) -> Option<Found> {
        let kind =
            matches!(self.resource.as_str(), "mutatingwebhookconfigurations" | "validatingwebhookconfigurations");
        // Operators that install webhooks renew their certificates as service accounts, all the time.
        let person = !self.user.starts_with("system:");
        (kind && person && (self.writes() || self.verb.starts_with("delete"))).then(|| {
            Found::new(
                "Admission webhook changed",
                Severity::Medium,
                format!("made a {} of {}", self.verb, self.place()),
            )
        })
    }

    fn impersonation(&self) -> Option<Found> {
        let groups = object_at(self.fields, &["impersonatedUser"]).map(|user| texts_at(user, &["groups"]))?;
        groups.iter().any(|group| group == "system:masters").then(|| {
            Found::new(
                "Impersonation of cluster-admin",
                Severity::High,
                format!("acted as system:masters on {}", self.place()),
            )
        })
    }

    /// What admission turned away. That authorization does is everyday work.
    fn denied(&self) -> Option<Found> {
        let said = text_at(self.fields, &["responseStatus", "message"])?;
        let denial = Denial::parse(&said)?;
        Some(Found::new(
            denial.rule(),
            Severity::Medium,
            format!("was denied to {} {}: {said}", self.verb, self.place()),
        ))
    }

    /// What was let in although a policy that only audits isn't met.
    fn violations(&self) -> Vec<Found> {
        let Some(annotations) = object_at(self.fields, &["annotations"]) else { return Vec::new() };
        let text = |name: &str| text_at(annotations, &[name]);
        let pod = text("pod-security.kubernetes.io/audit-violations")
            .map(|said| Found::new("PodSecurity audit", Severity::Low, format!("made {}, which {said}", self.place())));
        let policy = text("validation.policy.admission.k8s.io/validation_failure").map(|said| {
            Found::new("ValidatingAdmissionPolicy audit", Severity::Low, format!("made {}: {said}", self.place()))
        });
        pod.into_iter().chain(policy).collect()
    }
}

fn is_system_namespace(namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease")
}
