//! The rights of the operator: its own, and those of the steps that it does for ClusterPlaybooks. The chart's roles and the table in
//! `docs/install.md` are made from these.
//!
//! What a namespaced Playbook does needs none of them but the right to act as a ServiceAccount of its namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use quell_actions::rights::{self, Place};

use crate::intake::{CA_BUNDLE, CERTIFICATE};
use crate::leader::LEASE;

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In every namespace: the ClusterRole `quell`.
    Cluster,
    /// In Quell's own namespace only: the Role `quell`.
    OwnNamespace,
    /// In the namespaces whose Playbooks may act as a ServiceAccount of theirs: the ClusterRole `quell-impersonate`.
    Impersonation,
    /// In the namespace of the Jobs that sever connections, where that is switched on: the Role `quell-sever`.
    Severing,
    /// In the namespace of the probes that try quarantined pods as an outsider would, where that is switched on: the Role `quell-probe`.
    Probing,
    /// In every namespace, for `revokeAccess` where that is switched on: the ClusterRole `quell-revoke`.
    Revoking,
    /// In every namespace, for `revokeAccess` with `deleteTokens` where that is switched on: the ClusterRole `quell-tokens`.
    Tokens,
    /// In every namespace and on nodes, for `quarantine` of pods on their node's network where that is switched on: the ClusterRole
    /// `quell-host-network`.
    HostNetwork,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 8] = [
        Self::Cluster,
        Self::OwnNamespace,
        Self::Impersonation,
        Self::Severing,
        Self::Probing,
        Self::Revoking,
        Self::Tokens,
        Self::HostNetwork,
    ];
}

/// Rights that are needed for one purpose.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources, with their subresources after a slash.
    pub resources: &'static [&'static str],
    /// The only objects that it is about; empty for all.
    pub names: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Where.
    pub scope: Scope,
    /// What for.
    pub why: &'static str,
}

const READ: &[&str] = &["get", "list", "watch"];
const FOLLOW: &[&str] = &["list", "watch"];

