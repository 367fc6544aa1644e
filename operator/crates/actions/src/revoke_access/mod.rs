//! `revokeAccess`: the pod's ServiceAccount is taken out of the role bindings that name it, and its legacy tokens are deleted.
//!
//! The first try changes nothing: what is to be taken away and deleted becomes the receipt, and is recorded. Whatever dies after that, the
//! record knows what was there before. Each binding carries its mark in the same write, too.

mod binding;
mod subject;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::{RevokeAccess, RevokeScope};
use quell_crds::v1alpha1::{Effect, Receipt};
use quell_playbooks::{PodFacts, TargetState};
use serde_json::{Map, Value, json};

use self::binding::{Found, Kept, Returned};
use self::subject::Account;
use crate::rights::Place;
use crate::{ActionError, Context, Progress, Right, State};

const GROUP: &str = "rbac.authorization.k8s.io";
const BINDINGS: &str = "rolebindings";
const CLUSTER_BINDINGS: &str = "clusterrolebindings";

// Whoever changes a binding must hold every right of its role, or `bind` on the role, even to take a subject out:
// https://kubernetes.io/docs/reference/access-authn-authz/rbac/#restrictions-on-role-binding-creation-or-update
const IN_NAMESPACE: &[Right] = &[
    Right::new(GROUP, BINDINGS, "get"),
    Right::new(GROUP, BINDINGS, "list"),
    Right::new(GROUP, BINDINGS, "patch"),
    Right::new(GROUP, "roles", "bind"),
    Right::new(GROUP, "clusterroles", "bind"),
];

const IN_NAMESPACE_WITH_TOKENS: &[Right] = &[
    IN_NAMESPACE[0],
    IN_NAMESPACE[1],
    IN_NAMESPACE[2],
    IN_NAMESPACE[3],
    IN_NAMESPACE[4],
    Right::new("", "secrets", "list"),
    Right::new("", "secrets", "delete"),
];

/// Bindings of every namespace and of the cluster: what Quell has for its ClusterPlaybooks, where people want it.
pub const EVERYWHERE: &[Right] = &[
    Right::new(GROUP, BINDINGS, "get").at(Place::Everywhere),
    Right::new(GROUP, BINDINGS, "list").at(Place::Everywhere),
    Right::new(GROUP, BINDINGS, "patch").at(Place::Everywhere),
    Right::new(GROUP, CLUSTER_BINDINGS, "get").at(Place::Everywhere),
    Right::new(GROUP, CLUSTER_BINDINGS, "list").at(Place::Everywhere),
    Right::new(GROUP, CLUSTER_BINDINGS, "patch").at(Place::Everywhere),
    Right::new(GROUP, "roles", "bind").at(Place::Everywhere),
    Right::new(GROUP, "clusterroles", "bind").at(Place::Everywhere),
];

const EVERYWHERE_WITH_TOKENS: &[Right] = &[
    EVERYWHERE[0],
    EVERYWHERE[1],
    EVERYWHERE[2],
    EVERYWHERE[3],
    EVERYWHERE[4],
    EVERYWHERE[5],
    EVERYWHERE[6],
    EVERYWHERE[7],
    Right::new("", "secrets", "list"),
    Right::new("", "secrets", "delete"),
];

/// Only the metadata of Secrets is asked for; RBAC knows no right for that alone.
pub const TOKENS: &[Right] = &[Right::new("", "secrets", "list"), Right::new("", "secrets", "delete")];

/// What a step with these parameters needs.
#[must_use]
pub fn rights(parameters: &RevokeAccess) -> &'static [Right] {
    match (parameters.scope, parameters.delete_tokens) {
        (RevokeScope::Namespace, false) => IN_NAMESPACE,
        (RevokeScope::Namespace, true) => IN_NAMESPACE_WITH_TOKENS,
        (RevokeScope::Cluster, false) => EVERYWHERE,
        (RevokeScope::Cluster, true) => EVERYWHERE_WITH_TOKENS,
    }
}

