//! The certificate and the messages were made for these tests: the key that signed them was thrown away.

use chrono::TimeZone as _;

use super::*;

const PEM: &[u8] = include_bytes!("certificate.pem");

fn signed() -> Vec<Message> {
    serde_json::from_slice(include_bytes!("signed.json")).unwrap()
}

fn certificate() -> Certificate {
    Certificate::parse(PEM).unwrap()
}

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2027, 1, 1, 0, 0, 0).unwrap()
}

fn topic() -> Topic {
    Topic::parse("arn:aws:sns:us-east-1:1234:findings").unwrap()
}

#[test]
fn what_was_signed_in_either_version_is_believed() {
    for message in signed() {
        assert_eq!(message.verify(&certificate(), now()), Ok(()), "{} {}", message.kind, message.signature_version);
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
        assert_eq!(message.verify(&certificate(), now()), Err(SignatureError::Mismatch));
    }
    let mut confirmation = signed().remove(2);
    confirmation.subscribe_url = Some("https://evil.example".to_owned());
    assert_eq!(confirmation.verify(&certificate(), now()), Err(SignatureError::Mismatch));
}

#[test]
fn a_certificate_whose_time_is_over_or_yet_to_come_signs_nothing() {
    let message = signed().remove(0);
    for year in [2025, 2127] {
        let now = Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
        assert_eq!(message.verify(&certificate(), now), Err(SignatureError::NotValid), "{year}");
    }
}

#[test]
fn what_is_no_signature_and_no_certificate_is_said_so() {
    let message = signed().remove(0);
    assert_eq!(Certificate::parse(b"no certificate"), Err(SignatureError::Certificate));
    assert_eq!(
        Message { signature_version: "3".to_owned(), ..message.clone() }.verify(&certificate(), now()),
        Err(SignatureError::Version)
    );
    assert_eq!(
        Message { signature: "!".to_owned(), ..message }.verify(&certificate(), now()),
        Err(SignatureError::Encoding)
    );
    assert!(Message::parse(b"{\"Type\": 3}").is_err());
}

#[test]
fn a_topic_is_an_arn_of_sns_in_a_partition_of_the_internet() {
    for arn in [
        "arn:aws:sns:us-east-1:1234:a",
        "arn:aws-cn:sns:cn-north-1:1:b_c-d",
        "arn:aws-us-gov:sns:us-gov-west-1:1:a.fifo",
    ] {
        assert_eq!(Topic::parse(arn).unwrap().arn(), arn);
    }
    for arn in [
        "arn:aws:sqs:us-east-1:1234:a",
        "arn:aws:sns:us-east-1.evil.example/:1234:a",
        "arn:aws:sns::1234:a",
        "arn:aws:sns:us-east-1:1234:a:subscription",
        "arn:aws-iso:sns:us-iso-east-1:1234:a",
        "",
    ] {
        assert_eq!(Topic::parse(arn), None, "{arn}");
    }
}

#[test]
fn a_certificate_is_fetched_from_sns_of_the_topics_region_only() {
    let at = |topic: &Topic, url: &str| {
        Message { signing_cert_url: url.to_owned(), ..Message::default() }.certificate_url(topic).is_some()
    };
    assert!(at(&topic(), "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123.pem"));
    let china = Topic::parse("arn:aws-cn:sns:cn-north-1:1234:findings").unwrap();
    assert!(at(&china, "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0123.pem"));
    for url in [
        "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123.pem",
        "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com:8443/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com@evil.example/SimpleNotificationService-0123.pem",
        "https://a@sns.us-east-1.amazonaws.com/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com\\@evil.example/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com/other/SimpleNotificationService-0123.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-../x.pem",
        "https://sns.us-east-1.amazonaws.com/x.pem",
        "",
    ] {
        assert!(!at(&topic(), url), "{url}");
    }
}

#[test]
fn a_subscription_is_confirmed_at_sns_of_the_topics_region_only() {
    let at = |url: &str| {
        Message { subscribe_url: Some(url.to_owned()), ..Message::default() }.confirmation_url(&topic()).is_some()
    };
    assert!(at("https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=y"));
    for url in [
        "http://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://evil.example/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com.evil.example/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=Publish",
    ] {
        assert!(!at(url), "{url}");
    }
    assert_eq!(Message::default().confirmation_url(&topic()), None);
}
