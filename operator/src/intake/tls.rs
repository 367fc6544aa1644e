//! TLS of the intake: the certificate that it shows, which may change at any time, and what it asks of senders.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use chrono::Utc;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::intake::authority::Authority;
use crate::settings::Settings;

/// How often it is looked whether the certificate has changed. No request is made for that.
const LOOK: Duration = Duration::from_secs(5);

/// Why the intake has no certificate.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("a certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
    /// What was made could not be stored.
    #[error("the certificate of the intake could not be stored: {0}")]
    Stored(kube::Error),
    /// Others write the Secret all the time.
    #[error("the Secret of the certificate is changed by others all the time")]
    Contested,
    /// It isn't PEM.
    #[error("not a certificate or key in PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The certificate and its key don't fit.
    #[error("the certificate can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The certificates, the own one first.
    pub chain: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl Material {
    /// What a server needs to show it.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = CertificateDer::pem_slice_iter(&self.chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Asked(provider)))
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Asks every sender for a certificate, and checks that one who shows one has its key. Who must have signed it says the Source, which isn't
/// known before the request is.
#[derive(Debug)]
struct Asked(Arc<CryptoProvider>);

impl ClientCertVerifier for Asked {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where the certificate comes from.
enum Origin {
    Files { cert: PathBuf, key: PathBuf },
    Own(Authority),
}

impl Origin {
    async fn read(&self) -> Result<Material, TlsError> {
        match self {
            Self::Files { cert, key } => Ok(Material { chain: file(cert).await?, key: file(key).await? }),
            Self::Own(authority) => authority.current(Utc::now()).await,
        }
    }
}

async fn file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|source| TlsError::File { path: path.display().to_string(), source })
}

/// The certificate from the files that the settings name, or the one that Quell makes. It is shown anew whenever it has changed, until `end`.
pub async fn config(settings: &Settings, own: Authority, end: CancellationToken) -> Result<RustlsConfig, TlsError> {
    let origin = match (&settings.ingest_tls_cert, &settings.ingest_tls_key) {
        (Some(cert), Some(key)) => Origin::Files { cert: cert.clone(), key: key.clone() },
        _ => Origin::Own(own),
    };
    let first = match &origin {
        Origin::Files { .. } => origin.read().await?,
        Origin::Own(authority) => loop {
            match authority.ensure(Utc::now()).await {
                Ok(made) => break made,
                Err(error) => {
                    tracing::warn!(%error, "no certificate to take signals in with; tried again (or give one: --ingest-tls-cert)");
                    tokio::time::sleep(LOOK).await;
                }
            }
        },
    };
    let config = RustlsConfig::from_config(first.server_config()?);
    tokio::spawn(follow(origin, first, config.clone(), LOOK, end));
    Ok(config)
}

async fn follow(origin: Origin, mut shown: Material, config: RustlsConfig, look: Duration, end: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(look) => {}
            () = end.cancelled() => return,
        }
        let fresh = match origin.read().await {
            Ok(fresh) if fresh == shown => continue,
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, "the certificate of the intake could not be read again; the one before is shown on");
                continue;
            }
        };
        match fresh.server_config() {
            Ok(made) => {
                config.reload_from_config(made);
                tracing::info!("the certificate of the intake has changed, and is shown from now on");
            }
            // Files are replaced one after the other: the next look finds both.
            Err(error) => {
                tracing::warn!(%error, "the certificate of the intake has changed and can't be used; the one before is shown on");
                continue;
            }
        }
        shown = fresh;
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Extension, Router};

    use super::*;
    use crate::intake::connections::{Secured, Shown};

    const DEADLINE: Duration = Duration::from_secs(30);

    fn material() -> Material {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Material { chain: made.cert.pem().into_bytes(), key: made.signing_key.serialize_pem().into_bytes() }
    }

    fn write(folder: &Path, material: &Material) {
        std::fs::write(folder.join("tls.crt"), &material.chain).unwrap();
        std::fs::write(folder.join("tls.key"), &material.key).unwrap();
    }

    fn client(trusted: &Material, own: Option<&Material>) -> reqwest::Client {
        let trusted = reqwest::Certificate::from_pem(&trusted.chain).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([trusted]);
        let own = own.map(|own| reqwest::Identity::from_pem(&[own.key.as_slice(), &own.chain].concat()).unwrap());
        own.into_iter().fold(client, reqwest::ClientBuilder::identity).build().unwrap()
    }

    async fn asked(client: &reqwest::Client, url: &str) -> Result<String, reqwest::Error> {
        client.get(url).send().await?.text().await
    }

    #[tokio::test]
    async fn a_changed_certificate_is_shown_without_a_restart_and_senders_may_show_their_own() {
        let _ = ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (first, second, sender) = (material(), material(), material());
        write(folder.path(), &first);
        let origin = Origin::Files { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let config = RustlsConfig::from_config(first.server_config().unwrap());
        let end = CancellationToken::new();
        tokio::spawn(follow(origin, first.clone(), config.clone(), Duration::from_millis(10), end.clone()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let shown = |Extension(Shown(shown)): Extension<Shown>| async move { shown.len().to_string() };
        let server = axum_server::from_tcp(listener).unwrap().acceptor(Secured::new(config));
        tokio::spawn(server.serve(Router::new().route("/", get(shown)).into_make_service()));

        assert_eq!(asked(&client(&first, None), &url).await.unwrap(), "0");
        assert_eq!(asked(&client(&first, Some(&sender)), &url).await.unwrap(), "1");
        assert!(asked(&client(&second, None), &url).await.is_err());
        // A key that doesn't fit is not shown.
        std::fs::write(folder.path().join("tls.key"), &second.key).unwrap();
        assert_eq!(asked(&client(&first, None), &url).await.unwrap(), "0");
        write(folder.path(), &second);
        let renewed = async {
            while asked(&client(&second, None), &url).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, renewed).await.expect("the new certificate is shown");
        end.cancel();
    }
}
