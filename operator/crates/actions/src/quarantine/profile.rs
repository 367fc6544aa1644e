//! Profiles: what a quarantine's parameters come to as a NetworkPolicy.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use quell_crds::names;
use quell_crds::v1alpha1::step::{Isolate, Peer, PeerPort, Quarantine};
use serde_json::{Value, json};

use crate::mark::Mark;

/// The profile that denies everything, in both directions.
pub const FULL: &str = "full";

/// The cluster's DNS servers, as Kubernetes' own addons label them.
pub(super) const DNS_NAMESPACE: (&str, &str) = ("kubernetes.io/metadata.name", "kube-system");
pub(super) const DNS_PODS: (&str, &str) = ("k8s-app", "kube-dns");

/// What is denied and what stays open. Quarantines with the same parameters share one profile, and one policy a namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    name: String,
    spec: NetworkPolicySpec,
}

impl Profile {
    /// The profile of a step's parameters.
    #[must_use]
    pub fn of(parameters: &Quarantine) -> Self {
        let name = name(parameters);
        let spec = spec(&name, parameters);
        Self { name, spec }
    }

    /// The profile of that name, where the name alone says what it is: one without peers and addresses.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let plain = [Isolate::Both, Isolate::Ingress, Isolate::Egress].into_iter().flat_map(|isolate| {
            [false, true].map(|allow_dns| Self::of(&Quarantine { isolate, allow_dns, ..Quarantine::default() }))
        });
        plain.into_iter().find(|profile| profile.name == name)
    }

    /// Its name: the value of the label that its policy selects by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its policy.
    #[must_use]
    pub fn policy_name(&self) -> String {
        policy_name(&self.name)
    }

    /// What its policy says.
    #[must_use]
    pub fn spec(&self) -> &NetworkPolicySpec {
        &self.spec
    }

    /// Its policy. It selects by quarantine's own label, never by a workload's, which may catch others.
    ///
    /// The finalizer keeps it standing while a namespace that is deleted still has quarantined pods: else the policy may go before them
    /// (CVE-2024-7598).
    #[must_use]
    pub fn policy(&self, namespace: &str, mark: &Mark) -> NetworkPolicy {
        NetworkPolicy {
            metadata: ObjectMeta {
                name: Some(self.policy_name()),
                namespace: Some(namespace.to_owned()),
                labels: Some(self.labels(mark)),
                annotations: Some(mark.annotations()),
                finalizers: Some(vec![names::QUARANTINE.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec.clone()),
        }
    }

    /// The labels of its policy.
    pub(super) fn labels(&self, mark: &Mark) -> BTreeMap<String, String> {
        let mut labels = mark.labels();
        labels.insert(names::MANAGED_BY.to_owned(), names::QUELL.to_owned());
        labels.insert(names::QUARANTINE_POLICY.to_owned(), self.name.clone());
        labels
    }

    /// Whether a policy says what this profile says, for the pods that it is for, and nothing else.
    #[must_use]
    pub fn is_said_by(&self, policy: &NetworkPolicy) -> bool {
        normal(&json!(policy.spec)) == normal(&json!(self.spec))
    }
}

/// The name of the policy of a profile.
#[must_use]
pub fn policy_name(profile: &str) -> String {
    format!("quell-quarantine-{profile}")
}

fn name(parameters: &Quarantine) -> String {
    let base = match parameters.isolate {
        Isolate::Both => FULL,
        Isolate::Ingress => "ingress",
        Isolate::Egress => "egress",
    };
    let dns = if parameters.allow_dns { "-dns" } else { "" };
    if parameters.allow.is_empty() && parameters.deny_cidrs.is_empty() {
        return format!("{base}{dns}");
    }
    let own = json!([parameters.allow, parameters.deny_cidrs]).to_string();
    let hash = names::fingerprint([own]);
    format!("{base}{dns}-{}", &hash[..10])
}

fn spec(name: &str, parameters: &Quarantine) -> NetworkPolicySpec {
    let denies = !parameters.deny_cidrs.is_empty();
    let ingress = parameters.isolate != Isolate::Egress;
    let egress = parameters.isolate != Isolate::Ingress;
    let mut policy = NetworkPolicySpec {
        pod_selector: Some(selector((names::QUARANTINE, name))),
        policy_types: Some(Vec::new()),
        ingress: None,
        egress: None,
    };
    let types = policy.policy_types.get_or_insert_default();
    if ingress || denies {
        types.push("Ingress".to_owned());
        policy.ingress = some(ingress_rules(parameters, ingress));
    }
    if egress || denies {
        types.push("Egress".to_owned());
        policy.egress = some(egress_rules(parameters, egress));
    }
    policy
}

fn ingress_rules(parameters: &Quarantine, isolated: bool) -> Vec<NetworkPolicyIngressRule> {
    let mut rules = Vec::new();
    for allowed in parameters.allow.iter().filter(|peer| peer.direction != Isolate::Egress) {
        rules.push(NetworkPolicyIngressRule { from: Some(vec![peer(allowed)]), ports: ports(&allowed.ports) });
    }
    if !isolated {
        rules.push(NetworkPolicyIngressRule { from: Some(all_but(&parameters.deny_cidrs)), ports: None });
    }
    rules
}

fn egress_rules(parameters: &Quarantine, isolated: bool) -> Vec<NetworkPolicyEgressRule> {
    let mut rules = Vec::new();
    if parameters.allow_dns && isolated {
        let servers = NetworkPolicyPeer {
            namespace_selector: Some(selector(DNS_NAMESPACE)),
            pod_selector: Some(selector(DNS_PODS)),
            ip_block: None,
        };
        let port = |protocol: &str| NetworkPolicyPort {
            protocol: Some(protocol.to_owned()),
            port: Some(IntOrString::Int(53)),
            end_port: None,
        };
        rules.push(NetworkPolicyEgressRule { to: Some(vec![servers]), ports: Some(vec![port("UDP"), port("TCP")]) });
    }
    for allowed in parameters.allow.iter().filter(|peer| peer.direction != Isolate::Ingress) {
        rules.push(NetworkPolicyEgressRule { to: Some(vec![peer(allowed)]), ports: ports(&allowed.ports) });
    }
    if !isolated {
        rules.push(NetworkPolicyEgressRule { to: Some(all_but(&parameters.deny_cidrs)), ports: None });
    }
    rules
}

fn peer(peer: &Peer) -> NetworkPolicyPeer {
    let block = peer.cidr.as_ref().map(|cidr| IPBlock { cidr: cidr.clone(), except: some(peer.except.clone()) });
    NetworkPolicyPeer {
        ip_block: block,
        namespace_selector: peer.namespace_selector.as_ref().map(LabelSelector::from),
        pod_selector: peer.pod_selector.as_ref().map(LabelSelector::from),
    }
}

fn ports(ports: &[PeerPort]) -> Option<Vec<NetworkPolicyPort>> {
    let port = |port: &PeerPort| NetworkPolicyPort {
        protocol: Some(port.protocol.as_str().to_owned()),
        port: Some(IntOrString::Int(port.port)),
        end_port: port.end_port,
    };
    some(ports.iter().map(port).collect())
}

/// Everybody but these addresses. Pods are chosen by a selector, since plugins differ in whether a block of addresses chooses them.
fn all_but(denied: &[String]) -> Vec<NetworkPolicyPeer> {
    let block = |cidr: &str, six: bool| {
        let except = denied.iter().filter(|one| one.contains(':') == six).cloned().collect();
        let ip_block = Some(IPBlock { cidr: cidr.to_owned(), except: some(except) });
        NetworkPolicyPeer { ip_block, ..NetworkPolicyPeer::default() }
    };
    let pods = NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    vec![block("0.0.0.0/0", false), block("::/0", true), pods]
}

fn selector((key, value): (&str, &str)) -> LabelSelector {
    LabelSelector { match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])), match_expressions: None }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}