/// More bindings or Secrets than this are no receipt that a record should hold, and no account that a playbook should change by itself.
const MOST: usize = 64;
/// Names that a message lists.
const MOST_NAMED: usize = 10;
/// Type of the Secrets that hold legacy tokens, and the annotation that says whose:
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-service-account-name>.
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const TOKEN_OF: &str = "kubernetes.io/service-account.name";
/// Key of the Secrets in a receipt.
const SECRETS: &str = "secrets";
/// Key of the ServiceAccount in a receipt.
const ACCOUNT: &str = "serviceAccount";
/// Key of the bindings in a receipt.
const KEPT: &str = "bindings";

/// Takes the rights away, or says in a first try what it will take.
pub async fn perform(parameters: &RevokeAccess, cx: &Context<'_>) -> Result<Progress, ActionError> {
    take(parameters, cx).await.map_err(with_what_gives_the_right)
}

async fn take(parameters: &RevokeAccess, cx: &Context<'_>) -> Result<Progress, ActionError> {
    if let Some(receipt) = &cx.record.receipt {
        return carry_out(receipt, parameters, cx).await;
    }
    let account = account(cx)?;
    let seen = see(&account, parameters, cx).await?;
    refuse_too_many(&account, &seen)?;
    let receipt = seen.receipt(&account);
    if cx.writer.is_rehearsal() {
        return carry_out(&receipt, parameters, cx).await;
    }
    let message = format!(
        "{account} is about to be taken out of {}, and {} to be deleted",
        plural(seen.named.len(), "binding"),
        plural(seen.secrets.len(), "legacy token")
    );
    Ok(Progress::pending(State::Again(Duration::ZERO), message, Some(receipt)))
}

/// Puts the ServiceAccount back where its absence is still the step's doing.
pub async fn undo(receipt: &Receipt, cx: &Context<'_>) -> Result<String, ActionError> {
    let (account, kept) = read_back(receipt)?;
    let (mut back, mut changed, mut now) = (0, Vec::new(), None);
    for (key, kept) in &kept {
        match binding::put_back(key, kept, &account, cx).await {
            Ok(Returned::Back) => back += 1,
            Ok(Returned::Changed(what)) => changed.push(format!("binding {key} {what}")),
            // The others are put back all the same; then this one is tried again, or told.
            Err(error) => now = Some(error),
        }
    }
    if let Some(error) = now {
        return Err(with_what_gives_the_right(error));
    }
    let tokens = secrets(receipt).len();
    let lost = match tokens {
        0 => String::new(),
        _ => {
            format!("; {} can't be brought back: make new ones where they are needed", plural(tokens, "deleted token"))
        }
    };
    let done = format!("{account} is in {} again{lost}", plural(back, "binding"));
    if changed.is_empty() {
        return Ok(done);
    }
    Err(ActionError::refused(Reason::ChangedSince, format!("{done}; left as they are: {}", listed(&changed))))
}

/// What there is of an account.
struct Seen {
    /// Bindings that name the account, by what a receipt calls them.
    named: BTreeMap<String, Found>,
    /// Bindings that give it something as a member of a group.
    by_group: Vec<String>,
    /// Its legacy tokens: name and UID.
    secrets: BTreeMap<String, String>,
}

impl Seen {
    fn receipt(&self, account: &Account) -> Receipt {
        let kept: Map<String, Value> =
            self.named.iter().map(|(key, found)| (key.clone(), json!(found.kept(account)))).collect();
        let before = [(ACCOUNT, json!(account)), (KEPT, Value::Object(kept)), (SECRETS, json!(self.secrets))];
        Effect {
            api_version: "v1".to_owned(),
            kind: "ServiceAccount".to_owned(),
            namespace: account.namespace.clone(),
            name: account.name.clone(),
            uid: String::new(),
            before: before.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            after: Map::new(),
        }
        .into()
    }
}

