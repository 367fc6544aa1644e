//! Mail over SMTP: RFC 5321, STARTTLS (RFC 3207), implicit TLS (RFC 8314), AUTH (RFC 4954).
//!
//! One connection for each mail. A receiver that the server refuses doesn't keep the others from being told: the mail goes
//! to whom the server takes, and the error names the rest. Where that error is transient, another try reaches the first
//! ones twice, with the same `Message-ID`.

use std::error::Error as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use quell_crds::v1alpha1::{Encryption, Smtp};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::by_line::ByLine;
use crate::mail::mail;
use crate::secret::scrubbed;
use crate::{DeliveryError, Destination, Message, Secret};

/// A goodbye is a courtesy: the mail is delivered, or not, before it.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Route<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) encryption: Encryption,
    pub(crate) from: &'a Mailbox,
    pub(crate) to: &'a [Mailbox],
    pub(crate) credentials: Option<&'a (String, Secret)>,
    pub(crate) receiver: String,
}

pub(crate) fn resolve(spec: &Smtp, password: Option<Secret>) -> Result<Destination, DeliveryError> {
    if ServerName::try_from(spec.host.as_str()).is_err() {
        return Err(DeliveryError::misconfigured("host: neither a host name nor an address"));
    }
    let usual = match spec.encryption {
        Encryption::StartTls => 587,
        Encryption::Tls => 465,
        Encryption::None => 25,
    };
    let port = u16::try_from(spec.port.unwrap_or(usual)).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| DeliveryError::misconfigured("port: not between 1 and 65535"))?;
    let credentials = match (&spec.username, password) {
        (Some(user), Some(password)) => Some((user.clone(), password)),
        (None, None) => None,
        (Some(_), None) => return Err(DeliveryError::misconfigured("username: without a password")),
        (None, Some(_)) => return Err(DeliveryError::misconfigured("password: without a username")),
    };
    check_privacy(spec.encryption, credentials.as_ref())?;
    let from = address("from", &spec.from)?;
    let to = spec.to.iter().map(|to| address("to", to)).collect::<Result<Vec<_>, _>>()?;
    if to.is_empty() {
        return Err(DeliveryError::misconfigured("to: nobody"));
    }
    Ok(Destination::Smtp { host: spec.host.clone(), port, encryption: spec.encryption, from, to, credentials })
}

/// RFC 4954 section 4: a password in the clear is everybody's.
fn check_privacy(encryption: Encryption, credentials: Option<&(String, Secret)>) -> Result<(), DeliveryError> {
    if encryption == Encryption::None && credentials.is_some() {
        return Err(DeliveryError::misconfigured("password: not over a connection without encryption"));
    }
    Ok(())
}

fn address(field: &str, address: &str) -> Result<Mailbox, DeliveryError> {
    let refused = || DeliveryError::misconfigured(format!("{field}: {address:?} is no mail address"));
    // A control character could end a header or a command.
    if address.chars().any(char::is_control) {
        return Err(refused());
    }
    let mailbox: Mailbox = address.parse().map_err(|_| refused())?;
    // SMTPUTF8 (RFC 6531) would leave out the servers that don't speak it; a domain has an ASCII form for all.
    if mailbox.email.to_string().is_ascii() { Ok(mailbox) } else { Err(refused()) }
}

