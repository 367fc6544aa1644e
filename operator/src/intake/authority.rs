//! The certificate that Quell makes for its intake where none is given, and the authority that signs it.
//!
//! Both are in one Secret, so that all replicas show the same: whoever finds it missing, due or for other names writes a new one, on the
//! condition that nobody else has meanwhile, and reads again where somebody has.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use quell_crds::names::field_managers;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::caches::Caches;
use crate::intake::credentials::alternative_names;
use crate::intake::tls::{Material, TlsError};
use crate::settings::Settings;

/// The Secret of the certificate, its key, and its authority.
pub const CERTIFICATE: &str = "quell-ingest-certificate";
/// The ConfigMap by which senders know the certificate.
pub const CA_BUNDLE: &str = "quell-ingest-ca";

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";

/// The certificate is good for so long,
const DAYS: TimeDelta = TimeDelta::days(90);
/// and made anew when less than this is left.
const DUE: TimeDelta = TimeDelta::days(30);
const AUTHORITY_DAYS: TimeDelta = TimeDelta::days(3650);
const AUTHORITY_DUE: TimeDelta = TimeDelta::days(365);
/// Clocks differ.
const BEFORE: TimeDelta = TimeDelta::days(1);
/// Replicas that begin together write one after another.
const TRIES: usize = 8;

/// Makes the certificate.
pub struct Authority {
    client: Client,
    secrets: Store<Secret>,
    namespace: String,
    names: Vec<String>,
}

/// What the Secret holds.
struct Made {
    authorities: String,
    authority_key: String,
    serving: Material,
}

impl Authority {
    /// Keeps its Secret in Quell's own namespace. The certificate is for the Service `quell`, this host, and the names in the settings.
    #[must_use]
    pub fn new(client: &Client, caches: &Caches, settings: &Settings) -> Self {
        let namespace = settings.namespace.clone();
        let service = ["quell", "localhost", "127.0.0.1"].map(str::to_owned);
        let qualified = ["", ".svc", ".svc.cluster.local"].map(|end| format!("quell.{namespace}{end}"));
        let names = service.into_iter().chain(qualified).chain(settings.ingest_tls_names.iter().cloned()).collect();
        Self { client: client.clone(), secrets: caches.secrets.clone(), namespace, names }
    }

    /// The certificate as it is now; made, where it is missing or due.
    pub async fn current(&self, now: DateTime<Utc>) -> Result<Material, TlsError> {
        let known = self.secrets.get(&ObjectRef::new(CERTIFICATE).within(&self.namespace));
        match known.and_then(|secret| Made::read(&secret)).filter(|made| !made.is_due(&self.names, now)) {
            Some(made) => Ok(made.serving),
            None => self.ensure(now).await,
        }
    }

    /// The same, asking the API server.
    pub async fn ensure(&self, now: DateTime<Utc>) -> Result<Material, TlsError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut last = None;
        for _ in 0..TRIES {
            let there = api.get_opt(CERTIFICATE).await.map_err(TlsError::Stored)?;
            let known = there.as_ref().and_then(Made::read);
            if let Some(made) = known.as_ref().filter(|made| !made.is_due(&self.names, now)) {
                self.publish(&made.authorities).await?;
                return Ok(made.serving.clone());
            }
            let made = Made::anew(known.as_ref(), &self.names, now)?;
            // Senders learn of a new authority before anything is shown that only it has signed.
            self.publish(&made.authorities).await?;
            let parameters =
                PostParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PostParams::default() };
            let version = there.as_ref().and_then(ResourceExt::resource_version);
            let secret = made.secret(&self.namespace, version);
            let written = match there {
                None => api.create(&parameters, &secret).await,
                Some(_) => api.replace(CERTIFICATE, &parameters, &secret).await,
            };
            match written {
                Ok(_) => {
                    tracing::info!(secret = CERTIFICATE, names = ?self.names, "made a certificate for the intake");
                    return Ok(made.serving);
                }
                Err(kube::Error::Api(status)) if status.code == 409 => last = Some(kube::Error::Api(status)),
                Err(error) => return Err(TlsError::Stored(error)),
            }
        }
        Err(last.map_or(TlsError::Contested, TlsError::Stored))
    }

    async fn publish(&self, authorities: &str) -> Result<(), TlsError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(CA_BUNDLE.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(CA_CERTIFICATE.to_owned(), authorities.to_owned())])),
            ..ConfigMap::default()
        };
        let parameters = PatchParams::apply(field_managers::INTAKE).force();
        api.patch(CA_BUNDLE, &parameters, &Patch::Apply(&map)).await.map(|_| ()).map_err(TlsError::Stored)
    }
}