const fn cluster(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Need {
    Need { group, resources, names: &[], verbs, scope: Scope::Cluster, why }
}

const fn own(
    group: &'static str,
    resources: &'static [&'static str],
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Need {
    Need { group, resources, names, verbs, scope: Scope::OwnNamespace, why }
}

/// What the operator itself needs, whatever the playbooks do.
pub const OWN: &[Need] = &[
    cluster(
        "",
        &["pods"],
        READ,
        "finds the pod that a signal is about, its image and its node; a pod that is newer than the copy is read",
    ),
    cluster("", &["namespaces"], FOLLOW, "labels of namespaces, for `match` (metadata only)"),
    cluster(
        "",
        &["services"],
        FOLLOW,
        "which pods Services choose, and which of these are open to the outside, for `exposure`",
    ),
    cluster(
        "networking.k8s.io",
        &["ingresses"],
        FOLLOW,
        "which Services are reached from outside of the cluster, and by which hosts, for `exposure`",
    ),
    cluster(
        "gateway.networking.k8s.io",
        &["httproutes"],
        FOLLOW,
        "the same for routes of Gateways, where they are served",
    ),
    cluster("", &["nodes"], FOLLOW, "labels of nodes, by which guardrails limit (metadata only)"),
    cluster("apps", &["replicasets"], FOLLOW, "owners of pods (metadata only)"),
    cluster("batch", &["jobs"], FOLLOW, "owners of pods, and builds that runs wait for (metadata only)"),
    cluster(
        "apps",
        &["daemonsets", "deployments", "statefulsets"],
        FOLLOW,
        "roll-outs that runs wait for, and the network plugin (metadata only)",
    ),
    cluster(
        "networking.k8s.io",
        &["networkpolicies"],
        &["list", "patch", "watch"],
        "what still gets through to quarantined pods, and the finalizer of the policies that they stand on",
    ),
    cluster(
        "apiextensions.k8s.io",
        &["customresourcedefinitions"],
        FOLLOW,
        "which kinds of network policies, and of what Sources watch, this cluster serves (metadata only)",
    ),
    cluster(
        "policy.networking.k8s.io",
        &["adminnetworkpolicies", "baselineadminnetworkpolicies", "clusternetworkpolicies"],
        FOLLOW,
        "what they let through to quarantined pods, where they are served",
    ),
    cluster(
        "cilium.io",
        &["ciliumclusterwidenetworkpolicies", "ciliumnetworkpolicies"],
        FOLLOW,
        "what they let through to quarantined pods, where they are served",
    ),
    cluster(
        "crd.projectcalico.org",
        &["globalnetworkpolicies", "networkpolicies", "tiers"],
        FOLLOW,
        "what they let through to quarantined pods, where they are served",
    ),
    cluster(
        "security.istio.io",
        &["authorizationpolicies"],
        FOLLOW,
        "those that quarantines have, where they are served",
    ),
    cluster(
        "projectcalico.org",
        &["globalnetworkpolicies", "networkpolicies", "tiers"],
        FOLLOW,
        "what they let through to quarantined pods, where they are served",
    ),
    cluster(
        "quell.dev",
        &["findings"],
        &["create", "delete", "get", "list", "patch", "watch"],
        "stores what is reported, counts repeats, writes what a later report says that is worse or other, and deletes what has been done with \
         for long enough",
    ),
    cluster(
        "quell.dev",
        &["remediations"],
        &["create", "delete", "list", "watch"],
        "begins runs, takes them up after a restart, and deletes those that have been over for long enough",
    ),
    cluster(
        "quell.dev",
        &[
            "approvals",
            "channels",
            "clusterchannels",
            "clusterplaybooks",
            "clustersuppressions",
            "guardrails",
            "playbooks",
            "sources",
            "suppressions",
        ],
        FOLLOW,
        "what people declare and decide",
    ),
    cluster(
        "quell.dev",
        &[
            "channels/status",
            "clusterchannels/status",
            "clusterplaybooks/status",
            "clustersuppressions/status",
            "findings/status",
            "guardrails/status",
            "playbooks/status",
            "remediations/status",
            "sources/status",
            "suppressions/status",
        ],
        &["patch"],
        "tells what became of each; of what people declare no `spec` is ever changed",
    ),
    cluster("quell.dev", &["imageblocks"], &["delete", "list", "watch"], "deletes ImageBlocks whose time is over"),
    cluster(
        "authentication.k8s.io",
        &["userextras/quell.dev/acting"],
        &["impersonate"],
        "tells the guards that what a ServiceAccount does is done by Quell",
    ),
    cluster("events.k8s.io", &["events"], &["create", "patch"], "tells of refusals, waits, retries and failures"),
    cluster(
        "apiregistration.k8s.io",
        &["apiservices"],
        FOLLOW,
        "which kinds that Sources watch are served by other API servers (metadata only)",
    ),
    cluster(
        "aquasecurity.github.io",
        &[
            "clustercompliancereports",
            "clusterconfigauditreports",
            "clusterinfraassessmentreports",
            "clusterrbacassessmentreports",
            "clustervulnerabilityreports",
            "configauditreports",
            "exposedsecretreports",
            "infraassessmentreports",
            "rbacassessmentreports",
            "vulnerabilityreports",
        ],
        FOLLOW,
        "Sources of the format trivy-operator",
    ),
    cluster("wgpolicyk8s.io", &["clusterpolicyreports", "policyreports"], FOLLOW, "Sources of the format policyreport"),
    cluster("openreports.io", &["clusterreports", "reports"], FOLLOW, "Sources of the format openreports"),
    cluster(
        "spdx.softwarecomposition.kubescape.io",
        &["vulnerabilitymanifestsummaries", "workloadconfigurationscansummaries"],
        READ,
        "Sources of the format kubescape; its API server lists metadata only",
    ),
    cluster("", &["events"], FOLLOW, "Sources of the format k8s-events"),
    own(
        "coordination.k8s.io",
        &["leases"],
        &[],
        &["create"],
        "the election of the leader; RBAC can't name what isn't there yet",
    ),
    own("coordination.k8s.io", &["leases"], &[LEASE], &["get", "list", "patch", "watch"], "the election of the leader"),
    cluster(
        "authentication.k8s.io",
        &["tokenreviews"],
        &["create"],
        "Sources whose senders show the token of a ServiceAccount",
    ),
    own("", &["configmaps"], &[], FOLLOW, "authorities of the client certificates of Sources"),
    own(
        "",
        &["configmaps", "secrets"],
        &[],
        &["create"],
        "the certificate of the intake, where none is given; RBAC can't name what isn't there yet",
    ),
    own("", &["configmaps"], &[CA_BUNDLE], &["patch"], "publishes by which certificate senders know the intake"),
    own("", &["secrets"], &[CERTIFICATE], &["get", "update"], "makes and renews the certificate of the intake"),
    own("", &["secrets"], &[], FOLLOW, "tokens of Sources, and whether the Secrets of ClusterChannels are there"),
    Need {
        group: "",
        resources: &["serviceaccounts"],
        names: &[],
        verbs: &["impersonate"],
        scope: Scope::Impersonation,
        why: "a Playbook acts as a ServiceAccount of its namespace, a ClusterPlaybook as the one that it names",
    },
];

const STEPS: &str = "steps of ClusterPlaybooks, and their undo";

/// A rule, as a role has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group.
    pub group: String,
    /// Resources, sorted.
    pub resources: Vec<String>,
    /// Names of the only objects that it is about; empty for all.
    pub names: Vec<String>,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
    /// What for.
    pub why: String,
}

