//! Keys in the Secrets of a playbook: those of its Channels, and tokens.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use quell_crds::v1alpha1::{PlaybookKind, SecretKey};

use crate::{ActionError, Context};

/// The namespace of the playbook's Secrets: its own, which is the Finding's, or Quell's for a ClusterPlaybook.
pub(crate) fn namespace<'a>(cx: &'a Context<'_>) -> &'a str {
    match cx.playbook {
        PlaybookKind::Playbook => &cx.mark.namespace,
        PlaybookKind::ClusterPlaybook => cx.cluster.own_namespace(),
    }
}

/// The values of these keys; those that aren't there are left out. Each Secret is read once.
pub(crate) async fn read<'a>(
    cx: &Context<'_>,
    keys: impl IntoIterator<Item = &'a SecretKey>,
) -> Result<BTreeMap<(String, String), Vec<u8>>, ActionError> {
    let namespace = namespace(cx);
    let api: Api<Secret> = Api::namespaced(cx.writer.client(), namespace);
    let mut secrets: BTreeMap<&str, Option<Secret>> = BTreeMap::new();
    let mut values = BTreeMap::new();
    for SecretKey { name, key } in keys {
        if !secrets.contains_key(name.as_str()) {
            secrets.insert(name, cx.writer.get(&api, namespace, name).await?);
        }
        let data = secrets.get(name.as_str()).and_then(Option::as_ref).and_then(|secret| secret.data.as_ref());
        if let Some(value) = data.and_then(|data| data.get(key)) {
            values.insert((name.clone(), key.clone()), value.0.clone());
        }
    }
    Ok(values)
}
