//! One role binding: what it has of an account, and what is changed in it.

use std::fmt::Debug;

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::subject::Account;
use crate::mark::{self, Mark, annotate, escape, label, unannotate, unlabel};
use crate::write::Patched;
use crate::{ActionError, Context};

/// A binding that changes while it is read is read again this often before the try fails.
const LOOKS: usize = 3;
/// Key of the subjects in the annotation that says what was there before.
const SUBJECTS: &str = "subjects";

/// A binding of either kind.
pub(super) struct Found {
    /// What a receipt calls it: `shop/web`, or of a ClusterRoleBinding, which is in no namespace, `web`.
    pub(super) key: String,
    metadata: ObjectMeta,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// What a receipt keeps of a binding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    uid: String,
    /// Such as `ClusterRole edit`; for people.
    role: String,
    /// The subjects that are the account.
    subjects: Vec<Subject>,
}

/// What became of putting subjects back.
pub(super) enum Returned {
    /// They are there again.
    Back,
    /// Somebody else has changed the binding; how.
    Changed(&'static str),
}

impl From<RoleBinding> for Found {
    fn from(binding: RoleBinding) -> Self {
        Self::new(binding.metadata, binding.role_ref, binding.subjects)
    }
}

impl From<ClusterRoleBinding> for Found {
    fn from(binding: ClusterRoleBinding) -> Self {
        Self::new(binding.metadata, binding.role_ref, binding.subjects)
    }
}

impl Found {
    fn new(metadata: ObjectMeta, role: RoleRef, subjects: Option<Vec<Subject>>) -> Self {
        let name = metadata.name.clone().unwrap_or_default();
        let key = metadata.namespace.as_ref().map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
        Self { key, metadata, role, subjects: subjects.unwrap_or_default() }
    }

    /// Empty for a ClusterRoleBinding.
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// For messages.
    pub(super) fn title(&self) -> String {
        let kind = if self.metadata.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
        format!("{kind} {} ({} {})", self.key, self.role.kind, self.role.name)
    }

    pub(super) fn names(&self, account: &Account) -> bool {
        self.subjects.iter().any(|subject| account.is(subject, self.namespace()))
    }

    pub(super) fn names_group_of(&self, account: &Account) -> bool {
        self.subjects.iter().any(|subject| account.is_in(subject))
    }

    /// Whether this very step has taken the account out already, and its record was lost.
    pub(super) fn is_marked(&self, account: &Account, mark: &Mark) -> bool {
        mark.is_on(self.metadata.annotations.as_ref()) && self.revoked().contains(&account.key())
    }

    /// What is to be remembered of it. Of a binding that the account was taken out of already, its mark knows.
    pub(super) fn kept(&self, account: &Account) -> Kept {
        let mut subjects = self.of(account);
        if subjects.is_empty() {
            let before = mark::before(self.metadata.annotations.as_ref()).get(SUBJECTS).cloned().unwrap_or_default();
            let before: Vec<Subject> = serde_json::from_value(before).unwrap_or_default();
            subjects = before.into_iter().filter(|subject| account.is(subject, self.namespace())).collect();
        }
        Kept {
            uid: self.metadata.uid.clone().unwrap_or_default(),
            role: format!("{} {}", self.role.kind, self.role.name),
            subjects,
        }
    }

    fn of(&self, account: &Account) -> Vec<Subject> {
        self.subjects.iter().filter(|subject| account.is(subject, self.namespace())).cloned().collect()
    }

    /// Accounts that runs have taken out.
    fn revoked(&self) -> Vec<String> {
        let listed = self.metadata.annotations.as_ref().and_then(|all| all.get(names::REVOKED));
        let listed = listed.map(String::as_str).unwrap_or_default();
        listed.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect()
    }

    fn test(&self) -> Vec<Value> {
        vec![
            json!({"op": "test", "path": "/metadata/uid", "value": self.metadata.uid}),
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": self.metadata.resource_version}),
        ]
    }

    fn removal(&self, account: &Account, mark: &Mark) -> Vec<Value> {
        let mut operations = self.test();
        let indices = self.subjects.iter().enumerate().filter(|(_, subject)| account.is(subject, self.namespace()));
        // From the end, so that those before keep their places.
        let remove = |(index, _)| json!({"op": "remove", "path": format!("/subjects/{index}")});
        operations.extend(indices.rev().map(remove));
        let mut revoked = self.revoked();
        revoked.push(account.key());
        revoked.sort();
        revoked.dedup();
        let before = Map::from_iter([(SUBJECTS.to_owned(), json!(self.of(account)))]);
        let mut annotations = mark.annotations_with(&before);
        annotations.insert(names::REVOKED.to_owned(), revoked.join(","));
        operations.extend(label(self.metadata.labels.as_ref(), &mark.labels()));
        operations.extend(annotate(self.metadata.annotations.as_ref(), &annotations));
        operations
    }