/// One right of the operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Declared {
    /// API group.
    pub group: String,
    /// Resource, with its subresource after a slash.
    pub resource: String,
    /// Verb.
    pub verb: String,
    /// Where.
    pub scope: Scope,
}

/// The rules of the operator in a scope: its own, then those of the steps.
#[must_use]
pub fn rules(scope: Scope) -> Vec<Rule> {
    let own = OWN.iter().filter(|need| need.scope == scope).map(|need| Rule {
        group: need.group.to_owned(),
        resources: strings(need.resources),
        names: strings(need.names),
        verbs: strings(need.verbs),
        why: need.why.to_owned(),
    });
    own.chain(of_steps(scope)).collect()
}

/// The rights of the operator, one by one.
#[must_use]
pub fn declared() -> BTreeSet<Declared> {
    let mut all = BTreeSet::new();
    for scope in Scope::ALL {
        for Rule { group, resources, verbs, .. } in rules(scope) {
            for resource in &resources {
                all.extend(verbs.iter().map(|verb| Declared {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    scope,
                }));
            }
        }
    }
    all
}

/// The rights of every kind of step, resources with the same verbs in one rule.
fn of_steps(scope: Scope) -> Vec<Rule> {
    let mut verbs: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    let ordinary =
        rights::ALL.iter().copied().chain([rights::SEVERING, rights::PROBING]).map(|all| (all, Scope::Cluster));
    let host_network = rights::HOST_NETWORK.iter().copied().map(|all| (all, Scope::HostNetwork));
    let opt_in =
        [(rights::REVOKING, Scope::Revoking), (rights::REVOKING_TOKENS, Scope::Tokens)].into_iter().chain(host_network);
    for (right, everywhere) in ordinary.chain(opt_in).flat_map(|(all, scope)| all.iter().map(move |one| (one, scope))) {
        let needed = match right.place {
            Place::Secrets => Scope::OwnNamespace,
            Place::Severing => Scope::Severing,
            Place::Probing => Scope::Probing,
            Place::Finding | Place::Cluster | Place::Everywhere => everywhere,
        };
        if needed == scope {
            verbs.entry((right.group, right.resource)).or_default().insert(right.verb);
        }
    }
    let mut together: BTreeMap<(&str, BTreeSet<&str>), Vec<String>> = BTreeMap::new();
    for ((group, resource), verbs) in verbs {
        together.entry((group, verbs)).or_default().push(resource.to_owned());
    }
    let rule = |((group, verbs), resources): ((&str, BTreeSet<&str>), Vec<String>)| Rule {
        group: group.to_owned(),
        resources,
        names: Vec::new(),
        verbs: verbs.into_iter().map(str::to_owned).collect(),
        why: STEPS.to_owned(),
    };
    together.into_iter().map(rule).collect()
}