async fn see(account: &Account, parameters: &RevokeAccess, cx: &Context<'_>) -> Result<Seen, ActionError> {
    let client = cx.writer.client();
    let mut found = Vec::new();
    if parameters.scope == RevokeScope::Cluster {
        let bindings: Vec<RoleBinding> = cx.writer.list(&Api::all(client.clone()), "every namespace", "").await?;
        found.extend(bindings.into_iter().map(Found::from));
        let bindings: Vec<ClusterRoleBinding> = cx.writer.list(&Api::all(client.clone()), "the cluster", "").await?;
        found.extend(bindings.into_iter().map(Found::from));
    } else {
        let api: Api<RoleBinding> = Api::namespaced(client.clone(), &account.namespace);
        found.extend(cx.writer.list(&api, &account.namespace, "").await?.into_iter().map(Found::from));
    }
    let by_group = found.iter().filter(|one| one.names_group_of(account)).map(Found::title).collect();
    let concerned = found.into_iter().filter(|one| one.names(account) || one.is_marked(account, cx.mark));
    let named = concerned.map(|one| (one.key.clone(), one)).collect();
    let mut secrets = BTreeMap::new();
    if parameters.delete_tokens {
        let api: Api<Secret> = Api::namespaced(client, &account.namespace);
        let of_type = ListParams::default().fields(&format!("type={TOKEN_TYPE}"));
        let all = cx.writer.list_metadata(&api, &account.namespace, &of_type).await?;
        let of_account = all.into_iter().filter(|one| one.annotations().get(TOKEN_OF) == Some(&account.name));
        secrets.extend(of_account.map(|one| (one.name_any(), one.uid().unwrap_or_default())));
    }
    Ok(Seen { named, by_group, secrets })
}

/// Does what the receipt says is to be done, where it isn't done yet.
async fn carry_out(receipt: &Receipt, parameters: &RevokeAccess, cx: &Context<'_>) -> Result<Progress, ActionError> {
    let (account, kept) = read_back(receipt)?;
    for (key, kept) in &kept {
        binding::take_out(key, kept, &account, cx).await?;
    }
    let secrets = secrets(receipt);
    let api: Api<Secret> = Api::namespaced(cx.writer.client(), &account.namespace);
    for (name, uid) in &secrets {
        cx.writer.delete(&api, &account.namespace, name, uid).await?;
    }
    let left = see(&account, parameters, cx).await?;
    let others = others(&account, cx);
    let outputs = [
        ("bindings", Some(kept.len().to_string())),
        ("tokens", Some(secrets.len().to_string())),
        ("otherPods", others.map(|count| count.to_string())),
        ("remaining", Some(remaining(&left, &account, cx).len().to_string())),
    ];
    let outputs = outputs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let message = told(&account, kept.len(), secrets.len(), others, &left, cx);
    Ok(Progress::done(message, Some(receipt.clone())).with_outputs(outputs))
}

/// Bindings that still give the account something.
fn remaining(left: &Seen, account: &Account, cx: &Context<'_>) -> Vec<String> {
    // A rehearsal has taken nothing out.
    let named = left.named.iter().filter(|(_, one)| !cx.writer.is_rehearsal() && one.names(account));
    left.by_group.iter().cloned().chain(named.map(|(_, one)| one.title())).collect()
}

fn told(
    account: &Account,
    bindings: usize,
    tokens: usize,
    others: Option<usize>,
    left: &Seen,
    cx: &Context<'_>,
) -> String {
    let mut parts = vec![match bindings {
        0 => format!("no binding names {account}"),
        _ => format!("{account} was taken out of {}", plural(bindings, "binding")),
    }];
    if tokens > 0 {
        parts.push(format!("{} deleted for good", plural(tokens, "legacy token")));
    }
    match others {
        Some(0) => parts.push("no other pod runs as it".to_owned()),
        Some(count) => parts
            .push(format!("{} as it and lost the same rights", plural_of(count, "other pod runs", "other pods run"))),
        None => parts.push("how many other pods run as it is not known".to_owned()),
    }
    let named: Vec<String> = remaining(left, account, cx);
    if !named.is_empty() {
        parts.push(format!(
            "remaining: {}, which name a group that it belongs to or were made meanwhile; they can't be changed without hitting others",
            listed(&named)
        ));
    }
    parts.push(
        "a token that was issued to a pod proves the account's name until it expires, or its pod is deleted".to_owned(),
    );
    parts.join("; ")
}

