//! A whole way from AWS to a Finding: an operator whose calls to the outside go through a proxy, as in many clusters, and behind the proxy an AWS
//! of this test's own. Its certificate is by an authority that the operator is given as `--extra-ca`. The key is for this test and signs nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use quell_ingest::sns::Message;
use quell_tests::{ControlPlane, Operator};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Registry;
use crate::support::falco;

const HOST: &str = "sns.us-east-1.amazonaws.com";
const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:findings";
const CERTIFICATE: &str = "/SimpleNotificationService-0123456789abcdef.pem";

/// A proxy, behind which there is AWS and nothing else.
struct Aws {
    proxy: SocketAddr,
    /// By which the operator knows AWS.
    authority: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Aws {
    async fn begin() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = listener.local_addr()?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let router = Router::new().fallback(answer).with_state(asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connected(stream, acceptor.clone(), router.clone()));
            }
        });
        Ok(Self { proxy, authority: made.cert.pem(), asked })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn connected(mut stream: TcpStream, acceptor: TlsAcceptor, router: Router) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    anyhow::ensure!(head.starts_with(format!("CONNECT {HOST}:443 ").as_bytes()), "there is nothing else here");
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let stream = TokioIo::new(acceptor.accept(stream).await?);
    Ok(http1::Builder::new().serve_connection(stream, TowerToHyperService::new(router)).await?)
}

async fn answer(State(asked): State<Arc<Mutex<Vec<String>>>>, request: Request) -> Response {
    let what = request.uri().to_string();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(what.clone());
    match what.as_str() {
        CERTIFICATE => include_str!("certificate.pem").into_response(),
        _ if what.starts_with("/?Action=ConfirmSubscription&") => StatusCode::OK.into_response(),
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// A message as SNS sends it, signed.
fn signed(kind: &str, id: &str, message: &str) -> Result<Value> {
    let mut body = json!({
        "Type": kind, "MessageId": id, "TopicArn": TOPIC, "Message": message, "Timestamp": Utc::now().to_rfc3339(),
        "SignatureVersion": "2", "SigningCertURL": format!("https://{HOST}{CERTIFICATE}"),
    });
    if kind == "SubscriptionConfirmation" {
        body["Token"] = json!("t0k");
        body["SubscribeURL"] = json!(format!("https://{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=t0k"));
    }
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("key.pem"))?;
    let key = RsaKeyPair::from_pkcs8(key.secret_der()).ok().context("no RSA key")?;
    let text = Message::parse(body.to_string().as_bytes())?.canonical();
    let mut signature = vec![0; key.public().modulus_len()];
    let made = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature);
    made.ok().context("it could not be signed")?;
    body["Signature"] = json!(STANDARD.encode(signature));
    Ok(body)
}

#[tokio::test]
async fn what_sns_has_signed_is_a_finding_once_and_its_subscription_is_confirmed() -> Result<()> {
    let registry = Registry::new("signed", "unused").await?;
    registry.source("falco", json!({ "webhook": { "sns": { "topicArn": TOPIC } } })).await?;
    let aws = Aws::begin().await?;
    let authority = tempfile::NamedTempFile::new()?;
    std::fs::write(authority.path(), &aws.authority)?;
    let flags = ["--identity", "behind-a-proxy", "--extra-ca", authority.path().to_str().context("a path")?];
    let proxy = format!("http://{}", aws.proxy);
    let binary = Path::new(env!("CARGO_BIN_EXE_quell"));
    // The client for the API server knows nothing of ALL_PROXY.
    let operator =
        Operator::start_in(binary, ControlPlane::shared().await?, &flags, &[("ALL_PROXY", proxy.as_str())]).await?;
    let post = async |body: &Value| operator.post_text(registry.bed.name(), &body.to_string(), None).await;

    let asks = signed("SubscriptionConfirmation", "m-1", "You have chosen to subscribe")?;
    let answer = post(&asks).await?;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", operator.log()?);
    let confirmed = format!("/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=t0k");
    assert_eq!(aws.asked(), [CERTIFICATE.to_owned(), confirmed]);
    assert!(registry.event("SubscriptionConfirmed").await?.contains(TOPIC));

    let alert = falco(registry.bed.name(), "web", &json!({})).to_string();
    let notification = signed("Notification", "m-2", &alert)?;
    let answer = post(&notification).await?;
    let (namespace, _) = answer.finding()?;
    assert_eq!((answer.status, namespace.as_str()), (200, registry.bed.name()));
    let again = post(&notification).await?;
    assert_eq!((again.status, &again.body["findings"]), (200, &json!([])), "SNS sends again what it got no answer for");
    let mut forged = signed("Notification", "m-3", &alert)?;
    forged["Message"] = json!(alert.replace("Critical", "Warning"));
    let refused = post(&forged).await?;
    assert_eq!((refused.status, refused.body["reason"].as_str()), (403, Some("SignatureInvalid")));
    let found = registry.findings().await?;
    assert_eq!(found.len(), 1);
    assert!(found[0].status.as_ref().is_none_or(|status| status.count <= 1), "{:?}", found[0].status);
    assert_eq!(aws.asked().len(), 2, "the certificate is kept");
    registry.close().await
}