impl Route<'_> {
    pub(crate) async fn deliver(
        self,
        extra_roots: Option<&Certificate>,
        limit: Duration,
        message: &Message,
    ) -> Result<(), DeliveryError> {
        // Checked again where it matters: a Destination can be built by hand.
        check_privacy(self.encryption, self.credentials)?;
        let mail = mail(self.from, self.to, message)?;
        let delivery = async {
            let mut connection = self.connect(extra_roots).await?;
            let outcome = self.hand_over(&mut connection, &mail).await;
            Ok((connection, outcome))
        };
        let late = |_| self.unreachable(format!("nothing within {limit:?}"));
        let (mut connection, outcome) = timeout(limit, delivery).await.map_err(late)??;
        // After its end neither an error nor silence changes what has become of the mail.
        drop(timeout(QUIT_TIMEOUT, connection.quit()).await);
        outcome
    }

    async fn connect(&self, extra_roots: Option<&Certificate>) -> Result<AsyncSmtpConnection, DeliveryError> {
        let hello = ClientId::default();
        let server = (self.host, self.port);
        if self.encryption == Encryption::Tls {
            let tls = self.tls(extra_roots)?;
            let connection = AsyncSmtpConnection::connect_tokio1(server, None, &hello, Some(tls), None).await;
            return connection.map_err(|error| self.failed(&error));
        }
        let stream = TcpStream::connect(server).await.map_err(|error| self.unreachable(error.to_string()))?;
        let mut connection = AsyncSmtpConnection::connect_with_transport(Box::new(ByLine::new(stream)), &hello)
            .await
            .map_err(|error| self.failed(&error))?;
        if self.encryption == Encryption::StartTls {
            connection.starttls(self.tls(extra_roots)?, &hello).await.map_err(|error| self.failed(&error))?;
        }
        Ok(connection)
    }

    fn tls(&self, extra_roots: Option<&Certificate>) -> Result<TlsParameters, DeliveryError> {
        let mut tls = TlsParameters::builder(self.host.to_owned());
        if let Some(roots) = extra_roots {
            tls = tls.add_root_certificate(roots.clone());
        }
        tls.build().map_err(|error| DeliveryError::misconfigured(format!("TLS: {error}")))
    }

    async fn hand_over(&self, connection: &mut AsyncSmtpConnection, mail: &[u8]) -> Result<(), DeliveryError> {
        let failed = |error| self.failed(&error);
        if let Some((user, password)) = self.credentials {
            let password = password.text().ok_or_else(|| DeliveryError::misconfigured("password: not text"))?;
            let credentials = Credentials::new(user.clone(), password.to_owned());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(failed)?;
        }
        connection.command(Mail::new(Some(self.from.email.clone()), vec![])).await.map_err(failed)?;
        let mut refused = vec![];
        for to in self.to {
            match connection.command(Rcpt::new(to.email.clone(), vec![])).await {
                Ok(_) => {}
                Err(error) if error.status().is_some() => refused.push((to, error)),
                Err(error) => return Err(failed(error)),
            }
        }
        if refused.len() < self.to.len() {
            connection.command(Data).await.map_err(failed)?;
            connection.message(mail).await.map_err(failed)?;
        }
        self.told(&refused)
    }

    /// Whether everyone was told; transient where a later try can reach one more.
    fn told(&self, refused: &[(&Mailbox, SmtpError)]) -> Result<(), DeliveryError> {
        let Some((_, worst)) = refused.iter().find(|(_, error)| error.is_transient()).or(refused.first()) else {
            return Ok(());
        };
        let answers: Vec<String> =
            refused.iter().map(|(to, error)| format!("{} ({})", self.answer(error), to.email)).collect();
        let told = self.to.len() - refused.len();
        let answer = format!("{}; {told} of {} receivers were told", answers.join("; "), self.to.len());
        Err(self.refused(worst, answer))
    }

    fn failed(&self, error: &SmtpError) -> DeliveryError {
        let answer = self.answer(error);
        // Without a code, `client` is what this side found out: no STARTTLS, no way to authenticate.
        if error.status().is_some() || error.is_client() {
            self.refused(error, answer)
        } else {
            self.unreachable(answer)
        }
    }

    fn refused(&self, error: &SmtpError, answer: String) -> DeliveryError {
        let receiver = self.receiver.clone();
        match error.status().map(u16::from) {
            Some(code) if error.is_transient() => DeliveryError::TooBusy { receiver, code, answer, retry_after: None },
            code => DeliveryError::Refused { receiver, code, answer },
        }
    }

    fn unreachable(&self, cause: String) -> DeliveryError {
        DeliveryError::Unreachable { receiver: self.receiver.clone(), cause }
    }

    /// What the server said, with its code, and without what it repeats of the credentials.
    fn answer(&self, error: &SmtpError) -> String {
        let (mut said, mut source) = (String::new(), error.source());
        while let Some(inner) = source {
            said = inner.to_string();
            source = inner.source();
        }
        let mut secrets = vec![];
        if let Some((user, password)) = self.credentials {
            let password = password.text().unwrap_or_default();
            secrets.push(BASE64_STANDARD.encode(format!("\0{user}\0{password}")));
            secrets.push(BASE64_STANDARD.encode(password));
            secrets.push(password.to_owned());
        }
        let said = scrubbed(&said, &secrets.iter().map(String::as_str).collect::<Vec<_>>());
        match error.status() {
            Some(code) => format!("{code} {said}").trim_end().to_owned(),
            None => said,
        }
    }
}