impl Made {
    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            authorities: text(CA_CERTIFICATE)?,
            authority_key: text(CA_KEY)?,
            serving: Material { chain: text(TLS_CERTIFICATE)?.into_bytes(), key: text(TLS_KEY)?.into_bytes() },
        })
    }

    fn secret(&self, namespace: &str, version: Option<String>) -> Secret {
        let data = [
            (CA_CERTIFICATE, self.authorities.clone().into_bytes()),
            (CA_KEY, self.authority_key.clone().into_bytes()),
            (TLS_CERTIFICATE, self.serving.chain.clone()),
            (TLS_KEY, self.serving.key.clone()),
        ];
        Secret {
            metadata: ObjectMeta {
                name: Some(CERTIFICATE.to_owned()),
                namespace: Some(namespace.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect()),
            ..Secret::default()
        }
    }

    /// Whether it should be made anew: unreadable, for other names, or soon over.
    fn is_due(&self, names: &[String], now: DateTime<Utc>) -> bool {
        let Some(serving) = first(&self.serving.chain) else { return true };
        let has = alternative_names(&serving);
        let wanted: HashSet<String> = names.iter().cloned().collect();
        has != wanted
            || ends(&serving).is_none_or(|end| end - now < DUE)
            || !self.authority_lasts(now)
            || self.serving.server_config().is_err()
    }

    fn authority_lasts(&self, now: DateTime<Utc>) -> bool {
        let first = first(self.authorities.as_bytes());
        first.and_then(|first| ends(&first)).is_some_and(|end| end - now >= AUTHORITY_DUE)
    }

    /// A new certificate, of the same authority as long as that lasts.
    fn anew(before: Option<&Self>, names: &[String], now: DateTime<Utc>) -> Result<Self, TlsError> {
        let lasting = before.filter(|before| before.authority_lasts(now));
        let known = lasting.and_then(|before| {
            let key = KeyPair::from_pem(&before.authority_key).ok()?;
            Some((before.authorities.clone(), key))
        });
        let (authorities, key) = if let Some(known) = known {
            known
        } else {
            let key = KeyPair::generate()?;
            let own = authority(now).self_signed(&key)?.pem();
            // Senders that know the one before go on trusting what it has signed, until it is over.
            let before = before.map(|before| still_good(&before.authorities, now)).unwrap_or_default();
            (own + &before, key)
        };
        let authority_key = key.serialize_pem();
        let issuer = Issuer::new(authority(now), key);
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "quell");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        period(&mut params, now, DAYS);
        let key = KeyPair::generate()?;
        let chain = params.signed_by(&key, &issuer)?.pem().into_bytes();
        let serving = Material { chain, key: key.serialize_pem().into_bytes() };
        Ok(Self { authorities, authority_key, serving })
    }
}

/// What the authority says of itself. Its name is always the same, so that what it signs fits its certificate whenever that was made.
fn authority(now: DateTime<Utc>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "quell ingest");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    period(&mut params, now, AUTHORITY_DAYS);
    params
}

fn period(params: &mut CertificateParams, now: DateTime<Utc>, length: TimeDelta) {
    // Months and days fit.
    let date = |at: DateTime<Utc>| {
        date_time_ymd(at.year(), at.month().try_into().unwrap_or(1), at.day().try_into().unwrap_or(1))
    };
    (params.not_before, params.not_after) = (date(now - BEFORE), date(now + length));
}

fn first(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).next()?.ok()
}

fn ends(certificate: &CertificateDer) -> Option<DateTime<Utc>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    DateTime::from_timestamp(certificate.validity().not_after.timestamp(), 0)
}

/// Of a bundle in PEM the certificates that are good still.
fn still_good(bundle: &str, now: DateTime<Utc>) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let each = bundle.split_inclusive(END).filter(|pem| pem.contains(END));
    let good = each.filter(|pem| first(pem.as_bytes()).and_then(|one| ends(&one)).is_some_and(|end| end > now));
    good.flat_map(|pem| [pem.trim(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["quell.example".to_owned(), "127.0.0.1".to_owned()]
    }

    fn verifies(made: &Made, bundle: &str) -> bool {
        use rustls::client::danger::ServerCertVerifier as _;
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle.as_bytes()).map(Result::unwrap));
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let name = "quell.example".try_into().unwrap();
        let now = rustls::pki_types::UnixTime::now();
        verifier.verify_server_cert(&first(&made.serving.chain).unwrap(), &[], &name, &[], now).is_ok()
    }

    #[test]
    fn a_certificate_is_made_anew_before_it_ends_by_the_same_authority() {
        let now = Utc::now();
        let made = Made::anew(None, &names(), now).unwrap();
        assert!(!made.is_due(&names(), now));
        assert!(made.is_due(&[], now), "it is for other names");
        assert!(!made.is_due(&names(), now + DAYS - DUE - TimeDelta::days(2)));
        let later = now + DAYS - DUE + TimeDelta::days(1);
        assert!(made.is_due(&names(), later));
        let again = Made::anew(Some(&made), &names(), later).unwrap();
        assert_eq!(again.authorities, made.authorities);
        assert!(again.serving != made.serving && !again.is_due(&names(), later));
        assert!(verifies(&made, &made.authorities));
    }

    #[test]
    fn when_the_authority_ends_a_new_one_is_published_beside_it() {
        let now = Utc::now();
        let made = Made::anew(None, &names(), now - AUTHORITY_DAYS + TimeDelta::days(30)).unwrap();
        assert!(made.is_due(&names(), now));
        let again = Made::anew(Some(&made), &names(), now).unwrap();
        assert!(!again.is_due(&names(), now));
        assert_eq!(again.authorities.matches("BEGIN").count(), 2);
        assert!(again.authorities.ends_with(&made.authorities.replace("\r\n", "\n")));
        assert!(verifies(&again, &again.authorities) && !verifies(&again, &made.authorities));
    }
}
