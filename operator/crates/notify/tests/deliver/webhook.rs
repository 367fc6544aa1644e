use std::time::Duration;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{ChannelKind, Webhook};
use quell_notify::{Courier, DeliveryError, Destination};
use serde_json::json;

use crate::support::http::{Answer, Receiver};
use crate::support::pki::Authority;
use crate::support::{closed_port, courier, in_haste, key, message, resolve};

const HMAC_KEY: &str = "the key of the signature";

fn channel(url: &str) -> ChannelKind {
    ChannelKind::Webhook(Webhook { url: url.to_owned(), hmac_key: key("hmac") })
}

fn to(receiver: &Receiver) -> Destination {
    resolve(&channel(&format!("http://{}/hook?team=soc", receiver.address)), HMAC_KEY).expect("a destination")
}

async fn refusal(answer: Answer) -> DeliveryError {
    let receiver = Receiver::start(answer);
    let error = courier().deliver(&to(&receiver), &message()).await.expect_err("a refusal");
    assert_eq!(receiver.got().len(), 1, "one try is one request");
    error
}

#[tokio::test]
async fn a_delivered_message_is_signed_named_and_in_the_documented_shape() {
    let receiver = Receiver::start(Answer::status(202));
    courier().deliver(&to(&receiver), &message()).await.expect("delivered");
    let [got] = &receiver.got()[..] else { panic!("one request") };
    assert!(got.is_signed_with(HMAC_KEY));
    assert_eq!(got.path, "/hook?team=soc");
    assert_eq!(got.header("Idempotency-Key"), "6f1c-9/tell");
    assert_eq!(got.header("Content-Type"), "application/json");
    let expected = json!({
        "key": "6f1c-9/tell",
        "at": "2023-11-14T22:13:20Z",
        "severity": "Critical",
        "title": "Reverse shell in shop/web-0",
        "text": message().text,
        "fields": {"Pod": "shop/web-0", "Node": "n1"},
    });
    assert_eq!(got.json(), expected);
}

#[tokio::test]
async fn a_signature_by_another_key_does_not_verify() {
    let receiver = Receiver::start(Answer::status(200));
    let destination =
        resolve(&channel(&format!("http://{}/", receiver.address)), "another key").expect("a destination");
    courier().deliver(&destination, &message()).await.expect("delivered");
    assert!(!receiver.got()[0].is_signed_with(HMAC_KEY));
}

#[tokio::test]
async fn every_try_of_a_message_has_the_same_key() {
    let receiver = Receiver::start(Answer::status(500));
    for _ in 0..2 {
        courier().deliver(&to(&receiver), &message()).await.expect_err("a refusal");
    }
    let keys: Vec<String> = receiver.got().iter().map(|got| got.header("Idempotency-Key").to_owned()).collect();
    assert_eq!(keys, ["6f1c-9/tell", "6f1c-9/tell"]);
}

#[tokio::test]
async fn timeouts_throttling_and_server_errors_are_transient() {
    for status in [408, 429, 500, 502, 503] {
        let error = refusal(Answer::status(status)).await;
        assert!(matches!(error, DeliveryError::TooBusy { code, .. } if code == status), "{error}");
        assert!(error.is_transient());
        assert_eq!(error.reason(), Reason::ChannelUnreachable);
    }
}

#[tokio::test]
async fn retry_after_is_handed_on() {
    for status in [429, 503] {
        let error = refusal(Answer::Is(status, vec![("retry-after", "7".to_owned())], String::new())).await;
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    }
}

#[tokio::test]
async fn other_client_errors_are_permanent_and_say_why() {
    for status in [400, 401, 404, 410, 422] {
        let error = refusal(Answer::Is(status, vec![], "unknown\nteam".to_owned())).await;
        assert!(matches!(&error, DeliveryError::Refused { code: Some(code), .. } if *code == status), "{error}");
        assert!(!error.is_transient());
        assert_eq!(error.reason(), Reason::ReceiverRefused);
        assert!(error.to_string().ends_with("unknown team"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_is_not_followed() {
    let elsewhere = Receiver::start(Answer::status(200));
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/metadata?token=t0ken", elsewhere.address);
        let error = refusal(Answer::Is(status, vec![("location", location)], String::new())).await;
        assert!(matches!(&error, DeliveryError::Refused { code: Some(code), .. } if *code == status), "{error}");
        assert!(!error.to_string().contains("t0ken"), "{error}");
    }
    assert!(elsewhere.got().is_empty());
}

#[tokio::test]
async fn a_long_answer_is_shown_in_part() {
    let error = refusal(Answer::Is(404, vec![], "x".repeat(5_000_000))).await;
    assert!(error.to_string().len() < 500);
}

#[tokio::test]
async fn a_refused_connection_is_transient() {
    let destination =
        resolve(&channel(&format!("http://127.0.0.1:{}/", closed_port())), HMAC_KEY).expect("a destination");
    let error = courier().deliver(&destination, &message()).await.expect_err("nobody there");
    assert!(matches!(error, DeliveryError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let receiver = Receiver::start(Answer::Never);
    let error = in_haste(&to(&receiver)).await;
    assert!(matches!(error, DeliveryError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("within 150ms"), "{error}");
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_was_given_and_nowhere_else() {
    let authority = Authority::new();
    let receiver = Receiver::start_tls(Answer::status(200), &authority);
    let destination = resolve(&channel(&format!("https://{}/", receiver.address)), HMAC_KEY).expect("a destination");

    let error = courier().deliver(&destination, &message()).await.expect_err("no trust");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(receiver.got().is_empty());

    let courier = Courier::new(Some(authority.pem.as_bytes())).expect("a courier");
    courier.deliver(&destination, &message()).await.expect("delivered");
    assert!(receiver.got()[0].is_signed_with(HMAC_KEY));
}

#[test]
fn an_address_that_cannot_work_is_a_misconfiguration() {
    for url in ["http://", "ftp://example.com/", "https://user:pass@example.com/", "nonsense"] {
        let error = resolve(&channel(url), HMAC_KEY).expect_err(url);
        assert!(matches!(error, DeliveryError::Misconfigured { .. }), "{error}");
        assert!(!error.is_transient());
        assert_eq!(error.reason(), Reason::ParameterInvalid);
        assert!(!error.to_string().contains("pass@"), "{error}");
    }
}

#[test]
fn a_missing_or_empty_key_is_named() {
    for value in [None, Some("")] {
        let kind = channel("https://example.com/");
        let error = Destination::resolve(&kind, |_| value.map(quell_notify::Secret::new)).expect_err("no key");
        assert_eq!(error, DeliveryError::SecretMissing { secret: key("hmac") });
        assert_eq!(error.reason(), Reason::SecretMissing);
        assert_eq!(error.to_string(), r#"the Secret "channel" with the key "hmac" is missing"#);
    }
    assert_eq!(Destination::secrets(&channel("https://example.com/")), [&key("hmac")]);
}