    fn return_of(&self, kept: &Kept, account: &Account, mark: &Mark) -> Vec<Value> {
        let mut operations = self.test();
        if self.subjects.is_empty() {
            operations.push(json!({"op": "add", "path": "/subjects", "value": kept.subjects}));
        } else {
            let add = |subject| json!({"op": "add", "path": "/subjects/-", "value": subject});
            operations.extend(kept.subjects.iter().map(add));
        }
        let path = format!("/metadata/annotations/{}", escape(names::REVOKED));
        let others: Vec<String> = self.revoked().into_iter().filter(|one| *one != account.key()).collect();
        operations.push(if others.is_empty() {
            json!({"op": "remove", "path": path})
        } else {
            json!({"op": "replace", "path": path, "value": others.join(",")})
        });
        // The mark may be that of a later run by now, which took another account out.
        if mark.is_on(self.metadata.annotations.as_ref()) {
            operations.extend(unannotate(self.metadata.annotations.as_ref()));
            operations.extend(unlabel(self.metadata.labels.as_ref()));
        }
        operations
    }
}

/// Takes the account out of the binding with that key, where it still is in it.
pub(super) async fn take_out(key: &str, kept: &Kept, account: &Account, cx: &Context<'_>) -> Result<(), ActionError> {
    let client = cx.writer.client();
    match key.split_once('/') {
        Some((namespace, name)) => {
            let api: Api<RoleBinding> = Api::namespaced(client, namespace);
            take_out_of(&api, namespace, name, kept, account, cx).await
        }
        None => take_out_of(&Api::<ClusterRoleBinding>::all(client), "", key, kept, account, cx).await,
    }
}

async fn take_out_of<K>(
    api: &Api<K>,
    namespace: &str,
    name: &str,
    kept: &Kept,
    account: &Account,
    cx: &Context<'_>,
) -> Result<(), ActionError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Into<Found>,
{
    for _ in 0..LOOKS {
        let found: Option<Found> = cx.writer.get(api, namespace, name).await?.map(Into::into);
        // One that is gone gives nothing any more; one that has its name by now is another.
        let Some(found) = found.filter(|one| one.metadata.uid.as_ref() == Some(&kept.uid)) else { return Ok(()) };
        if !found.names(account) {
            return Ok(());
        }
        let operations = found.removal(account, cx.mark);
        match cx.writer.patch_unread(api, namespace, name, operations).await {
            Ok(Patched::Changed(_)) => return Ok(()),
            Ok(Patched::Precondition) => {}
            Err(error) if error.reason() == Reason::TargetNotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(too_fast(&K::kind(&()), namespace, name))
}

/// Puts what was taken out of the binding with that key back, where its absence is still the step's doing.
pub(super) async fn put_back(
    key: &str,
    kept: &Kept,
    account: &Account,
    cx: &Context<'_>,
) -> Result<Returned, ActionError> {
    let client = cx.writer.client();
    match key.split_once('/') {
        Some((namespace, name)) => {
            let api: Api<RoleBinding> = Api::namespaced(client, namespace);
            put_back_into(&api, namespace, name, kept, account, cx).await
        }
        None => put_back_into(&Api::<ClusterRoleBinding>::all(client), "", key, kept, account, cx).await,
    }
}

async fn put_back_into<K>(
    api: &Api<K>,
    namespace: &str,
    name: &str,
    kept: &Kept,
    account: &Account,
    cx: &Context<'_>,
) -> Result<Returned, ActionError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Into<Found>,
{
    for _ in 0..LOOKS {
        let Some(found) = cx.writer.get(api, namespace, name).await?.map(Into::<Found>::into) else {
            return Ok(Returned::Changed("was deleted"));
        };
        if found.metadata.uid.as_ref() != Some(&kept.uid) {
            return Ok(Returned::Changed("was deleted and made anew"));
        }
        // Undone before and not recorded, or never taken out.
        if found.names(account) {
            return Ok(Returned::Back);
        }
        if !found.revoked().contains(&account.key()) {
            return Ok(Returned::Changed("does not say any more that a run took the account out"));
        }
        let operations = found.return_of(kept, account, cx.mark);
        match cx.writer.patch_unread(api, namespace, name, operations).await {
            Ok(Patched::Changed(_)) => return Ok(Returned::Back),
            Ok(Patched::Precondition) => {}
            Err(error) if error.reason() == Reason::TargetNotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(too_fast(&K::kind(&()), namespace, name))
}

fn too_fast(kind: &str, namespace: &str, name: &str) -> ActionError {
    let message = format!("{kind} {namespace}/{name} changes faster than it can be read");
    ActionError::for_now(Reason::ChangedSince, message)
}
