//! As whom a playbook is rehearsed.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::Client;
use kube::api::{Api, PostParams};
use quell_crds::v1alpha1::PlaybookKind;
use quell_playbooks::Compiled;

use crate::CliError;
use crate::client::{Connection, ask};

/// As whom a playbook is rehearsed.
pub(super) struct Identity {
    pub client: Client,
    /// The rights are the caller's, in place of those of the run.
    pub borrowed: bool,
    /// Who it is, for people.
    pub told: String,
}

/// The service account of a Playbook where the caller may impersonate it; else the caller. A ClusterPlaybook that names none
/// acts as Quell, which nobody should be able to impersonate.
pub(super) async fn of(connection: &Connection, playbook: &Compiled, namespace: &str) -> Result<Identity, CliError> {
    let caller = |told: String| Identity { client: connection.client.clone(), borrowed: true, told };
    let reference = &playbook.reference;
    let of_cluster = reference.kind == PlaybookKind::ClusterPlaybook;
    if of_cluster && reference.service_account_name.is_empty() {
        return Ok(caller("it acts as Quell itself; rehearsed with your rights".to_owned()));
    }
    let account = &reference.service_account_name;
    let namespace = if of_cluster { reference.service_account_namespace.as_str() } else { namespace };
    let mut config = connection.config.clone();
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
    config.auth_info.impersonate_groups = Some(vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ]);
    let client = Client::try_from(config).map_err(|error| CliError::Kubeconfig(Box::new(error)))?;
    // A review is answered and not stored. Everyone may ask who they are; who may not impersonate gets no answer.
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let (parameters, review) = (PostParams::default(), SelfSubjectReview::default());
    let doing = format!("impersonating the service account {namespace}/{account}");
    match ask(doing, reviews.create(&parameters, &review)).await {
        Ok(_) => {
            let told = format!("it acts as service account {namespace}/{account}; rehearsed as that");
            Ok(Identity { client, borrowed: false, told })
        }
        Err(error) if error.is_forbidden() => {
            let told = format!(
                "it acts as service account {namespace}/{account}, which you may not impersonate; rehearsed with your rights"
            );
            Ok(caller(told))
        }
        Err(error) => Err(error),
    }
}
