//! Credentials: what a sender must show to be taken for a Source.

mod certificate;
mod service_account;
mod signature;

pub use certificate::{Certificates, alternative_names};
pub use service_account::{Reviews, ServiceAccounts};
pub use signature::{Seen, Signature, Signed};

use axum::http::{HeaderMap, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::runtime::reflector::ObjectRef;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{CertificateAuthority, SecretKey, SourceWebhook};
use quell_ingest::sns::Topic;
use quell_playbooks::Problem;
use subtle::{Choice, ConstantTimeEq as _};

use crate::caches::Caches;
use crate::intake::connections::Shown;

/// Most values that are good at a time: while senders move from one to the next, two are.
const MOST_VALUES: usize = 4;

/// What a Source asks its senders for.
#[derive(Debug)]
pub enum Credential {
    /// A bearer token.
    Bearer {
        /// The tokens that are good.
        tokens: Values,
        /// Whether it may stand in the address.
        in_query: bool,
    },
    /// User and password.
    Basic(Values),
    /// A signature of the body.
    Signature(Signature),
    /// A client certificate.
    Certificate(Certificates),
    /// The token of a ServiceAccount.
    ServiceAccount(ServiceAccounts),
    /// The signature of AWS SNS, of one topic.
    Sns(Topic),
}

/// What a credential says of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is let in.
    In,
    /// It is not.
    Out,
    /// That can't be told now: the API server doesn't answer, or too many ask at once.
    Later,
    /// The body has to be read first.
    ReadBody,
}

impl Credential {
    /// As the Source says, with what is in its Secret or ConfigMap now.
    pub fn compile(webhook: &SourceWebhook, caches: &Caches, namespace: &str) -> Result<Self, Problem> {
        let at = |field: &str| format!("spec.webhook.{field}");
        if let Some(bearer) = &webhook.bearer_token {
            let tokens = Values::read(caches, namespace, &bearer.secret, &at("bearerToken.secret"))?;
            return Ok(Self::Bearer { tokens, in_query: bearer.in_query });
        }
        if let Some(basic) = &webhook.basic {
            let values = Values::read(caches, namespace, &basic.secret, &at("basic.secret"))?;
            if values.0.iter().any(|value| !value.contains(&b':')) {
                let message =
                    format!("the Secret {namespace}/{} holds a line that isn't `user:password`", basic.secret.name);
                return Err(Problem { reason: Reason::ParameterInvalid, at: at("basic.secret"), message });
            }
            return Ok(Self::Basic(values));
        }
        if let Some(hmac) = &webhook.hmac {
            let keys = Values::read(caches, namespace, &hmac.secret, &at("hmac.secret"))?;
            return Signature::compile(hmac, keys).map(Self::Signature);
        }
        if let Some(certificate) = &webhook.client_certificate {
            let authority = authority(&certificate.ca, caches, namespace)?;
            return Certificates::compile(certificate, &authority).map(Self::Certificate);
        }
        if let Some(account) = &webhook.service_account {
            return Ok(Self::ServiceAccount(ServiceAccounts::compile(account)));
        }
        if let Some(sns) = &webhook.sns {
            let message = format!("`{}` is no ARN of an SNS topic", sns.topic_arn);
            let problem = || Problem { reason: Reason::ParameterInvalid, at: at("sns.topicArn"), message };
            return Topic::parse(&sns.topic_arn).map(Self::Sns).ok_or_else(problem);
        }
        let message = "no credential is given".to_owned();
        Err(Problem { reason: Reason::ParameterInvalid, at: "spec.webhook".to_owned(), message })
    }

    /// Judges a sender by its headers, its address line and its certificates.
    pub async fn judge(&self, headers: &HeaderMap, uri: &Uri, shown: Option<&Shown>, reviews: &Reviews) -> Verdict {
        let is_let_in = match self {
            Self::Bearer { tokens, in_query } => {
                let token = scheme(headers, "bearer").or_else(|| token_in_query(uri).filter(|_| *in_query));
                token.is_some_and(|token| tokens.contain(token.as_bytes()))
            }
            Self::Basic(values) => scheme(headers, "basic")
                .and_then(|encoded| STANDARD.decode(encoded).ok())
                .is_some_and(|shown| values.contain(&shown)),
            Self::Signature(_) | Self::Sns(_) => return Verdict::ReadBody,
            Self::Certificate(certificates) => shown.is_some_and(|shown| certificates.allow(&shown.0)),
            Self::ServiceAccount(accounts) => {
                let Some(token) = scheme(headers, "bearer") else { return Verdict::Out };
                return accounts.judge(token, reviews).await;
            }
        };
        if is_let_in { Verdict::In } else { Verdict::Out }
    }

