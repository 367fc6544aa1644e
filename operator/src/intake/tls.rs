//! The certificate of the intake.

use axum_server::tls_rustls::RustlsConfig;
use thiserror::Error;

use crate::settings::Settings;

/// Why the intake has no certificate.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The files can't be used.
    #[error("--ingest-tls-cert {cert} and --ingest-tls-key {key}: {source}")]
    Files {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// No certificate could be made.
    #[error("a certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
    /// The made certificate was not taken.
    #[error("the certificate that was made can't be used: {0}")]
    Unusable(#[from] std::io::Error),
}

/// The certificate from the files that the settings name, or one that is made now.
pub async fn config(settings: &Settings) -> Result<RustlsConfig, TlsError> {
    if let (Some(cert), Some(key)) = (&settings.ingest_tls_cert, &settings.ingest_tls_key) {
        return RustlsConfig::from_pem_file(cert, key).await.map_err(|source| TlsError::Files {
            cert: cert.display().to_string(),
            key: key.display().to_string(),
            source,
        });
    }
    tracing::warn!(
        "no certificate was given (--ingest-tls-cert): one was made for this start, which no sender can check"
    );
    let names = ["quell", "localhost", "127.0.0.1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok(RustlsConfig::from_pem(made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes()).await?)
}
