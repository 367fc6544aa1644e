//! AWS is a server on this host, under AWS' name and with a certificate that the client trusts; nothing of the product is told so. The key that
//! signed the messages was thrown away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use chrono::TimeZone as _;
use serde_json::{Value, json};

use super::*;

const HOST: &str = "sns.us-east-1.amazonaws.com";
const CERTIFICATE: &str = "/SimpleNotificationService-0123456789abcdef.pem";

/// What was asked of AWS.
#[derive(Clone, Default)]
struct Aws {
    asked: Arc<AtomicUsize>,
    confirmed: Arc<AtomicUsize>,
}

impl Aws {
    async fn serve(&self) -> Sns {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
        let tls = RustlsConfig::from_pem(chain.clone(), key).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let answer = async |State(aws): State<Self>, uri: Uri| {
            aws.asked.fetch_add(1, Ordering::Relaxed);
            match (uri.path(), uri.query().unwrap_or_default()) {
                (CERTIFICATE, _) => (StatusCode::OK, include_str!("certificate.pem")),
                ("/", query) if query.starts_with("Action=ConfirmSubscription&") && query.contains("Token=t0k") => {
                    aws.confirmed.fetch_add(1, Ordering::Relaxed);
                    (StatusCode::OK, "<ConfirmSubscriptionResponse/>")
                }
                ("/SimpleNotificationService-busy.pem", _) => (StatusCode::SERVICE_UNAVAILABLE, ""),
                ("/SimpleNotificationService-html.pem", _) => (StatusCode::OK, "<html>"),
                _ => (StatusCode::FORBIDDEN, ""),
            }
        };
        let router = Router::new().fallback(get(answer)).with_state(self.clone());
        let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
        tokio::spawn(server.serve(router.into_make_service()));
        let trusted = reqwest::Certificate::from_pem(&chain).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([trusted])
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .resolve(HOST, address);
        Sns::new(client.build().unwrap())
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn topic() -> Topic {
    Topic::parse("arn:aws:sns:us-east-1:1234:findings").unwrap()
}

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2027, 1, 1, 0, 30, 0).unwrap()
}

fn signed() -> Vec<Value> {
    serde_json::from_slice(include_bytes!("signed.json")).unwrap()
}

fn with(field: &str, value: &str) -> Value {
    let mut message = signed().remove(0);
    message[field] = json!(value);
    message
}

async fn refused(sns: &Sns, message: &Value) -> &'static str {
    match sns.believe(&topic(), message.to_string().as_bytes(), now()).await {
        Err(Disbelief::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_sns_has_signed_is_believed_and_its_certificate_asked_for_once() {
    let aws = Aws::default();
    let sns = aws.serve().await;
    for message in signed() {
        let believed = sns.believe(&topic(), message.to_string().as_bytes(), now()).await.unwrap();
        assert_eq!(message["MessageId"], believed.message_id);
    }
    assert_eq!(aws.asked(), 1);
    assert_eq!(refused(&sns, &with("Message", "{\"a\":2}")).await, "SignatureInvalid");
    assert_eq!(aws.asked(), 1);
}

#[tokio::test]
async fn aws_is_not_asked_about_what_is_no_message_of_the_topic_or_names_another_address() {
    let aws = Aws::default();
    let sns = aws.serve().await;
    for (message, reason) in [
        (json!({ "a": 1 }), "TopicForeign"),
        (json!("hello"), "NotSns"),
        (with("TopicArn", "arn:aws:sns:us-east-1:1234:another"), "TopicForeign"),
        (with("Timestamp", "2026-12-31T23:00:00.000Z"), "Stale"),
        (with("Timestamp", "2027-01-01T02:00:00.000Z"), "Stale"),
        (with("Timestamp", "yesterday"), "Stale"),
        (with("SigningCertURL", "https://evil.example/SimpleNotificationService-0.pem"), "SignatureInvalid"),
        (with("SigningCertURL", &format!("http://{HOST}{CERTIFICATE}")), "SignatureInvalid"),
    ] {
        assert_eq!(refused(&sns, &message).await, reason, "{message}");
    }
    assert_eq!(aws.asked(), 0);
}

#[tokio::test]
async fn an_address_without_a_certificate_is_asked_once_and_one_that_fails_may_be_tried_again() {
    let aws = Aws::default();
    let sns = aws.serve().await;
    for name in ["missing", "html"] {
        let message = with("SigningCertURL", &format!("https://{HOST}/SimpleNotificationService-{name}.pem"));
        assert_eq!(refused(&sns, &message).await, "SignatureInvalid");
        assert_eq!(refused(&sns, &message).await, "SignatureInvalid");
    }
    assert_eq!(aws.asked(), 2);
    let busy = with("SigningCertURL", &format!("https://{HOST}/SimpleNotificationService-busy.pem")).to_string();
    for _ in 0..2 {
        let answer = sns.believe(&topic(), busy.as_bytes(), now()).await;
        assert!(matches!(answer, Err(Disbelief::Later(_))), "{answer:?}");
    }
    assert_eq!(aws.asked(), 4);
}

#[tokio::test]
async fn a_subscription_is_confirmed_at_sns_and_nowhere_else() {
    let aws = Aws::default();
    let sns = aws.serve().await;
    let believed = async |message: &Value| sns.believe(&topic(), message.to_string().as_bytes(), now()).await.unwrap();
    let [_, asks, elsewhere] = signed().try_into().unwrap();
    sns.confirm(&topic(), &believed(&asks).await).await.unwrap();
    assert_eq!(aws.confirmed.load(Ordering::Relaxed), 1);
    let error = sns.confirm(&topic(), &believed(&elsewhere).await).await.unwrap_err();
    assert!(matches!(error, NotConfirmed::Elsewhere) && !error.is_transient());
    let old = Message {
        subscribe_url: Some(format!("https://{HOST}/?Action=ConfirmSubscription&Token=old")),
        ..believed(&asks).await
    };
    let error = sns.confirm(&topic(), &old).await.unwrap_err();
    assert!(error.to_string().contains("403") && !error.is_transient(), "{error}");
}
