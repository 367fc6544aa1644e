//! Who a subject of a binding is.

use std::fmt;

use k8s_openapi::api::rbac::v1::Subject;
use serde::{Deserialize, Serialize};

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccount {}/{}", self.namespace, self.name)
    }
}

impl Account {
    /// As the annotation [`quell_crds::names::REVOKED`] has it.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether the subject of a binding in the namespace `of` is this account, by its own kind or by the name of the user that it is:
    /// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>. One without a namespace is of the binding's.
    pub(super) fn is(&self, subject: &Subject, of: &str) -> bool {
        match subject.kind.as_str() {
            "ServiceAccount" => {
                let named = subject.namespace.as_deref().filter(|namespace| !namespace.is_empty());
                subject.name == self.name && named.unwrap_or(of) == self.namespace
            }
            "User" => subject.name == format!("system:serviceaccount:{}:{}", self.namespace, self.name),
            _ => false,
        }
    }

    /// Whether the subject is a group that this account is a member of.
    pub(super) fn is_in(&self, subject: &Subject) -> bool {
        let of_namespace = format!("system:serviceaccounts:{}", self.namespace);
        let groups = ["system:serviceaccounts", "system:authenticated", &of_namespace];
        subject.kind == "Group" && groups.contains(&subject.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(kind: &str, namespace: Option<&str>, name: &str) -> Subject {
        Subject {
            api_group: None,
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn an_account_is_known_by_both_its_names_and_no_others() {
        let account = Account { namespace: "shop".to_owned(), name: "web".to_owned() };
        assert!(account.is(&subject("ServiceAccount", Some("shop"), "web"), "bank"));
        assert!(account.is(&subject("ServiceAccount", None, "web"), "shop"));
        assert!(account.is(&subject("User", None, "system:serviceaccount:shop:web"), "bank"));
        for other in [
            subject("ServiceAccount", Some("bank"), "web"),
            subject("ServiceAccount", None, "web"),
            subject("User", None, "web"),
            subject("Group", None, "system:serviceaccount:shop:web"),
        ] {
            assert!(!account.is(&other, "bank"), "{other:?}");
        }
    }

    #[test]
    fn it_is_a_member_of_its_namespaces_accounts_of_all_accounts_and_of_everybody() {
        let account = Account { namespace: "shop".to_owned(), name: "web".to_owned() };
        for group in ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"] {
            assert!(account.is_in(&subject("Group", None, group)), "{group}");
        }
        for group in ["system:serviceaccounts:bank", "system:masters", "system:unauthenticated"] {
            assert!(!account.is_in(&subject("Group", None, group)), "{group}");
        }
    }
}