const NAMESPACED: &[&str] = &["approvals", "channels", "findings", "playbooks", "remediations", "suppressions"];
const OF_CLUSTER: &[&str] =
    &["clusterchannels", "clusterplaybooks", "clustersuppressions", "guardrails", "imageblocks", "sources"];

/// What whoever may `view` a namespace may do with Quell's objects.
#[must_use]
pub fn for_viewers() -> Vec<Rule> {
    let resources = NAMESPACED.iter().chain(OF_CLUSTER).map(|one| (*one).to_owned()).collect();
    vec![people(resources, READ, "everything that Quell says; Secrets are only named in it")]
}

/// What whoever may `edit` a namespace may do with Quell's objects. A Playbook acts with the rights of a ServiceAccount of the namespace,
/// which `edit` may use anyway.
#[must_use]
pub fn for_editors() -> Vec<Rule> {
    const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
    vec![
        people(strings(&["channels", "playbooks"]), WRITE, "what a team declares for its own namespace"),
        people(strings(&["findings"]), WRITE, "a Finding by hand; one that is done with is deleted"),
        people(
            strings(&["remediations"]),
            &["patch", "update"],
            "pausing, cancelling and undoing: nothing but `intent` and `undoSteps` can be changed",
        ),
    ]
}

/// What whoever may approve has: a right of its own, which neither `edit` nor `admin` of a namespace includes.
#[must_use]
pub fn for_approvers() -> Vec<Rule> {
    vec![
        people(
            strings(&["approvals"]),
            &["create", "delete", "get", "list", "watch"],
            "deciding on what runs wait for; who decided is checked by the API server, and a decision can't be changed",
        ),
        people(strings(&["findings", "remediations"]), READ, "what is asked, and why"),
    ]
}

