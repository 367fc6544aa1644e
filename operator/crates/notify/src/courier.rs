use std::sync::Arc;
use std::time::Duration;

use lettre::transport::smtp::client::Certificate;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::{DeliveryError, Destination, Message, slack, smtp, webhook};

/// From the first packet to the last byte of the answer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// A mail takes some ten round trips, and mail servers delay their greeting on purpose (Postfix's postscreen: 6 s).
const SMTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes messages to their destinations. One for the whole process; deliveries don't wait for one another.
#[derive(Debug)]
pub struct Courier {
    http: reqwest::Client,
    extra_roots: Option<Certificate>,
    http_timeout: Duration,
    smtp_timeout: Duration,
}

/// Why there is no courier.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The extra root certificates are no PEM.
    #[error("the extra root certificates can't be read: {0}")]
    RootsUnreadable(String),
    /// TLS could not be set up.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be set up.
    #[error("the HTTP client can't be set up")]
    Http(#[from] reqwest::Error),
}

impl Courier {
    /// A courier that trusts Mozilla's roots and `extra_roots`, one or more certificates in PEM: the authority of a company's
    /// own mail server, or of a proxy that looks into TLS.
    ///
    /// Needs no process-wide rustls provider: it brings its own. `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of the process
    /// count for webhooks and Slack, since many clusters have no other way out.
    pub fn new(extra_roots: Option<&[u8]>) -> Result<Self, SetupError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in extra_roots.map(certificates).transpose()?.into_iter().flatten() {
            roots.add(root)?;
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // A redirect would take a signed message, or Slack's secret, to a place that nobody wrote into the channel.
            .redirect(Policy::none())
            .user_agent(concat!("quell/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let extra_roots = extra_roots
            .map(Certificate::from_pem)
            .transpose()
            .map_err(|error| SetupError::RootsUnreadable(error.to_string()))?;
        Ok(Self { http, extra_roots, http_timeout: HTTP_TIMEOUT, smtp_timeout: SMTP_TIMEOUT })
    }

    /// The client that deliveries use, for other calls to the outside: the same trust, no redirects, no limit in time of its own.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The same courier with another limit for a whole delivery. Default: 10 s over HTTP, 30 s over SMTP.
    #[must_use]
    pub fn with_timeout(self, limit: Duration) -> Self {
        Self { http_timeout: limit, smtp_timeout: limit, ..self }
    }

    /// Delivers the message, in one try.
    ///
    /// `Ok` means that the receiver has answered that it has it. After an error the receiver may have it nonetheless (the
    /// answer was lost); it can tell by the message's key.
    pub async fn deliver(&self, destination: &Destination, message: &Message) -> Result<(), DeliveryError> {
        let receiver = destination.to_string();
        match destination {
            Destination::Webhook { url, hmac_key } => {
                webhook::Webhook { url, hmac_key, receiver }.deliver(&self.http, self.http_timeout, message).await
            }
            Destination::Slack { webhook_url } => {
                slack::Slack { webhook_url, receiver }.deliver(&self.http, self.http_timeout, message).await
            }
            Destination::Smtp { host, port, encryption, from, to, credentials } => {
                let route = smtp::Route {
                    host,
                    port: *port,
                    encryption: *encryption,
                    from,
                    to,
                    credentials: credentials.as_ref(),
                    receiver,
                };
                route.deliver(self.extra_roots.as_ref(), self.smtp_timeout, message).await
            }
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| SetupError::RootsUnreadable(error.to_string()))?;
    // A file without a single certificate is a mistake that would show up much later, as a server without trust.
    if found.is_empty() { Err(SetupError::RootsUnreadable("no certificate in it".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_roots_without_a_certificate_are_an_error() {
        assert!(matches!(Courier::new(Some(b"no certificate")), Err(SetupError::RootsUnreadable(_))));
    }
}