/// Without what is empty, which the API server may leave out or add.
fn normal(value: &Value) -> Value {
    // An empty selector chooses all, so it is something; an empty list of rules is as good as none.
    match value {
        Value::Object(fields) => {
            let is_nothing = |key: &str, value: &Value| match value {
                Value::Null => true,
                Value::Array(all) => all.is_empty() && key != "from" && key != "to",
                Value::Object(fields) => fields.is_empty() && key == "matchLabels",
                _ => false,
            };
            let kept = fields.iter().filter(|(key, value)| !is_nothing(key, value));
            Value::Object(kept.map(|(key, value)| (key.clone(), normal(value))).collect())
        }
        Value::Array(all) => Value::Array(all.iter().map(normal).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use quell_isolation::{Endpoint, Model, Pod, PodRef, Protocol, Verdict};

    use super::*;

    fn mark() -> Mark {
        Mark {
            namespace: "shop".to_owned(),
            remediation: "run".to_owned(),
            finding: "finding".to_owned(),
            step: "contain".to_owned(),
        }
    }

    fn profile(isolate: Isolate, allow_dns: bool) -> Profile {
        Profile::of(&Quarantine { isolate, allow_dns, ..Quarantine::default() })
    }

    #[test]
    fn what_is_said_plainly_has_a_plain_name_that_gives_it_back() {
        for (isolate, dns, name) in [
            (Isolate::Both, false, "full"),
            (Isolate::Both, true, "full-dns"),
            (Isolate::Ingress, false, "ingress"),
            (Isolate::Egress, true, "egress-dns"),
        ] {
            assert_eq!(profile(isolate, dns).name(), name);
            assert_eq!(Profile::named(name), Some(profile(isolate, dns)));
        }
        assert_eq!(Profile::named("full-0123456789"), None);
    }

    #[test]
    fn other_peers_are_another_profile() {
        let with = |cidr: &str| {
            let peer = Peer { cidr: Some(cidr.to_owned()), ..Peer::default() };
            Profile::of(&Quarantine { allow: vec![peer], ..Quarantine::default() })
        };
        assert_ne!(with("10.0.0.1/32").name(), with("10.0.0.2/32").name());
        assert_eq!(with("10.0.0.1/32"), with("10.0.0.1/32"));
        assert!(with("10.0.0.1/32").name().len() <= 63);
    }

    #[test]
    fn a_policy_with_one_rule_more_doesnt_say_it() {
        let full = profile(Isolate::Both, false);
        let mut policy = full.policy("shop", &mark());
        assert!(full.is_said_by(&policy));
        if let Some(spec) = &mut policy.spec {
            spec.ingress = Some(Vec::new());
        }
        assert!(full.is_said_by(&policy), "no rule and no list of rules are the same");
        if let Some(spec) = &mut policy.spec {
            spec.ingress = Some(vec![NetworkPolicyIngressRule::default()]);
        }
        assert!(!full.is_said_by(&policy));
    }

    #[test]
    fn the_direction_that_stays_open_is_open_but_for_what_is_denied() {
        let parameters = Quarantine {
            isolate: Isolate::Ingress,
            deny_cidrs: vec!["169.254.169.254/32".to_owned(), "fd00::/8".to_owned()],
            ..Quarantine::default()
        };
        let spec = Profile::of(&parameters).spec;
        assert_eq!(spec.policy_types, Some(vec!["Ingress".to_owned(), "Egress".to_owned()]));
        assert_eq!(spec.ingress, None);
        let to = spec.egress.and_then(|rules| rules.into_iter().next()).and_then(|rule| rule.to).unwrap_or_default();
        let blocks: Vec<_> = to.iter().filter_map(|peer| peer.ip_block.clone()).collect();
        assert_eq!(blocks[0].except, Some(vec!["169.254.169.254/32".to_owned()]));
        assert_eq!(blocks[1].except, Some(vec!["fd00::/8".to_owned()]));
        assert!(to.iter().any(|peer| peer.namespace_selector == Some(LabelSelector::default())));
    }

    #[test]
    fn the_name_server_is_reached_where_that_is_asked_for_and_nothing_else_is() {
        let text = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let mut tried = Vec::new();
        for allow_dns in [true, false] {
            let profile = profile(Isolate::Both, allow_dns);
            let mut model = Model::new();
            for namespace in ["shop", "kube-system"] {
                model.upsert_namespace(namespace, &text(DNS_NAMESPACE.0, namespace));
            }
            for (namespace, name, labels) in [
                ("shop", "bad", text(names::QUARANTINE, profile.name())),
                ("kube-system", "dns", text(DNS_PODS.0, DNS_PODS.1)),
                // Labelled like the name server, and not where that is.
                ("shop", "other", text(DNS_PODS.0, DNS_PODS.1)),
            ] {
                model.upsert_pod(Pod { namespace: namespace.into(), name: name.into(), labels, ..Pod::default() });
            }
            model.upsert_policy(&profile.policy("shop", &mark()));
            let end = |namespace: &str, name: &str| Endpoint::Pod(PodRef::new(namespace, name));
            for (namespace, name, protocol, port) in [
                ("kube-system", "dns", Protocol::Udp, 53),
                ("kube-system", "dns", Protocol::Tcp, 53),
                ("kube-system", "dns", Protocol::Tcp, 9153),
                ("shop", "other", Protocol::Udp, 53),
            ] {
                let verdict = model.verdict(&end("shop", "bad"), &end(namespace, name), protocol, port);
                tried.push(matches!(verdict, Verdict::Allowed { .. }));
            }
        }
        assert_eq!(tried, [true, true, false, false, false, false, false, false]);
    }
}