fn others(account: &Account, cx: &Context<'_>) -> Option<usize> {
    // The pod itself is one of them.
    Some(cx.cluster.pods_of_account(&account.namespace, &account.name)?.saturating_sub(1))
}

fn account(cx: &Context<'_>) -> Result<Account, ActionError> {
    let target = &cx.world.finding.spec.target;
    let pod: &PodFacts = match &cx.world.target {
        TargetState::Pod(pod) => pod,
        TargetState::NotAPod => {
            let message = format!(
                "revokeAccess acts on the ServiceAccount of a pod; this Finding is about {} {}",
                target.kind, target.name
            );
            return Err(ActionError::refused(Reason::TargetUnsupported, message));
        }
        TargetState::Gone | TargetState::Replaced { .. } => {
            let message = format!(
                "pod {}/{} is gone, or another one by now, and with it the knowledge of its ServiceAccount",
                target.namespace, target.name
            );
            return Err(ActionError::refused(Reason::TargetNotFound, message));
        }
    };
    if pod.namespace == cx.cluster.own_namespace() {
        let message = format!(
            "pod {}/{} is in Quell's own namespace: without its rights Quell could neither go on nor put them back",
            pod.namespace, pod.name
        );
        return Err(ActionError::refused(Reason::TargetUnsupported, message));
    }
    let name = if pod.service_account.is_empty() { "default" } else { &pod.service_account };
    Ok(Account { namespace: pod.namespace.clone(), name: name.to_owned() })
}

fn refuse_too_many(account: &Account, seen: &Seen) -> Result<(), ActionError> {
    for (count, what) in [(seen.named.len(), "bindings"), (seen.secrets.len(), "legacy tokens")] {
        if count > MOST {
            let message = format!(
                "{account} has {count} {what}, and a step changes at most {MOST}: nothing was changed; an account that is in so many is to \
                 be cut back by hand"
            );
            return Err(ActionError::refused(Reason::TooMany, message));
        }
    }
    Ok(())
}

/// The API server's own words name the rights that are missing, one by one, and not the one that would do.
fn with_what_gives_the_right(error: ActionError) -> ActionError {
    if error.reason() != Reason::Forbidden {
        return error;
    }
    let message = format!(
        "{error}. To change a binding takes patch on it and bind on its role (or each of the role's rights): for a ClusterPlaybook set \
         revokeAccess.enabled=true in the chart (and revokeAccess.deleteTokens=true for tokens), for a Playbook give them to its \
         ServiceAccount"
    );
    ActionError::refused(Reason::Forbidden, message)
}

fn read_back(receipt: &Receipt) -> Result<(Account, BTreeMap<String, Kept>), ActionError> {
    let read = |key: &str| receipt.before.get(key).cloned().unwrap_or_default();
    let account = serde_json::from_value(read(ACCOUNT));
    let kept = serde_json::from_value(read(KEPT));
    match (account, kept) {
        (Ok(account), Ok(kept)) => Ok((account, kept)),
        (Err(error), _) | (_, Err(error)) => Err(ActionError::refused(
            Reason::NothingToUndo,
            format!("the record of what was taken away can't be read: {error}"),
        )),
    }
}

fn secrets(receipt: &Receipt) -> BTreeMap<String, String> {
    receipt.before.get(SECRETS).cloned().and_then(|all| serde_json::from_value(all).ok()).unwrap_or_default()
}

fn plural(count: usize, what: &str) -> String {
    plural_of(count, what, &format!("{what}s"))
}

fn plural_of(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

fn listed(all: &[String]) -> String {
    let named = all.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > MOST_NAMED { format!("{named} and {} more", all.len() - MOST_NAMED) } else { named }
}
