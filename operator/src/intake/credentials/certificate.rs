//! Client certificates.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::ClientCertificate;
use quell_playbooks::Problem;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Who is let in by a certificate.
pub struct Certificates {
    verifier: Arc<dyn ClientCertVerifier>,
    common_names: HashSet<String>,
    alternative_names: HashSet<String>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.common_names).field(&self.alternative_names).finish()
    }
}

impl Certificates {
    /// As the Source says, with the authorities in `pem`.
    pub fn compile(spec: &ClientCertificate, pem: &[u8]) -> Result<Self, Problem> {
        let problem = |message: String| Problem {
            reason: Reason::ParameterInvalid,
            at: "spec.webhook.clientCertificate.ca".to_owned(),
            message,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| problem(format!("not a certificate in PEM: {error}")))?;
            roots.add(certificate).map_err(|error| problem(format!("not a certificate of an authority: {error}")))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|error| problem(format!("no certificate in PEM: {error}")))?;
        Ok(Self {
            verifier,
            common_names: spec.common_names.iter().cloned().collect(),
            alternative_names: spec.subject_alternative_names.iter().cloned().collect(),
        })
    }

    /// Whether a chain, whose first certificate is the sender's own, is of one of the authorities, good now, and of an allowed name.
    #[must_use]
    pub fn allow(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((own, others)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(own, others, UnixTime::now()).is_ok() && self.names(own)
    }

    fn names(&self, certificate: &CertificateDer) -> bool {
        if self.common_names.is_empty() && self.alternative_names.is_empty() {
            return true;
        }
        if !self.alternative_names.is_disjoint(&alternative_names(certificate)) {
            return true;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let mut common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        common.any(|name| self.common_names.contains(name))
    }
}

/// The alternative names of a certificate; none of one that can't be read.
#[must_use]
pub fn alternative_names(certificate: &CertificateDer) -> HashSet<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return HashSet::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return HashSet::new() };
    names.value.general_names.iter().filter_map(text).collect()
}

fn text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            v4.or_else(|| <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok()).map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

    use super::*;

    struct Authority(Issuer<'static, KeyPair>, String);

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            Self(Issuer::new(params, key), pem)
        }

        fn sign(&self, usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec!["falco.example".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, "falco");
            params.subject_alt_names.push(SanType::URI("spiffe://cluster/falco".try_into().unwrap()));
            params.extended_key_usages = vec![usage];
            params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
        }
    }

    fn allowed(common: &[&str], alternative: &[&str], pem: &str, chain: &[CertificateDer<'static>]) -> bool {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        let spec = ClientCertificate {
            common_names: owned(common),
            subject_alternative_names: owned(alternative),
            ..ClientCertificate::default()
        };
        Certificates::compile(&spec, pem.as_bytes()).unwrap().allow(chain)
    }

    #[test]
    fn a_certificate_is_let_in_by_its_authority_and_its_names() {
        let (authority, other) = (Authority::new(), Authority::new());
        let chain = [authority.sign(ExtendedKeyUsagePurpose::ClientAuth)];
        for (common, alternative, expected) in [
            (&[][..], &[][..], true),
            (&["falco"][..], &[][..], true),
            (&["trivy"][..], &[][..], false),
            (&["trivy"][..], &["spiffe://cluster/falco"][..], true),
            (&[][..], &["falco.example"][..], true),
            (&[][..], &["falco"][..], false),
        ] {
            assert_eq!(allowed(common, alternative, &authority.1, &chain), expected, "{common:?} {alternative:?}");
        }
        assert!(!allowed(&[], &[], &other.1, &chain), "another authority");
        assert!(!allowed(&[], &[], &authority.1, &[]), "no certificate");
        let server = [authority.sign(ExtendedKeyUsagePurpose::ServerAuth)];
        assert!(!allowed(&[], &[], &authority.1, &server), "a certificate for servers");
        let both = format!("{}{}", other.1, authority.1);
        assert!(allowed(&[], &[], &both, &chain), "either of two authorities");
    }

    #[test]
    fn what_holds_no_certificate_is_refused() {
        let problem = Certificates::compile(&ClientCertificate::default(), b"nothing").unwrap_err();
        assert_eq!(problem.at, "spec.webhook.clientCertificate.ca");
    }
}