fn people(resources: Vec<String>, verbs: &[&str], why: &str) -> Rule {
    Rule { group: "quell.dev".to_owned(), resources, names: Vec::new(), verbs: strings(verbs), why: why.to_owned() }
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

/// The rules as YAML, each under a comment that says what it is for.
#[must_use]
pub fn to_yaml(rules: &[Rule]) -> String {
    // A list of strings in JSON is one in YAML, too.
    let list = |all: &[String]| serde_json::json!(all).to_string().replace("\",\"", "\", \"");
    let mut text = String::new();
    for rule in rules {
        let _ = writeln!(text, "# {}", rule.why);
        let _ = writeln!(text, "- apiGroups: {}", list(std::slice::from_ref(&rule.group)));
        let _ = writeln!(text, "  resources: {}", list(&rule.resources));
        if !rule.names.is_empty() {
            let _ = writeln!(text, "  resourceNames: {}", list(&rule.names));
        }
        let _ = writeln!(text, "  verbs: {}", list(&rule.verbs));
    }
    text
}

/// The rights as a table of Markdown.
#[must_use]
pub fn to_markdown() -> String {
    let mut text = "| where | API group | resources | verbs | what for |\n|---|---|---|---|---|\n".to_owned();
    for (scope, place) in [
        (Scope::Cluster, "every namespace"),
        (Scope::OwnNamespace, "Quell's namespace"),
        (Scope::Impersonation, "`impersonation.namespaces`"),
        (Scope::Severing, "`sever.namespace`, with `sever.enabled`"),
        (Scope::Probing, "`probe.namespace`, with `probe.enabled`"),
        (Scope::Revoking, "every namespace, with `revokeAccess.enabled`"),
        (Scope::Tokens, "every namespace, with `revokeAccess.deleteTokens`"),
        (Scope::HostNetwork, "every namespace, with `quarantine.hostNetwork`"),
    ] {
        for rule in rules(scope) {
            let group = if rule.group.is_empty() { "core" } else { &rule.group };
            let named = if rule.names.is_empty() { String::new() } else { format!(" `{}`", rule.names.join("`, `")) };
            let (resources, verbs) = (rule.resources.join(", "), rule.verbs.join(", "));
            let _ = writeln!(text, "| {place} | {group} | {resources}{named} | {verbs} | {} |", rule.why);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_in_quells_own_namespace_and_nowhere_else() {
        // Unless legacy tokens are to be found, which nothing but Secrets tell of.
        let everywhere =
            declared().into_iter().filter(|right| ![Scope::OwnNamespace, Scope::Tokens].contains(&right.scope));
        assert_eq!(everywhere.filter(|right| right.resource.starts_with("secrets")).collect::<Vec<_>>(), []);
    }

    #[test]
    fn no_right_is_a_wildcard_and_none_makes_further_rights() {
        for right in declared() {
            assert!(![&right.group, &right.resource, &right.verb].contains(&&"*".to_owned()), "{right:?}");
            assert!(!["escalate", "approve", "sign"].contains(&right.verb.as_str()), "{right:?}");
            let gives = ["bind", "create", "patch", "update"].contains(&right.verb.as_str());
            let revokes = right.scope == Scope::Revoking;
            assert!(right.group != "rbac.authorization.k8s.io" || !gives || revokes, "{right:?}");
        }
    }

    // Taking a subject out of a binding takes the right to put one in. The chart gives that only together with an admission policy by which
    // the API server takes nothing else from Quell; see tests/chart. What that policy does not see must not be given.
    #[test]
    fn what_takes_rights_away_changes_bindings_and_nothing_else_of_rbac() {
        let revokes = declared().into_iter().filter(|right| right.scope == Scope::Revoking);
        for right in revokes {
            let bindings = ["clusterrolebindings", "rolebindings"].contains(&right.resource.as_str());
            let allowed: &[&str] = if bindings { &["get", "list", "patch"] } else { &["bind"] };
            assert!(allowed.contains(&right.verb.as_str()), "{right:?}");
        }
    }

    #[test]
    fn every_right_of_every_kind_of_step_is_given() {
        let given = declared();
        let opt_in = [rights::SEVERING, rights::PROBING, rights::REVOKING, rights::REVOKING_TOKENS];
        let opt_in = opt_in.into_iter().chain(rights::HOST_NETWORK.iter().copied());
        for right in rights::ALL.iter().copied().chain(opt_in).flatten() {
            let found = given.iter().find(|given| {
                (given.group.as_str(), given.resource.as_str(), given.verb.as_str())
                    == (right.group, right.resource, right.verb)
            });
            assert!(found.is_some(), "{right:?}");
        }
    }

    #[test]
    fn every_kind_of_quell_is_followed_and_can_be_viewed() {
        let viewed: BTreeSet<String> = for_viewers().into_iter().flat_map(|rule| rule.resources).collect();
        let given = declared();
        for crd in quell_crds::all() {
            let plural = crd.spec.names.plural;
            assert!(viewed.contains(&plural), "quell-view lacks {plural}");
            let watched =
                given.iter().any(|right| (right.resource.as_str(), right.verb.as_str()) == (&plural, "watch"));
            assert!(watched, "the operator lacks {plural}");
        }
    }

    #[test]
    fn nobody_is_given_the_right_to_write_a_run_by_hand() {
        let runs = for_editors().into_iter().filter(|rule| rule.resources.iter().any(|one| one == "remediations"));
        assert!(runs.flat_map(|rule| rule.verbs).all(|verb| verb != "create"), "a run's steps act as Quell");
    }

    #[test]
    fn a_rule_reads_as_yaml_under_its_purpose() {
        let text = to_yaml(&rules(Scope::OwnNamespace));
        assert!(text.starts_with(
            "# the election of the leader; RBAC can't name what isn't there yet\n\
             - apiGroups: [\"coordination.k8s.io\"]\n  resources: [\"leases\"]\n  verbs: [\"create\"]\n"
        ));
        assert!(
            text.contains("  resourceNames: [\"quell\"]\n  verbs: [\"get\", \"list\", \"patch\", \"watch\"]\n"),
            "{text}"
        );
    }
}