    /// What a sender that isn't let in is told to show.
    #[must_use]
    pub fn wanted(&self) -> (&'static str, String) {
        match self {
            Self::Bearer { .. } => ("Bearer", "its token: `Authorization: Bearer …`".to_owned()),
            Self::Basic(_) => ("Basic realm=\"quell\"", "its user and password: `Authorization: Basic …`".to_owned()),
            Self::Signature(signature) => ("HMAC", signature.wanted()),
            Self::Certificate(_) => ("Certificate", "a client certificate that its authority has signed".to_owned()),
            Self::ServiceAccount(accounts) => ("Bearer", accounts.wanted()),
            Self::Sns(topic) => ("SNS", format!("messages of the topic {}, signed by SNS", topic.arn())),
        }
    }
}

/// Secret values of which each is good. It is not told which of them were compared, nor how far.
#[derive(Clone, PartialEq, Eq)]
pub struct Values(Vec<Vec<u8>>);

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} values", self.0.len())
    }
}

impl Values {
    /// The lines of a key of a Secret.
    pub fn read(caches: &Caches, namespace: &str, key: &SecretKey, at: &str) -> Result<Self, Problem> {
        let problem = |reason, message: String| Problem { reason, at: at.to_owned(), message };
        let secret = caches.secrets.get(&ObjectRef::new(&key.name).within(namespace));
        let lines = secret.and_then(|secret| Some(Self::of(&secret.data.as_ref()?.get(&key.key)?.0)));
        let Some(values) = lines.filter(|values| !values.0.is_empty()) else {
            let message =
                format!("the Secret {namespace}/{} with a key `{}` is not there, or empty", key.name, key.key);
            return Err(problem(Reason::SecretMissing, message));
        };
        if values.0.len() > MOST_VALUES {
            let message = format!(
                "the key `{}` of the Secret {namespace}/{} holds {} lines, each of which would let senders in; at most {MOST_VALUES} are taken",
                key.key,
                key.name,
                values.0.len()
            );
            return Err(problem(Reason::ParameterInvalid, message));
        }
        Ok(values)
    }

    /// Each line is a value, without white space around it: `echo token | base64` leaves a line end.
    fn of(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n').map(|line| line.trim_ascii().to_vec());
        Self(lines.filter(|line| !line.is_empty()).collect())
    }

    fn contain(&self, shown: &[u8]) -> bool {
        let none = Choice::from(0);
        self.0.iter().fold(none, |found, value| found | value.as_slice().ct_eq(shown)).into()
    }
}

fn authority(ca: &CertificateAuthority, caches: &Caches, namespace: &str) -> Result<Vec<u8>, Problem> {
    let at = "spec.webhook.clientCertificate.ca".to_owned();
    if let Some(key) = &ca.secret {
        let secret = caches.secrets.get(&ObjectRef::new(&key.name).within(namespace));
        return secret.and_then(|secret| Some(secret.data.as_ref()?.get(&key.key)?.0.clone())).ok_or_else(|| {
            let message = format!("the Secret {namespace}/{} with a key `{}` is not there", key.name, key.key);
            Problem { reason: Reason::SecretMissing, at, message }
        });
    }
    let key = ca.config_map.clone().unwrap_or_default();
    let map = caches.config_maps.get(&ObjectRef::new(&key.name).within(namespace));
    map.and_then(|map| Some(map.data.as_ref()?.get(&key.key)?.clone().into_bytes())).ok_or_else(|| {
        let message = format!("the ConfigMap {namespace}/{} with a key `{}` is not there", key.name, key.key);
        Problem { reason: Reason::SecretMissing, at, message }
    })
}

/// What stands behind the scheme in `Authorization`.
fn scheme<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

fn token_in_query(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_secret_is_good_and_nothing_else_is() {
        let values = Values::of(b" old-token \nnew-token\r\n\n");
        assert_eq!(values.0.len(), 2);
        for shown in ["old-token", "new-token"] {
            assert!(values.contain(shown.as_bytes()), "{shown}");
        }
        for shown in ["", "old", "old-token\nnew-token", "old-tokenx", "\n"] {
            assert!(!values.contain(shown.as_bytes()), "{shown}");
        }
    }

    #[test]
    fn a_value_is_never_shown() {
        assert_eq!(format!("{:?}", Values::of(b"secret")), "1 values");
    }
}
