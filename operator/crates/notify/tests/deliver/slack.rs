use std::time::Duration;

use quell_crds::v1alpha1::{ChannelKind, Slack};
use quell_notify::{Courier, DeliveryError, Destination};
use serde_json::json;

use crate::support::http::{Answer, Receiver};
use crate::support::pki::Authority;
use crate::support::{key, message, resolve};

fn channel() -> ChannelKind {
    ChannelKind::Slack(Slack { webhook_url: key("url") })
}

/// Slack's server and a courier that trusts it.
fn slack(answer: Answer) -> (Receiver, Courier, Destination) {
    let authority = Authority::new();
    let receiver = Receiver::start_tls(answer, &authority);
    let courier = Courier::new(Some(authority.pem.as_bytes())).expect("a courier");
    let url = format!("https://{}/services/T0/B0/t0ken\n", receiver.address);
    let destination = resolve(&channel(), &url).expect("a destination");
    (receiver, courier, destination)
}

#[tokio::test]
async fn a_delivered_message_has_a_fallback_a_header_a_text_fields_and_a_time() {
    let (receiver, courier, destination) = slack(Answer::Is(200, vec![], "ok".to_owned()));
    courier.deliver(&destination, &message()).await.expect("delivered");
    let [got] = &receiver.got()[..] else { panic!("one request") };
    assert_eq!(got.path, "/services/T0/B0/t0ken");
    let mrkdwn = |text: &str| json!({"type": "mrkdwn", "verbatim": true, "text": text});
    let headline = "[Critical] Reverse shell in shop/web-0";
    let expected = json!({
        "text": headline,
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "emoji": false, "text": headline}},
            {"type": "section", "text": mrkdwn(&message().text)},
            {"type": "section", "fields": [mrkdwn("*Pod*\nshop/web-0"), mrkdwn("*Node*\nn1")]},
            {"type": "context", "elements": [mrkdwn("2023-11-14T22:13:20Z")]},
        ],
        "unfurl_links": false,
        "unfurl_media": false,
    });
    assert_eq!(got.json(), expected);
}

#[tokio::test]
async fn slacks_word_for_a_refusal_is_shown_and_permanent() {
    for (status, word) in [(400, "invalid_payload"), (403, "action_prohibited"), (404, "no_service")] {
        let (_receiver, courier, destination) = slack(Answer::Is(status, vec![], word.to_owned()));
        let error = courier.deliver(&destination, &message()).await.expect_err("a refusal");
        assert!(!error.is_transient());
        assert!(error.to_string().ends_with(word), "{error}");
    }
}

#[tokio::test]
async fn throttling_is_transient_and_says_for_how_long() {
    let (_receiver, courier, destination) =
        slack(Answer::Is(429, vec![("retry-after", "30".to_owned())], String::new()));
    let error = courier.deliver(&destination, &message()).await.expect_err("throttled");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    assert!(error.is_transient());
}

#[test]
fn an_address_without_encryption_is_refused_since_it_is_the_secret() {
    for url in ["http://hooks.slack.com/services/T0/B0/t0ken", "t0ken", "https://"] {
        let error = resolve(&channel(), url).expect_err(url);
        assert!(matches!(error, DeliveryError::Misconfigured { .. }), "{error}");
        assert!(!format!("{error}{error:?}").contains("t0ken"), "{error}");
    }
}
