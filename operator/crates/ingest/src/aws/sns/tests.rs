//! The certificate and the messages were made for these tests: the key that signed them was thrown away.

use super::*;

const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");

fn signed() -> Vec<Message> {
    serde_json::from_slice(include_bytes!("signed.json")).unwrap()
}

#[test]
fn what_was_signed_in_either_version_is_believed() {
    for message in signed() {
        assert_eq!(message.verify(CERTIFICATE), Ok(()), "{} {}", message.kind, message.signature_version);
    }
}

#[test]
fn a_change_of_any_signed_field_is_noticed() {
    let changes: [fn(&mut Message); 5] = [
        |message| message.message.push(' '),
        |message| message.topic_arn.push('x'),
        |message| message.timestamp.push('x'),
        |message| message.message_id.push('x'),
        |message| message.subject = Some(String::new()),
    ];
    for change in changes {
        let mut message = signed().remove(1);
        change(&mut message);
        assert_eq!(message.verify(CERTIFICATE), Err(SignatureError::Mismatch));
    }
    let mut confirmation = signed().remove(2);
    confirmation.subscribe_url = Some("https://evil.example".to_owned());
    assert_eq!(confirmation.verify(CERTIFICATE), Err(SignatureError::Mismatch));
}

#[test]
fn what_is_no_signature_and_no_certificate_is_said_so() {
    let message = signed().remove(0);
    assert_eq!(message.verify(b"no certificate"), Err(SignatureError::Certificate));
    assert_eq!(
        Message { signature_version: "3".to_owned(), ..message.clone() }.verify(CERTIFICATE),
        Err(SignatureError::Version)
    );
    assert_eq!(Message { signature: "!".to_owned(), ..message }.verify(CERTIFICATE), Err(SignatureError::Encoding));
    assert!(Message::parse(b"{\"Type\": 3}").is_err());
}

#[test]
fn a_certificate_is_fetched_from_sns_only() {
    let at = |url: &str| Message { signing_cert_url: url.to_owned(), ..Message::default() }.certificate_url().is_some();
    assert!(at("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123.pem"));
    assert!(at("https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0123.pem"));
    for url in [
        "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-0123.pem",
        "https://sns.evil.example/x.amazonaws.com/SimpleNotificationService-0123.pem",
        "https://sns.a@evil.amazonaws.com/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com/other/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com/x.pem",
        "https://sns..amazonaws.com/SimpleNotificationService-0123.pem",
        "",
    ] {
        assert!(!at(url), "{url}");
    }
}
