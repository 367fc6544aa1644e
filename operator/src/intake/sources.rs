//! Who may report: the credential of each Source.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};
use quell_crds::conditions::{Reason, Status};
use quell_crds::v1alpha1::{Format, SecretKey, Source};
use subtle::ConstantTimeEq as _;

use crate::caches::Caches;

/// Sources as the intake needs them.
#[derive(Clone, Default)]
pub struct Sources {
    all: Arc<RwLock<HashMap<String, Known>>>,
}

/// How what a Source sends is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// The Source's format.
    pub format: Format,
    /// What is in its CloudEvents whose type doesn't tell.
    pub data_format: Option<Format>,
}

#[derive(Clone)]
struct Known {
    reads: Reads,
    token: Option<Vec<u8>>,
    in_query: bool,
}

/// Whether a sender is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is; so is read what it sends.
    In(Reads),
    /// There is no Source of that name that takes POSTs.
    Unknown,
    /// It showed no token, or another one.
    Unauthorized,
    /// The Source's own token isn't there.
    NotReady,
}

impl Sources {
    /// Takes over what the caches hold.
    pub fn refresh(&self, caches: &Caches) {
        let mut fresh = HashMap::new();
        for source in caches.sources.state() {
            if let Some(webhook) = &source.spec.webhook {
                let token = secret_value(&caches.secrets, caches_namespace(caches), &webhook.bearer_token.secret);
                let reads = Reads { format: source.spec.format, data_format: source.spec.data_format };
                let known = Known { reads, token, in_query: webhook.bearer_token.in_query };
                fresh.insert(source.name_any(), known);
            }
        }
        if let Ok(mut all) = self.all.write() {
            *all = fresh;
        }
    }

    /// Judges a sender by the token in its header or, where the Source allows that, in its query.
    #[must_use]
    pub fn admit(&self, name: &str, header: Option<&str>, query: Option<&str>) -> Admission {
        let known = self.all.read().ok().and_then(|all| all.get(name).cloned());
        let Some(known) = known else { return Admission::Unknown };
        let Some(token) = &known.token else { return Admission::NotReady };
        let shown = header.or(query.filter(|_| known.in_query));
        let same = shown.is_some_and(|shown| bool::from(shown.as_bytes().ct_eq(token)));
        if same { Admission::In(known.reads) } else { Admission::Unauthorized }
    }
}

/// Whether a Source can be used, and why.
#[must_use]
pub fn judge(source: &Source, caches: &Caches) -> (Status, Reason, String) {
    let Some(webhook) = &source.spec.webhook else {
        return (Status::True, Reason::Accepted, format!("the objects of {} are watched", source.spec.format));
    };
    let secret = &webhook.bearer_token.secret;
    let namespace = caches_namespace(caches);
    if secret_value(&caches.secrets, namespace, secret).is_some() {
        return (Status::True, Reason::Accepted, format!("POST to /v1/sources/{}", source.name_any()));
    }
    let message = format!("the Secret {namespace}/{} with a key `{}` is not there, or empty", secret.name, secret.key);
    (Status::False, Reason::SecretMissing, message)
}

fn caches_namespace(caches: &Caches) -> &str {
    quell_actions::Cluster::own_namespace(caches)
}

/// The value of a key in a Secret, without white space around it: `echo token | base64` leaves a line end.
#[must_use]
pub fn secret_value(secrets: &Store<Secret>, namespace: &str, key: &SecretKey) -> Option<Vec<u8>> {
    let secret = secrets.get(&ObjectRef::new(&key.name).within(namespace))?;
    let value = secret.data.as_ref()?.get(&key.key)?.0.trim_ascii().to_vec();
    (!value.is_empty()).then_some(value)
}
